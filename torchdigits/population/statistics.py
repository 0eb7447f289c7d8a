"""How the results of many networks spread."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from torchdigits.population.members import Row


class Summary(NamedTuple):
    """How the networks that differ by their seeds alone did after an epoch, in test images recognised.

    Attributes:
        hidden, learning_rate, epoch: of which networks, and when.
        networks: how many have not diverged: those whose weights are all finite numbers.
        mean, deviation, lowest, quartiles, highest: of these, and of the sample; quartiles are interpolated linearly.
            None where there are too few.
        lost: how many of them lost a digit: recognise under half of its images.
        diverged: how many of all have diverged.
    """

    hidden: tuple[int, ...]
    learning_rate: float
    epoch: int
    networks: int
    mean: float | None
    deviation: float | None
    lowest: int | None
    quartiles: list[float] | None
    highest: int | None
    lost: int
    diverged: int


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """Of all networks, in the order of hidden layers, learning rates and epochs."""
    groups: dict[tuple[tuple[int, ...], float, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.member.hidden, row.member.learning_rate, row.epoch), []).append(row)
    return [_summary(*kind, group) for kind, group in sorted(groups.items())]


def _summary(hidden: tuple[int, ...], learning_rate: float, epoch: int, rows: Sequence[Row]) -> Summary:
    counts = [row.test_correct for row in rows if row.test_correct is not None]
    return Summary(
        hidden,
        learning_rate,
        epoch,
        networks=len(counts),
        mean=float(np.mean(counts)) if counts else None,
        deviation=float(np.std(counts, ddof=1)) if len(counts) > 1 else None,
        lowest=min(counts, default=None),
        quartiles=np.quantile(counts, (0.25, 0.5, 0.75)).tolist() if counts else None,
        highest=max(counts, default=None),
        lost=sum(row.test_correct is not None and row.lost_digits != "" for row in rows),
        diverged=len(rows) - len(counts),
    )
