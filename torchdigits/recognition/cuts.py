"""Where ink that may be several digits can be cut: along seams from top to bottom that cross little of it."""

import numpy as np

_PAPER, _ASIDE = 0.02, 1.0  # what a seam costs, per pixel of paper, and to the side, where a pixel of ink costs 1
_LONGEST, _MOST = 2.6, 7  # cuts: widths of the pen that one may cross, and how many
_NARROWEST = 0.05  # of the shorter side of the ink: a piece
_SAME = 0.03  # of the ink: what is between two cuts that count as one, or beside one that cuts nothing


def cut(mask: np.ndarray, pen: float) -> list[tuple[np.ndarray, float]]:
    """Cut ink into pieces.

    The cheapest seam to each column of the last row is found as in seam carving (Avidan and Shamir, 2007).

    Args:
        mask: `(H, W)`, bool.
        pen: the width of a stroke, in pixels.

    Returns:
        The pieces, each `(H, W)`, bool, from left to right, with the length of the cut before it, in widths of the pen.
    """
    seams: list[tuple[np.ndarray, float]] = []  # what is before each, and how much ink is on it
    ink = np.count_nonzero(mask)
    columns, least = np.arange(mask.shape[1]), _NARROWEST * min(mask.shape)
    costs, sources = _cheapest_seams(mask)
    for end in costs.argsort(kind="stable"):
        if costs[end] > _LONGEST * pen + 0.05 * len(mask) or len(seams) == _MOST:
            break
        seam = _traced(sources, end)
        before = mask & (columns <= seam[:, np.newaxis])
        if min(_width(before), _width(mask & ~before)) <= least:
            continue
        others, taken = [other for other, _ in seams], np.count_nonzero(before)
        if min(taken, ink - taken, *(np.count_nonzero(before ^ other) for other in others)) < _SAME * ink:
            continue
        if any((before & ~other).any() and (other & ~before).any() for other in others):  # they cross
            continue
        seams.append((before, np.count_nonzero(mask[np.arange(len(seam)), seam]) / pen))
    seams.sort(key=lambda seam: np.count_nonzero(seam[0]))
    starts = [(np.zeros_like(mask), 0.0), *seams]
    ends = [*(before for before, _ in seams), mask]
    return [(end & ~start, length) for (start, length), end in zip(starts, ends, strict=True)]


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
