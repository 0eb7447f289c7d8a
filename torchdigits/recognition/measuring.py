"""How many images of a dataset a network recognises, and what it answers to each."""

from typing import NamedTuple

import torch
from torch import Tensor

from torchdigits.data.datasets import Digits
from torchdigits.network import SigmoidMLP, quadratic_cost

_AT_ONCE = 10_000  # images in one forward pass, of layers that are not too wide
_MOST_ACTIVATIONS = 2**26  # of a layer, of all images at once


class Measurement(NamedTuple):
    """What a network answers to N labelled images, and how good that is.

    Attributes:
        activations: the ten outputs' for each image, `(N, 10)`.
        labels: `(N,)`, int64.
        cost: the quadratic cost, the mean over the images.
        correct: the number of images whose largest activation is their label's.
    """

    activations: Tensor
    labels: Tensor
    cost: float
    correct: int

    @property
    def total(self) -> int:
        return len(self.labels)

    @property
    def answers(self) -> Tensor:
        """The digit with the largest activation, for each image, `(N,)`, int64."""
        return self.activations.argmax(1)

    @property
    def confusion(self) -> Tensor:
        """How many images of each digit (the row) got each answer (the column), `(10, 10)`, int64."""
        return torch.bincount(10 * self.labels + self.answers, minlength=100).view(10, 10)

    @property
    def images(self) -> Tensor:
        """The number of images of each digit, `(10,)`, int64."""
        return self.confusion.sum(1)

    @property
    def recognised(self) -> Tensor:
        """The number of images of each digit that are recognised, `(10,)`, int64."""
        return self.confusion.diagonal()


@torch.no_grad()
def measure(network: SigmoidMLP, digits: Digits) -> Measurement:
    """Show a network all images of `digits`, on its own device and in its own precision.

    Args:
        network: of 784 inputs and 10 outputs.
        digits: images `(N, 784)`, uint8, and labels `(N,)`, int64.

    Returns:
        The measurement, whose tensors are on the CPU.
    """
    weights = next(network.parameters())
    parts = torch.split(digits.images, max(1, min(_AT_ONCE, _MOST_ACTIVATIONS // max(network.sizes))))
    activations = torch.cat([network(part.to(weights.device, weights.dtype) / 255).cpu() for part in parts])
    correct = int((activations.argmax(1) == digits.labels).sum())
    return Measurement(activations, digits.labels, float(quadratic_cost(activations, digits.labels)), correct)
