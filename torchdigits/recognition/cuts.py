"""Where ink that may be several digits can be cut: along seams from top to bottom that cross little of it."""

import numpy as np

_SLOPES = (0.0, 0.3, -0.3, 0.6, -0.6)  # of seams: columns to the right for each row down
_PAPER, _ASIDE = 0.02, 1.0  # what a seam costs, per pixel of paper, and beside its slope, where a pixel of ink costs 1
_SLOPING = 0.3  # what a slope costs, in widths of the pen
_LONGEST = 3.6  # cuts: widths of the pen that one may cross
_CUTS, _SAME = 6, 0.12  # for each digit: cuts; of its ink, what is between two that count as one, or beside one
_MOST = 60  # cuts in all
_NARROWEST = 0.05  # of the shorter side of the ink: what is beside a cut
_ROWS = 100  # pixels: ink twice as high, or more, is made smaller


def cuts(mask: np.ndarray, pen: float) -> list[tuple[np.ndarray, float]]:
    """The best cuts through ink. Some may cross.

    For each of several slopes, the cheapest seam to each column of the last row is found as in seam carving (Avidan and
    Shamir, 2007).

    Args:
        mask: `(H, W)`, bool.
        pen: the width of a stroke, in pixels.

    Returns:
        Of each cut, the ink to the left of it, `(H, W)`, bool, and its length through ink, in widths of the pen; about
        in the order of how much is to the left.
    """
    step = max(1, len(mask) // _ROWS)
    small, pen = _smaller(mask, step), pen / step
    seams: list[tuple[float, float, int, np.ndarray]] = []
    for slope in _SLOPES:
        columns, inside = _sheared(small, slope)
        costs, sources = _cheapest_seams(inside)
        costs += _SLOPING * pen * (slope != 0)
        cheap = np.flatnonzero(costs <= _LONGEST * pen + 0.05 * len(small))
        traced = np.take_along_axis(columns, _traced(sources, cheap), 1).T
        seams += [(float(costs[end]), slope, end, seam) for end, seam in zip(cheap.tolist(), traced, strict=True)]
    found = _different(small, [seam for *_, seam in sorted(seams, key=lambda seam: seam[:3])])
    rows, columns = np.arange(len(small)), np.arange(mask.shape[1])
    parted: list[tuple[np.ndarray, float]] = []
    for seam in found:
        within = (seam >= 0) & (seam < small.shape[1])
        last = step * (np.repeat(seam, step)[: len(mask), np.newaxis] + 1) - 1  # column of each row
        parted.append((mask & (columns <= last), float(np.count_nonzero(small[rows[within], seam[within]]) / pen)))
    return parted


def _different(mask: np.ndarray, seams: list[np.ndarray]) -> list[np.ndarray]:
    """The first seams `(H,)` that part the ink, each otherwise than those before, by how much is to the left."""
    ink, least = np.count_nonzero(mask), _NARROWEST * min(mask.shape)
    digits = max(2.0, mask.shape[1] / len(mask))  # as a digit is about as wide as high
    before = np.pad(mask.cumsum(1), ((0, 0), (1, 0)))  # ink in each row before each column
    rows, columns = np.arange(len(mask)), np.arange(mask.shape[1])
    found: list[np.ndarray] = []
    counts = np.zeros((0, len(mask)), int)  # ink to the left of each, in each row
    lefts = before[rows, (np.array(seams, int).reshape(-1, len(mask)) + 1).clip(0, mask.shape[1])]
    taken = lefts.sum(1)
    for at in np.flatnonzero(np.minimum(taken, ink - taken) >= _SAME * ink / digits).tolist():
        seam, count = seams[at], lefts[at]
        if np.abs(counts - count).sum(1).min(initial=ink) < _SAME * ink / digits:
            continue
        left = mask & (columns <= seam[:, np.newaxis])
        if min(_width(left), _width(mask & ~left)) > least:
            found.append(seam)
            counts = np.vstack([counts, count])
            if len(found) >= min(_CUTS * digits, _MOST):
                break
    return [found[at] for at in counts.sum(1).argsort(kind="stable")]


def _smaller(mask: np.ndarray, step: int) -> np.ndarray:
    """Ink, so many times as small: what has any is ink."""
    height, width = (-(-side // step) for side in mask.shape)
    padded = np.pad(mask, ((0, height * step - mask.shape[0]), (0, width * step - mask.shape[1])))
    return np.asarray(padded.reshape(height, step, width, step).any((1, 3)))


def _sheared(mask: np.ndarray, slope: float) -> tuple[np.ndarray, np.ndarray]:
    """Columns that follow a slope, with as many outside as it takes, `(H, W + ...)`; and the ink there."""
    height, width = mask.shape
    shift = np.round(slope * (np.arange(height) - height / 2)).astype(int)
    margin = int(np.abs(shift).max())
    columns = np.arange(-margin, width + margin) + shift[:, np.newaxis]
    within = (columns >= 0) & (columns < width)
    return columns, mask[np.arange(height)[:, np.newaxis], columns.clip(0, width - 1)] & within


def _cheapest_seams(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the cheapest seam to each column of the last row costs; and for each pixel, the column of the row above from
    which the cheapest seam to it comes, `(H, W)`."""
    cost = np.where(mask, 1.0, _PAPER)
    width = mask.shape[1]
    columns = np.arange(width)
    total, sources = cost[0], np.zeros(mask.shape, int)
    acrosses = (cost + _ASIDE).cumsum(1)  # to go to the right, from the first column
    backs = acrosses[:, -1:] - np.pad(acrosses[:, :-1], ((0, 0), (1, 0)))  # to the left, from the last
    for row in range(1, len(mask)):
        across, back = acrosses[row], backs[row]
        right, left = total - across, (total - back)[::-1]
        cheapest_right, cheapest_left = np.minimum.accumulate(right), np.minimum.accumulate(left)
        from_left = np.maximum.accumulate(np.where(right == cheapest_right, columns, 0))
        from_right = (width - 1 - np.maximum.accumulate(np.where(left == cheapest_left, columns, 0)))[::-1]
        by_left, by_right = cheapest_right + across, cheapest_left[::-1] + back
        sources[row] = np.where(by_right < by_left, from_right, from_left)
        total = np.minimum(by_left, by_right) + cost[row]
    return total, sources


def _traced(sources: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The columns of the seams that end in these columns `(N,)`, in each row, `(H, N)`."""
    seams = np.empty((len(sources), len(ends)), int)
    seams[-1] = ends
    for row in range(len(sources) - 1, 0, -1):
        seams[row - 1] = sources[row, seams[row]]
    return seams


def _width(mask: np.ndarray) -> int:
    columns = np.flatnonzero(mask.any(0))
    return int(np.ptp(columns)) if columns.size else 0
