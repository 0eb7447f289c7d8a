"""A trained network that reads pictures of digits."""

from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import torch

from torchdigits.errors import CheckpointError
from torchdigits.files.networks import load_network
from torchdigits.network import SigmoidMLP
from torchdigits.recognition.pictures import Picture


class Recognition(NamedTuple):
    """What a network answers to one picture.

    Attributes:
        digit: the one with the largest activation.
        runner_up: the one with the second largest.
        activations: of the ten outputs.
        hidden: the activations of each hidden layer.
        pixels: what the network saw, `(784,)`, uint8.
    """

    digit: int
    runner_up: int
    activations: list[float]
    hidden: list[list[float]]
    pixels: np.ndarray


class Recognizer:
    """A trained network that reads pictures of digits.

    Args:
        checkpoint: a file for `load_network`. Default: the shipped network.

    Attributes:
        network: it, a torch module.

    Raises:
        CheckpointError: the file holds no network of 784 inputs and 10 outputs.
    """

    def __init__(self, checkpoint: Path | str | None = None) -> None:
        self.network = load_digit_network(checkpoint)

    @overload
    def recognize(self, picture: Picture) -> Recognition: ...

    @overload
    def recognize(self, picture: list[Picture]) -> list[Recognition]: ...

    def recognize(self, picture: Picture | list[Picture]) -> Recognition | list[Recognition]:
        """Prepare a picture, and recognise the digit on it; or each of several pictures.

        Args:
            picture: a file or its bytes, a Pillow image, or an array, as `prepare` takes it; or a list of such.

        Raises:
            ImageError: a picture cannot be read, or there is no ink on it.
        """
        if isinstance(picture, list):
            return [self.recognize(one) for one in picture]
        from torchdigits.recognition.preparation import prepare  # here, because the import takes a second

        return self.answer(prepare(picture))

    @torch.inference_mode()
    def answer(self, pixels: np.ndarray) -> Recognition:
        """Recognise the digit in pixels that are prepared already, `(784,)`, uint8, 255 ink."""
        image = torch.tensor(pixels, dtype=next(self.network.parameters()).dtype) / 255
        *hidden, activations = self.network.forward_pass(image)[1][1:]
        digit, runner_up, *_ = activations.argsort(descending=True, stable=True).tolist()  # of equal ones the first
        return Recognition(digit, runner_up, activations.tolist(), [layer.tolist() for layer in hidden], pixels)


def load_digit_network(checkpoint: Path | str | None) -> SigmoidMLP:
    """Load a network as `load_network` does.

    Raises:
        CheckpointError: it cannot be loaded, or has other than 784 inputs and 10 outputs.
    """
    network = load_network(checkpoint)
    if (network.sizes[0], network.sizes[-1]) != (784, 10):
        raise CheckpointError(
            f"{checkpoint} has layers of {network.sizes} neurons: 784 inputs and 10 outputs are needed"
        )
    return network
