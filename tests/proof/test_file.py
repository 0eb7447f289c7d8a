"""What is found in a file, and what becomes of the report of the process that checks it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from torchdigits.errors import CandidateError, OptionError
from torchdigits.proof.diagnosis import file as module
from torchdigits.proof.diagnosis.candidates import RaisedError
from torchdigits.proof.diagnosis.file import Checked, _ended, candidates, check_file, load, main
from torchdigits.proof.diagnosis.names import UPDATE
from torchdigits.proof.diagnosis.report import Compared, Diagnosis

FUNCTION = "def backprop(weights, biases, x, y): ...\n"
WRITTEN = "has written into the report of this check, which is not to be read any more"
CLASS = "class {}:\n    def {}(self, x, y): ...\n"


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file leaves in this process, which ends with the other one."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", sys.modules.copy())


def written(folder: Path, source: str, name: str = "mine.py") -> Path:
    (file := folder / name).write_text(source)
    return file


def refused(file: Path, name: str | None = None) -> str:
    with pytest.raises(CandidateError) as raised:
        load(file, name)
    return str(raised.value)


# What is in a file


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (FUNCTION, ["backprop"]),
        (FUNCTION.replace("backprop", "gradients"), ["gradients"]),
        (FUNCTION.replace("backprop", "other"), []),
        (FUNCTION.replace("biases, ", ""), []),  # of other arguments
        ("backprop = 3\n", []),
        ("from textwrap import dedent as backprop\n", []),  # not its own
        (CLASS.format("A", "backward"), ["A"]),
        (CLASS.format("A", "forward"), []),
        (CLASS.format("A", "backprop") + "class B(A): ...\n" + FUNCTION, ["A", "B", "backprop"]),
        ("from torch import nn\nclass A(nn.Module): ...\nclass B(nn.Linear): ...\n", ["A", "B"]),
        ("import torch\n" + CLASS.format("A(torch.autograd.Function)", "backward"), []),
        ("import torch\n" + CLASS.format("A", "backward"), ["A"]),
    ],
)
def test_what_looks_like_back_propagation(tmp_path: Path, source: str, names: list[str]) -> None:
    file = written(tmp_path, source)
    there = ModuleType("mine")
    exec(compile(source, str(file), "exec"), there.__dict__)
    assert candidates(there) == names
    if len(names) == 1:
        assert load(file, None).__name__ == names[0]
    elif not names:
        assert refused(file).startswith(
            "there is no candidate in it; expected a class with weights, biases and backprop"
        )
    else:
        said = "there are several candidates in it; say which: mine.py:A or mine.py:B"
        assert refused(file).startswith(said)


def test_an_object_that_raises_when_looked_at_is_none(tmp_path: Path) -> None:
    source = """
class Meta(type):
    def __getattribute__(self, name): raise ValueError(name)
class Hidden(type):
    def __dir__(self): raise ValueError("no")
class A(metaclass=Meta):
    def backprop(self, x, y): ...
class B(metaclass=Hidden):
    def backprop(self, x, y): ...
class C:
    @property
    def __module__(self): raise SystemExit(3)
c = C()
"""
    assert load(written(tmp_path, source + FUNCTION), None).__name__ == "backprop"


def test_without_torch_a_class_is_told_by_its_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    there = ModuleType("mine")
    exec(CLASS.format("A", "backward") + CLASS.format("B", "other"), there.__dict__)
    assert candidates(there) == ["A"]


def test_a_class_that_only_updates_is_one_if_there_is_no_other(tmp_path: Path) -> None:
    source = CLASS.format("A", "update_mini_batch") + CLASS.format("B", "other")
    assert load(written(tmp_path, source), None).__name__ == "A"
    assert load(written(tmp_path, source + FUNCTION), None).__name__ == "backprop"
    there = ModuleType("mine")
    exec(source, there.__dict__)
    assert (candidates(there), candidates(there, UPDATE)) == ([], ["A"])


def test_a_candidate_may_be_named(tmp_path: Path) -> None:
    file = written(tmp_path, CLASS.format("A", "backprop") + "class C:\n    part = 7\n" + FUNCTION)
    assert load(file, "A").__name__ == "A"
    assert load(file, "C.part") == 7
    assert refused(file, "D") == "there is no D in it; there are A, backprop"
    assert refused(file, "C.other") == "there is no C.other in it; there are A, backprop"
    assert (
        refused(written(tmp_path, "x = 1\n"), "D") == "there is no D in it; there are none that look like a candidate"
    )


def test_a_file_runs_as_python_would_run_it(tmp_path: Path) -> None:
    written(tmp_path, "def helper(): return 3\n", "beside.py")
    source = f"from beside import helper\n{FUNCTION}backprop.seen = (helper(), __name__, __file__)\n"
    for name, stem in (("mine.py", "mine"), ("random.py", "candidate_random"), ("json", "candidate_json")):
        found = load(file := written(tmp_path, source, name), None)
        assert found.seen == (3, stem, str(file))
        assert sys.modules[stem].backprop is found
        assert sys.path[0] == str(tmp_path)


def test_what_is_no_python_is_told(tmp_path: Path) -> None:
    said = "it is no Python 3: line 2: a print without parentheses, as in Python 2"
    assert refused(written(tmp_path, "x = 1\nprint 'hello'\n")) == said
    assert refused(written(tmp_path, "x = (\n")) == "it is no Python 3: line 1: '(' was never closed"
    # In another file it is that file's line, and an exception as any.
    file = written(tmp_path, "import other_one\n")
    written(tmp_path, "print 'hello'\n", "other_one.py")
    with pytest.raises(RaisedError, match=r"^it raises SyntaxError: (.|\n)*  line 1, in <module>: import other_one"):
        load(file, None)
    file = written(tmp_path, "\nraise ValueError('no')\n")
    with pytest.raises(RaisedError) as raised:
        load(file, None)
    assert str(raised.value) == "it raises ValueError: no\n  line 2, in <module>: raise ValueError('no')"


# The other process


def traceback_of(*lines: tuple[str, int, str]) -> str:
    return "Timeout (0:00:01)!\n" + "".join(f'  File "{file}", line {line} in {name}\n' for file, line, name in lines)


@pytest.mark.parametrize(
    ("answer", "status", "late", "says"),
    [
        ("", 0, False, "it ended the process, with status 0"),
        ("something", 3, False, "it ended the process, with status 3"),
        ("", -11, False, "it ended the process by SIGSEGV"),
        ("", -9, False, "it ended the process by SIGKILL"),
        ("", -40, False, "it ended the process by signal 40"),
        ("something", 0, False, f"it {WRITTEN}"),
        ("", -9, True, "it has not ended after 1.5 s"),
        (traceback_of(), 1, False, "it has not ended after 1.5 s"),
        (
            traceback_of(("a+b.py", 7, "inner"), ("other.py", 8, "theirs"), ("a+b.py", 9, "<module>")),
            1,
            False,
            "it has not ended after 1.5 s; it was in\n  line 9, in <module>\n  line 7, in inner",
        ),
        (
            traceback_of(*(("a+b.py", line, "deep") for line in range(1, 7))),
            1,
            False,
            "it has not ended after 1.5 s; it was in" + "".join(f"\n  line {line}, in deep" for line in (4, 3, 2, 1)),
        ),
    ],
)
def test_why_there_is_no_report(answer: str, status: int, late: bool, says: str) -> None:
    assert _ended("a+b.py", answer, status, 1.5, late) == says


Answer = Callable[..., Checked]


@pytest.fixture
def answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """What becomes of an answer: the other process does nothing but give it, and perhaps more."""
    start = subprocess.Popen
    (tmp_path / "mine.py").touch()

    def answered(answer: str, more: str = "", seconds: float = 60) -> Checked:
        def popen(words: list[str], **options: Any) -> Any:
            file, name, examples, limit, pipe = words[4:]
            assert words[:4] == [sys.executable, "-P", "-m", "torchdigits.proof.diagnosis.file"]
            assert (file, name, examples, float(limit)) == (str(tmp_path / "mine.py"), "Net", "one", seconds)
            code = f"import os, time\nos.write(pipe := {pipe}, {answer.encode()!r})\n{more}"
            return start([sys.executable, "-S", "-c", code], **options)

        monkeypatch.setattr(subprocess, "Popen", popen)
        return check_file(tmp_path / "mine.py", "Net", "one", seconds)

    return answered


def test_the_report_is_what_the_other_process_wrote(answered: Answer) -> None:
    for right in (True, False):
        checked = answered(json.dumps({"text": "All", "right": right, "findings": []}) + "\n")
        assert checked == Checked("All", {"right": right, "findings": []})
        assert checked.right is right
    with pytest.raises(CandidateError, match=r"^no gradients$"):
        answered(json.dumps({"error": "no gradients"}) + "\n")
    with pytest.raises(RuntimeError) as bug:
        answered(json.dumps({"bug": "Traceback"}) + "\n")
    assert str(bug.value).startswith("torchdigits could not check ")
    assert str(bug.value).endswith("mine.py:\nTraceback")
    with pytest.raises(CandidateError, match=r"^it ended the process, with status 3$"):
        answered("", "os._exit(3)")
    with pytest.raises(CandidateError, match=r"^it ended the process by SIGTERM$"):
        answered("half of \xff\n", "os.kill(os.getpid(), 15)")
    with pytest.raises(CandidateError, match=r"^it has not ended after 1 s$"):
        answered("Dumped\nTimeout!\n", "os._exit(1)", seconds=1)


@pytest.mark.parametrize(
    "answer",
    [
        "{}\n",
        "[1]\n",
        "something\n",
        '{"right": true}\n',
        '{"text": "All"}\n',
        '{"text": 1, "right": true}\n',
        '{"error": ""}\n',
        '{"a":' + "[" * 50_000,
    ],
)
def test_a_report_that_is_none_of_ours_is_told(answered: Answer, answer: str) -> None:
    with pytest.raises(CandidateError, match=f"^it {WRITTEN}$"):
        answered(answer)


def test_a_report_without_an_end_is_not_kept(answered: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[str] = []

    def loads(answer: str) -> None:
        kept.append(answer)
        raise ValueError("no JSON")

    monkeypatch.setattr(json, "loads", loads)
    for first in ("x", "{"):
        with pytest.raises(CandidateError, match=f"^it {WRITTEN}$"):
            answered(first, "while True: os.write(pipe, b'x' * 2**16)")
    assert max(map(len, kept)) < 2**23


@pytest.mark.parametrize(
    ("more", "says"), [("", "ended the process, with status 0"), ("while True: pass", "has not ended")]
)
def test_a_process_that_outlives_the_other_and_holds_the_pipe_does_not_hold_up_the_report(
    answered: Answer, tmp_path: Path, more: str, says: str
) -> None:
    note = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"
    began = time.monotonic()
    try:
        with pytest.raises(CandidateError, match=f"^it {says}"):
            answered("", f"if os.fork() == 0:\n    os.setsid()\n    {note}\n    time.sleep(99)\n{more}", seconds=0.5)
        assert time.monotonic() - began < 50
    finally:
        os.kill(int((tmp_path / "pid").read_text()), 9)


def test_a_machine_that_starts_no_process_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    file = written(tmp_path, FUNCTION)
    before = len([*Path("/dev/fd").iterdir()])
    for there, name in ((subprocess, "Popen"), (os, "pipe")):
        monkeypatch.setattr(there, name, fail)
        with pytest.raises(OptionError) as raised:
            check_file(file)
        assert str(raised.value) == f"{file}: no process can be started for it: Too many open files"
    assert len([*Path("/dev/fd").iterdir()]) == before  # none is left open


@pytest.mark.slow
def test_a_process_that_does_not_end_is_ended(answered: Answer, tmp_path: Path) -> None:
    note = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
    with pytest.raises(CandidateError, match=r"^it has not ended after 0\.25 s$"):
        answered("", f"{note}time.sleep(99)", seconds=0.25)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    for file, says in ((tmp_path, "it is no file"), (tmp_path / "none.py", "there is no such file")):
        with pytest.raises(OptionError) as raised:
            check_file(file)
        assert str(raised.value) == f"{file}: {says}"


class Ended(BaseException):
    """Instead of the process."""


@pytest.mark.parametrize(
    ("outcome", "answer"),
    [
        (CandidateError("no\xe9 gradients"), {"error": "no\xe9 gradients"}),
        (
            None,
            {"right": True, "form": "a class", "relative_error": 1e-15, "bound": 2e-15, "ulps": 3.0, "findings": []},
        ),
    ],
)
def test_the_other_process_writes_one_line(
    monkeypatch: pytest.MonkeyPatch, outcome: Exception | None, answer: dict[str, Any]
) -> None:
    asked: list[Any] = []
    limits: list[Any] = []
    diagnosis = Diagnosis("Net", "a class", [], Compared("dC/dW(1)", 1e-15, 2e-15, 3.0), 7)

    def check(candidate: Any, examples: str) -> Diagnosis:
        asked.append((candidate, examples))
        if outcome is not None:
            raise outcome
        return diagnosis

    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(module, "check", check)
    monkeypatch.setattr(module, "load", lambda *words: words)
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(
        "faulthandler.dump_traceback_later", lambda seconds, **more: limits.append((seconds, more["exit"]))
    )
    monkeypatch.setattr("faulthandler.cancel_dump_traceback_later", lambda: limits.append("none"))
    for name, called in (("Net", "Net"), ("", None)):
        read, write = os.pipe()
        with pytest.raises(Ended) as ended:
            main("mine.py", name, "one", "2.5", str(write))
        with os.fdopen(read, encoding="utf-8") as report:
            said = report.read()
        assert said.count("\n") == 1
        assert json.loads(said) == answer | ({} if outcome else {"text": str(diagnosis)})
        assert ended.value.args == (0,)
        assert asked.pop() == ((Path("mine.py"), called), "one")
        assert limits == [(2.5, True), "none"]
        limits.clear()


def test_a_bug_of_ours_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("ours")

    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(module, "load", fail)
    monkeypatch.setattr(os, "_exit", end)
    read, write = os.pipe()
    with pytest.raises(Ended):
        main("mine.py", "", "one", "60", str(write))
    with os.fdopen(read, encoding="utf-8") as report:
        bug = json.load(report)["bug"]
    assert bug.startswith("Traceback (most recent call last):")
    assert bug.endswith("ZeroDivisionError: ours\n")
