"""What is known of pixels: connected parts, distances, thresholds, blurs. OpenCV computes them."""

from math import ceil
from typing import NamedTuple

import cv2
import numpy as np

_LARGE = 63  # pixels of the side of a square
SQUARE = np.ones((3, 3), np.uint8)  # a pixel and its eight neighbours


class Parts(NamedTuple):
    """The connected parts of a mask, in which pixels touch at sides or corners.

    Attributes:
        labels: `(H, W)`, int32: the part of each pixel, from 1; 0 where the mask is false.
        boxes: `(N, 4)`: left, top, right and bottom of each part.
        areas: `(N,)`: how many pixels it has.
    """

    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """`(N,)`: the longer side of each part."""
        return np.asarray((self.boxes[:, 2:] - self.boxes[:, :2]).max(1))

    def own(self, part: int) -> np.ndarray:
        """The pixels of a part, by its place in `boxes`: bool, of its box."""
        left, top, right, bottom = self.boxes[part]
        return np.asarray(self.labels[top:bottom, left:right] == part + 1)

    def where(self, chosen: np.ndarray) -> np.ndarray:
        """`(H, W)`, bool: the pixels of the parts that are chosen, `(N,)`, bool."""
        return np.asarray(np.concatenate([[False], chosen])[self.labels])


def parts_of(mask: np.ndarray) -> Parts:
    """The connected parts of a mask `(H, W)`, bool."""
    # On one thread, the default algorithm takes two to three times as long for the same.
    _, labels, found, _ = cv2.connectedComponentsWithStatsWithAlgorithm(
        mask.view(np.uint8), 8, cv2.CV_32S, cv2.CCL_BBDT
    )
    left, top, width, height, areas = found[1:].T
    return Parts(labels, np.stack([left, top, left + width, top + height], axis=1), areas)


def typical_length(lengths: np.ndarray, areas: np.ndarray) -> float:
    """The length above and below which there is as much ink: of parts' lengths and areas, `(N,)`; 0 of none."""
    if not lengths.size:
        return 0.0
    order = lengths.argsort(kind="stable")
    ink = areas[order].cumsum()
    return float(lengths[order][ink.searchsorted(ink[-1] / 2)])


def distance_inside(mask: np.ndarray) -> np.ndarray:
    """For each pixel of a mask `(H, W)`, bool, how far the nearest is that is not of it: float32, 0 outside.

    Within 2 % of the Euclidean distance, by steps to the sides, across corners, and of a chess knight (Borgefors,
    "Distance transformations in digital images", 1986). Some pixel must be outside.
    """
    return np.asarray(cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5))


def blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Pixels `(H, W)`, float32, convolved with a normal distribution; as they are, if that is narrow."""
    if sigma <= 0.4:
        return pixels
    side = 2 * int(3 * sigma + 0.5) + 1
    return np.asarray(cv2.GaussianBlur(pixels, (side, side), sigma, borderType=cv2.BORDER_REFLECT))


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """A mask, bool, and what is no further from it than so many pixels, sideways, up and down."""
    return cv2.dilate(mask.view(np.uint8), SQUARE, iterations=pixels).astype(bool)


def closed(pixels: np.ndarray, side: int) -> np.ndarray:
    """The closing of pixels `(H, W)`, float32, by a square of an odd side: what is dark and narrower than it is gone.

    What is at the picture's edge goes on beyond it.
    """
    # A side of 2 length - 1 reaches the whole picture from every pixel: a longer one changes nothing.
    height, width = (min(side, 2 * length - 1) for length in pixels.shape)
    found = np.pad(pixels, [(height - 1,) * 2, (width - 1,) * 2], mode="edge")
    if max(height, width) <= _LARGE:
        found = cv2.morphologyEx(found, cv2.MORPH_CLOSE, np.ones((height, width), np.uint8))
        return np.asarray(found[height - 1 : 1 - height or None, width - 1 : 1 - width or None])
    # For OpenCV a larger square takes longer; here, only by its logarithm.
    for extreme in (np.maximum, np.minimum):
        for length in (height, width):
            found = _running(extreme, found, length).T
    return found


def _running(extreme: np.ufunc, pixels: np.ndarray, side: int) -> np.ndarray:
    """The extreme of each pixel and of those that follow it in its column, so many in all, `(H - side + 1, W)`."""
    span = 1
    while 2 * span <= side:
        pixels = extreme(pixels[:-span], pixels[span:])
        span *= 2
    return np.asarray(extreme(pixels[: len(pixels) - (side - span)], pixels[side - span :]))


def otsu_threshold(values: np.ndarray) -> float:
    """Otsu's threshold, above which values are of the higher of two classes. If all are equal, none is."""
    low, high = float(values.min()), float(values.max())
    width = np.float32((high - low) / 256)
    if width == 0:
        return high
    steps = ((values.reshape(1, -1) - low) / width).clip(0, 255).astype(np.uint8)
    return low + (high - low) / 256 * (cv2.threshold(steps, 0, 255, cv2.THRESH_OTSU)[0] + 1)


def quantile(values: np.ndarray, share: float = 0.5) -> float:
    """The value below which so much of all lie, as `np.quantile` has it; the median by default.

    NumPy's takes up to ten times as long.
    """
    place = share * (values.size - 1)
    low, high = int(place), ceil(place)
    ordered = np.partition(values, (low, high), axis=None)  # of one place, NumPy takes longer if many values are equal
    value, next_value = float(ordered[low]), float(ordered[high])
    return value + (place - low) * (next_value - value)


def centre_of_mass(pixels: np.ndarray) -> tuple[float, float]:
    """Row and column of the centre of mass of `(H, W)`."""
    moments = cv2.moments(pixels)
    return moments["m01"] / moments["m00"], moments["m10"] / moments["m00"]
