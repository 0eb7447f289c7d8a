"""What is shown while a run trains, of a trainer that is at some epoch and mini-batch."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
from rich.console import Console
from rich.progress import Progress

from torchdigits.commands import progress
from torchdigits.commands.progress import EpochLines, RunBar
from torchdigits.data.datasets import DigitSplits
from torchdigits.training.callbacks import EpochRecord


@pytest.fixture
def bar(monkeypatch: pytest.MonkeyPatch) -> Progress:
    """The bar that is shown, on a terminal that is a text."""
    shown = Progress(console=Console(file=io.StringIO(), force_terminal=True), auto_refresh=False)
    monkeypatch.setattr(progress, "progress_bar", lambda: shown)
    return shown


def at(epoch: int = 0, **more: Any) -> Any:
    """A trainer at this epoch, of three of 400 mini-batches."""
    return SimpleNamespace(
        **{"is_global_zero": True, "max_epochs": 3, "num_training_batches": 400} | more, current_epoch=epoch
    )


def test_the_bar_counts_epochs_and_their_parts(bar: Progress) -> None:
    callback, model = RunBar(), L.LightningModule()
    (task,) = bar.tasks
    assert task.description == "training"
    callback.on_train_start(at(), model)
    assert bar.live.is_started
    assert (task.total, task.completed) == (3, 0)
    reached = []
    for epoch in range(3):
        for number in range(400):
            callback.on_train_batch_end(at(epoch), model, None, None, number)
            reached.append(task.completed)
    every_hundred = [epoch + part for epoch in range(3) for part in (0, 0.25, 0.5, 0.75)]
    assert reached == [value for value in every_hundred for _ in range(100)]
    callback.on_train_end(at(2), model)
    assert not bar.live.is_started


def test_a_run_that_fails_leaves_no_bar_and_one_that_never_began_prints_nothing(bar: Progress) -> None:
    callback, model = RunBar(), L.LightningModule()
    callback.on_exception(at(), model, RuntimeError())
    assert bar.console.file.getvalue() == ""  # type: ignore[attr-defined]  # the text
    callback.on_train_start(at(), model)
    callback.on_exception(at(), model, RuntimeError())
    assert not bar.live.is_started


def test_of_several_processes_the_first_shows_it(bar: Progress, capsys: pytest.CaptureFixture[str]) -> None:
    RunBar().on_train_start(at(is_global_zero=False), L.LightningModule())
    EpochLines().on_train_epoch_end(at(is_global_zero=False), L.LightningModule())
    assert not bar.live.is_started
    assert capsys.readouterr().out == ""


def test_an_epochs_line_is_that_of_the_last_row(digits: DigitSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"epoch": epoch, "validation_accuracy": round(correct / 290, 6), "training_cost": cost, "seconds": seconds}
        for epoch, correct, cost, seconds in (
            (1, 101, 0.2, 9.0),
            (2, 102, 0.1, 8.0),
            (3, 217, 0.12345678, 1.2345),
        )
    ]
    record = EpochRecord(Path(), {}, rows)
    trainer = at(2, callbacks=[RunBar(), record, EpochLines()], datamodule=SimpleNamespace(splits=digits))
    written = Written()
    monkeypatch.setattr("sys.stdout", written)
    EpochLines().on_train_epoch_end(trainer, L.LightningModule())
    assert written.shown == "Epoch 3/3: 217 / 290 validation, cost 0.1235, 1.23 s\n"


class Written(io.StringIO):
    """A file; whoever reads it sees what was flushed."""

    shown = ""

    def flush(self) -> None:
        self.shown = self.getvalue()
