"""What train prints and hands on; the run itself stands aside, and has tests of its own in tests/training."""

import io
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from torchdigits.commands import train as command
from torchdigits.commands.progress import EpochLines, RunBar
from torchdigits.errors import CheckpointError, Interrupted, OptionError
from torchdigits.training.folder import SavedRun
from torchdigits.training.options import TrainOptions

OPTIONS = TrainOptions(dataset="digits", epochs=9, seed=4)
AGAIN = "go on with python scripts/train.py --resume 'a b'"


@pytest.fixture(autouse=True)
def called_as_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["scripts/train.py"])


def saved(folder: Path, options: TrainOptions = OPTIONS, threads: int | None = None) -> SavedRun:
    return SavedRun(folder, options, "", threads, [{}] * 3, {})


Run = Callable[..., Any]


def runs(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setattr(command, "train_run", run)


def found(folder: Path, *advice: str) -> SimpleNamespace:
    return SimpleNamespace(
        folder=folder, test=SimpleNamespace(correct=271, total=290), best={"epoch": 7}, advice=[*advice]
    )


@pytest.mark.parametrize("first", [True, False])
def test_what_a_run_has_reached_is_told_by_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], first: bool
) -> None:
    given: dict[str, Any] = {}
    before = saved(Path("a b"))

    def run(options: TrainOptions, saved: SavedRun, **more: Any) -> SimpleNamespace:
        given.update(more, options=options, saved=saved)
        more["on_start"](Path("a b"), "steam, as it is warm")
        return found(Path("a b"), "One.", "Two.")

    runs(monkeypatch, run)
    monkeypatch.setattr(command, "is_first_process", lambda: first)
    command.train(OPTIONS, logger="csv", saved=before)
    assert (given["options"], given["saved"], given["logger"]) == (OPTIONS, before, "csv")
    assert [type(callback) for callback in given["callbacks"]()] == [RunBar, EpochLines]
    told = [
        "Test: 271 / 290 with the best network, of epoch 7",
        "One.",
        "Two.",
        "Saved as 'a b/best.ckpt'; use it with",
        "    python scripts/predict.py --checkpoint 'a b/best.ckpt' PICTURE",
    ]
    assert capsys.readouterr() == ("\n".join(["Engine: steam, as it is warm", *told * first, ""]), "")


def test_the_engine_is_told_before_the_first_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """To a pipe too, which else gets nothing before some kilobytes are written."""
    pipe = io.BytesIO()

    def run(*_: object, on_start: Run, **__: object) -> SimpleNamespace:
        on_start(Path("runs"), "eager")
        assert pipe.getvalue() == b"Engine: eager\n"
        return found(Path("runs"))

    runs(monkeypatch, run)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, newline="\n"))
    command.train(OPTIONS)


@pytest.mark.parametrize(("threads", "told"), [(None, False), (3, True), (1, False)])
def test_another_number_of_threads_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], threads: int | None, told: bool
) -> None:
    def run(*_: object, on_start: Run, **__: object) -> SimpleNamespace:
        on_start(Path("runs"), "eager")
        return found(Path("runs"))

    runs(monkeypatch, run)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    command.train(OPTIONS, saved=saved(Path("runs"), threads=threads))
    words = "Begun with 3 threads of the CPU, goes on with 1: the last bits may differ\nEngine: eager\n"
    assert capsys.readouterr().out.startswith(words if told else "Engine: eager\n")


def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder's last.ckpt has three epochs, but for one that is damaged."""

    def read_run(path: Path) -> SavedRun:
        if path.parent.name == "damaged":
            raise CheckpointError("it is damaged")
        assert path.name == "last.ckpt"
        return saved(path.parent)

    monkeypatch.setattr(command, "read_run", read_run)


def test_what_is_kept_of_a_run_and_how_it_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept(monkeypatch)
    for name in ("a b", "damaged"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "last.ckpt").touch()
    monkeypatch.chdir(tmp_path)
    folder = Path("a b")
    more = TrainOptions(dataset="digits", epochs=12, seed=4, data_dir=Path("data"))
    somewhere = f"--data-dir {tmp_path / 'data'}"
    for where, options, before, words in (
        (None, OPTIONS, None, "no epoch was finished, nothing is kept"),
        (Path("empty"), OPTIONS, None, "no epoch was finished, nothing is kept"),
        (Path("damaged"), OPTIONS, None, "it is damaged"),
        (folder, OPTIONS, None, f"3 of 9 epochs are kept; {AGAIN}"),
        (folder, OPTIONS, saved(folder), f"3 of 9 epochs are kept; {AGAIN}"),
        (folder, more, saved(folder), f"3 of 12 epochs are kept; {AGAIN} {somewhere} --epochs 12"),
        (folder, more, None, f"3 of 12 epochs are kept; {AGAIN}"),
    ):
        assert command._kept(where, options, before) == words
    monkeypatch.setattr(sys, "argv", ["torchdigits", "train"])
    assert command._kept(folder, OPTIONS, None).endswith("torchdigits train --resume 'a b'")


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("resumes", [True, False])
def test_a_run_that_ends_early_says_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, started: bool, resumes: bool
) -> None:
    kept(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("a b").mkdir()
    Path("a b", "last.ckpt").touch()
    words = f"3 of 9 epochs are kept; {AGAIN}{' --epochs 9' * resumes}"
    words = words if started or resumes else "no epoch was finished, nothing is kept"
    shorter = TrainOptions(dataset="digits", epochs=5, seed=4)
    for error, expected in (
        (OSError(27, "File too large", "last.ckpt"), f"cannot write last.ckpt: File too large; {words}"),
        (OSError(28, "No space left"), f"cannot write to the disk: No space left; {words}"),
        (BrokenPipeError(32, "Broken pipe"), None),
        (ValueError("a bug"), None),
    ):

        def run(*_: object, on_start: Run, error: Exception = error, **__: object) -> None:
            if started:
                on_start(Path("a b"), "eager")
            raise error

        runs(monkeypatch, run)
        with pytest.raises(type(error) if expected is None else OptionError) as raised:
            command.train(OPTIONS, saved=saved(Path("a b"), shorter) if resumes else None)
        assert (raised.value is error) if expected is None else (str(raised.value) == expected)
        assert expected is None or raised.value.__cause__ is error


def test_a_run_that_is_interrupted_says_what_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("a b").mkdir()
    Path("a b", "last.ckpt").touch()

    def run(*_: object, on_start: Run, **__: object) -> None:
        on_start(Path("a b"), "eager")
        signal.raise_signal(signal.SIGINT)

    runs(monkeypatch, run)
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(Interrupted) as raised:
            command.train(OPTIONS, saved=saved(Path("a b"), TrainOptions(dataset="digits", epochs=5, seed=4)))
    finally:
        signal.signal(signal.SIGINT, on_ctrl_c)  # which a command that was interrupted ignores
    assert f"3 of 9 epochs are kept; {AGAIN} --epochs 9" in str(raised.value)
