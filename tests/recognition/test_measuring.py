import numpy as np
import pytest
import torch

from torchdigits import SigmoidMLP, load_network
from torchdigits.data.datasets import Digits, DigitSplits
from torchdigits.proof.gradients import reference_of
from torchdigits.proof.reference import columns, one_hot
from torchdigits.recognition import measuring
from torchdigits.recognition.measuring import Measurement, measure


def test_a_wide_network_sees_fewer_images_at_once(monkeypatch: pytest.MonkeyPatch, digits: DigitSplits) -> None:
    network, seen = SigmoidMLP((784, 1000, 10)).double(), []
    expected = measure(network, digits.test)
    monkeypatch.setattr("torchdigits.recognition.measuring._MOST_ACTIVATIONS", 100_500)
    network.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
    found = measure(network, digits.test)
    assert seen == [100, 100, 90]
    assert found.correct == expected.correct
    torch.testing.assert_close(found.activations, expected.activations, rtol=0, atol=1e-12)
    monkeypatch.setattr("torchdigits.recognition.measuring._MOST_ACTIVATIONS", 1)
    assert measure(network, digits.test).correct == expected.correct


def test_counts_are_those_of_a_small_example_by_hand() -> None:
    answers, labels = [3, 3, 8, 0], [3, 3, 3, 0]
    found = Measurement(torch.eye(10)[answers], torch.tensor(labels), cost=0.25, correct=3)
    assert found.total == 4
    assert found.answers.tolist() == answers
    assert found.images.tolist() == [1, 0, 0, 3, 0, 0, 0, 0, 0, 0]
    assert found.recognised.tolist() == [1, 0, 0, 2, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("at_once", [7, 10_000])
def test_a_network_is_measured_as_the_reference_measures_it(
    digits: DigitSplits, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(measuring, "_AT_ONCE", at_once)
    network, (images, labels) = load_network().double(), digits.test
    twin, found = reference_of(network), measure(network, digits.test)
    np.testing.assert_allclose(found.activations, twin.feedforward(columns(images.numpy())).T, rtol=1e-12)
    assert found.activations.dtype == torch.float64
    assert found.cost == pytest.approx(twin.cost(columns(images.numpy()), one_hot(labels.numpy())), rel=1e-12)
    assert found.correct == twin.evaluate(columns(images.numpy()), labels.numpy()) == found.recognised.sum()
    assert found.images.tolist() == [29] * 10


def test_measuring_leaves_the_network_as_it_is() -> None:
    network = SigmoidMLP().train()
    found = measure(network, Digits(torch.zeros(2, 784, dtype=torch.uint8), torch.tensor([1, 2])))
    assert network.training
    assert not found.activations.requires_grad
