"""Plots of how many networks' accuracies spread."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from torchdigits.figures import COLOURS, LINE_STYLES, new_figure, open_grid, save_figure
from torchdigits.population.members import Row, in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Spread(NamedTuple):
    """What many networks of one setting reached.

    Attributes:
        label: of the setting, such as "learning rate 0.3".
        accuracies: of the test images, in [0, 1], `(networks, epochs)`; there may be no network.
        lost: places of the networks that lack a digit after the last epoch.
    """

    label: str
    accuracies: np.ndarray
    lost: Sequence[int] = ()


def draw_sweep(rows: Sequence[Row], images: int, what: str, folder: Path) -> None:
    """Draw the accuracies of all networks that have not diverged: accuracy.png by epoch, final.png after the last.

    Args:
        rows: of all networks, those of a network in the order of its epochs.
        images: number of test images.
        what: what else the title says, such as the dataset.
        folder: where to save the figures.
    """
    settings: dict[tuple[tuple[int, ...], float], dict[int, list[Row]]] = {}
    for row in rows:
        settings.setdefault(row.member[:2], {}).setdefault(row.member.seed, []).append(row)
    several_layers, several_rates = (len(set(values)) > 1 for values in zip(*settings, strict=True))
    spreads = []
    for (hidden, rate), networks in sorted(settings.items()):
        names = in_words(hidden), f"learning rate {rate:g}"
        label = ", ".join([names[0]] * several_layers + [names[1]] * several_rates) or "all"
        sound = [each for each in networks.values() if all(row.test_correct is not None for row in each)]
        shares = [[(row.test_correct or 0) / images for row in each] for each in sound]
        accuracies = np.reshape(shares, (len(sound), rows[-1].epoch))
        spreads.append(Spread(label, accuracies, [place for place, each in enumerate(sound) if each[-1].lost_digits]))
    title = ", ".join([names[0]] * (not several_layers) + [names[1]] * (not several_rates) + [what])
    plot_spreads(spreads, title, folder / "accuracy.png")
    plot_strips(spreads, title, folder / "final.png")


def plot_spreads(spreads: Sequence[Spread], title: str, path: Path) -> None:
    """Draw how the accuracies of each setting's networks lie about their median, epoch by epoch, and save it at `path`.

    Args:
        spreads: one or more settings, drawn over each other; beyond eight, they are not easily told apart.
        title: what was trained, and how. What is drawn is added.
        path: the file to write.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(9, 5)
    axes = figure.subplots()
    counts, networks = _counted(spreads)
    last: list[float] = []  # medians
    for number, (spread, count) in enumerate(zip(spreads, counts, strict=True)):
        label = fill(spread.label, 26) + count
        colour, style = COLOURS[number % len(COLOURS)], LINE_STYLES[number // len(COLOURS) % len(LINE_STYLES)]
        if len(spread.accuracies) == 0:
            axes.plot([], [], color=colour, linestyle=style, linewidth=1.8, label=label)
            last.append(-1)
            continue
        quantiles = np.quantile(spread.accuracies, (0, 0.25, 0.5, 0.75, 1), axis=0)
        epochs = np.arange(1.0, quantiles.shape[1] + 1)
        if len(epochs) == 1:  # a line and a band of one epoch would have no length
            epochs, quantiles = np.array([0.75, 1.25]), np.repeat(quantiles, 2, axis=1)
        lowest, low, median, high, highest = quantiles
        last.append(median[-1])
        label = f"{median[-1]:.2%}  {label}"
        axes.plot(epochs, median, color=colour, linestyle=style, linewidth=1.8, label=label)
        axes.fill_between(epochs, low, high, color=colour, alpha=0.25, linewidth=0)
        # Thin lines, because the bands of all would add up to grey.
        for extreme in (lowest, highest):
            axes.plot(epochs, extreme, color=colour, linestyle=style, linewidth=0.7, alpha=0.7)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(0.5, max(1, *(spread.accuracies.shape[1] for spread in spreads)) + 0.5)
    _scale_accuracies(axes, [spread.accuracies for spread in spreads])
    open_grid(axes)
    medians, _ = axes.get_legend_handles_labels()
    medians = [medians[number] for number in np.argsort(last)[::-1]]  # as they end, the highest first
    legend = axes.legend(handles=medians, loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=9)
    legend.set_title("median at the end")
    legend.set_alignment("left")
    drawn = f"the median (line), quartiles (band), lowest and highest (thin lines) of {networks}"
    save_figure(figure, f"{title}\nFor each setting: {drawn}", path)


def plot_strips(spreads: Sequence[Spread], title: str, path: Path) -> None:
    """Draw every network's accuracy after the last epoch, a strip of points for each setting, and save it at `path`.

    Args:
        spreads: one or more settings.
        title: what was trained, and how. What is drawn is added.
        path: the file to write.
    """
    figure = new_figure(max(1.35 * len(spreads) + 1, 5), 5)
    axes = figure.subplots()
    counts, networks = _counted(spreads)
    orders = [np.argsort(spread.accuracies[:, -1]) for spread in spreads]
    finals = [spread.accuracies[order, -1] for spread, order in zip(spreads, orders, strict=True)]
    for strip, (spread, order, final) in enumerate(zip(spreads, orders, finals, strict=True)):
        # Multiples of the golden ratio: networks alike in accuracy, neighbours in rank, lie far apart.
        places = strip - 0.1 + 0.66 * ((np.arange(len(final)) * (5**0.5 - 1) / 2 + 0.5) % 1 - 0.5)
        colour, lost = COLOURS[strip % len(COLOURS)], np.isin(order, spread.lost)
        axes.plot(places[~lost], final[~lost], "o", color=colour, markersize=4.5, markeredgecolor="white", mew=0.5)
        axes.plot(places[lost], final[lost], "o", color=colour, markersize=4, fillstyle="none")
        if len(final):
            low, median, high = np.quantile(final, (0.25, 0.5, 0.75))
            # Beside the points, to hide none
            axes.hlines([low, median, high], strip + 0.3, strip + 0.44, color="black", linewidth=(0.8, 2.2, 0.8))
            axes.vlines(strip + 0.37, low, high, color="black", linewidth=0.8)
    labels = [fill(spread.label, 18) + count for spread, count in zip(spreads, counts, strict=True)]
    axes.set_xticks(range(len(spreads)), labels, fontsize=9)
    axes.set_xlim(-0.5, len(spreads) - 0.5)
    _scale_accuracies(axes, finals)
    open_grid(axes)
    axes.grid(visible=False, axis="x")
    axes.tick_params(axis="x", length=0)
    hollow = ", hollow if they have lost a digit" if any(spread.lost for spread in spreads) else ""
    drawn = f"{networks} after the last epoch (points{hollow}), the median and quartiles (lines)"
    save_figure(figure, f"{title}\nFor each setting: {drawn}", path)


def _counted(spreads: Sequence[Spread]) -> tuple[list[str], str]:
    """What says how many networks there are: the ends of the settings' labels, and the title's words.

    The title does, where it is the same for all.
    """
    counts = [len(spread.accuracies) for spread in spreads]
    words = ["no network" if count == 0 else "1 network" if count == 1 else f"{count:,} networks" for count in counts]
    if counts[0] > 0 and len(set(counts)) == 1:
        return [""] * len(counts), words[0]
    return [f"\n{word}" for word in words], "its networks"


def _scale_accuracies(axes: "Axes", accuracies: Sequence[np.ndarray]) -> None:
    """Scale `axes`, for all of the accuracies, by the logarithm of the error rate.

    So 90 and 95% lie as far apart as 60 and 80%, or 0 and 50%. A thousandth more keeps 100% within reach.
    """
    from matplotlib.ticker import MaxNLocator

    def up(accuracy: np.ndarray) -> np.ndarray:
        return -np.log10(1.001 - accuracy)

    def down(height: np.ndarray) -> np.ndarray:
        return 1.001 - 10**-height

    every = np.concatenate([np.ravel(array) for array in accuracies])
    heights = up(np.array([every.min(), every.max()]) if len(every) else np.array([0.0, 1.0]))
    margin = max(0.04 * np.ptp(heights), 0.01)
    low, high = down(heights + np.array([-margin, margin]))
    if np.ptp(heights) < np.log10(5):
        ticks = np.asarray(MaxNLocator(9, steps=[1, 2, 5, 10]).tick_values(low, high))
    else:  # steps of one size would crowd at the bottom
        rates = [1, 0.7, 0.5, 0.4, 0.3, 0.2, 0.15] if np.ptp(heights) < 2 else [1, 0.5, 0.2]
        ticks = 1 - np.append(np.outer([1, 0.1, 0.01], rates), [0.001, 0])
    ticks = ticks[(ticks >= max(low, 0)) & (ticks <= min(high, 1))]
    axes.set_yscale("function", functions=(up, down))
    axes.set_ylim(low, high)
    axes.set_yticks(ticks, [f"{100 * tick:.6g}%" for tick in ticks])
    axes.set_ylabel("accuracy (scale: logarithm of the error rate)")
