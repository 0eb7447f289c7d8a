"""What is shown of a run while it trains."""

from typing import Any

import lightning as L

from torchdigits.commands.cli import progress_bar
from torchdigits.training.callbacks import EpochRecord


class RunBar(L.Callback):
    """A progress bar of the whole run."""

    def __init__(self) -> None:
        self._bar = progress_bar()
        self._task = self._bar.add_task("training")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self._bar.update(self._task, total=trainer.max_epochs)
            self._bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % 100 == 0:
            self._bar.update(self._task, completed=trainer.current_epoch + batch_idx / trainer.num_training_batches)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar.live.is_started:  # else rich before 15 prints an empty line
            self._bar.stop()


class EpochLines(L.Callback):
    """Prints a line an epoch, in the original's spirit."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        callbacks, datamodule = trainer.callbacks, trainer.datamodule  # type: ignore[attr-defined]  # both documented
        (record,) = [callback for callback in callbacks if isinstance(callback, EpochRecord)]
        row, images = record.rows[-1], len(datamodule.splits.validation.labels)
        print(
            f"Epoch {row['epoch']}/{trainer.max_epochs}: {round(row['validation_accuracy'] * images)} / {images}"
            f" validation, cost {row['training_cost']:.4f}, {row['seconds']:.2f} s",
            flush=True,
        )
