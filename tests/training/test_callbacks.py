"""What happens after an epoch, without training one."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from torchdigits import DigitClassifier
from torchdigits.errors import CheckpointError, DivergedError
from torchdigits.training.callbacks import EpochRecord, KeepCheckpoints, MetricsFile, WholeFiles
from torchdigits.training.folder import MEASURED, SavedRun
from torchdigits.training.options import TrainOptions

ROW = {"epoch": 1} | dict.fromkeys(MEASURED, 0.5) | {"seconds": 1.0}
BETTER = ROW | {"epoch": 2, "validation_accuracy": 0.75}


def trainer_after(epoch: int, *measured: float, first: bool = True) -> Any:
    """What the callbacks ask Lightning's Trainer, at the end of an epoch, from 1."""
    values = (torch.tensor(value) for value in measured)
    return SimpleNamespace(
        current_epoch=epoch - 1,
        callback_metrics=dict(zip(MEASURED, values, strict=bool(measured))) if measured else {},
        is_global_zero=first,
    )


def record_of(folder: Path, *rows: dict[str, Any]) -> EpochRecord:
    return EpochRecord(folder, {"threads": 2}, [*rows])


def test_an_epochs_row_has_six_decimals_and_its_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 101.23456])
    monkeypatch.setattr("torchdigits.training.callbacks.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    record = record_of(tmp_path, ROW)
    record.on_train_epoch_start(trainer_after(2), DigitClassifier())
    record.on_train_epoch_end(trainer_after(2, 0.12345678, 0.25, 1 / 3, 0.75), DigitClassifier())
    assert record.rows[1] == dict(
        zip(("epoch", *MEASURED, "seconds"), (2, 0.123457, 0.25, 0.333333, 0.75, 1.235), strict=True)
    )
    assert json.loads(record.state_dict()["run"]) == {"threads": 2, "rows": record.rows}
    assert record.state_key == "EpochLog"


def test_the_rows_of_a_run_that_goes_on_are_copied(tmp_path: Path) -> None:
    rows = [ROW]
    record = EpochRecord(tmp_path, {}, rows)
    record.rows.append(BETTER)
    assert rows == [ROW]


@pytest.mark.parametrize(("rows", "kept"), [([], "nothing is kept"), ([ROW], "{folder}/last.ckpt has epoch 1")])
@pytest.mark.parametrize("broken", ["cost", "weight"])
def test_a_run_that_diverges_ends(rows: list[dict[str, Any]], kept: str, broken: str, tmp_path: Path) -> None:
    record, classifier, epoch = record_of(tmp_path, *rows), DigitClassifier((4, 2)), len(rows) + 1
    costs = (0.5, 0.5, float("nan") if broken == "cost" else 0.5, 0.5)
    if broken == "weight":
        with torch.no_grad():
            next(classifier.parameters())[0, 0] = torch.inf
    record.on_train_epoch_start(trainer_after(epoch), classifier)
    with pytest.raises(DivergedError) as caught:
        record.on_train_epoch_end(trainer_after(epoch, *costs), classifier)
    assert str(caught.value) == (
        f"epoch {epoch}: weights or costs are NaN or infinite, the run has diverged;"
        f" {kept.format(folder=tmp_path)}; use a smaller --learning-rate"
    )
    assert record.rows == rows


def test_a_run_goes_on_after_the_epochs_of_its_rows(tmp_path: Path) -> None:
    record = record_of(tmp_path, ROW)
    with pytest.raises(CheckpointError) as caught:
        record.on_train_start(trainer_after(1), DigitClassifier())
    assert str(caught.value) == f"{tmp_path / 'last.ckpt'} is damaged: its epochs are not those of its metrics"
    assert not record.started
    record.on_train_start(trainer_after(2), DigitClassifier())
    assert record.started


def test_the_best_epoch_so_far_is_kept_beside_the_last(tmp_path: Path) -> None:
    saved: list[tuple[Path, bool]] = []
    record = record_of(tmp_path, ROW)
    checkpoints = KeepCheckpoints(record)
    assert checkpoints.folder == tmp_path
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(broadcast=lambda folder: folder / "first"),
        save_checkpoint=lambda path, weights_only=False: saved.append((path, weights_only)),
    )
    classifier = DigitClassifier()
    checkpoints.setup(trainer, classifier, "fit")  # type: ignore[arg-type]
    folder = tmp_path / "first"  # which the first of several processes tells
    assert checkpoints.folder == folder
    for row in (BETTER, ROW | {"epoch": 3}):
        record.rows.append(row)
        checkpoints.on_train_epoch_end(trainer, classifier)  # type: ignore[arg-type]
    last, best = (folder / "last.ckpt", False), (folder / "best.ckpt", True)
    assert saved == [last, best, last]


def test_metrics_are_appended_by_the_first_process(tmp_path: Path) -> None:
    record, classifier = record_of(tmp_path, ROW), DigitClassifier()
    metrics = MetricsFile(record)
    (tmp_path / "metrics.csv").write_text("of before")
    metrics.on_train_epoch_end(trainer_after(1, first=False), classifier)
    assert (tmp_path / "metrics.csv").read_text() == "of before"
    metrics.on_train_epoch_end(trainer_after(1), classifier)
    record.rows.append(BETTER)
    metrics.on_train_epoch_end(trainer_after(2), classifier)
    assert (tmp_path / "metrics.csv").read_bytes().decode("ascii").split("\r\n") == [
        "epoch,training_cost,training_accuracy,validation_cost,validation_accuracy,seconds",
        "1,0.5,0.5,0.5,0.5,1.0",
        "2,0.5,0.5,0.5,0.75,1.0",
        "",
    ]


def test_checkpoints_are_written_whole_and_read_once(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    WholeFiles().save_checkpoint({"x": torch.ones(2), "optimizer_states": [1]}, path)
    assert [found.name for found in tmp_path.iterdir()] == ["last.ckpt"]
    read = WholeFiles().load_checkpoint(path)
    assert read["x"].tolist() == [1.0, 1.0]
    assert read["optimizer_states"] == []
    saved = SavedRun(tmp_path, TrainOptions(), "", 1, [], {"epoch": 3})
    assert WholeFiles(saved).load_checkpoint(str(path)) is saved.checkpoint
    WholeFiles().save_checkpoint({"y": 1}, tmp_path / "other.ckpt")
    assert WholeFiles(saved).load_checkpoint(tmp_path / "other.ckpt") == {"y": 1}
