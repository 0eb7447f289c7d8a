"""What is known of a program that no mistake explains: where it is wrong, and by how much; no guesses."""

from collections.abc import Callable, Sequence
from math import isclose

import numpy as np

from torchdigits.errors import CandidateError
from torchdigits.proof.diagnosis.candidates import Observed, RaisedError, described
from torchdigits.proof.diagnosis.comparing import Judged
from torchdigits.proof.diagnosis.mistakes import Equation, hypotheses, where
from torchdigits.proof.diagnosis.report import Fault
from torchdigits.proof.diagnosis.search import equal
from torchdigits.proof.diagnosis.steps import Problem, Steps
from torchdigits.proof.reference import Array


def main_of(observed: Sequence[Observed], wrong: Sequence[int]) -> int:
    """Of the problems that are wrong, the one to show: two layers and several examples, if it shows there."""

    def key(number: int) -> tuple[int, int]:
        return abs(len(observed[number].problem.weights) - 2), -observed[number].problem.m

    return min(wrong, key=key)


def unexplained(
    observed: Sequence[Observed],
    judged: Judged,
    raised: RaisedError | None,
) -> Fault:
    """What is known of a mistake that is none of the catalogue's.

    Raises:
        CandidateError: the gradients have shapes that fit nothing.
    """
    number = main_of(observed, judged.wrong)
    one, parts = observed[number], judged.parts[number]
    if raised is not None:
        raise raised
    for name, array in one.gradient.items():
        layer = int(name[6:-1])
        sizes = one.problem.sizes
        expected = (sizes[layer], sizes[layer - 1]) if name.startswith("dC/dW") else (sizes[layer],)
        if array.shape != expected:
            shape = f"{name} has the shape {array.shape} for layers {described(one.problem)}; expected {expected}"
            raise CandidateError(shape)
    by_name = {part.name: part for part in parts}
    if "outputs" in by_name and not by_name["outputs"].right:
        return wrong_outputs(observed)
    if all(observed[n].problem.m > 1 for n in judged.wrong) and any(o.problem.m == 1 for o in observed):
        text = "The gradient is right for one example, but not for a mini-batch."
        return Fault("update", None, "unknown", text)
    truth = Steps(one.problem, (), judged.mean).gradient
    ratios = {n: _multiple(one.gradient[n], value) for n, value in truth.items()}
    factors = {round(ratio, 9) for ratio in ratios.values() if ratio is not None}
    if len(factors) == 1 and None not in ratios.values():
        text = f"Every gradient is {factors.pop():.6g} times what it should be: right in direction, not in size."
        return Fault("cost", None, "unknown", text)
    for layer in range(len(one.problem.weights), 0, -1):
        b, w = (by_name[f"dC/d{kind}({layer})"].right for kind in "bW")
        if b and w:
            continue
        last = layer == len(one.problem.weights)
        equation: Equation = "BP3" if w else "BP4" if b else "BP1" if last else "BP2"
        said = "" if last else f"right up to layer {layer + 1}"
        wrong = [f"dC/d{kind}({layer})" for kind, right in (("b", b), ("W", w)) if not right]
        text = f"{' and '.join(wrong)} {'are' if len(wrong) > 1 else 'is'} wrong, by no mistake that is known here"
        known = [name for name in wrong if ratios[name] is not None]
        if known:
            text += "; " + ", ".join(f"{n} is {ratios[n]:.6g} times what it should be" for n in known)
        place = "output" if last else "first" if layer == 1 else f"layer {layer}"
        return Fault(equation, place, "unknown", f"{text}{'; ' + said if said else ''}.")
    raise AssertionError("it is called for a gradient that is wrong")


def wrong_outputs(observed: Sequence[Observed]) -> Fault:
    """What a forward pass of its own does, beside that in its back-propagation."""
    seen = [(one.problem, one.forward) for one in observed if one.forward is not None]
    for hypothesis in hypotheses():
        if {"a", "z"}.isdisjoint(hypothesis.way):
            continue
        changes = [(hypothesis.way, where(hypothesis.place))]
        steps = [Steps(problem, changes) for problem, _ in seen]
        if all(equal(s.a(s.layers), outputs, 1e-6) for s, (_, outputs) in zip(steps, seen, strict=True)):
            says = f"Its gradients are right, but the outputs that it shows are not: {hypothesis.mistake.says}."
            return Fault("forward", hypothesis.place, hypothesis.mistake.name, says)
    says = "The outputs that it shows are not a(L) of its weights, by no mistake that is known here."
    return Fault("forward", None, "unknown", says)


def other_cost(observed: Sequence[Observed]) -> str:
    """What a cost of its own is, which its gradient, a right one, does not belong to."""
    seen = [(one.problem, one.cost) for one in observed if one.cost is not None]
    ratios = [(problem, cost / problem.network().cost(problem.x, problem.y)) for problem, cost in seen]
    factors: list[tuple[str, Callable[[Problem], float]]] = [
        ("twice the quadratic cost", lambda problem: 2.0),
        ("the mean over the outputs", lambda problem: 1 / problem.sizes[-1]),
        ("twice the mean over the outputs", lambda problem: 2 / problem.sizes[-1]),
    ]
    for says, factor in factors:
        for sums in (False, True):
            if all(isclose(ratio, factor(p) * (p.m if sums else 1), rel_tol=1e-6) for p, ratio in ratios):
                return f"The cost that it shows is {says}; its gradient is that of the quadratic cost itself."
    return "The cost that it shows is not the quadratic cost, whose gradient it has."


def _multiple(value: Array, truth: Array) -> float | None:
    ratio = float(np.vdot(value, truth) / np.vdot(truth, truth))
    return ratio if equal(value, ratio * truth, 1e-6) else None
