"""Torch held against the reference: autograd's gradients, and those of back-propagation by hand."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from torchdigits import reference
from torchdigits.network import SigmoidMLP, quadratic_cost


class Deviation(NamedTuple):
    """How far a tensor of torch's is from the reference's: norm of the difference over norm of the reference."""

    name: str
    relative: float


def reference_of(network: SigmoidMLP) -> reference.Network:
    """A reference network with a copy of the weights and biases, in float64."""
    twin = reference.Network(network.sizes)
    arrays = [_array(parameter).copy() for parameter in network.parameters()]
    twin.weights, twin.biases = arrays[0::2], [bias[:, np.newaxis] for bias in arrays[1::2]]
    return twin


def relative_error(value: ArrayLike, truth: ArrayLike) -> float:
    """Norm of the difference over the norm of the truth."""
    truth = np.asarray(truth)
    return float(np.linalg.norm(np.asarray(value) - truth) / np.linalg.norm(truth))


def compare(network: SigmoidMLP, images: Tensor, targets: Tensor) -> list[Deviation]:
    """Everything that back-propagation computes of a mini-batch, by torch and by hand, from the same weights.

    Args:
        network: in the precision and on the device to be checked.
        images: `(m, inputs)`, floats of that precision, on that device.
        targets: wanted outputs `(m, outputs)`, likewise.

    Returns:
        The deviation of every layer's weighted inputs z(l) and activations a(l), of the cost, and of the gradient with
        respect to every weight matrix and bias vector, dC/dW(l) and dC/db(l).
    """
    weighted_inputs, activations = network.forward_pass(images)
    cost = quadratic_cost(network(images), targets)
    gradients = torch.autograd.grad(cost, list(network.parameters()))

    twin = reference_of(network)
    x, y = _array(images).T, _array(targets).T
    zs, twin_activations = twin.forward_pass(x)
    nabla_w, nabla_b = twin.backprop(x, y)
    m = len(images)

    pairs: list[tuple[str, Tensor, ArrayLike]] = [("cost", cost, twin.cost(x, y))]
    for layer in range(len(zs)):
        pairs += [
            (f"z({layer + 1})", weighted_inputs[layer], zs[layer].T),
            (f"a({layer + 1})", activations[layer + 1], twin_activations[layer + 1].T),
            (f"dC/dW({layer + 1})", gradients[2 * layer], nabla_w[layer] / m),
            (f"dC/db({layer + 1})", gradients[2 * layer + 1], nabla_b[layer][:, 0] / m),
        ]
    return [Deviation(name, relative_error(_array(value), truth)) for name, value, truth in pairs]


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()
