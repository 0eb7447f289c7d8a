"""A candidate's own update, against its own gradient: is it W - eta/m times the sum over the mini-batch?"""

import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np

from torchdigits.proof.diagnosis.candidates import calling, methods, positional
from torchdigits.proof.diagnosis.mistakes import BY_NAME
from torchdigits.proof.diagnosis.names import DESCENT, ETA_NAME
from torchdigits.proof.diagnosis.networks import NetworkForm, run_update, takes_matrices, update_of
from torchdigits.proof.diagnosis.steps import Problem
from torchdigits.proof.reference import Array

ETA = 0.7
Parameters = dict[str, Array]


class WrongUpdate(NamedTuple):
    """A mistake in an update."""

    mistake: str  # its name in `mistakes.py`; empty if it is none of those
    says: str
    method: Callable[..., Any]


def check_update(form: NetworkForm, problem: Problem, mean: bool, certain: bool) -> list[WrongUpdate]:
    """What is wrong with a class's update of a mini-batch, and with its epoch, whether its gradient is right or not.

    Args:
        form: the class.
        problem: a mini-batch of several examples.
        mean: whether its gradient of a mini-batch is the mean over the examples, not the sum.
        certain: whether its gradient is right; only then an epoch is tried too.

    Raises:
        CandidateError: the update raises an exception, or leaves arrays of other shapes.
    """
    network = form.instance(problem)
    method = update_of(network)
    if method is None:
        return []
    if form.per_example and takes_matrices(method):  # it takes one example too
        problem = problem.examples()[0]
    before, gradients = _parameters(form, network), _Gradients(form, problem, mean)
    run_update(form, network, method, problem, ETA)
    after = _parameters(form, network)
    shapes = {name: (before[name].shape, after[name].shape) for name in before}
    for name, (old, new) in shapes.items():
        if old != new:
            says = f"{name} has become {new}, and was {old}"
            summed = name.startswith("W") or new != (old[0], problem.m)
            return [WrongUpdate("" if summed else "bias-not-summed", says, method)]
    steps = {name: (before[name] - after[name]) / ETA for name in before}
    wrong = [WrongUpdate(name, says, method) for name, says in _explained(steps, gradients, problem, form)]
    if not wrong:
        # A second update has to be as right as the first.
        run_update(form, network, method, problem, ETA)
        steps = {name: (after[name] - now) / ETA for name, now in _parameters(form, network).items()}
        there = _Gradients(form, Problem(*_lists(after), problem.x, problem.y), mean)
        if found := _explained(steps, there, problem, form):
            both = {name: gradients.total()[name] + there.total()[name] for name in steps}
            kept = all(_near(steps[name], both[name] / problem.m, form) for name in steps)
            wrong = (
                [WrongUpdate("accumulated", "", method)]
                if kept
                else [WrongUpdate("", f"right the first time, but not the second: {says}", method) for _, says in found]
            )
    return wrong or (_check_epoch(form, problem) if certain else [])


class _Gradients:
    """A candidate's own gradients, as sums over the examples."""

    def __init__(self, form: NetworkForm, problem: Problem, mean: bool) -> None:
        self.single = [_short(form.observe(one).gradient) for one in problem.examples()]
        self.form, self.problem = form, problem
        self.scale = problem.m if mean else 1

    def total(self) -> Parameters:
        gradient = _short(self.form.observe(self.problem).gradient)
        return {name: self.scale * array for name, array in gradient.items()}

    def one_by_one(self, rate: float) -> Parameters:
        """What is subtracted in all, over eta, if the weights are changed at this rate after each example."""
        now = self.problem
        for place in range(now.m):
            (one,) = Problem(now.weights, now.biases, *_example(self.problem, place)).examples()
            gradient = _short(self.form.observe(one).gradient)
            moved = {name: value - rate * gradient[name] for name, value in _held(now).items()}
            now = Problem(*_lists(moved), now.x, now.y)
        start, end = _held(self.problem), _held(now)
        return {name: (start[name] - end[name]) / ETA for name in start}


def _example(problem: Problem, place: int) -> tuple[Array, Array]:
    return problem.x[:, place : place + 1], problem.y[:, place : place + 1]


def _short(gradient: Parameters) -> Parameters:
    """dC/dW(1) -> W(1); a bias as a column."""
    return {n[4:]: array if n.startswith("dC/dW") else array.reshape(-1, 1) for n, array in gradient.items()}


def _held(problem: Problem) -> Parameters:
    named = {f"W({layer})": w for layer, w in enumerate(problem.weights, 1)}
    return named | {f"b({layer})": b for layer, b in enumerate(problem.biases, 1)}


def _parameters(form: NetworkForm, network: Any) -> Parameters:
    weights, biases = form.parameters(network)
    return _held(Problem(weights, biases, np.zeros((1, 0)), np.zeros((1, 0))))


def _lists(parameters: Parameters) -> tuple[list[Array], list[Array]]:
    return ([v for n, v in parameters.items() if n[0] == "W"], [v for n, v in parameters.items() if n[0] == "b"])


def _near(one: Array, other: Array, form: NetworkForm) -> bool:
    """Equal but for rounding, which is that of the weights, as `one` is a difference of them."""
    tolerance = 1e-9 if form.dtype == "float64" else 1e-4
    return bool(np.linalg.norm(one - other) <= tolerance * (1 + np.linalg.norm(other)))


def _explained(steps: Parameters, gradients: _Gradients, problem: Problem, form: NetworkForm) -> list[tuple[str, str]]:
    """The mistakes in what was subtracted, over eta; none if it is the mean gradient."""
    m = problem.m
    total = gradients.total()
    if all(_near(steps[name], total[name] / m, form) for name in steps):
        return []
    if not any(step.any() for step in steps.values()):
        return [("not-updated", "no parameter is updated")]
    bases: list[tuple[str, Callable[[], Parameters]]] = [
        ("", gradients.total),
        ("one-example", lambda: gradients.single[-1]),
        ("one-example", lambda: gradients.single[0]),
    ]
    for mistakes, rate in ((["online"], ETA / m), (["online", "not-divided"], ETA)):
        moved = gradients.one_by_one(rate)
        if all(_near(steps[name], moved[name], form) for name in steps):
            return [(mistake, "") for mistake in mistakes]
    for mistake, base in bases:
        values = base()
        ratios = {name: _ratio(steps[name], values[name], form) for name in steps if values[name].any()}
        if all(ratio is not None for ratio in ratios.values()) and any(ratios.values()):
            found = [(mistake, "")] if mistake else []
            return found + _factors({n: r for n, r in ratios.items() if r is not None}, m, bool(mistake))
    wrong = [name for name in steps if not _near(steps[name], total[name] / m, form)]
    return [("", f"{', '.join(wrong)}: what is subtracted is not eta/m times the sum of its own gradients")]


def _ratio(step: Array, base: Array, form: NetworkForm) -> float | None:
    """The number that `step` is of `base`; None if it is no multiple."""
    ratio = float(np.vdot(step, base) / max(float(np.vdot(base, base)), 1e-300))
    return (ratio if abs(ratio) > 1e-9 else 0.0) if _near(step, ratio * base, form) else None


def _factors(ratios: dict[str, float], m: int, one_is_fine: bool) -> list[tuple[str, str]]:
    known = {1 / m: "", 1.0: "" if one_is_fine else "not-divided", 1 / m**2: "divided-twice", ETA / m: "eta-twice"}
    known |= {1 / (ETA * m): "eta-forgotten", 1 / 50: "divided-by-all"}
    found: dict[str, str] = {}
    which: dict[str, list[str]] = {}  # the parameters, by the mistake in their update
    moved = {name: ratio for name, ratio in ratios.items() if ratio}
    if len(moved) < len(ratios):
        still = [name for name in ratios if name not in moved]
        found["not-updated"] = f"not updated: {', '.join(still)}"
    for name, ratio in moved.items():
        if ratio < 0:
            which.setdefault("ascent", []).append(name)
        mistake = next((value for factor, value in known.items() if abs(abs(ratio) / factor - 1) < 1e-4), None)
        if mistake is None:
            says = f"what is subtracted is {ratio * m:.6g} times eta/m times the sum of its gradients"
            found.setdefault("", f"{name}: {says}")
        elif mistake:
            which.setdefault(mistake, []).append(name)
    for mistake, names in which.items():
        says = BY_NAME[mistake].says
        found[mistake] = "" if len(names) == len(ratios) else f"{', '.join(names)}: {says}"
    return [*found.items()]


def _check_epoch(form: NetworkForm, problem: Problem) -> list[WrongUpdate]:
    """One epoch of a method as the book's SGD, on copies of one example, so that their order is of no matter."""
    network = form.instance(problem)
    pattern = rf"training_?data, epochs?, (mini_?)?batch_?size, ({ETA_NAME})"
    found = [
        method
        for method in methods(network, DESCENT, [4])
        if re.fullmatch(pattern, ", ".join(positional(method)), re.IGNORECASE)
    ]
    if not found:
        return []
    descent, size, count = found[0], 4, 9  # three mini-batches: as many as no mini-batch has examples
    one = problem.examples()[0]
    pair = form.layout.given(one, form.dtype)[2:]
    data = [deepcopy(pair) for _ in range(count)]
    calling(descent, data, 1, size, ETA, file=form.file, problem=one)
    after = _parameters(form, network)

    def steps(rates: Sequence[float]) -> Parameters:
        now = Problem(problem.weights, problem.biases, one.x, one.y)
        for rate in rates:
            gradient = _short(form.observe(now).gradient)
            now = Problem(*_lists({n: v - rate * gradient[n] for n, v in _held(now).items()}), one.x, one.y)
        return _held(now)

    def equal(rates: Sequence[float]) -> bool:
        return all(_near(after[name], value, form) for name, value in steps(rates).items())

    if equal([ETA] * 3):
        return []
    for mistake, rates in (
        ("shorter-dropped", [ETA] * 2),
        ("shorter-divided", [ETA, ETA, ETA / size]),
        ("divided-by-all", [ETA * size / count, ETA * size / count, ETA / count]),
        ("divided-by-all", [ETA * size / 3, ETA * size / 3, ETA / 3]),
        ("not-divided", [ETA * size, ETA * size, ETA]),
    ):
        if equal(rates):
            return [WrongUpdate(mistake, "", descent)]
    return [
        WrongUpdate("", f"an epoch of {count} examples in mini-batches of {size} is not 3 updates by eta/m", descent)
    ]
