"""Candidates that are functions: of weights, biases, x and y."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from torchdigits.errors import CandidateError
from torchdigits.proof.diagnosis.candidates import (
    DIRECTIONS,
    MANY,
    SHAPES,
    Examples,
    Layout,
    Observed,
    all_same,
    best_form,
    calling,
    file_of,
    named,
    positional,
    together,
)
from torchdigits.proof.diagnosis.names import (
    PARAMETERS,
    meant,
)
from torchdigits.proof.diagnosis.steps import Problem


@dataclass
class FunctionForm:
    """A function `(weights, biases, x, y) -> gradients`."""

    function: Callable[..., Any]
    layout: Layout
    per_example: bool
    order: tuple[str, ...]
    says: str = ""
    sizes: tuple[int, ...] | None = None
    depth: int | None = None
    dtype: str = "float64"
    changed: set[str] = field(default_factory=set)
    reversed: bool = False

    def __post_init__(self) -> None:
        self.file = file_of(self.function)

    def observe(self, problem: Problem) -> Observed:
        """The gradient of a problem."""
        if self.per_example and problem.m > 1:
            return together(problem, [self._call(one)[0] for one in problem.examples()])
        return self._call(problem)[0]

    def again(self, problem: Problem) -> tuple[Observed, Observed]:
        """The same twice; the first as it is after a third call, for other images."""
        first = problem.examples()[0] if self.per_example else problem
        one, raw = self._call(first)
        other, _ = self._call(first)
        self._call(Problem(first.weights, first.biases, 1 - first.x, first.y))
        kept, _, _ = named(raw, self.layout, first, self._what)
        return Observed(first, kept, one.eps), other

    @property
    def _what(self) -> str:
        return f"{getattr(self.function, '__name__', 'the function')} returned"

    def _call(self, problem: Problem) -> tuple[Observed, Any]:
        given = self._given(problem)
        value = calling(self.function, *(given[name] for name in self.order), file=self.file, problem=problem)
        before = self._given(problem)
        changed = {name for name in self.order if not all_same(given[name], before[name])}
        self.changed |= {"params" if name == "pairs" else name for name in changed}
        gradient, eps, self.reversed = named(value, self.layout, problem, self._what)
        return Observed(problem, gradient, eps), value

    def _given(self, problem: Problem) -> dict[str, Any]:
        """The arrays by all names that an argument may have: `weights`, `W1`, and `params` for a dictionary of them."""
        given = dict(zip(PARAMETERS, self.layout.given(problem, self.dtype), strict=True))
        params = {f"W{layer}": w for layer, w in enumerate(given["weights"], 1)}
        params |= {f"b{layer}": b for layer, b in enumerate(given["biases"], 1)}
        return given | params | {"params": params, "pairs": [*zip(given["weights"], given["biases"], strict=True)]}


def function_form(
    function: Callable[..., Any], examples: Examples, rightness: Callable[[Observed], float]
) -> FunctionForm:
    """Find out how a function wants its arrays.

    Raises:
        CandidateError: it takes other arguments.
    """
    order, depth = order_of(function)
    layouts = [
        Layout(weights, biases, direction, torch)
        for torch in ((False, True) if _uses_torch(function) else (False,))
        for (direction, biases), weights in product(DIRECTIONS, ("out, in", "in, out"))
    ]
    orders = [order, *([tuple("pairs" if name == "params" else name for name in order)] if "params" in order else [])]

    def forms(per_example: bool) -> list[FunctionForm]:
        ways = product(orders, [one for one in layouts if per_example or one.examples != "flat"])
        return [FunctionForm(function, layout, per_example, names, depth=depth) for names, layout in ways]

    batches, single = forms(False), forms(True)
    form = None
    if examples != "one":
        form = best_form(batches, rightness, strict=examples == "auto")
    if form is None and examples == "auto":
        likeliest = best_form(batches, rightness, strict=False)
        form = likeliest if likeliest is not None and _gives_a_mean(likeliest, rightness) else None
    if form is None and examples != "mini-batch":
        form = best_form(single, rightness, strict=False)
    form = form or (single if examples == "one" else batches)[0]  # it may work on another number of layers
    of, examples_in = "an example" if form.per_example else "a mini-batch", form.layout.examples
    form.says = f"a function of {of}, weights ({form.layout.weights}), "
    form.says += "x (inputs,)" if examples_in == "flat" else f"examples in {examples_in}"
    return form


def _gives_a_mean(form: FunctionForm, rightness: Callable[[Observed], float]) -> bool:
    """Whether some gradients are right, and those of all weights means, the same for an example given many times."""
    sizes = SHAPES[form.depth or 2][0]
    one, mixed = (Problem.random(sizes, m, dtype=form.dtype) for m in (1, MANY))
    many = Problem(one.weights, one.biases, one.x.repeat(MANY, axis=1), one.y.repeat(MANY, axis=1))
    try:
        right = rightness(form.observe(mixed)) > 0
        once, often = (form.observe(problem).gradient for problem in (one, many))
    except CandidateError:
        return False
    names = [name for name in once if name.startswith("dC/dW")]
    return right and all(once[n].shape == often[n].shape and np.allclose(once[n], often[n], atol=0) for n in names)


def order_of(function: Callable[..., Any]) -> tuple[tuple[str, ...], int | None]:
    """What a function's arguments are, in order, by the names of `FunctionForm`; and for how many layers, if it says.

    Raises:
        CandidateError: they are something else.
    """
    names = positional(function)
    numbered = [re.fullmatch(r"(w|b)(?:eights?|ias)?_?(\d)", name, re.IGNORECASE) for name in names]
    layers = len([match for match in numbered if match]) // 2
    known = [
        f"{'W' if match[1] in 'wW' else 'b'}{match[2]}" if match else meant(n)
        for n, match in zip(names, numbered, strict=True)
    ]
    expected = {f"{kind}{layer}" for kind in "Wb" for layer in range(1, layers + 1)} | {"x", "y"}
    if layers in SHAPES and {*known} == expected and len(known) == len(expected):
        return tuple(known), layers
    if sorted(known) == ["params", "x", "y"]:
        return tuple(known), None
    if len(names) != 4 or layers:
        said = f"{getattr(function, '__name__', 'function')}({', '.join(names)})"
        raise CandidateError(f"{said}: a function is expected to take weights, biases, x and y")
    return (tuple(known) if {*known} == {*PARAMETERS} else tuple(PARAMETERS)), None


def _uses_torch(function: Callable[..., Any]) -> bool:
    known = getattr(function, "__globals__", {}).values()
    return "torch" in sys.modules and any(value is sys.modules["torch"] for value in known)
