"""A digit is made like MNIST's: white ink on black paper, scaled into a box of 20x20 pixels, and placed in
28x28 by its centre of mass (LeCun, Cortes and Burges, "The MNIST database of handwritten digits").

Each step is a function from pixels to pixels, and `whole_digit` takes them one after the other. Grey pictures are
float32 `(H, W)`, 0 black and 255 white. Ink is float32 `(H, W)`, 0 where there is none and 1 where there is most.
"""

from contextlib import suppress
from math import ceil
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from torchdigits.errors import NoInkError
from torchdigits.recognition.pictures import LEAST_CONTRAST, NO_INK
from torchdigits.recognition.pixels import blur, centre_of_mass, distance_inside, otsu_threshold, parts_of, quantile

Box = tuple[int, int, int, int]  # left, top, right, bottom: the first column and row, and those after the last

# Pixels of the longer side: of the picture while the digit is looked for, and of the digit after that.
_SEARCHED, _DIGIT = 256, 160
_MARGIN = 0.2  # around the digit, as a share of its longer side
# Widths of a stroke, in pixels of the 20x20 box: from the median to the upper quartile of MNIST's training images.
_STROKE_WIDTHS = (2.5, 3.0)
_AT_EDGE = 0.15  # of the picture's edge, along ink: from there on it may be a shadow
_AS_LARGE = 0.3  # of the length of what is taken for the digit: what may be another
_FAINT = 0.1  # of the darkest ink: where a stroke ends


class Digit(NamedTuple):
    """A digit, made like MNIST's.

    Attributes:
        box: left, top, right and bottom of its ink on the grey picture, in pixels.
        steps: it after each step, by the step's name; the last is `(28, 28)`, uint8.
        alone: whether nothing was left out that is as large as a digit.
    """

    box: Box
    steps: dict[str, np.ndarray]
    alone: bool

    @property
    def aspect(self) -> float:
        """The box's width in heights."""
        left, top, right, bottom = self.box
        return (right - left) / max(1, bottom - top)

    @property
    def pieces(self) -> int:
        """How many parts its ink is in, specks left out."""
        areas = parts_of(self.steps["ink"] > 0.5).areas
        return int(np.count_nonzero(areas >= areas.max(initial=0) / 20))

    @property
    def pixels(self) -> np.ndarray:
        """`(784,)`, uint8."""
        return [*self.steps.values()][-1].reshape(784)


def whole_digit(grey: np.ndarray) -> Digit:
    """Make all that is written on a grey picture into one digit.

    Raises:
        NoInkError: there is no ink on it, or too little contrast.
    """
    if is_mnist_like(grey):
        top, bottom, left, right = _box(grey > 0)
        return Digit((left, top, right, bottom), {"as it is": np.round(grey).astype(np.uint8)}, True)
    rows, columns, alone = find_ink(grey)
    found = _shrink(grey[rows, columns], round(_DIGIT * (1 + 2 * _MARGIN)))
    flat = remove_paper(found)
    ink = keep_ink(flat)
    factors = np.divide(grey[rows, columns].shape, found.shape)
    corner = np.array([rows.start, columns.start])
    top, bottom, left, right = _box(ink > _FAINT)
    (top, left), (bottom, right) = (corner + factors * (top, left)), (corner + factors * (bottom, right))
    steps = {"grey": grey, "found": found, "paper removed": flat, "ink": ink, **of_ink(ink)}
    return Digit((int(left), int(top), ceil(right), ceil(bottom)), steps, alone)


def of_ink(ink: np.ndarray, traced: int = _DIGIT) -> dict[str, np.ndarray]:
    """The last steps of a digit, from its ink alone, `(H, W)`: its stroke as wide as MNIST's, and 28x28.

    The stroke is measured and moved on a picture of so many pixels, of the longer side.
    """
    stroke = match_stroke(trim(ink), traced)
    return {"stroke": stroke, "28x28": centre(scale(stroke))}


def is_mnist_like(grey: np.ndarray) -> bool:
    """Whether a grey picture has the form that all 70,000 of MNIST have.

    It is 28x28, the digit is 19 or 20 pixels long, and its centre of mass is at (14, 14), give or take a pixel.
    """
    if grey.shape != (28, 28) or not grey.any():
        return False
    top, bottom, left, right = _box(grey > 0)
    return max(bottom - top, right - left) in (19, 20) and all(abs(place - 14) < 1 for place in centre_of_mass(grey))


def find_ink(grey: np.ndarray) -> tuple[slice, slice, bool]:
    """The rows and columns of a grey picture that have its ink, with a margin; and whether that is no shadow, and
    nothing was left out that is as large as a digit.

    If a sheet of paper stands out from a table, ink is looked for on the sheet.

    Raises:
        NoInkError: there is no ink.
    """
    small = _shrink(grey, _SEARCHED)
    everything = _ink_mask(blur(remove_paper(small), 1 if max(small.shape) > 56 else 0))
    ink = _without_specks(everything)
    top, bottom, left, right = np.array(_box(ink)) * np.repeat(np.divide(grey.shape, small.shape), 2)
    length = max(bottom - top, right - left)
    largest = parts_of(everything & ~ink).lengths.max(initial=0) * max(grey.shape) / max(small.shape)
    if _is_sheet(ink):
        edge = max(2, 0.03 * length)
        sheet = slice(int(top + edge), int(bottom - edge)), slice(int(left + edge), int(right - edge))
        with suppress(NoInkError):
            rows, columns, alone = find_ink(grey[sheet])
            down, aside = sheet[0].start, sheet[1].start
            rows, columns = (
                slice(down + rows.start, down + rows.stop),
                slice(aside + columns.start, aside + columns.stop),
            )
            longest = max(rows.stop - rows.start, columns.stop - columns.start) / (1 + 2 * _MARGIN)
            return rows, columns, alone and bool(largest < _AS_LARGE * longest)
    rows, columns = (
        slice(max(0, int(start - _MARGIN * length)), min(side, ceil(end + _MARGIN * length)))
        for start, end, side in ((top, bottom, grey.shape[0]), (left, right, grey.shape[1]))
    )
    return rows, columns, bool(largest < _AS_LARGE * length and _edge(ink).mean() < _AT_EDGE)


def _is_sheet(ink: np.ndarray) -> bool:
    """Whether the ink `(H, W)`, bool, is in truth a sheet of paper with ink on it: it fills its box, but for holes."""
    top, bottom, left, right = _box(ink)
    found = ink[top:bottom, left:right]
    sides = sorted(found.shape)
    if sides[0] <= max(8, 0.3 * sides[1]) or found.mean() <= 0.6:
        return False
    around = np.pad(found.view(np.uint8), 1)
    cv2.floodFill(around, None, (0, 0), 2)
    return bool((around[1:-1, 1:-1] != 2).mean() > 0.88)


def remove_paper(grey: np.ndarray) -> np.ndarray:
    """Turn grey into ink: how far each pixel is from the paper, as a share of the farthest that it could be.

    Otsu's threshold tells paper from ink. If the paper is evenly bright, its brightness is the median. Else it is a
    quadratic surface, fitted by least absolute deviations (iteratively reweighted least squares): ink does not bend it
    while it covers less than half of the picture. Ink is then on the side to which pixels deviate further.
    """
    light = _over_otsus_threshold(grey)
    light_share = (2 * light.mean() + _edge(light).mean()) / 3
    ink_is_light = light_share <= 0.5
    on_paper, on_ink = grey[light != ink_is_light], grey[light == ink_is_light]
    brightness = quantile(on_paper)
    contrast = abs(brightness - on_ink.mean()) if on_ink.size else 0
    if quantile(np.abs(on_paper - brightness)) < contrast / 16:
        paper: np.ndarray | float = min(max(brightness, 1.0), 254.0)
    else:
        paper = _lit_paper(grey)
        ink_is_light = ((grey - paper) ** 3).sum() > 0
    return np.asarray((grey - paper) / (255 - paper) if ink_is_light else (paper - grey) / paper, np.float32)


def _lit_paper(grey: np.ndarray) -> np.ndarray:
    """The brightness of paper under uneven light, between 1 and 254."""
    thumbnail = _resize(grey, min(32, grey.shape[0]), min(32, grey.shape[1]), Image.Resampling.BOX)
    terms, values = _quadratic_terms(thumbnail.shape), thumbnail.ravel()
    deviation = values - quantile(values)
    for _ in range(10):
        weighted = terms / np.maximum(np.abs(deviation), 1)[:, np.newaxis]
        surface = np.linalg.solve(terms.T @ weighted + 1e-3 * np.eye(6), values @ weighted)
        deviation = values - terms @ surface
    return np.asarray(np.clip((_quadratic_terms(grey.shape) @ surface).reshape(grey.shape), 1, 254))


def _quadratic_terms(shape: tuple[int, ...]) -> np.ndarray:
    y, x = (axis.ravel() for axis in np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij"))
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def keep_ink(flat: np.ndarray) -> np.ndarray:
    """Keep the ink above Otsu's threshold, with its soft edges, and drop specks and the grain of the paper.

    Raises:
        NoInkError: there is no ink.
    """
    length = max(flat.shape) / (1 + 2 * _MARGIN)
    ink = _without_specks(_ink_mask(blur(flat, length / 80)))
    edge = max(1.5, length / 20)
    top, bottom, left, right = (np.array(_box(ink)) + ceil(edge) * np.array([-1, 1, -1, 1])).clip(0)
    near = np.zeros(ink.shape, bool)
    near[top:bottom, left:right] = distance_inside(~ink[top:bottom, left:right]) <= edge
    full = quantile(flat[ink], 0.75)
    if full < LEAST_CONTRAST:
        raise NoInkError("too little contrast between ink and paper")
    return np.asarray(np.clip(flat / full, 0, 1) * near, np.float32)


def _ink_mask(flat: np.ndarray) -> np.ndarray:
    if np.ptp(flat) < LEAST_CONTRAST:
        raise NoInkError(NO_INK)
    ink = _over_otsus_threshold(flat)
    paper = flat[~ink]
    deviation = 1.4826 * quantile(np.abs(paper - quantile(paper)))  # estimates the standard deviation of noise
    if flat[ink].mean() - paper.mean() < max(LEAST_CONTRAST, 3.5 * deviation):
        raise NoInkError("too little contrast between ink and paper")
    return ink


def _without_specks(ink: np.ndarray) -> np.ndarray:
    """Drop parts smaller than a twentieth of the largest, and what surrounds the paper, such as a table.

    A part surrounds the paper if it lies in a corner of the picture or along more than a fifth of its edge. It is only
    dropped if another part is longer than a tenth of the picture.
    """
    parts = parts_of(ink)
    areas, edge = parts.areas, _edge(parts.labels)
    if len(areas) == 1:
        return ink
    around = np.bincount(edge, minlength=len(areas) + 1) > len(edge) / 5
    around[parts.labels[[0, 0, -1, -1], [0, -1, 0, -1]]] = True
    inside = ~around[1:]
    if np.any(inside & (parts.lengths > max(ink.shape) / 10)):
        areas = areas * inside
    return parts.where(areas >= max(1, areas.max() / 20))


def match_stroke(ink: np.ndarray, traced: int = _DIGIT) -> np.ndarray:
    """Make the strokes of a thin or thick pen as wide as MNIST's, by moving their edges.

    Their width is 4 times the mean distance to the edge, as in any long stroke.
    """
    length = max(ink.shape)
    height, width = (max(1, round(traced * side / length)) for side in ink.shape)
    mask = np.pad(_resize(ink, height, width) > 0.5, traced // 10)
    if not mask.any():  # nothing of it is full ink
        return ink
    inside = distance_inside(mask) - 0.5  # from each pixel's centre, in pixels
    stroke = 4 * inside[mask].mean() * 20 / traced
    target = min(max(stroke, _STROKE_WIDTHS[0]), _STROKE_WIDTHS[1])
    if target == stroke:
        return ink
    outwards = (target - stroke) / (1 - target / 20) / 2 * traced / 20  # as the box of 20 pixels will grow with it
    distance = np.where(mask, inside, 0.5 - distance_inside(~mask)) if outwards > 0 else inside
    moved = np.asarray(np.clip(distance + outwards + 0.5, 0, 1), np.float32)
    return trim(moved) if (moved > _FAINT).any() else ink  # of a spot, nothing may be left


def trim(ink: np.ndarray) -> np.ndarray:
    """Cut the ink `(H, W)` to its box."""
    top, bottom, left, right = _box(ink > _FAINT)
    return ink[top:bottom, left:right]


def scale(ink: np.ndarray) -> np.ndarray:
    """Scale the ink `(H, W)` so that its longer side is 20 pixels, as uint8, 255 where there is most."""
    height, width = (max(1, round(20 * side / max(ink.shape))) for side in ink.shape)
    small = _resize(ink, height, width)
    if small.max() < 1 / 255:  # ink so sparse that nothing would be left
        small = small / small.max()
    return np.clip(np.round(255 * small), 0, 255).astype(np.uint8)


def centre(digit: np.ndarray) -> np.ndarray:
    """Place a digit of 20x20 pixels or less in 28x28, uint8, its centre of mass within half a pixel of (14, 14)."""
    placed = np.zeros((28, 28), np.uint8)
    top, left = (
        int(np.clip(np.floor(14.5 - place), 0, 28 - side))
        for place, side in zip(centre_of_mass(digit), digit.shape, strict=True)
    )
    placed[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return placed


def _over_otsus_threshold(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(pixels > np.float32(otsu_threshold(pixels)))


def _edge(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def _box(ink: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what is true. Bottom and right are the first row and column without.

    Raises:
        NoInkError: nothing is.
    """
    left, top, width, height = cv2.boundingRect(ink.view(np.uint8))
    if not width:
        raise NoInkError(NO_INK)
    return top, top + height, left, left + width


def _shrink(grey: np.ndarray, longest: int) -> np.ndarray:
    factor = longest / max(grey.shape)
    if factor >= 1:
        return grey
    height, width = (max(1, round(factor * side)) for side in grey.shape)
    return _resize(grey, height, width, Image.Resampling.BOX)


def _resize(
    pixels: np.ndarray, height: int, width: int, resampling: Image.Resampling = Image.Resampling.BICUBIC
) -> np.ndarray:
    """Resample with Pillow, which avoids aliasing."""
    return np.asarray(Image.fromarray(pixels.astype(np.float32)).resize((width, height), resampling))
