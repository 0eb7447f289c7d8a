"""Which engine trains a run, and why."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from torchdigits.data.batches import Blocks
from torchdigits.engines.check import WrongUpdatesError, autograd_loop, check_updates
from torchdigits.engines.compiler import NetworkUpdate, Train
from torchdigits.engines.library import BuildError, Building
from torchdigits.engines.machine import PRECISIONS
from torchdigits.errors import OptionError, root_cause
from torchdigits.network import SigmoidMLP, count_parameters

if TYPE_CHECKING:
    from torchdigits.classifier import DigitClassifier
    from torchdigits.data.datasets import Digits
    from torchdigits.engines.machine import Machine

# Updates of a run from which on compiling pays: it takes 10 s at most, and an update of the eager engine 1 ms.
UPDATES_WORTH_COMPILING = 10_000
# Mini-batches in a compiled block. MNIST has 5,000 in an epoch: blocks of 500 are no faster, and before the first
# update a block is trained uncompiled too, as a check.
BLOCK_SIZE = 250
_PRODUCTS_A_SECOND = 8 * 10**9  # of a core: an update of the original's network takes 25 to 35 us


@dataclass(frozen=True)
class Engine:
    """The engine that trains a run.

    Attributes:
        name: `eager` or `compiled`.
        why: why this one, or how long compiling took; may be empty.
        block_size: what `DigitsDataModule` is to be given for it.
    """

    name: str
    why: str = ""
    block_size: int | None = None

    def __str__(self) -> str:
        return f"{self.name}, {self.why}" if self.why else self.name


def worth_compiling(updates: int) -> bool:
    """Whether a run of so many updates is long enough for compiling to pay."""
    return updates >= UPDATES_WORTH_COMPILING


def too_few(updates: int) -> str:
    """The words for updates that are not worth compiling."""
    return f"as {updates:,} updates are too few to be worth compiling"


def products_of(sizes: Sequence[int], batch_size: int) -> int:
    """Multiplications of a mini-batch with all weights and biases of a network."""
    return batch_size * count_parameters(sizes)


class EngineChoice:
    """Which engine will train a run. If it is the compiled one, a process begins to compile at once.

    Args:
        wanted: `eager`, `compiled`, or `auto`.
        sizes: neurons in each layer, the inputs first.
        training: the examples.
        batch_size, epochs, seed: of the run.
        machine: where it trains.
        threads: of the CPU.
        block_size: mini-batches in a compiled block, at most. Default: BLOCK_SIZE, or fewer where that would take more
            than a second, as Ctrl-C is heard between blocks.

    Raises:
        OptionError: the compiled engine was asked for, and cannot be had.
    """

    def __init__(
        self,
        wanted: str,
        sizes: Sequence[int],
        training: "Digits",
        batch_size: int,
        epochs: int,
        seed: int,
        machine: "Machine",
        threads: int,
        block_size: int | None = None,
    ) -> None:
        self.wanted, self.machine = wanted, machine
        self._building: Building | None = None
        self._obstacle, self._engine = machine.obstacle_to_compiling, Engine("eager")
        updates = epochs * -(-len(training.labels) // batch_size)
        if wanted == "auto" and not self._obstacle and not worth_compiling(updates):
            self._engine = Engine("eager", too_few(updates))
        elif wanted != "eager" and self._obstacle:
            self._engine = self._instead(self._obstacle)
        elif wanted != "eager":
            size = block_size or min(BLOCK_SIZE, max(1, _PRODUCTS_A_SECOND // products_of(sizes, batch_size)))
            self._engine = Engine("compiled", "", size)
            self._blocks = Blocks(training, batch_size, seed, machine.device, size)
            if machine.device.type == "cpu":
                self._begin(tuple(sizes), threads)

    def _begin(self, sizes: tuple[int, ...], threads: int) -> None:
        dtype = PRECISIONS[self.machine.precision].dtype
        update = NetworkUpdate(sizes)
        held = (torch.empty((), dtype=dtype),)
        try:
            self._building = Building(update, update.parameters(dtype), self._blocks.first(), held, threads)
        except BuildError as error:
            self._engine = self._instead(f"torch could not compile: {error}")

    @property
    def block_size(self) -> int | None:
        """Mini-batches in a compiled block, at most; None for the eager engine."""
        return self._engine.block_size

    def apply(self, classifier: "DigitClassifier") -> "tuple[DigitClassifier, Engine]":
        """The classifier on the engine, compiled and checked; and which engine it is, and why.

        Args:
            classifier: on the eager engine.

        Raises:
            OptionError: the compiled engine was asked for, and cannot be had.
        """
        if self._engine.name == "eager":
            return classifier, self._engine
        from torchdigits.engines.compiled import CompiledDigitClassifier

        compiled = CompiledDigitClassifier(classifier.network.sizes, classifier.learning_rate)
        compiled.load_state_dict(classifier.state_dict())
        compiled.to(self.machine.device, PRECISIONS[self.machine.precision].dtype)
        engine = self._compiled(lambda: compiled.compile_for(self._blocks.first(), self._building))
        return (classifier if engine.name == "eager" else compiled), engine

    @torch.no_grad()
    def updates(self, network: SigmoidMLP) -> tuple[Train, Engine]:
        """The updates of a block on a CPU, for those who train without Lightning; compiled and checked, or eager.

        Compiled, they take blocks of one shape only.

        Args:
            network: on the CPU, with the first weights.

        Raises:
            OptionError: the compiled engine was asked for, and cannot be had.
        """
        eager, compiled = autograd_loop(network), []
        parameters = {name: value.detach() for name, value in network.named_parameters()}
        held = (torch.ones((), dtype=next(network.parameters()).dtype),)

        def compile_here() -> None:
            assert self._building is not None
            compiled.append(self._building.library())
            check_updates(compiled[0], eager, parameters, self._blocks.first(), held)

        engine = self._engine if self._engine.name == "eager" else self._compiled(compile_here)
        return (eager if engine.name == "eager" else compiled[0]), engine

    def _compiled(self, compile_here: Callable[[], None]) -> Engine:
        """The engine, once that is done: the compiled one, or the eager one if it fails."""
        start, building = time.perf_counter(), self._building
        try:
            compile_here()
        except WrongUpdatesError as error:
            return self._instead(f"compiled for this machine, it is wrong: {error}")
        except Exception as error:  # whatever it is, the eager engine can do without
            return self._instead(f"torch could not compile: {root_cause(error)}")
        finally:
            self.close()
        why = "from the cache"
        if building is None or not building.kept:
            why = f"in {time.perf_counter() - start if building is None else building.seconds:.1f} s"
            if building is not None and building.problem:
                why += f"; it could not be kept for the next time: {building.problem}"
        return replace(self._engine, why=why)

    def close(self) -> None:
        """End the process that compiles, if it still does."""
        if self._building is not None:
            self._building.stop()

    def _instead(self, obstacle: str) -> Engine:
        if self.wanted == "compiled":
            raise OptionError(f"--engine compiled: {obstacle}; use --engine eager")
        return Engine("eager", f"not compiled: {obstacle}")
