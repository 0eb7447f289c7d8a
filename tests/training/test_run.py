"""What a finished run tells of itself."""

import csv
import json
import re
from contextlib import nullcontext
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
import pytest
import torch
import yaml  # type: ignore[import-untyped]
from conftest import leave_uncompiled

from torchdigits import DigitClassifier, load_network
from torchdigits.data.datasets import Digits, DigitSplits
from torchdigits.engines.machine import Machine, find_machine, versions_here
from torchdigits.errors import CheckpointError, DataError, OptionError
from torchdigits.files import checkpoints, networks
from torchdigits.files.networks import save_network
from torchdigits.population.members import SweepOptions
from torchdigits.recognition.measuring import measure
from torchdigits.training import run
from torchdigits.training.advice import advice
from torchdigits.training.folder import MEASURED, SavedRun, best_of, read_run, resumed
from torchdigits.training.loggers import make_logger
from torchdigits.training.options import TrainOptions
from torchdigits.training.run import title_of_run, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from torchdigits.engines.choice import Engine

OPTIONS = TrainOptions(dataset="digits", hidden=(5, 4), epochs=2, accelerator="cpu", seed=3, learning_rate=0.25)


def record_of(**changed: Any) -> dict[str, Any]:
    options = {"hidden": [30], "dataset": "mnist", "learning_rate": 3.0, "batch_size": 10, "seed": 0} | changed
    return {"options": options, "hardware": {"devices": 1}, "engine": "eager"}


@pytest.mark.parametrize(
    ("record", "title"),
    [
        (record_of(), "784-30-10 on mnist, learning rate 3, mini-batches of 10, seed 0, eager engine"),
        (
            record_of(hidden=[], dataset="digits", learning_rate=0.25, batch_size=7, seed=5) | {"engine": "compiled"},
            "784-10 on digits, learning rate 0.25, mini-batches of 7, seed 5, compiled engine",
        ),
        (
            record_of(hidden=[30, 20]) | {"hardware": {"devices": 2}},
            "784-30-20-10 on mnist, learning rate 3, mini-batches of 10 on each of 2 devices, seed 0, eager engine",
        ),
    ],
)
def test_a_curve_says_what_was_trained_and_how(record: dict[str, Any], title: str) -> None:
    assert title_of_run(record) == f"Learning curves of {title}"


def test_a_finished_run_has_told_all(tmp_path: Path, digits: DigitSplits, drawn: list["Figure"]) -> None:
    told: list[tuple[Path, Engine]] = []
    finished = train(replace(OPTIONS, output=tmp_path), on_start=lambda folder, engine: told.append((folder, engine)))
    assert told == [(finished.folder, finished.engine)]
    record = json.loads((finished.folder / "run.json").read_text())
    assert [figure.get_suptitle() for figure in drawn] == [title_of_run(record)]
    machine = Machine("cpu", 1, "32")
    assert record == {
        "options": replace(OPTIONS, output=tmp_path).to_plain() | {"hidden": [5, 4]},
        "engine": "eager",
        "why": "as 244 updates are too few to be worth compiling",
        "versions": versions_here(),
        "hardware": asdict(machine) | {"device": machine.name},
        "dataset": digits.summary(),
        "best": finished.best,
        "test": {"correct": finished.test.correct, "total": 290},
    }
    assert (finished.folder / "run.json").read_text() == json.dumps(record, indent=2) + "\n"
    assert finished.best == best_of(finished.rows)
    network = load_network(finished.folder / "best.ckpt")
    expected = measure(network, digits.test)
    assert (finished.test.correct, finished.test.total) == (expected.correct, 290)
    assert finished.advice == advice(network, digits.test)


def test_a_run_is_saved_with_what_was_chosen_for_it(
    tmp_path: Path, digits: DigitSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def load_splits(*arguments: object) -> DigitSplits:
        asked.append(arguments)
        return digits

    monkeypatch.setattr(run, "load_splits", load_splits)
    options = replace(OPTIONS, accelerator="auto", epochs=1, output=tmp_path, data_dir=tmp_path)
    saved = read_run(train(options).folder / "last.ckpt").options
    assert asked == [("digits", tmp_path)]
    assert saved.accelerator == find_machine("auto").accelerator
    assert saved == replace(options, accelerator=saved.accelerator, engine="eager")


class Counts(L.Callback):
    """Counts the mini-batches of a run."""

    def __init__(self) -> None:
        self.taken = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.taken += 1


@pytest.mark.slow
def test_a_run_goes_on_with_the_epochs_that_are_missing(tmp_path: Path) -> None:
    whole = train(replace(OPTIONS, output=tmp_path / "whole"))
    torch.manual_seed(8)  # which changes nothing
    begun = train(replace(OPTIONS, output=tmp_path / "begun", epochs=1))
    for epochs, taken in ((2, 122), (2, 0)):  # and once more, with nothing to train
        counts = Counts()
        with resumed(begun.folder) as saved:
            again = train(replace(saved.options, epochs=epochs), saved, callbacks=[counts])
        assert counts.taken == taken
        assert again.folder == begun.folder
        assert [row["validation_cost"] for row in again.rows] == [row["validation_cost"] for row in whole.rows]
    for ours, theirs in zip(
        load_network(begun.folder / "last.ckpt").parameters(),
        load_network(whole.folder / "last.ckpt").parameters(),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


def test_what_contradicts_the_run_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: DigitSplits) -> None:
    folder = train(replace(OPTIONS, output=tmp_path, epochs=1)).folder
    with resumed(folder) as saved:
        with pytest.raises(OptionError, match="seed"):
            train(replace(saved.options, seed=4, epochs=2), saved)
        other = digits._replace(test=digits.validation)
        monkeypatch.setattr(run, "load_splits", lambda *_: other)
        with pytest.raises(DataError) as caught:
            train(replace(saved.options, epochs=2), saved)
    assert str(caught.value) == f"digits has other images or labels than the run in {folder} was begun with"


def test_what_lightning_cannot_load_is_a_damaged_checkpoint_and_a_bug_is_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train(replace(OPTIONS, output=tmp_path, epochs=1)).folder
    with resumed(folder) as saved:
        saved.checkpoint["loops"]["fit_loop"]["state_dict"] = 3
        with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged: ") as caught:
            train(replace(saved.options, epochs=2), saved)
    assert str(caught.value).startswith(f"{folder / 'last.ckpt'} is damaged: ")

    def mistaken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(DigitClassifier, "training_step", mistaken)
    with pytest.raises(ZeroDivisionError):
        train(replace(OPTIONS, output=tmp_path / "new"))
    with resumed(folder) as saved, pytest.raises(ZeroDivisionError):
        train(replace(saved.options, epochs=2), saved)
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.slow
def test_a_best_network_is_the_one_of_its_epoch(tmp_path: Path, digits: DigitSplits) -> None:
    folder = train(replace(OPTIONS, epochs=3, output=tmp_path)).folder
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    state = json.loads(checkpoint["callbacks"]["EpochLog"]["run"])
    right = measure(load_network(folder / "best.ckpt"), digits.validation).correct
    for counted, sound in ((right, True), (right + 1, True), (right + 2, False), (right - 2, False)):
        # Of three epochs, the second is now the best, and recognised so many of the 290.
        for row, found in zip(state["rows"], (counted - 1, counted, counted - 1), strict=True):
            row["validation_accuracy"] = round(found / 290, 6)
        checkpoint["callbacks"]["EpochLog"]["run"] = json.dumps(state)
        torch.save(checkpoint, folder / "last.ckpt")
        with resumed(folder) as saved:
            if sound:
                assert train(saved.options, saved).test.total == 290
                continue
            with pytest.raises(CheckpointError) as caught:
                train(saved.options, saved)
        assert str(caught.value) == (
            f"{folder / 'best.ckpt'} is not the network of epoch 2: it recognises {right} of 290 validation images,"
            f" not {counted}"
        )


@pytest.mark.parametrize(("images", "allowed"), [(999, 1), (1000, 2), (1217, 2)])
def test_of_a_thousand_images_one_more_may_be_a_tie(
    images: int, allowed: int, tmp_path: Path, digits: DigitSplits
) -> None:
    save_network(network := load_network(), tmp_path / "best.ckpt")
    part = Digits(digits.training.images[:images], digits.training.labels[:images])
    found = measure(network, part).correct
    for off, sound in ((0, True), (allowed, True), (-allowed, True), (allowed + 1, False), (-allowed - 1, False)):
        rows = [{"epoch": 1, "validation_accuracy": round((found + off) / images, 6)}, {"validation_accuracy": 0.0}]
        saved = SavedRun(tmp_path, OPTIONS, "", 1, rows, {})
        with nullcontext() if sound else pytest.raises(CheckpointError, match=f"of {images} validation images"):
            run._check_best(saved, digits._replace(validation=part))


def test_whatever_can_be_trained_can_be_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (networks, checkpoints):
        monkeypatch.setattr(module, "MOST_BYTES", checkpoints.MOST_PICKLED + 2**20)
    # A megabyte is 262,144 floats: 329 neurons have 784 + 1 + 10 each, and there are 10 biases more.
    assert 329 * 795 + 10 <= 2**18 < 330 * 795 + 10
    folder = train(replace(OPTIONS, hidden=(329,), epochs=1, output=tmp_path)).folder
    with resumed(folder) as saved:
        assert train(replace(saved.options, epochs=2), saved).rows[1]["epoch"] == 2
    with pytest.raises(OptionError, match=r"^hidden 330: a network may have 262,144 weights and biases"):
        replace(OPTIONS, hidden=(330,))
    with pytest.raises(OptionError, match=r"^hidden 165: a network may have 131,072 weights and biases"):
        replace(OPTIONS, hidden=(165,), precision="64")
    with pytest.raises(OptionError, match="in 1,000 layers"):
        replace(OPTIONS, hidden=(1,) * 1000)
    with pytest.raises(OptionError, match=r"^hidden [1 ]{100}\.\.\.: a network may have"):
        SweepOptions(hidden=("-".join("1" * 1000),))
    with pytest.raises(OptionError, match="a sweep takes 40 hidden layers at most"):
        SweepOptions(hidden=("-".join("1" * 41),))
    assert replace(OPTIONS, hidden=(1,) * 999).epochs == 2


def test_last_ckpt_can_keep_the_record_of_90_000_epochs(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"^epochs: it must be at most 90,000$"):
        replace(OPTIONS, epochs=90_001)
    folder = train(replace(OPTIONS, epochs=1, output=tmp_path)).folder
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    state = json.loads(checkpoint["callbacks"]["EpochLog"]["run"])
    row = dict.fromkeys(MEASURED, 0.123456)
    state["rows"] = [{"epoch": epoch, **row, "seconds": 12345.678} for epoch in range(1, 90_001)]
    checkpoint["callbacks"]["EpochLog"]["run"] = json.dumps(state)
    counts = {"ready": 90_000, "completed": 89_999, "started": 90_000, "processed": 90_000}
    checkpoint["loops"]["fit_loop"]["epoch_progress"] = {"total": counts, "current": counts}
    torch.save(checkpoint, folder / "last.ckpt")
    torch.save(checkpoint, folder / "best.ckpt")
    assert len(read_run(folder / "last.ckpt").rows) == 90_000


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_a_logger_gets_each_epoch_and_the_options(
    engine: Literal["eager", "compiled"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_uncompiled(monkeypatch)
    options = TrainOptions(dataset="digits", hidden=(5,), epochs=2, accelerator="cpu", engine=engine, output=tmp_path)
    found = train(options, logger="csv")
    (folder,) = (found.folder / "logs").iterdir()
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["training_cost"]]
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "121"), ("1", "243")]  # the last update, from 0
    for row, ours in zip(rows, found.rows, strict=True):
        assert float(row["training_cost"]) == pytest.approx(ours["training_cost"], abs=1e-6)
    logged = yaml.safe_load((folder / "hparams.yaml").read_text())
    assert (logged["learning_rate"], logged["hidden"], logged["seed"]) == (3.0, [5], 0)
    with resumed(found.folder) as saved:  # goes on, and what was logged before stays
        train(replace(saved.options, epochs=3), saved, logger="csv")
    assert len(list((found.folder / "logs").iterdir())) == 2


@pytest.mark.parametrize("name", ["wandb", "mlflow", "carrier pigeon"])
def test_a_logger_that_is_missing_is_told(name: str, tmp_path: Path) -> None:
    if name != "carrier pigeon" and find_spec(name):
        pytest.skip(f"{name} is installed here")
    words = "pip install 'torchdigits" if name != "carrier pigeon" else "it must be csv, tensorboard, wandb or mlflow"
    with pytest.raises(OptionError, match=f"^--logger {name}: .*{re.escape(words)}"):
        make_logger(name, tmp_path)
