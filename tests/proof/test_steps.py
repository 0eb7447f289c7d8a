"""Problems, and back-propagation a step at a time."""

import numpy as np
import pytest

from torchdigits.proof.diagnosis.steps import Problem, Steps, square


def test_a_random_problem_is_as_it_says() -> None:
    for scale in (1.0, 3.0):
        problem = Problem.random((60, 50, 10), 9, scale=scale)
        assert [np.std(w) for w in problem.weights] == pytest.approx([scale, scale], rel=0.1)
        assert np.std(problem.biases[0]) == pytest.approx(scale, rel=0.4)  # of 50 numbers
    assert np.std(Problem.random((60, 50), 9).weights[0]) == pytest.approx(1, rel=0.1)
    assert (problem.sizes, problem.m, problem.eta) == ([60, 50, 10], 9, 0)
    grey = problem.x * 255
    assert np.abs(grey - grey.round()).max() < 1e-4  # in float32
    assert (grey.min(), grey.max()) == (0, 255)
    assert problem.y.argmax(axis=0).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    other = Problem.random((60, 50, 10), 9, seed=1, scale=3.0)
    assert not np.array_equal(other.weights[0], problem.weights[0])


def test_a_rounded_problem_is_of_numbers_that_the_type_has_and_else_the_same() -> None:
    drawn = Problem.random((7, 5, 3), 4, dtype=np.float64)
    problem = Problem(drawn.weights, drawn.biases, drawn.x, drawn.y, eta=0.7)
    rounded = problem.rounded(np.float16)
    for kind in ("weights", "biases"):
        for one, other in zip(getattr(rounded, kind), getattr(problem, kind), strict=True):
            assert one.dtype == np.float64
            assert np.array_equal(one, other.astype(np.float16))
            assert not np.array_equal(one, other)
    assert np.array_equal(rounded.x, problem.x.astype(np.float16))
    assert rounded.y is problem.y
    assert rounded.eta == 0.7
    assert [one.eta for one in rounded.examples()] == [0.7] * 4


def test_digits_are_handwritten_and_of_28_by_28_pixels() -> None:
    from sklearn.datasets import load_digits

    images, labels = (array[1:6] for array in load_digits(return_X_y=True))  # the first is a 0, which hides much
    problem = Problem.digits(5)
    assert (problem.sizes, problem.m) == ([784, 30, 10], 5)
    assert problem.y.argmax(axis=0).tolist() == labels.tolist()
    found = problem.x.T.reshape(5, 28, 28)
    assert np.array_equal(found[:, 3:-2:3, 3:-2:3] * 16, images.reshape(5, 8, 8))  # the middle of each 3 x 3
    assert found.sum() == images.sum() / 16 * 9
    assert not found[:, :2].any()


def test_a_pass_forward_that_is_given_is_as_one_that_is_computed() -> None:
    problem = Problem.random((7, 5, 3), 4)
    changes = [({"delta": lambda steps, layer, right: 2 * right}, lambda layer, layers: layer == layers)]
    own, taken = Steps(problem, changes), Steps(problem, changes, forward=Steps(problem))
    assert [*own.values] == [*taken.values]
    assert all(np.array_equal(value, taken.values[name]) for name, value in own.values.items())


@pytest.mark.parametrize("last", [1, 2, 3, 4])
def test_what_is_not_wanted_is_not_computed(last: int) -> None:
    asked: list[str] = []

    def wanted(name: str, value: object) -> bool:
        asked.append(name)
        return len(asked) < last

    names = ["dC/db(2)", "dC/dW(2)", "dC/db(1)", "dC/dW(1)"][:last]
    assert [*Steps(Problem.random((7, 5, 3), 4), wanted=wanted).gradient] == names
    assert asked == names


def test_layers_of_one_size() -> None:
    assert square(Problem.random((5, 5, 5), 1))
    assert not square(Problem.random((5, 5, 4), 1))
