"""A mini-batch compared: autograd in torch, and back-propagation by hand in the reference."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from math import frexp

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from torchdigits.data.datasets import Digits
from torchdigits.engines.machine import PRECISIONS, Machine, Precision
from torchdigits.network import SigmoidMLP, quadratic_cost
from torchdigits.proof import reference
from torchdigits.proof.findings import Deviation, Findings
from torchdigits.proof.reference import Array
from torchdigits.proof.rounding import rounding_bounds

# Relative error that a right program keeps to where nothing cancels; errors of other precisions are only reported.
TOLERANCES = {"64": 1e-12, "32": 1e-5}


def reference_of(network: SigmoidMLP) -> reference.Network:
    """A reference network with a copy of the weights and biases, in float64."""
    twin = reference.Network(network.sizes)
    set_parameters(twin, parameters_of(network))
    return twin


def parameters_of(network: nn.Module | reference.Network) -> dict[str, Array]:
    """Copies of the parameters, by their names: W(1) `(outputs, inputs)`, b(1) `(outputs,)`, W(2), b(2), ..."""
    if isinstance(network, reference.Network):
        layers = zip(network.weights, network.biases, strict=True)
        return _by_name([array.copy() for weights, biases in layers for array in (weights, biases[:, 0])])
    return _by_name([double(parameter).copy() for parameter in network.parameters()])


def set_parameters(twin: reference.Network, parameters: Mapping[str, Array]) -> None:
    """Give a reference network these parameters, in the order of `parameters_of`."""
    arrays = list(parameters.values())
    twin.weights, twin.biases = arrays[0::2], [biases[:, np.newaxis] for biases in arrays[1::2]]


def mean_gradients(twin: reference.Network, x: Array, y: Array) -> dict[str, Array]:
    """The reference's gradients of a mini-batch's mean cost by their names, dC/dW(1), dC/db(1), ..."""
    layers = zip(*twin.backprop(x, y), strict=True)
    return _by_name([nabla / x.shape[1] for w, b in layers for nabla in (w, b[:, 0])], "dC/d")


def _by_name(arrays: list[Array], prefix: str = "") -> dict[str, Array]:
    return {f"{prefix}{'Wb'[place % 2]}({place // 2 + 1})": array for place, array in enumerate(arrays)}


def relative_error(value: ArrayLike, truth: ArrayLike, tiny: float = PRECISIONS["64"].tiny) -> float:
    """Norm of the difference over norm of the truth, or over `tiny` if the truth's norm is smaller."""
    truth = np.asarray(truth)
    return float(np.linalg.norm(np.asarray(value) - truth) / max(float(np.linalg.norm(truth)), tiny))


def relative_errors(values: Mapping[str, Array], truths: Mapping[str, Array]) -> dict[str, float]:
    """That of every tensor, by its name."""
    return {name: relative_error(values[name], truth) for name, truth in truths.items()}


def deviation(name: str, value: ArrayLike, truth: ArrayLike, precision: Precision) -> Deviation:
    """How far `value`, computed in that precision, is from `truth`."""
    value, truth = np.asarray(value), np.asarray(truth)
    largest_error, largest = float(np.abs(value - truth).max()), float(np.abs(truth).max())
    ulp = precision.eps * 2.0 ** (frexp(max(largest, precision.tiny))[1] - 1)
    return Deviation(name, largest_error, relative_error(value, truth, precision.tiny), largest_error / ulp)


def compare(network: SigmoidMLP, images: Tensor, targets: Tensor, precision: Precision) -> list[Deviation]:
    """Compare everything that back-propagation computes for a mini-batch, by torch and by hand, from the same weights.

    Args:
        network: in the precision and on the device to be checked.
        images, targets: `(m, inputs)` and the wanted outputs `(m, outputs)`, floats of that precision, on that device.
        precision: which one that is.

    Returns:
        The deviation of every layer's weighted inputs z(l) and activations a(l), of the cost, and of every gradient,
        dC/dW(l) and dC/db(l).
    """
    weighted_inputs, activations = network.forward_pass(images)
    cost = quadratic_cost(network(images), targets)
    gradients = torch.autograd.grad(cost, list(network.parameters()))

    twin = reference_of(network)
    x, y = double(images).T, double(targets).T
    zs, twin_activations = twin.forward_pass(x)
    pairs: list[tuple[str, Tensor, ArrayLike]] = []
    for layer, z in enumerate(zs, 1):
        pairs.append((f"z({layer})", weighted_inputs[layer - 1], z.T))
        pairs.append((f"a({layer})", activations[layer], twin_activations[layer].T))
    pairs.append(("cost", cost, twin.cost(x, y)))
    slopes = mean_gradients(twin, x, y)
    pairs += zip(slopes, gradients, slopes.values(), strict=True)
    return [deviation(name, double(value), truth, precision) for name, value, truth in pairs]


def check_gradients(network: SigmoidMLP, digits: Digits, mini_batches: Sequence[Tensor], machine: Machine) -> Findings:
    """Compare many mini-batches, all from the same weights.

    Allowed is the precision's tolerance or, if that is more, the largest error that rounding can cause by the analysis
    in `rounding.py`.

    Args:
        network: its weights are copied.
        mini_batches: the places in `digits` of each one's examples, `(m,)`.
        machine: says where torch computes, and in which precision.
    """
    precision, device = PRECISIONS[machine.precision], machine.device
    checked = SigmoidMLP(network.sizes)
    checked.load_state_dict(network.state_dict())
    checked.to(device, precision.dtype)
    twin, findings = reference_of(checked), Findings(TOLERANCES.get(machine.precision))
    products = max(map(len, mini_batches)) * sum(parameter.numel() for parameter in network.parameters())
    mixed = torch.autocast(device.type, torch.bfloat16) if machine.precision == "bf16" else nullcontext()
    with machine.settings(products), multiplying_in(machine.precision):
        for chosen in mini_batches:
            images = digits.images[chosen].to(precision.dtype) / 255
            targets = nn.functional.one_hot(digits.labels[chosen], network.sizes[-1]).to(precision.dtype)
            with mixed:
                deviations = compare(checked, images.to(device), targets.to(device), precision)
            x, y = double(images).T, double(targets).T
            findings.add(deviations, partial(rounding_bounds, twin, x, y, precision.eps, precision.tiny))
    return findings


@contextmanager
def multiplying_in(precision: str) -> Iterator[None]:
    """Multiply matrices of floats by a GPU's TF32 if the precision is `tf32`, and in full if it is another."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def double(tensor: Tensor) -> Array:
    """The numbers of a tensor in float64, for NumPy."""
    return tensor.detach().cpu().double().numpy()  # in this order: a Mac's GPU has no doubles
