"""One example, step by step: everything that back-propagation computes for it, by hand and by autograd."""

from collections.abc import Sequence
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchdigits.network import SigmoidMLP, quadratic_cost
from torchdigits.proof.gradients import double, reference_of
from torchdigits.proof.reference import Array, columns, one_hot, sigmoid_derivative
from torchdigits.sgd import check_learning_rate, sgd_step


class Twice(NamedTuple):
    """A number, or an array of them, computed twice in float64.

    Attributes:
        by_hand: by `proof/reference.py`.
        by_autograd: by torch.
    """

    by_hand: Array
    by_autograd: Array

    @property
    def ulps(self) -> Array:
        """Their differences, in units in the last place of the largest number by hand, elementwise."""
        unit = np.spacing(np.abs(self.by_hand).max()) or np.finfo(np.float64).tiny
        return np.asarray(np.abs(self.by_hand - self.by_autograd) / unit)


class Layer(NamedTuple):
    """What is computed for a layer of n neurons, after one of k.

    Attributes:
        weights: before the update, `(n, k)`; both programs are given these.
        biases: likewise, `(n,)`.
        z: weighted inputs, `(n,)`.
        a: activations, `(n,)`.
        slope: `sigmoid'(z)`, `(n,)`, by hand.
        delta: errors, `dC/dz`, `(n,)`: BP1 for the last layer, BP2 for the others.
        bias_gradient: `dC/db`, `(n,)`: BP3.
        weight_gradient: `dC/dW`, `(n, k)`: BP4.
        new_weights, new_biases: after the update, `(n, k)` and `(n,)`.
        new_a: activations after the update, `(n,)`.
    """

    weights: Array
    biases: Array
    z: Twice
    a: Twice
    slope: Array
    delta: Twice
    bias_gradient: Twice
    weight_gradient: Twice
    new_weights: Twice
    new_biases: Twice
    new_a: Twice


class Example(NamedTuple):
    """What back-propagation computes for one example.

    Attributes:
        x: the image, `(784,)`, floats in [0, 1].
        y: the wanted activations, `(10,)`.
        learning_rate: eta.
        layers: from the first after the input.
        cost: before the update, a scalar.
        new_cost: after it.
        predicted_fall: of the cost, to first order: `eta |grad C|^2`, the sum of squares over all weights and biases.
    """

    x: Array
    y: Array
    learning_rate: float
    layers: list[Layer]
    cost: Twice
    new_cost: Twice
    predicted_fall: Twice


def step_through(network: SigmoidMLP, image: np.ndarray, label: int, learning_rate: float) -> Example:
    """Everything that back-propagation computes for one example, and one update on it, in float64.

    The equations are those of Nielsen's "Neural Networks and Deep Learning", chapter 2, and the update's that of its
    chapter 1, for a mini-batch of one example.

    Args:
        network: on the CPU; its weights are copied.
        image: `(784,)`, uint8, 255 ink.
        label: the digit that it should be taken for.
        learning_rate: eta.

    Raises:
        OptionError: a learning rate that is not a positive number.
    """
    check_learning_rate(learning_rate)
    x, y = columns(image[np.newaxis]), one_hot(np.array([label]), network.sizes[-1])
    hand, autograd = _by_hand(network, x, y, learning_rate), _by_autograd(network, x, y, learning_rate)

    def twice(name: str, layer: int) -> Twice:
        return Twice(hand[name][layer], autograd[name][layer])

    names = ("z", "a", "delta", "bias_gradient", "weight_gradient", "new_weights", "new_biases", "new_a")
    layers = [
        Layer(
            weights=hand["weights"][layer],
            biases=hand["biases"][layer],
            slope=hand["slope"][layer],
            **{name: twice(name, layer) for name in names},
        )
        for layer in range(len(network.sizes) - 1)
    ]
    gradients = [g for layer in layers for g in (layer.weight_gradient, layer.bias_gradient)]
    fall = Twice(
        *(np.asarray(learning_rate * sum(np.sum(part**2) for part in parts)) for parts in zip(*gradients, strict=True))
    )
    return Example(x[:, 0], y[:, 0], learning_rate, layers, twice("cost", 0), twice("new_cost", 0), fall)


def _by_hand(network: SigmoidMLP, x: Array, y: Array, eta: float) -> dict[str, list[Array]]:
    twin = reference_of(network)
    before = {"weights": twin.weights, "biases": [b[:, 0] for b in twin.biases], "cost": [np.array(twin.cost(x, y))]}
    zs, activations = twin.forward_pass(x)
    nabla_w, nabla_b = twin.backprop(x, y)
    twin.update_mini_batch(x, y, eta)
    return (
        before
        | {
            "z": [z[:, 0] for z in zs],
            "a": [a[:, 0] for a in activations[1:]],
            "slope": [sigmoid_derivative(z)[:, 0] for z in zs],
            "delta": [nabla[:, 0] for nabla in nabla_b],  # of a single example the sum in BP3 is its delta
            "bias_gradient": [nabla[:, 0] for nabla in nabla_b],
            "weight_gradient": nabla_w,
            "new_weights": twin.weights,
            "new_biases": [b[:, 0] for b in twin.biases],
            "new_a": [a[:, 0] for a in twin.forward_pass(x)[1][1:]],
            "new_cost": [np.array(twin.cost(x, y))],
        }
    )


def _by_autograd(network: SigmoidMLP, x: Array, y: Array, eta: float) -> dict[str, list[Array]]:
    twin = deepcopy(network).double().requires_grad_()
    images, targets = torch.from_numpy(x.T.copy()), torch.from_numpy(y.T.copy())
    zs, activations = twin.forward_pass(images)
    cost = quadratic_cost(activations[-1], targets)
    slopes = torch.autograd.grad(cost, [*zs, *twin.parameters()])
    deltas, gradients = slopes[: len(zs)], slopes[len(zs) :]
    before = {name: value.detach() for name, value in twin.named_parameters()}
    updated, _ = sgd_step(twin, eta, before, (images, targets))
    twin.load_state_dict(updated)
    new_activations = twin.forward_pass(images)[1]
    values = [double(value) for value in updated.values()]
    return {
        "z": _rows(zs),
        "a": _rows(activations[1:]),
        "delta": _rows(deltas),
        "cost": [double(cost)],
        "weight_gradient": [double(gradient) for gradient in gradients[0::2]],
        "bias_gradient": [double(gradient) for gradient in gradients[1::2]],
        "new_weights": values[0::2],
        "new_biases": values[1::2],
        "new_a": _rows(new_activations[1:]),
        "new_cost": [double(quadratic_cost(new_activations[-1], targets))],
    }


def _rows(tensors: Sequence[Tensor]) -> list[Array]:
    """The only row of each."""
    return [double(tensor[0]) for tensor in tensors]
