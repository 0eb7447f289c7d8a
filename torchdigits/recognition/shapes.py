"""How far a shape is from those of digits: the doubt that an answer leaves.

A shape is described by the directions of its edges, in 7x7 cells; each digit's shapes by three normal distributions,
fitted to MNIST's training images by `scripts/shapes.py`: a quadratic discriminant on gradients, as in Kimura,
Takashina, Tsuruoka and Miyake, "Modified quadratic discriminant functions and the application to Chinese character
recognition" (1987). It answers nothing: the network does. It only tells what is like a digit from what is not; and, by
a logistic regression on the same, whether ink is rather a part of a digit, or several.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

FILE = Path(__file__).with_name("shapes.npz")
DIRECTIONS, CELLS = 12, 7
_AT_ONCE = 500  # images
FARTHEST = 400.0  # distance: what is farther is taken for no farther, as few digits are to learn from there


class Shapes(NamedTuple):
    """The shapes of digits.

    Attributes:
        mean, basis: of the features: `(588,)`, and `(588, 100)`, their principal directions.
        digits: of each kind of shape, the digit, `(K,)`, in order.
        whitening, centres: of each kind, `(K, 100, 100)` and `(K, 100)`: `|whitening @ x - centre|²` is the squared
            Mahalanobis distance of features `x` in the basis.
        quantiles: of the training images' distances, from 0 to 1, evenly spaced.
        odds: the weights of a part's and of several digits' odds against one, `(2, 590)`: of the features, the distance
            to the nearest shapes, and 1.
    """

    mean: np.ndarray
    basis: np.ndarray
    digits: np.ndarray
    whitening: np.ndarray
    centres: np.ndarray
    quantiles: np.ndarray
    odds: np.ndarray


@cache
def shapes() -> Shapes:
    """Those that come along."""
    with np.load(FILE, allow_pickle=False) as file:
        return Shapes(*(file[name].astype(np.int64 if name == "digits" else np.float32) for name in Shapes._fields))


def features(images: np.ndarray) -> np.ndarray:
    """The directions of edges: how much there is of each of 12, in each of 7x7 cells, and of that the square root.

    Args:
        images: `(N, 784)`, uint8.

    Returns:
        `(N, 588)`, float32.
    """
    square = images.reshape(-1, 28, 28).astype(np.float32) / 255
    blur, slope, window = _filters()
    down, across = slope @ square @ blur.T, blur @ square @ slope.T
    strength = np.hypot(across, down)
    direction = np.arctan2(down, across) / (2 * np.pi) * DIRECTIONS % DIRECTIONS
    below = direction.astype(np.intp) % DIRECTIONS  # % as 12.0 may come out
    share = direction - np.floor(direction)
    edges = np.zeros((len(square), DIRECTIONS, 28, 28), np.float32)
    image, row, column = np.ogrid[: len(square), :28, :28]
    edges[image, below, row, column] = strength * (1 - share)
    edges[image, (below + 1) % DIRECTIONS, row, column] = strength * share
    return np.asarray(np.sqrt(window @ edges @ window.T).reshape(len(images), -1))


@cache
def _filters() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What smooths 28 pixels, what takes the slope of that, both `(28, 28)`, and the window of each cell, `(7, 28)`."""
    blur = cv2.GaussianBlur(np.eye(28, dtype=np.float32), (1, 9), 1, borderType=cv2.BORDER_REFLECT)
    size = 22 / CELLS  # pixels, as a digit has 20
    middles = 2.5 + size * (np.arange(CELLS)[:, np.newaxis] + 0.5)
    window = np.exp(-(((np.arange(28) - middles) / (0.5 * size)) ** 2) / 2).astype(np.float32)
    return blur, np.gradient(blur, axis=0), window / window.sum(1, keepdims=True)


def likeness(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How like the shapes of digits images are, and whether they are one digit.

    Args:
        images: `(N, 784)`, uint8.

    Returns:
        The squared Mahalanobis distance to the nearest shapes of each digit, `(N, 10)`, float32. And how much likelier
        it is that ink is a part of a digit, or several, than that it is one: logarithms of odds, `(N, 2)`, float32, by
        a multinomial logistic regression that is fitted to parts of pages made of MNIST's training images.
    """
    known = shapes()
    apart, odds = np.empty((len(images), 10), np.float32), np.empty((len(images), 2), np.float32)
    for start in range(0, len(images), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        found = features(images[some])
        at = (found - known.mean) @ known.basis
        white = at @ known.whitening.reshape(-1, at.shape[1]).T
        squares = ((white.reshape(len(at), *known.centres.shape) - known.centres) ** 2).sum(2)
        apart[some] = np.minimum.reduceat(squares, known.digits.searchsorted(np.arange(10)), axis=1)
        nearest = apart[some].min(1, keepdims=True).clip(max=FARTHEST)
        odds[some] = found @ known.odds[:, :-2].T + nearest * known.odds[:, -2] + known.odds[:, -1]
    return apart, odds


def distances(images: np.ndarray) -> np.ndarray:
    """The first of what `likeness` returns."""
    return likeness(images)[0]


def unlikeness(apart: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """How unlike digits images are, `(N,)`, by their `distances`, `(N, 10)`, and what is answered, `(N,)`.

    It is the mean of two: to the shapes of the digit that is answered, and to the nearest of any.
    """
    return np.asarray((apart[np.arange(len(answers)), answers] + apart.min(1)) / 2)


def doubts(unlike: np.ndarray) -> np.ndarray:
    """How doubtful answers are: the share of MNIST's training images that are less unlike their digits.

    Args:
        unlike: as `unlikeness` has it, `(N,)`.

    Returns:
        `(N,)`, 0 to 1, in steps of a thousandth.
    """
    quantiles = shapes().quantiles
    return np.asarray(quantiles.searchsorted(unlike) / len(quantiles))
