"""Somebody's own program, called in the way that it is written for, for the gradient of a problem of ours."""

import contextlib
import inspect
import io
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np

from torchdigits.errors import CandidateError
from torchdigits.proof.diagnosis.steps import Problem
from torchdigits.proof.reference import Array

Examples = Literal["auto", "one", "mini-batch"]
EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}  # spacing at 1
SIZES, MANY = (7, 5, 3), 8  # so that nothing that is transposed or of another layer fits by chance
# Layers to ask for, by their number; the last are of one size.
SHAPES = {1: ((4, 3), (5, 5)), 2: ((7, 5, 3), (6, 9, 4), (5, 5, 5)), 3: ((9, 6, 5, 2), (5, 5, 5, 5))}
# How examples lie, and how biases do: the likeliest first.
DIRECTIONS: tuple[tuple[Any, Any], ...] = (
    ("columns", "column"),
    ("rows", "flat"),
    ("rows", "row"),
    ("flat", "flat"),
    ("columns", "flat"),
    ("rows", "column"),
    ("flat", "column"),
    ("flat", "row"),
    ("columns", "row"),
)


class RaisedError(CandidateError):
    """The candidate has raised an exception; the text has the candidate's own part of the traceback.

    Attributes:
        line: of the candidate's file, the innermost; None if there is none.
        problem: what it was asked for.
    """

    def __init__(self, error: BaseException, file: str, problem: Problem | None = None) -> None:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        self.line = frames[-1].lineno if frames else None
        self.problem = problem
        self.says = f"{type(error).__name__}: {error}".partition("\n")[0][:1000]
        asked = f" when asked for {described(problem)}" if problem else ""
        where = [f"  line {frame.lineno}, in {frame.name}: {frame.line}" for frame in frames[-4:]]
        super().__init__("\n".join([f"it raises {self.says}{asked}", *where]))


@dataclass(frozen=True)
class Observed:
    """What a candidate gave for a problem.

    Attributes:
        gradient: dC/dW(l), `(neurons, inputs)`, and dC/db(l), `(neurons,)`, by these names; of other shapes if the
            candidate gave them.
        eps: the spacing, at 1, of its numbers.
        forward: the outputs' activations `(outputs, m)`, where it shows them.
        cost: of the mini-batch, where it shows it.
        floor: how far off an element of the gradient may be because of how it was observed.
    """

    problem: Problem
    gradient: dict[str, Array]
    eps: float
    forward: Array | None = None
    cost: float | None = None
    floor: float = 0.0


class Form(Protocol):
    """A way in which candidates are written."""

    says: str  # what it is, in words
    file: str  # the candidate's, or empty
    sizes: tuple[int, ...] | None  # if it has but these
    depth: int | None  # layers after the input, if it can have but so many
    per_example: bool  # whether it takes one example at a time
    dtype: str
    changed: set[str]  # the arguments that it has changed in place
    reversed: bool  # whether the layers of its gradient came in the wrong order

    def observe(self, problem: Problem) -> Observed:
        """The gradient of a problem, from a fresh instance."""
        ...

    def again(self, problem: Problem) -> tuple[Observed, Observed]:
        """The same, twice from one instance."""
        ...


def described(problem: Problem) -> str:
    """A problem in words."""
    return f"{'-'.join(map(str, problem.sizes))} and {problem.m} example{'s' * (problem.m > 1)}"


def calling(function: Callable[..., Any], *arguments: Any, file: str, problem: Problem | None = None) -> Any:
    """Call a candidate's function; what it prints goes nowhere.

    Raises:
        RaisedError: it raises an exception.
    """
    silent = contextlib.redirect_stdout(_Nowhere())
    with warnings.catch_warnings(), np.errstate(all="ignore"), silent:
        warnings.simplefilter("ignore")
        try:
            return function(*arguments)
        except CandidateError:
            raise
        except (Exception, SystemExit) as error:
            raise RaisedError(error, file, problem) from error


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


def file_of(candidate: object) -> str:
    """The file that a candidate is written in; empty if there is none."""
    try:
        return inspect.getsourcefile(candidate) or ""  # type: ignore[arg-type]  # anything may come, and raises TypeError
    except (TypeError, OSError):
        return ""


def line_of_method(method: Callable[..., Any]) -> int | None:
    """The line where it begins, in its file; None if there is no file."""
    try:
        return inspect.getsourcelines(method)[1]
    except (TypeError, OSError):
        return None


def positional(function: Callable[..., Any]) -> list[str]:
    """The names of the arguments that it needs; none of a function in C that does not tell."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return []
    return [p.name for p in parameters if p.kind in kinds and p.default is p.empty]


def methods(thing: object, name: re.Pattern[str], counts: Sequence[int]) -> Iterator[Callable[..., Any]]:
    """The methods of such a name with so many arguments."""
    for attribute in dir(thing):
        if name.fullmatch(attribute):
            method = getattr(thing, attribute)
            if inspect.isroutine(method) and len(positional(method)) in counts:
                yield method


class Layout(NamedTuple):
    """How a candidate wants its arrays."""

    weights: Literal["out, in", "in, out"] = "out, in"
    biases: Literal["column", "flat", "row"] = "column"
    examples: Literal["columns", "rows", "flat"] = "columns"
    torch: bool = False

    def given(self, problem: Problem, dtype: str) -> tuple[list[Any], list[Any], Any, Any]:
        """A problem's weights, biases, x and y, as new arrays."""

        def made(array: Array) -> Any:
            new = array.astype(dtype, order="C")
            return sys.modules["torch"].from_numpy(new) if self.torch else new

        weights = [made(w if self.weights == "out, in" else w.T) for w in problem.weights]
        biases = [made({"column": b, "flat": b[:, 0], "row": b.T}[self.biases]) for b in problem.biases]
        x, y = ({"columns": v, "rows": v.T, "flat": v[:, 0]}[self.examples] for v in (problem.x, problem.y))
        return weights, biases, made(x), made(y)

    def taken(self, name: str, array: Array, neurons: int) -> Array:
        """One of its gradients, as `Observed` has it."""
        if name.startswith("dC/dW"):
            return array.T if self.weights == "in, out" else array
        if array.ndim == 2 and 1 in array.shape and (array.size > 1 or neurons == 1):
            return array.ravel()
        rows = array.ndim == 2 and array.shape[0] != neurons and array.shape[1] == neurons
        return array.T if rows else array


def leaves(value: Any, what: str) -> list[Array]:
    """The arrays in nested lists, tuples, dictionaries and arrays of objects, in order.

    Raises:
        CandidateError: there is something else, or a number that is not finite.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float().numpy() if str(value.dtype) == "torch.bfloat16" else value.numpy()
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in leaves(item, what)]
    if isinstance(value, (list, tuple)) and not _plain(value):
        return [leaf for item in value for leaf in leaves(item, what)]
    if isinstance(value, np.ndarray) and value.dtype == object and all(np.isscalar(item) for item in value.flat):
        value = value.astype(np.float64)  # as NumPy makes one of lists of lists
    if isinstance(value, np.ndarray) and (value.dtype == object or value.ndim == 3):
        return [leaf for item in value for leaf in leaves(item, what)]
    if isinstance(value, (list, tuple)):
        try:
            value = np.asarray(value)
        except ValueError:  # lists of different lengths: several arrays
            return [leaf for item in value for leaf in leaves(item, what)]
    array = np.asarray(value)
    if array.dtype.kind in "fiub":
        if not np.isfinite(array).all():
            kind = "NaN" if np.isnan(array).any() else "infinite"
            raise CandidateError(f"{what}: {kind} numbers in an array {array.shape}; expected finite ones")
        return [array]
    raise CandidateError(f"{what}: {_kind(value)} where an array was expected")


def _plain(value: Sequence[Any]) -> bool:
    """Whether lists hold nothing but numbers."""
    if any(hasattr(item, "dtype") for item in value):
        return False
    return all(isinstance(item, (int, float)) or (isinstance(item, (list, tuple)) and _plain(item)) for item in value)


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def named(value: Any, layout: Layout, problem: Problem, what: str) -> tuple[dict[str, Array], float, bool]:
    """A candidate's gradient by name, the spacing of its numbers, and whether its layers are in the wrong order.

    Which array belongs to what is told by dictionary keys such as `dW1`, else by shapes.

    Raises:
        CandidateError: the arrays are too many or too few, share memory, or are no arrays.
    """
    sizes, last = problem.sizes, len(problem.weights)
    found = leaves(value, what)
    expected = f"{last} of weights and {last} of biases"
    if len(found) > 2 * last:  # a cost may stand beside them
        found = [leaf for leaf in found if leaf.ndim > 0]
    if len(found) != 2 * last:
        raise CandidateError(f"{what}: {len(found)} arrays for {'-'.join(map(str, sizes))}; expected {expected}")
    for i, one in enumerate(found):
        if any(np.shares_memory(one, other) for other in found[:i]):
            raise CandidateError(f"{what}: two of its arrays are views of one buffer; expected an array for each")
    eps = max(EPS.get(str(leaf.dtype), EPS["float64"]) for leaf in found)
    weights = [f"dC/dW({layer})" for layer in range(1, last + 1)]
    biases = [f"dC/db({layer})" for layer in range(1, last + 1)]
    pairs = list(zip(weights, biases, strict=True))
    orders = [biases + weights, weights + biases]
    orders += [[n for w, b in pairs for n in (w, b)], [n for w, b in pairs for n in (b, w)]]
    backwards = [biases[::-1] + weights[::-1], weights[::-1] + biases[::-1]]
    backwards += [[n for w, b in pairs[::-1] for n in (w, b)], [n for w, b in pairs[::-1] for n in (b, w)]]
    if isinstance(value, Mapping) and (order := _keys(value, last)):
        orders, backwards = [order], []

    def fit(order: list[str]) -> float:
        return sum(_fit(name, leaf, sizes, layout) for name, leaf in zip(order, found, strict=True))

    best = max(orders + backwards, key=fit)  # the first, of those that fit as well
    gradient = {
        name: layout.taken(name, leaf.astype(np.float64), sizes[int(name[6:-1])])
        for name, leaf in zip(best, found, strict=True)
    }
    return gradient, eps, best in backwards and fit(best) > max(map(fit, orders))


def _keys(value: Mapping[Any, Any], last: int) -> list[str]:
    """The names that a dictionary's keys stand for; none if they do not tell."""
    order = []
    for key in value:
        match = re.fullmatch(r"\W*(?:d|grad\w*|nabla)?_?([wb])\D*(\d+)", str(key), re.IGNORECASE)
        order += [f"dC/d{'W' if match[1] in 'wW' else 'b'}({match[2]})"] if match else []
    return order if len(set(order)) == 2 * last else []


def _fit(name: str, leaf: Array, sizes: list[int], layout: Layout) -> float:
    """How likely an array is this gradient: right, or transposed, or of each example."""
    layer = int(name[6:-1])
    neurons, inputs = sizes[layer], sizes[layer - 1]
    if name.startswith("dC/dW"):
        right = (neurons, inputs) if layout.weights == "out, in" else (inputs, neurons)
        return 1.0 if leaf.shape == right else 0.5 if leaf.shape == right[::-1] else 0.0
    return 1.0 if leaf.size == neurons else 0.5 if leaf.ndim == 2 and neurons in leaf.shape else 0.0


def fits(observed: Observed) -> bool:
    """Whether all its gradients have the shapes of their parameters."""
    sizes = observed.problem.sizes
    return all(
        array.shape
        == ((sizes[int(n[6:-1])], sizes[int(n[6:-1]) - 1]) if n.startswith("dC/dW") else (sizes[int(n[6:-1])],))
        for n, array in observed.gradient.items()
    )


def together(problem: Problem, single: list[Observed]) -> Observed:
    """The examples' gradients, summed."""
    names = single[0].gradient
    gradient = {name: sum((one.gradient[name] for one in single[1:]), single[0].gradient[name]) for name in names}
    forward = [one.forward for one in single if one.forward is not None]
    return Observed(
        problem, gradient, max(one.eps for one in single), np.concatenate(forward, axis=1) if forward else None
    )


def all_same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        one, other = [*one.values()], [*other.values()]
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(all_same, one, other))
    return one.shape == other.shape and bool((one == other).all())


F = TypeVar("F", bound=Form)


def best_form(forms: Sequence[F], rightness: Callable[[Observed], float], strict: bool) -> F | None:
    """Of the forms in which a candidate gives a gradient, that which is most right; of equals the first.

    It is asked for layers of different sizes, and if no form will do there, for layers of one size.

    Args:
        forms: ways of calling it, the likeliest first.
        rightness: of a gradient.
        strict: whether its arrays must have the shapes of their parameters.
    """
    for shape in (0, -1):
        best, most = None, (False, -1.0)
        for form in forms:
            try:
                m = 1 if form.per_example else MANY
                observed = form.observe(Problem.random(SHAPES[form.depth or 2][shape], m, dtype=form.dtype))
            except CandidateError:
                continue  # not in this form
            key = (fits(observed), rightness(observed))
            if key > most and (key[0] or not strict):
                best, most = form, key
        if best is not None:
            return best
    return None
