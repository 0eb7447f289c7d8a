"""How a command line becomes the call of one function, and an error one line."""

import contextlib
import functools
import io
import os
import re
import sys
from collections.abc import Callable
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Annotated, Any

import tyro

from torchdigits.errors import OptionError, TorchDigitsError

# What may be left out; the help says what happens then.
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
OptionalText = Annotated[str | None, tyro.conf.arg(constructor=str, metavar="TEXT", help_behavior_hint="")]
OptionalInt = Annotated[int | None, tyro.conf.arg(constructor=int, metavar="INT", help_behavior_hint="")]

FIGURE_SUFFIXES = (".png", ".svg", ".pdf")


def main(command: Callable[..., Any]) -> None:
    """Call `command` with the options in sys.argv; its signature and docstring say which there are.

    Raises:
        SystemExit: with status 2 and one line on stderr after what the user got wrong; with 0 after `--help`; with 130
            after Ctrl-C; with 1 if nobody reads what is printed any more.
    """

    @functools.wraps(command)
    def parsed(**options: Any) -> Callable[[], Any]:
        return functools.partial(command, **options)

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            call = tyro.cli(parsed, config=(tyro.conf.FlagCreatePairsOff,))
        call()
    except TorchDigitsError as error:
        raise SystemExit(_fail(str(error))) from None
    except BrokenPipeError:  # what reads has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still wants to flush
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        _fail("interrupted")
        raise SystemExit(130) from None
    except SystemExit as stop:
        if complaint.getvalue():
            _fail(_first_paragraph(complaint.getvalue()))
        raise stop from None


def check_new_file(option: str, file: Path, suffixes: tuple[str, ...]) -> None:
    """Refuse a file that cannot be written, before anything takes time.

    Raises:
        OptionError: it exists, has another suffix, or its folder does not exist.
    """
    if file.suffix not in suffixes:
        raise OptionError(f"{option} {file}: it must be a {', '.join(suffixes)} file")
    try:
        with file.open("x"):
            pass
        file.unlink()
    except FileExistsError:
        raise OptionError(f"{option} {file}: it exists already") from None
    except OSError as error:
        raise OptionError(f"{option} {file}: it cannot be written: {error.strerror}") from None


def make_empty_folder(option: str, folder: Path, way_out: str = "") -> None:
    """Make a folder, and those above it, before anything takes time; one that is there and empty will do.

    Raises:
        OptionError: something is in it, or no folder can be made there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        empty = not any(folder.iterdir())
    except OSError as error:
        raise OptionError(f"{option} {folder}: no folder can be made there: {error.strerror}") from None
    if not empty:
        raise OptionError(f"{option} {folder}: it is not empty, and nothing is overwritten{way_out}")


def _fail(message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return 2


def _first_paragraph(box: str) -> str:
    """What tyro's box says between its title and its next rule, in one line; a terminal without Unicode gets dashes."""
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).strip("│ ") for line in box.splitlines()[1:]]
    return " ".join(takewhile(lambda line: not _is_rule(line), dropwhile(_is_rule, lines)))


def _is_rule(line: str) -> bool:
    return set(line) <= set("─╰╯-")
