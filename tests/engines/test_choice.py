"""Which engine trains a run, and what is said of it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from torchdigits import CompiledDigitClassifier, DigitClassifier
from torchdigits.data.batches import Blocks
from torchdigits.data.datasets import DigitSplits
from torchdigits.engines import choice, compiler
from torchdigits.engines.choice import BLOCK_SIZE, Engine, choose_engine, products_of, worth_compiling
from torchdigits.engines.machine import Machine
from torchdigits.errors import OptionError

CPU = Machine("cpu", 1, "32")


@pytest.fixture
def not_compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Nothing is compiled; what would have been."""
    asked: list[tuple[Any, ...]] = []

    def compiled(classifier: DigitClassifier, *rest: Any) -> DigitClassifier:
        asked.append(rest)
        return classifier

    monkeypatch.setattr(choice, "_compiled", compiled)
    clock = iter([100.0, 103.14])
    monkeypatch.setattr("torchdigits.engines.choice.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    return asked


def test_compiling_pays_from_10_000_updates_on() -> None:
    assert worth_compiling(10_000)
    assert not worth_compiling(9_999)


def test_a_mini_batchs_products_are_those_of_its_examples_with_all_parameters() -> None:
    assert products_of(DigitClassifier((784, 30, 10)), 10) == 10 * (784 * 30 + 30 + 30 * 10 + 10)


@pytest.mark.parametrize(
    ("updates", "engine"),
    [
        (9_999, Engine("eager", "as 9,999 updates are too few to be worth compiling")),
        (10_000, Engine("compiled", "in 3.1 s", 500)),
    ],
)
def test_auto_compiles_from_10_000_updates_on(
    updates: int, engine: Engine, digits: DigitSplits, not_compiled: list[tuple[Any, ...]]
) -> None:
    # Mini-batches of all 1,217, so that an epoch is an update
    classifier = DigitClassifier((784, 10))
    assert choose_engine("auto", classifier, digits.training, 1217, updates, CPU) == (classifier, engine)
    assert len(not_compiled) == (engine.name == "compiled")


def test_a_last_shorter_mini_batch_is_an_update_too(digits: DigitSplits, not_compiled: list[tuple[Any, ...]]) -> None:
    classifier = DigitClassifier((784, 10))
    _, engine = choose_engine("auto", classifier, digits.training, 1216, 5000, CPU)
    assert engine.name == "compiled"


def test_who_wants_an_engine_gets_it(digits: DigitSplits, not_compiled: list[tuple[Any, ...]]) -> None:
    classifier = DigitClassifier((784, 10))
    assert choose_engine("eager", classifier, digits.training, 10, 10**6, CPU) == (classifier, Engine("eager"))
    _, engine = choose_engine("compiled", classifier, digits.training, 10, 1, CPU)
    assert engine.name == "compiled"
    assert not_compiled == [(digits.training, 10, CPU, 500)]


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
    hidden: int,
    batch_size: int,
    wanted: int | None,
    size: int,
    digits: DigitSplits,
    not_compiled: list[tuple[Any, ...]],
) -> None:
    classifier = DigitClassifier((784, hidden, 10))
    _, engine = choose_engine("compiled", classifier, digits.training, batch_size, 1, CPU, wanted)
    assert engine.block_size == size
    assert not_compiled[0][-1] == size


def test_what_cannot_be_compiled_is_trained_eagerly_or_refused(digits: DigitSplits) -> None:
    mixed, classifier = Machine("cpu", 1, "bf16"), DigitClassifier((784, 10))
    chosen = choose_engine("auto", classifier, digits.training, 10, 1, mixed)
    assert chosen == (classifier, Engine("eager", "not compiled: it takes 32 or 64 bits"))
    with pytest.raises(OptionError) as caught:
        choose_engine("compiled", classifier, digits.training, 10, 1, mixed)
    assert str(caught.value) == "--engine compiled: it takes 32 or 64 bits; use --engine eager"


def test_what_torch_could_not_compile_is_said_by_its_cause(
    digits: DigitSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a page of text") from OSError("No space left on device")

    monkeypatch.setattr(choice, "_compiled", fail)
    classifier = DigitClassifier((784, 10))
    _, engine = choose_engine("auto", classifier, digits.training, 10, 1000, CPU)
    assert str(engine).startswith("eager, not compiled: torch could not compile: ")
    assert "No space left on device" in engine.why
    with pytest.raises(OptionError, match=r"^--engine compiled: torch could not compile: .*; use --engine eager$"):
        choose_engine("compiled", classifier, digits.training, 10, 1, CPU)


def test_the_compiled_engine_begins_with_the_same_network_after_a_block_thrown_away(
    digits: DigitSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = []

    def compiled_sgd(update: compiler.Update, device: torch.device) -> compiler.Train:
        def train(*arguments: Any) -> Any:
            blocks.append(arguments[1])
            return compiler.sgd_loop(update, *arguments)

        return train

    monkeypatch.setattr("torchdigits.engines.compiled.compiled_sgd", compiled_sgd)
    torch.manual_seed(4)
    classifier = DigitClassifier((784, 12, 10), 0.5)
    machine = Machine("cpu", 1, "64")
    with machine.settings(0):
        compiled, engine = choose_engine("compiled", classifier, digits.training, 10, 1, machine)
    assert isinstance(compiled, CompiledDigitClassifier)
    assert (compiled.network.sizes, compiled.learning_rate, engine.block_size) == ((784, 12, 10), 0.5, 500)
    for ours, theirs in zip(compiled.parameters(), classifier.parameters(), strict=True):
        assert ours.dtype == torch.float64
        assert torch.equal(ours, theirs.double())
    ((images, labels),) = blocks
    expected = next(iter(Blocks(digits.training, 10, None, "cpu", 500)))
    assert torch.equal(images, expected[0])
    assert torch.equal(labels, expected[1])


def test_an_engine_is_a_word_or_two() -> None:
    assert str(Engine("eager")) == "eager"
    assert str(Engine("compiled", "in 3.1 s", 500)) == "compiled, in 3.1 s"
