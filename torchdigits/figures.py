"""Every plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of Okabe and Ito, told apart by the colour-blind too.
COLOURS = ("#0072b2", "#e69f00", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#000000")
LINE_STYLES = ("-", "--", ":", "-.")  # of the first seven lines, the next seven ...
MAX_NEURONS = 50  # in a figure; more would be too small to see


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


class Mistake(NamedTuple):
    """An image that was misread.

    Attributes:
        number: of the image in its split, from 0.
        pixels: `(784,)`, uint8.
        truth: its label.
        activations: the ten outputs, the largest of which is the answer.
    """

    number: int
    pixels: np.ndarray
    truth: int
    activations: Sequence[float]


class Spread(NamedTuple):
    """What many networks of one setting reached.

    Attributes:
        label: of the setting, such as "learning rate 0.3".
        accuracies: of the test images, in [0, 1], `(networks, epochs)`; there may be no network.
    """

    label: str
    accuracies: np.ndarray


def plot_growth(runs: Sequence[Growth], title: str, path: Path) -> None:
    """Draw the differences against the updates, on a logarithmic scale, and save them at `path`."""
    figure = _new_figure(8, 4.5)
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
    _open_grid(axes)
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=120)


def plot_learning_curves(rows: Sequence[Mapping[str, float]], title: str, path: Path) -> None:
    """Draw cost and accuracy against the epoch, and save them at `path`.

    Args:
        rows: of metrics.csv, an epoch each.
        title: what was trained, and how.
        path: the file to write.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = _new_figure(9, 4)
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
        _open_grid(axes)
        axes.legend(edgecolor="none", fontsize=9)
        if quantity == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1))
    _save(figure, title, path)


def plot_spreads(spreads: Sequence[Spread], title: str, path: Path) -> None:
    """Draw how the accuracies of each setting's networks lie about their median, epoch by epoch, and save it at `path`.

    Args:
        spreads: one or more settings, drawn over each other; beyond eight, they are not easily told apart.
        title: what was trained, and how; it comes to say what is drawn.
        path: the file to write.
    """
    from matplotlib.ticker import MaxNLocator

    figure = _new_figure(9, 5)
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
    _open_grid(axes)
    medians, _ = axes.get_legend_handles_labels()
    medians = [medians[number] for number in np.argsort(last)[::-1]]  # as they end, the highest first
    legend = axes.legend(handles=medians, loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=9)
    legend.set_title("median at the end")
    legend.set_alignment("left")
    drawn = f"the median (line), quartiles (band), lowest and highest (thin lines) of {networks}"
    _save(figure, f"{title}\nFor each setting: {drawn}", path)


def plot_strips(spreads: Sequence[Spread], title: str, path: Path) -> None:
    """Draw every network's accuracy after the last epoch, a strip of points for each setting, and save it at `path`.

    Args:
        spreads: one or more settings.
        title: what was trained, and how; it comes to say what is drawn.
        path: the file to write.
    """
    figure = _new_figure(max(1.35 * len(spreads) + 1, 5), 5)
    axes = figure.subplots()
    counts, networks = _counted(spreads)
    finals = [np.sort(spread.accuracies[:, -1:], axis=None) for spread in spreads]
    for strip, final in enumerate(finals):
        # Multiples of the golden ratio: networks alike in accuracy, neighbours in rank, lie far apart.
        places = strip - 0.1 + 0.66 * ((np.arange(len(final)) * (5**0.5 - 1) / 2 + 0.5) % 1 - 0.5)
        colour = COLOURS[strip % len(COLOURS)]
        axes.plot(places, final, "o", color=colour, markersize=4.5, markeredgecolor="white", markeredgewidth=0.5)
        if len(final):
            low, median, high = np.quantile(final, (0.25, 0.5, 0.75))
            # Beside the points, to hide none
            axes.hlines([low, median, high], strip + 0.3, strip + 0.44, color="black", linewidth=(0.8, 2.2, 0.8))
            axes.vlines(strip + 0.37, low, high, color="black", linewidth=0.8)
    labels = [fill(spread.label, 18) + count for spread, count in zip(spreads, counts, strict=True)]
    axes.set_xticks(range(len(spreads)), labels, fontsize=9)
    axes.set_xlim(-0.5, len(spreads) - 0.5)
    _scale_accuracies(axes, finals)
    _open_grid(axes)
    axes.grid(visible=False, axis="x")
    axes.tick_params(axis="x", length=0)
    drawn = f"{networks} after the last epoch (points), the median and quartiles (lines)"
    _save(figure, f"{title}\nFor each setting: {drawn}", path)


def plot_confusion(counts: np.ndarray, title: str, path: Path) -> None:
    """Draw how often which digit is taken for which, and save it at `path`.

    The colours are of the mistakes alone: beside the right answers they would all look alike.

    Args:
        counts: `(10, 10)`, integers; rows are the truth, columns the answers.
        title: whose answers, to what.
        path: the file to write.
    """
    from matplotlib.ticker import MaxNLocator

    figure = _new_figure(7, 6)
    axes = figure.subplots()
    mistakes = np.ma.masked_array(counts, np.eye(len(counts), dtype=bool))
    most = max(int(mistakes.max()), 1)
    picture = axes.imshow(mistakes, cmap="Oranges", vmin=0, vmax=most)
    axes.set_facecolor("#d9d9d9")
    for (truth, answer), count in np.ndenumerate(counts):
        right = truth == answer
        colour = "white" if not right and count > 0.7 * most else "#999999" if count == 0 else "black"
        weight = "bold" if right else "normal"
        axes.text(answer, truth, f"{count:,}", ha="center", va="center", color=colour, weight=weight, fontsize=9)
    axes.set_xticks(range(len(counts)))
    axes.set_yticks(range(len(counts)))
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    axes.tick_params(length=0)
    figure.colorbar(picture, label="images misread", shrink=0.8, ticks=MaxNLocator(integer=True))
    _save(figure, title, path)


def plot_mistakes(mistakes: Sequence[Mistake], title: str, path: Path) -> None:
    """Draw images that were misread, each beside the ten outputs, and save them at `path`.

    Args:
        mistakes: one or more.
        title: whose they are.
        path: the file to write.
    """
    columns = min(len(mistakes), 3)
    lines = -(-len(mistakes) // columns)
    figure = _new_figure(max(3.1 * columns, 5), 1.6 * lines + 0.7)
    axes = figure.subplots()  # one, in pixels of the pictures: one for each of them would take seconds
    for place, mistake in enumerate(mistakes):
        top, left = place // columns * 37, place % columns * 72
        right, answer = left + 35, int(np.argmax(mistake.activations))  # of the picture the bars, as high as it is
        axes.imshow(
            mistake.pixels.reshape(28, 28), cmap="gray", vmin=0, vmax=255, extent=(left, left + 28, top + 28, top)
        )
        axes.text(left, top - 1.5, f"{mistake.truth} read as {answer}", fontsize=9)
        axes.text(right, top - 1.5, f"no. {mistake.number:,}", fontsize=9)
        for digit, activation in enumerate(mistake.activations):
            colour = {answer: COLOURS[2], mistake.truth: COLOURS[0]}.get(digit, "#777777")
            middle = top + 2.8 * digit + 1.4
            axes.barh(middle, 28 * activation, 2.2, right, color=colour)
            weight = "normal" if digit not in (answer, mistake.truth) else "bold"
            axes.text(
                right - 1, middle, str(digit), ha="right", va="center_baseline", color=colour, weight=weight, fontsize=8
            )
        axes.vlines([right, right + 28], top, top + 28, color=["black", "#cccccc"], linewidth=0.8)
    axes.set_xlim(-1, columns * 72 - 8)
    axes.set_ylim(lines * 37 - 8, -8)
    axes.set_axis_off()
    _save(figure, f"{title}\nBars: the ten outputs, from 0 to 1; the truth's blue, the answer's vermilion", path)


def plot_pictures_of_weights(weights: np.ndarray, title: str, path: Path) -> None:
    """Draw the weights of each neuron of the first layer as a picture, and save them at `path`.

    Args:
        weights: `(neurons, 784)`.
        title: whose they are; where there are more than MAX_NEURONS, it comes to say which are shown.
        path: the file to write.
    """
    shown = weights[:MAX_NEURONS]
    columns = min(len(shown), 10)
    lines = -(-len(shown) // columns)
    height, width = 28 + 8, 28 + 2  # of a picture and what parts it from the next
    mosaic = np.full((lines * height, columns * width), np.nan)
    figure = _new_figure(max(0.95 * columns + 0.9, 3.5), 1.12 * lines + 0.7)
    axes = figure.subplots()
    for number, picture in enumerate(shown):
        top, left = number // columns * height + 8, number % columns * width
        mosaic[top : top + 28, left : left + 28] = picture.reshape(28, 28)
        axes.text(left + 13.5, top - 1.5, str(number), ha="center", fontsize=9)
    image = axes.imshow(mosaic, interpolation="nearest", **_diverging(shown))
    axes.set_axis_off()
    figure.colorbar(image, label="weight", fraction=0.03, pad=0.02, extend="both")
    _save(figure, _limited(title, len(weights)), path)


def plot_output_weights(weights: np.ndarray, biases: np.ndarray, title: str, path: Path) -> None:
    """Draw how each output uses the neurons before it, and its bias, and save them at `path`.

    Args:
        weights: `(10, neurons)`.
        biases: `(10,)`.
        title: whose they are; where there are more than MAX_NEURONS, it comes to say which are shown.
        path: the file to write.
    """
    shown = weights[:, :MAX_NEURONS]
    neurons = shown.shape[1]
    figure = _new_figure(max(0.21 * neurons + 2.2, 5), 3.6)
    left, right = figure.subplots(1, 2, width_ratios=[neurons, 1], sharey=True)
    colours = _diverging(np.column_stack([shown, biases]))
    picture = left.imshow(shown, aspect="auto", **colours)
    right.imshow(biases[:, np.newaxis], aspect="auto", **colours)
    left.set_xticks(range(neurons))
    right.set_xticks([0], ["bias"])
    left.set_yticks(range(10))
    left.set_xlabel("neuron")
    left.set_ylabel("output")
    for axes in (left, right):
        axes.tick_params(length=0, labelsize=8)
    figure.colorbar(picture, ax=[left, right], label="weight or bias", pad=0.02, extend="both")
    _save(figure, _limited(title, weights.shape[1]), path)


def plot_preparation(strips: Sequence[tuple[str, Mapping[str, np.ndarray]]], path: Path) -> None:
    """Draw pictures after each step from what they were to what the network sees, a row each, and save them at `path`.

    Args:
        strips: a row's title, and the pictures of `torchdigits.images.preparation` by the step's name.
        path: the file to write.
    """
    columns = max(len(steps) for _, steps in strips)
    figure = _new_figure(1.5 * columns, 1.9 * len(strips))
    for (title, steps), row in zip(strips, figure.subplots(len(strips), columns, squeeze=False), strict=True):
        row[0].set_title(title, loc="left", fontsize=10, parse_math=False)
        for (step, picture), axes in zip(steps.items(), row, strict=False):
            axes.imshow(picture, cmap="gray", interpolation="nearest", vmin=0, vmax=255 if picture.max() > 1 else 1)
            axes.set_xlabel(step, fontsize=9)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_color("#bbbbbb")
        for axes in row[len(steps) :]:
            axes.set_axis_off()
    figure.savefig(path, dpi=120)


def _new_figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # here, so that who draws nothing does not wait for Matplotlib

    return Figure(figsize=(width, height), layout="constrained")


def _open_grid(axes: "Axes") -> None:
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


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


def _diverging(values: np.ndarray) -> dict[str, Any]:
    """Colours around zero, which the colour-blind tell apart too; the largest hundredth shares the outermost."""
    largest = float(np.quantile(np.abs(values), 0.99))
    return {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}


def _limited(title: str, neurons: int) -> str:
    return title if neurons <= MAX_NEURONS else f"{title}; the first {MAX_NEURONS} of {neurons:,} neurons"


def _save(figure: "Figure", title: str, path: Path) -> None:
    """Save a figure under its title, which takes as many lines as it needs."""
    lines = [fill(line, int(figure.get_figwidth() * 12)) for line in title.splitlines()]
    # A path with dollar signs is no mathematics.
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10, parse_math=False)
    figure.savefig(path, dpi=100)
