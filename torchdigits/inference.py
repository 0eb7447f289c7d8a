"""Recognising digits with a trained network."""

import json as json_format
import sys
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
import tyro

from torchdigits.checkpoints import load_network, shipped_checkpoint
from torchdigits.cli import OptionalPath
from torchdigits.datasets import load_splits
from torchdigits.errors import CheckpointError, ImageError
from torchdigits.images import Picture, read_pixels
from torchdigits.network import SigmoidMLP, quadratic_cost


class Recognition(NamedTuple):
    """The digit with the largest output, and the ten outputs."""

    digit: int
    activations: list[float]


class Recognizer:
    """A trained network that reads pictures of digits.

    Args:
        checkpoint: a file for `load_network`. Default: the shipped network.

    Raises:
        CheckpointError: the file holds no network of 784 inputs and 10 outputs.
    """

    def __init__(self, checkpoint: Path | str | None = None) -> None:
        self.network = _load_digit_network(checkpoint)

    @torch.inference_mode()
    def recognize(self, picture: Picture) -> Recognition:
        """Recognise one digit.

        Args:
            picture: a file, a Pillow image or an array, as `read_pixels` takes it.

        Raises:
            ImageError: the picture cannot be read.
        """
        pixels = torch.tensor(read_pixels(picture), dtype=next(self.network.parameters()).dtype)
        activations = self.network(pixels / 255)
        return Recognition(int(activations.argmax()), activations.tolist())


def predict(
    images: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE ...", help_behavior_hint="")
    ],
    *,
    checkpoint: OptionalPath = None,
    json: bool = False,
) -> None:
    """Print the digit in each picture, and the ten activations of the output layer.

    Args:
        images: pictures like MNIST's: 28x28 pixels, grey, white ink on black.
        checkpoint: the trained network; the shipped one by default.
        json: print one JSON object a picture.
    """
    if not images:
        raise ImageError("no picture named")
    recognizer = Recognizer(checkpoint)
    failed = False
    for path in images:
        try:
            digit, activations = recognizer.recognize(path)
        except ImageError as error:
            failed = True
            print(f"error: {error}", file=sys.stderr)
            continue
        if json:
            print(json_format.dumps({"file": str(path), "digit": digit, "activations": activations}))
        else:
            print(f"{path}: {digit}   ", *(f"{number}:{a:.3f}" for number, a in enumerate(activations)))
    if failed:
        raise SystemExit(2)


@torch.inference_mode()
def evaluate(
    *,
    checkpoint: OptionalPath = None,
    dataset: Literal["mnist", "digits"] = "mnist",
    data_dir: OptionalPath = None,
    split: Literal["training", "validation", "test"] = "test",
    json: bool = False,
) -> None:
    """Count how many images of a dataset a trained network recognises.

    Args:
        checkpoint: the trained network; the shipped one by default.
        dataset: mnist, or the small one that comes with scikit-learn.
        data_dir: the folder of MNIST (default: $TORCHDIGITS_DATA_DIR, else data).
        split: which part of the dataset.
        json: print one JSON object.
    """
    network = _load_digit_network(checkpoint)
    images, labels = getattr(load_splits(dataset, data_dir), split)
    dtype = next(network.parameters()).dtype
    activations = torch.cat([network(part.to(dtype) / 255) for part in torch.split(images, 10_000)])
    cost = float(quadratic_cost(activations, labels))
    correct, total = int((activations.argmax(1) == labels).sum()), len(labels)
    if json:
        found = {"correct": correct, "total": total, "accuracy": correct / total, "cost": cost}
        where = {
            "checkpoint": str(shipped_checkpoint() if checkpoint is None else checkpoint),
            "dataset": dataset,
            "split": split,
        }
        print(json_format.dumps(where | found))
    else:
        print(f"{correct} / {total} {split} images of {dataset} recognised ({correct / total:.2%}), cost {cost:.4f}")


def _load_digit_network(checkpoint: Path | str | None) -> SigmoidMLP:
    network = load_network(checkpoint)
    if (network.sizes[0], network.sizes[-1]) != (784, 10):
        raise CheckpointError(f"{checkpoint} has layers of {network.sizes} neurons: wanted is 784 inputs, 10 outputs")
    return network
