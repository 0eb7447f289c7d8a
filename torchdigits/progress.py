"""What a run shows and records while it trains."""

import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from torchdigits.checkpoints import read_checkpoint, write_whole
from torchdigits.errors import CheckpointError, DivergedError
from torchdigits.runs import BEST, COLUMNS, LAST, METRICS, best_of, table


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints that are there whole, or as they were, wherever the process is killed; reads them safely."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        torch.save(checkpoint, file := io.BytesIO())
        write_whole(Path(path), file.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        checkpoint = read_checkpoint(Path(path))
        if "optimizer_states" in checkpoint:  # plain descent has none: the optimizer is as it is configured here
            checkpoint["optimizer_states"] = []
        return checkpoint


class EpochLog(L.Callback):
    """After each epoch last.ckpt, then best.ckpt if it is the best so far, and a line, printed and in metrics.csv.

    On a terminal there is also a progress bar of the whole run.

    Args:
        folder: the run's.
        validation_count: number of validation images.
        run: what last.ckpt is to tell of the run, besides `rows`.
        rows: of the epochs that are finished already.

    Attributes:
        rows: what metrics.csv holds, by COLUMNS. Epochs count from 1; seconds are those of an epoch with its validation
            and without its checkpoints.
        kept: the epochs that last.ckpt has.
        started: whether training has begun.
    """

    def __init__(self, folder: Path, validation_count: int, run: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        self.folder = folder
        self.validation_count = validation_count
        self.run = run
        self.rows = rows
        self.kept = len(rows)
        self.started = False
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, transient=True, disable=not sys.stdout.isatty())
        self._task = self._bar.add_task("training")

    def state_dict(self) -> dict[str, Any]:
        return {"run": json.dumps(self.run | {"rows": self.rows})}  # one value, however many epochs there are

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.folder = trainer.strategy.broadcast(self.folder)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch != len(self.rows):
            raise CheckpointError(f"{self.folder / LAST} is damaged: its epochs are not those of its metrics")
        self.started = True
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
        epoch, measured = trainer.current_epoch + 1, [trainer.callback_metrics[name] for name in COLUMNS[1:-1]]
        if not all(tensor.isfinite().all() for tensor in (*pl_module.parameters(), *measured)):
            kept = f"{self.folder / LAST} has epoch {epoch - 1}" if self.rows else "nothing is kept"
            raise DivergedError(
                f"epoch {epoch}: weights or costs are no finite numbers any more, the run has diverged; {kept};"
                " use a smaller --learning-rate"
            )
        row = {
            "epoch": epoch,
            **{name: round(value.item(), 6) for name, value in zip(COLUMNS[1:-1], measured, strict=True)},
            "seconds": round(time.perf_counter() - self._start, 3),
        }
        self.rows.append(row)
        trainer.save_checkpoint(self.folder / LAST)
        self.kept = epoch
        if best_of(self.rows) is row:
            trainer.save_checkpoint(self.folder / BEST, weights_only=True)
        if trainer.is_global_zero:
            with (self.folder / METRICS).open("a" if epoch > 1 else "w", newline="", encoding="ascii") as file:
                file.write(table([row], header=epoch == 1))
            correct = round(row["validation_accuracy"] * self.validation_count)
            print(
                f"Epoch {epoch}/{trainer.max_epochs}: {correct} / {self.validation_count} validation,"
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
