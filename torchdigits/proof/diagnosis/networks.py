"""Candidates that are classes, as the book's: with weights, biases, and backprop or an update."""

import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from torchdigits.errors import CandidateError
from torchdigits.proof.diagnosis.candidates import (
    DIRECTIONS,
    SHAPES,
    SIZES,
    Examples,
    Layout,
    Observed,
    RaisedError,
    all_same,
    best_form,
    calling,
    file_of,
    leaves,
    methods,
    named,
    positional,
    together,
)
from torchdigits.proof.diagnosis.names import (
    ATTRIBUTES,
    BACKPROP,
    BATCH,
    COST,
    FORWARD,
    OUTPUTS,
    UPDATE,
    is_eta,
    meant,
)
from torchdigits.proof.diagnosis.steps import Problem
from torchdigits.proof.reference import Array


@dataclass
class NetworkForm:
    """A class as the book's `Network(sizes)`, with weights, biases and backprop(x, y)."""

    factory: Callable[..., Any]
    construct: Callable[[Any, list[int]], Any]
    layout: Layout
    per_example: bool
    method: str
    names: tuple[list[str], list[str]]  # of the attributes that hold weights and biases: one, or one for each layer
    dtype: str
    says: str = ""
    sizes: tuple[int, ...] | None = None
    depth: int | None = None
    changed: set[str] = field(default_factory=set)
    reversed: bool = False

    def __post_init__(self) -> None:
        self.file = file_of(self.factory)

    def all_right(self, rightness: Callable[[Observed], float]) -> bool:
        """Whether the gradient of an example is right; not if it raises an exception."""
        try:
            observed = self.observe(Problem.random(SHAPES[2][0], 1, dtype=self.dtype))
        except CandidateError:
            return False
        return rightness(observed) >= len(observed.gradient)

    def instance(self, problem: Problem) -> Any:
        """A network with the problem's weights."""
        network = calling(self.construct, self.factory, problem.sizes, file=self.file)
        for names, arrays in zip(self.names, self.layout.given(problem, self.dtype)[:2], strict=True):
            if len(names) > 1:
                for name, array in zip(names, arrays, strict=True):
                    setattr(network, name, array)
                continue
            before, new = getattr(network, names[0]), np.empty(len(arrays), dtype=object)
            new[:] = arrays
            setattr(network, names[0], new if isinstance(before, np.ndarray) else type(before)(arrays))
        return network

    def parameters(self, network: Any) -> tuple[list[Array], list[Array]]:
        """A network's weights `(neurons, inputs)` and biases `(neurons, 1)`, as they are now."""
        weights, biases = (_held(network, names) for names in self.names)
        if self.layout.weights == "in, out":
            weights = [w.T for w in weights]
        biases = [b.reshape(-1, 1) if max(b.shape, default=1) == b.size else b for b in biases]
        return [w.astype(np.float64) for w in weights], [b.astype(np.float64) for b in biases]

    def observe(self, problem: Problem) -> Observed:
        """The gradient of a problem, an instance for each example where it takes one."""
        if self.per_example and problem.m > 1:
            return together(problem, [self._call(self.instance(one), one)[0] for one in problem.examples()])
        return self._call(self.instance(problem), problem)[0]

    def again(self, problem: Problem) -> tuple[Observed, Observed]:
        """The same twice, from one instance; the first as it is after a third call, for other images."""
        first = problem.examples()[0] if self.per_example else problem
        network = self.instance(first)
        one, raw = self._call(network, first)
        other, _ = self._call(network, first)
        self._call(network, Problem(first.weights, first.biases, 1 - first.x, first.y))
        return Observed(first, named(raw, self.layout, first, self._what)[0], one.eps), other

    @property
    def _what(self) -> str:
        return f"{self.method} returned"

    def _call(self, network: Any, problem: Problem) -> tuple[Observed, Any]:
        _, _, x, y = self.layout.given(problem, self.dtype)
        forward = cost = None
        for method in methods(network, FORWARD, [1]):
            value = calling(method, deepcopy(x), file=self.file, problem=problem)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size == problem.y.size:
                forward = value.astype(np.float64).reshape(-1, problem.m)
                if self.layout.examples == "rows":
                    forward = value.astype(np.float64).reshape(problem.m, -1).T
                break
        for method in methods(network, COST, [2]):
            if [*map(meant, positional(method))] != ["x", "y"]:
                continue  # of activations, or of something else
            value = calling(method, deepcopy(x), deepcopy(y), file=self.file, problem=problem)
            if np.isscalar(value) or getattr(value, "shape", None) == ():
                cost = float(value)
        value = calling(self._backprop, network, x, y, file=self.file, problem=problem)
        _, _, same_x, same_y = self.layout.given(problem, self.dtype)
        self.changed |= {name for name, (a, b) in {"x": (x, same_x), "y": (y, same_y)}.items() if not all_same(a, b)}
        now, before = self.parameters(network), (problem.weights, problem.biases)
        kinds = ("weights", "biases")
        self.changed |= {kind for kind, a, b in zip(kinds, now, before, strict=True) if not all_same(a, b)}
        gradient, eps, self.reversed = named(value, self.layout, problem, self._what)
        return Observed(problem, gradient, eps, forward, cost), value

    def _backprop(self, network: Any, x: Array, y: Array) -> Any:
        method = getattr(network, self.method)
        if len(positional(method)) == 2:
            return method(x, y)
        # backprop(activations, zs, delta), after a forward pass and a function of the outputs' error
        names = positional(method)
        if [*map(meant, names[:2])] == ["x", "y"] and re.fullmatch(OUTPUTS, names[2], re.IGNORECASE):
            return method(x, y, next(methods(network, FORWARD, [1]))(x))
        forward = next(methods(network, re.compile(r"forward_?(prop|pass)\w*"), [1]), None)
        error = next(methods(network, re.compile(r"(cost|output)_?(deviation|derivative|delta|error)"), [3]), None)
        if forward is None or error is None:
            said = f"{self.method}({', '.join(positional(method))})"
            raise CandidateError(
                f"{said}: expected backprop(x, y); or forwardprop(x) and cost_deviation(output, z, y) too"
            )
        one, other = forward(x)
        activations, zs = (one, other) if len(one) > len(other) else (other, one)
        return method(activations, zs, error(activations[-1], zs[-1], y))


@dataclass
class UpdateForm(NetworkForm):
    """A class that shows its gradient only in what an update of a mini-batch subtracts."""

    def _call(self, network: Any, problem: Problem) -> tuple[Observed, Any]:
        for method in methods(network, FORWARD, [1]):  # which keeps what the update needs
            calling(method, self.layout.given(problem, self.dtype)[2], file=self.file, problem=problem)
        eta = 2.0**20  # so that the rounding of the weights, which a difference of them has, is small beside the step
        before = self.parameters(network)
        run_update(self, network, getattr(network, self.method), problem, eta)
        weights, biases = (
            [(old - new) / eta for old, new in zip(olds, news, strict=True)]
            for olds, news in zip(before, self.parameters(network), strict=True)
        )
        gradient = {f"dC/dW({layer})": w for layer, w in enumerate(weights, 1)}
        gradient |= {f"dC/db({layer})": np.squeeze(b, axis=1) for layer, b in enumerate(biases, 1)}
        eps = float(np.finfo(self.dtype).eps)
        floor = eps * max(float(np.abs(array).max()) for array in [*before[0], *before[1]]) / eta
        return Observed(replace(problem, eta=eta), gradient, eps, floor=floor), (*weights, *biases)

    def again(self, problem: Problem) -> tuple[Observed, Observed]:
        """The same twice, each from a fresh instance, as an update changes it."""
        return self.observe(problem), self.observe(problem)


def run_update(form: NetworkForm, network: Any, method: Callable[..., Any], problem: Problem, eta: float) -> None:
    """Call a class's update of a mini-batch.

    Raises:
        RaisedError: it raises an exception.
        CandidateError: it takes other arguments than a mini-batch, or x and y, and eta.
    """
    names = positional(method)
    if takes_matrices(method):
        _, _, x, y = form.layout.given(problem, form.dtype)
        arguments: list[Any] = [x, y, eta]
    else:
        pairs = [form.layout.given(one, form.dtype)[2:] for one in problem.examples()]
        others = {"lmbda": 0.0, "n": 50, "m": problem.m, "mini_batch_size": problem.m}
        arguments = [pairs]
        for name in names[1:]:
            if name not in others and not is_eta(name):
                raise CandidateError(f"{method.__name__}({', '.join(names)}): `{name}` is unknown; expected eta")
            arguments.append(others.get(name, eta))
    calling(method, *arguments, file=form.file, problem=problem)


def update_of(network: Any) -> Callable[..., Any] | None:
    """A class's update of a mini-batch: of a list of examples and eta, as the book's, or of x, y and eta."""
    for method in methods(network, UPDATE, [2, 3, 4]):
        names = positional(method)
        matrices = [*map(meant, names[:2])] == ["x", "y"] and len(names) == 3 and is_eta(names[2])
        if matrices or (re.fullmatch(BATCH, names[0], re.IGNORECASE) and any(map(is_eta, names[1:]))):
            return method
    return None


def takes_matrices(update: Callable[..., Any]) -> bool:
    """Whether an update takes x, y and eta, and not a list of examples."""
    return meant(positional(update)[0]) == "x"


def _held(network: Any, names: list[str]) -> list[Array]:
    return [leaf for name in names for leaf in leaves(getattr(network, name), name)]


def _rates(factory: Callable[..., Any], given: int) -> list[float]:
    """A learning rate, if a class wants one after so many arguments."""
    others = positional(factory)[given:]
    return [0.5] if len(others) == 1 and is_eta(others[0]) else []


CONSTRUCTIONS: tuple[Callable[[Any, list[int]], Any], ...] = (
    lambda factory, sizes: factory(sizes, *_rates(factory, 1)),  # Network([784, 30, 10])
    lambda factory, sizes: factory(*sizes, *_rates(factory, len(sizes))),  # Network(784, 30, 10)
)


def network_form(
    factory: Callable[..., Any], examples: Examples, rightness: Callable[[Observed], float]
) -> NetworkForm:
    """Find out how a class wants its arrays.

    Raises:
        CandidateError: it has no weights, biases or backprop, or they are of unexpected shapes.
    """
    name, file = getattr(factory, "__name__", "the factory"), file_of(factory)
    failures: list[CandidateError] = []
    for construct in CONSTRUCTIONS:
        try:
            return _network_form(factory, construct, name, file, examples, rightness)
        except CandidateError as error:
            failures.append(error)
    # What is said of a network that was made counts for more than that none could be made.
    raise next((error for error in failures if not isinstance(error, RaisedError)), failures[0])


def _arrays_of(network: Any, name: str) -> tuple[tuple[list[str], list[str]], Any, Any, bool, str]:
    """The attributes that hold weights and biases, how they lie, whether they are tensors, and their type.

    Raises:
        CandidateError: there are none, or they are of unexpected shapes.
    """
    found = []
    for kind, pattern in ATTRIBUTES.items():
        attributes = getattr(network, "__dict__", {})
        held = [n for n in attributes if re.fullmatch(pattern, n, re.IGNORECASE)][:1]
        held = held or sorted(n for n in attributes if re.fullmatch(rf"({pattern})_?[1-9]", n, re.IGNORECASE))
        if not held:
            raise CandidateError(f"{name}: it has no attribute `{kind}`; expected lists `weights` and `biases`")
        found.append(held)
    weights, biases = (_held(network, names) for names in found)
    held = getattr(network, found[0][0])
    torch = any(hasattr(array, "detach") for array in (held if isinstance(held, (list, tuple)) else [held]))
    shapes = [w.shape for w in weights]
    sides: dict[Any, Any] = {((5, 7), (3, 5)): "out, in", ((7, 5), (5, 3)): "in, out"}
    if tuple(shapes) not in sides:
        said = ", ".join(map(str, shapes))
        raise CandidateError(f"{name}({[*SIZES]}): weights of shapes {said}; expected (5, 7), (3, 5) or (7, 5), (5, 3)")
    kinds: dict[Any, Any] = {(5, 1): "column", (5,): "flat", (1, 5): "row"}
    if len(biases) != 2 or biases[0].shape not in kinds:
        said = ", ".join(str(b.shape) for b in biases)
        raise CandidateError(f"{name}({[*SIZES]}): biases of shapes {said}; expected (5, 1), (3, 1) or (5,), (3,)")
    dtype = str(np.result_type(*weights))
    dtype = dtype if dtype.startswith("float") else "float64"
    return (found[0], found[1]), sides[tuple(shapes)], kinds[biases[0].shape], torch, dtype


def _network_form(
    factory: Callable[..., Any],
    construct: Callable[[Any, list[int]], Any],
    name: str,
    file: str,
    examples: Examples,
    rightness: Callable[[Observed], float],
) -> NetworkForm:
    network = calling(construct, factory, [*SIZES], file=file)
    names, side, bias, torch, dtype = _arrays_of(network, name)
    update = update_of(network)
    method = next(methods(network, BACKPROP, [2, 3]), update)
    if method is not None and is_eta(positional(method)[-1]):
        update = method  # backward(x, y, eta), which updates
    if method is None:
        raise CandidateError(f"{name}: it has no method backprop(x, y), and none that updates a mini-batch")
    form_kind = UpdateForm if method is update else NetworkForm
    # Its own name may be another: that of a lambda, or of what a decorator made of it.
    attributes = (n for n in dir(network) if BACKPROP.fullmatch(n) or UPDATE.fullmatch(n))
    called = next(n for n in attributes if getattr(network, n) == method)
    directions = [direction for direction, biases_ in DIRECTIONS if biases_ == bias]

    def forms(per_example: bool) -> list[NetworkForm]:
        return [
            form_kind(
                factory,
                construct,
                Layout(side, bias, direction, torch),
                per_example,
                called,
                names,
                dtype,
                depth=len(names[0]) if len(names[0]) > 1 else None,
            )
            for direction in directions
            if per_example or direction != "flat"
        ]

    # An update of matrices says what backprop is for.
    told = form_kind is UpdateForm or (update is not None and takes_matrices(update))
    certain = told and update is not None and "batch" in update.__name__.lower()
    whole = examples == "mini-batch" or (examples == "auto" and told)
    form = None
    if examples != "one":
        form = best_form(forms(False), rightness, strict=examples == "auto" and form_kind is NetworkForm)
    if form is None and examples != "mini-batch":
        form = best_form(forms(True), rightness, strict=False)
        # The gradient of an example is all there is; unless the update wants that of a mini-batch, and it is not right.
        if whole and form is not None and (certain or not form.all_right(rightness)):
            form = best_form(forms(False), rightness, strict=False) or form
    form = form or forms(not whole)[0]
    of = "an example" if form.per_example else "a mini-batch"
    form.says = f"a class with {form.method}, of {of}, examples in {form.layout.examples}"
    if form.layout.examples == "flat":
        form.says = f"a class with {form.method}, of an example, x (inputs,)"
    return form
