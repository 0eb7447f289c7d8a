"""How candidates are called, and what is made of what they give."""

import re
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchdigits.errors import CandidateError
from torchdigits.proof.diagnosis import candidates
from torchdigits.proof.diagnosis.candidates import (
    EPS,
    Layout,
    Observed,
    RaisedError,
    all_same,
    best_form,
    calling,
    described,
    file_of,
    fits,
    leaves,
    line_of_method,
    methods,
    named,
    positional,
    together,
)
from torchdigits.proof.diagnosis.steps import Problem
from torchdigits.proof.reference import Array

PROBLEM = Problem.random((7, 5, 3), 4)
FILE = "program.py"
FAILS = """
def first(x): second(x)
def second(x): third(x)
def third(x): fourth(x)
def fourth(x): fifth(x)
def fifth(x): raise ValueError("no" + chr(10) + "and no")
"""


def program(source: str, file: str = FILE) -> dict[str, Any]:
    there: dict[str, Any] = {}
    exec(compile(source, file, "exec"), there)
    return there


def test_what_is_raised_is_told_with_the_last_lines_of_the_candidate() -> None:
    with pytest.raises(RaisedError) as raised:
        calling(program(FAILS)["first"], 1, file=FILE, problem=PROBLEM)
    assert str(raised.value).splitlines() == [
        "it raises ValueError: no when asked for 7-5-3 and 4 examples",
        "  line 3, in second: ",
        "  line 4, in third: ",
        "  line 5, in fourth: ",
        "  line 6, in fifth: ",
    ]
    assert raised.value.says == "ValueError: no"
    assert raised.value.line == 6
    assert raised.value.problem is PROBLEM
    with pytest.raises(RaisedError, match=r"^it raises ValueError: no\n  line 3") as raised:
        calling(program(FAILS)["first"], 1, file=FILE)
    assert raised.value.problem is None
    with pytest.raises(RaisedError) as raised:
        calling(int, "one", file=FILE)
    assert str(raised.value) == "it raises ValueError: invalid literal for int() with base 10: 'one'"
    assert raised.value.line is None


def test_lines_have_their_text(tmp_path: Path) -> None:
    (file := tmp_path / "program.py").write_text("def run():\n    return undefined  # why\n")
    with pytest.raises(RaisedError, match=r"line 2, in run: return undefined  # why$"):
        calling(program(file.read_text(), str(file))["run"], file=str(file))


def test_a_candidate_may_end_but_nobody_is_kept_from_stopping_it() -> None:
    with pytest.raises(RaisedError, match="SystemExit: 3"):
        calling(sys.exit, 3, file=FILE)
    with pytest.raises(KeyboardInterrupt):
        calling(program("def run(): raise KeyboardInterrupt")["run"], file=FILE)
    error = CandidateError("this")
    with pytest.raises(CandidateError) as raised:
        calling(program("def run(error): raise error")["run"], error, file=FILE)
    assert raised.value is error


def test_what_a_candidate_prints_and_warns_of_goes_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    noisy = program("""
import sys, warnings
import numpy as np

def run(one, other):
    print("here")
    warnings.warn("once")
    assert sys.stdout.write("four") == 4
    return np.array([one, other]) / 0, np.exp(np.array([-1000.0, 1000.0]))
""")
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        quotients, powers = calling(noisy["run"], 1.0, -1.0, file=FILE)
    assert (*quotients, *powers) == (np.inf, -np.inf, 0, np.inf)
    assert capsys.readouterr() == ("", "")


def test_problems_in_words() -> None:
    said = [described(Problem.random((7, 5, 3), m)) for m in (1, 2, 8)]
    assert said == ["7-5-3 and 1 example", "7-5-3 and 2 examples", "7-5-3 and 8 examples"]


def test_where_something_is_written() -> None:
    typed = program("def run(): ...", "<typed>")["run"]
    for without in (3, int, len, typed):
        assert file_of(without) == ""
    assert [line_of_method(without) for without in (len, typed)] == [None, None]
    assert file_of(file_of) == candidates.__file__
    lines = Path(candidates.__file__).read_text().splitlines()
    assert lines[(line_of_method(file_of) or 0) - 1].startswith("def file_of(")


def test_arguments_that_are_needed() -> None:
    def every(one: int, /, two: int, three: int = 3, *others: int, four: int, **more: int) -> None: ...

    assert positional(every) == ["one", "two"]
    assert positional(dict) == []  # which does not tell


def test_methods_of_a_name_and_so_many_arguments() -> None:
    class Thing:
        backprop = 3
        step_size = staticmethod(lambda x: x)

        def step_one(self, x: int) -> int:
            return x

        def step_two(self, x: int, y: int) -> int:
            return x + y

        def a_step(self, x: int) -> int:
            return x

    found = methods(Thing(), re.compile(r"step_\w+|backprop"), [1])
    assert [method.__name__ for method in found] == ["step_one", "<lambda>"]
    found = methods(Thing(), re.compile(r"step_\w+|backprop"), [2, 1])
    assert [method.__name__ for method in found] == ["step_one", "<lambda>", "step_two"]


@pytest.mark.parametrize("in_torch", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_arrays_are_given_as_they_are_wanted(dtype: str, in_torch: bool) -> None:
    """Of the type that is asked for, in memory as NumPy and torch would make them, and nobody else's."""
    x, y = PROBLEM.x, PROBLEM.y
    for layout, w, b, images, wanted in (
        (Layout("out, in", "column", "columns", in_torch), PROBLEM.weights[0], PROBLEM.biases[0], x, y),
        (Layout("in, out", "flat", "rows", in_torch), PROBLEM.weights[0].T, PROBLEM.biases[0][:, 0], x.T, y.T),
        (Layout("out, in", "row", "flat", in_torch), PROBLEM.weights[0], PROBLEM.biases[0].T, x[:, 0], y[:, 0]),
    ):
        weights, biases, given_x, given_y = layout.given(PROBLEM, dtype)
        assert len(weights) == len(biases) == 2
        for given, truth in ((weights[0], w), (biases[0], b), (given_x, images), (given_y, wanted)):
            assert isinstance(given, torch.Tensor if in_torch else np.ndarray)
            array = np.asarray(given)
            assert array.dtype == dtype
            assert np.array_equal(array, truth)
            assert array.flags.c_contiguous
            assert not np.shares_memory(array, truth)


@pytest.mark.parametrize(
    ("name", "layout", "shape", "neurons", "taken"),
    [
        ("dC/dW(1)", Layout("out, in"), (5, 7), 5, (5, 7)),
        ("dC/dW(1)", Layout("in, out"), (7, 5), 5, (5, 7)),
        ("dC/db(1)", Layout(), (5, 1), 5, (5,)),
        ("dC/db(1)", Layout(), (1, 5), 5, (5,)),
        ("dC/db(1)", Layout(), (5,), 5, (5,)),
        ("dC/db(1)", Layout(), (1, 1), 5, (1, 1)),  # one number for five neurons
        ("dC/db(1)", Layout(), (1, 1), 1, (1,)),
        ("dC/db(1)", Layout(), (5, 4), 5, (5, 4)),  # not summed over the examples
        ("dC/db(1)", Layout(), (4, 5), 5, (5, 4)),
        ("dC/db(1)", Layout(), (5, 5), 5, (5, 5)),
        ("dC/db(1)", Layout(), (3, 4), 5, (3, 4)),
        ("dC/db(1)", Layout(), (2, 4, 5), 5, (2, 4, 5)),
    ],
)
def test_gradients_are_taken_as_matrices_and_vectors(
    name: str, layout: Layout, shape: tuple[int, ...], neurons: int, taken: tuple[int, ...]
) -> None:
    given = np.arange(np.prod(shape), dtype=float).reshape(shape)
    array = layout.taken(name, given, neurons)
    assert array.shape == taken
    assert np.array_equal(array, given if shape == taken else given.T if len(taken) == 2 else given.ravel())


PAIR = np.empty(2, dtype=object)
PAIR[:] = [np.ones((2, 3)), np.ones(2)]


@pytest.mark.parametrize(
    ("value", "shapes"),
    [
        (np.ones((2, 3)), [(2, 3)]),
        ([np.ones((2, 3)), (np.ones(2), np.ones((2, 1)))], [(2, 3), (2,), (2, 1)]),
        ({"W": [np.ones((2, 3))], "b": np.ones(2)}, [(2, 3), (2,)]),
        (PAIR, [(2, 3), (2,)]),
        (np.ones((2, 3, 4)), [(3, 4), (3, 4)]),  # one array of layers of one size
        (np.array([[1, 2.5], [3, 4]], dtype=object), [(2, 2)]),
        ([[1.0, 2.0], [3, 4]], [(2, 2)]),  # lists of numbers are an array
        ([[[1.0, 2.0], [3, 4]], [1.0, 2.0]], [(2, 2), (2,)]),  # unless they are of different lengths
        ([(1.0, np.float64(2.0))], [(), ()]),  # what NumPy has made is an array of its own
        ([torch.ones(2, 3), torch.ones(2, requires_grad=True)], [(2, 3), (2,)]),
        ([torch.ones(2, 3, dtype=torch.bfloat16)], [(2, 3)]),
        (0.5, [()]),
        (True, [()]),
        ([1, 2, 3], [(3,)]),
    ],
)
def test_arrays_are_found_in_whatever_holds_them(value: Any, shapes: list[tuple[int, ...]]) -> None:
    assert [leaf.shape for leaf in leaves(value, "it")] == shapes


def test_numbers_are_what_they_were() -> None:
    (array,) = leaves([[1, 2], [3.5, 4]], "it")
    assert array.tolist() == [[1, 2], [3.5, 4]]
    (array,) = leaves(np.array([[1, 2], [3.5, 4]], dtype=object), "it")
    assert (array.tolist(), str(array.dtype)) == ([[1, 2], [3.5, 4]], "float64")
    (array,) = leaves(torch.tensor([1.5, 2], dtype=torch.bfloat16), "it")
    assert array.tolist() == [1.5, 2]
    (array,) = leaves(torch.tensor([1.5, 2], dtype=torch.float16), "it")
    assert str(array.dtype) == "float16"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "it: None where an array was expected"),
        ([np.ones(2), "two"], "it: a str where an array was expected"),
        (np.ones(2, dtype=complex), "it: a ndarray where an array was expected"),
        ([np.array([1, np.nan, np.inf])], "it: NaN numbers in an array (3,); expected finite ones"),
        ([{"b": np.array([[1, -np.inf]])}], "it: infinite numbers in an array (1, 2); expected finite ones"),
        ([[[1.0, 2.0], [3.0, None]], [1.0]], "it: None where an array was expected"),
        ([[[1.0, 2.0], [3.0, 4.0]], [np.inf]], "it: infinite numbers in an array (1,); expected finite ones"),
        (np.array([np.ones(2), None], dtype=object), "it: None where an array was expected"),
    ],
)
def test_what_is_no_array_is_told(value: Any, says: str) -> None:
    with pytest.raises(CandidateError) as raised:
        leaves(value, "it")
    assert str(raised.value) == says


# Which array belongs to what

DEEP = Problem.random((9, 6, 5, 2), 3)


def truth(problem: Problem = DEEP) -> dict[str, Array]:
    nabla_w, nabla_b = problem.network().backprop(problem.x, problem.y)
    names = {f"dC/dW({layer})": w for layer, w in enumerate(nabla_w, 1)}
    return names | {f"dC/db({layer})": b[:, 0] for layer, b in enumerate(nabla_b, 1)}


def same(one: dict[str, Array], other: dict[str, Array]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(array, other[name]) for name, array in one.items())


W, B = [f"dC/dW({layer})" for layer in (1, 2, 3)], [f"dC/db({layer})" for layer in (1, 2, 3)]
ORDERS = [
    (W + B, False),
    (B + W, False),
    ([W[0], B[0], W[1], B[1], W[2], B[2]], False),
    ([B[0], W[0], B[1], W[1], B[2], W[2]], False),
    (W[::-1] + B[::-1], True),
    (B[::-1] + W[::-1], True),
    ([W[2], B[2], W[1], B[1], W[0], B[0]], True),
    ([B[2], W[2], B[1], W[1], B[0], W[0]], True),
]


@pytest.mark.parametrize(("order", "backwards"), ORDERS)
def test_arrays_in_any_order_are_told_by_their_shapes(order: list[str], backwards: bool) -> None:
    right = truth()
    gradient, eps, is_reversed = named([right[name] for name in order], Layout(), DEEP, "it")
    assert same(gradient, right)
    assert (eps, is_reversed) == (EPS["float64"], backwards)
    transposed = [right[name].T if name in W else right[name][None] for name in order]
    gradient, _, is_reversed = named(transposed, Layout("in, out", "row"), DEEP, "it")
    assert same(gradient, right)
    assert is_reversed is backwards
    # A matrix that is not transposed, and biases of each example, are no reason to take them for others.
    wrong = [right[name].T if name in W else np.stack([right[name]] * 3) for name in order]
    gradient, _, is_reversed = named(wrong, Layout(), DEEP, "it")
    assert same(gradient, {n: a.T if n in W else np.stack([a] * 3, axis=1) for n, a in right.items()})
    assert is_reversed is backwards


@pytest.mark.parametrize("shape", [(4, 4), ()])
@pytest.mark.parametrize("wrong", [*([name] for name in W + B), W, B])
def test_what_fits_nothing_leaves_the_others_where_they_are(wrong: list[str], shape: tuple[int, ...]) -> None:
    right = truth()
    given = right | {name: np.ones(shape) for name in wrong}
    for order, backwards in ORDERS:
        gradient, _, is_reversed = named([given[name] for name in order], Layout(), DEEP, "it")
        assert same(gradient, given)
        assert is_reversed is backwards


@pytest.mark.parametrize("layout", [Layout("out, in"), Layout("in, out")])
def test_a_matrix_of_one_row_is_no_bias(layout: Layout) -> None:
    right = truth(one := Problem.random((4, 3, 1), 2))
    for order in (["dC/dW(1)", "dC/db(1)", "dC/dW(2)", "dC/db(2)"], ["dC/db(1)", "dC/dW(1)", "dC/db(2)", "dC/dW(2)"]):
        lying = {n: (a.T if layout.weights == "in, out" else a) if "W" in n else a[:, None] for n, a in right.items()}
        if layout.weights == "in, out":
            lying |= {n: a.T for n, a in lying.items() if "b" in n}
        gradient, _, _ = named([lying[name] for name in order], layout, one, "it")
        assert same(gradient, right)


def test_one_layer_has_no_wrong_order() -> None:
    right = truth(one := Problem.random((4, 3), 2))
    for order in ([*right], [*right][::-1]):
        gradient, _, is_reversed = named([right[name] for name in order], Layout(), one, "it")
        assert same(gradient, right)
        assert not is_reversed


def test_of_layers_of_one_size_the_likeliest_order_is_taken() -> None:
    square = Problem.random((5, 5, 5), 3)
    right = truth(square)
    names = [*right]
    gradient, _, is_reversed = named([right[name] for name in names], Layout(), square, "it")
    assert same(gradient, right)
    assert not is_reversed


@pytest.mark.parametrize(
    "key", ["d{}{}", "grad_{}{}", "gradients_{}{}", "nabla_{}{}", "{}{}", "d{}_{}", "{}eights_{}", "\u2207{}{}"]
)
def test_keys_tell_whose_gradient_it_is(key: str) -> None:
    right = truth(square := Problem.random((5, 5, 5), 3))  # where shapes do not tell
    for letters in ("Wb", "wB"):
        value = {key.format(letters[name[4] == "b"], name[6]): array for name, array in reversed(right.items())}
        gradient, _, is_reversed = named(value, Layout(), square, "it")
        assert same(gradient, right)
        assert not is_reversed


def test_keys_that_do_not_tell_are_not_heeded() -> None:
    right = truth()
    for keys in ("abcdef", ["W1", "W2", "W3", "b1", "b2", "c3"], ["W1", "W1x", "W3", "b1", "b2", "b3"]):
        gradient, _, _ = named(dict(zip(keys, right.values(), strict=True)), Layout(), DEEP, "it")
        assert same(gradient, right)


def test_a_cost_may_stand_beside_the_gradients() -> None:
    right = truth()
    for value in ([np.float64(0.5), *right.values()], [[*right.values()], 0.5], [0.5, 3, *right.values()]):
        gradient, _, _ = named(value, Layout(), DEEP, "it")
        assert same(gradient, right)
    # But one number for a bias is one of them.
    total = right | {"dC/db(3)": np.array(0.5)}
    gradient, _, _ = named([*total.values()], Layout(), DEEP, "it")
    assert same(gradient, total)


def test_what_are_not_all_gradients_is_told() -> None:
    arrays, buffer = [*truth().values()], np.zeros(1000)
    several = "it: {} arrays for 9-6-5-2; expected 3 of weights and 3 of biases"
    views = [buffer[: array.size].reshape(array.shape) for array in arrays[1:]]
    for value, says in (
        (arrays[1:], several.format(5)),
        ([*arrays, *arrays], several.format(12)),
        ([0.5, *arrays[1:], 0.5], several.format(5)),
        ([*arrays[1:], None], "it: None where an array was expected"),
        ([arrays[0], *views], "it: two of its arrays are views of one buffer; expected an array for each"),
    ):
        with pytest.raises(CandidateError) as raised:
            named(value, Layout(), DEEP, "it")
        assert str(raised.value) == says


def test_the_least_exact_numbers_count() -> None:
    arrays = [*truth().values()]
    for dtype, spacing in (("float32", 2.0**-23), ("float16", 2.0**-10), ("int64", 2.0**-52)):
        gradient, eps, _ = named([arrays[0], arrays[1].astype(dtype), *arrays[2:]], Layout(), DEEP, "it")
        assert eps == spacing
        assert {str(array.dtype) for array in gradient.values()} == {"float64"}


def test_shapes_of_all_parameters() -> None:
    right = truth()
    assert fits(Observed(DEEP, right, 0.0))
    for name, array in right.items():
        assert not fits(Observed(DEEP, right | {name: array[:-1]}, 0.0))
        assert not fits(Observed(DEEP, right | {name: array[..., None]}, 0.0))
        assert not fits(Observed(DEEP, right | {name: array[..., :-1]}, 0.0))


def test_examples_are_summed() -> None:
    single = [
        Observed(one, truth(one), EPS[dtype], one.network().feedforward(one.x))
        for one, dtype in zip(DEEP.examples(), ("float64", "float32", "float64"), strict=True)
    ]
    whole = together(DEEP, single)
    assert whole.problem is DEEP
    assert whole.eps == EPS["float32"]
    assert whole.forward == pytest.approx(DEEP.network().feedforward(DEEP.x), rel=1e-13)
    for name, array in truth().items():
        assert whole.gradient[name] == pytest.approx(array, rel=1e-10)
    silent = [Observed(one.problem, one.gradient, one.eps) for one in single]
    assert together(DEEP, silent).forward is None
    assert together(DEEP, silent[:1]).gradient == single[0].gradient


def test_what_has_been_changed() -> None:
    one, other = np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(2, 3)
    for way in (lambda a: a, lambda a: [a, a], lambda a: {"a": a, "b": [(a, a)]}, lambda a: torch.from_numpy(a)):
        assert all_same(way(one), way(other))
        assert not all_same(way(one), way(other + 1e-9))
    assert not all_same(one, one.T)
    assert not all_same([one, one], [one])
    assert not all_same([one, one], (one, one + 1))


# The form that is most right


@dataclass
class Pretended:
    """A form whose gradient is right for so many of its parameters."""

    right: float
    shaped: bool = True
    fails: bool = False
    per_example: bool = False
    depth: int | None = None
    dtype: str = "float64"
    says: str = ""
    file: str = ""
    sizes: tuple[int, ...] | None = None
    changed: set[str] = field(default_factory=set)
    reversed: bool = False
    asked: list[Problem] = field(default_factory=list)

    def observe(self, problem: Problem) -> Observed:
        self.asked.append(problem)
        if self.fails:
            raise CandidateError("no")
        gradient = {n: a if self.shaped else a[..., :-1] for n, a in truth(problem).items()}
        return Observed(problem, gradient, self.right)

    def again(self, problem: Problem) -> tuple[Observed, Observed]:
        raise AssertionError("it is not asked for")


@pytest.mark.parametrize(
    ("forms", "best", "strictly"),
    [
        ([Pretended(1), Pretended(3), Pretended(3), Pretended(2)], 1, 1),
        ([Pretended(4, shaped=False), Pretended(0), Pretended(1)], 2, 2),
        ([Pretended(1, shaped=False), Pretended(2, shaped=False)], 1, None),
        ([Pretended(4, fails=True), Pretended(0)], 1, 1),
        ([Pretended(0, shaped=False)], 0, None),
        ([Pretended(4, fails=True)], None, None),
        ([], None, None),
    ],
)
def test_the_form_that_is_most_right_is_taken(forms: list[Pretended], best: int | None, strictly: int | None) -> None:
    def rightness(observed: Observed) -> float:
        return observed.eps

    for strict, number in ((False, best), (True, strictly)):
        found = best_form(forms, rightness, strict)
        assert found is (None if number is None else forms[number])


def test_forms_are_asked_for_what_they_can_have() -> None:
    forms = [
        Pretended(0),
        Pretended(0, per_example=True),
        Pretended(0, depth=1),
        Pretended(0, depth=3, per_example=True),
    ]
    best_form(forms, lambda observed: observed.eps, strict=True)
    asked = [[(problem.sizes, problem.m) for problem in form.asked] for form in forms]
    assert asked == [[([7, 5, 3], 8)], [([7, 5, 3], 1)], [([4, 3], 8)], [([9, 6, 5, 2], 1)]]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_forms_are_asked_in_numbers_that_they_have(dtype: str) -> None:
    best_form([form := Pretended(0, dtype=dtype)], lambda observed: observed.eps, strict=True)
    (w, _), exact = form.asked[0].weights, Problem.random((7, 5, 3), 8, dtype="float64").weights[0]
    assert np.array_equal(w, exact.astype(dtype))
