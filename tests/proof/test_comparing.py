"""How far off a gradient is, of gradients whose deviation is made."""

from collections.abc import Callable

import numpy as np
import pytest

from torchdigits.proof.diagnosis.candidates import EPS, Observed
from torchdigits.proof.diagnosis.comparing import compare, judge
from torchdigits.proof.diagnosis.steps import Problem
from torchdigits.proof.reference import Array

PROBLEM = Problem.random((7, 5, 3), 4)
Change = Callable[[str, Array], Array]


def observed(change: Change = lambda name, value: value, dtype: str = "float64", scale: float = 1.0) -> Observed:
    """What a right program gives, by the reference; a change of its gradients is its mistake."""
    nabla_w, nabla_b = PROBLEM.network().backprop(PROBLEM.x, PROBLEM.y)
    truth = {f"dC/dW({layer})": scale * w for layer, w in enumerate(nabla_w, 1)}
    truth |= {f"dC/db({layer})": scale * b[:, 0] for layer, b in enumerate(nabla_b, 1)}
    return Observed(PROBLEM, {name: change(name, value) for name, value in truth.items()}, EPS[dtype])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_ulps_are_the_spacing_of_numbers_at_the_largest_element(dtype: str) -> None:
    off = 24.0

    def change(name: str, value: Array) -> Array:
        changed = value.copy()
        changed.flat[1] += off * float(np.spacing(np.abs(value).max().astype(dtype)))
        return changed

    for part in compare(observed(change, dtype), EPS[dtype], mean=False):
        assert part.ulps == pytest.approx(off, rel=1e-3)


def test_parts_come_from_the_output_back() -> None:
    names = [part.name for part in compare(observed(), EPS["float64"], mean=False)]
    assert names == ["dC/db(2)", "dC/dW(2)", "dC/db(1)", "dC/dW(1)"]


@pytest.mark.parametrize("mean", [False, True])
def test_a_mean_is_no_sum(mean: bool) -> None:
    judged = judge([observed(scale=1 / PROBLEM.m if mean else 1.0)])
    assert (judged.mean, judged.eps, judged.wrong) == (mean, EPS["float64"], [])


def test_numbers_as_exact_as_those_of_float16_are_its_own_only_if_all_are() -> None:
    """One gradient that is off by as little is wrong, if the others are exact."""

    def all_rounded(name: str, value: Array) -> Array:
        return value.astype(np.float16).astype(np.float64)

    def one_rounded(name: str, value: Array) -> Array:
        return all_rounded(name, value) if name == "dC/dW(2)" else value

    every, one = judge([observed(all_rounded)]), judge([observed(one_rounded)])
    assert (every.eps, every.wrong_names) == (EPS["float16"], set())
    assert (one.eps, one.wrong_names) == (EPS["float64"], {"dC/dW(2)"})


def test_what_is_wrong_in_some_problem_is_wrong() -> None:
    judged = judge([observed(), observed(lambda name, value: 2 * value if name == "dC/db(1)" else value)])
    assert (judged.wrong, judged.wrong_names) == ([1], {"dC/db(1)"})
    assert judged.largest.name == "dC/db(1)"
    assert judged.largest.relative == pytest.approx(1)
