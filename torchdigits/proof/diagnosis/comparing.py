"""What a candidate gave, beside back-propagation by hand: how far off it is, and how much of that rounding explains."""

from collections.abc import Sequence
from dataclasses import replace
from math import frexp
from typing import NamedTuple

import numpy as np

from torchdigits.proof.diagnosis.candidates import EPS, Observed
from torchdigits.proof.diagnosis.report import Compared
from torchdigits.proof.reference import Array
from torchdigits.proof.rounding import rounding_bounds

# Norms below which underflow may have taken bits; 2^-100 in the other precisions.
_TINY = {EPS["float64"]: 2.0**-960}


def compare(observed: Observed, eps: float, mean: bool) -> list[Compared]:
    """Everything that was observed, from the output back."""
    problem = observed.problem
    network = problem.network()
    bounds = rounding_bounds(network, problem.x, problem.y, eps, tiny := _TINY.get(eps, 2.0**-100))
    scale = problem.m if mean else 1
    truth: dict[str, Array] = {}
    for layer, (w, b) in enumerate(zip(*network.backprop(problem.x, problem.y), strict=True), 1):
        truth |= {f"dC/dW({layer})": w / scale, f"dC/db({layer})": b[:, 0] / scale}
    pairs: list[tuple[str, Array, Array, float]] = []
    last = len(problem.weights)
    if observed.forward is not None:
        pairs.append(("outputs", observed.forward, network.feedforward(problem.x), bounds[f"a({last})"]))
    if observed.cost is not None:
        cost = network.cost(problem.x, problem.y)
        costs = (cost, cost * problem.m)
        nearest = min(costs, key=lambda value: abs(value - (observed.cost or 0.0)))
        pairs.append(("cost", np.array([observed.cost]), np.array([nearest]), bounds["cost"]))
    for layer in range(last, 0, -1):
        names = (f"dC/db({layer})", f"dC/dW({layer})")
        pairs.extend((name, observed.gradient[name], truth[name], bounds[name]) for name in names)
    compared = [_compared(name, value, right, bound, eps, tiny) for name, value, right, bound in pairs]
    if observed.floor:
        norms = [float(np.linalg.norm(right)) / right.size**0.5 for _, _, right, _ in pairs]
        compared = [
            replace(one, bound=one.bound + 4 * observed.floor / max(norm, tiny))
            for one, norm in zip(compared, norms, strict=True)
        ]
    return compared


def _compared(name: str, value: Array, right: Array, bound: float, eps: float, tiny: float) -> Compared:
    if value.shape != right.shape:
        return Compared(name, float("inf"), bound, float("inf"))
    largest = max(float(np.abs(right).max()), tiny)
    ulp = eps * 2.0 ** (frexp(largest)[1] - 1)
    norm = max(float(np.linalg.norm(right)), tiny)
    difference = value - right
    return Compared(name, float(np.linalg.norm(difference)) / norm, bound, float(np.abs(difference).max()) / ulp)


def rightness(observed: Observed) -> float:
    """How many of its gradients are right, as sums or as means."""
    return max(sum(one.right for one in compare(observed, observed.eps, mean)) for mean in (False, True))


class Judged(NamedTuple):
    """What the comparisons come to.

    Attributes:
        parts: for each problem, everything that was compared, from the output back.
        mean: whether the candidate gives means over a mini-batch, not sums.
        eps: the spacing, at 1, of the numbers by which it was judged: of its own, or of float32 or float16, if only
            that explains all of it.
    """

    parts: list[list[Compared]]
    mean: bool
    eps: float

    @property
    def wrong(self) -> list[int]:
        """The numbers of the problems in which something is wrong."""
        return [number for number, parts in enumerate(self.parts) if not all(one.right for one in parts)]

    @property
    def wrong_names(self) -> set[str]:
        """What is wrong in some problem: `outputs`, `cost`, `dC/dW(1)`."""
        return {one.name for parts in self.parts for one in parts if not one.right}

    @property
    def largest(self) -> Compared:
        """The gradient, or the outputs, that come nearest to what rounding explains."""
        compared = [one for parts in self.parts for one in parts if one.name != "cost"]
        return max(compared, key=lambda one: one.relative / one.bound)


def judge(observed: Sequence[Observed]) -> Judged:
    """Compare what a candidate gave for each problem with back-propagation by hand."""
    own = max(one.eps for one in observed)
    levels = [own, *(eps for eps in (EPS["float32"], EPS["float16"]) if eps > own)]
    for eps in levels:
        for mean in (False, True):
            parts = [compare(one, eps, mean) for one in observed]
            if not all(one.right for several in parts for one in several):
                continue
            # float16 explains much. It is only believed of a program in which no gradient is more exact than that.
            exact = [compare(one, EPS["float32"], mean) for one in observed] if own < eps == EPS["float16"] else []
            if not any(one.right for several in exact for one in several if one.name.startswith("dC")):
                return Judged(parts, mean, eps)

    def right(parts: list[list[Compared]]) -> int:
        return sum(one.right for several in parts for one in several)

    sums, means = ([compare(one, own, mean) for one in observed] for mean in (False, True))
    return Judged(means, True, own) if right(means) > right(sums) else Judged(sums, False, own)
