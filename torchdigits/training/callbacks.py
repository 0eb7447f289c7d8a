"""What happens after an epoch: a callback for each thing, in this order."""

import io
import json
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from torchdigits.errors import CheckpointError, DivergedError
from torchdigits.files.checkpoints import read_checkpoint
from torchdigits.files.writing import write_whole
from torchdigits.training.folder import BEST, LAST, MEASURED, METRICS, STATE, Row, SavedRun, best_of, table


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints that are there whole, or as they were, wherever the process is killed; reads them safely.

    Args:
        saved: a run that goes on: what was read of its last.ckpt is not read again.
    """

    def __init__(self, saved: SavedRun | None = None) -> None:
        self.saved = saved

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        torch.save(checkpoint, file := io.BytesIO())
        write_whole(Path(path), file.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        if self.saved is not None and Path(path) == self.saved.folder / LAST:
            checkpoint = self.saved.checkpoint
        else:
            checkpoint = read_checkpoint(Path(path))
        if "optimizer_states" in checkpoint:  # plain descent has none: the optimizer is as it is configured here
            checkpoint["optimizer_states"] = []
        return checkpoint


class EpochRecord(L.Callback):
    """Takes down what each epoch reached, and ends a run that diverges.

    Every checkpoint holds the record, so that a run can go on.

    Args:
        folder: the run's.
        run: what a checkpoint tells of the run, besides the rows.
        rows: of the epochs that are finished already.

    Attributes:
        rows: of the finished epochs, as in metrics.csv. Epochs count from 1; the seconds are those of an epoch with its
            validation and without its checkpoints.
        started: whether training has begun.
    """

    def __init__(self, folder: Path, run: dict[str, Any], rows: list[Row]) -> None:
        self.folder, self.run, self.rows = folder, run, [*rows]
        self.started = False

    @property
    def state_key(self) -> str:
        return STATE

    def state_dict(self) -> dict[str, Any]:
        return {"run": json.dumps(self.run | {"rows": self.rows})}  # one value, however many epochs there are

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch != len(self.rows):
            raise CheckpointError(f"{self.folder / LAST} is damaged: its epochs are not those of its metrics")
        self.started = True

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch, measured = trainer.current_epoch + 1, [trainer.callback_metrics[name] for name in MEASURED]
        if not all(tensor.isfinite().all() for tensor in (*pl_module.parameters(), *measured)):
            kept = f"{self.folder / LAST} has epoch {epoch - 1}" if self.rows else "nothing is kept"
            raise DivergedError(
                f"epoch {epoch}: weights or costs are NaN or infinite, the run has diverged; {kept};"
                " use a smaller --learning-rate"
            )
        values = {name: round(value.item(), 6) for name, value in zip(MEASURED, measured, strict=True)}
        self.rows.append({"epoch": epoch, **values, "seconds": round(time.perf_counter() - self._start, 3)})


class KeepCheckpoints(L.Callback):
    """Writes last.ckpt, and then best.ckpt if the epoch is the best so far.

    Args:
        record: of the epochs.

    Attributes:
        folder: the run's, which the first of several processes tells the others.
    """

    def __init__(self, record: EpochRecord) -> None:
        self.record, self.folder = record, record.folder

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.folder = trainer.strategy.broadcast(self.folder)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.save_checkpoint(self.folder / LAST)
        if best_of(self.record.rows) is self.record.rows[-1]:
            trainer.save_checkpoint(self.folder / BEST, weights_only=True)


class MetricsFile(L.Callback):
    """Appends each epoch's row to metrics.csv."""

    def __init__(self, record: EpochRecord) -> None:
        self.record = record

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            row, first = self.record.rows[-1], len(self.record.rows) == 1
            with (self.record.folder / METRICS).open("w" if first else "a", newline="", encoding="ascii") as file:
                file.write(table([row], header=first))
