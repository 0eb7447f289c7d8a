"""Every plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# Of Okabe and Ito, told apart by the colour-blind too.
COLOURS = ("#0072b2", "#e69f00", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#000000")


class Growth(NamedTuple):
    """How two runs part that begin as one.

    Attributes:
        label: of the run.
        updates: after which the differences were taken, `(N,)`.
        differences: the largest relative difference of a weight tensor, torch from NumPy, `(N,)`.
        mirrored: NumPy from its own mirror image, `(N,)`.
    """

    label: str
    updates: Sequence[int]
    differences: Sequence[float]
    mirrored: Sequence[float]


def plot_growth(runs: Sequence[Growth], title: str, path: Path) -> None:
    """Draw the differences against the updates, on a logarithmic scale, and save them at `path`."""
    from matplotlib.figure import Figure  # here, so that who only keeps a curve does not wait for Matplotlib

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, run in enumerate(runs):
        colour = COLOURS[number % len(COLOURS)]
        axes.semilogy(run.updates, run.differences, color=colour, linewidth=1.8, label=run.label)
        axes.semilogy(run.updates, run.mirrored, color=colour, linewidth=1, linestyle=":")
    axes.plot([], [], color="#666666", linewidth=1, linestyle=":", label="NumPy from its own mirror image")
    axes.set_xlabel("updates")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylabel("largest relative difference\nof a weight matrix or bias vector")
    axes.set_xlim(0)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=120)
