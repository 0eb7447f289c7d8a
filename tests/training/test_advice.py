"""What a learner is told about a network that did not turn out well."""

import pytest
import torch

from torchdigits import SigmoidMLP, load_network
from torchdigits.data.datasets import Digits, DigitSplits
from torchdigits.training.advice import advice


@pytest.fixture
def network() -> SigmoidMLP:
    """A copy of the shipped network, which tells scikit-learn's digits apart well enough."""
    return load_network()


def test_nothing_is_said_of_a_network_that_turned_out_well(network: SigmoidMLP, mnist: DigitSplits) -> None:
    assert advice(network, mnist.test) == []


def test_a_lost_digit_is_named_with_its_output(network: SigmoidMLP, mnist: DigitSplits) -> None:
    with torch.no_grad():
        next(reversed(list(network.parameters())))[3] = -100  # the bias of output 3
    assert advice(network, mnist.test) == ["No 3 was recognised: output 3 stays near 0. Another --seed helps."]


def test_a_digit_half_lost_is_named_with_its_count(network: SigmoidMLP, mnist: DigitSplits) -> None:
    images, labels = mnist.test
    threes = images[labels == 3]
    with torch.inference_mode():
        right = network(threes / 255).argmax(1) == 3
    wrong = threes[~right]
    test = Digits(
        torch.cat([images[labels != 3], wrong, threes[right][:5]]),
        torch.cat([labels[labels != 3], torch.full((len(wrong) + 5,), 3)]),
    )
    (sentence,) = advice(network, test)
    assert sentence.startswith(f"Only 5 of {len(wrong) + 5} images of a 3 were recognised: output 3 stays ")


@pytest.mark.parametrize("hidden", [(30,), ()])
def test_saturated_weights_are_told_from_a_lost_digit(hidden: tuple[int, ...], digits: DigitSplits) -> None:
    torch.manual_seed(0)
    saturated = SigmoidMLP((784, *hidden, 10))
    with torch.no_grad():
        for parameter in saturated.parameters():
            parameter.copy_(-10 * parameter.abs())
    (sentence,) = advice(saturated, digits.test)
    assert sentence.startswith("Weights saturated: ")
    assert " of 10 outputs are near 0, or near 1, for every image" in sentence
    assert sentence.endswith("A smaller --learning-rate helps.")


def test_neurons_are_stuck_that_are_near_0_or_near_1_for_every_image(digits: DigitSplits) -> None:
    """Of ten hidden neurons three are stuck, and of ten outputs two; those that move between 0 and 1 are not."""
    network = SigmoidMLP((784, 10, 10)).double()
    images = digits.test.images.double() / 255
    ink = images.mean(1)
    weights, biases, last_weights, last_biases = network.parameters()
    with torch.no_grad():
        for parameter in (weights, biases, last_weights, last_biases):
            parameter.zero_()
        biases[:3] = torch.tensor([-10.0, 10.0, -4.7])  # sigmoid(-4.7) is 0.009
        biases[3] = -4.5  # 0.011
        weights[4] = 1000 / 784  # from dark to light: near 0 for some images, near 1 for others
        biases[4] = -1000 * ink.median()
        last_biases[:2] = torch.tensor([-5.0, 5.0])
    stuck = "3 of 10 hidden neurons and 2 of 10 outputs are near 0, or near 1, for every image, and hardly learn"
    assert advice(network, digits.test) == [f"Weights saturated: {stuck}. A smaller --learning-rate helps."]
