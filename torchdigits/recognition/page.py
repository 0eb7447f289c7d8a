"""What may be digits on a page, line by line.

Ink is parted as in heuristic over-segmentation (LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to
document recognition", 1998, section VII): connected ink is a part; what may be several digits is cut into pieces; and
neighbouring pieces together are candidates. `recognizer.py` chooses among them.
"""

from typing import NamedTuple

import numpy as np

from torchdigits.errors import ImageError, NoInkError
from torchdigits.recognition.cuts import cuts
from torchdigits.recognition.ink import Ink, ink_of
from torchdigits.recognition.pixels import distance_inside, grown, parts_of, typical_length
from torchdigits.recognition.rules import without_rules
from torchdigits.recognition.shapes import distances, odds
from torchdigits.recognition.steps import Box, of_ink

_MOST_PARTS, _MOST_CANDIDATES = 1000, 3000
_SLOPES = np.linspace(-0.12, 0.12, 25)  # of lines of digits, as the tangent of their angle
_SMALL, _SMALL_ALONE = 2, 3  # widths of the pen: the height of digits that are much lower than most, and of one alone
_TRACED = 96  # pixels of the longer side of a candidate, for its strokes: there are many
_SEVERAL = 0.5  # odds of being several digits, as `shapes.odds` has them, from which on a part is cut
# In heights: how wide no piece is, as one in a hundred digits; and a part that is cut, whatever its odds.
_WIDE, _VERY_WIDE = 1.3, 2.0


class Candidate(NamedTuple):
    """Ink that may be a digit.

    Attributes:
        pixels: it as the network sees it, `(784,)`, uint8.
        box: of its ink on the grey picture.
        line, start, end: the pieces of the line that it takes.
        cost: how badly it fits into its line: too low, too narrow, too wide, cut through much ink.
        width: in heights of the line.
    """

    pixels: np.ndarray
    box: Box
    line: int
    start: int
    end: int
    cost: float
    width: float


class _Part(NamedTuple):
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


def candidates_on(grey: np.ndarray, several: float = _SEVERAL) -> list[Candidate]:
    """What may be digits on a grey picture: none, if there are only specks and spots.

    Args:
        grey: `(H, W)`, uint8.
        several: the odds, as `shapes.odds` has them, from which on a part is cut.

    Raises:
        NoInkError: nothing is written on it, or lines alone.
        ImageError: there is more than a page of digits has.
    """
    ink = ink_of(grey)
    mask = without_rules(ink)
    parts = _parts(mask, ink.pen)
    if not parts and np.count_nonzero(mask) < 0.5 * np.count_nonzero(ink.mask):
        raise NoInkError(
            "there is nothing on it but lines, or ink no darker than they: use a darker pen, or paper without lines"
        )
    found: list[Candidate] = []
    for number, line in enumerate(_lines(parts, ink.pen) if parts else []):
        found += _of_line(number, line, ink, several, _MOST_CANDIDATES - len(found))
    return found


def _too_many() -> ImageError:
    return ImageError("there are too many marks on it, as in print or noise: cut out the part that has digits")


# Parts


def _parts(mask: np.ndarray, pen: float) -> list[_Part]:
    """Connected ink that may be a digit or a piece of one: without specks, spots, and what comes in from outside."""
    ink = parts_of(mask)
    large = ink.areas >= max(4, 0.4 * pen**2)
    large &= ink.lengths > max(1.5 * pen, 0.12 * typical_length(ink.lengths[large], ink.areas[large]))
    if np.count_nonzero(large) > _MOST_PARTS:
        raise _too_many()
    parts = [_Part(ink.own(int(at)), int(ink.boxes[at, 0]), int(ink.boxes[at, 1])) for at in np.flatnonzero(large)]
    if len(parts) > 1:
        typical = typical_length(ink.lengths[large], ink.areas[large])
        parts = [part for part in parts if not _comes_from_outside(part, mask.shape, typical)]
    return [part for part in parts if not _is_spot(part)]


def _comes_from_outside(part: _Part, shape: tuple[int, ...], typical: float) -> bool:
    """Whether it touches the picture's edge, and is as no other part is."""
    at_edge = part.left == 0 or part.top == 0 or part.right == shape[1] or part.bottom == shape[0]
    return at_edge and not 0.5 * typical < part.longest < 2.2 * typical


def _is_spot(part: _Part) -> bool:
    """Whether it is almost as thick as long: a blot, or a hole."""
    if part.mask.mean() < 0.55 or not 0.4 < part.width / part.height < 2.5:
        return False
    filled = np.pad(part.mask, 1)
    stroke = 4 * (distance_inside(filled)[filled] - 0.5).mean()
    return bool(part.longest < 2.3 * stroke)


# Lines


def _lines(parts: list[_Part], pen: float) -> list[list[_Part]]:
    """The lines, from top to bottom, of the digits, from left to right, each of which may have several parts.

    Digits less than half as high as most have lines of their own, unless they are near to others: then they are pieces.
    """
    typical = np.median([part.longest for part in parts])
    high = [part for part in parts if part.height > 0.45 * typical] or parts
    slope = _slope(high)
    lines: list[list[_Part]] = []
    for part in sorted(high, key=lambda part: part.level(slope)):
        if lines:
            before = lines[-1][-5:]
            level, height = (np.mean([p.level(slope) for p in before]), np.median([p.height for p in before]))
            if part.level(slope) - level < 0.5 * max(height, 0.8 * part.height):
                lines[-1].append(part)
                continue
        lines.append([part])
    apart = []
    for part in (part for part in parts if not any(part is other for other in high)):
        line, at = min(((line, at) for line in lines for at in range(len(line))), key=lambda p: _gap(part, p[0][p[1]]))
        if _gap(part, line[at]) < 0.4 * line[at].height:
            line[at] = _together([line[at], part])
        elif part.height > _SMALL * pen:
            apart.append(part)
    found = [_stacked(sorted(line, key=lambda part: part.left)) for line in lines]
    if apart:
        found += [line for line in _lines(apart, pen) if len(line) > 1 or line[0].height > _SMALL_ALONE * pen]
    return sorted(found, key=lambda line: np.mean([part.level(slope) for part in line]))


def _slope(parts: list[_Part]) -> float:
    """The slope along which most parts lie level with others."""
    some = parts[:: max(1, len(parts) // 400)]
    middles = np.array([(part.left + part.right, part.top + part.bottom) for part in some]) / 2
    reach = 0.25 * np.median([part.height for part in some])
    scores = []
    for slope in _SLOPES:
        level = middles[:, 1] - slope * middles[:, 0]
        scores.append(np.exp(-(((level[:, np.newaxis] - level) / reach) ** 2)).sum() * (1 - abs(slope)))
    return float(_SLOPES[int(np.argmax(scores))])


def _gap(one: _Part, other: _Part) -> float:
    """The distance of two boxes, in which a step aside counts as two up or down: a 5's bar is above it."""
    across = max(one.left - other.right, other.left - one.right, 0)
    down = max(one.top - other.bottom, other.top - one.bottom, 0)
    return float(np.hypot(2 * across, down))


def _together(parts: list[_Part]) -> _Part:
    left, top = min(part.left for part in parts), min(part.top for part in parts)
    right, bottom = max(part.right for part in parts), max(part.bottom for part in parts)
    mask = np.zeros((bottom - top, right - left), bool)
    for part in parts:
        mask[part.top - top : part.bottom - top, part.left - left : part.right - left] |= part.mask
    return _Part(mask, left, top)


def _stacked(line: list[_Part]) -> list[_Part]:
    """A line in which parts one above the other are put together, such as the bar of a 5, and dashes left out."""
    height = np.median([part.height for part in line if part.height > 0.5 * max(p.height for p in line)])
    found: list[_Part] = []
    for part in line:
        for at, other in enumerate(found):
            both = _together([part, other])
            across, down = part.width + other.width - both.width, part.height + other.height - both.height
            above = across > 0.5 * min(part.width, other.width) and down < 0.4 * min(part.height, other.height)
            if above and both.height < 1.4 * height:
                found[at] = both
                break
        else:
            found.append(part)
    return [part for part in found if part.height > 0.35 * height]


# Candidates


class _Line(NamedTuple):
    """A line of digits.

    Attributes:
        number: which, from 0.
        height: of its digits, in pixels.
        ink: of the page.
    """

    number: int
    height: float
    ink: Ink

    def candidate(self, part: _Part, start: int, end: int, cuts: float = 0) -> Candidate:
        """A part as a digit, which takes some pieces of the line, and what the cuts at its sides cost."""
        pixels = [*of_ink(_strength(part, self.ink), _TRACED).values()][-1].reshape(784)
        width, aspect = part.width / self.height, part.width / part.height
        fit = max(0, aspect - 1) + 2 * max(0, 0.75 - part.height / self.height) + max(0, 0.35 - width)
        box = (part.left, part.top, part.right, part.bottom)
        return Candidate(pixels, box, self.number, start, end, 20 * fit + cuts, width)


def _of_line(number: int, parts: list[_Part], ink: Ink, several: float, most: int) -> list[Candidate]:
    """The candidates of a line: its parts, what is between their cuts, and pairs of parts that are close."""
    line = _Line(number, float(np.median([part.height for part in parts])), ink)
    found: list[Candidate] = []
    before: _Part | None = None
    start = end = 0  # the pieces of the part before
    for part in parts:
        whole = line.candidate(part, end, end + 1)
        cutting = _odds(whole) >= several or part.width > _VERY_WIDE * part.height
        found += (_pieces(part, end, line) if cutting else []) or [whole]
        begin, start, end = start, end, max(candidate.end for candidate in found)
        if before and part.left - before.right < 0.12 * line.height:
            both = _together([before, part])
            if both.width < 1.05 * line.height:
                found.append(line.candidate(both, begin, end))
        if len(found) > most:
            raise _too_many()
        before = part
    return found


def _odds(candidate: Candidate) -> float:
    """How much likelier several digits are than one."""
    image = candidate.pixels[np.newaxis]
    return float(odds(image, distances(image))[0, 1])


def _pieces(part: _Part, start: int, line: _Line) -> list[Candidate]:
    """What is between two cuts of a part, which begins with piece `start`; nothing if it cannot be cut."""
    between = cuts(part.mask, line.ink.pen)
    if not between:
        return []
    ends = [(np.zeros_like(part.mask), 0.0), *between, (part.mask, 0.0)]
    counts = [mask.sum(1) for mask, _ in ends]  # ink in each row
    found = []
    for first, (outside, length) in enumerate(ends):
        for last, (inside, other) in enumerate(ends[first + 1 :], first + 1):
            if (counts[first] > counts[last]).any():  # the cuts cross
                continue
            run = _cropped(inside & ~outside, part)
            whole = last - first == len(ends) - 1
            if whole or (run.height >= 0.4 * part.height and run.width <= _WIDE * part.height):
                found.append(line.candidate(run, start + first, start + last, 0.5 * (length + other)))
    return found


def _cropped(mask: np.ndarray, part: _Part) -> _Part:
    """Some of a part, in its own box."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    own = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return _Part(own, part.left + int(columns[0]), part.top + int(rows[0]))


def _strength(part: _Part, ink: Ink) -> np.ndarray:
    """The ink of a part with its soft edges, `(H, W)`, float32, 0 to 1, and nothing of what is near it."""
    margin = max(1, round(0.25 * ink.pen))
    mask = np.pad(part.mask, margin)
    depth, width = ink.strength.shape
    rows, columns = (
        np.arange(part.top - margin, part.bottom + margin),
        np.arange(part.left - margin, part.right + margin),
    )
    strength = ink.strength[np.ix_(rows.clip(0, depth - 1), columns.clip(0, width - 1))]
    full = max(float(np.percentile(strength[mask], 75)), 1e-6)
    return np.asarray(np.clip(strength / full, 0, 1) * grown(mask, margin), np.float32)
