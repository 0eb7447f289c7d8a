"""Autograd against back-propagation by hand, and both against finite differences."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, TensorDataset

from torchdigits import DigitClassifier, SigmoidMLP, quadratic_cost
from torchdigits.data.datasets import DigitSplits
from torchdigits.engines.machine import PRECISIONS, Machine
from torchdigits.proof import gradients
from torchdigits.proof.findings import Findings
from torchdigits.proof.gradients import (
    check_gradients,
    compare,
    deviation,
    multiplying_in,
    reference_of,
    relative_error,
    relative_errors,
)
from torchdigits.proof.rounding import rounding_bounds

# Relative errors: the norm of the difference over the norm of the reference, per tensor.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
PRECISION = {torch.float64: PRECISIONS["64"], torch.float32: PRECISIONS["32"]}
NAMES_OF_784_30_10 = ["z(1)", "a(1)", "z(2)", "a(2)", "cost", "dC/dW(1)", "dC/db(1)", "dC/dW(2)", "dC/db(2)"]
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE)


DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def mini_batch(mnist: DigitSplits, number: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    part = slice(10 * number, 10 * number + 10)
    return mnist.training.images[part].to(dtype) / 255, one_hot(mnist.training.labels[part], 10).to(dtype)


def random_case(sizes: list[int], m: int, seed: int, dtype: torch.dtype) -> tuple[SigmoidMLP, Tensor, Tensor]:
    """A network whose weighted inputs are of the order of 1, and a mini-batch for it."""
    torch.manual_seed(seed)
    network = SigmoidMLP(sizes)
    with torch.no_grad():
        for weight in list(network.parameters())[::2]:
            weight.div_(weight.shape[1] ** 0.5)
    images, labels = torch.rand(m, sizes[0], dtype=dtype), torch.randint(sizes[-1], (m,))
    return network.to(dtype), images, one_hot(labels, sizes[-1]).to(dtype)


def bounds_for(network: SigmoidMLP, images: Tensor, targets: Tensor) -> dict[str, float]:
    """What rounding alone can make of the comparison: torch's, in its precision, and the reference's, in float64."""
    x, y = images.double().numpy().T, targets.double().numpy().T
    precision = PRECISION[images.dtype]
    return rounding_bounds(reference_of(network), x, y, precision.eps, precision.tiny)


@DEVICES
@DTYPES
def test_everything_agrees_on_mnist(mnist: DigitSplits, device: str, dtype: torch.dtype) -> None:
    for number in range(20):
        torch.manual_seed(number)
        images, targets = mini_batch(mnist, number, dtype)
        deviations = compare(SigmoidMLP().to(device, dtype), images.to(device), targets.to(device), PRECISION[dtype])
        assert [deviation.name for deviation in deviations] == NAMES_OF_784_30_10
        for name, _, relative, _ in deviations:
            assert relative <= TOLERANCE[dtype], (number, name)


@DEVICES
@DTYPES
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    m=st.integers(1, 32),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=150)
def test_everything_agrees_whatever_the_network(
    device: str, dtype: torch.dtype, sizes: list[int], m: int, seed: int
) -> None:
    network, images, targets = random_case(sizes, m, seed, dtype)
    # In some networks, most of them with a layer of one neuron, a tensor is a sum that cancels. Rounding then carries
    # two right programs further apart than the tolerance, by no more than the bound that follows from the conditioning.
    bounds = bounds_for(network, images, targets)
    for name, _, relative, _ in compare(network.to(device), images.to(device), targets.to(device), PRECISION[dtype]):
        assert relative <= max(TOLERANCE[dtype], bounds[name]), name


@DTYPES
@pytest.mark.parametrize("seed", range(10))
def test_saturated_neurons_agree_as_far_as_cancellation_allows(dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    network = SigmoidMLP([20, 15, 10]).to(dtype)
    images, targets = torch.rand(8, 20, dtype=dtype), torch.eye(10, dtype=dtype)[:8]
    with torch.no_grad():
        parameters = list(network.parameters())
        for layer in range(2):  # scaled, so that the largest |z| of each layer is 40
            scale = 40 / network.forward_pass(images)[0][layer].abs().max()
            for parameter in parameters[2 * layer : 2 * layer + 2]:
                parameter.mul_(scale)
        assert [z.abs().max().item() for z in network.forward_pass(images)[0]] == pytest.approx([40, 40], rel=1e-5)
    # sigmoid' = a (1 - a) of a saturated neuron has lost the digits of 1 - a; everything before it keeps the tolerance.
    bounds = bounds_for(network, images, targets)
    for name, _, relative, _ in compare(network, images, targets, PRECISION[dtype]):
        assert relative <= (bounds[name] if name.startswith("dC") else TOLERANCE[dtype]), name


@DTYPES
def test_one_update_through_lightning_agrees(mnist: DigitSplits, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    classifier = DigitClassifier(learning_rate=3.0)
    twin = reference_of(classifier.network)
    images, targets = mini_batch(mnist, 0, torch.float32)
    loader = DataLoader(TensorDataset(images, targets.argmax(1)), batch_size=10)
    trainer = L.Trainer(
        max_steps=1,
        accelerator="cpu",
        precision="64-true" if dtype == torch.float64 else "32-true",
        barebones=True,
    )
    trainer.fit(classifier, loader)
    twin.update_mini_batch(images.double().numpy().T, targets.double().numpy().T, eta=3.0)
    parameters = list(classifier.network.parameters())
    assert parameters[0].dtype == dtype
    for layer in range(2):
        weight, bias = (tensor.detach().numpy() for tensor in parameters[2 * layer : 2 * layer + 2])
        assert relative_error(weight, twin.weights[layer]) <= TOLERANCE[dtype]
        assert relative_error(bias, twin.biases[layer][:, 0]) <= TOLERANCE[dtype]


def central_differences(cost: Callable[[], float], array: np.ndarray) -> np.ndarray:
    """`(C(w + h) - C(w - h)) / 2h` for every w of an array."""
    slopes, h = np.empty(array.shape), 1e-5
    for place in np.ndindex(array.shape):
        value = array[place]
        array[place] = value + h
        above = cost()
        array[place] = value - h
        slopes[place] = (above - cost()) / (2 * h)
        array[place] = value
    return slopes


def assert_agrees_with_differences(gradient: np.ndarray, slopes: np.ndarray) -> None:
    # With h = 1e-5 the formula is off by some h^2 = 1e-10 of a third derivative, rounding by some 1e-16 / h = 1e-11.
    np.testing.assert_allclose(gradient, slopes, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("sizes", [[3, 2], [6, 5, 4, 3], [4, 1, 5, 2, 3]])
def test_both_agree_with_finite_differences(sizes: list[int]) -> None:
    network, images, targets = random_case(sizes, 5, 0, torch.float64)
    autograd = torch.autograd.grad(quadratic_cost(network(images), targets), list(network.parameters()))
    twin, x, y = reference_of(network), images.numpy().T, targets.numpy().T
    nabla_w, nabla_b = twin.backprop(x, y)
    for layer in range(len(sizes) - 1):
        slopes_w = central_differences(lambda: twin.cost(x, y), twin.weights[layer])
        assert_agrees_with_differences(nabla_w[layer] / 5, slopes_w)
        assert_agrees_with_differences(autograd[2 * layer].numpy(), slopes_w)
        slopes_b = central_differences(lambda: twin.cost(x, y), twin.biases[layer])
        assert_agrees_with_differences(nabla_b[layer] / 5, slopes_b)
        assert_agrees_with_differences(autograd[2 * layer + 1].numpy()[:, None], slopes_b)


def test_both_agree_with_finite_differences_on_mnist(mnist: DigitSplits) -> None:
    torch.manual_seed(0)
    network = SigmoidMLP().double()
    images, targets = mini_batch(mnist, 0, torch.float64)
    autograd = torch.autograd.grad(quadratic_cost(network(images), targets), next(network.parameters()))[0].numpy()
    twin, x, y = reference_of(network), images.numpy().T, targets.numpy().T
    by_hand = twin.backprop(x, y)[0][0] / 10
    middle = np.s_[:, 400:412]  # of the images, where there is ink
    slopes = central_differences(lambda: twin.cost(x, y), twin.weights[0][middle])
    assert np.linalg.norm(slopes) > 1e-4
    assert_agrees_with_differences(by_hand[middle], slopes)
    assert_agrees_with_differences(autograd[middle], slopes)


def test_autograd_passes_its_own_gradcheck() -> None:
    network, images, targets = random_case([6, 5, 4, 3], 4, 0, torch.float64)
    names = [name for name, _ in network.named_parameters()]

    def cost(*parameters: Tensor) -> Tensor:
        return quadratic_cost(functional_call(network, dict(zip(names, parameters, strict=True)), images), targets)

    assert torch.autograd.gradcheck(cost, tuple(network.parameters()))


def check_of(digits: DigitSplits, precision: str, sizes: tuple[int, ...] = (784, 7, 12)) -> tuple[SigmoidMLP, Findings]:
    """The findings of three mini-batches, of 5, 1 and 8 images, and the network, which has 12 outputs."""
    torch.manual_seed(2)
    network = SigmoidMLP(sizes)
    places = torch.arange(14).flip(0) * 50
    return network, check_gradients(
        network, digits.training, torch.split(places, [5, 1, 8]), Machine("cpu", 1, precision)
    )


@pytest.mark.parametrize(
    ("precision", "least", "most"), [("64", 1e-17, 1e-13), ("32", 1e-9, 1e-5), ("bf16", 1e-4, 0.5)]
)
def test_many_mini_batches_are_each_compared(digits: DigitSplits, precision: str, least: float, most: float) -> None:
    network, findings = check_of(digits, precision)
    assert findings.comparisons == 3
    assert findings.tolerance == {"64": 1e-12, "32": 1e-5, "bf16": None}[precision]
    assert findings.broken == []
    assert least < findings.worst.relative < most
    assert next(network.parameters()).dtype == torch.float32  # what is compared is a copy
    assert [finding.where for finding in findings.tensors.values()] != [1] * 9
    if precision == "bf16":
        return
    # Each by itself, from the network's weights and the images as they are
    dtype = PRECISIONS[precision].dtype
    one_by_one = Findings(findings.tolerance)
    for places in torch.split(torch.arange(14).flip(0) * 50, [5, 1, 8]):
        images, targets = (
            digits.training.images[places].to(dtype) / 255,
            torch.eye(12, dtype=dtype)[digits.training.labels[places]],
        )
        again = SigmoidMLP(network.sizes)
        again.load_state_dict(network.state_dict())
        one_by_one.add(compare(again.to(dtype), images, targets, PRECISIONS[precision]), dict)
    assert findings == one_by_one


def test_what_exceeds_the_tolerance_is_judged_by_rounding(digits: DigitSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gradients.TOLERANCES, "64", 1e-30)
    network, findings = check_of(digits, "64")
    assert findings.broken == []
    places = torch.arange(14).flip(0) * 50
    finding = findings.tensors["dC/dW(1)"]
    part = torch.split(places, [5, 1, 8])[finding.where - 1]
    images, labels = digits.training.images[part].double() / 255, digits.training.labels[part]
    assert finding.allowed == bounds_for(network.double(), images, torch.eye(12).double()[labels])["dC/dW(1)"]


def test_a_wrong_cost_is_found_in_what_it_reaches(digits: DigitSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "quadratic_cost", lambda *batch: quadratic_cost(*batch) * (1 + 1e-9))
    _, findings = check_of(digits, "64")
    assert [finding.name for finding in findings.broken] == NAMES_OF_784_30_10[4:]
    assert findings.tensors["cost"].relative == pytest.approx(1e-9, rel=1e-3)


def test_torch_is_set_for_the_largest_mini_batch(digits: DigitSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    settings = Machine.settings

    def watched(machine: Machine, products: int, threads: int | None = None) -> AbstractContextManager[None]:
        asked.append(products)
        return settings(machine, products, threads)

    monkeypatch.setattr(Machine, "settings", watched)
    check_of(digits, "32")
    assert asked == [8 * (784 * 7 + 7 + 7 * 12 + 12)]


@pytest.mark.parametrize(("precision", "expected"), [("tf32", "high"), ("32", "highest"), ("64", "highest")])
def test_products_of_floats_are_made_as_the_precision_says(precision: str, expected: str) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with multiplying_in(precision):
            assert torch.get_float32_matmul_precision() == expected
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_relative_errors_are_norms_over_norms() -> None:
    assert relative_error([3.0, 4.0 + 0.5], [3.0, 4.0]) == 0.1
    assert relative_error([1.0, 1.0], [0.0, 0.0]) == pytest.approx(2**0.5 * 2.0**960)
    assert relative_error(1.0, 0.0, tiny=0.25) == 4.0
    values = {"W": np.array([3.0, 5.0]), "b": np.array([2.0]), "other": np.array([1.0])}
    assert relative_errors(values, {"W": np.array([3.0, 4.0]), "b": np.array([2.0])}) == {"W": 0.2, "b": 0.0}


@pytest.mark.parametrize(
    ("value", "truth", "precision", "ulps"),
    [
        ([1.0 + 2**-22, 0.5], [1.0, 0.5], "32", 2.0),  # floats from 1 to 2 are 2^-23 apart,
        ([1.9375 + 2**-22], [1.9375], "32", 2.0),
        ([0.75, 0.5 + 2**-24], [0.75, 0.5], "32", 1.0),  # and below it half as far
        ([-3.0, 1.0 + 2**-50], [-3.0, 1.0], "64", 2.0),
        ([2.0**-149], [0.0], "32", 2.0 ** (-149 + 23 + 100)),  # counted in units of `tiny`
    ],
)
def test_units_in_the_last_place_are_those_of_the_largest_element(
    value: list[float], truth: list[float], precision: str, ulps: float
) -> None:
    found = deviation("W(1)", value, truth, PRECISIONS[precision])
    assert (found.name, found.ulps) == ("W(1)", ulps)
    assert found.absolute == max(abs(a - b) for a, b in zip(value, truth, strict=True))
    assert found.relative == relative_error(value, truth, PRECISIONS[precision].tiny)
