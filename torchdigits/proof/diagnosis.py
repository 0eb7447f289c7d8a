"""Is somebody's back-propagation right? If not: which equation, and what was written instead.

A candidate is asked for gradients of small networks of odd sizes, and of digits. They are held against back-propagation
by hand, within what rounding explains. If they differ, each mistake of `mistakes.py`, alone and in pairs, is computed
in turn: the diagnosis is the one whose gradient the candidate's equals, to rounding. If none is equal, it says what it
knows, and guesses nothing.
"""

import inspect
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from math import frexp
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from torchdigits.errors import CandidateError
from torchdigits.proof.candidates import (
    EPS,
    MANY,
    SIZES,
    Examples,
    Form,
    Observed,
    RaisedError,
    calling,
    described,
    file_of,
    fits,
    line_of_method,
    positional,
)
from torchdigits.proof.forms import FunctionForm, NetworkForm, UpdateForm, function_form, network_form
from torchdigits.proof.lines import Target, line_of, same
from torchdigits.proof.mistakes import BY_NAME, SHOULD, WORDS, Equation, Hypothesis, hypotheses, where
from torchdigits.proof.reference import Array
from torchdigits.proof.rounding import rounding_bounds
from torchdigits.proof.steps import Problem, Steps
from torchdigits.proof.updates import check_update

_FREE = (SIZES, (4, 3), (9, 6, 5, 2))  # layers that a candidate is asked for, if it can have any
_SQUARE = ((5, 5, 5), (5, 5, 5, 5), (5, 5))  # those of a candidate that cannot compute with the others
_TINY = {EPS["float64"]: 2.0**-960}  # norms below which underflow may have taken bits; 2^-100 in the other precisions


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with a candidate.

    Attributes:
        equation: the one that is broken; None if that cannot be told.
        layer: "every", "hidden", "output" or "first" layer, or "images"; None if it belongs to no layer.
        mistake: its name, as in docs/mistakes.md; "unknown" if it is none of those.
        explanation: what the candidate does, and why it is wrong.
        line: of the candidate's file; None if that cannot be told.
    """

    equation: Equation | None
    layer: str | None
    mistake: str
    explanation: str
    line: int | None = None


@dataclass(frozen=True)
class Compared:
    """The largest deviation of one thing from back-propagation by hand: of a gradient, the outputs, or the cost.

    Attributes:
        relative: norm of the difference over norm of what is right.
        bound: how large that may be by rounding alone.
        ulps: the largest difference of an element, in units in the last place of the largest element.
    """

    name: str
    relative: float
    bound: float
    ulps: float

    @property
    def right(self) -> bool:
        """Whether rounding explains it."""
        return self.relative <= self.bound


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        form: what the candidate is taken for.
        faults: what is wrong; empty if nothing is.
        largest: of a right candidate, the deviation that comes nearest to its bound.
        problems: how many it was compared on.
        parts: of a wrong one, each gradient of one problem, from the output back.
        shown: which problem that is, in words.
        note: what else there is to say.
    """

    name: str
    form: str
    faults: list[Fault]
    largest: Compared
    problems: int
    parts: list[Compared] = field(default_factory=list)
    shown: str = ""
    note: str = ""
    source: str = ""

    @property
    def right(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        numbers = {"relative_error": self.largest.relative, "bound": self.largest.bound, "ulps": self.largest.ulps}
        findings = [
            {key: getattr(fault, key) for key in ("equation", "layer", "mistake", "explanation", "line")}
            for fault in self.faults
        ]
        return {"right": self.right, "form": self.form, **(numbers if self.right else {}), "findings": findings}

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.form}."]
        if self.right:
            worst = self.largest
            lines.append(f"Right: all gradients of {self.problems} mini-batches agree with back-propagation by hand.")
            lines.append(
                f"Largest relative error: {worst.relative:.1e}, of {worst.name} ({worst.ulps:.1f} ulps); rounding "
                f"explains {worst.bound:.1e}."
            )
        for fault in self.faults:
            place = f", {WORDS.get(fault.layer, fault.layer)}" if fault.layer else ""
            at = f", line {fault.line}" if fault.line else ""
            lines += ["", f"Wrong: {fault.equation or 'somewhere'}{place}{at}"]
            if fault.line and (text := self._line(fault.line)):
                lines.append(f"    {text}")
            lines += textwrap.wrap(fault.explanation, 100, initial_indent="  ", subsequent_indent="  ")
            if fault.equation:
                lines.append(f"  It should be: {SHOULD[fault.equation]}")
            if fault.mistake in BY_NAME:
                lines += [f"  It has happened to others: {seen}"] if (seen := BY_NAME[fault.mistake].seen) else []
        if self.parts:
            lines += ["", f"From the output back, of {self.shown}:"]
            for part in self.parts:
                error = f"relative error {part.relative:.1e}, rounding explains {part.bound:.1e}"
                lines.append(f"  {part.name:<10}{'right' if part.right else f'wrong: {error}'}")
        return "\n".join([*lines, *([self.note] if self.note else [])])

    def _line(self, number: int) -> str:
        try:
            return Path(self.source).read_text(encoding="utf-8").splitlines()[number - 1].strip()
        except (OSError, IndexError, UnicodeDecodeError):
            return ""


def check(
    candidate: Any,
    *,
    examples: Examples = "auto",
    dtype: Literal["float64", "float32"] | None = None,
    problems: Sequence[Problem] | None = None,
) -> Diagnosis:
    """Hold somebody's back-propagation against ours, and say what is wrong with it.

    Args:
        candidate: a class as the book's `Network(sizes)`, with weights, biases and backprop(x, y); a function
            `(weights, biases, x, y) -> gradients`; or a class of a torch.nn.Module, Lightning's too. A function
            that makes one, of sizes or of nothing, will do. It is called many times, with weights of ours.
        examples: whether it computes the gradient of one example or of a mini-batch; "auto" finds out.
        dtype: of the arrays that a candidate in NumPy is given. Default: a class's own, float64 for a function.
        problems: what to ask it for. Default: small networks of odd sizes, and digits.

    Raises:
        CandidateError: it cannot be called, or gives something else than gradients.
    """
    form = form_of(candidate, examples)
    form.dtype = dtype or form.dtype
    name = getattr(candidate, "__name__", type(candidate).__name__)
    observed, raised = _observe(form, problems)
    rounding, mean, eps = _judge(observed)
    faults = [*_stateful(form, observed[0].problem)]
    worst = max((one for parts in rounding for one in parts), key=_excess)
    wrong = [number for number, parts in enumerate(rounding) if not all(one.right for one in parts)]
    parts: list[Compared] = []
    main = 0
    notes = ["Its numbers are as exact as float32's, not float64's."] if eps > observed[0].eps else []
    known = not faults  # else it is not the same twice, and an update tells nothing
    if wrong and (known or not isinstance(form, FunctionForm)):
        found, means = _diagnose(form, observed, raised)
        if not found and raised is None and form.sizes is None and not all(map(fits, observed)):
            square = [*map(form.observe, _squares(form))]
            found, means = _diagnose(form, square, None)
        known, mean = known and bool(found), means if found else mean
        if not found and not faults:
            found = [_unknown(observed, rounding, wrong, mean, raised)]
        faults += found
        main = _main(observed, wrong)
        parts = rounding[main]
    if isinstance(form, UpdateForm):
        faults += [] if mean or not known else [_fault("not-divided")]
    elif isinstance(form, NetworkForm) and known and raised is None and all(map(fits, observed)):
        faults += _updates(form, observed[0].problem.sizes, mean, certain=not faults)
    if eps == EPS["float16"]:
        faults.append(_fault("float16"))
    if not faults and raised is not None:
        raise raised
    shown = described(observed[main].problem)
    return Diagnosis(name, form.says, faults, worst, len(observed), parts, shown, " ".join(notes), form.file)


def assert_gradients_agree(candidate: Any, **options: Any) -> None:
    """For a test: the candidate's gradients are right, to rounding.

    Args:
        candidate, options: as in `check`.

    Raises:
        AssertionError: they are not; with the report.
        CandidateError: it cannot be called, or gives something else than gradients.
    """
    diagnosis = check(candidate, **options)
    if not diagnosis.right:
        raise AssertionError(str(diagnosis))


def form_of(candidate: Any, examples: Examples = "auto") -> Form:
    """In which way a candidate is written.

    Raises:
        CandidateError: in none that is known.
    """
    if not callable(candidate):  # whatever its type says
        kind = type(candidate).__name__
        raise CandidateError(f"a {kind} is no candidate; expected a class, a function, or a torch.nn.Module's class")
    torch = sys.modules.get("torch")
    made: Any = candidate
    if not inspect.isclass(candidate) and len(needed := positional(candidate)) <= 1:  # a function that makes one
        file = file_of(candidate)
        made = type(calling(candidate, *([[*SIZES]] if needed else []), file=file))
    if torch is not None and inspect.isclass(made) and issubclass(made, torch.nn.Module):
        from torchdigits.proof.torch_forms import module_form

        return module_form(candidate, _rightness)
    if inspect.isclass(made):
        return network_form(candidate, examples, _rightness)
    return function_form(candidate, examples, _rightness)


def _problems(form: Form) -> list[Problem]:
    make = partial(Problem.random, dtype=form.dtype)
    if form.sizes is not None:
        scale = 1.0 if max(form.sizes) < 100 else max(form.sizes) ** -0.5  # so that not all neurons are saturated
        return [make(form.sizes, m, scale=scale) for m in (MANY, 1)]
    small = [make(sizes, m) for sizes in _FREE for m in (MANY, 1)]
    return [*small, Problem.digits(dtype=form.dtype)]


def _squares(form: Form) -> list[Problem]:
    return [Problem.random(sizes, m, dtype=form.dtype) for sizes in _SQUARE for m in (MANY, 5)]


def _observe(form: Form, problems: Sequence[Problem] | None) -> tuple[list[Observed], RaisedError | None]:
    """What the candidate gives for each problem; if it raises an exception, for layers of one size, with that."""
    try:
        return [*map(form.observe, problems or _problems(form))], None
    except RaisedError as error:
        if form.sizes is not None or problems is not None:
            raise
        observed: list[Observed] = []
        for problem in _squares(form):
            try:
                observed.append(form.observe(problem))
            except RaisedError:
                continue  # five examples may fit where four do not
        if not observed:
            raise
        return observed, error


def _compare(observed: Observed, eps: float, mean: bool) -> list[Compared]:
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


def _excess(compared: Compared) -> float:
    return compared.relative / compared.bound


def _rightness(observed: Observed) -> float:
    """How many of its gradients are right, as sums or as means."""
    return max(sum(one.right for one in _compare(observed, observed.eps, mean)) for mean in (False, True))


def _judge(observed: Sequence[Observed]) -> tuple[list[list[Compared]], bool, float]:
    """All comparisons; whether the candidate gives means; and the spacing of numbers by which they were judged.

    That is the spacing of the candidate's own numbers, or that of float32 or float16, if only that explains them.
    """
    own = max(one.eps for one in observed)
    best: tuple[list[list[Compared]], bool, float] | None = None
    most, exact = -1, list[Compared]()
    for eps in (own, EPS["float32"], EPS["float16"]):
        if eps < own:
            continue
        for mean in (False, True):
            parts = [_compare(one, eps, mean) for one in observed]
            right = sum(one.right for several in parts for one in several)
            every = [one for several in parts for one in several]
            # float16 explains much: it is only believed where every gradient is that inexact
            believed = eps < EPS["float16"] or own == eps or not any(one.right for one in exact)
            if all(one.right for one in every) and believed:
                return parts, mean, eps
            exact = [one for one in every if one.name.startswith("dC")] if eps < EPS["float16"] else exact
            if eps == own and right > most:
                best, most = (parts, mean, eps), right
    assert best is not None
    return best


def _stateful(form: Form, problem: Problem) -> Iterator[Fault]:
    """What shows when the candidate is called twice, and what it changes that is not its own."""
    try:
        first, second = form.again(problem)
    except RaisedError:
        return  # it is known already that it raises
    fresh = form.observe(first.problem)
    names = list(first.gradient)

    def all_same(one: Observed, other: Observed, factor: float = 1.0) -> bool:
        return all(same(one.gradient[n], factor * other.gradient[n], 1e-6) for n in names)

    if form.changed:
        which = " and ".join(sorted(form.changed))
        yield _fault("in-place", f"it changes {which} in place, which it was given to read")
    elif all_same(second, fresh, 2.0):
        yield _fault("accumulated")
    elif not all_same(second, fresh):
        yield _fault("unknown", "called twice with the same arguments, it gives different gradients")
    elif not all_same(first, fresh):
        raise CandidateError(
            "the arrays that it returns are written again by its next call; expected new ones for each call"
        )
    if form.reversed:
        yield _fault("reversed")


def _updates(form: NetworkForm, sizes: Sequence[int], mean: bool, certain: bool) -> list[Fault]:
    """What is wrong with a class's own update; that it fails says nothing unless the gradient is right for certain."""
    try:
        found = check_update(form, Problem.random(sizes, MANY, dtype=form.dtype), mean)
    except CandidateError:
        if certain:
            raise
        return []
    return [
        _fault(name or "unknown", says, line=line_of_method(method), equation="update") for name, says, method in found
    ]


def _main(observed: Sequence[Observed], wrong: Sequence[int]) -> int:
    """Of the problems that are wrong, the one to show: two layers and several examples, if it shows there."""

    def key(number: int) -> tuple[int, int]:
        return abs(len(observed[number].problem.weights) - 2), -observed[number].problem.m

    return min(wrong, key=key)


def _diagnose(form: Form, observed: Sequence[Observed], raised: RaisedError | None) -> tuple[list[Fault], bool]:
    """The mistakes, one or two, whose gradients equal the candidate's, if there are any; and whether it gives means."""
    small = [one for one in observed if form.sizes is not None or max(one.problem.sizes) < 100]
    found, mean = explain(
        small, len(form.sizes) - 1 if form.sizes else 0, (False,) if form.per_example else (False, True)
    )
    faults = []
    for number, hypothesis in enumerate(found):
        line = _line(form, small, found[: number + 1]) or (raised.line if raised and not number else None)
        says = (
            f"With layers of different sizes it raises {raised.says}. With layers of one size"
            if raised and not number
            else ""
        )
        faults.append(_fault(hypothesis.mistake.name, "", hypothesis, line, says))
    return faults, mean


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
        changed = frozenset(name for name, value in gradient.items() if not _equal(value, right[name], 1e-12))
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
    return _equal(observed.gradient[name], value, max(1e-9, 1000 * observed.eps) if observed.eps < 1e-4 else 0.05)


def _equal(one: Array, other: Array, tolerance: float) -> bool:
    """Equal but for rounding, of the same shape; a column is as good as a row."""
    one, other = np.squeeze(one), np.squeeze(other)
    if one.shape != other.shape:
        return False
    return bool(np.linalg.norm(one - other) <= tolerance * np.linalg.norm(other))


def _line(form: Form, observed: Sequence[Observed], found: Sequence[Hypothesis]) -> int | None:
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
            if _equal(value, before.values[name], 1e-9):
                continue
            twin = any(same(value, right, 1e-6) for other, right in before.values.items() if other != name)
            step, layer = name.split("(")
            kind: Literal["second", "last", "last or list"] = "last"
            kind = "second" if step == "a" else "last or list" if step.startswith("dC") else kind
            z = None if images else after.values.get(f"z({layer}")
            shown = value / problem.m if divided and step in {"error", "carried", "delta"} else value
            targets.append(Target(shown, z, step in {"slope", "a"}, kind if twin else "", step == "error"))
    return targets


def _fault(
    name: str,
    says: str = "",
    hypothesis: Hypothesis | None = None,
    line: int | None = None,
    before: str = "",
    equation: Equation | None = None,
) -> Fault:
    """A mistake of the catalogue, or one that is not in it."""
    if name == "unknown":
        return Fault(equation, None, name, f"{_capital(says)}.", line)
    mistake = BY_NAME[name]
    said = says or mistake.says
    text = f"{before} {said}. {mistake.why}" if before else f"{_capital(said)}. {mistake.why}"
    if hypothesis is None:
        assert mistake.equation != "slope"
        return Fault(mistake.equation, None, name, text, line)
    place = None if mistake.equation == "update" else hypothesis.place
    return Fault(hypothesis.equation, place, name, text, line)


def _capital(text: str) -> str:
    """With a capital, unless it begins with a formula."""
    return text[0].upper() + text[1:] if text.split(maxsplit=1)[0].isalpha() else text


def _unknown(
    observed: Sequence[Observed],
    rounding: Sequence[Sequence[Compared]],
    wrong: Sequence[int],
    mean: bool,
    raised: RaisedError | None,
) -> Fault:
    """What is known of a mistake that is none of the catalogue's.

    Raises:
        CandidateError: the gradients have shapes that fit nothing.
    """
    number = _main(observed, wrong)
    one, parts = observed[number], rounding[number]
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
        return Fault("forward", None, "unknown", "The outputs are wrong, and by no mistake that is known here.")
    if all(observed[n].problem.m > 1 for n in wrong) and any(o.problem.m == 1 for o in observed):
        text = "The gradient is right for one example, but not for a mini-batch."
        return Fault("update", None, "unknown", text)
    truth = Steps(one.problem, (), mean).gradient
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
        said = "nothing is right" if last and not b and not w else f"right up to layer {layer + 1}" if not last else ""
        names = " and ".join(f"dC/d{kind}({layer})" for kind, right in (("b", b), ("W", w)) if not right)
        text = f"{names} {'are' if ' and ' in names else 'is'} wrong, by no mistake that is known here"
        known = [f"dC/d{kind}({layer})" for kind in "bW" if ratios[f"dC/d{kind}({layer})"] is not None]
        if known:
            text += "; " + ", ".join(f"{n} is {ratios[n]:.6g} times what it should be" for n in known)
        place = "output" if last else "first" if layer == 1 else f"layer {layer}"
        return Fault(equation, place, "unknown", f"{text}{'; ' + said if said else ''}.")
    raise AssertionError("something is wrong, but no gradient")  # the cost alone


def _multiple(value: Array, truth: Array) -> float | None:
    ratio = float(np.vdot(value, truth) / np.vdot(truth, truth))
    return ratio if _equal(value, ratio * truth, 1e-6) else None
