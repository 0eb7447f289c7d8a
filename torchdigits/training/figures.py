"""The learning curves of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torchdigits.figures import COLOURS, new_figure, open_grid, save_figure


def plot_learning_curves(rows: Sequence[Mapping[str, float]], title: str, path: Path) -> None:
    """Draw cost and accuracy against the epoch, and save them at `path`.

    Args:
        rows: of metrics.csv, an epoch each.
        title: what was trained, and how.
        path: the file to write.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(9, 4)
    epochs = [row["epoch"] for row in rows]
    best = max(rows, key=lambda row: row["validation_accuracy"])
    for axes, quantity in zip(figure.subplots(1, 2), ("cost", "accuracy"), strict=True):
        for split, colour in (("training", COLOURS[1]), ("validation", COLOURS[0])):
            values = [row[f"{split}_{quantity}"] for row in rows]
            axes.plot(epochs, values, color=colour, marker=".", markersize=5, linewidth=1.5, label=split)
        axes.axvline(best["epoch"], color="#666666", linewidth=1, linestyle=":")
        marked = best[f"validation_{quantity}"]
        label = f"best epoch: {best['epoch']:.0f}, {marked:{'.4f' if quantity == 'cost' else '.2%'}}"
        axes.plot(best["epoch"], marked, "o", color=COLOURS[2], fillstyle="none", markersize=9, label=label)
        axes.set_xlabel("epoch")
        axes.set_ylabel(quantity)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(0.5, epochs[-1] + 0.5)
        axes.margins(y=0.1)
        open_grid(axes)
        axes.legend(edgecolor="none", fontsize=9)
        if quantity == "accuracy":
            axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.6g}%")
    save_figure(figure, title, path)
