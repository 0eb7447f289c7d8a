"""Torch held against the reference, a mini-batch at a time: autograd, and back-propagation by hand.

`whole_runs.py` goes on from here to every update of a training run.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from math import frexp, inf, isnan
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from torchdigits import reference
from torchdigits.datasets import Digits
from torchdigits.network import SigmoidMLP, quadratic_cost
from torchdigits.reference import Array
from torchdigits.rounding import rounding_bounds


class Precision(NamedTuple):
    """What a name of `--precision` stands for.

    Attributes:
        dtype: of the weights.
        eps: spacing, at 1, of the numbers that are multiplied.
        tiny: a norm below which underflow on the way may have taken bits, or flushed them to zero: the smallest number
            that has them all is 2^-1022 in float64, and 2^-126 in the others.
        tolerance: relative error that a correct program keeps where nothing cancels; None: errors are only reported.
    """

    dtype: torch.dtype
    eps: float
    tiny: float
    tolerance: float | None


PRECISIONS = {
    "64": Precision(torch.float64, 2**-52, 2**-960, 1e-12),
    "32": Precision(torch.float32, 2**-23, 2**-100, 1e-5),
    "tf32": Precision(torch.float32, 2**-10, 2**-100, None),
    "bf16": Precision(torch.float32, 2**-7, 2**-100, None),
}


class Deviation(NamedTuple):
    """How far a tensor of torch's is from the reference's.

    Attributes:
        name: of the tensor.
        absolute: the largest difference of an element.
        relative: as `relative_error` has it.
        ulps: the largest difference of an element, in units in the last place of the reference's largest element and in
            the precision that is checked. (An element that is a sum which cancels can be off by millions of its own.)
    """

    name: str
    absolute: float
    relative: float
    ulps: float


def reference_of(network: SigmoidMLP) -> reference.Network:
    """A reference network with a copy of the weights and biases, in float64."""
    twin = reference.Network(network.sizes)
    set_parameters(twin, parameters_of(network))
    return twin


def parameters_of(network: SigmoidMLP | reference.Network) -> list[Array]:
    """Copies of the parameters, layer by layer: the weights `(outputs, inputs)`, then the biases `(outputs,)`."""
    if isinstance(network, reference.Network):
        layers = zip(network.weights, network.biases, strict=True)
        return [array.copy() for weights, biases in layers for array in (weights, biases[:, 0])]
    return [_array(parameter).copy() for parameter in network.parameters()]


def set_parameters(twin: reference.Network, parameters: list[Array]) -> None:
    """Give a reference network these parameters, in the order of `parameters_of`."""
    twin.weights, twin.biases = parameters[0::2], [biases[:, np.newaxis] for biases in parameters[1::2]]


def mean_gradients(twin: reference.Network, x: Array, y: Array) -> list[Array]:
    """The reference's gradients of a mini-batch's mean cost, in the order of `parameters_of`."""
    layers = zip(*twin.backprop(x, y), strict=True)
    return [nabla / x.shape[1] for nabla_w, nabla_b in layers for nabla in (nabla_w, nabla_b[:, 0])]


def parameter_names(prefix: str, sizes: tuple[int, ...]) -> list[str]:
    """`W(1)`, `b(1)`, `W(2)`, ..., in the order of `parameters_of`."""
    return [f"{prefix}{kind}({layer})" for layer in range(1, len(sizes)) for kind in "Wb"]


def relative_error(value: ArrayLike, truth: ArrayLike, tiny: float = PRECISIONS["64"].tiny) -> float:
    """Norm of the difference over the norm of the truth, or over `tiny` where the truth has all but vanished."""
    truth = np.asarray(truth)
    return float(np.linalg.norm(np.asarray(value) - truth) / max(float(np.linalg.norm(truth)), tiny))


def deviation(name: str, value: ArrayLike, truth: ArrayLike, precision: Precision) -> Deviation:
    """How far `value`, of that precision, is from `truth`."""
    value, truth = np.asarray(value), np.asarray(truth)
    largest_error, largest = float(np.abs(value - truth).max()), float(np.abs(truth).max())
    ulp = precision.eps * 2.0 ** (frexp(max(largest, precision.tiny))[1] - 1)
    return Deviation(name, largest_error, relative_error(value, truth, precision.tiny), largest_error / ulp)


def compare(network: SigmoidMLP, images: Tensor, targets: Tensor, precision: str) -> list[Deviation]:
    """Everything that back-propagation computes of a mini-batch, by torch and by hand, from the same weights.

    Args:
        network: in the precision and on the device to be checked.
        images: `(m, inputs)`, floats of that precision, on that device.
        targets: wanted outputs `(m, outputs)`, likewise.
        precision: a key of `PRECISIONS`: which one that is.

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
    pairs: list[tuple[str, Tensor, ArrayLike]] = []
    for layer, z in enumerate(zs, 1):
        pairs.append((f"z({layer})", weighted_inputs[layer - 1], z.T))
        pairs.append((f"a({layer})", activations[layer], twin_activations[layer].T))
    pairs.append(("cost", cost, twin.cost(x, y)))
    pairs += zip(parameter_names("dC/d", network.sizes), gradients, mean_gradients(twin, x, y), strict=True)
    return [deviation(name, _array(value), truth, PRECISIONS[precision]) for name, value, truth in pairs]


@dataclass
class Finding:
    """The largest deviations of a tensor in many comparisons.

    Attributes:
        name: of the tensor.
        absolute, ulps: the largest.
        relative: the largest too or, if more than allowed was found, that which exceeded it most.
        allowed: what `relative` might have been there; None where errors are only reported.
        where: the number of that comparison, from 1.
    """

    name: str
    absolute: float = 0.0
    ulps: float = 0.0
    relative: float = 0.0
    allowed: float | None = None
    where: int = 0

    @property
    def broken(self) -> bool:
        """Whether the error is more than was allowed."""
        return self.allowed is not None and not self.relative <= self.allowed

    @property
    def rank(self) -> tuple[bool, float]:
        """By which the worst is chosen; what is no number is worse than any."""
        relative = inf if isnan(self.relative) else self.relative
        return self.broken, relative / self.allowed if self.allowed and self.broken else relative


@dataclass
class Findings:
    """What many comparisons have found, by the names of the tensors.

    Args:
        tolerance: relative error that is allowed in any case; None: errors are only reported.
    """

    tolerance: float | None
    tensors: dict[str, Finding] = field(default_factory=dict)
    comparisons: int = 0

    def add(
        self,
        deviations: Iterable[Deviation],
        bounds: Callable[[], dict[str, float]],
        tolerances: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Take in a comparison.

        Args:
            deviations: of its tensors.
            bounds: says what rounding allows there; it is asked where a tolerance is exceeded.
            tolerances: of tensors that have one of their own.
        """
        self.comparisons += 1
        rounding: dict[str, float] | None = None
        for name, absolute, relative, ulps in deviations:
            allowed = None if self.tolerance is None else tolerances.get(name, self.tolerance)
            if allowed is not None and not relative <= allowed:
                rounding = bounds() if rounding is None else rounding
                allowed = max(allowed, rounding.get(name, 0.0))
            found = self.tensors.get(name, Finding(name))
            here = Finding(name, absolute, ulps, relative, allowed, self.comparisons)
            worse = here if not found.where or here.rank > found.rank else found
            # NumPy's maximum keeps what is no number.
            worse.absolute = float(np.maximum(found.absolute, absolute))
            worse.ulps = float(np.maximum(found.ulps, ulps))
            self.tensors[name] = worse

    @property
    def worst(self) -> Finding:
        """Of the tensor with the largest relative error, or the one that exceeds most what is allowed."""
        return max(self.tensors.values(), key=lambda finding: finding.rank)

    @property
    def broken(self) -> list[Finding]:
        """Those whose error is more than was allowed."""
        return [finding for finding in self.tensors.values() if finding.broken]


def check_gradients(
    network: SigmoidMLP, digits: Digits, mini_batches: Iterable[Tensor], precision: str, device: str = "cpu"
) -> Findings:
    """`compare` on many mini-batches, from the same weights.

    Allowed is the precision's tolerance or, where that is more, what rounding can do by the analysis in `rounding.py`:
    in sums that cancel, and in saturated neurons.

    Args:
        network: its weights are copied.
        digits: the examples.
        mini_batches: which of them each takes, `(m,)`.
        precision: a key of `PRECISIONS` that the device has.
        device: in torch's words.
    """
    dtype, *_, tolerance = PRECISIONS[precision]
    checked = SigmoidMLP(network.sizes)
    checked.load_state_dict(network.state_dict())
    checked.to(device, dtype)
    twin, findings = reference_of(checked), Findings(tolerance)
    for chosen in mini_batches:
        images = digits.images[chosen].to(dtype) / 255
        targets = nn.functional.one_hot(digits.labels[chosen], network.sizes[-1]).to(dtype)
        mixed = torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()
        with multiplying_in(precision), mixed:
            deviations = compare(checked, images.to(device), targets.to(device), precision)
        findings.add(deviations, partial(bounds_of, twin, _array(images).T, _array(targets).T, precision))
    return findings


def bounds_of(twin: reference.Network, x: Array, y: Array, precision: str) -> dict[str, float]:
    """What rounding alone can make of `compare`: torch's, in that precision, and the reference's, in float64."""
    return rounding_bounds(twin, x, y, unit_roundoffs(precision), PRECISIONS[precision].tiny)


def unit_roundoffs(precision: str) -> float:
    """By how much one number can be rounded in torch, and in the reference, added up; relative to the number."""
    return (PRECISIONS[precision].eps + PRECISIONS["64"].eps) / 2


@contextmanager
def multiplying_in(precision: str) -> Iterator[None]:
    """Matrix products of floats by a GPU's TF32 if the precision is `tf32`, else in full."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().double().numpy()  # in this order: a Mac's GPU has no doubles
