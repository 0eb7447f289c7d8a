"""The compiled engine: the same network and rule as `DigitClassifier`, a block of updates at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchdigits.classifier import DigitClassifier
from torchdigits.engines.check import autograd_loop, check_updates
from torchdigits.engines.compiler import Block, CapturedBlock, NetworkUpdate, Train, sgd_loop
from torchdigits.engines.honoured import check_honours, check_optimizer
from torchdigits.engines.library import Building
from torchdigits.errors import OptionError, root_cause
from torchdigits.sgd import Parameters

_Kind = tuple[torch.Size, torch.dtype, torch.device]  # of a block: its images' shape and device, and the precision


class CompiledDigitClassifier(DigitClassifier):
    """A DigitClassifier that takes its updates a block at a time, in compiled code; all else is the same.

    A training batch is a block of S mini-batches (see `Blocks`): images `(S, m, 784)`, uint8, and labels `(S, m)`. The
    shape that comes first in an epoch is compiled, and checked against the uncompiled loop (`check_updates`); others
    are trained uncompiled. `Trainer.global_step` counts updates, and callbacks see it after a block.

    Raises:
        OptionError: as DigitClassifier; and in training, before the first update, for batches that are not blocks, for
            what this engine does not honour (see `check_honours`), or if the updates cannot be compiled or are wrong.
    """

    def __init__(self, sizes: Sequence[int] = (784, 30, 10), learning_rate: float = 3.0) -> None:
        super().__init__(sizes, learning_rate)
        self.automatic_optimization = False
        self._update = NetworkUpdate(self.network.sizes)
        self._compiled: tuple[_Kind, Train] | None = None
        self._held: tuple[Tensor, ...] = ()

    @torch.no_grad()
    def compile_for(self, block: Block, building: Building | None = None) -> None:
        """Compile the updates of blocks of this one's kind, and check them on it.

        Args:
            block: on the parameters' device.
            building: a library for it that was begun before.

        Raises:
            BuildError: it cannot be compiled.
            WrongUpdatesError: compiled, it does something else.
            Exception: what else keeps torch from compiling for a GPU.
        """
        parameters = self.detached_parameters()
        held = self._hold()
        train: Train
        if block[0].device.type == "cuda":
            train = CapturedBlock(self._update)
        else:
            building = building or Building(self._update, parameters, block, held, torch.get_num_threads())
            train = building.library()
        check_updates(train, autograd_loop(self.network), parameters, block, held)
        self._compiled, self._held = (self._kind_of(block), train), held

    @torch.no_grad()
    def train_block(self, parameters: Parameters, block: Block) -> tuple[Parameters, Tensor]:
        """The updates of a block, compiled if it is of the kind that was compiled.

        Returns:
            The new parameters, and the activations `(S, m, 10)` on the way.
        """
        if self._compiled is not None and self._compiled[0] == self._kind_of(block):
            self._held[0].fill_(self.learning_rate)  # which may have been set since
            return self._compiled[1](parameters, block, self._held)
        return sgd_loop(self._update, parameters, block, self._hold())

    def detached_parameters(self) -> Parameters:
        """The parameters by their names, without autograd."""
        return {name: value.detach() for name, value in self.network.named_parameters()}

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return state | {"_compiled": None}  # a loaded library cannot be copied

    def on_train_start(self) -> None:
        automatic, manual = self._steps()
        # A run that was begun on the eager engine has counted there.
        manual.total.ready = manual.total.completed = automatic.total.completed

    def training_step(self, batch: Block, batch_idx: int) -> None:  # type: ignore[override]
        images, labels = batch
        if images.shape != (*labels.shape, self.network.sizes[0]) or labels.dim() != 2 or images.dtype != torch.uint8:
            raise OptionError("CompiledDigitClassifier takes blocks of bytes: give DigitsDataModule a block_size")
        if batch_idx == 0:  # and not in on_fit_start, which a subclass may replace
            check_honours(self)
        check_optimizer(self)
        left = self.trainer.max_steps - self.trainer.global_step
        if self.trainer.max_steps > 0 and left < len(labels):
            images, labels = images[:left], labels[:left]
        elif batch_idx == 0:
            self._compile_first((images, labels))
        parameters = dict(self.network.named_parameters())
        updated, activations = self.train_block(self.detached_parameters(), (images, labels))
        with torch.no_grad():
            for name, value in updated.items():
                parameters[name].copy_(value)
        self._outputs.append((activations.flatten(0, 1), labels.flatten()))
        for steps in self._steps():
            steps.total.increment_by(len(labels))
        self.trainer.fit_loop.epoch_loop._batches_that_stepped += len(labels) - 1  # noqa: SLF001  # the loggers' step

    def _compile_first(self, block: Block) -> None:
        """Compile for an epoch's first block, unless that has been done."""
        if self._compiled is None or self._compiled[0] != self._kind_of(block):
            try:
                self.compile_for(block)
            except Exception as error:  # whatever it is, DigitClassifier can do without
                raise OptionError(f"CompiledDigitClassifier: {root_cause(error)}; use DigitClassifier") from error

    def _kind_of(self, block: Block) -> _Kind:
        return block[0].shape, next(self.network.parameters()).dtype, block[0].device

    def _hold(self) -> tuple[Tensor, ...]:
        parameter = next(self.network.parameters())
        return (torch.tensor(self.learning_rate, dtype=parameter.dtype, device=parameter.device),)

    def _steps(self) -> tuple[Any, Any]:
        """Lightning's counts of optimizer steps, for automatic and for manual optimization."""
        loop = self.trainer.fit_loop.epoch_loop
        return loop.automatic_optimization.optim_progress.optimizer.step, loop.manual_optimization.optim_step_progress
