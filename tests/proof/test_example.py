"""One example step by step: against finite differences, and by hand against autograd."""

from itertools import product

import numpy as np
import pytest
import torch

from torchdigits.data.datasets import DigitSplits
from torchdigits.errors import OptionError
from torchdigits.network import SigmoidMLP
from torchdigits.proof.example import Example, Twice, step_through
from torchdigits.proof.gradients import reference_of
from torchdigits.proof.reference import columns, one_hot, sigmoid

SIZES = [(784, 30, 10), (784, 10), (784, 12, 11, 10)]


def stepped(sizes: tuple[int, ...], digits: DigitSplits, eta: float = 3.0) -> tuple[SigmoidMLP, Example]:
    torch.manual_seed(1)
    network = SigmoidMLP(sizes)
    return network, step_through(network, digits.test.images[5].numpy(), int(digits.test.labels[5]), eta)


@pytest.mark.parametrize("sizes", SIZES)
def test_both_ways_agree_to_rounding(sizes: tuple[int, ...], digits: DigitSplits) -> None:
    network, example = stepped(sizes, digits)
    before = [value.clone() for value in network.parameters()]
    numbers = [value for layer in example.layers for value in layer if isinstance(value, Twice)]
    assert len(numbers) == 8 * (len(sizes) - 1)
    for twice in (*numbers, example.cost, example.new_cost, example.predicted_fall):
        assert twice.by_hand.dtype == twice.by_autograd.dtype == np.float64
        np.testing.assert_allclose(twice.by_autograd, twice.by_hand, rtol=1e-9, atol=1e-12)
    assert all(map(torch.equal, before, network.parameters()))


@pytest.mark.parametrize("sizes", SIZES)
def test_gradients_are_those_of_finite_differences(sizes: tuple[int, ...], digits: DigitSplits) -> None:
    network, example = stepped(sizes, digits)
    twin = reference_of(network)
    x, y = example.x[:, np.newaxis], example.y[:, np.newaxis]
    assert example.cost.by_hand == twin.cost(x, y)
    ink = np.flatnonzero(x)
    step = 1e-5
    for layer, found in enumerate(example.layers):
        columns_of = ink[[0, len(ink) // 2]] if layer == 0 else [0, sizes[layer] - 1]
        for row, column in product((0, sizes[layer + 1] - 1), columns_of):
            slopes = []
            for array, place in ((twin.weights[layer], (row, column)), (twin.biases[layer], (row, 0))):
                kept = array[place]
                costs = []
                for sign in (1, -1):
                    array[place] = kept + sign * step
                    costs.append(twin.cost(x, y))
                array[place] = kept
                slopes.append((costs[0] - costs[1]) / (2 * step))
            assert found.weight_gradient.by_hand[row, column] == pytest.approx(slopes[0], rel=1e-4, abs=1e-10)
            assert found.bias_gradient.by_hand[row] == pytest.approx(slopes[1], rel=1e-4, abs=1e-10)
            assert found.delta.by_autograd[row] == pytest.approx(slopes[1], rel=1e-4, abs=1e-10)  # BP3


def test_every_number_is_what_its_name_says(digits: DigitSplits) -> None:
    network, example = stepped((784, 30, 10), digits, eta=0.5)
    image, label = digits.test.images[5].numpy(), int(digits.test.labels[5])
    assert np.array_equal(example.x, image / 255)
    assert example.y.tolist() == [float(digit == label) for digit in range(10)]
    a = example.x
    for found, module in zip(example.layers, network.layers, strict=True):
        assert np.array_equal(found.weights, module.weight.detach().double().numpy())  # type: ignore[operator]
        z = found.weights @ a + found.biases
        np.testing.assert_allclose(found.z.by_hand, z, rtol=1e-12)
        a = found.a.by_hand
        np.testing.assert_allclose(a, sigmoid(z), rtol=1e-12)
        np.testing.assert_allclose(found.slope, a * (1 - a), rtol=1e-12)
        np.testing.assert_allclose(found.new_biases.by_hand, found.biases - 0.5 * found.bias_gradient.by_hand)
        np.testing.assert_allclose(found.new_weights.by_autograd, found.weights - 0.5 * found.weight_gradient.by_hand)
    hidden, outputs = example.layers
    np.testing.assert_allclose(outputs.delta.by_hand, (a - example.y) * outputs.slope)
    np.testing.assert_allclose(hidden.delta.by_hand, outputs.weights.T @ outputs.delta.by_hand * hidden.slope)
    np.testing.assert_allclose(hidden.weight_gradient.by_hand, np.outer(hidden.delta.by_hand, example.x))
    np.testing.assert_allclose(example.new_cost.by_hand, ((outputs.new_a.by_hand - example.y) ** 2).sum() / 2)


def test_the_predicted_fall_is_that_of_a_small_step(digits: DigitSplits) -> None:
    for eta, off in ((1e-3, 1e-2), (1e-5, 1e-4)):
        _, example = stepped((784, 30, 10), digits, eta)
        fall = example.cost.by_hand - example.new_cost.by_hand
        assert fall == pytest.approx(float(example.predicted_fall.by_hand), rel=off)


def test_ulps_count_from_the_largest_number() -> None:
    by_hand = np.array([1.5, 2.0**-30, -3.0])
    by_autograd = by_hand + np.array([2**-51, 2**-52, 0])
    assert Twice(by_hand, by_autograd).ulps.tolist() == [1.0, 0.5, 0.0]
    assert Twice(np.zeros(2), np.zeros(2)).ulps.tolist() == [0, 0]


def test_the_learning_rate_is_checked(digits: DigitSplits) -> None:
    with pytest.raises(OptionError, match="learning rate"):
        stepped((784, 10), digits, eta=-1)


def test_one_hot_and_columns_are_the_references(digits: DigitSplits) -> None:
    network, example = stepped((784, 10), digits)
    twin = reference_of(network)
    image, label = digits.test.images[5:6].numpy(), digits.test.labels[5:6].numpy()
    assert example.cost.by_hand == twin.cost(columns(image), one_hot(label))
