"""A trained network that reads pictures of digits."""

from itertools import islice
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import torch
from torch.linalg import vector_norm

from torchdigits.errors import CheckpointError
from torchdigits.files.networks import load_network
from torchdigits.network import SigmoidMLP
from torchdigits.recognition.pictures import Picture
from torchdigits.recognition.sight import MOST_PIECES, Sight

UNSURE = 0.987  # the doubt above which an answer is unsure: 97 in 100 of MNIST's test images have less
# Odds of being several, as `likeness` has them, up to which it is taken for one, whatever it may be besides.
_ONE = -3.0
_TOO_WIDE = 20.0  # what it costs for each height that something is wider than high
_STRANGE, _NETWORK, _ODDS = 0.8, 0.28, 3.0  # what counts how much of the cost of a digit
_FAMILIAR = 50.0  # distance of a shape, as `distances` has it, up to which none is better than another


class Recognition(NamedTuple):
    """What a network answers to one picture.

    Attributes:
        digit: the one with the largest activation.
        runner_up: the one with the second largest.
        activations: of the ten outputs.
        hidden: the activations of each hidden layer.
        pixels: what the network saw, `(784,)`, uint8.
        distance: of its shape from those of digits, as `shapes.unlikeness` has it.
        doubt: 0 to 1, the share of MNIST's training images that are more like their digits than this one is like its
            answer, as `shapes.doubts` has it.
        sure: whether the doubt is as small as it must be for an answer to count.
    """

    digit: int
    runner_up: int
    activations: list[float]
    hidden: list[list[float]]
    pixels: np.ndarray
    distance: float
    doubt: float
    sure: bool


class Found(NamedTuple):
    """A digit on a page.

    Attributes:
        box: left, top, right and bottom of its ink, in pixels of the picture: the first column and row, and those after
            the last.
        recognition: what the network answers to it.
    """

    box: tuple[int, int, int, int]
    recognition: Recognition


class Page(NamedTuple):
    """What is written on a picture.

    Attributes:
        size: width and height of the picture, in pixels.
        lines: the digits, line by line, from left to right. At least one.
    """

    size: tuple[int, int]
    lines: list[list[Found]]

    @property
    def digits(self) -> list[Found]:
        """All, in reading order."""
        return [found for line in self.lines for found in line]

    @property
    def text(self) -> str:
        """The digits as they stand on the page, its lines joined by a newline."""
        return "\n".join("".join(str(found.recognition.digit) for found in line) for line in self.lines)

    @property
    def sure_text(self) -> str:
        """As `text`, with `?` for what is unsure."""
        lines = ((found.recognition for found in line) for line in self.lines)
        return "\n".join("".join(str(digit.digit) if digit.sure else "?" for digit in line) for line in lines)


class Recognizer:
    """A trained network that reads pictures of digits.

    Args:
        checkpoint: a file for `load_network`. Default: the shipped network.
        unsure: the doubt, 0 to 1, above which an answer is unsure.

    Attributes:
        network: it, a torch module.
        unsure: as given.

    Raises:
        CheckpointError: the file holds no network of 784 inputs and 10 outputs.
    """

    def __init__(self, checkpoint: Path | str | None = None, unsure: float = UNSURE) -> None:
        self.network = load_digit_network(checkpoint)
        self.unsure = unsure

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

    def read(self, picture: Picture) -> Page:
        """Find all digits on a picture, and recognise each.

        Args:
            picture: a file or its bytes, a Pillow image, or an array, as `prepare` takes it; of a digit, or of a page.

        Raises:
            ImageError: the picture cannot be read, or there is no digit on it.
        """
        from torchdigits.recognition.preparation import look

        return self.read_all([look(picture)])[0]

    def answer(self, pixels: np.ndarray) -> Recognition:
        """Recognise the digit in pixels that are prepared already, `(784,)`, uint8, 255 ink."""
        return self.answers(pixels[np.newaxis])[0]

    @torch.inference_mode()
    def answers(self, images: np.ndarray, apart: np.ndarray | None = None) -> list[Recognition]:
        """Recognise the digits in images that are prepared already.

        Args:
            images: `(N, 784)`, uint8, 255 ink.
            apart: their `shapes.distances`, `(N, 10)`, if they are known.

        Returns:
            An answer for each image.
        """
        from torchdigits.recognition.shapes import distances, doubts, unlikeness

        weights = next(self.network.parameters())
        *hidden, activations = self.network.forward_pass(torch.tensor(images).to(weights) / 255)[1][1:]
        order = activations.argsort(descending=True, stable=True)[:, :2].tolist()  # of equal ones the first
        apart = distances(images) if apart is None else apart
        unlike = unlikeness(apart, np.array([digit for digit, _ in order], np.int64))
        rows = zip(order, activations.tolist(), *(layer.tolist() for layer in hidden), strict=True)
        return [
            Recognition(digit, runner_up, outputs, layers, pixels, distance, doubt, doubt <= self.unsure)
            for ((digit, runner_up), outputs, *layers), pixels, distance, doubt in zip(
                rows, images, unlike.tolist(), doubts(unlike).tolist(), strict=True
            )
        ]

    def read_all(self, sights: list[Sight]) -> list[Page]:
        """Recognise what there is to read on pictures, in one forward pass; a page for each."""
        if not sights:
            return []
        images = np.concatenate([np.vstack([sight.pixels, sight.candidates]) for sight in sights])
        answers = self.answers(images, np.concatenate([sight.distances for sight in sights]))
        following = iter(answers)
        return [_read(sight, [*islice(following, 1 + len(sight.candidates))]) for sight in sights]


def _read(sight: Sight, answers: list[Recognition]) -> Page:
    """Choose how a page is read: as one digit, or as the candidates, one after the other, that cost least in all."""
    size = int(sight.size[0]), int(sight.size[1])
    whole, *others = answers
    as_one = [[Found(_box(sight.box), whole)]]
    if not others:
        return Page(size, as_one)
    costs = [
        _cost(answer, float(width), odds) + float(fit)
        for answer, (fit, width), odds in zip(others, sight.fits, sight.odds[1:], strict=True)
    ]
    lines, total, wide = [], 0.0, 0.0
    spans = [(i, line, start, end) for i, (line, start, end) in enumerate(sight.spans.tolist())]
    for line in range(1 + max(line for _, line, *_ in spans)):
        chosen, cost = _cheapest([(i, start, end) for i, at, start, end in spans if at == line], costs)
        lines.append([Found(_box(sight.boxes[i]), others[i]) for i in chosen])
        total += cost
        wide += sum(float(sight.fits[i, 1]) for i in chosen)
    if not sight.alone or sum(map(len, lines)) > MOST_PIECES:
        return Page(size, lines)
    left, top, right, bottom = _box(sight.box)
    too_wide = max(0.0, (right - left) / max(1, bottom - top) - 1)
    cost = _cost(whole, max(1.0, wide), sight.odds[0]) + _TOO_WIDE * too_wide
    one = cost < total or (sight.odds[0, 1] < _ONE and too_wide < 0.3) or sum(map(len, lines)) == 1
    return Page(size, as_one if one else lines)


def _cost(answer: Recognition, width: float, odds: np.ndarray) -> float:
    """What it costs to take something for a digit: by how strange its shape is; by what the network thinks of it, the
    logarithm of the likelihood that the ten outputs, as probabilities, give to the answer alone; and by the logarithm
    of the likelihood that it is one digit, by the odds that it is a part of one, or several."""
    outputs = np.clip(answer.activations, 1e-3, 1 - 1e-3)
    chances = np.where(np.arange(10) == answer.digit, outputs, 1 - outputs)
    strange = max(0.0, answer.distance - _FAMILIAR) / 20 * width
    return (
        1
        + _STRANGE * strange
        - _NETWORK * float(np.log(chances).sum())
        + _ODDS * float(np.logaddexp.reduce([0, *odds]))
    )


def _cheapest(spans: list[tuple[int, int, int]], costs: list[float]) -> tuple[list[int], float]:
    """The candidates of a line that take each of its pieces once and cost least, of triples: number, start, end."""
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for end in range(1, max(end for *_, end in spans) + 1):
        ways = [
            (best[start][0] + costs[number], [*best[start][1], number])
            for number, start, stop in spans
            if stop == end and start in best
        ]
        if ways:
            best[end] = min(ways)
    return best[end][1], best[end][0]


def _box(box: np.ndarray) -> tuple[int, int, int, int]:
    left, top, right, bottom = map(int, box)
    return left, top, right, bottom


def load_digit_network(checkpoint: Path | str | None) -> SigmoidMLP:
    """Load a network as `load_network` does.

    Raises:
        CheckpointError: it cannot be loaded, has other than 784 inputs and 10 outputs, or sums that can overflow.
    """
    network = load_network(checkpoint)
    parameters = [*network.parameters()]
    for number, (weight, bias) in enumerate(zip(parameters[::2], parameters[1::2], strict=True)):
        largest = vector_norm(weight, 1, dim=1) + bias.abs()  # of activations up to 1
        if not largest.isfinite().all():  # infinities of both signs would make NaN
            raise CheckpointError(f"{checkpoint}: layers.{number} has weights so large that their sums can overflow")
    if (network.sizes[0], network.sizes[-1]) != (784, 10):
        raise CheckpointError(
            f"{checkpoint} has layers of {network.sizes} neurons: 784 inputs and 10 outputs are needed"
        )
    return network
