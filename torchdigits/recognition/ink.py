"""Ink on paper: how dark each pixel of a picture is against the paper around it, and which pixels are written.

Grey pictures are float32 `(H, W)`, 0 black and 255 white.
"""

import math
from contextlib import suppress
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from torchdigits.errors import NoInkError
from torchdigits.recognition.pictures import LEAST_CONTRAST, NO_INK
from torchdigits.recognition.pixels import blur, closed, grown, otsu_threshold, parts_of, quantile

_SKETCH = 400  # pixels of a side, if it were square, of the picture on which the pen's width is estimated
_DARKEST = 64.0  # paper, beside which the steps of grey are not counted as ink
_SQUARES = (0.5, 0.25, 0.12, 0.06)  # of that side: what is narrower may be ink
_SQUARE = 6  # widths of the pen, then
_STRONG = 0.45  # of full ink: where a stroke ends, and what shines through does not begin


class Ink(NamedTuple):
    """What is written on a picture.

    Attributes:
        strength: `(H, W)`, float32: how much darker than the paper around it a pixel is, as a share of that.
        mask: `(H, W)`, bool: where it is written.
        pen: the width of most strokes, in pixels.
    """

    strength: np.ndarray
    mask: np.ndarray
    pen: float


def ink_of(grey: np.ndarray) -> Ink:
    """Tell ink from paper.

    It takes the black top-hat, the difference to a closing (Serra, "Image Analysis and Mathematical Morphology", 1982),
    which keeps what is darker than its surroundings and narrower than a square. So neither a table nor a shadow,
    whatever its edge, is ink. The square is some widths of the pen, which are first estimated on a sketch.

    Raises:
        NoInkError: nothing is written on it, or too faintly.
    """
    grey = np.clip(255 - grey if is_light_on_dark(grey) else grey, 1, None)
    smooth, side = max(grey.shape) > 56, math.sqrt(grey.size)
    factor = max(1, int(side / _SKETCH))
    sketch = _reduced(grey, factor)
    found = None
    for share in _SQUARES:
        size = max(5, int(share * side / factor))
        with suppress(NoInkError):
            found = _ink(sketch, size, smooth)
            if not _fills(found.mask, 0.4 * size):
                break
    if found is None:
        return _ink(grey, factor * size, smooth)  # which may have what the sketch does not show
    square = max(5, min(int(_SQUARE * factor * found.pen), factor * size))
    if factor == 1 and square > 0.7 * size:
        return found
    ink = _ink(grey, square, smooth)
    return ink._replace(mask=_without_rims(ink.mask, found.mask))


def is_light_on_dark(grey: np.ndarray) -> bool:
    """Whether what stands out from its surroundings is mostly lighter than they are, by the third moment."""
    sketch = _reduced(grey, max(1, int(math.sqrt(grey.size) / 200)))
    if sketch.shape[0] > sketch.shape[1]:  # OpenCV keeps as many rows in memory as the window is high
        sketch = np.ascontiguousarray(sketch.T)
    side = max(3, sketch.shape[1] // 3)
    height, width = (min(side, length) for length in sketch.shape)
    around = cv2.blur(sketch, (width, height), borderType=cv2.BORDER_REFLECT)
    return bool(((sketch - around) ** 3).sum() > 0)


def _ink(grey: np.ndarray, size: int, smooth: bool) -> Ink:
    """What is narrower than a square of so many pixels."""
    size |= 1  # or both filters would move the picture
    paper = closed(grey, size)
    strength = (paper - grey) / np.maximum(paper, _DARKEST)
    smoothed = blur(strength, 1) if smooth else strength
    step = max(1, round((strength.size / 100_000) ** 0.5))
    sample = smoothed[::step, ::step]
    level = quantile(sample)
    noise = 1.4826 * quantile(np.abs(sample - level))  # its standard deviation
    least = level + max(LEAST_CONTRAST / 2, 4 * noise)
    candidates = smoothed[smoothed > least]
    if not candidates.size:
        raise NoInkError(NO_INK)
    strong = candidates[candidates > otsu_threshold(candidates)]
    full = quantile(strong if strong.size else candidates)
    if full - level < LEAST_CONTRAST:
        raise NoInkError(
            f"its ink is too faint, {full - level:.0%} darker than the paper: use a darker pen, or more light"
        )
    mask = smoothed > max(least, level + _STRONG * (full - level))
    widths = np.minimum(run_lengths(mask), run_lengths(mask.T).T)[mask]
    return Ink(strength, mask, quantile(widths))


def _without_rims(mask: np.ndarray, sketched: np.ndarray) -> np.ndarray:
    """Without what is left of spots that are wider than the square, and so only on the sketch."""
    rows, columns = (np.arange(side) * other // side for side, other in zip(mask.shape, sketched.shape, strict=True))
    inside = sketched[np.ix_(rows, columns)] & ~grown(mask, 2)
    if not inside.any():
        return mask
    joined = parts_of(mask | grown(inside, 3))
    within = np.bincount(joined.labels[inside], minlength=len(joined.areas) + 1)[1:]
    return np.asarray(mask & joined.where(within < 0.4 * joined.areas))


def _fills(mask: np.ndarray, size: float) -> bool:
    """Whether it fills a square of so many pixels somewhere."""
    side = max(3, int(size))
    return bool(cv2.erode(np.pad(mask.view(np.uint8), 1), np.ones((side, side), np.uint8)).any())


def run_lengths(mask: np.ndarray) -> np.ndarray:
    """For each pixel, the length of the run along the row that it belongs to; 0 outside of them."""
    flat = np.pad(mask, ((0, 0), (0, 1))).ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    lengths = np.zeros(flat.size, np.int32)
    lengths[flat] = np.repeat(edges[1::2] - edges[::2], edges[1::2] - edges[::2])
    return lengths.reshape(len(mask), -1)[:, :-1]


def _reduced(grey: np.ndarray, factor: int) -> np.ndarray:
    return np.asarray(Image.fromarray(grey).reduce(factor)) if factor > 1 else grey
