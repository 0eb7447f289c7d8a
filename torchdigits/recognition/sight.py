"""What there is to read on a picture, made like MNIST's images, before a network has read it."""

from typing import NamedTuple

import numpy as np

MOST_PIECES = 4  # that a digit may be in: a column of numbers, made as small, may look like one


class Sight(NamedTuple):
    """What there is to read on a picture: one digit, or several.

    Attributes:
        size: width and height of the picture, in pixels.
        pixels: all of it as one digit, `(784,)`, uint8; or the largest candidate, where that cannot be.
        box: left, top, right, bottom of that, in pixels of the picture.
        distances, odds: `shapes.likeness` of that and of the candidates, `(1 + N, 10)` and `(1 + N, 2)`, float32.
        alone: whether that leaves nothing out, `()`, bool.
        candidates: for digits, if there may be several, `(N, 784)`, uint8, N may be 0.
        boxes: of them, `(N, 4)`, int64, in pixels of the picture.
        spans: of each the line, the first of its pieces that it takes, and the one after the last, `(N, 3)`, int64.
        fits: of each, how badly it fits into its line, and how wide it is in heights of the line, `(N, 2)`, float32.
    """

    size: np.ndarray
    pixels: np.ndarray
    box: np.ndarray
    distances: np.ndarray
    odds: np.ndarray
    alone: np.ndarray
    candidates: np.ndarray
    boxes: np.ndarray
    spans: np.ndarray
    fits: np.ndarray
