"""What may be digits on a page, line by line.

Ink is parted as in heuristic over-segmentation (LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to
document recognition", 1998, section VII): connected ink is a part; what may be several digits is cut into pieces; and
neighbouring pieces together are candidates. `recognizer.py` chooses among them.
"""

from typing import NamedTuple

import numpy as np

from torchdigits.errors import NoInkError
from torchdigits.recognition.cuts import cuts
from torchdigits.recognition.ink import Ink, ink_of
from torchdigits.recognition.lines import Part, lines_of, parts_on, together, too_many
from torchdigits.recognition.pixels import grown, quantile
from torchdigits.recognition.rules import without_rules
from torchdigits.recognition.shapes import likeness
from torchdigits.recognition.steps import Box, of_ink

_MOST_CANDIDATES = 3000
_TRACED = 96  # pixels of the longer side of a candidate, for its strokes: there are many
# Odds of being several digits, as `shapes.likeness` has them, from which on a part is cut: one of several on a picture,
# most of which are single digits; and one that is all of it.
_SEVERAL, SEVERAL_ALONE = 1.5, -0.5
_CUT = 5.0  # what a cut costs beside the ink that it crosses, where most parts are taken for one digit
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


def candidates_on(grey: np.ndarray, several: float | None = None) -> list[Candidate]:
    """What may be digits on a grey picture: none, if there are only specks and spots.

    Args:
        grey: `(H, W)`, uint8.
        several: the odds, as `shapes.likeness` has them, from which on a part is cut; one much wider than high is in
            any case. Default: 1.5, or -0.5 if it is the only part.

    Raises:
        NoInkError: nothing is written on it, or lines alone.
        ImageError: there is more than a page of digits has.
    """
    ink = ink_of(grey)
    mask = without_rules(ink)
    parts = parts_on(mask, ink.pen)
    if not parts and np.count_nonzero(mask) < 0.5 * np.count_nonzero(ink.mask):
        raise NoInkError(
            "there is nothing on it but lines, or ink no darker than they: use a darker pen, or paper without lines"
        )
    lines = lines_of(parts, ink.pen) if parts else []
    if several is None:
        several = SEVERAL_ALONE if sum(map(len, lines)) == 1 else _SEVERAL
    within = [_Line(number, float(np.median([part.height for part in line])), ink) for number, line in enumerate(lines)]
    wholes = [[_Whole.of(part, at, several) for part in line] for at, line in zip(within, lines, strict=True)]
    cutting = [whole.cutting for line in wholes for whole in line]
    cut = _CUT if 2 * sum(cutting) < len(cutting) else 0.0
    found: list[Candidate] = []
    for at, line in zip(within, wholes, strict=True):
        found += _of_line(at._replace(cut=cut), line, _MOST_CANDIDATES - len(found))
    return found


class _Line(NamedTuple):
    """A line of digits.

    Attributes:
        number: which, from 0.
        height: of its digits, in pixels.
        ink: of the page.
        cut: what a cut costs beside the ink that it crosses.
    """

    number: int
    height: float
    ink: Ink
    cut: float = 0.0

    def candidate(self, part: Part, start: int, end: int, cuts: float = 0) -> Candidate:
        """A part as a digit, which takes some pieces of the line, and what the cuts at its sides cost."""
        pixels = [*of_ink(_strength(part, self.ink), _TRACED).values()][-1].reshape(784)
        width, aspect = part.width / self.height, part.width / part.height
        fit = max(0, aspect - 1) + 2 * max(0, 0.75 - part.height / self.height) + max(0, 0.35 - width)
        box = (part.left, part.top, part.right, part.bottom)
        return Candidate(pixels, box, self.number, start, end, 20 * fit + cuts, width)


class _Whole(NamedTuple):
    """A part of a line, as one digit.

    Attributes:
        part: it.
        candidate: it, as if it were the first of its line.
        cutting: whether it may be several, and is cut.
    """

    part: Part
    candidate: Candidate
    cutting: bool

    @classmethod
    def of(cls, part: Part, line: _Line, several: float) -> "_Whole":
        """It, cut if the odds of being several are as large."""
        candidate = line.candidate(part, 0, 1)
        return cls(part, candidate, _odds(candidate) >= several or part.width > _VERY_WIDE * part.height)


def _of_line(line: _Line, wholes: list[_Whole], most: int) -> list[Candidate]:
    """The candidates of a line: its parts, what is between their cuts, and pairs of parts that are close."""
    found: list[Candidate] = []
    before: Part | None = None
    start = end = 0  # the pieces of the part before
    for part, whole, cutting in wholes:
        found += (_pieces(part, end, line) if cutting else []) or [whole._replace(start=end, end=end + 1)]
        begin, start, end = start, end, max(candidate.end for candidate in found)
        if before and part.left - before.right < 0.12 * line.height:
            both = together([before, part])
            if both.width < 1.05 * line.height:
                found.append(line.candidate(both, begin, end))
        if len(found) > most:
            raise too_many()
        before = part
    return found


def _odds(candidate: Candidate) -> float:
    """How much likelier several digits are than one."""
    return float(likeness(candidate.pixels[np.newaxis])[1][0, 1])


def _pieces(part: Part, start: int, line: _Line) -> list[Candidate]:
    """What is between two cuts of a part, which begins with piece `start`; nothing if it cannot be cut."""
    between = [(left, length + line.cut) for left, length in cuts(part.mask, line.ink.pen)]
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


def _cropped(mask: np.ndarray, part: Part) -> Part:
    """Some of a part, in its own box."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    own = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Part(own, part.left + int(columns[0]), part.top + int(rows[0]))


def _strength(part: Part, ink: Ink) -> np.ndarray:
    """The ink of a part with its soft edges, `(H, W)`, float32, 0 to 1, and nothing of what is near it."""
    margin = max(1, round(0.25 * ink.pen))
    mask = np.pad(part.mask, margin)
    depth, width = ink.strength.shape
    rows, columns = (
        np.arange(part.top - margin, part.bottom + margin),
        np.arange(part.left - margin, part.right + margin),
    )
    strength = ink.strength[np.ix_(rows.clip(0, depth - 1), columns.clip(0, width - 1))]
    full = max(quantile(strength[mask], 0.75), 1e-6)
    return np.asarray(np.clip(strength / full, 0, 1) * grown(mask, margin), np.float32)
