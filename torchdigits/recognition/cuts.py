"""Where ink that may be several digits can be cut: along seams from top to bottom that cross little of it."""

import numpy as np

_SLOPES = (0.0, 0.3, -0.3, 0.6, -0.6)  # of seams: columns to the right for each row down
_PAPER, _ASIDE = 0.02, 1.0  # what a seam costs, per pixel of paper, and beside its slope, where a pixel of ink costs 1
_SLOPING = 0.3  # what a slope costs, in widths of the pen
_LONGEST, _MOST = 3.6, 12  # cuts: widths of the pen that one may cross, and how many
_NARROWEST = 0.05  # of the shorter side of the ink: what is beside a cut
_SAME = 0.06  # of the ink: what is between two cuts that count as one, or beside one that cuts nothing


def cuts(mask: np.ndarray, pen: float) -> list[tuple[np.ndarray, float]]:
    """The best cuts through ink. Some may cross.

    For each of several slopes, the cheapest seam to each column of the last row is found as in seam carving (Avidan and
    Shamir, 2007).

    Args:
        mask: `(H, W)`, bool.
        pen: the width of a stroke, in pixels.

    Returns:
        Of each cut, the ink to the left of it, `(H, W)`, bool, and its length through ink, in widths of the pen; those
        with little to the left first.
    """
    seams = []
    for slope in _SLOPES:
        columns, inside = _sheared(mask, slope)
        costs, sources = _cheapest_seams(inside)
        costs += _SLOPING * pen * (slope != 0)
        seams += [(cost, slope, end, columns, sources) for end, cost in enumerate(costs.tolist())]
    seams = [seam for seam in seams if seam[0] <= _LONGEST * pen + 0.05 * len(mask)]
    found: list[tuple[np.ndarray, float]] = []
    ink, least = np.count_nonzero(mask), _NARROWEST * min(mask.shape)
    rows = np.arange(len(mask))
    for _, _, end, columns, sources in sorted(seams, key=lambda seam: seam[:3]):
        seam = columns[rows, _traced(sources, end)]
        left = mask & (np.arange(mask.shape[1]) <= seam[:, np.newaxis])
        taken = np.count_nonzero(left)
        differences = [np.count_nonzero(left ^ other) for other, _ in found]
        if min(taken, ink - taken, *differences) < _SAME * ink or min(_width(left), _width(mask & ~left)) <= least:
            continue
        within = (seam >= 0) & (seam < mask.shape[1])
        found.append((left, np.count_nonzero(mask[rows[within], seam[within]]) / pen))
        if len(found) == _MOST:
            break
    return sorted(found, key=lambda cut: np.count_nonzero(cut[0]))


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
    for row in range(1, len(mask)):
        across = np.cumsum(cost[row] + _ASIDE)  # to go to the right, from the first column
        back = across[-1] - np.r_[0, across[:-1]]  # to the left, from the last
        right, left = total - across, (total - back)[::-1]
        cheapest_right, cheapest_left = np.minimum.accumulate(right), np.minimum.accumulate(left)
        from_left = np.maximum.accumulate(np.where(right == cheapest_right, columns, 0))
        from_right = (width - 1 - np.maximum.accumulate(np.where(left == cheapest_left, columns, 0)))[::-1]
        by_left, by_right = cheapest_right + across, cheapest_left[::-1] + back
        sources[row] = np.where(by_right < by_left, from_right, from_left)
        total = np.minimum(by_left, by_right) + cost[row]
    return total, sources


def _traced(sources: np.ndarray, end: int) -> np.ndarray:
    """The column of a seam in each row."""
    seam = np.empty(len(sources), int)
    seam[-1] = end
    for row in range(len(sources) - 1, 0, -1):
        seam[row - 1] = sources[row, seam[row]]
    return seam


def _width(mask: np.ndarray) -> int:
    columns = np.flatnonzero(mask.any(0))
    return int(np.ptp(columns)) if columns.size else 0
