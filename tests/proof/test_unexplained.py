"""What is said of gradients that no mistake explains, of which it is known what is wrong."""

from collections.abc import Callable

import numpy as np
import pytest

from torchdigits.errors import CandidateError
from torchdigits.proof.diagnosis.candidates import EPS, Observed
from torchdigits.proof.diagnosis.comparing import judge
from torchdigits.proof.diagnosis.report import Fault
from torchdigits.proof.diagnosis.steps import Problem, Steps
from torchdigits.proof.diagnosis.unexplained import main_of, other_cost, unexplained, wrong_outputs
from torchdigits.proof.reference import Array, sigmoid

DEEP, SHALLOW, ONE = Problem.random((9, 6, 5, 2), 8), Problem.random((7, 5, 3), 8), Problem.random((7, 5, 3), 1)
Change = Callable[[str, Array], Array]


def observed(problem: Problem, change: Change, mean: bool = False) -> Observed:
    gradient = Steps(problem, (), mean).gradient
    shaped = {name: value[:, 0] if name.startswith("dC/db") else value for name, value in gradient.items()}
    return Observed(problem, {name: change(name, value) for name, value in shaped.items()}, EPS["float64"])


def fault(change: Change, problem: Problem = SHALLOW, mean: bool = False) -> Fault:
    given = [observed(problem, change, mean)]
    return unexplained(given, judge(given), None)


def unlike(*names: str) -> Change:
    """These gradients are no multiple of what they should be."""
    return lambda name, value: np.sin(value * 9) + 1 if name in names else value


KNOWN = "by no mistake that is known here"


@pytest.mark.parametrize(
    ("names", "problem", "equation", "layer", "text"),
    [
        (["dC/db(2)", "dC/dW(2)", "dC/dW(1)"], SHALLOW, "BP1", "output", f"dC/db(2) and dC/dW(2) are wrong, {KNOWN}."),
        (["dC/db(2)"], SHALLOW, "BP3", "output", f"dC/db(2) is wrong, {KNOWN}."),
        (["dC/dW(2)"], SHALLOW, "BP4", "output", f"dC/dW(2) is wrong, {KNOWN}."),
        (
            ["dC/db(1)", "dC/dW(1)"],
            SHALLOW,
            "BP2",
            "first",
            f"dC/db(1) and dC/dW(1) are wrong, {KNOWN}; right up to layer 2.",
        ),
        (
            ["dC/db(2)", "dC/dW(2)"],
            DEEP,
            "BP2",
            "layer 2",
            f"dC/db(2) and dC/dW(2) are wrong, {KNOWN}; right up to layer 3.",
        ),
    ],
)
def test_the_first_layer_from_the_output_is_told(
    names: list[str], problem: Problem, equation: str, layer: str, text: str
) -> None:
    found = fault(unlike(*names), problem)
    assert (found.equation, found.layer, found.mistake, found.explanation) == (equation, layer, "unknown", text)


def test_factors_are_told() -> None:
    one = fault(lambda name, value: 0.7 * value if name == "dC/dW(1)" else value)
    text = f"dC/dW(1) is wrong, {KNOWN}; dC/dW(1) is 0.7 times what it should be"
    assert (one.equation, one.explanation) == ("BP4", f"{text}; right up to layer 2.")
    every = fault(lambda name, value: 0.3 * value)
    text = "Every gradient is 0.3 times what it should be: right in direction, not in size."
    assert every == Fault("cost", None, "unknown", text)


def test_factors_of_means_are_those_of_means() -> None:
    change: Change = lambda name, value: 0.7 * value if name == "dC/dW(1)" else value  # noqa: E731
    assert "dC/dW(1) is 0.7 times what it should be" in fault(change, mean=True).explanation


def test_what_is_right_for_one_example_is_told() -> None:
    given = [observed(SHALLOW, unlike("dC/dW(1)")), observed(ONE, unlike())]
    text = "The gradient is right for one example, but not for a mini-batch."
    assert unexplained(given, judge(given), None) == Fault("update", None, "unknown", text)
    both = [observed(SHALLOW, unlike("dC/dW(1)")), observed(DEEP, unlike("dC/dW(1)"))]
    assert unexplained(both, judge(both), None).equation == "BP4"


def test_a_shape_that_fits_nothing_is_told() -> None:
    with pytest.raises(CandidateError) as raised:
        fault(lambda name, value: value[:, :2] if name == "dC/dW(2)" else value)
    said = "dC/dW(2) has the shape (3, 2) for layers 7-5-3 and 8 examples; expected (3, 5)"
    assert str(raised.value) == said


def test_of_the_wrong_problems_one_of_two_layers_and_many_examples_is_shown() -> None:
    given = [observed(problem, unlike()) for problem in (DEEP, ONE, SHALLOW, Problem.random((4, 3), 9))]
    assert [main_of(given, wrong) for wrong in ([0, 1, 2, 3], [0, 1, 3], [0, 3], [0])] == [2, 1, 3, 0]


def with_outputs(outputs: Array) -> list[Observed]:
    return [Observed(SHALLOW, {}, EPS["float64"], forward=outputs)]


def test_what_the_outputs_are_instead_is_told() -> None:
    (w1, w2), (b1, b2) = SHALLOW.weights, SHALLOW.biases
    no_bias = sigmoid(w2 @ sigmoid(w1 @ SHALLOW.x) + 0 * b2)
    found = wrong_outputs(with_outputs(no_bias))
    assert (found.equation, found.layer, found.mistake) == ("forward", "every", "no-bias")
    assert found.explanation.startswith("Its gradients are right, but the outputs that it shows are not: ")
    found = wrong_outputs(with_outputs(np.sin(w2 @ sigmoid(w1 @ SHALLOW.x + b1))))
    said = "The outputs that it shows are not a(L) of its weights, by no mistake that is known here."
    assert found == Fault("forward", None, "unknown", said)


@pytest.mark.parametrize("sums", [False, True])
def test_what_the_cost_is_instead_is_told(sums: bool) -> None:
    outputs = SHALLOW.network().feedforward(SHALLOW.x)
    squares = ((outputs - SHALLOW.y) ** 2).sum() * (1.0 if sums else 1 / 8)
    for cost, says in (
        (squares, "twice the quadratic cost"),
        (squares / 2 / 3, "the mean over the outputs"),
        (squares / 3, "twice the mean over the outputs"),
    ):
        told = other_cost([Observed(SHALLOW, {}, EPS["float64"], cost=cost)])
        assert told == f"The cost that it shows is {says}; its gradient is that of the quadratic cost itself."
    told = other_cost([Observed(SHALLOW, {}, EPS["float64"], cost=1.1 * squares)])
    assert told == "The cost that it shows is not the quadratic cost, whose gradient it has."
