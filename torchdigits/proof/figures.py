"""How two runs that begin as one move apart, drawn."""

from pathlib import Path
from typing import TYPE_CHECKING

from torchdigits.figures import COLOURS, new_figure, open_grid, save_figure

if TYPE_CHECKING:
    from torchdigits.proof.free_run import Growth


def plot_growth(runs: "list[tuple[str, Growth]]", title: str, path: Path) -> None:
    """Draw the differences of runs, each with its label, against the updates; the path's suffix is the format."""
    figure = new_figure(8, 4.5)
    axes = figure.subplots()
    for number, (label, run) in enumerate(runs):
        colour = COLOURS[number % len(COLOURS)]
        axes.semilogy(run.updates, run.differences, color=colour, linewidth=1.8, label=label)
        axes.semilogy(run.updates, run.mirrored, color=colour, linewidth=1, linestyle=":")
    axes.plot([], [], color="#666666", linewidth=1, linestyle=":", label="dotted: NumPy from its mirror image")
    axes.set_xlabel("updates")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylabel("largest relative difference\nof a weight matrix or bias vector")
    axes.set_xlim(0)
    axes.set_ylim(1e-17, max(1e-12, axes.get_ylim()[1]))  # from below float64's rounding on, several labelled decades
    open_grid(axes)
    axes.legend(frameon=False, fontsize=9)
    save_figure(figure, title, path)
