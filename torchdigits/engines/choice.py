"""Which engine trains a run, and why."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchdigits.errors import OptionError, root_cause

if TYPE_CHECKING:
    from torch import nn

    from torchdigits.classifier import DigitClassifier
    from torchdigits.data.datasets import Digits
    from torchdigits.engines.compiled import CompiledDigitClassifier
    from torchdigits.engines.machine import Machine

# Updates of a run from which on compiling pays: it takes 3 to 12 s, and an update of the eager engine 1 ms.
UPDATES_WORTH_COMPILING = 10_000
# Mini-batches in a compiled block. MNIST has 5,000 in an epoch: blocks of 250 took 3 % longer, and of 2,500 13 %.
BLOCK_SIZE = 500
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


def products_of(network: "nn.Module", batch_size: int) -> int:
    """Multiplications of a mini-batch with all weights."""
    return batch_size * sum(parameter.numel() for parameter in network.parameters())


def choose_engine(
    wanted: str,
    classifier: "DigitClassifier",
    training: "Digits",
    batch_size: int,
    epochs: int,
    machine: "Machine",
    block_size: int | None = None,
) -> "tuple[DigitClassifier, Engine]":
    """The classifier on the engine that was asked for, already compiled, or on the one that suits; and which, and why.

    Args:
        wanted: `eager`, `compiled`, or `auto`.
        classifier: on the eager engine.
        training: the examples.
        batch_size, epochs: of the run.
        machine: where it trains.
        block_size: mini-batches in a compiled block, at most. Default: BLOCK_SIZE, or fewer where that would take more
            than a second, as Ctrl-C is heard between blocks.

    Raises:
        OptionError: the compiled engine was asked for, and cannot be had.
    """
    updates, obstacle = epochs * -(-len(training.labels) // batch_size), machine.obstacle_to_compiling
    if wanted == "auto" and not obstacle and not worth_compiling(updates):
        return classifier, Engine("eager", too_few(updates))
    if wanted == "eager":
        return classifier, Engine("eager")
    if not obstacle:
        start = time.perf_counter()
        size = block_size or min(BLOCK_SIZE, max(1, _PRODUCTS_A_SECOND // products_of(classifier, batch_size)))
        try:
            compiled = _compiled(classifier, training, batch_size, machine, size)
        except Exception as error:  # whatever it is, the eager engine can do without
            obstacle = f"torch could not compile: {root_cause(error)}"
        else:
            return compiled, Engine("compiled", f"in {time.perf_counter() - start:.1f} s", size)
    if wanted == "compiled":
        raise OptionError(f"--engine compiled: {obstacle}; use --engine eager")
    return classifier, Engine("eager", f"not compiled: {obstacle}")


def _compiled(
    classifier: "DigitClassifier", training: "Digits", batch_size: int, machine: "Machine", block_size: int
) -> "CompiledDigitClassifier":
    """The same network on the compiled engine, after its compilation on the machine's device."""

    from torchdigits.data.batches import Blocks
    from torchdigits.engines.compiled import CompiledDigitClassifier

    compiled = CompiledDigitClassifier(classifier.network.sizes, classifier.learning_rate)
    compiled.load_state_dict(classifier.state_dict())
    compiled.to(machine.device)
    block = next(iter(Blocks(training, batch_size, None, machine.device, block_size)))
    parameters = {name: parameter.detach() for name, parameter in compiled.network.named_parameters()}
    compiled.train_block(parameters, block)
    return compiled
