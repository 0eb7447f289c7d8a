"""What a run shows and records while it trains."""

import csv
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class EpochLog(L.Callback):
    """An epoch a line, printed and in metrics.csv; on a terminal also a progress bar of the whole run.

    Args:
        path: of metrics.csv.
        validation_count: number of validation images.

    Attributes:
        rows: what metrics.csv holds. Epochs count from 1; seconds are those of an epoch with its validation.
    """

    def __init__(self, path: Path, validation_count: int) -> None:
        self.path = path
        self.validation_count = validation_count
        self.rows: list[dict[str, float]] = []
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, transient=True, disable=not sys.stdout.isatty())
        self._task = self._bar.add_task("training")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self._bar.update(self._task, total=trainer.max_epochs)
            self._bar.start()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % 100 == 0:
            self._bar.update(self._task, completed=trainer.current_epoch + batch_idx / trainer.num_training_batches)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        measured = trainer.callback_metrics
        row = {
            "epoch": trainer.current_epoch + 1,
            **{
                f"{split}_{quantity}": round(measured[f"{split}_{quantity}"].item(), 6)
                for split in ("training", "validation")
                for quantity in ("cost", "accuracy")
            },
            "seconds": round(time.perf_counter() - self._start, 3),
        }
        self.rows.append(row)
        if trainer.is_global_zero:
            with self.path.open("a", newline="") as file:
                writer = csv.DictWriter(file, row)
                if len(self.rows) == 1:
                    writer.writeheader()
                writer.writerow(row)
            correct = round(row["validation_accuracy"] * self.validation_count)
            print(
                f"Epoch {row['epoch']}/{trainer.max_epochs}: {correct} / {self.validation_count} validation,"
                f" cost {row['training_cost']:.4f}, {row['seconds']:.2f} s",
                flush=True,
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop_bar()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop_bar()

    def _stop_bar(self) -> None:
        if self._bar.live.is_started:  # else rich before 15 prints an empty line
            self._bar.stop()
