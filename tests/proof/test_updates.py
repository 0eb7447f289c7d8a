"""What is wrong with a class's own update of a mini-batch, and with its epoch; its gradients are right."""

from typing import Any

import planted
import pytest

from torchdigits.proof.diagnosis.check import form_of
from torchdigits.proof.diagnosis.networks import NetworkForm
from torchdigits.proof.diagnosis.steps import Problem
from torchdigits.proof.diagnosis.updates import check_update

UPDATE = """\
            nabla_w, nabla_b = self.backprop(x, y)
            step = eta / x.shape[1]
            self.weights = [w - step * nabla for w, nabla in zip(self.weights, nabla_w)]
            self.biases = [b - step * nabla for b, nabla in zip(self.biases, nabla_b)]
"""
KEPT = """\
            nabla_w, nabla_b = self.backprop(x, y)
            self.kept = [k + n for k, n in zip(getattr(self, "kept", [0] * 9), [*nabla_w, *nabla_b])]
            step, count = eta / x.shape[1], len(self.weights)
            self.weights = [w - step * nabla for w, nabla in zip(self.weights, self.kept)]
            self.biases = [b - step * nabla for b, nabla in zip(self.biases, self.kept[count:])]
"""
WARM = f"""\
            eta = eta * getattr(self, "rate", 1)
            self.rate = 3
{UPDATE}"""
TOTAL = "what is subtracted is {} times eta/m times the sum of its gradients"


def found(source: str) -> list[tuple[str, str, str]]:
    """The mistakes, what is said of them, and the method that they are in."""
    there: dict[str, Any] = {"__name__": "typed"}
    exec(compile(source, "<typed>", "exec"), there)
    form = form_of(there["Network"])
    assert isinstance(form, NetworkForm)
    wrong = check_update(form, Problem.random((7, 5, 3), 4), mean=False, certain=True)
    return [(one.mistake, one.says, one.method.__name__) for one in wrong]


def matrix(old: str, new: str) -> str:
    return planted.planted(planted.MATRIX, (old, new))


@pytest.mark.parametrize(
    ("source", "mistake", "says"),
    [
        (matrix(UPDATE, KEPT), "accumulated", ""),
        (matrix("step = eta / x.shape[1]", "step = 0.3 * eta / x.shape[1]"), "", f"W(1): {TOTAL.format(0.3)}"),
        (matrix(UPDATE, WARM), "", f"right the first time, but not the second: W(1): {TOTAL.format(3)}"),
        (
            matrix("[b - step * nabla for", "[b - step * (nabla + 1) for"),
            "",
            "b(1), b(2): what is subtracted is not eta/m times the sum of its own gradients",
        ),
        (matrix("[w - step * nabla for", "[(w - step * nabla).T for"), "", "W(1) has become (7, 5), and was (5, 7)"),
        (
            matrix("[b - step * nabla for", "[b - step * nabla + 0 * x[0] for"),
            "bias-not-summed",
            "b(1) has become (5, 4), and was (5, 1)",
        ),
        (matrix("[b - step * nabla for", "[b + 0 * nabla for"), "not-updated", "not updated: b(1), b(2)"),
        (matrix("step = eta / x.shape[1]", "step = 0"), "not-updated", "no parameter is updated"),
    ],
)
def test_a_wrong_update_is_told(source: str, mistake: str, says: str) -> None:
    assert found(source) == [(mistake, says, "update_mini_batch")]


def test_a_right_update_is_right() -> None:
    assert found(planted.planted(planted.MATRIX)) == []
    assert found(planted.planted(planted.BOOK)) == []


CALL = "self.update_mini_batch(mini_batch, eta)"


@pytest.mark.parametrize(
    ("instead", "mistake", "says"),
    [
        ("self.update_mini_batch(mini_batch, eta / len(mini_batches) * len(mini_batch))", "divided-by-all", ""),
        ("self.update_mini_batch(mini_batch, eta / n * len(mini_batch))", "divided-by-all", ""),
        ("self.update_mini_batch(mini_batch, eta * len(mini_batch))", "not-divided", ""),
        ("self.update_mini_batch(mini_batch, eta * len(mini_batch) / mini_batch_size)", "shorter-divided", ""),
        ("len(mini_batch) < mini_batch_size or self.update_mini_batch(mini_batch, eta)", "shorter-dropped", ""),
        (f"{CALL}; {CALL}", "", "an epoch of 9 examples in mini-batches of 4 is not 3 updates by eta/m"),
    ],
)
def test_a_wrong_epoch_is_told(instead: str, mistake: str, says: str) -> None:
    assert found(planted.planted(planted.BOOK, (CALL, instead))) == [(mistake, says, "SGD")]


def test_examples_one_by_one_at_the_whole_rate_are_two_mistakes() -> None:
    one_by_one = """\
            for x, y in mini_batch:
                nabla_b, nabla_w = self.backprop(x, y)
                self.weights = [w - eta * nabla for w, nabla in zip(self.weights, nabla_w)]
                self.biases = [b - eta * nabla for b, nabla in zip(self.biases, nabla_b)]
            return

            nabla_b ="""
    source = planted.planted(
        planted.BOOK,
        ("mini_batch, eta):\n            nabla_b =", f"mini_batch, eta):\n{one_by_one}"),
    )
    assert found(source) == [("online", "", "update_mini_batch"), ("not-divided", "", "update_mini_batch")]
