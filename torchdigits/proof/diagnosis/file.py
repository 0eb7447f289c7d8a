"""A candidate in a file of its own, checked in a process of its own.

The file's program runs there with all that it does: it may print, exit, or never end, and the report is not harmed. The
other process is `python -m torchdigits.proof.diagnosis.file FILE NAME EXAMPLES SECONDS PIPE`.
"""

import builtins
import faulthandler
import importlib.machinery
import importlib.util
import inspect
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from torchdigits.errors import CandidateError, OptionError
from torchdigits.proof.diagnosis.candidates import Examples, RaisedError, calling
from torchdigits.proof.diagnosis.check import check
from torchdigits.proof.diagnosis.functions import order_of
from torchdigits.proof.diagnosis.names import BACKPROP, UPDATE

_MOST = 2**22  # bytes of a report, which has some thousand; what the file writes into it may have no end
_WRITTEN = "it has written into the report of this check, which is not to be read any more"


@dataclass(frozen=True)
class Checked:
    """What the other process has found: the report, in words and as one object, and whether all is right."""

    text: str
    found: dict[str, Any]

    @property
    def right(self) -> bool:
        """Whether nothing is wrong."""
        return bool(self.found["right"])


def check_file(file: Path, name: str | None = None, examples: Examples = "auto", seconds: float = 60) -> Checked:
    """Check the candidate in a file, in a process of its own. It runs the file's program.

    Args:
        file: a Python file.
        name: of the candidate in it; may be left out if there is only one.
        examples: as in `diagnosis.check`.
        seconds: how long it may take.

    Raises:
        OptionError: the file cannot be read, or this machine starts no process for it.
        CandidateError: there is no candidate, or it cannot be called, or gives no gradients, or does not end, or the
            file has written into the report.
    """
    if not file.is_file():
        raise OptionError(f"{file}: {'it is no file' if file.exists() else 'there is no such file'}")
    try:
        process, pipe = _started([str(file.absolute()), name or "", examples, str(seconds)])
    except OSError as error:
        raise OptionError(f"{file}: no process can be started for it: {error.strerror}") from None
    until = time.monotonic() + seconds + 2  # its own clock should have ended it before
    try:
        answer = _read(pipe, process, until)
        late = time.monotonic() >= until
    finally:
        os.close(pipe)
        with suppress(ProcessLookupError):  # what it has started, and itself, if it goes on
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):  # none, or none of ours
        raise CandidateError(_ended(str(file.absolute()), answer, status, seconds, late)) from None
    match found:
        case {"bug": str(bug)}:
            raise RuntimeError(f"torchdigits could not check {file}:\n{bug}")
        case {"error": str(says)} if says:
            raise CandidateError(says)
        case {"text": str(), "right": bool()}:
            return Checked(found.pop("text"), found)
    raise CandidateError(_WRITTEN)


def _started(words: list[str]) -> tuple[subprocess.Popen[bytes], int]:
    """The other process, and the end of a pipe where its report will be."""
    read, write = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "torchdigits.proof.diagnosis.file", *words, str(write)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[write],
            start_new_session=True,
        )
    except OSError:
        os.close(read)
        raise
    finally:
        os.close(write)
    return process, read


def _read(pipe: int, process: subprocess.Popen[bytes], until: float) -> str:
    """What a process writes: a line that begins as a report does; else all, until it has ended, or the time has."""
    ready = select.poll()
    ready.register(pipe, select.POLLIN)
    found = bytearray()
    while time.monotonic() < until and len(found) <= _MOST and not (found.startswith(b"{") and b"\n" in found):
        ended = process.poll() is not None  # which a process that it has started, and holds the pipe, may outlive
        if ready.poll(0 if ended else 100):
            found += (part := os.read(pipe, 2**16))
            if not part:  # closed
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0, until - time.monotonic()))
                break
        elif ended:
            break
    return (found.partition(b"\n")[0] if found.startswith(b"{") else found).decode("ascii", "replace")


def _ended(file: str, answer: str, status: int, seconds: float, late: bool) -> str:
    """Why there is no report."""
    if "Timeout" in answer or late:
        lines = re.findall(rf'File "{re.escape(file)}", line (\d+) in (\S+)', answer)
        where = "".join(f"\n  line {line}, in {name}" for line, name in lines[:4][::-1])
        return f"it has not ended after {seconds:g} s{'; it was in' if where else ''}{where}"
    if answer and (status == 0 or len(answer) > _MOST):
        return _WRITTEN
    if status < 0:
        names = [one.name for one in signal.Signals if one == -status]  # those of real time have none
        return f"it ended the process by {names[0] if names else f'signal {-status}'}"
    return f"it ended the process, with status {status}"


def load(file: Path, name: str | None) -> Any:
    """The candidate in a file.

    Raises:
        CandidateError: the file is no Python, raises an exception, or has no candidate or several.
    """
    import numpy.random  # noqa: F401  before a file of such a name can stand in for what it imports

    sys.path.insert(0, str(file.parent))  # where Python looks for what a script imports
    stem = file.stem if file.stem not in sys.modules else f"candidate_{file.stem}"
    spec = importlib.util.spec_from_loader(stem, importlib.machinery.SourceFileLoader(stem, str(file)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(file)
    sys.modules[stem] = module
    try:
        calling(spec.loader.exec_module, module, file=str(file))
    except RaisedError as raised:
        if isinstance(error := raised.__cause__, SyntaxError) and error.filename == str(file):
            old = "Missing parentheses in call to 'print'" in str(error.msg)
            says = "a print without parentheses, as in Python 2" if old else error.msg
            raise CandidateError(f"it is no Python 3: line {error.lineno}: {says}") from None
        raise
    if name is not None:
        found: Any = module
        for part in name.split("."):
            if not hasattr(found, part):
                there = ", ".join(candidates(module)) or "none that look like a candidate"
                raise CandidateError(f"there is no {name} in it; there are {there}")
            found = getattr(found, part)
        return found
    names = candidates(module) or candidates(module, UPDATE)
    if not names:
        raise CandidateError(
            "there is no candidate in it; expected a class with weights, biases and backprop(x, y), a function "
            "backprop(weights, biases, x, y), or a torch.nn.Module"
        )
    if len(names) > 1:
        several = " or ".join(f"{file.name}:{one}" for one in names)
        raise CandidateError(f"there are several candidates in it; say which: {several}")
    return getattr(module, names[0])


def candidates(module: ModuleType, method: re.Pattern[str] = BACKPROP) -> list[str]:
    """The names of what looks like back-propagation, of what is defined in a module; of classes by such a method."""
    torch = sys.modules.get("torch")

    def like_one(name: str, thing: Any) -> bool:
        if getattr(thing, "__module__", None) != module.__name__:
            return False
        if inspect.isclass(thing):
            if torch is not None and issubclass(thing, torch.nn.Module):
                return True
            function = torch is not None and issubclass(thing, torch.autograd.Function)
            return not function and any(map(method.fullmatch, dir(thing)))
        return inspect.isfunction(thing) and BACKPROP.fullmatch(name) is not None and bool(order_of(thing))

    found = []
    for name, thing in [*vars(module).items()]:
        with suppress(CandidateError):  # of another function's arguments, or of an object that raises when looked at
            found += [name] if calling(like_one, name, thing, file="") else []
    return found


def main(file: str, name: str, examples: Any, seconds: str, pipe: str) -> None:
    """Check, and write the report to a pipe, as JSON."""
    report = open(int(pipe), "w", encoding="utf-8")  # noqa: SIM115, PTH123  # of a descriptor, until the end
    faulthandler.dump_traceback_later(float(seconds), exit=True, file=report)
    before = [(library, vars(library).copy()) for library in (builtins, np, np.linalg, np.random)]
    try:
        diagnosis = check(load(Path(file), name or None), examples=examples)
        answer = {**diagnosis.as_dict(), "text": str(diagnosis)}
    except CandidateError as error:
        answer = {"error": str(error)}
    except Exception as error:
        replaced = [
            f"{library.__name__}.{name}"
            for library, known in before
            for name, value in known.items()
            if callable(value) and vars(library).get(name) is not value
        ]
        if (raised := RaisedError(error, file)).line is not None:  # by an attribute, where no call is looked for
            answer = {"error": str(raised)}
        elif replaced:
            answer = {"error": f"it replaces {', '.join(replaced[:4])}, which this check needs itself"}
        else:  # ours
            answer = {"bug": traceback.format_exc()}
    faulthandler.cancel_dump_traceback_later()
    report.write(f"{json.dumps(answer)}\n")
    report.close()
    os._exit(0)  # without what the program would do at its end


if __name__ == "__main__":
    main(*sys.argv[1:])
