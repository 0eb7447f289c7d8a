"""The compiled engine: the same network and rule as `DigitClassifier`, a block of updates at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchdigits.classifier import DigitClassifier
from torchdigits.engines.check import WrongUpdatesError, autograd_loop, check_updates
from torchdigits.engines.compiler import Block, CapturedBlock, NetworkUpdate, Train, sgd_loop
from torchdigits.engines.honoured import check_honours, check_optimizer
from torchdigits.engines.library import BuildError, Building
from torchdigits.errors import OptionError
from torchdigits.sgd import Parameters


class CompiledDigitClassifier(DigitClassifier):
    """A DigitClassifier that takes its updates a block at a time, in compiled code; all else is the same.

    A training batch is a block of S mini-batches (see `Blocks`): images `(S, m, 784)`, uint8, and labels `(S, m)`. The
    shape that comes first is compiled, and checked against the uncompiled loop (`check_updates`); others are trained
    uncompiled. `Trainer.global_step` counts updates, and callbacks see it after a block.

    Raises:
        OptionError: as DigitClassifier; and in training, before the first update, for batches that are not blocks, for
            what this engine does not honour (see `check_honours`), or if the updates cannot be compiled or are wrong.
    """

    def __init__(self, sizes: Sequence[int] = (784, 30, 10), learning_rate: float = 3.0) -> None:
        super().__init__(sizes, learning_rate)
        self.automatic_optimization = False
        self._update = NetworkUpdate(self.network.sizes)
        self._compiled: tuple[tuple[torch.Size, torch.dtype], Train] | None = None
        self._held: tuple[Tensor, ...] = ()

    @torch.no_grad()
    def compile_for(self, block: Block, building: Building | None = None) -> None:
        """Compile the updates of blocks of this one's shape, and check them on it.

        Args:
            block: on the parameters' device.
            building: a library for it that was begun before.

        Raises:
            BuildError: it cannot be compiled.
            WrongUpdatesError: compiled, it does something else.
            Exception: what else keeps torch from compiling for a GPU.
        """
        parameters = self.detached_parameters()
        value = next(iter(parameters.values()))
        self._held = (torch.tensor(self.learning_rate, dtype=value.dtype, device=value.device),)
        train: Train
        if value.device.type == "cuda":
            train = CapturedBlock(self._update)
        else:
            building = building or Building(self._update, parameters, block, self._held, torch.get_num_threads())
            train = building.library()
        check_updates(train, autograd_loop(self.network), parameters, block, self._held)
        self._compiled = (block[0].shape, value.dtype), train

    @torch.no_grad()
    def train_block(self, parameters: Parameters, block: Block) -> tuple[Parameters, Tensor]:
        """The updates of a block, from `parameters`: the new ones, and the activations `(S, m, 10)` on the way."""
        dtype = next(iter(parameters.values())).dtype
        if self._compiled is None or self._compiled[0][1] is not dtype:
            try:
                self.compile_for(block)
            except (BuildError, WrongUpdatesError) as error:
                raise OptionError(f"CompiledDigitClassifier: {error}; use DigitClassifier") from error
            assert self._compiled is not None
        self._held[0].fill_(self.learning_rate)  # which may have been set since
        compiled_for, train = self._compiled
        if (block[0].shape, dtype) == compiled_for:
            return train(parameters, block, self._held)
        return sgd_loop(self._update, parameters, block, self._held)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return state | {"_compiled": None}  # a loaded library cannot be copied

    def detached_parameters(self) -> Parameters:
        """The parameters by their names, without autograd."""
        return {name: value.detach() for name, value in self.network.named_parameters()}

    def on_fit_start(self) -> None:
        check_honours(self)

    def on_train_start(self) -> None:
        automatic, manual = self._steps()
        # A run that was begun on the eager engine has counted there.
        manual.total.ready = manual.total.completed = automatic.total.completed

    def on_train_epoch_start(self) -> None:
        check_optimizer(self)
        super().on_train_epoch_start()

    def training_step(self, batch: Block, batch_idx: int) -> None:  # type: ignore[override]
        images, labels = batch
        if images.dim() != 3 or images.dtype != torch.uint8:
            raise OptionError("CompiledDigitClassifier takes blocks of bytes: give DigitsDataModule a block_size")
        if self.trainer.max_steps > 0:  # the last block may be too long
            left = self.trainer.max_steps - self.trainer.global_step
            images, labels = images[:left], labels[:left]
        parameters = dict(self.network.named_parameters())
        updated, activations = self.train_block(self.detached_parameters(), (images, labels))
        with torch.no_grad():
            for name, value in updated.items():
                parameters[name].copy_(value)
        self._outputs.append((activations.flatten(0, 1), labels.flatten()))
        for steps in self._steps():
            steps.total.increment_by(len(labels))
        self.trainer.fit_loop.epoch_loop._batches_that_stepped += len(labels) - 1  # noqa: SLF001  # the loggers' step

    def _steps(self) -> tuple[Any, Any]:
        """Lightning's counts of optimizer steps, for automatic and for manual optimization."""
        loop = self.trainer.fit_loop.epoch_loop
        return loop.automatic_optimization.optim_progress.optimizer.step, loop.manual_optimization.optim_step_progress
