"""Which mistakes are found in gradients that were computed with them."""

import numpy as np
import pytest

from torchdigits.proof.diagnosis.candidates import EPS, Observed
from torchdigits.proof.diagnosis.mistakes import hypotheses, where
from torchdigits.proof.diagnosis.search import equal, explain
from torchdigits.proof.diagnosis.steps import Problem, Steps

PROBLEMS = [Problem.random((7, 5, 3), m) for m in (8, 1)]


def observed(places: dict[str, str], mean: bool) -> list[Observed]:
    """What a program with these mistakes, in these layers, gives."""
    known = [*hypotheses()]
    found = [next(h for h in known if (h.mistake.name, h.place) == mistake) for mistake in places.items()]
    changes = [(hypothesis.way, where(hypothesis.place)) for hypothesis in found]
    return [Observed(one, Steps(one, changes, mean).gradient, EPS["float64"]) for one in PROBLEMS]


@pytest.mark.parametrize(
    ("places", "mean"),
    [
        ({"sign": "output"}, True),
        ({"tanh": "every", "sign": "output"}, False),  # in the pass forward, and in the other
        ({"no-sigmoid": "every", "relu": "hidden"}, False),  # both in the pass forward
        ({"minus-bias": "hidden", "weights-of-error": "output"}, True),
        ({"no-half": "output", "bias-of-error": "hidden"}, False),  # of which one is off by a factor of two
    ],
)
def test_one_mistake_or_two_are_found(places: dict[str, str], mean: bool) -> None:
    found, is_mean = explain(observed(places, mean))
    assert [(one.mistake.name, one.place) for one in found] == [*places.items()]
    assert is_mean is mean


def test_a_mean_where_a_sum_is_wanted_is_a_mistake() -> None:
    given = observed({"sign": "output"}, mean=True)
    assert [one.mistake.name for one in explain(given, means=(True,))[0]] == ["sign"]
    assert [one.mistake.name for one in explain(given, means=(False,))[0]] == ["sign", "divided-twice"]


def test_arrays_are_equal_but_for_rounding_and_a_side_of_one() -> None:
    one = np.array([[3.0], [4.0]])
    assert equal(one, one.ravel(), 0)
    assert equal(one * (1 + 1e-7), one, 1.01e-7)
    assert not equal(one * (1 + 1e-7), one, 0.99e-7)
    assert not equal(one, np.array([3.0, 4.0, 0.0]), 1)
