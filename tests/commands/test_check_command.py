"""The command check, as it is typed: its report, its exit status, and programs that do their worst."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
from conftest import Outcome

from torchdigits.commands import check as command
from torchdigits.errors import CandidateError
from torchdigits.proof.diagnosis.file import Checked

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "proof"))

import planted  # noqa: E402

SCRIPT = ROOT / "scripts" / "check.py"
_NAMELESS = "class Meta(type):\n    @property\n    def __name__(cls): raise ValueError('mine')\n"


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def written(folder: Path, source: str, name: str = "mine.py") -> str:
    (folder / name).write_text(dedent(source))
    return name


def test_a_right_program(tmp_path: Path) -> None:
    done = run(tmp_path, written(tmp_path, planted.BOOK))
    assert (done.returncode, done.stderr) == (0, "")
    first, second, third = done.stdout.splitlines()
    assert first == "Network: a class with backprop, of an example, examples in columns."
    assert second == "Right: all gradients of 7 mini-batches agree with back-propagation by hand."
    assert third.startswith("Largest relative error: ")


def test_a_wrong_program(tmp_path: Path) -> None:
    source = planted.planted(planted.BOOK, ("self.weights[-l + 1].transpose()", "self.weights[-l + 1]"))
    done = run(tmp_path, f"{written(tmp_path, source)}:Network")
    assert (done.returncode, done.stderr) == (1, "")
    line = next(n for n, text in enumerate(source.splitlines(), 1) if "self.weights[-l + 1]," in text)
    assert f"Wrong: BP2, the hidden layers, line {line}\n" in done.stdout
    assert "    delta = np.dot(self.weights[-l + 1], delta) * sp\n" in done.stdout
    assert "the weights are not transposed as the error goes back" in " ".join(done.stdout.split())
    assert "It should be: delta(l) = W(l+1)^T delta(l+1) * sigmoid'(z(l))" in done.stdout


def test_one_json_object(tmp_path: Path) -> None:
    source = planted.planted(planted.MATRIX, ("error = activations[-1] - y", "error = y - activations[-1]"))
    done = run(tmp_path, written(tmp_path, source), "--json")
    assert (done.returncode, done.stderr) == (1, "")
    found = json.loads(done.stdout)
    assert found["right"] is False
    (finding,) = found["findings"]
    assert {"equation", "layer", "mistake", "explanation", "line"} == set(finding)
    assert (finding["equation"], finding["layer"], finding["mistake"]) == ("BP1", "output", "sign")
    right = json.loads(run(tmp_path, written(tmp_path, planted.ROWS), "--json").stdout)
    assert right["right"] is True
    assert right["findings"] == []
    assert right["relative_error"] <= right["bound"]


@pytest.mark.slow
def test_a_torch_program(tmp_path: Path) -> None:
    done = run(tmp_path, written(tmp_path, planted.FUNCTION))  # its Function has a backward too
    assert (done.returncode, done.stderr) == (0, "")
    source = planted.planted(planted.FUNCTION, ("dx = delta @ w", "dx = error @ w"))
    done = run(tmp_path, written(tmp_path, source))
    assert done.returncode == 1
    assert "    dx = error @ w\n" in done.stdout


def test_what_the_file_imports_beside_it_is_found(tmp_path: Path) -> None:
    written(tmp_path, "def sigmoid(z):\n    import numpy as np\n    return 1 / (1 + np.exp(-z))\n", "helpers.py")
    source = planted.planted(planted.ROWS).replace("def sigmoid(z):\n    return 1 / (1 + np.exp(-z))\n", "")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    done = run(folder, f"../{written(tmp_path, f'from helpers import sigmoid{chr(10)}{source}')}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_may_have_the_name_of_a_library(tmp_path: Path) -> None:
    done = run(tmp_path, written(tmp_path, planted.ROWS, "random.py"))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(:\n", "it is no Python 3: line 1: invalid syntax"),
        ('print "hello"\n', "it is no Python 3: line 1: a print without parentheses, as in Python 2"),
        ("x = 1\n", "there is no candidate in it; expected a class with weights, biases and backprop(x, y)"),
        ("raise ValueError('no')\n", "it raises ValueError: no\n  line 1, in <module>: raise ValueError('no')"),
        ("import sys\nsys.exit(0)\n", "it raises SystemExit: 0"),
        ("import os\nos._exit(0)\n", "it ended the process, with status 0"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "it ended the process by SIGSEGV"),
        (
            "class A:\n    def backprop(self, x, y): ...\nclass B:\n    def backprop(self, x, y): ...\n",
            "there are several candidates in it; say which: mine.py:A or mine.py:B",
        ),
        (
            "def backprop(weights, biases, x, y):\n    print('x' * 100_000)\n    return None\n",
            "backprop returned: None where an array was expected",
        ),
        ("def backprop(weights, biases, x, y):\n    input()\n", "it raises EOFError"),
        ("raise ValueError('x' * 10_000_000)\n", f"it raises ValueError: {'x' * 900}"),
        (
            f"import numpy as np\nnp.zeros = np.abs = None\n{dedent(planted.BOOK)}",
            "it replaces numpy.abs, numpy.zeros, which this check needs itself",
        ),
        (
            dedent(planted.BOOK).replace("class Network:", f"{_NAMELESS}class Network(metaclass=Meta):"),
            "it raises ValueError: mine\n  line ",
        ),
    ],
)
def test_what_cannot_be_checked(tmp_path: Path, source: str, expected: str) -> None:
    done = run(tmp_path, written(tmp_path, source))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: mine.py: {expected.splitlines()[0]}")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 5


@pytest.mark.slow
def test_an_endless_loop_is_ended(tmp_path: Path) -> None:
    source = "def backprop(weights, biases, x, y):\n    while True:\n        n = 1\n"
    began = time.monotonic()
    done = run(tmp_path, written(tmp_path, source), "--seconds", "1.5")
    assert (done.returncode, done.stdout) == (2, "")
    assert "it has not ended after 1.5 s; it was in\n  line " in done.stderr
    assert ", in backprop" in done.stderr
    assert time.monotonic() - began < 30  # and not for ever


def test_what_it_has_started_ends_with_it(tmp_path: Path) -> None:
    source = """
        import subprocess

        started = subprocess.Popen(["sleep", "987"])
        open("pid", "w").write(str(started.pid))
    """
    done = run(tmp_path, written(tmp_path, source))
    assert done.returncode == 2
    state = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    until = time.monotonic() + 10
    while state.exists() and state.read_text().rsplit(") ")[-1][0] != "Z" and time.monotonic() < until:
        time.sleep(0.05)
    assert not state.exists() or state.read_text().rsplit(") ")[-1][0] == "Z"


def test_a_process_that_it_has_forked_does_not_hold_up_the_report(tmp_path: Path) -> None:
    source = f"import os, time\nif os.fork() == 0:\n    time.sleep(987)\n{dedent(planted.BOOK)}"
    began = time.monotonic()
    done = run(tmp_path, written(tmp_path, source))
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < 50


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["none.py"], "none.py: there is no such file"),
        (["."], ".: it is no file"),
        (["mine.py:Missing"], "mine.py:Missing: there is no Missing in it; there are Network"),
        (["mine.py:np"], "mine.py:np: a module is no candidate"),
        (["mine.py", "--seconds", "0"], "--seconds 0.0: it must be more than 0"),
        (["mine.py", "--seconds", "nan"], "--seconds nan: it must be more than 0"),
        (["mine.py", "--examples", "two"], "--examples: "),
    ],
)
def test_words_that_make_no_sense(tmp_path: Path, words: list[str], expected: str) -> None:
    written(tmp_path, planted.BOOK)
    done = run(tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {expected}")


# What is asked of the process that runs a file, and what its answer becomes; no process is started.


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What was asked for; the answer is a wrong program's."""
    questions: list[tuple[object, ...]] = []

    def answer(*question: object) -> Checked:
        questions.append(question)
        return Checked("Wrong\n\x1b[0m\n  line", {"right": False})

    monkeypatch.setattr(command, "check_file", answer)
    return questions


@pytest.mark.parametrize(
    ("words", "question"),
    [
        (["mine.py"], ("mine.py", None, "auto", 60)),
        (["mine.py:Network", "--examples", "one"], ("mine.py", "Network", "one", 60)),
        (["a:b.py:Network", "--examples", "mini-batch"], ("a:b.py", "Network", "mini-batch", 60)),
        (["c:d.py", "--seconds", "0.5"], ("c:d.py", None, "auto", 0.5)),  # a file that is there
        (["none.py", "--seconds", "999999.5"], ("none.py", None, "auto", 999999.5)),
    ],
)
def test_what_is_asked_for(
    run_script: Callable[..., Outcome],
    asked: list[tuple[object, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    question: tuple[object, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c:d.py").touch()
    assert run_script("check.py", *words) == (1, "Wrong\n?[0m\n  line\n", "")
    assert asked == [(Path(str(question[0])), *question[1:])]


@pytest.mark.parametrize("seconds", ["0", "-1", "1e6", "inf"])
def test_a_time_that_makes_no_sense_is_one_line(
    run_script: Callable[..., Outcome], asked: list[tuple[object, ...]], seconds: str
) -> None:
    said = f"error: --seconds {float(seconds)}: it must be more than 0, and less than a million\n"
    assert run_script("check.py", "mine.py", "--seconds", seconds) == (2, "", said)
    assert asked == []


def test_an_error_is_told_with_the_lines_that_belong_to_it(
    run_script: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise CandidateError("it raises ValueError: \x1b\n  line 1\n  line 2: \x1b")

    monkeypatch.setattr(command, "check_file", fail)
    said = "error: mine.py: it raises ValueError: ?\n  line 1\n  line 2: ?\n"
    assert run_script("check.py", "mine.py") == (2, "", said)


@pytest.mark.parametrize(("right", "status"), [(True, 0), (False, 1)])
def test_the_object_is_what_was_found(
    run_script: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, right: bool, status: int
) -> None:
    monkeypatch.setattr(command, "check_file", lambda *_: Checked("in words", {"right": right, "findings": []}))
    outcome = run_script("check.py", "mine.py", "--json")
    assert (outcome.status, json.loads(outcome.out), outcome.err) == (status, {"right": right, "findings": []}, "")
