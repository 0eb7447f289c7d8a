"""Parts of a page's ink, and the lines of digits that they stand in."""

from typing import NamedTuple

import numpy as np

from torchdigits.errors import ImageError
from torchdigits.recognition.pixels import distance_inside, parts_of, typical_length

_MOST_PARTS = 1000
_SLOPES = np.linspace(-0.12, 0.12, 25)  # of lines of digits, as the tangent of their angle
_SMALL, _SMALL_ALONE = 2, 3  # widths of the pen: the height of digits that are much lower than most, and of one alone


class Part(NamedTuple):
    """Connected ink, or some pieces of it.

    Attributes:
        mask: `(H, W)`, bool, of its box.
        left, top: where its box is.
    """

    mask: np.ndarray
    left: int
    top: int

    @property
    def right(self) -> int:
        return self.left + self.width

    @property
    def bottom(self) -> int:
        return self.top + self.height

    @property
    def width(self) -> int:
        return int(self.mask.shape[1])

    @property
    def height(self) -> int:
        return int(self.mask.shape[0])

    @property
    def longest(self) -> int:
        return max(self.width, self.height)

    def level(self, slope: float) -> float:
        """How far down its middle is, along a slope."""
        return (self.top + self.bottom - slope * (self.left + self.right)) / 2


def parts_on(mask: np.ndarray, pen: float) -> list[Part]:
    """Connected ink that may be a digit or a piece of one: without specks, spots, and what comes in from outside.

    Args:
        mask: `(H, W)`, bool.
        pen: the width of a stroke, in pixels.

    Raises:
        ImageError: there is more than a page of digits has.
    """
    ink = parts_of(mask)
    large = ink.areas >= max(4, 0.4 * pen**2)
    large &= ink.lengths > max(1.5 * pen, 0.12 * typical_length(ink.lengths[large], ink.areas[large]))
    if np.count_nonzero(large) > _MOST_PARTS:
        raise too_many()
    parts = [Part(ink.own(int(at)), int(ink.boxes[at, 0]), int(ink.boxes[at, 1])) for at in np.flatnonzero(large)]
    if len(parts) > 1:
        typical = typical_length(ink.lengths[large], ink.areas[large])
        parts = [part for part in parts if not _comes_from_outside(part, mask.shape, typical)]
    return [part for part in parts if not _is_spot(part)]


def _comes_from_outside(part: Part, shape: tuple[int, ...], typical: float) -> bool:
    """Whether it touches the picture's edge, and is as no other part is."""
    at_edge = part.left == 0 or part.top == 0 or part.right == shape[1] or part.bottom == shape[0]
    return at_edge and not 0.5 * typical < part.longest < 2.2 * typical


def _is_spot(part: Part) -> bool:
    """Whether it is almost as thick as long: a blot, or a hole."""
    if part.mask.mean() < 0.55:
        return False
    filled = np.pad(part.mask, 1)
    stroke = 4 * (distance_inside(filled)[filled] - 0.5).mean()
    return bool(part.longest < 2.3 * stroke)


def lines_of(parts: list[Part], pen: float) -> list[list[Part]]:
    """The lines, from top to bottom, of the digits, from left to right, each of which may have several parts.

    There must be a part. Digits less than half as high as most have lines of their own, unless they are near to others:
    then they are pieces, as halves of a digit are, one close above the other.
    """
    typical = float(np.median([part.longest for part in parts]))
    # Several digits that touch are longer than they are high.
    parts = _mended(parts, min(typical, 1.2 * float(np.median([part.height for part in parts]))))
    least = 0.45 * typical if any(part.height > 0.45 * typical for part in parts) else 0
    high = [part for part in parts if part.height > least]
    slope = _slope(high)
    lines: list[list[Part]] = []
    for part in sorted(high, key=lambda part: part.level(slope)):
        if lines:
            before = lines[-1][-5:]
            level, height = (np.mean([p.level(slope) for p in before]), np.median([p.height for p in before]))
            if part.level(slope) - level < 0.5 * max(height, 0.8 * part.height):
                lines[-1].append(part)
                continue
        lines.append([part])
    apart = []
    for part in (part for part in parts if part.height <= least):
        gap, number, at = min(
            (_gap(part, other), number, at) for number, line in enumerate(lines) for at, other in enumerate(line)
        )
        near = lines[number]
        if gap < 0.4 * near[at].height and not _is_minus(part, near[at]):
            near[at] = together([near[at], part])
        elif part.height > _SMALL * pen:
            apart.append(part)
    found = [_stacked(sorted(line, key=lambda part: part.left)) for line in lines]
    if apart:
        found += [line for line in lines_of(apart, pen) if len(line) > 1 or line[0].height > _SMALL_ALONE * pen]
    return sorted(found, key=lambda line: np.mean([part.level(slope) for part in line]))


def _slope(parts: list[Part]) -> float:
    """The slope along which most parts lie level with others."""
    some = parts[:: max(1, len(parts) // 400)]
    middles = np.array([(part.left + part.right, part.top + part.bottom) for part in some]) / 2
    reach = 0.25 * np.median([part.height for part in some])
    scores = []
    for slope in _SLOPES:
        level = middles[:, 1] - slope * middles[:, 0]
        scores.append(np.exp(-(((level[:, np.newaxis] - level) / reach) ** 2)).sum() * (1 - abs(slope)))
    return float(_SLOPES[int(np.argmax(scores))])


def _is_minus(part: Part, other: Part) -> bool:
    """Whether a low part is a dash beside a digit, at the height of its middle."""
    across = min(part.right, other.right) - max(part.left, other.left)
    height = ((part.top + part.bottom) / 2 - other.top) / other.height
    return part.width > 1.8 * part.height and across < 0.15 * part.width and 0.25 < height < 0.8


def _gap(one: Part, other: Part) -> float:
    """The distance of two boxes, in which a step aside counts as two up or down: a 5's bar is above it."""
    across = max(one.left - other.right, other.left - one.right, 0)
    down = max(one.top - other.bottom, other.top - one.bottom, 0)
    return float(np.hypot(2 * across, down))


def together(parts: list[Part]) -> Part:
    """The ink of several parts, at least one, as one."""
    left, top = min(part.left for part in parts), min(part.top for part in parts)
    right, bottom = max(part.right for part in parts), max(part.bottom for part in parts)
    mask = np.zeros((bottom - top, right - left), bool)
    for part in parts:
        mask[part.top - top : part.bottom - top, part.left - left : part.right - left] |= part.mask
    return Part(mask, left, top)


def _stacked(line: list[Part]) -> list[Part]:
    """A line in which parts one above the other are put together, such as the bar of a 5, and dashes left out."""
    highest = max(part.height for part in line)
    height = np.median([part.height for part in line if part.height > 0.5 * highest])
    found: list[Part] = []
    for part in line:
        for at, other in enumerate(found):
            across = min(part.right, other.right) - max(part.left, other.left)
            down = min(part.bottom, other.bottom) - max(part.top, other.top)
            above = across > 0.5 * min(part.width, other.width) and down < 0.4 * min(part.height, other.height)
            if above and part.height + other.height - down < 1.4 * height:
                found[at] = together([part, other])
                break
        else:
            found.append(part)
    return [part for part in found if part.height > 0.35 * height]


def _mended(parts: list[Part], height: float) -> list[Part]:
    """Parts in which halves of a digit, one close above the other, are one: else they would be in lines of their own,
    or too small for a digit.

    Args:
        height: of a digit, in pixels.
    """
    low = [part for part in parts if part.height < 0.7 * height]
    left, top, right, bottom = np.array([(p.left, p.top, p.right, p.bottom) for p in low], int).reshape(-1, 4).T
    width, depth = right - left, bottom - top
    across = np.minimum.outer(right, right) - np.maximum.outer(left, left)  # columns in common, of each two
    down = np.minimum.outer(bottom, bottom) - np.maximum.outer(top, top)
    halves = (across > 0.25 * np.minimum.outer(width, width)) & (-0.15 * height < down) & (down <= 0)
    bar = width > 2.5 * depth
    halves &= ~np.logical_and.outer(bar, bar)  # an equals sign
    lower, higher = np.minimum.outer(depth, depth), np.maximum.outer(depth, depth)
    in_row = ((down > 0.5 * lower) & (higher < 1.5 * lower) & (across > -height)).sum(1) > 1  # not by itself
    halves &= ~np.logical_and.outer(in_row, in_row)  # lines of small digits
    np.fill_diagonal(halves, True)
    group = np.arange(len(low))  # the first part that each hangs together with
    while (linked := np.where(halves, group, len(low)).min(1, initial=len(low))).tolist() != group.tolist():
        group = linked[linked]
    found = [part for part in parts if part.height >= 0.7 * height]
    for first in np.unique(group):
        pieces = [low[at] for at in np.flatnonzero(group == first)]
        whole = together(pieces)
        found += [whole] if 0.45 * height < whole.height < 1.2 * height else pieces
    return found


def too_many() -> ImageError:
    """What to raise where there is more than a page of digits has."""
    return ImageError("there are too many marks on it, as in print or noise: cut out the part that has digits")
