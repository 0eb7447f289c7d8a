"""Plots of what a network answers, and of what its neurons look at."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from torchdigits.figures import (
    BLUE,
    ORANGE,
    any_letter,
    blue_to_orange,
    new_figure,
    save_figure,
    white_to_orange,
    write_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

MAX_NEURONS = 50  # in a figure; more would be too small to see


class Mistake(NamedTuple):
    """An image that was misread.

    Attributes:
        number: of the image in its split, from 0.
        pixels: `(784,)`, uint8.
        truth: its label.
        activations: the ten; the largest is the answer's.
    """

    number: int
    pixels: np.ndarray
    truth: int
    activations: Sequence[float]


def plot_confusion(counts: np.ndarray, title: str, path: Path) -> None:
    """Draw how often each digit is taken for each other, and save it at `path`.

    Only mistakes have colours: beside the many right answers they would all look alike.

    Args:
        counts: `(10, 10)`, integers; rows are the truth, columns the answers.
        title: whose answers, to what.
        path: the file to write.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(7, 6)
    axes = figure.subplots()
    mistakes = np.ma.masked_array(counts, np.eye(len(counts), dtype=bool))
    most = max(int(mistakes.max()), 1)
    picture = axes.imshow(mistakes, cmap=white_to_orange(), vmin=0, vmax=most)
    axes.set_facecolor("#d9d9d9")
    for (truth, answer), count in np.ndenumerate(counts):
        colour, weight = "#999999" if count == 0 else "black", "bold" if truth == answer else "normal"
        axes.text(answer, truth, f"{count:,}", ha="center", va="center", color=colour, weight=weight, fontsize=9)
    axes.set_xticks(range(len(counts)))
    axes.set_yticks(range(len(counts)))
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    axes.tick_params(length=0)
    figure.colorbar(picture, label="images misread", shrink=0.8, ticks=MaxNLocator(integer=True))
    save_figure(figure, title, path)


def plot_mistakes(mistakes: Sequence[Mistake], title: str, path: Path) -> None:
    """Draw images that were misread, each beside its ten activations, and save them at `path`.

    Args:
        mistakes: one or more.
        title: whose they are.
        path: the file to write.
    """
    columns = min(len(mistakes), 3)
    lines = -(-len(mistakes) // columns)
    figure = new_figure(max(3.1 * columns, 5), 1.6 * lines + 0.7)
    axes = figure.subplots()  # one, in pixels of the pictures: one for each of them would take seconds
    for place, mistake in enumerate(mistakes):
        top, left = place // columns * 37, place % columns * 72
        right, answer = left + 35, int(np.argmax(mistake.activations))  # the bars are right of the picture, and as high
        axes.imshow(
            mistake.pixels.reshape(28, 28), cmap="gray", vmin=0, vmax=255, extent=(left, left + 28, top + 28, top)
        )
        axes.text(left, top - 1.5, f"{mistake.truth} read as {answer}", fontsize=9)
        axes.text(right, top - 1.5, f"no. {mistake.number:,}", fontsize=9)
        for digit, activation in enumerate(mistake.activations):
            colour = {answer: ORANGE, mistake.truth: BLUE}.get(digit, "#777777")
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
    save_figure(figure, f"{title}\nBars: the ten activations, from 0 to 1; the truth's blue, the answer's orange", path)


def plot_pictures_of_weights(weights: np.ndarray, title: str, path: Path) -> None:
    """Draw the weights of each neuron of the first layer as a picture, and save them at `path`.

    Args:
        weights: `(neurons, 784)`.
        title: whose they are. If there are more than MAX_NEURONS, it is told which are shown.
        path: the file to write.
    """
    shown = weights[:MAX_NEURONS]
    columns = min(len(shown), 10)
    lines = -(-len(shown) // columns)
    height, width = 28 + 8, 28 + 2  # of a picture and the gap after it
    mosaic = np.full((lines * height, columns * width), np.nan)
    figure = new_figure(max(0.95 * columns + 0.9, 3.5), 1.12 * lines + 0.7)
    axes = figure.subplots()
    for number, picture in enumerate(shown):
        top, left = number // columns * height + 8, number % columns * width
        mosaic[top : top + 28, left : left + 28] = picture.reshape(28, 28)
        axes.text(left + 13.5, top - 1.5, str(number), ha="center", fontsize=9)
    image = axes.imshow(mosaic, interpolation="nearest", **_diverging(shown))
    axes.set_axis_off()
    figure.colorbar(image, label="weight", fraction=0.03, pad=0.02, extend="both")
    save_figure(figure, _limited(title, len(weights)), path)


def plot_output_weights(weights: np.ndarray, biases: np.ndarray, title: str, path: Path) -> None:
    """Draw the weights and the bias of each output, and save them at `path`.

    Args:
        weights: `(10, neurons)`.
        biases: `(10,)`.
        title: whose they are. If there are more than MAX_NEURONS, it is told which are shown.
        path: the file to write.
    """
    shown = weights[:, :MAX_NEURONS]
    neurons = shown.shape[1]
    figure = new_figure(max(0.21 * neurons + 2.2, 5), 3.6)
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
    save_figure(figure, _limited(title, weights.shape[1]), path)


class Mark(NamedTuple):
    """A digit on a page.

    Attributes:
        box: left, top, right and bottom, in pixels.
        answer: what the network answered.
        sure: whether that is sure.
    """

    box: tuple[float, ...]
    answer: str
    sure: bool


class Strip(NamedTuple):
    """A picture on its way to the network.

    Attributes:
        name: of the file.
        answer: what the network answered.
        steps: the picture after each step, by the step's name, as `preparation` gives them.
        marks: the digits on it, if it is a page; then there is one step.
    """

    name: str
    answer: str
    steps: Mapping[str, np.ndarray]
    marks: Sequence[Mark] = ()


def plot_preparation(strips: Sequence[Strip], path: Path) -> None:
    """Draw pictures after each step from what they were to what the network sees, or with their digits marked, a row
    each, and save them at `path`.

    Args:
        strips: one or more.
        path: the file to write.
    """
    columns = max(len(strip.steps) for strip in strips)
    width = 9 if any(strip.marks for strip in strips) else max(1.5 * columns, 5)
    heights = [_page_height(strip, width) if strip.marks else 2.1 for strip in strips]
    figure = new_figure(width, sum(heights), dpi=120)
    rows = figure.subfigures(len(strips), 1, squeeze=False, height_ratios=heights)[:, 0]
    with any_letter():
        for strip, row in zip(strips, rows, strict=True):
            _draw_title(row, strip.name, strip.answer)
            if strip.marks:
                _draw_page(row, strip)
                continue
            places = row.subplots(1, columns, squeeze=False)[0]
            for (step, picture), axes in zip(strip.steps.items(), places, strict=False):
                axes.imshow(picture, cmap="gray", interpolation="nearest", vmin=0, vmax=255 if picture.max() > 1 else 1)
                axes.set_xlabel(step, fontsize=9)
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_color("#bbbbbb")
            for axes in places[len(strip.steps) :]:
                axes.set_axis_off()
    write_figure(figure, path)


def _page_height(strip: Strip, width: float) -> float:
    """In inches, of a picture as wide as the figure, if that is not too high."""
    [grey] = strip.steps.values()
    return 0.5 + float(min(12, max(0.7, width * grey.shape[0] / grey.shape[1])))


def _draw_page(row: "SubFigure", strip: Strip) -> None:
    """Draw a picture with a box around each digit and the answer above it: blue, or orange where it is unsure."""
    [grey] = strip.steps.values()
    axes = row.subplots()
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()
    for (left, top, right, bottom), answer, sure in strip.marks:
        colour, height = BLUE if sure else ORANGE, bottom - top
        axes.plot((left, right, right, left, left), (top, top, bottom, bottom, top), color=colour, linewidth=0.8)
        size = min(12, max(4, 0.35 * height / grey.shape[1] * 9 * 72))
        text = answer if sure else f"{answer}?"
        axes.text(left, top - 0.05 * height, text, color=colour, fontsize=size, ha="left", va="bottom", clip_on=True)


def _draw_title(row: "SubFigure", name: str, answer: str) -> None:
    """Write the name and the answer above a row. A name too long for it loses its middle; the answer stays whole."""
    title = row.suptitle(f"{name}: {answer}", x=0.01, ha="left", fontsize=10, parse_math=False)
    kept = len(name)
    while kept > 2 and (excess := title.get_window_extent().x1 / row.bbox.x1) > 0.99:
        kept = min(kept - 1, int(kept / excess))
        title.set_text(f"{name[: kept - kept // 2]}\N{HORIZONTAL ELLIPSIS}{name[-(kept // 2) :]}: {answer}")


def _diverging(values: np.ndarray) -> dict[str, Any]:
    """Colours around 0. The largest hundredth of the values share the outermost colour."""
    largest = float(np.quantile(np.abs(values), 0.99))
    return {"cmap": blue_to_orange(), "vmin": -largest, "vmax": largest}


def _limited(title: str, neurons: int) -> str:
    return title if neurons <= MAX_NEURONS else f"{title}; the first {MAX_NEURONS} of {neurons:,} neurons"
