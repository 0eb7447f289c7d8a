"""The rules of ruled and squared paper, and the frames of forms: straight lines that nobody wrote."""

import cv2
import numpy as np

from torchdigits.recognition.ink import Ink, run_lengths
from torchdigits.recognition.pixels import parts_of, quantile, typical_length

_SLOPES = np.linspace(-0.1, 0.1, 11)  # of lines against the picture's sides, as the tangent of their angle
_COVERED = 0.88  # of a line, by ink
_STICKING_OUT = 1.25  # how much longer than what is left a rule is
_SURELY = 2.0  # how much longer, for its edges to go with it
_UNDERLINED = 2.2  # heights: as wide are digits only if they touch, or hang on a line
_MOST = 20_000  # pieces of ink; where there are more, it is noise
_BORDER, _INSIDE = 0.12, 0.25  # of a frame's shorter side, where its ink is; and of its ink, what may be elsewhere


def without_rules(ink: Ink) -> np.ndarray:
    """Where it is written, `(H, W)`, bool, without lines that are straight and much longer than what else is there.

    Where a stroke crosses a line, it is thicker than the line usually is, and stays.
    """
    mask = _without_frames(ink.mask, ink.pen)
    for length in _lengths_of_rules(mask, ink.pen):
        lines, edges = np.zeros_like(mask), np.zeros_like(mask)
        for turned in (False, True):
            view = mask.T if turned else mask
            if view.shape[1] > length:
                on, beside = _without_crossings(view, _on_lines(view, length))
                lines |= on.T if turned else on
                edges |= beside.T if turned else beside
        if lines.any():
            left = parts_of(mask & ~lines)
            typical = _typical(left.lengths, left.areas, ink.pen)
            if 0 < _STICKING_OUT * typical < length:
                mask = mask & ~(lines | edges if _SURELY * typical < length else lines)
    return mask


def _without_frames(mask: np.ndarray, pen: float) -> np.ndarray:
    """Without connected ink that runs along the sides of its box, around other ink."""
    parts = parts_of(mask)
    if not 2 <= len(parts.areas) <= _MOST:
        return mask
    lengths, frames = parts.lengths, np.zeros(len(parts.areas), bool)
    for at in np.flatnonzero(lengths > 6 * pen):
        box = parts.boxes[at]
        inside = (parts.boxes[:, :2] > box[:2]).all(1) & (parts.boxes[:, 2:] < box[2:]).all(1)
        if not inside.any() or lengths[inside].max() < 0.3 * lengths[at]:
            continue
        own = parts.own(int(at))
        margin = max(2, int(_BORDER * min(own.shape)))
        frames[at] = own[margin:-margin, margin:-margin].sum() < _INSIDE * own.sum()
    return mask & ~parts.where(frames) if frames.any() else mask


def _lengths_of_rules(mask: np.ndarray, pen: float) -> list[int]:
    """How long a line may have to be for a rule, the longest first; nothing, if nothing sticks out."""
    parts = parts_of(mask)
    lengths, areas = parts.lengths, parts.areas
    typical = _typical(lengths, areas, pen)
    if not typical or len(lengths) > _MOST:
        return []
    longest = int(lengths.max())
    left, top, right, bottom = parts.boxes[lengths.argmax()]
    underlined = right - left > _UNDERLINED * (bottom - top)
    sticks_out = len(lengths) == 1 or longest >= min(1.6 * typical, 0.5 * max(mask.shape))
    others = lengths < 0.7 * longest
    if sticks_out and others.any():
        found = {int(0.5 * longest), int(0.25 * longest), int(1.8 * _typical(lengths[others], areas[others], pen))}
    elif underlined:
        found = {int(0.5 * longest)}
    else:  # a single digit may be as long as its longest stroke
        found = {int(0.85 * min(mask.shape))} if sticks_out else set()
    return sorted((length for length in found if length > 8 * pen), reverse=True)


def _typical(lengths: np.ndarray, areas: np.ndarray, pen: float) -> float:
    """The length above and below which there is as much ink, specks left out; 0 if there is nothing else."""
    large = lengths > 2 * pen
    return typical_length(lengths[large], areas[large])


def _on_lines(mask: np.ndarray, length: int) -> np.ndarray:
    """What lies on lines of so many pixels, within six degrees of the rows."""
    found = np.zeros_like(mask)
    rows, columns = np.nonzero(mask)
    for slope in _SLOPES:
        rise = abs(slope) * length
        if _COVERED * rise > len(mask) + 2:  # no such line is inside the picture
            continue
        shift = np.round(slope * np.arange(mask.shape[1])).astype(int)
        # Each line is a row now. Rows wrap around: within so many columns a line crosses less of them than there are.
        sheared = np.zeros((len(mask) + int(rise) + 2, mask.shape[1]), np.float32)
        at = (rows + shift[columns]) % len(sheared), columns
        sheared[at] = 1
        middles = cv2.blur(sheared, (length, 1), borderType=cv2.BORDER_CONSTANT) > _COVERED
        if middles.any():
            found[rows, columns] |= cv2.dilate(middles.view(np.uint8), np.ones((1, length), np.uint8))[at] > 0
    return found


def _without_crossings(mask: np.ndarray, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of lines along the rows, and of the pixels above and below, what is no thicker than they usually are.

    A line's outermost pixels are ragged, so that many of them lie on none.
    """
    if not lines.any():
        return lines, lines
    thickness = run_lengths(mask.T).T
    usual = quantile(thickness[lines])
    thin = mask & (thickness <= max(1.6 * usual, usual + 2))
    beside = cv2.dilate(lines.view(np.uint8), np.ones((3, 1), np.uint8)) > 0
    return lines & thin, beside & thin
