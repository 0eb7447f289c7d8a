"""How a command line becomes the call of one function, and an error one line."""

import atexit
import contextlib
import errno
import functools
import gc
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Annotated, Any

import tyro

from torchdigits.errors import Interrupted, OptionError, TorchDigitsError, printable

# What may be left out; the help says what happens then.
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
OptionalText = Annotated[str | None, tyro.conf.arg(constructor=str, metavar="TEXT", help_behavior_hint="")]
OptionalInt = Annotated[int | None, tyro.conf.arg(constructor=int, metavar="INT", help_behavior_hint="")]

FIGURE_SUFFIXES = (".png", ".svg", ".pdf")


def main(command: Callable[..., Any], saved_options: Callable[[Path], Mapping[str, Any]] | None = None) -> None:
    """Call `command` with the options in sys.argv; its signature and docstring say which there are.

    Args:
        command: what to call.
        saved_options: for a command with an option `resume`: what the others are, where they are not given, by the
            value of that one.

    Raises:
        SystemExit: with status 2 and one line on stderr after what the user got wrong, or if the disk is full; with 0
            after `--help`; with 130 after Ctrl-C, or what else Interrupted says; with 1 if nobody reads what is printed
            any more, or a run has diverged.
    """

    @functools.wraps(command)
    def parsed(**options: Any) -> functools.partial[Any]:
        return functools.partial(command, **options)

    # When Python ends it looks for garbage in all that was imported, which takes a second.
    atexit.register(gc.freeze)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            call = tyro.cli(parsed, config=(tyro.conf.FlagCreatePairsOff,))
            if saved_options is not None and (resumed := call.keywords["resume"]) is not None:
                known = functools.partial(parsed, **saved_options(resumed))
                call = tyro.cli(known, config=(tyro.conf.FlagCreatePairsOff,))
        call()
        sys.stdout.flush()
    except TorchDigitsError as error:
        _fail(str(error))
        raise SystemExit(error.status) from None
    except BrokenPipeError:  # what reads has read enough, as `head` does
        _end_output()
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _end_output()
        where = f"cannot write {error.filename}: " if error.filename else ""
        raise SystemExit(_fail(f"{where}{error.strerror}")) from None
    except KeyboardInterrupt as stop:
        _fail(str(stop) or "interrupted")
        raise SystemExit(getattr(stop, "status", 130)) from None
    except SystemExit as stop:
        if complaint.getvalue():
            _fail(_first_paragraph(complaint.getvalue()))
        raise stop from None


@contextlib.contextmanager
def interruptible(kept: Callable[[], str]) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end what is within, whatever a library makes of them.

    Args:
        kept: what there is to say then.

    Raises:
        Interrupted: one of them has come.
    """
    received: list[int] = []

    def interrupt(number: int, _: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    # Python hears signals in its main thread alone.
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    except BaseException:
        if not received:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise Interrupted(received[0], f"interrupted: {kept()}")


def check_new_file(option: str, file: Path, suffixes: tuple[str, ...]) -> None:
    """Refuse a file that cannot be written, before anything takes time.

    Raises:
        OptionError: it exists, has another suffix, or its folder does not exist.
    """
    if file.suffix not in suffixes:
        raise OptionError(f"{option} {file}: it must be a {', '.join(suffixes)} file")
    try:
        with file.open("xb"):
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


def check_same_options(options: Mapping[str, Any], saved: Mapping[str, Any], what: str) -> None:
    """Refuse what would make another run, or another sweep, of the one that goes on.

    Args:
        options, saved: by the names of their parameters; all of `options` are compared.
        what: has the saved ones.

    Raises:
        OptionError: the first that differs.
    """
    for name, value in options.items():
        if (there := saved.get(name)) != value:
            raise OptionError(f"--{name.replace('_', '-')} {_words(value)}: {what} has {_words(there)}")


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _end_output() -> None:
    """Write what is left to write; what cannot be written goes nowhere, lest Python try again and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> int:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes, one says it
        sys.stderr.write(f"error: {printable(message)}\n")
    return 2


def _first_paragraph(box: str) -> str:
    """What tyro's box says between its title and its next rule, in one line; a terminal without Unicode gets dashes."""
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).strip("│ ") for line in box.splitlines()[1:]]
    return " ".join(takewhile(lambda line: not _is_rule(line), dropwhile(_is_rule, lines)))


def _is_rule(line: str) -> bool:
    return set(line) <= set("─╰╯-")
