"""A sheet of paper on something darker, such as a table: what is around it is no paper, and nobody wrote there."""

import cv2
import numpy as np
from PIL import Image

from torchdigits.recognition.pixels import SQUARE, blur, otsu_threshold, parts_of

_SKETCH = 300  # pixels of the longer side, on which it is looked for
_LEAST, _MOST = 0.15, 0.95  # of the picture: what a sheet takes
_AT_EDGE = 0.3  # of the picture's edge: where a sheet ends there at most; what is beside a shadow ends along more of it
_BRIGHT = 0.2  # of what is around: as bright as a sheet at most, or it is the paper around a frame
_CONVEX, _CORNERS = 0.95, 0.03  # of its hull; of its perimeter: by how much its sides may bend
_SHARP, _AROUND = 0.5, 0.8  # of the contrast to what is around: that within four pixels; of its edge, where it is so
_RIM = 5  # pixels of the sketch within its edge that are not looked at
_STROKE = 15  # pixels of the sketch: what is narrower and darker is ink


def only_sheet(grey: np.ndarray) -> np.ndarray:
    """A grey picture, on which what is around a sheet is as bright as the sheet beside it; as it is without a sheet.

    A sheet is the largest part that is brighter than Otsu's threshold, if it is a quadrilateral with sharp edges.
    Pictures of less than 300 pixels are taken for cut out already.

    Args:
        grey: `(H, W)`, float32, 0 black and 255 white.
    """
    factor = max(grey.shape) // _SKETCH
    if factor == 0:
        return grey
    sketch = np.asarray(Image.fromarray(grey).reduce(factor))
    inside = _sheet(sketch)
    if inside is None:
        return grey
    paper = cv2.morphologyEx(blur(sketch, 2), cv2.MORPH_CLOSE, np.ones((_STROKE, _STROKE), np.uint8))
    _, nearest = cv2.distanceTransformWithLabels(
        (~inside).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    brightness = np.zeros(nearest.max() + 1, np.float32)
    brightness[nearest[inside]] = paper[inside]
    rows, columns = (
        np.arange(side).clip(max=factor * small - 1) // factor
        for side, small in zip(grey.shape, sketch.shape, strict=True)
    )
    at = np.ix_(rows, columns)
    return np.where(inside[at], grey, brightness[nearest][at])


def _sheet(sketch: np.ndarray) -> np.ndarray | None:
    """Where the sheet is, without its rim, `(H, W)`, bool; None if there is none."""
    smooth = blur(sketch, 1)
    bright = smooth > otsu_threshold(smooth)
    parts = parts_of(bright)
    if not parts.areas.size or parts.areas.max() < _LEAST / 2 * sketch.size:  # ink may cover half
        return None
    largest = parts.labels == parts.areas.argmax() + 1
    outlines, _ = cv2.findContours(largest.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=cv2.contourArea)
    sheet = _filled(outline, sketch.shape)
    edge = np.concatenate([sheet[0], sheet[-1], sheet[:, 0], sheet[:, -1]])
    if not (_LEAST < sheet.mean() < _MOST and edge.mean() < _AT_EDGE and bright[~sheet].mean() < _BRIGHT):
        return None
    hull = cv2.convexHull(outline)
    perimeter = cv2.arcLength(hull, True)
    corners = cv2.approxPolyDP(hull, _CORNERS * perimeter, True)
    if len(corners) != 4 or sheet.sum() < _CONVEX * _filled(hull, sketch.shape).sum():
        return None
    column, row = outline[:, 0].T
    local = cv2.dilate(smooth, SQUARE, iterations=4) - cv2.erode(smooth, SQUARE, iterations=4)
    contrast = smooth[sheet & bright].mean() - smooth[~sheet].mean()
    if (local[row, column] > _SHARP * contrast).mean() < _AROUND:
        return None
    within = np.pad(_filled(corners, sketch.shape) & _filled(hull, sketch.shape), 1)
    return np.asarray(cv2.erode(within.view(np.uint8), SQUARE, iterations=_RIM)[1:-1, 1:-1] > 0)


def _filled(outline: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    filled = np.zeros(shape, np.uint8)
    cv2.drawContours(filled, [outline], -1, 1, -1)
    return filled.view(bool)
