"""Which mistake gives exactly what a candidate gave: each is computed in turn, alone and in pairs."""

from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np

from torchdigits.proof.diagnosis.candidates import EPS, Form, Observed
from torchdigits.proof.diagnosis.functions import FunctionForm
from torchdigits.proof.diagnosis.lines import Target, line_of, same
from torchdigits.proof.diagnosis.mistakes import Hypothesis, hypotheses, where
from torchdigits.proof.diagnosis.networks import NetworkForm
from torchdigits.proof.diagnosis.steps import Problem, Steps
from torchdigits.proof.reference import Array


def explain(
    observed: Sequence[Observed], layers: int = 0, means: Sequence[bool] = (False, True)
) -> tuple[list[Hypothesis], bool]:
    """One or two mistakes that give exactly these gradients; of several that do, the first. None, if there are none.

    With it, whether the gradient of a mini-batch is the mean over its examples.

    Args:
        observed: a candidate's gradients for some problems.
        layers: if the candidate can have only so many, their number.
        means: whether the gradient of a mini-batch may be a sum, and a mean over its examples.
    """
    # That of most layers first, as it tells most places apart.
    ordered = sorted(observed, key=lambda one: (-len(one.problem.weights), -one.problem.m))
    known = [*hypotheses(layers)]
    for mean in means:
        for hypothesis in known:
            if _fits_all(ordered, [hypothesis], mean):
                return [hypothesis], mean
    for mean in means:
        # Of a pair, what one leaves as it is has to match by the other alone.
        effects = _effects(ordered, known, mean)
        names = frozenset(ordered[0].gradient)
        for one, other in combinations(effects, 2):
            if names - one.changed - other.matched or names - other.changed - one.matched:
                continue
            forward = None if one.forward and other.forward else (one if one.forward else other).steps
            if _fits_all(ordered, [one.hypothesis, other.hypothesis], mean, forward):
                return [one.hypothesis, other.hypothesis], mean
    return [], False


class _Effect(NamedTuple):
    hypothesis: Hypothesis
    steps: Steps  # with this mistake, for the first problem
    forward: bool  # whether it is in the pass forward
    changed: frozenset[str]  # the gradients that it changes
    matched: frozenset[str]  # those that are then as observed


def _effects(ordered: Sequence[Observed], known: Sequence[Hypothesis], mean: bool) -> list[_Effect]:
    """The mistakes that have an effect on the first problem, each one once."""
    first, last = ordered[0], ordered[-1]
    right = Steps(first.problem, (), mean).gradient
    effects: list[_Effect] = []
    seen: set[bytes] = set()
    for hypothesis in known:
        steps, there = (_steps(one.problem, [hypothesis], mean) for one in (first, last))
        if steps is None or there is None:
            continue
        gradient = steps.gradient
        mark = b"".join(np.round(value, 12).tobytes() for value in [*gradient.values(), *there.gradient.values()])
        changed = frozenset(name for name, value in gradient.items() if not equal(value, right[name], 1e-12))
        if changed and mark not in seen:
            seen.add(mark)
            matched = frozenset(name for name, value in gradient.items() if _matches(first, name, value))
            effects.append(_Effect(hypothesis, steps, not {"a", "z"}.isdisjoint(hypothesis.way), changed, matched))
    return effects


def _changes(found: Sequence[Hypothesis]) -> list[tuple[Any, Any]]:
    return [(hypothesis.way, where(hypothesis.place)) for hypothesis in found]


def _steps(problem: Problem, found: Sequence[Hypothesis], mean: bool) -> Steps | None:
    """The steps with some mistakes; None if their arrays do not fit these layers."""
    try:
        return Steps(problem, _changes(found), mean)
    except (ValueError, IndexError):
        return None


def _fits_all(
    observed: Sequence[Observed], found: Sequence[Hypothesis], mean: bool, forward: Steps | None = None
) -> bool:
    """Whether these mistakes give all that was observed; `forward` has their pass forward for the first problem."""
    for one in observed:
        wanted = partial(_matches, one)
        try:
            steps = Steps(one.problem, _changes(found), mean, wanted, forward)
        except (ValueError, IndexError):
            return False  # their arrays do not fit these layers
        if len(steps.gradient) < len(one.gradient) or not wanted("dC/dW(1)", steps.gradient["dC/dW(1)"]):
            return False
        forward = None
    return True


def _matches(observed: Observed, name: str, value: Array) -> bool:
    return equal(observed.gradient[name], value, max(1e-9, 1000 * observed.eps) if observed.eps < 1e-4 else 0.05)


def equal(one: Array, other: Array, tolerance: float) -> bool:
    """Equal but for rounding, of the same shape; a column is as good as a row."""
    one, other = np.squeeze(one), np.squeeze(other)
    if one.shape != other.shape:
        return False
    return bool(np.linalg.norm(one - other) <= tolerance * np.linalg.norm(other))


def line_of_mistake(form: Form, observed: Sequence[Observed], found: Sequence[Hypothesis]) -> int | None:
    """The line that computes what the last of these mistakes makes wrong."""
    if not form.file:
        return None
    tolerance = 1e-9 if observed[0].eps == EPS["float64"] else 1e-4
    divided = not isinstance(form, (FunctionForm, NetworkForm))
    problems = [whole.problem.examples()[0] if form.per_example else whole.problem for whole in observed]
    for problem in sorted(problems, key=lambda p: (abs(len(p.weights) - 2), -p.m)):
        if targets := _targets(problem, found, divided):
            return line_of(targets, form.file, partial(form.observe, problem), tolerance)
    return None


def _targets(problem: Problem, found: Sequence[Hypothesis], divided: bool) -> list[Target]:
    """What the last of these mistakes makes wrong, in the order in which it is computed.

    Args:
        divided: whether the errors are those of a mean, as in autograd.
    """
    targets: list[Target] = []
    for mean in (False, True):
        try:
            before, after = (Steps(problem, _changes(several), mean) for several in (found[:-1], found))
        except (ValueError, IndexError):
            continue  # it does not fit these layers
        for name, value in after.values.items():
            images = name == "a(0)"
            if value.size < 2 or (np.ptp(value) == 0 and value.flat[0] in {0, 1} and not images):
                continue  # zeros and ones are everywhere
            if equal(value, before.values[name], 1e-9):
                continue
            twin = any(same(value, right, 1e-6) for other, right in before.values.items() if other != name)
            step, layer = name.split("(")
            kind: Literal["second", "last", "last or list"] = "last"
            kind = "second" if step in {"a", "carried"} else "last or list" if step.startswith("dC") else kind
            z = None if images else after.values.get(f"z({layer}")
            shown = value / problem.m if divided and step in {"error", "carried", "delta"} else value
            targets.append(Target(shown, z, step in {"slope", "a"}, kind if twin else "", step == "error"))
    return targets
