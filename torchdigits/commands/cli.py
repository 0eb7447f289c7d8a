"""How a command line becomes the call of one function, and an error one line."""

import contextlib
import errno
import gc
import io
import logging
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchdigits.commands.options import call, parse, perhaps
from torchdigits.engines.processes import is_first_process, own_processes
from torchdigits.errors import Interrupted, OptionError, TorchDigitsError, printable, root_cause
from torchdigits.version import __version__

if TYPE_CHECKING:
    from rich.progress import Progress

COMMANDS = {
    "train": "Train a network of sigmoid neurons to recognise digits.",
    "evaluate": "Count how many images of a dataset a trained network recognises.",
    "predict": "Print the digit in each picture, or the lines of digits on a page.",
    "parity": "Compare torch on this machine with back-propagation by hand in NumPy.",
    "check": "Check your own back-propagation, and say which line is wrong, and why.",
    "sweep": "Train many networks at once, and tell how their results spread.",
    "convert": "Convert a trained network to another format.",
    "serve": "Serve a page to draw digits on and to watch a network learn, and its API.",
}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def torchdigits() -> None:
    """The command `torchdigits`, and `python -m torchdigits`: call the command that sys.argv names."""
    name, *_ = [*sys.argv[1:], "--help"]
    if name in COMMANDS:
        main(name)
        return
    with _one_line_errors():
        if name == "--version":
            print(f"torchdigits {__version__}")
        elif name in {"-h", "--help"}:
            print(f"usage: {shlex.join(_program())} COMMAND [OPTIONS]\n")
            print(*(f"  {command:<10}{summary}" for command, summary in COMMANDS.items()), sep="\n")
            print("\nCOMMAND --help lists the options of a command; --version says which version this is.")
        else:
            *others, last = COMMANDS
            there = f"there are {', '.join(others)} and {last}"
            raise OptionError(f"{name}: no such command{perhaps(name, [*COMMANDS])}; {there}")


def main(command: str | Callable[..., Any]) -> None:
    """Call a command with the options in sys.argv; its signature and docstring say which there are.

    Args:
        command: one of COMMANDS, or another function. The fields of a parameter that is a dataclass are options of
            their own. A command with an option `resume` may have a function `resumed` beside it: that takes the
            option's value, and holds what was saved while the command runs. The saved options are those that are not
            given, and all of it is the command's parameter `saved`.

    Raises:
        SystemExit: with status 2 and one line on stderr after what the user got wrong, or if something cannot be
            written; with 130 after Ctrl-C, or what else Interrupted says; with 1 if nobody reads what is printed any
            more, or a run has diverged.
    """
    # What is imported and made once makes Python look for garbage some hundred times, and there is none.
    gc.set_threshold(50_000, *gc.get_threshold()[1:])
    with _one_line_errors(), own_processes():
        function, resumed = _find(command) if isinstance(command, str) else (command, None)
        words, program = options_given(), shlex.join(command_words())
        given = parse(function, words, program)
        if resumed is None or given["resume"] is None:
            call(function, given)
            return
        with resumed(given["resume"]) as saved:
            call(function, parse(function, words, program, saved.options) | {"saved": saved})


def _find(name: str) -> tuple[Callable[..., Any], Callable[[Path], AbstractContextManager[Any]] | None]:
    """A command, and its `resumed` if it has one."""
    heard = signal.getsignal(signal.SIGINT)
    ends = heard is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if ends:  # at once: an exception that comes while a library is imported may become another one, or get lost
        signal.signal(signal.SIGINT, _end)
    try:
        module = import_module(f"torchdigits.commands.{name}")
    except Exception as error:  # whatever a library fails with, as one of a variable that makes no sense to it
        raise OptionError(f"a library cannot be loaded: {root_cause(error)}") from error
    finally:
        if ends:
            signal.signal(signal.SIGINT, heard)
    return getattr(module, name), getattr(module, "resumed", None)


def _end(number: int, _: object) -> None:
    _fail("interrupted")
    os._exit(128 + number)


def command_words(command: str = "") -> list[str]:
    """How this command, or another, is called in the form in which this process was.

    Returns:
        ["python", "scripts/train.py"], ["torchdigits", "train"] or ["python", "-m", "torchdigits", "train"].
    """
    program = Path(sys.argv[0])
    if _is_script():
        return ["python", str(program.with_stem(command) if command else program)]
    return [*_program(), *([command] if command else sys.argv[1:2])]


def command_line(command: str, *words: object) -> str:
    """What is to be typed for a command with these words, in the form in which this process was called."""
    return shlex.join([*command_words(command), *map(str, words)])


def options_given() -> list[str]:
    """What was typed after the command."""
    return sys.argv[1:] if _is_script() else sys.argv[2:]


def _is_script() -> bool:
    program = Path(sys.argv[0])
    return program.suffix == ".py" and program.name != "__main__.py"


def _program() -> list[str]:
    program = Path(sys.argv[0])
    if program.parts[-2:] == ("torchdigits", "__main__.py"):
        return ["python", "-m", "torchdigits"]
    installed = program.name == "torchdigits" and shutil.which("torchdigits") != str(program)  # but not in the PATH
    return [str(program) if installed else "torchdigits"]


@contextlib.contextmanager
def catching_signals(kept: Callable[[], str]) -> Iterator[None]:
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
    here = threading.current_thread() is threading.main_thread()
    both = (signal.SIGINT, signal.SIGTERM)  # unless whoever started this process has it ignore them
    numbers = [number for number in both if here and signal.getsignal(number) is not signal.SIG_IGN]
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


def progress_bar() -> "Progress":
    """A progress bar, which is shown on a terminal only."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, transient=True, disable=not sys.stdout.isatty())


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    for name in ("stdout", "stderr"):  # one that is closed is None, and the next file to be opened would become it
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123  # until the end
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may have letters that cannot be shown
        sys.stdout.reconfigure(errors="backslashreplace")
    # Figures are files, drawn with Matplotlib's own settings: those of a user may ask for LaTeX, or make no sense.
    os.environ["MPLBACKEND"] = "agg"
    if (matplotlib := find_spec("matplotlib")) and matplotlib.origin:
        os.environ["MATPLOTLIBRC"] = str(Path(matplotlib.origin).parent / "mpl-data")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of folders that it would like to write to
    try:
        try:
            Path.cwd()
        except FileNotFoundError:
            raise OptionError("the current folder is gone: go to another") from None
        try:
            yield
        except SystemExit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except TorchDigitsError as error:
        _fail(str(error))
        raise SystemExit(error.status) from None
    except ImportError as error:  # as where there is not enough memory for it
        _fail(f"a library cannot be loaded: {root_cause(error)}")
        raise SystemExit(2) from None
    except BrokenPipeError:  # what reads has read enough, as `head` does
        _end_output()
        raise SystemExit(1) from None
    except OSError as error:
        _end_output()
        if not error.filename and error.errno not in {*_FULL, errno.EBADF, errno.EIO}:  # those can come of stdout
            raise
        where = f"{'cannot write ' if error.errno in _FULL else ''}{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}")
        raise SystemExit(2) from None
    except KeyboardInterrupt as stop:
        with contextlib.suppress(ValueError):  # of another thread than the main one
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # this process ends already: once more is no error
        _fail(str(stop) or "interrupted")
        raise SystemExit(getattr(stop, "status", 130)) from None


def _end_output() -> None:
    """Write what is left to write; what cannot be written goes nowhere, lest Python try again and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _fail(message: str) -> None:
    if is_first_process():  # of several processes, one says it
        with contextlib.suppress(OSError):
            sys.stderr.write(f"error: {printable(message)}\n")
    _end_output()
