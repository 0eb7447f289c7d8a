"""The compiled engine: the same network and rule as `DigitClassifier`, a block of updates at a time."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchdigits.classifier import DigitClassifier
from torchdigits.engines.compiler import Block, Train, compiled_sgd, sgd_loop, sgd_update
from torchdigits.errors import OptionError
from torchdigits.sgd import Parameters


class CompiledDigitClassifier(DigitClassifier):
    """A DigitClassifier that takes its updates a block at a time, in compiled code; all else is the same.

    A training batch is a block of S mini-batches (see `Blocks`): images `(S, m, 784)`, uint8, and labels `(S, m)`. The
    shape that comes first is compiled, others are trained uncompiled. `Trainer.global_step` counts updates, and
    callbacks see it after a block. One process, and full precision (`32-true` or `64-true`).

    Raises:
        OptionError: as DigitClassifier, and in training for batches that are not blocks.
    """

    def __init__(self, sizes: Sequence[int] = (784, 30, 10), learning_rate: float = 3.0) -> None:
        super().__init__(sizes, learning_rate)
        self.automatic_optimization = False
        self._compiled: tuple[torch.Size, Train] | None = None

    @torch.no_grad()
    def train_block(self, parameters: Parameters, block: Block) -> tuple[Parameters, Tensor]:
        """The updates of a block, from `parameters`: the new ones, and the activations `(S, m, 10)` on the way."""
        shape, update = block[0].shape, partial(sgd_update, self.network, self.learning_rate)
        if self._compiled is None:
            self._compiled = shape, compiled_sgd(update, block[0].device)
        compiled_shape, train = self._compiled
        if shape == compiled_shape:
            return train(parameters, block)
        return sgd_loop(update, parameters, block)

    def on_train_start(self) -> None:
        automatic, manual = self._steps()
        # A run that was begun on the eager engine has counted there.
        manual.total.ready = manual.total.completed = automatic.total.completed

    def training_step(self, batch: Block, batch_idx: int) -> None:  # type: ignore[override]
        images, labels = batch
        if images.dim() != 3:
            raise OptionError("CompiledDigitClassifier takes blocks: give DigitsDataModule a block_size")
        parameters = dict(self.network.named_parameters())
        updated, activations = self.train_block({name: value.detach() for name, value in parameters.items()}, batch)
        with torch.no_grad():
            for name, value in updated.items():
                parameters[name].copy_(value)
        self._outputs.append((activations.flatten(0, 1), labels.flatten()))
        for steps in self._steps():
            steps.total.increment_by(len(labels))

    def _steps(self) -> tuple[Any, Any]:
        """Lightning's counts of optimizer steps, for automatic and for manual optimization."""
        loop = self.trainer.fit_loop.epoch_loop
        return loop.automatic_optimization.optim_progress.optimizer.step, loop.manual_optimization.optim_step_progress
