"""Which engine trains a run, and what is said of it."""

import re
from typing import Any

import pytest
import torch
from conftest import Uncompiled, leave_uncompiled

from torchdigits import CompiledDigitClassifier, DigitClassifier
from torchdigits.data.batches import Blocks
from torchdigits.data.datasets import DigitSplits
from torchdigits.engines import choice, compiler
from torchdigits.engines.choice import BLOCK_SIZE, Engine, EngineChoice, products_of, worth_compiling
from torchdigits.engines.library import BuildError
from torchdigits.engines.machine import Machine
from torchdigits.errors import OptionError

CPU = Machine("cpu", 1, "32")


@pytest.fixture
def not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled."""
    leave_uncompiled(monkeypatch)


def choose(
    digits: DigitSplits, wanted: str, *, hidden: int = 12, batch_size: int = 10, epochs: int = 1, **more: Any
) -> EngineChoice:
    run: dict[str, Any] = {"batch_size": batch_size, "epochs": epochs, "seed": 5, "machine": CPU, "threads": 1}
    return EngineChoice(wanted, (784, hidden, 10), digits.training, **(run | more))


def test_compiling_pays_from_10_000_updates_on() -> None:
    assert worth_compiling(10_000)
    assert not worth_compiling(9_999)


def test_a_mini_batchs_products_are_those_of_its_examples_with_all_parameters() -> None:
    assert products_of((784, 30, 10), 10) == 10 * (784 * 30 + 30 + 30 * 10 + 10)


# Mini-batches of all 1,217, so that an epoch is an update; in the last case, there is a last shorter one too.
@pytest.mark.usefixtures("not_compiled")
@pytest.mark.parametrize(
    ("batch_size", "epochs", "engine"),
    [
        (1217, 9_999, Engine("eager", "as 9,999 updates are too few to be worth compiling")),
        (1217, 10_000, Engine("compiled", "in 3.1 s", 250)),
        (1216, 5_000, Engine("compiled", "in 3.1 s", 250)),
    ],
)
def test_auto_compiles_from_10_000_updates_on(
    batch_size: int, epochs: int, engine: Engine, digits: DigitSplits
) -> None:
    classifier = DigitClassifier((784, 12, 10))
    chosen, found = choose(digits, "auto", batch_size=batch_size, epochs=epochs).apply(classifier)
    assert found == engine
    assert isinstance(chosen, CompiledDigitClassifier) == (engine.name == "compiled")


@pytest.mark.usefixtures("not_compiled")
def test_who_wants_an_engine_gets_it(digits: DigitSplits) -> None:
    classifier = DigitClassifier((784, 12, 10))
    assert choose(digits, "eager", epochs=10**6).apply(classifier) == (classifier, Engine("eager"))
    _, engine = choose(digits, "compiled").apply(classifier)
    assert engine.name == "compiled"


@pytest.mark.usefixtures("not_compiled")
@pytest.mark.parametrize(
    ("hidden", "batch_size", "wanted", "size"),
    [
        (30, 10, None, BLOCK_SIZE),
        (30, 10, 7, 7),
        # A block of more than a second, at 8 billion products: 1,000 hidden neurons in mini-batches of 100 have
        # 79,601,000 of them.
        (1000, 100, None, 8 * 10**9 // (100 * (785 * 1000 + 1001 * 10))),
        (1000, 1217, None, 8),
        (30_000, 1217, None, 1),
    ],
)
def test_a_block_takes_no_more_than_a_second(
    hidden: int, batch_size: int, wanted: int | None, size: int, digits: DigitSplits
) -> None:
    choice = choose(digits, "compiled", hidden=hidden, batch_size=batch_size, block_size=wanted)
    assert choice._engine.block_size == size
    assert choice._blocks.block_size == size


def test_what_cannot_be_compiled_is_trained_eagerly_or_refused(digits: DigitSplits) -> None:
    mixed, classifier = Machine("cpu", 1, "bf16"), DigitClassifier((784, 12, 10))
    chosen = choose(digits, "auto", machine=mixed).apply(classifier)
    assert chosen == (classifier, Engine("eager", "not compiled: it takes 32 or 64 bits"))
    with pytest.raises(OptionError) as caught:
        choose(digits, "compiled", machine=mixed)
    assert str(caught.value) == "--engine compiled: it takes 32 or 64 bits; use --engine eager"


@pytest.mark.parametrize("late", [False, True])
def test_what_torch_could_not_compile_is_said_by_its_cause(
    late: bool, digits: DigitSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Uncompiled):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            if not late:
                self.library()

        def library(self) -> compiler.Train:
            raise BuildError("No space left on device")

    monkeypatch.setattr(choice, "Building", Failing)
    classifier = DigitClassifier((784, 12, 10))
    chosen, engine = choose(digits, "auto", epochs=1000).apply(classifier)
    assert chosen is classifier
    assert str(engine) == "eager, not compiled: torch could not compile: No space left on device"
    with pytest.raises(OptionError, match=r"^--engine compiled: torch could not compile: No .*; use --engine eager$"):
        choose(digits, "compiled").apply(classifier)


def test_updates_that_are_wrong_are_not_trusted(digits: DigitSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Uncompiled):
        def library(self) -> compiler.Train:
            loop = super().library()
            return lambda parameters, block, held: loop(parameters, block, (held[0] * 1.01,))

    monkeypatch.setattr(choice, "Building", Wrong)
    classifier = DigitClassifier((784, 12, 10))
    chosen, engine = choose(digits, "auto", epochs=1000).apply(classifier)
    assert chosen is classifier
    assert re.match(
        "eager, not compiled: compiled for this machine, it is wrong: the activations before update 2 of 121 differ"
        r" from those of the uncompiled loop by \d\.\de-\d\d; rounding explains \d\.\de-\d\d$",
        str(engine),
    )
    with pytest.raises(OptionError, match=r"^--engine compiled: compiled for this machine, it is wrong: .* eager$"):
        choose(digits, "compiled").apply(classifier)


def test_the_compiled_engine_begins_with_the_same_network_after_a_block_thrown_away(
    digits: DigitSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = []

    class Recorded(Uncompiled):
        def library(self) -> compiler.Train:
            loop = super().library()

            def train(*arguments: Any) -> Any:
                blocks.append(arguments[1])
                return loop(*arguments)

            return train

    monkeypatch.setattr(choice, "Building", Recorded)
    torch.manual_seed(4)
    classifier = DigitClassifier((784, 12, 10), 0.5)
    machine = Machine("cpu", 1, "64")
    with machine.settings(0):
        compiled, engine = choose(digits, "compiled", machine=machine).apply(classifier)
    assert isinstance(compiled, CompiledDigitClassifier)
    assert (compiled.network.sizes, compiled.learning_rate, engine.block_size) == ((784, 12, 10), 0.5, 250)
    for ours, theirs in zip(compiled.parameters(), classifier.parameters(), strict=True):
        assert ours.dtype == torch.float64
        assert torch.equal(ours, theirs.double())
    # The run's own first mini-batches
    expected = next(iter(Blocks(digits.training, 10, 5, "cpu", 250)))
    for images, labels in blocks:
        assert torch.equal(images, expected[0])
        assert torch.equal(labels, expected[1])


def test_what_cannot_be_kept_is_told(digits: DigitSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_uncompiled(monkeypatch)
    monkeypatch.setattr(Uncompiled, "problem", "/home/me/.cache: Read-only file system")
    _, engine = choose(digits, "compiled").apply(DigitClassifier((784, 12, 10)))
    assert engine.why == "in 3.1 s; it could not be kept for the next time: /home/me/.cache: Read-only file system"


def test_an_engine_is_a_word_or_two() -> None:
    assert str(Engine("eager")) == "eager"
    assert str(Engine("compiled", "in 3.1 s", 500)) == "compiled, in 3.1 s"
