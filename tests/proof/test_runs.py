from itertools import count
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from conftest import Uncompiled, leave_uncompiled
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from torch import Tensor

from torchdigits import SigmoidMLP, load_network, quadratic_cost
from torchdigits.data.datasets import Digits, DigitSplits
from torchdigits.engines.compiler import Block, Held, Train
from torchdigits.engines.machine import find_machine
from torchdigits.proof import gradients
from torchdigits.proof.findings import Findings
from torchdigits.proof.free_run import Epoch, Growth, free_run, mirror_image
from torchdigits.proof.gradients import parameters_of
from torchdigits.proof.in_step import Progress, in_step
from torchdigits.proof.reference import Network
from torchdigits.proof.rounding import rounding_bounds
from torchdigits.proof.runs import Run
from torchdigits.sgd import Parameters
from torchdigits.training.options import TrainOptions
from torchdigits.training.run import train

ENGINES = pytest.mark.parametrize("engine", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
DEVICES = pytest.mark.parametrize("accelerator", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])


@pytest.fixture
def few(digits: DigitSplits) -> DigitSplits:
    """An epoch of 32 mini-batches, the last of which has 7 images."""
    images, labels = digits.training
    return digits._replace(training=Digits(images[:317], labels[:317]))


def run_of(splits: DigitSplits, **options: Any) -> Run:
    settings = {"sizes": (784, 30, 10), "batch_size": 10, "learning_rate": 3.0, "seed": 0, "engine": "eager"}
    settings |= {"precision": "64", "accelerator": "cpu"} | options
    machine = find_machine(str(settings.pop("accelerator")), precision=str(settings.pop("precision")))
    return Run(splits, machine=machine, **settings)  # type: ignore[arg-type]


def assert_together(epochs: list[Epoch], bound: float) -> None:
    for epoch in epochs:
        assert epoch.torch == epoch.reference
        assert epoch.differing == 0
        assert epoch.difference <= bound
        assert not epoch.broken


@pytest.mark.slow
@DEVICES
@pytest.mark.parametrize(("engine", "epochs"), [("eager", 5), ("compiled", 10)])
def test_epochs_of_the_embedded_digits_are_the_references(
    digits: DigitSplits, accelerator: str, engine: str, epochs: int
) -> None:
    found = free_run(run_of(digits, engine=engine, accelerator=accelerator), epochs)
    assert [epoch.epoch for epoch in found.epochs] == list(range(1, epochs + 1))
    assert found.growth.updates[-1] == epochs * 122
    assert_together(found.epochs, 1e-12)
    assert found.epochs[-1].torch > 220  # of 290: it did train


@pytest.mark.slow
@pytest.mark.parametrize(("learning_rate", "bound"), [(3.0, 1e-5), (1.0, 1e-12)])
def test_an_epoch_of_mnist_is_the_references(mnist: DigitSplits, learning_rate: float, bound: float) -> None:
    found = free_run(run_of(mnist, engine="compiled", learning_rate=learning_rate), 1)
    assert found.growth.updates[-1] == 5000
    assert found.epochs[-1].torch > 7900
    assert_together(found.epochs, bound)


@pytest.mark.slow
@DEVICES
@ENGINES
def test_updates_on_mnist_are_in_step(mnist: DigitSplits, accelerator: str, engine: str) -> None:
    findings = in_step(run_of(mnist, engine=engine, accelerator=accelerator), 300)
    assert findings.comparisons == 300
    names = ["W(1)", "b(1)", "W(2)", "b(2)"]
    assert list(findings.tensors) == ([f"dC/d{name}" for name in names] if engine == "eager" else []) + names
    assert max(finding.relative for finding in findings.tensors.values()) <= 1e-12
    assert not findings.broken
    assert all(findings.tensors[name].absolute > 0 for name in names)  # two programs, not one


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_fewer_bits_are_reported(few: DigitSplits, precision: str) -> None:
    findings = in_step(run_of(few, precision=precision), 32)
    assert not findings.broken
    # bfloat16 has 8 bits where float32 has 24, in all but the subtraction.
    assert (max(f.relative for f in findings.tensors.values()) > 1e-4) == (precision == "bf16")
    found = free_run(run_of(few, precision=precision), 1)
    assert found.epochs[0].allowed is None
    assert not found.epochs[0].broken
    assert 1e-8 < found.epochs[0].difference < (1e-3 if precision == "32" else 1)


def test_odd_sizes_stay_together_too(few: DigitSplits) -> None:
    run = run_of(few, sizes=(784, 13, 1, 17, 12), batch_size=7, learning_rate=0.5, seed=5)
    assert_together(free_run(run, 2).epochs, 1e-12)
    findings = in_step(run, 50)  # beyond an epoch, the last mini-batch of which has 2 images
    assert findings.comparisons == 50
    assert not findings.broken


def test_each_epoch_is_reported_as_it_ends(digits: DigitSplits) -> None:
    epochs: list[Epoch] = []
    found = free_run(run_of(digits), 2, epochs.append)
    assert epochs == found.epochs
    # Measured after the first update, then some fifty apart, and after each epoch.
    assert found.growth.updates == [1, 51, 101, 122, 172, 222, 244]
    assert len(found.growth.differences) == len(found.growth.mirrored) == 7
    for epoch, place in zip(epochs, (3, 6), strict=True):
        assert (epoch.difference, epoch.mirrored) == (found.growth.differences[place], found.growth.mirrored[place])

    progress: list[Progress] = []
    in_step(run_of(digits), 130, progress.append)
    assert [(step.updates, step.total) for step in progress] == [(122, 290), (130, 290)]
    assert progress[0].correct == epochs[0].torch


def test_the_run_is_the_one_of_train(digits: DigitSplits, tmp_path: Path) -> None:
    class Keep(L.Callback):
        def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            self.weights = [parameter.detach().clone() for parameter in pl_module.parameters()]

    keep = Keep()
    run_of(digits, seed=3).fit(keep, 1)
    options = TrainOptions(
        dataset="digits", epochs=1, seed=3, precision="64", accelerator="cpu", engine="eager", output=tmp_path
    )
    trained = load_network(train(options).folder / "last.ckpt")
    for ours, theirs in zip(keep.weights, trained.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def wrong_from_the_third(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Uncompiled):
        def library(self) -> Train:
            loop, calls = super().library(), count(1)

            def train(parameters: Parameters, block: Block, held: Held) -> tuple[Parameters, Tensor]:
                return loop(parameters, block, (held[0] * (1 + (1e-9 if next(calls) > 2 else 0)),))

            return train

    monkeypatch.setattr("torchdigits.engines.choice.Building", Wrong)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_a_gradient_that_is_wrong_in_the_ninth_digit_is_found(
    few: DigitSplits, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    def wrong_cost(activations: Tensor, targets: Tensor) -> Tensor:
        return quadratic_cost(activations, targets) * (1 + 1e-9)

    monkeypatch.setattr("torchdigits.classifier.quadratic_cost", wrong_cost)
    if engine == "compiled":  # wrong after it has been checked, by a block of one update, twice
        wrong_from_the_third(monkeypatch)
    findings = in_step(run_of(few, engine=engine), 10)
    assert [finding.name for finding in findings.broken] == list(findings.tensors)
    if engine == "eager":
        assert findings.tensors["dC/dW(1)"].relative == pytest.approx(1e-9, rel=1e-3)
        epoch = free_run(run_of(few), 1).epochs[0]
        assert "differs by" in epoch.broken
        assert epoch.torch == epoch.reference  # the counts alone would not have told


def test_another_answer_from_the_same_weights_is_found(few: DigitSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Run.answers

    def wrong(run: Run, module: L.LightningModule, trainer: L.Trainer) -> NDArray[np.int64]:
        answers = right(run, module, trainer)
        answers[7] = (answers[7] + 1) % 10
        return answers

    monkeypatch.setattr(Run, "answers", wrong)
    assert free_run(run_of(few), 1).epochs[0].broken == "different answers for 1 of 290 test images"


def test_what_is_wrong_is_found_before_chaos_hides_it(digits: DigitSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    # So that nothing is promised at the end of the epoch any more
    monkeypatch.setattr("torchdigits.proof.free_run.PARTED", 1e-15)
    assert not free_run(run_of(digits), 1).epochs[0].broken
    monkeypatch.setattr("torchdigits.classifier.quadratic_cost", lambda *batch: quadratic_cost(*batch) * 1.2)
    epoch = free_run(run_of(digits), 1).epochs[0]
    assert epoch.allowed is None
    assert "at update 1, 1.0e-12 allowed" in epoch.broken


@pytest.mark.parametrize(("batch_size", "updates"), [(1, 40), (4, 80), (5000, 2)])
def test_mini_batches_of_any_size_stay_together(few: DigitSplits, batch_size: int, updates: int) -> None:
    """Of 317 images: each by itself; a last mini-batch of one; all of them."""
    run = run_of(few, batch_size=batch_size, learning_rate=0.1)
    assert_together(free_run(run, 1).epochs, 1e-12)
    assert in_step(run, updates).broken == []


def test_gradients_that_vanish_in_float32_are_no_mistake(few: DigitSplits) -> None:
    run = run_of(few, sizes=(784, 1, 10), batch_size=3, learning_rate=100.0, precision="32")
    assert in_step(run, 100).broken == []


def test_what_rounding_allows_of_an_update_follows_from_its_gradients(
    few: DigitSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(few, learning_rate=0.7, seed=4)
    torch.manual_seed(4)
    twin = gradients.reference_of(SigmoidMLP().double())
    x, y = next(run.mini_batches())
    errors = rounding_bounds(twin, x, y, 2**-52, 2**-960)
    before = parameters_of(twin)
    twin.update_mini_batch(x, y, 0.7)
    after = parameters_of(twin)
    steps = {name: np.linalg.norm(before[name] - weights) / np.linalg.norm(weights) for name, weights in after.items()}
    monkeypatch.setitem(gradients.TOLERANCES, "64", 1e-6)  # which nothing exceeds
    found = in_step(run, 1).tensors
    assert {name: found[name].allowed for name in steps} == pytest.approx(
        {name: 2**-52 + 1e-6 * step for name, step in steps.items()}, rel=1e-9, abs=0
    )
    monkeypatch.setitem(gradients.TOLERANCES, "64", 1e-30)  # which everything exceeds
    for u in (2**-52, 0.0):  # and without what the subtraction rounds
        monkeypatch.setattr("torchdigits.proof.in_step.unit_roundoff", lambda _, u=u: u)
        findings = in_step(run, 1)
        for name, step in steps.items():
            slope = f"dC/d{name}"
            assert findings.tensors[slope].allowed == errors[slope]
            expected = u + 1e-30 * step if findings.tensors[name].relative <= u else u + errors[slope] * step
            assert findings.tensors[name].allowed == pytest.approx(expected, rel=1e-9, abs=0)
        assert all(not findings.tensors[f"dC/d{name}"].broken for name in after)


@pytest.mark.parametrize("largest", [3e-13, float("nan")])
def test_an_epoch_names_the_tensor_that_differs_most(
    few: DigitSplits, monkeypatch: pytest.MonkeyPatch, largest: float
) -> None:
    errors = {"W(1)": 1e-13, "b(1)": 0.0, "W(2)": largest, "b(2)": 2e-13}
    monkeypatch.setattr("torchdigits.proof.free_run.relative_errors", lambda *_: errors)
    epoch = free_run(run_of(few), 1).epochs[0]
    assert epoch.tensor == "W(2)"
    assert epoch.difference == pytest.approx(largest, nan_ok=True)


def test_each_update_of_a_compiled_run_is_compared(few: DigitSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncompiled here, which takes the same updates in the same blocks."""
    leave_uncompiled(monkeypatch)
    run = run_of(few, engine="compiled")
    findings = in_step(run, 40)
    assert findings.comparisons == 40
    assert list(findings.tensors) == ["W(1)", "b(1)", "W(2)", "b(2)"]
    assert findings.broken == []
    found = free_run(run, 2)
    assert found.growth.updates == [31, 32, 64]  # after blocks, some fifty updates apart, and after each epoch
    assert_together(found.epochs, 1e-12)


def test_a_lost_example_is_found(few: DigitSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchdigits.data.batches import MiniBatches

    whole = MiniBatches._order
    monkeypatch.setattr(MiniBatches, "_order", lambda self: whole(self)[:-1])
    assert free_run(run_of(few), 1).epochs[0].broken
    findings = in_step(run_of(few), 32)
    assert {finding.where for finding in findings.broken} == {32}  # the last, shorter mini-batch


def test_where_the_mirror_image_has_parted_nothing_is_promised(
    digits: DigitSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = free_run(run_of(digits), 1).epochs[0]
    assert epoch.allowed is not None
    assert 1e-12 <= epoch.allowed < 1e-10
    monkeypatch.setattr("torchdigits.proof.free_run.PARTED", 1e-15)
    assert free_run(run_of(digits), 1).epochs[0].allowed is None


@pytest.mark.parametrize(("parted", "allowed"), [(1e-8, pytest.approx(1e-5, rel=0.01)), (1e-2, None)])
def test_what_is_allowed_is_by_the_furthest_that_the_mirror_image_ever_was(
    digits: DigitSplits, monkeypatch: pytest.MonkeyPatch, parted: float, allowed: object
) -> None:
    """A mirror image that was so far from the reference after the first update, and near it again after the last."""
    images: list[Network] = []

    def mirror_image_once_parted(network: Network) -> Network:
        images.append(image := mirror_image(network))
        if len(images) == 2:  # the first is the one that is trained
            image.weights = [(1 + parted) * weights for weights in image.weights]
        return image

    monkeypatch.setattr("torchdigits.proof.free_run.mirror_image", mirror_image_once_parted)
    found = free_run(run_of(digits, sizes=(784, 10)), 1)
    assert found.growth.mirrored[0] > 1e4 * found.growth.mirrored[-1]
    assert found.epochs[0].allowed == allowed


def test_a_mirror_image_computes_the_same_and_rounds_otherwise() -> None:
    network = Network((784, 30, 20, 10), seed=1)
    image = mirror_image(network)
    x = np.random.default_rng(2).random((784, 50))
    outputs, mirrored = network.feedforward(x), image.feedforward(x[::-1])[::-1]
    np.testing.assert_allclose(mirrored, outputs, rtol=0, atol=1e-13)
    assert not np.array_equal(mirrored, outputs)
    for ours, theirs in zip(parameters_of(mirror_image(image)).values(), parameters_of(network).values(), strict=True):
        assert_array_equal(ours, theirs)


def test_the_doubling_is_that_of_the_exponential_part() -> None:
    def doubling(updates: list[int], differences: list[float]) -> float | None:
        return Growth(updates, differences, []).doubling

    updates = list(range(0, 20_000, 50))
    growing = [min(1e-16 * 2 ** (n / 150), 0.1) for n in updates]
    assert doubling(updates, growing) == pytest.approx(150)
    assert doubling(updates, [max(d, 5e-15) for d in growing]) == pytest.approx(150)  # until there, it is rounding
    assert doubling(updates, [3e-15] * len(updates)) is None
    assert doubling(updates, [1e-15 + 1e-18 * n for n in updates]) is None
    assert doubling(updates, [1.5e-14 + 3e-16 * n for n in updates]) is None  # a straight line is no doubling
    assert doubling([], []) is None
    plateau = [min(1e-16 * 2 ** (n / 150), 2e-3) for n in updates]
    assert doubling(updates, [2e-3 if d == 2e-3 else d for d in plateau][:300] + [5e-4] * 100) == pytest.approx(150)


def test_findings_keep_the_worst_of_each_tensor() -> None:
    findings = Findings(1e-12)
    findings.add([("W", 1.0, 1e-13, 3.0), ("b", 1.0, 5e-13, 1.0)], dict)  # type: ignore[list-item]
    findings.add([("W", 0.5, 9e-13, 4.0), ("b", 2.0, 4e-13, 0.5)], dict)  # type: ignore[list-item]
    worst, other = findings.tensors.values()
    assert (worst.absolute, worst.relative, worst.ulps, worst.where) == (1.0, 9e-13, 4.0, 2)
    assert (other.absolute, other.relative, other.ulps, other.where) == (2.0, 5e-13, 1.0, 1)
    assert findings.worst is worst
    assert findings.broken == []
    # More than the tolerance is judged by what rounding allows there.
    findings.add([("W", 1.0, 5e-12, 1.0), ("b", 1.0, 5e-12, 1.0)], lambda: {"W": 1e-11, "b": 2e-12})  # type: ignore[list-item]
    assert [(finding.name, finding.allowed, finding.where) for finding in findings.broken] == [("b", 2e-12, 3)]
    findings.add([("W", np.nan, np.nan, np.nan)], dict)  # type: ignore[list-item]
    findings.add([("W", 1.0, 1e-13, 1.0)], dict)  # type: ignore[list-item]
    assert [finding.name for finding in findings.broken] == ["W", "b"]
    assert np.isnan(findings.tensors["W"].absolute)
