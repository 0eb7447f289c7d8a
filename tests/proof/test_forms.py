"""How classes and functions are called: all of these compute by the reference, and are strict in what they take."""

import re
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest

from torchdigits.errors import CandidateError
from torchdigits.proof.diagnosis.candidates import DIRECTIONS, EPS, Layout, Observed, RaisedError
from torchdigits.proof.diagnosis.check import form_of
from torchdigits.proof.diagnosis.functions import FunctionForm, order_of
from torchdigits.proof.diagnosis.networks import NetworkForm, UpdateForm, run_update, takes_matrices, update_of
from torchdigits.proof.diagnosis.steps import Problem
from torchdigits.proof.reference import Array, Network

PROBLEMS = [Problem.random((7, 5, 3), m, dtype=np.float64) for m in (8, 2, 1)]
WAYS = [
    (Layout(weights, biases, examples), one)
    for (examples, biases), weights, one in product(DIRECTIONS, ("out, in", "in, out"), (False, True))
    if one or examples != "flat"
]
Gradient = tuple[list[Array], list[Array]]


def gradient(layout: Layout, one: bool, weights: list[Array], biases: list[Array], x: Array, y: Array) -> Gradient:
    """The reference's, for arrays that lie in one way, and raises ValueError for any others."""
    turned = layout.weights == "in, out"
    sizes = [weights[0].shape[not turned], *(w.shape[turned] for w in weights)]
    for b, size in zip(biases, sizes[1:], strict=True):
        if b.shape != {"column": (size, 1), "flat": (size,), "row": (1, size)}[layout.biases]:
            raise ValueError(f"biases {b.shape}")
    if (x.ndim, y.ndim) != ((1, 1) if layout.examples == "flat" else (2, 2)):
        raise ValueError(f"images {x.shape}")
    images, wanted = (v[:, None] if v.ndim == 1 else v.T if layout.examples == "rows" else v for v in (x, y))
    if len(images) != sizes[0] or len(wanted) != sizes[-1] or (one and images.shape[1] != 1):
        raise ValueError(f"images {x.shape}")
    network = Network(sizes)
    network.weights = [w.T if turned else w for w in weights]
    network.biases = [b.reshape(-1, 1) for b in biases]
    nabla_w, nabla_b = network.backprop(images, wanted)
    return [n.T if turned else n for n in nabla_w], [n.reshape(b.shape) for n, b in zip(nabla_b, biases, strict=True)]


def class_of(layout: Layout, one: bool = False, **more: Any) -> type:
    """A class with backprop(x, y), and more methods."""

    def initialised(self: Any, sizes: list[int]) -> None:
        wanted = Problem.random(sizes, 1)
        self.weights, self.biases, _, _ = Layout(layout.weights, layout.biases).given(wanted, "float64")

    def backprop(self: Any, x: Array, y: Array) -> Gradient:
        return gradient(layout, one, self.weights, self.biases, x, y)

    return type("Candidate", (), {"__init__": initialised, "backprop": backprop} | more)


def assert_right(form: Any, factor: Callable[[int], float] = lambda m: 1.0) -> None:
    for problem in PROBLEMS:
        seen = form.observe(problem)
        assert seen.problem.x is problem.x
        for layer, (w, b) in enumerate(zip(*problem.network().backprop(problem.x, problem.y), strict=True), 1):
            for name, array in ((f"dC/dW({layer})", w), (f"dC/db({layer})", b[:, 0])):
                assert seen.gradient[name] == pytest.approx(factor(problem.m) * array, rel=1e-8, abs=1e-12)


def words(layout: Layout, one: bool) -> str:
    of = "an example" if one else "a mini-batch"
    return f"{of}, x (inputs,)" if layout.examples == "flat" else f"{of}, examples in {layout.examples}"


@pytest.mark.parametrize(("layout", "one"), WAYS)
def test_how_a_class_wants_its_arrays_is_found_out(layout: Layout, one: bool) -> None:
    form = form_of(class_of(layout, one))
    assert isinstance(form, NetworkForm)
    assert (form.layout, form.per_example, form.method, form.dtype) == (layout, one, "backprop", "float64")
    assert (form.sizes, form.depth, form.reversed, form.changed) == (None, None, False, set())
    assert form.says == f"a class with backprop, of {words(layout, one)}"
    assert form.names == (["weights"], ["biases"])
    assert_right(form)


@pytest.mark.parametrize(("layout", "one"), WAYS)
def test_how_a_function_wants_its_arrays_is_found_out(layout: Layout, one: bool) -> None:
    def backprop(weights: Any, biases: Any, x: Array, y: Array) -> Gradient:
        return gradient(layout, one, weights, biases, x, y)

    form = form_of(backprop)
    assert isinstance(form, FunctionForm)
    assert (form.layout, form.per_example, form.order) == (layout, one, ("weights", "biases", "x", "y"))
    assert (form.sizes, form.depth, form.dtype, form.reversed) == (None, None, "float64", False)
    of, where = words(layout, one).split(", ", 1)
    assert form.says == f"a function of {of}, weights ({layout.weights}), {where}"
    assert_right(form)


@pytest.mark.parametrize("kind", ["class", "function"])
def test_what_works_for_both_is_asked_for_a_mini_batch_unless_told(kind: str) -> None:
    layout = Layout()

    def backprop(weights: Any, biases: Any, x: Array, y: Array) -> Gradient:
        return gradient(layout, False, weights, biases, x, y)

    candidate: Any = class_of(layout) if kind == "class" else backprop
    for examples, one in (("auto", False), ("mini-batch", False), ("one", True)):
        form = form_of(candidate, examples)  # type: ignore[arg-type]
        assert form.per_example is one
        assert_right(form)
    # Nothing works: it may, with layers of one size.
    for examples, one in (("auto", kind == "class"), ("mini-batch", False), ("one", True)):
        broken: Any = (
            class_of(layout, backprop=lambda self, x, y: 1 / 0) if kind == "class" else (lambda w, b, x, y: 1 / 0)
        )
        form = form_of(broken, examples)  # type: ignore[arg-type]
        assert form.per_example is one
        assert form.layout == layout  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["class", "function"])
def test_biases_that_are_not_summed_are_those_of_one_example(kind: str) -> None:
    """In doubt, a program whose gradients have other shapes for a mini-batch takes an example."""

    def unsummed(weights: Any, biases: Any, x: Array, y: Array) -> Any:
        nabla_w, nabla_b = gradient(Layout(), False, weights, biases, x, y)
        return nabla_w, [np.repeat(n, x.shape[1], axis=1) for n in nabla_b]

    candidate: Any = unsummed
    if kind == "class":
        candidate = class_of(Layout(), backprop=lambda self, x, y: unsummed(self.weights, self.biases, x, y))
    assert form_of(candidate).per_example
    assert_right(form_of(candidate))
    assert not form_of(candidate, "mini-batch").per_example


@pytest.mark.parametrize("kind", ["class", "function"])
@pytest.mark.parametrize("one", [False, True])
def test_twice_from_one_instance(kind: str, one: bool) -> None:
    """The first as it is after a third call, for other images: it may be written again."""
    calls: list[tuple[Any, Array]] = []
    kept: list[Array] = []

    def counted(weights: Any, biases: Any, x: Array, y: Array, self: Any = None) -> Any:
        calls.append((self, x))
        nabla_w, nabla_b = gradient(Layout(), one, weights, biases, x, y)
        if not kept:
            kept.extend([*nabla_w, *nabla_b])
            return nabla_w, nabla_b
        if len(calls) % 3 == 0:
            for array in kept:
                array[:] += 1
        return nabla_w, nabla_b

    def function(weights: Any, biases: Any, x: Array, y: Array) -> Any:
        return counted(weights, biases, x, y)

    candidate: Any = function
    if kind == "class":
        candidate = class_of(Layout(), backprop=lambda self, x, y: counted(self.weights, self.biases, x, y, self))
    form = form_of(candidate, "one" if one else "mini-batch")
    calls.clear()
    kept.clear()
    problem = PROBLEMS[0]
    first, second = form.again(problem)
    images = problem.x[:, :1] if one else problem.x
    assert [np.array_equal(x, wanted) for (_, x), wanted in zip(calls, (images, images, 1 - images), strict=True)] == [
        True
    ] * 3
    assert len({id(self) for self, _ in calls}) == 1
    assert first.problem is second.problem
    assert first.eps == second.eps == EPS["float64"]
    for name, array in first.gradient.items():
        assert array == pytest.approx(second.gradient[name] + 1, rel=1e-12)


def test_what_is_changed_in_place_is_noticed() -> None:
    def changing(which: str) -> Callable[..., Any]:
        def backprop(weights: Any, biases: Any, x: Array, y: Array) -> Gradient:
            found = gradient(Layout(), False, weights, biases, x, y)
            array = {"weights": weights[1], "biases": biases[0], "x": x, "y": y}[which]
            array += 1
            return found

        return backprop

    for which in ("weights", "biases", "x", "y"):
        form = form_of(changing(which))
        form.observe(PROBLEMS[0])
        assert form.changed == {which}
        change = changing(which)
        form = form_of(class_of(Layout(), backprop=lambda self, x, y, c=change: c(self.weights, self.biases, x, y)))
        form.observe(PROBLEMS[0])
        assert form.changed == {which}


def test_what_was_changed_once_is_not_forgotten() -> None:
    changes = [True, False]

    def of_pairs(params: Any, x: Array, y: Array) -> Any:
        ws, bs = zip(*params, strict=True)
        found = [*zip(*gradient(Layout(), False, [*ws], [*bs], x, y), strict=True)]
        if changes.pop(0):
            bs[0][:] += 1
        return found

    changes.extend([False] * 999)
    form = form_of(of_pairs)
    form.changed.clear()
    changes[:] = [True, False]
    form.observe(PROBLEMS[0])
    form.observe(PROBLEMS[0])
    assert form.changed == {"params"}
    changes[:] = [True, False]

    def backprop(self: Any, x: Array, y: Array) -> Gradient:
        found = gradient(Layout(), False, self.weights, self.biases, x, y)
        for array in (x, self.weights[0]) if changes.pop(0) else ():
            array[:] += 1
        return found

    changes.extend([False] * 999)
    form = form_of(class_of(Layout(), backprop=backprop))
    form.changed.clear()
    changes[:] = [True, False]
    form.observe(PROBLEMS[0])
    form.observe(PROBLEMS[0])
    assert form.changed == {"x", "weights"}


@pytest.mark.parametrize("kind", ["class", "function"])
def test_where_and_for_what_something_was_raised(kind: str) -> None:
    def failing(weights: Any, biases: Any, x: Array, y: Array) -> Any:
        raise ValueError("no")

    candidate: Any = failing
    if kind == "class":
        candidate = class_of(Layout(), backprop=lambda self, x, y: failing(1, 2, x, y))
    form = form_of(candidate)
    with pytest.raises(RaisedError) as raised:
        form.observe(PROBLEMS[-1])
    assert form.file == __file__
    assert raised.value.line == failing.__code__.co_firstlineno + 1
    assert raised.value.problem is PROBLEMS[-1]


# Functions


@pytest.mark.parametrize("layout", [Layout("in, out", "row", "rows"), Layout("out, in", "flat", "flat")])
def test_what_a_function_is_for_may_be_told(layout: Layout) -> None:
    one = layout.examples == "flat"

    def backprop(weights: Any, biases: Any, x: Array, y: Array) -> Gradient:
        return gradient(layout, one, weights, biases, x, y)

    def wrong(weights: Any, biases: Any, x: Array, y: Array) -> Any:
        nabla_w, nabla_b = gradient(layout, True, weights, biases, x, y)
        return [n.T for n in nabla_w], nabla_b

    form = form_of(backprop, "one")
    assert isinstance(form, FunctionForm)
    assert (form.layout, form.per_example) == (layout, True)
    form = form_of(backprop, "mini-batch")
    assert isinstance(form, FunctionForm)
    assert (form.layout, form.per_example) == (Layout() if one else layout, False)
    form = form_of(wrong)  # though its gradients have other shapes
    assert isinstance(form, FunctionForm)
    assert (form.layout, form.per_example) == (layout, True)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_function_is_given_numbers_of_the_type_that_is_asked_for(dtype: str) -> None:
    seen: set[tuple[type, str]] = set()

    def backprop(weights: Any, biases: Any, x: Array, y: Array) -> Gradient:
        seen.update((type(array), str(array.dtype)) for array in (*weights, *biases, x, y))
        return gradient(Layout(), False, weights, biases, x, y)

    form = form_of(backprop)
    assert {*seen} == {(np.ndarray, "float64")}  # and no tensors, though torch is here
    seen.clear()
    form.dtype = dtype
    form.observe(PROBLEMS[0])
    assert {*seen} == {(np.ndarray, dtype)}


def test_a_function_in_torch_is_given_tensors_if_arrays_do_not_do() -> None:
    import torch

    there: dict[str, Any] = {"torch": torch, "gradient": gradient, "Layout": Layout}
    exec(
        """
def strict(weights, biases, x, y):
    if not all(isinstance(array, torch.Tensor) for array in (*weights, *biases, x, y)):
        raise TypeError
    return either([w.numpy() for w in weights], [b.numpy() for b in biases], x.numpy(), y.numpy())

def either(weights, biases, x, y):
    return gradient(Layout("in, out", "flat", "rows"), False, weights, biases, x, y)
""",
        there,
    )
    for name in ("strict", "either"):
        form = form_of(there[name])
        assert isinstance(form, FunctionForm)
        assert form.layout == Layout("in, out", "flat", "rows", name == "strict")
        assert_right(form)


@pytest.mark.parametrize(
    ("signature", "order", "layers"),
    [
        ("weights, biases, x, y", ("weights", "biases", "x", "y"), None),
        ("x, y, w, b", ("x", "y", "weights", "biases"), None),
        ("Y, images, bias, W", ("y", "x", "biases", "weights"), None),
        ("one, two, three, four", ("weights", "biases", "x", "y"), None),  # names that say nothing
        ("weights, two, x, y", ("weights", "biases", "x", "y"), None),
        ("params, X, Y", ("params", "x", "y"), None),
        ("inputs, targets, theta", ("x", "y", "params"), None),
        ("W1, b1, W2, b2, x, y", ("W1", "b1", "W2", "b2", "x", "y"), 2),
        ("x, y, w1, w2, b1, b2", ("x", "y", "W1", "W2", "b1", "b2"), 2),
        ("x, y, w_1, bias_1", ("x", "y", "W1", "b1"), 1),
        ("weight1, bias1, weight2, bias2, weight3, bias3, x, t", ("W1", "b1", "W2", "b2", "W3", "b3", "x", "y"), 3),
    ],
)
def test_arguments_are_told_by_their_names(signature: str, order: tuple[str, ...], layers: int | None) -> None:
    assert order_of(eval(f"lambda {signature}: None")) == (order, layers)


@pytest.mark.parametrize(
    "signature",
    [
        "x, y",
        "params, x",
        "W1, b1, W2, b2, W3, b3, W4, b4, x, y",
        "W1, b1, W3, b3, x, y",
        "W1, b1, x, z",
        "W1, b1, W2, x, y",
        "W1, b1, x, x2, y",
        "a, b, c, d, e",
    ],
)
def test_other_arguments_are_told(signature: str) -> None:
    there: dict[str, Any] = {}
    exec(f"def mine({signature}): ...", there)
    with pytest.raises(CandidateError) as raised:
        order_of(there["mine"])
    assert str(raised.value) == f"mine({signature}): a function is expected to take weights, biases, x and y"


def test_what_has_no_name_is_a_function() -> None:
    class Nameless:
        def __call__(self, one: Any, two: Any) -> None: ...

    with pytest.raises(CandidateError, match=r"^function\(one, two\): a function is expected"):
        form_of(Nameless())


def test_functions_of_dictionaries_and_pairs_and_arrays_one_by_one() -> None:
    def of_dictionary(params: Any, x: Array, y: Array) -> Any:
        nabla_w, nabla_b = gradient(Layout(), False, [params["W1"], params["W2"]], [params["b1"], params["b2"]], x, y)
        return {"db1": nabla_b[0], "dW1": nabla_w[0], "dW2": nabla_w[1], "db2": nabla_b[1]}

    def of_pairs(params: Any, x: Array, y: Array) -> Any:
        ws, bs = zip(*params, strict=True)
        return [*zip(*gradient(Layout("in, out", "flat", "rows"), False, [*ws], [*bs], x, y), strict=True)]

    def of_arrays(x: Array, y: Array, b2: Array, W2: Array, b1: Array, W1: Array) -> Any:  # noqa: N803
        return gradient(Layout("out, in", "row", "flat"), True, [W1, W2], [b1, b2], x, y)

    for function, order, depth in (
        (of_dictionary, ("params", "x", "y"), None),
        (of_pairs, ("pairs", "x", "y"), None),
        (of_arrays, ("x", "y", "b2", "W2", "b1", "W1"), 2),
    ):
        form = form_of(function)
        assert isinstance(form, FunctionForm)
        assert (form.order, form.depth) == (order, depth)
        assert_right(form)


def test_what_a_function_returned_is_named() -> None:
    def mine(weights: Any, biases: Any, x: Any, y: Any) -> Any:
        return weights

    class Callable_:  # noqa: N801
        def __call__(self, weights: Any, biases: Any, x: Any, y: Any) -> Any:
            return weights

    for candidate, name in ((mine, "mine"), (Callable_(), "the function")):
        with pytest.raises(CandidateError, match=f"^{name} returned: 2 arrays for 7-5-3"):
            form_of(candidate).observe(PROBLEMS[0])
        with pytest.raises(CandidateError, match=f"^{name} returned: 2 arrays for 7-5-3"):
            form_of(candidate).again(PROBLEMS[0])


# Classes


def held(**attributes: Callable[[list[Any], list[Any]], Any]) -> type:
    """A class that holds its arrays in these attributes, of which the first half are weights."""

    def initialised(self: Any, sizes: list[int]) -> None:
        weights, biases, _, _ = Layout().given(Problem.random(sizes, 1), "float64")
        self.sizes = sizes
        for name, of in attributes.items():
            setattr(self, name, of(weights, biases))

    def backprop(self: Any, x: Array, y: Array) -> Gradient:
        arrays = [getattr(self, name) for name in attributes]
        for name, array in zip(attributes, arrays, strict=True):
            assert type(array) is type(attributes[name]([np.ones((2, 2))] * 2, [np.ones(2)] * 2))
        if len(arrays) == 2:
            return gradient(Layout(), False, [*arrays[0]], [*arrays[1]], x, y)
        return gradient(Layout(), False, [*arrays[:2]], [*arrays[2:]], x, y)

    return type("Candidate", (), {"__init__": initialised, "backprop": backprop})


def objects(arrays: list[Any]) -> Any:
    array = np.empty(len(arrays), dtype=object)
    array[:] = arrays
    return array


@pytest.mark.parametrize(
    ("candidate", "names"),
    [
        (held(w=lambda w, b: w, b=lambda w, b: b), (["w"], ["b"])),
        (held(Ws=lambda w, b: tuple(w), bs=lambda w, b: tuple(b)), (["Ws"], ["bs"])),
        (held(weights=lambda w, b: objects(w), bias=lambda w, b: objects(b)), (["weights"], ["bias"])),
        (
            held(W2=lambda w, b: w[0], W3=lambda w, b: w[1], b2=lambda w, b: b[0], b3=lambda w, b: b[1]),
            (["W2", "W3"], ["b2", "b3"]),
        ),
        (
            held(w_1=lambda w, b: w[0], w_2=lambda w, b: w[1], bias1=lambda w, b: b[0], bias2=lambda w, b: b[1]),
            (["w_1", "w_2"], ["bias1", "bias2"]),
        ),
    ],
)
def test_arrays_are_put_where_a_class_holds_them(candidate: type, names: tuple[list[str], list[str]]) -> None:
    form = form_of(candidate)
    assert isinstance(form, NetworkForm)
    assert form.names == names
    assert form.depth == (2 if len(names[0]) == 2 else None)
    assert_right(form)


@pytest.mark.parametrize(("dtype", "is_in"), [("float32", "float32"), ("float64", "float64"), ("int64", "float64")])
def test_a_class_is_given_numbers_of_its_own_type(dtype: str, is_in: str) -> None:
    seen: set[str] = set()

    def initialised(self: Any, sizes: list[int]) -> None:
        self.weights, self.biases, _, _ = Layout().given(Problem.random(sizes, 1), dtype)

    def backprop(self: Any, x: Array, y: Array) -> Gradient:
        seen.update(str(array.dtype) for array in (*self.weights, *self.biases, x, y))
        return gradient(Layout(), False, self.weights, self.biases, x, y)

    form = form_of(class_of(Layout(), __init__=initialised, backprop=backprop))
    assert form.dtype == is_in
    assert seen == {is_in}


def test_sizes_may_be_given_one_by_one_and_a_learning_rate_beside_them() -> None:
    rates = []

    class Listed(class_of(Layout())):  # type: ignore[misc]
        def __init__(self, sizes: list[int], lr: float) -> None:
            rates.append(lr)
            super().__init__(sizes)

    class Each(class_of(Layout())):  # type: ignore[misc]
        def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
            super().__init__([inputs, hidden, outputs])

    class Rated(class_of(Layout())):  # type: ignore[misc]
        def __init__(self, inputs: int, hidden: int, outputs: int, eta: float) -> None:
            rates.append(eta)
            super().__init__([inputs, hidden, outputs])

    for candidate in (Listed, Each, Rated):
        assert_right(form_of(candidate))
    assert {*rates} == {0.5}


def refused(candidate: Any) -> str:
    with pytest.raises(CandidateError) as raised:
        form_of(candidate)
    return str(raised.value)


def holding(weights: Any, biases: Any, **more: Any) -> type:
    def initialised(self: Any, sizes: list[int]) -> None:
        self.weights, self.biases = weights, biases

    return type("Candidate", (), {"__init__": initialised, "backprop": lambda self, x, y: None} | more)


def test_what_keeps_a_class_from_being_checked_is_told() -> None:
    w, b = [np.ones((5, 7)), np.ones((3, 5))], [np.ones(5), np.ones(3)]
    expected = "expected (5, 7), (3, 5) or (7, 5), (5, 3)"
    assert refused(holding([w[0], w[1].T], b)) == f"Candidate([7, 5, 3]): weights of shapes (5, 7), (5, 3); {expected}"
    expected = "expected (5, 1), (3, 1) or (5,), (3,)"
    assert refused(holding(w, b[1:])) == f"Candidate([7, 5, 3]): biases of shapes (3,); {expected}"
    assert refused(holding(w, b[::-1])) == f"Candidate([7, 5, 3]): biases of shapes (3,), (5,); {expected}"
    assert refused(holding(w, b[:1])) == f"Candidate([7, 5, 3]): biases of shapes (5,); {expected}"
    assert refused(holding(w, None)) == "biases: None where an array was expected"
    none = "Candidate: it has no method backprop(x, y), and none that updates a mini-batch"
    assert refused(holding(w, b, backprop=lambda self, x: None)) == none
    bare = type("Candidate", (), {"__init__": lambda self, sizes: None})
    assert refused(bare) == "Candidate: it has no attribute `weights`; expected lists `weights` and `biases`"
    some = type("Candidate", (), {"__init__": lambda self, sizes: setattr(self, "W", w)})
    assert refused(some) == "Candidate: it has no attribute `biases`; expected lists `weights` and `biases`"
    # Made of sizes one by one, it has no weights; that counts for more than that it cannot be made of a list.
    each = type("Candidate", (), {"__init__": lambda self, a, b, c: None})
    assert "it has no attribute `weights`" in refused(each)
    never = type("Candidate", (), {"__init__": lambda self, sizes: 1 / 0})
    assert refused(never).startswith("it raises ZeroDivisionError")


@pytest.mark.parametrize("examples", ["columns", "rows"])
def test_outputs_and_costs_that_a_class_shows_are_seen(examples: Any) -> None:
    layout = Layout(examples=examples)

    def outputs(self: Any, x: Array) -> Array:
        network = Network([7, 5, 3])
        network.weights, network.biases = self.weights, self.biases
        return network.feedforward(x).T if examples == "columns" else network.feedforward(x.T).T

    def turned(self: Any, x: Array) -> Array:
        found = np.asarray(outputs(self, x))
        return found.T.copy() if examples == "columns" else found

    def cost(self: Any, x: Array, y: Array) -> Any:
        x += 1  # of arrays of its own
        y += 1
        return 1.5

    problem = PROBLEMS[0]
    seen = form_of(class_of(layout, feedforward=turned, cost=cost)).observe(problem)
    assert seen.forward == pytest.approx(problem.network().feedforward(problem.x), rel=1e-12)
    assert (seen.cost, seen.eps, seen.floor) == (1.5, EPS["float64"], 0.0)
    for other in (lambda self, x: "text", lambda self, x: x[:1], lambda self, x: np.ones((3, 8), dtype=int)):
        assert form_of(class_of(layout, feedforward=other)).observe(problem).forward is None
    assert form_of(class_of(layout, cost=lambda self, x, y: np.array(2.5))).observe(problem).cost == 2.5
    assert form_of(class_of(layout, cost=lambda self, x, y: np.array([2.5, 3]))).observe(problem).cost is None
    assert form_of(class_of(layout, cost=lambda self, a, y: 1 / 0)).observe(problem).cost is None


def test_backprop_of_outputs_or_of_a_pass_forward() -> None:
    layout, whole = Layout(), class_of(Layout()).backprop  # type: ignore[attr-defined]

    def forward(self: Any, x: Array) -> Array:
        return np.ones((3, x.shape[1])) * 0.25

    def of_outputs(self: Any, x: Array, y: Array, a_hat: Array) -> Any:
        raise AssertionError("it is not called")

    def with_outputs(self: Any, x: Array, y: Array, Output: Array) -> Any:  # noqa: N803
        assert (Output == 0.25).all()
        return whole(self, x, y)

    assert_right(form_of(class_of(layout, forward=forward, backprop=with_outputs)))

    def cost_derivative(self: Any, a: Array, z: Array, y: Array) -> Any:
        return (a, z, y)

    for longer_first in (True, False):

        def forward_prop(self: Any, x: Array, first: bool = longer_first) -> Any:
            activations, zs = [x, x + 1, x + 2], [x - 1, x - 2]
            return (activations, zs) if first else (zs, activations)

        def of_passes(self: Any, activations: Any, zs: Any, error: Any) -> Any:
            x = activations[0]
            for array, truth in zip([*activations, *zs], [x, x + 1, x + 2, x - 1, x - 2], strict=True):
                assert np.array_equal(array, truth)
            assert np.array_equal(error[0], x + 2)
            assert np.array_equal(error[1], x - 2)
            return whole(self, x, error[2])

        more: dict[str, Any] = {"forward_prop": forward_prop, "cost_derivative": cost_derivative, "backprop": of_passes}
        assert_right(form_of(class_of(layout, **more)))
        for left in ("forward_prop", "cost_derivative"):
            form = form_of(class_of(layout, **{name: method for name, method in more.items() if name != left}))
            with pytest.raises(CandidateError) as raised:
                form.observe(PROBLEMS[0])
            said = "backprop(activations, zs, error): expected backprop(x, y); or forwardprop(x) and "
            assert str(raised.value) == f"{said}cost_deviation(output, z, y) too"
    form = form_of(class_of(layout, backprop=of_outputs))
    with pytest.raises(CandidateError, match=re.escape("backprop(x, y, a_hat): expected backprop(x, y)")):
        form.observe(PROBLEMS[0])


# Updates

UPDATES = {
    "batch": "def update_mini_batch(self, mini_batch, eta)",
    "lengths": "def update_mini_batch(self, batch, eta, lmbda, n)",
    "matrices": "def train_step(self, x, y, lr)",
}


def updating(method: str, mean: bool) -> type:
    """A class without backprop, whose update is right, or of a sum where a mean is wanted."""
    there: dict[str, Any] = {"gradient": gradient, "Layout": Layout, "np": np}
    lines = [
        f"{UPDATES[method]}:",
        "    eta = locals().get('eta', locals().get('lr'))",
        "    assert (locals().get('lmbda', 0.0), locals().get('n', 50)) == (0.0, 50)",
        "    if 'x' not in locals():",
        "        pairs = locals().get('mini_batch', locals().get('batch'))",
        "        x, y = (np.concatenate(several, axis=1) for several in zip(*pairs))",
        "    nabla_w, nabla_b = gradient(Layout(), False, self.weights, self.biases, x, y)",
        f"    step = eta / (x.shape[1] if {mean} else 1)",
        "    self.weights = [w - step * n for w, n in zip(self.weights, nabla_w)]",
        "    self.biases = [b - step * n for b, n in zip(self.biases, nabla_b)]",
    ]
    exec("\n".join(lines), there)
    made = class_of(Layout())
    update = next(value for name, value in there.items() if name in {"update_mini_batch", "train_step"})
    return type("Candidate", (), {"__init__": made.__init__, update.__name__: update})  # type: ignore[misc]


@pytest.mark.parametrize("method", UPDATES)
@pytest.mark.parametrize("mean", [False, True])
def test_an_update_shows_the_gradient(method: str, mean: bool) -> None:
    form = form_of(updating(method, mean))
    assert isinstance(form, UpdateForm)
    assert not form.per_example
    assert form.says == f"a class with {form.method}, of a mini-batch, examples in columns"
    assert_right(form, lambda m: 1 / m if mean else 1.0)
    seen = form.observe(PROBLEMS[0])
    assert (seen.eps, seen.problem.eta) == (EPS["float64"], 2.0**20)
    largest = max(np.abs(array).max() for array in (*PROBLEMS[0].weights, *PROBLEMS[0].biases))
    assert seen.floor == EPS["float64"] * largest / 2.0**20
    first, second = form.again(PROBLEMS[0])
    for name, array in first.gradient.items():
        assert np.array_equal(array, second.gradient[name])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_an_update_may_need_what_a_pass_forward_has_kept(dtype: str) -> None:
    made: Any = updating("matrices", mean=True)

    class Candidate(made):  # type: ignore[misc]
        def __init__(self, sizes: list[int]) -> None:
            super().__init__(sizes)
            self.weights: list[Array] = [w.astype(dtype) for w in self.weights]

        def forward(self, x: Array) -> Array:
            assert x.dtype == dtype
            self.kept = x
            raise_if_asked()
            return x

        def train_step(self, x: Array, y: Array, lr: float) -> None:
            assert np.array_equal(self.kept, x)
            super().train_step(x, y, lr)

    asked: list[bool] = []

    def raise_if_asked() -> None:
        if asked:
            raise ValueError("no")

    form = form_of(Candidate)
    exact = Problem.random((4, 1, 3), 5)  # whose hidden layer has one bias
    seen = form.observe(exact)
    for layer, (w, b) in enumerate(zip(*exact.network().backprop(exact.x, exact.y), strict=True), 1):
        for name, array in ((f"dC/dW({layer})", w), (f"dC/db({layer})", b[:, 0])):
            assert seen.gradient[name] == pytest.approx(array / 5, rel=1e-4, abs=1e-6)
    asked.append(True)
    with pytest.raises(RaisedError) as raised:
        form.observe(exact)
    assert raised.value.problem is exact
    assert raised.value.line is not None


def method_of(signature: str) -> Callable[..., Any] | None:
    there: dict[str, Any] = {}
    exec(f"class Candidate:\n    {signature}: ...", there)
    return update_of(there["Candidate"]())


@pytest.mark.parametrize(
    ("signature", "matrices"),
    [
        ("def update_mini_batch(self, mini_batch, eta)", False),
        ("def update(self, Batch, LR)", False),
        ("def train_batch(self, data, learning_rate, n)", False),
        ("def step_weights(self, examples, n, alpha)", False),
        ("def update(self, x, y, eta)", True),
        ("def train(self, images, labels, rate)", True),
        ("def update(self, x, y)", None),
        ("def update(self, x, y, n)", None),
        ("def update(self, x, y, eta, n)", None),
        ("def update(self, batch, n)", None),
        ("def update(self, gradients, eta)", None),
        ("def update(self, eta)", None),
        ("def update(self, batch, eta, n, m, k)", None),
        ("def other(self, batch, eta)", None),
    ],
)
def test_an_update_is_told_by_its_arguments(signature: str, matrices: bool | None) -> None:
    method = method_of(signature)
    assert (method and takes_matrices(method)) is matrices


def test_an_update_is_given_what_it_asks_for() -> None:
    given: list[Any] = []
    form = form_of(class_of(Layout()))
    assert isinstance(form, NetworkForm)

    def update(batch: Any, m: int, eta: float, mini_batch_size: int, n: int, lmbda: float) -> None:
        given.extend([batch, m, eta, mini_batch_size, n, lmbda])

    run_update(form, None, update, PROBLEMS[0], 0.25)
    assert given[1:] == [8, 0.25, 8, 50, 0.0]
    assert len(given[0]) == 8
    for number, (x, y) in enumerate(given[0]):
        assert np.array_equal(x, PROBLEMS[0].x[:, number : number + 1])
        assert np.array_equal(y, PROBLEMS[0].y[:, number : number + 1])

    def matrices(x: Array, y: Array, eta: float) -> None:
        given[:] = [x, y, eta]

    run_update(form, None, matrices, PROBLEMS[0], 0.25)
    assert np.array_equal(given[0], PROBLEMS[0].x)
    assert np.array_equal(given[1], PROBLEMS[0].y)
    assert given[2] == 0.25

    def failing(batch: Any, eta: float) -> None:
        given.extend(batch)
        raise ValueError("no")

    form.dtype = "float32"
    given.clear()
    with pytest.raises(RaisedError) as failed:
        run_update(form, None, failing, PROBLEMS[0], 0.25)
    assert failed.value.problem is PROBLEMS[0]
    assert {str(array.dtype) for pair in given for array in pair} == {"float32"}

    def other(batch: Any, eta: float, momentum: float) -> None:
        raise AssertionError("it is not called")

    with pytest.raises(CandidateError) as raised:
        run_update(form, None, other, PROBLEMS[0], 0.25)
    assert str(raised.value) == "other(batch, eta, momentum): `momentum` is unknown; expected eta"


def test_an_update_of_matrices_says_what_backprop_is_for() -> None:
    """A backprop that is wrong for a mini-batch beside an update of one is wrong; beside none, it is for an example."""
    layout = Layout("out, in", "column", "rows")

    def unsummed(self: Any, x: Array, y: Array) -> Any:
        nabla_w, nabla_b = gradient(layout, False, self.weights, self.biases, x, y)
        return nabla_w, [np.repeat(n, len(x), axis=1) for n in nabla_b]

    def never(self: Any, x: Array, y: Array, eta: float) -> None: ...

    def update_mini_batch(self: Any, x: Array, y: Array, eta: float) -> None: ...

    def wrong(self: Any, x: Array, y: Array) -> Any:
        nabla_w, nabla_b = unsummed(self, x, y)
        return [2 * n for n in nabla_w], nabla_b

    def listed(self: Any, batch: Any, eta: float) -> None: ...

    for more, one in (
        ({"backprop": unsummed}, True),
        ({"backprop": unsummed, "update_mini_batch": listed}, True),
        ({"backprop": unsummed, "update_mini_batch": update_mini_batch}, False),
        ({"backprop": unsummed, "update": never}, True),  # right for an example, which the update may be of
        ({"backprop": wrong, "update": never}, False),
        ({"backprop": wrong}, True),
    ):
        form = form_of(class_of(layout, **more))
        assert form.per_example is one
        assert form.layout == layout  # type: ignore[attr-defined]
    # backward(x, y, eta), which updates
    made = updating("matrices", mean=True)
    backward = type("Candidate", (), {"__init__": made.__init__, "backward": made.train_step})  # type: ignore[misc, attr-defined]
    form = form_of(backward)
    assert isinstance(form, UpdateForm)
    assert form.method == "backward"
    assert_right(form, lambda m: 1 / m)


def test_a_class_of_tensors_is_given_tensors() -> None:
    import torch

    for several in (True, False):

        def initialised(self: Any, sizes: list[int], several: bool = several) -> None:
            self.weights, self.biases, _, _ = Layout(torch=True).given(Problem.random(sizes, 1), "float64")
            self.w = [0]  # the first that has such a name counts
            if not several:
                (self.W1, self.W2), (self.b1, self.b2) = self.weights, self.biases
                del self.weights, self.biases, self.w

        def backprop(self: Any, x: Any, y: Any, several: bool = several) -> Any:
            ws, bs = (self.weights, self.biases) if several else ([self.W1, self.W2], [self.b1, self.b2])
            assert all(isinstance(array, torch.Tensor) for array in (*ws, *bs, x, y))
            found = gradient(Layout(), False, [w.numpy() for w in ws], [b.numpy() for b in bs], x.numpy(), y.numpy())
            return [[torch.from_numpy(array) for array in arrays] for arrays in found]

        form = form_of(type("Candidate", (), {"__init__": initialised, "backprop": backprop}))
        assert isinstance(form, NetworkForm)
        assert form.layout.torch
        assert form.names == ((["weights"], ["biases"]) if several else (["W1", "W2"], ["b1", "b2"]))
        assert_right(form)


def test_what_cannot_be_made_is_told_with_its_line() -> None:
    def make(sizes: list[int]) -> Any:
        if sizes:
            made.append(sizes)
        if len(made) > 1:
            raise ValueError("no")
        return class_of(Layout())(sizes)

    made: list[list[int]] = []
    with pytest.raises(RaisedError) as raised:
        form_of(make)
    assert raised.value.line == make.__code__.co_firstlineno + 4
    nameless = partial(holding([np.ones((5, 7))], []))
    assert refused(nameless).startswith("the factory([7, 5, 3]): weights of shapes (5, 7); expected ")


def test_observed_has_no_outputs_where_none_are_shown() -> None:
    seen: Observed = form_of(class_of(Layout())).observe(PROBLEMS[0])
    assert (seen.forward, seen.cost) == (None, None)
