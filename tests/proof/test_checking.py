"""What a candidate is asked for, and what is made of it; candidates are functions that compute by the reference."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from torchdigits.errors import CandidateError
from torchdigits.proof.diagnosis import check as module
from torchdigits.proof.diagnosis.candidates import EPS, Observed, RaisedError
from torchdigits.proof.diagnosis.check import assert_gradients_agree, check, form_of
from torchdigits.proof.diagnosis.mistakes import BY_NAME
from torchdigits.proof.diagnosis.report import Fault, fault_of
from torchdigits.proof.diagnosis.steps import Problem, square
from torchdigits.proof.reference import Array, Network

Change = Callable[[dict[str, Array], Problem], dict[str, Array]]
Asked = tuple[list[int], int]


def gradient(weights: list[Array], biases: list[Array], x: Array, y: Array) -> tuple[list[Array], list[Array]]:
    network = Network([weights[0].shape[1], *(len(w) for w in weights)])
    network.weights, network.biases = weights, biases
    return network.backprop(x, y)


def right(problem: Problem) -> dict[str, Array]:
    nabla_w, nabla_b = problem.network().backprop(problem.x, problem.y)
    found = {f"dC/dW({layer})": w for layer, w in enumerate(nabla_w, 1)}
    return found | {f"dC/db({layer})": b[:, 0] for layer, b in enumerate(nabla_b, 1)}


@dataclass
class Pretended:
    """A form that gives the right gradient, or something else."""

    sizes: tuple[int, ...] | None = None
    depth: int | None = None
    refuses: Callable[[Problem], Exception | None] = lambda problem: None
    factors: list[float] = field(default_factory=list)  # of the first, second and third gradient
    returned: float = 1.0  # of the first, when it is looked at after a third call
    dtype: str = "float64"
    per_example: bool = False
    says: str = "pretended"
    file: str = ""
    changed: set[str] = field(default_factory=set)
    reversed: bool = False
    asked: list[Problem] = field(default_factory=list)

    def observe(self, problem: Problem) -> Observed:
        self.asked.append(problem)
        if error := self.refuses(problem):
            raise error
        factor = self.factors.pop(0) if self.factors else 1.0
        return Observed(problem, {name: factor * array for name, array in right(problem).items()}, EPS["float64"])

    def again(self, problem: Problem) -> tuple[Observed, Observed]:
        first, second = self.observe(problem), self.observe(problem)
        kept = {name: self.returned * array for name, array in first.gradient.items()}
        return Observed(problem, kept, first.eps), second


def asked(problems: list[Problem]) -> list[Asked]:
    return [(problem.sizes, problem.m) for problem in problems]


def raised(line: int | None, problem: Problem | None) -> RaisedError:
    error = RaisedError(ValueError("no"), "", problem)
    error.line = line
    return error


# What is asked for


def both(*sizes: list[int]) -> list[Asked]:
    return [(one, m) for one in sizes for m in (8, 1)]


DIGITS = ([784, 30, 10], 8)


@pytest.mark.parametrize(
    ("form", "problems"),
    [
        (Pretended(), [*both([7, 5, 3], [4, 3], [9, 6, 5, 2]), DIGITS]),
        (Pretended(depth=1), both([4, 3])),
        (Pretended(depth=2), [*both([7, 5, 3], [6, 9, 4]), DIGITS]),
        (Pretended(depth=3), both([9, 6, 5, 2])),
        (Pretended(sizes=(6, 4, 2)), both([6, 4, 2])),
        (Pretended(sizes=(6, 4, 2), depth=2), both([6, 4, 2])),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_candidate_is_asked_for_what_it_can_have(form: Pretended, problems: list[Asked], dtype: str) -> None:
    form.dtype = dtype
    given = module._problems(form)
    assert asked(given) == problems
    for problem in given:
        exact = [bool((w == w.astype(np.float32)).all()) for w in problem.weights]
        assert exact == [dtype == "float32"] * len(exact)
        assert 0.5 < np.std(problem.weights[0]) < 1.6


@pytest.mark.parametrize(("sizes", "deviation"), [((99, 40, 30), 1), ((100, 40, 30), 0.1), ((40, 400, 30), 0.05)])
def test_weights_of_many_neurons_are_small(sizes: tuple[int, ...], deviation: float) -> None:
    for problem in module._problems(Pretended(sizes=sizes)):
        assert np.std(problem.weights[0]) == pytest.approx(deviation, rel=0.1)


def test_layers_of_one_size_are_asked_for() -> None:
    for depth, depths in ((None, (2, 3, 1)), (2, (2,)), (3, (3,))):
        given = module._squares(Pretended(depth=depth, dtype="float32"))
        assert asked(given) == [([5] * (layers + 1), m) for layers in depths for m in (8, 5)]
        assert all(map(square, given))
        assert all((w == w.astype(np.float32)).all() for problem in given for w in problem.weights)
    exact = module._squares(Pretended())[0].weights[0]
    assert not (exact == exact.astype(np.float32)).all()


ODD, SQUARE = [9, 6, 5, 2], [5, 5, 5, 5]


@pytest.mark.parametrize(
    ("refuses", "depth"),
    [
        (lambda problem: None, None),
        (lambda problem: CandidateError("no") if len(problem.weights) != 2 else None, 2),
        (lambda problem: raised(3, None) if len(problem.weights) != 2 else None, 2),  # before it is called
        (lambda problem: raised(None, problem) if len(problem.weights) != 2 else None, 2),  # not in its own lines
        (lambda problem: raised(3, problem) if len(problem.weights) != 2 else None, None),  # which may be mistakes
        (lambda problem: raised(3, problem) if len(problem.weights) > 2 else None, None),
        (lambda problem: CandidateError("no") if len(problem.weights) > 2 else None, None),  # it can have one
        (lambda problem: CandidateError("no") if len(problem.weights) < 2 else None, None),  # it can have three
        (lambda problem: raised(3, problem) if problem.sizes == ODD else None, None),  # which may be a mistake
        (lambda problem: CandidateError("no"), None),
        (lambda problem: raised(3, problem), None),
        (lambda problem: raised(3, problem) if problem.sizes != SQUARE else None, None),
        (  # layers of one size are asked for then, and no others
            lambda p: raised(3, p) if p.sizes == ODD else CandidateError("no") if p.sizes[:2] == [5, 6] else None,
            None,
        ),
    ],
)
def test_whether_it_can_have_two_layers_alone(refuses: Callable[[Problem], Any], depth: int | None) -> None:
    form = Pretended(refuses=refuses, dtype="float32")
    assert module._depth(form) == depth
    assert asked(form.asked)[:3] == [([4, 3], 8), ([7, 5, 3], 8), (ODD, 8)]
    assert asked(form.asked)[3:] in ([], [(SQUARE, 8)])
    assert all((w == w.astype(np.float32)).all() for problem in form.asked for w in problem.weights)


def test_a_candidate_that_raises_is_asked_for_layers_of_one_size() -> None:
    def only_square(problem: Problem) -> Exception | None:
        return None if square(problem) and len(problem.weights) > 1 else raised(3, problem)

    observed, error = module._observe(Pretended(refuses=only_square), None)
    assert asked([one.problem for one in observed]) == [([5] * n, m) for n in (3, 4) for m in (8, 5)]
    assert error is not None
    assert error.problem is not None
    assert error.problem.sizes == [7, 5, 3]
    # Five examples may fit where eight do not.
    form = Pretended(refuses=lambda p: None if square(p) and p.m == 5 else raised(3, p), depth=2)
    observed, _ = module._observe(form, None)
    assert asked([one.problem for one in observed]) == [([5, 5, 5], 5)]
    observed, error = module._observe(Pretended(depth=1), None)
    assert (asked([one.problem for one in observed]), error) == (both([4, 3]), None)
    form = Pretended(refuses=lambda problem: None if len(problem.weights) == 2 else CandidateError("no"))
    observed, error = module._observe(form, None)
    assert (form.depth, error) == (2, None)
    assert asked([one.problem for one in observed]) == [*both([7, 5, 3], [6, 9, 4]), DIGITS]
    mine = [Problem.random((3, 2), 4)]
    observed, error = module._observe(form := Pretended(), mine)
    assert ([one.problem for one in observed], error, form.asked, form.depth) == (mine, None, mine, None)


@pytest.mark.parametrize(
    ("form", "problems"),
    [
        (Pretended(refuses=lambda problem: raised(3, problem)), None),
        (Pretended(refuses=lambda problem: None if square(problem) else raised(3, problem), sizes=(6, 4, 2)), None),
        (
            Pretended(refuses=lambda problem: None if square(problem) else raised(3, problem)),
            [Problem.random((6, 4, 2), 1)],
        ),
        (Pretended(refuses=lambda problem: CandidateError("no")), None),
    ],
)
def test_what_cannot_be_observed_is_raised(form: Pretended, problems: list[Problem] | None) -> None:
    with pytest.raises(CandidateError, match="no"):
        module._observe(form, problems)


# What shows when it is called twice


def stateful(**attributes: Any) -> list[tuple[str, str]]:
    form = Pretended(**attributes)
    return [(fault.mistake, fault.explanation) for fault in module._stateful(form, Problem.random((7, 5, 3), 4))]


def test_what_shows_when_it_is_called_twice() -> None:
    assert stateful() == []
    assert stateful(factors=[1 + 1e-8, 1 - 1e-8, 1]) == []
    assert [name for name, _ in stateful(factors=[1, 2, 1])] == ["accumulated"]
    noise = [("unknown", "Called twice with the same arguments, it gives different gradients.")]
    for factors in ([1, 3, 1], [1, 1 + 1e-5, 1], [1, 0.5, 1]):
        assert stateful(factors=factors) == noise
    told = "It changes biases and x in place, which it was given to read. "
    ((name, said),) = stateful(changed={"x", "biases"}, factors=[1, 2, 1])
    assert name == "in-place"
    assert said.startswith(told)
    assert [name for name, _ in stateful(reversed=True)] == ["reversed"]
    assert [name for name, _ in stateful(reversed=True, factors=[1, 3, 1])] == ["unknown", "reversed"]
    assert stateful(refuses=lambda problem: raised(3, problem)) == []
    with pytest.raises(CandidateError, match="written again by its next call; expected new ones for each call"):
        stateful(returned=2.0)


def test_two_signs_are_right_together_in_every_parameter() -> None:
    sign, everywhere = Fault("BP1", "output", "sign", ""), fault_of("ascent")
    assert module._cancel([sign, everywhere])
    assert not module._cancel([everywhere, sign])
    assert not module._cancel([sign])
    assert not module._cancel([sign, everywhere, sign])
    assert not module._cancel([sign, fault_of("ascent", "b(1): the gradient is added")])


# All of it


def function(change: Change, mean: bool = False) -> Callable[..., Any]:
    """A function whose gradient is changed, of columns."""

    def backprop(weights: list[Array], biases: list[Array], x: Array, y: Array) -> Any:
        found = change(right(problem := Problem(weights, biases, x, y)), problem)
        last = len(weights)
        scale = 1 / problem.m if mean else 1
        ws = [scale * found[f"dC/dW({layer})"] for layer in range(1, last + 1)]
        return ws, [scale * found[f"dC/db({layer})"] for layer in range(1, last + 1)]

    return backprop


def same(found: dict[str, Array], problem: Problem) -> dict[str, Array]:
    return found


def test_a_right_candidate_to_the_letter() -> None:
    diagnosis = check(function(same))
    assert (diagnosis.name, diagnosis.form) == (
        "backprop",
        "a function of a mini-batch, weights (out, in), examples in columns",
    )
    assert (diagnosis.problems, diagnosis.faults, diagnosis.parts, diagnosis.shown) == (7, [], [], "")
    assert (diagnosis.note, diagnosis.source) == ("", __file__)


def test_what_is_shown_is_of_a_problem_in_which_something_is_wrong() -> None:
    def wrong(found: dict[str, Array], problem: Problem) -> dict[str, Array]:
        if problem.m == 8 and problem.sizes == [4, 3]:
            found["dC/dW(1)"] = found["dC/dW(1)"] * 0.7
        return found

    diagnosis = check(function(wrong))
    assert diagnosis.shown == "4-3 and 8 examples"
    assert [(part.name, part.right) for part in diagnosis.parts] == [("dC/db(1)", True), ("dC/dW(1)", False)]
    assert [fault.mistake for fault in diagnosis.faults] == ["unknown"]


@pytest.mark.parametrize("mean", [False, True])
def test_a_mean_and_a_sum_are_as_good(mean: bool) -> None:
    assert check(function(same, mean)).right
    (fault,) = check(function(lambda found, problem: {name: -array for name, array in found.items()}, mean)).faults
    assert (fault.mistake, fault.equation) == ("sign", "BP1")
    assert fault.explanation.lower().startswith(BY_NAME["sign"].says.lower())


def test_numbers_that_are_less_exact_are_told() -> None:
    def rounded(dtype: str) -> Change:
        return lambda found, problem: {n: a.astype(dtype).astype(np.float64) for n, a in found.items()}

    diagnosis = check(function(rounded("float32")))
    assert diagnosis.right
    assert diagnosis.note == "Its numbers are as exact as float32's, not float64's."
    diagnosis = check(function(rounded("float16")), problems=[Problem.random((7, 5, 3), 4)])
    assert [fault.mistake for fault in diagnosis.faults] == ["float16"]
    assert diagnosis.note == ""


def test_a_candidate_in_numbers_that_are_asked_for() -> None:
    seen: set[str] = set()

    def backprop(weights: list[Array], biases: list[Array], x: Array, y: Array) -> Any:
        seen.update(str(array.dtype) for array in (*weights, *biases, x, y))
        return gradient(weights, biases, x, y)

    assert check(backprop, problems=[Problem.random((7, 5, 3), 4)]).right
    assert seen == {"float64"}
    seen.clear()
    assert check(backprop, dtype="float32", problems=[Problem.random((7, 5, 3), 4)]).right
    assert seen == {"float64", "float32"}  # the former to find out in which way it is written


def test_gradients_of_zero_are_told_at_once() -> None:
    zero = check(function(lambda found, problem: {name: 0 * array for name, array in found.items()}))
    assert zero.faults == [Fault("BP1", "output", "unknown", "Every gradient is 0: delta(L) must be 0 already.")]


def test_what_raises_for_layers_of_different_sizes_is_told_with_its_line() -> None:
    def backprop(weights: list[Array], biases: list[Array], x: Array, y: Array) -> Any:
        a = [x]
        for w, b in zip(weights, biases, strict=True):
            a.append(1 / (1 + np.exp(-(w @ a[-1] + b))))
        delta = (a[-1] - y) * a[-1] * (1 - a[-1])
        nabla_w, nabla_b = [delta @ a[-2].T], [delta.sum(1)]
        for layer in range(len(weights) - 1, 0, -1):
            delta = weights[layer] @ delta * a[layer] * (1 - a[layer])
            nabla_w.insert(0, delta @ a[layer - 1].T)
            nabla_b.insert(0, delta.sum(1))
        return nabla_w, nabla_b

    (fault,) = check(backprop).faults
    assert (fault.mistake, fault.equation) == ("not-transposed", "BP2")
    assert fault.line == backprop.__code__.co_firstlineno + 7
    assert fault.explanation.startswith("With layers of different sizes it raises ValueError: ")
    assert " With layers of one size " in fault.explanation


def test_a_candidate_that_is_right_where_it_does_not_raise_is_not_called_right() -> None:
    def backprop(weights: list[Array], biases: list[Array], x: Array, y: Array) -> Any:
        if len({*map(len, weights), len(x)}) > 1:
            raise RuntimeError("of one size, please")
        return gradient(weights, biases, x, y)

    with pytest.raises(CandidateError, match="of one size, please when asked for 7-5-3 and 8 examples"):
        check(backprop)


def test_in_which_way_something_is_written() -> None:
    with pytest.raises(CandidateError) as raised:
        form_of(3)
    said = "a int is no candidate; expected a class, a function, or a torch.nn.Module's class"
    assert str(raised.value) == said

    class Book(Network):
        def __init__(self, sizes: list[int]) -> None:
            super().__init__(sizes)
            rng = np.random.default_rng(0)
            self.weights = [rng.standard_normal(w.shape) for w in self.weights]
            self.biases = [rng.standard_normal(b.shape) for b in self.biases]

    def make(sizes: list[int]) -> Any:
        return Book(sizes)

    for candidate in (Book, make):
        assert form_of(candidate).says == "a class with backprop, of a mini-batch, examples in columns"
    assert form_of(make, "one").says == "a class with backprop, of an example, examples in columns"
    assert form_of(function(same), "one").says.startswith("a function of an example, ")


def other(found: dict[str, Array], problem: Problem) -> dict[str, Array]:
    return {name: np.sin(9 * array) + 1 for name, array in found.items()}


def opposite(found: dict[str, Array], problem: Problem) -> dict[str, Array]:
    return {name: -array for name, array in found.items()}


def without_biases(found: dict[str, Array], problem: Problem) -> dict[str, Array]:
    return right(Problem(problem.weights, [0 * b for b in problem.biases], problem.x, problem.y))


def without_slope(found: dict[str, Array], problem: Problem) -> dict[str, Array]:
    """Of the cross-entropy: of the outputs that are wanted, those that undo the slope."""
    a = problem.network().feedforward(problem.x)
    return right(Problem(problem.weights, problem.biases, problem.x, a - (a - problem.y) / (a * (1 - a))))


def class_of(
    change: Change = same, outputs: Callable[[Network, Array], Array] | None = None, cost: float | None = None,
    step: Callable[[Array, Array, float, int], Array] | None = None, backprop: bool = True, mean: bool = False,
) -> type:  # fmt: skip
    """A class whose gradient is changed; with outputs, a cost that is so many times the right one, and an update."""

    class Candidate:
        def __init__(self, sizes: list[int]) -> None:
            made = Problem.random(sizes, 1)
            self.weights, self.biases = made.weights, made.biases

        def found(self, x: Array, y: Array) -> tuple[list[Array], list[Array]]:
            nabla_w, nabla_b = function(change, mean)(self.weights, self.biases, x, y)
            return nabla_w, [b.reshape(-1, 1) for b in nabla_b]

        def network(self) -> Network:
            network = Network([self.weights[0].shape[1], *map(len, self.weights)])
            network.weights, network.biases = self.weights, self.biases
            return network

    def updated(self: Any, x: Array, y: Array, eta: float) -> None:
        assert step is not None
        several = zip((self.weights, self.biases), self.found(x, y), strict=True)
        self.weights, self.biases = (
            [step(old, nabla, eta, x.shape[1]) for old, nabla in zip(olds, nablas, strict=True)]
            for olds, nablas in several
        )

    methods: dict[str, Any] = {"backprop": lambda self, x, y: self.found(x, y)} if backprop else {}
    if outputs is not None:
        methods["feedforward"] = lambda self, x: outputs(self.network(), x)
    if cost is not None:
        methods["cost"] = lambda self, x, y: cost * self.network().cost(x, y)
    if step is not None:
        methods["update_mini_batch"] = updated
    return type("Candidate", (Candidate,), methods)


def down(old: Array, nabla: Array, eta: float, m: int) -> Array:
    return old - eta / m * nabla


def up(old: Array, nabla: Array, eta: float, m: int) -> Array:
    return old + eta / m * nabla


def third(old: Array, nabla: Array, eta: float, m: int) -> Array:
    return old - 0.3 * eta / m * nabla


def undivided(old: Array, nabla: Array, eta: float, m: int) -> Array:
    return old - eta * nabla


def half(network: Network, x: Array) -> Array:
    return network.feedforward(x) / 2


def biasless(network: Network, x: Array) -> Array:
    network.biases = [0 * b for b in network.biases]
    return network.feedforward(x)


COST = "The cost that it shows is twice the quadratic cost; its gradient is that of the quadratic cost itself."
SIGNS = "Its gradient has the other sign, and its update adds it: together they are right."


@pytest.mark.parametrize(
    ("candidate", "faults", "note"),
    [
        (class_of(outputs=Network.feedforward, cost=1, step=down), [], ""),
        (class_of(outputs=half), [("unknown", "forward")], ""),
        (class_of(outputs=biasless), [("no-bias", "forward")], ""),
        (class_of(without_biases, outputs=biasless), [("no-bias", "forward")], ""),  # told once
        (class_of(opposite, outputs=half), [("sign", "BP1"), ("unknown", "forward")], ""),
        (class_of(cost=2), [], COST),
        (class_of(opposite, cost=2), [("sign", "BP1")], ""),
        (class_of(outputs=half, cost=2), [("unknown", "forward")], ""),
        (class_of(without_slope, cost=1), [("no-slope", "BP1")], ""),
        (class_of(without_slope, cost=3), [("cross-entropy", "cost")], ""),
        (class_of(step=up), [("ascent", "update")], ""),
        (class_of(step=third), [("unknown", "update")], ""),
        (class_of(step=undivided), [("not-divided", "update")], ""),
        (class_of(opposite, step=down), [("sign", "BP1")], ""),
        (class_of(opposite, step=undivided), [("sign", "BP1"), ("not-divided", "update")], ""),
        (class_of(opposite, step=up), [], SIGNS),
        (class_of(opposite, step=up, cost=2), [], SIGNS),
        (class_of(step=undivided, mean=True), [], ""),
        (class_of(step=down, mean=True), [("divided-twice", "update")], ""),
        # Of what is not known to be right, or wrong by a mistake that is known, an update tells nothing.
        (class_of(other, step=up), [("unknown", "BP1")], ""),
        # A gradient that only an update shows.
        (class_of(step=down, backprop=False), [], ""),
        (class_of(step=undivided, backprop=False), [("not-divided", "update")], ""),
        (class_of(opposite, step=undivided, backprop=False), [("sign", "BP1"), ("not-divided", "update")], ""),
        (class_of(other, step=undivided, backprop=False), [("unknown", "BP1")], ""),
    ],
)
def test_all_that_is_wrong_with_a_class_is_told(candidate: type, faults: list[tuple[str, str]], note: str) -> None:
    diagnosis = check(candidate)
    assert [(fault.mistake, fault.equation) for fault in diagnosis.faults] == faults, str(diagnosis)
    assert diagnosis.note == note
    assert diagnosis.right is (faults == [])
    assert bool(diagnosis.parts) is (faults != [] and faults[0][1] != "update")
    assert diagnosis.name == "Candidate"
    assert all(isinstance(fault, Fault) for fault in diagnosis.faults)


def test_what_differs_from_call_to_call_is_no_known_mistake() -> None:
    """Of a function nothing else is said; a class is made anew for each call, and may have a mistake besides."""
    calls: list[int] = []

    def drifting(found: dict[str, Array], problem: Problem) -> dict[str, Array]:
        calls.append(1)
        return {name: -array * (1 + 0.1 * len(calls)) for name, array in found.items()}

    noise = "Called twice with the same arguments, it gives different gradients."
    (fault,) = check(function(drifting)).faults
    assert fault.explanation == noise

    class Candidate(class_of(opposite)):  # type: ignore[misc]
        calls = 0

        def backprop(self, x: Array, y: Array) -> Any:
            self.calls += 1
            nabla_w, nabla_b = self.found(x, y)
            return [n * self.calls for n in nabla_w], [n * self.calls for n in nabla_b]

    assert [fault.mistake for fault in check(Candidate).faults] == ["accumulated", "sign"]


def test_an_assertion_has_the_report() -> None:
    assert_gradients_agree(function(same), problems=[Problem.random((7, 5, 3), 2)])
    problems = [Problem.random((7, 5, 3), m) for m in (1, 2)]
    with pytest.raises(AssertionError) as raised:
        assert_gradients_agree(function(opposite), problems=problems)
    assert str(raised.value) == str(check(function(opposite), problems=problems))


@pytest.mark.slow
def test_examples_and_names() -> None:
    class Nameless:
        def __call__(self, weights: list[Array], biases: list[Array], x: Array, y: Array) -> Any:
            nabla_w, nabla_b = gradient(weights, biases, x, y)
            return nabla_w, [np.repeat(n, x.shape[1], axis=1) for n in nabla_b]

    diagnosis = check(Nameless())
    assert diagnosis.right
    assert (diagnosis.name, diagnosis.form.split(",")[0]) == ("Nameless", "a function of an example")
    with pytest.raises(CandidateError, match=r"^dC/db\(1\) has the shape \(5, 8\) for layers 7-5-3 and 8 examples"):
        check(Nameless(), examples="mini-batch")
