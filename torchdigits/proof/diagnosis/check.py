"""Is somebody's back-propagation right? If not: which equation, and what was written instead.

A candidate is asked for gradients of small networks of odd sizes, and of digits. They are held against back-propagation
by hand, within what rounding explains. If they differ, each mistake of `mistakes.py`, alone and in pairs, is computed
in turn: the diagnosis is the one whose gradient the candidate's equals, to rounding. If none is equal, it says what it
knows, and guesses nothing.
"""

import inspect
import sys
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from torchdigits.errors import CandidateError
from torchdigits.proof.diagnosis.candidates import (
    EPS,
    MANY,
    SHAPES,
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
from torchdigits.proof.diagnosis.comparing import Judged, judge, rightness
from torchdigits.proof.diagnosis.functions import FunctionForm, function_form
from torchdigits.proof.diagnosis.lines import same
from torchdigits.proof.diagnosis.mistakes import BY_NAME
from torchdigits.proof.diagnosis.networks import NetworkForm, UpdateForm, network_form
from torchdigits.proof.diagnosis.report import Diagnosis, Fault, fault_of
from torchdigits.proof.diagnosis.search import explain, line_of_mistake
from torchdigits.proof.diagnosis.steps import Problem
from torchdigits.proof.diagnosis.unexplained import main_of, other_cost, unexplained, wrong_outputs
from torchdigits.proof.diagnosis.updates import check_update

_FREE = (SIZES, (4, 3), (9, 6, 5, 2))  # layers that a candidate is asked for, if it can have any


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
    judged = judge(observed)
    faults = [*_stateful(form, observed[0].problem)]
    steady = not faults  # else it is not the same twice, and an update tells nothing
    mean, notes = judged.mean, []
    if judged.wrong_names - {"outputs", "cost"} and (steady or not isinstance(form, FunctionForm)):
        found, mean = _diagnose(form, observed, judged, raised)
        if not found and not faults:
            found = [unexplained(observed, judged, raised)]
        steady = steady and all(fault.mistake != "unknown" for fault in found)
        faults += found
    if "outputs" in judged.wrong_names and all(fault.equation != "forward" for fault in faults):
        faults.append(wrong_outputs(observed))
    elif judged.wrong_names == {"cost"}:
        notes.append(other_cost(observed))
    if isinstance(form, UpdateForm):
        faults += [] if mean or not steady else [fault_of("not-divided")]
    elif isinstance(form, NetworkForm) and steady and raised is None and all(map(fits, observed)):
        faults += _updates(form, observed[0].problem.sizes, mean, certain=not faults)
        if _cancel(faults):
            observed = [replace(one, gradient={n: -g for n, g in one.gradient.items()}) for one in observed]
            judged, faults = judge(observed), []
            notes.append("Its gradient has the other sign, and its update adds it: together they are right.")
    if judged.eps == EPS["float16"]:
        faults.append(fault_of("float16"))
    elif judged.eps > observed[0].eps:
        notes.append("Its numbers are as exact as float32's, not float64's.")
    if not faults and raised is not None:
        raise raised
    main = main_of(observed, judged.wrong) if faults and judged.wrong else None
    shown = "" if main is None else described(observed[main].problem)
    parts = [] if main is None else judged.parts[main]
    return Diagnosis(name, form.says, faults, judged.largest, len(observed), parts, shown, " ".join(notes), form.file)


def _cancel(faults: Sequence[Fault]) -> bool:
    """Whether all that is wrong is y - a in BP1 and a plus in every update: two signs, and the book's algorithm."""
    if [fault.mistake for fault in faults] != ["sign", "ascent"]:
        return False
    return faults[1].explanation.lower().startswith(BY_NAME["ascent"].says)


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
    if torch is not None and isinstance(candidate, torch.nn.Module):
        model = candidate
        candidate = lambda: deepcopy(model)  # noqa: E731
    made: Any = candidate
    if not inspect.isclass(candidate) and len(needed := positional(candidate)) <= 1:  # a function that makes one
        file = file_of(candidate)
        made = type(calling(candidate, *([[*SIZES]] if needed else []), file=file))
    if torch is not None and inspect.isclass(made) and issubclass(made, torch.nn.Module):
        from torchdigits.proof.diagnosis.torch_forms import module_form

        return module_form(candidate, rightness)
    if inspect.isclass(made):
        return network_form(candidate, examples, rightness)
    return function_form(candidate, examples, rightness)


def _problems(form: Form) -> list[Problem]:
    make = partial(Problem.random, dtype=form.dtype)
    if form.sizes is not None:
        scale = 1.0 if max(form.sizes) < 100 else max(form.sizes) ** -0.5  # so that not all neurons are saturated
        return [make(form.sizes, m, scale=scale) for m in (MANY, 1)]
    if form.depth is not None:
        small = [make(sizes, m) for sizes in SHAPES[form.depth][:-1] for m in (MANY, 1)]
    else:
        small = [make(sizes, m) for sizes in _FREE for m in (MANY, 1)]
    return [*small, Problem.digits(dtype=form.dtype)] if form.depth in {None, 2} else small


def _depth(form: Form) -> int | None:
    """Two, if it can have two layers and no other number of them; None if it can have any, or fails in another way."""

    def fails(sizes: tuple[int, ...]) -> bool | None:
        """Whether it cannot have these layers; None if it raises an exception as it computes."""
        try:
            form.observe(Problem.random(sizes, MANY, dtype=form.dtype))
        except RaisedError as error:
            return None if error.problem is not None and error.line is not None else True
        except CandidateError:  # other arrays than there are layers
            return True
        return False

    one, two, three = fails((4, 3)), fails(SIZES), fails((9, 6, 5, 2))
    if three is None:  # that may be a mistake; of one size, they need not fit
        three = fails((5, 5, 5, 5))
    return 2 if two is False and three and one is not False else None


def _squares(form: Form) -> list[Problem]:
    """Layers of one size, for what cannot compute with others."""
    depths = (2, 3, 1) if form.depth is None else (form.depth,)
    return [Problem.random(SHAPES[depth][-1], m, dtype=form.dtype) for depth in depths for m in (MANY, 5)]


def _observe(form: Form, problems: Sequence[Problem] | None) -> tuple[list[Observed], RaisedError | None]:
    """What the candidate gives for each problem; if it raises an exception, for layers of one size, with that."""
    if problems is None and form.sizes is None and form.depth is None:
        form.depth = _depth(form)
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
        yield fault_of("in-place", f"it changes {which} in place, which it was given to read")
    elif not all_same(second, fresh) and all_same(second, fresh, 2.0):
        yield fault_of("accumulated")
    elif not all_same(second, fresh):
        yield fault_of("unknown", "called twice with the same arguments, it gives different gradients")
    elif not all_same(first, fresh):
        raise CandidateError(
            "the arrays that it returns are written again by its next call; expected new ones for each call"
        )
    if form.reversed:
        yield fault_of("reversed")


def _updates(form: NetworkForm, sizes: Sequence[int], mean: bool, certain: bool) -> list[Fault]:
    """What is wrong with a class's own update; that it fails says nothing unless the gradient is right for certain."""
    try:
        found = check_update(form, Problem.random(sizes, MANY, dtype=form.dtype), mean, certain)
    except CandidateError:
        if certain:
            raise
        return []
    return [
        fault_of(name or "unknown", says, line=line_of_method(method), equation="update")
        for name, says, method in found
    ]


def _diagnose(
    form: Form, observed: Sequence[Observed], judged: Judged, raised: RaisedError | None
) -> tuple[list[Fault], bool]:
    """The mistakes, one or two, whose gradients equal the candidate's, if there are any; and whether it gives means."""
    if not any(array.any() for one in observed for array in one.gradient.values()):
        return [Fault("BP1", "output", "unknown", "Every gradient is 0: delta(L) must be 0 already.")], judged.mean
    found, mean = _explained(form, observed, raised)
    if not found and raised is None and form.sizes is None and not all(map(fits, observed)):
        found, mean = _explained(form, [*map(form.observe, _squares(form))], None)
    if "cost" in judged.wrong_names:  # its delta is the same, without that anything is left out
        same_numbers = ("no-slope", "output")
        found = [fault_of("cross-entropy") if (f.mistake, f.layer) == same_numbers else f for f in found]
    return found, mean if found else judged.mean


def _explained(form: Form, observed: Sequence[Observed], raised: RaisedError | None) -> tuple[list[Fault], bool]:
    small = [one for one in observed if form.sizes is not None or max(one.problem.sizes) < 100]
    means = (False,) if form.per_example else (False, True)
    found, mean = explain(small, len(form.sizes) - 1 if form.sizes else 0, means)
    faults = []
    for number, hypothesis in enumerate(found):
        line, says = line_of_mistake(form, small, found[: number + 1]), ""
        if raised and not number:
            line = line or raised.line
            says = f"With layers of different sizes it raises {raised.says}. With layers of one size"
        faults.append(fault_of(hypothesis.mistake.name, "", hypothesis, line, says))
    return faults, mean
