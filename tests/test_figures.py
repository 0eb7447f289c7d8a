from collections.abc import Callable
from itertools import pairwise
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from torchdigits.figures import COLOURS
from torchdigits.population.figures import Spread, plot_spreads, plot_strips
from torchdigits.proof.figures import plot_growth
from torchdigits.proof.free_run import Growth
from torchdigits.recognition.figures import (
    Mistake,
    plot_confusion,
    plot_mistakes,
    plot_output_weights,
    plot_pictures_of_weights,
)
from torchdigits.training.figures import plot_learning_curves

TITLE = "What it is\n784-30-10, " + "a/rather/long/path/" * 8 + "with $dollars_$ in/it.ckpt"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "figure.png"


def rows_of(validation_accuracies: list[float]) -> list[dict[str, float]]:
    return [
        {"epoch": epoch, "training_cost": 1 / epoch, "validation_cost": 2 / epoch, "training_accuracy": 0.5}
        | {"validation_accuracy": accuracy}
        for epoch, accuracy in enumerate(validation_accuracies, 1)
    ]


def shuffled(values: list[list[float]]) -> np.ndarray:
    """Epochs of networks in disorder, as networks of epochs."""
    rng = np.random.default_rng(0)
    return np.column_stack([rng.permutation(epoch) for epoch in values])


def data(line: Line2D) -> np.ndarray:
    """Its points, `(points, 2)`."""
    return np.column_stack([np.ravel(line.get_xdata()), np.ravel(line.get_ydata())])


def heights(axes: Axes, accuracies: list[float]) -> np.ndarray:
    """From 0 at the lower end of the axis to 1 at the upper."""
    pixels = axes.transData.transform([(1, accuracy) for accuracy in accuracies])
    return np.asarray(axes.transAxes.inverted().transform(pixels))[:, 1]


def test_learning_curves_are_those_of_the_rows_and_mark_the_best_epoch(path: Path, drawn: list[Figure]) -> None:
    rows = rows_of([0.5, 0.875, 0.75, 0.875])
    plot_learning_curves(rows, TITLE, path)
    for axes, quantity, value in zip(drawn[0].axes, ("cost", "accuracy"), ("1.0000", "87.50%"), strict=True):
        training, validation, vertical, best = axes.lines
        assert axes.get_ylabel() == quantity
        for line, split in ((training, "training"), (validation, "validation")):
            assert line.get_label() == split
            assert list(np.ravel(line.get_xdata())) == [1, 2, 3, 4]
            assert list(np.ravel(line.get_ydata())) == [row[f"{split}_{quantity}"] for row in rows]
        # The first of the two best, as in best.ckpt
        assert best.get_label() == f"best epoch: 2, {value}"
        assert np.ravel(best.get_xdata()) == np.ravel(vertical.get_xdata())[0] == 2
        assert np.ravel(best.get_ydata()) == rows[1][f"validation_{quantity}"]


def test_a_figure_replaces_a_link_and_leaves_its_target_alone(path: Path) -> None:
    (letter := path.with_name("letter")).write_text("dear")
    path.symlink_to(letter)
    plot_learning_curves(rows_of([0.5]), TITLE, path)
    assert letter.read_text() == "dear"
    assert not path.is_symlink()
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_learning_curves_of_one_epoch_are_points_at_a_whole_number(path: Path, drawn: list[Figure]) -> None:
    plot_learning_curves(rows_of([0.5]), TITLE, path)
    for axes in drawn[0].axes:
        assert [tick for tick in axes.get_xticks() if 0.5 <= tick <= 1.5] == [1]
        assert all(line.get_marker() != "None" for line in axes.lines[:2])


def test_a_spread_is_the_median_between_the_quartiles_between_the_extremes(path: Path, drawn: list[Figure]) -> None:
    # Of five in order, the second and the fourth are the quartiles; of four, the median lies halfway.
    five = [[0.1, 0.2, 0.5, 0.6, 0.7], [0.3, 0.8, 0.9, 0.94, 0.95], [0.8, 0.81, 0.85, 0.9, 0.99]]
    four = [[0.2, 0.4, 0.5, 0.9]] * 2
    plot_spreads([Spread("five", shuffled(five)), Spread("four", shuffled(four))], TITLE, path)
    lines, bands = drawn[0].axes[0].lines, drawn[0].axes[0].collections
    for line, place in zip(lines[:3], (2, 0, 4), strict=True):
        np.testing.assert_allclose(data(line), [(epoch, five[epoch - 1][place]) for epoch in (1, 2, 3)])
    np.testing.assert_allclose(data(lines[3]), [(1, 0.45), (2, 0.45)])
    corners = {(round(x), round(y, 9)) for x, y in np.asarray(bands[0].get_paths()[0].vertices)}
    assert corners == {(epoch, five[epoch - 1][place]) for epoch in (1, 2, 3) for place in (1, 3)}
    for setting, colour in enumerate(COLOURS[:2]):
        assert {line.get_color() for line in lines[3 * setting : 3 * setting + 3]} == {colour}
        assert to_hex(np.ravel(bands[setting].get_facecolor())[:3].tolist()) == colour
        median, lowest, highest = (line.get_linewidth() for line in lines[3 * setting : 3 * setting + 3])
        assert median > 2 * lowest == 2 * highest


def test_one_epoch_of_one_network_is_seen(path: Path, drawn: list[Figure]) -> None:
    plot_spreads([Spread("one", np.array([[0.5]]))], TITLE, path)
    axes = drawn[0].axes[0]
    assert [tick for tick in axes.get_xticks() if 0.5 <= tick <= 1.5] == [1]
    (left, *_, right), accuracies = data(axes.lines[0]).T
    assert set(accuracies) == {0.5}
    assert 0.5 < left < 1 < right < 1.5


def test_the_legend_is_in_the_order_of_the_last_medians(path: Path, drawn: list[Figure]) -> None:
    spreads = [
        Spread("falls", np.array([[0.95, 0.25]])),
        Spread("none", np.empty((0, 2))),
        Spread("rises", np.array([[0.1, 0.875], [0.1, 0.925]])),
    ]
    plot_spreads(spreads, "Title", path)
    plot_spreads([*spreads[:1], spreads[0]._replace(label="again")], "Title", path)
    different, alike = (figure.axes[0].get_legend() for figure in drawn)
    assert different is not None
    assert alike is not None
    expected = ["90.00%  rises\n2 networks", "25.00%  falls\n1 network", "none\nno network"]
    assert [text.get_text() for text in different.get_texts()] == expected
    assert [line.get_color() for line in different.get_lines()] == [COLOURS[2], COLOURS[0], COLOURS[1]]
    assert {text.get_text() for text in alike.get_texts()} == {"25.00%  falls", "25.00%  again"}
    assert drawn[0].get_suptitle().endswith(" of its networks")
    assert drawn[1].get_suptitle().endswith(" of 1 network")


def test_more_settings_than_colours_differ_in_the_line(path: Path, drawn: list[Figure]) -> None:
    count = 2 * len(COLOURS) + 1
    plot_spreads([Spread(f"setting {i}", np.full((1, 2), i / count)) for i in range(count)], TITLE, path)
    medians = drawn[0].axes[0].lines[::3]
    assert len({(line.get_color(), line.get_linestyle()) for line in medians}) == count
    legend = drawn[0].axes[0].get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == count


def test_a_run_is_drawn_solid_and_the_mirror_image_dotted_in_its_colour(path: Path, drawn: list[Figure]) -> None:
    runs = [
        ("one", Growth([1, 51], [1e-16, 1e-9], [1e-15, 1e-8])),
        ("other", Growth([1, 9], [1e-7, 1e-6], [1e-5, 1e-4])),
    ]
    plot_growth(runs, "Title", path)
    lines = drawn[0].axes[0].lines
    for (label, run), colour, solid, dotted in zip(runs, COLOURS, lines[::2], lines[1::2], strict=False):
        assert data(solid).tolist() == [[*point] for point in zip(run.updates, run.differences, strict=True)]
        assert data(dotted).tolist() == [[*point] for point in zip(run.updates, run.mirrored, strict=True)]
        assert (solid.get_linestyle(), dotted.get_linestyle()) == ("-", ":")
        assert solid.get_color() == dotted.get_color() == colour
        assert solid.get_label() == label


@pytest.mark.parametrize(
    ("plot", "values"),
    [
        (plot_spreads, [0.098, 0.8, 0.964]),
        (plot_spreads, [1.0]),
        (plot_spreads, []),
        (plot_strips, [0.0, 0.5, 1.0]),
        (plot_strips, [0.951, 0.955, 0.9561]),
        (plot_strips, [0.0]),
    ],
)
def test_every_accuracy_is_inside_and_every_tick_says_where_it_is(
    path: Path, drawn: list[Figure], plot: Callable[..., None], values: list[float]
) -> None:
    plot([Spread("setting", np.array(values).reshape(-1, 1).repeat(2, axis=1))], TITLE, path)
    axes = drawn[0].axes[0]
    low, high = axes.get_ylim()
    assert all(low < value < high for value in values)
    ticks, labels = axes.get_yticks(), axes.get_yticklabels()
    assert len(ticks) >= 3
    assert all(max(low, 0) <= tick <= min(high, 1) for tick in ticks)
    percentages = [float(label.get_text().removesuffix("%")) for label in labels]
    assert percentages == pytest.approx([100 * tick for tick in ticks])
    boxes = [label.get_window_extent() for _, label in sorted(zip(percentages, labels, strict=True), key=itemgetter(0))]
    assert all(lower.y1 < upper.y0 for lower, upper in pairwise(boxes))


def test_what_is_good_is_not_squashed_by_what_is_bad(path: Path, drawn: list[Figure]) -> None:
    plot_spreads([Spread("bad", np.array([[0.098, 0.1]])), Spread("good", np.array([[0.9, 0.96]]))], TITLE, path)
    low, middle, high = heights(drawn[0].axes[0], [0.1, 0.9, 0.96])
    assert high - middle > 0.25
    # As the logarithm of the error rate: from 0.9 to 0.1, and on to 0.04; the thousandth moves it by a hundredth.
    assert (middle - low) / (high - middle) == pytest.approx(np.log(9) / np.log(2.5), rel=0.02)


def test_a_strip_shows_every_network_apart_and_marks_the_quartiles(path: Path, drawn: list[Figure]) -> None:
    rng = np.random.default_rng(0)
    spreads = [
        Spread("spread", np.column_stack([np.zeros(32), 0.95 + 0.003 * rng.normal(size=32)])),
        Spread("many", np.column_stack([np.ones(100), 0.93 + 0.003 * rng.normal(size=100)])),
        Spread("alike", np.full((32, 3), 0.098)),
        Spread("none", np.empty((0, 2))),
        Spread("five", shuffled([[0.1, 0.8, 0.85, 0.87, 0.9]]), lost=[0, 3]),
    ]
    plot_strips(spreads, TITLE, path)
    axes = drawn[0].axes[0]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    counts = ("32 networks", "100 networks", "32 networks", "no network", "5 networks")
    assert labels == [f"{spread.label}\n{count}" for spread, count in zip(spreads, counts, strict=True)]
    left, right = axes.get_xlim()
    for strip, (spread, sound, lost) in enumerate(zip(spreads, axes.lines[::2], axes.lines[1::2], strict=True)):
        points = np.concatenate([data(sound), data(lost)])
        assert sorted(data(lost)[:, 1]) == sorted(spread.accuracies[list(spread.lost), -1])
        assert (sound.get_fillstyle(), lost.get_fillstyle()) == ("full", "none")
        assert sorted(points[:, 1]) == sorted(spread.accuracies[:, -1])
        assert all(max(left, strip - 0.5) < place < min(right, strip + 0.3) for place in points[:, 0])
        pixels = axes.transData.transform(points)
        apart = np.linalg.norm(pixels[:, np.newaxis] - pixels, axis=2)
        assert np.all(apart[~np.eye(len(points), dtype=bool)] >= 1)
    marks, bar = axes.collections[-2:]
    segments = np.array([path.vertices for path in marks.get_paths()])
    np.testing.assert_allclose(segments[:, :, 1], [[value] * 2 for value in (0.8, 0.85, 0.87)])
    assert np.argmax(np.ravel(marks.get_linewidth())) == 1  # the median's
    np.testing.assert_allclose(np.asarray(bar.get_paths()[0].vertices)[:, 1], [0.8, 0.87])
    assert len(axes.collections) == 2 * 4


def test_the_number_of_networks_is_in_the_title_where_it_is_the_same_for_all(path: Path, drawn: list[Figure]) -> None:
    plot_strips([Spread("one", np.full((7, 1), 0.5)), Spread("other", np.full((7, 2), 0.6))], "Title", path)
    assert "7 networks" in drawn[0].get_suptitle()
    assert [label.get_text() for label in drawn[0].axes[0].get_xticklabels()] == ["one", "other"]


def test_no_label_of_a_setting_is_cut_or_covers_another(path: Path, drawn: list[Figure]) -> None:
    spreads = [
        Spread(f"{number} hidden neurons, learning rate 0.25", np.full((2, 3), 0.9)) for number in range(100, 108)
    ]
    plot_spreads(spreads, TITLE, path)
    plot_strips(spreads, TITLE, path)
    legend = drawn[0].axes[0].get_legend()
    assert legend is not None
    box = legend.get_window_extent()
    assert box.x0 >= drawn[0].axes[0].get_window_extent().x1
    assert box.x1 <= drawn[0].bbox.width
    assert 0 <= box.y0 < box.y1 <= drawn[0].axes[0].get_window_extent().y1 + 1
    boxes = [label.get_window_extent() for label in drawn[1].axes[0].get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert all(box.y0 >= 0 for box in boxes)


def test_no_title_is_cut(path: Path, drawn: list[Figure]) -> None:
    plot_learning_curves(rows_of([0.5]), TITLE, path)
    plot_spreads([Spread("setting", np.array([[0.5]]))], TITLE, path)
    plot_strips([Spread("setting", np.array([[0.5]]))], TITLE, path)
    plot_confusion(np.eye(10, dtype=int), TITLE, path)
    plot_mistakes([Mistake(0, np.zeros(784, np.uint8), 3, [0.0] * 10)], TITLE, path)
    plot_pictures_of_weights(np.ones((1, 784)), TITLE, path)
    plot_output_weights(np.ones((10, 1)), np.ones(10), TITLE, path)
    for figure in drawn:
        assert figure._suptitle is not None  # type: ignore[attr-defined]
        title = figure._suptitle.get_window_extent()  # type: ignore[attr-defined]
        assert title.x1 <= figure.bbox.width
        assert all(title.y0 >= axes.get_window_extent().y1 for axes in figure.axes)
        assert "$dollars_$" in figure.get_suptitle()
