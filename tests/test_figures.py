from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

from torchdigits.figures import (
    COLOURS,
    MAX_NEURONS,
    Mistake,
    plot_confusion,
    plot_learning_curves,
    plot_mistakes,
    plot_output_weights,
    plot_pictures_of_weights,
)

TITLE = "What it is\n784-30-10, " + "a/rather/long/path/" * 8 + "with $dollars_$ in/it.ckpt"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        save(figure, *arguments, **options)
        figures.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "figure.png"


def rows_of(validation_accuracies: list[float]) -> list[dict[str, float]]:
    return [
        {"epoch": epoch, "training_cost": 1 / epoch, "validation_cost": 2 / epoch, "training_accuracy": 0.5}
        | {"validation_accuracy": accuracy}
        for epoch, accuracy in enumerate(validation_accuracies, 1)
    ]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def picture(figure: Figure, axes: int = 0) -> AxesImage:
    return figure.axes[axes].images[0]


def array(image: AxesImage) -> np.ma.MaskedArray:
    values = image.get_array()
    assert values is not None
    return np.ma.masked_array(values)


def assert_symmetric(image: AxesImage) -> None:
    low, high = image.get_clim()
    assert low is not None
    assert high is not None
    assert low == -high < 0


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


def test_the_learning_curves_of_one_epoch_are_points_at_a_whole_number(path: Path, drawn: list[Figure]) -> None:
    plot_learning_curves(rows_of([0.5]), TITLE, path)
    for axes in drawn[0].axes:
        assert [tick for tick in axes.get_xticks() if 0.5 <= tick <= 1.5] == [1]
        assert all(line.get_marker() != "None" for line in axes.lines[:2])


def test_the_confusion_matrix_shows_every_count_and_colours_mistakes_alone(path: Path, drawn: list[Figure]) -> None:
    counts = np.diag([9000] * 10)
    counts[4, 9], counts[9, 4] = 30, 20
    plot_confusion(counts, TITLE, path)
    assert texts(drawn[0]) == [f"{count:,}" for count in counts.flat]
    assert (drawn[0].axes[0].get_ylabel(), drawn[0].axes[0].get_xlabel()) == ("truth", "answer")
    image = picture(drawn[0])
    assert image.get_clim() == (0, 30)
    assert np.array_equal(np.ma.getmaskarray(array(image)), np.eye(10, dtype=bool))
    assert array(image)[4, 9] == 30


def test_a_confusion_matrix_without_a_mistake_can_be_drawn(path: Path, drawn: list[Figure]) -> None:
    plot_confusion(np.diag([29] * 10), TITLE, path)
    assert picture(drawn[0]).get_clim() == (0, 1)


@pytest.mark.parametrize("count", [1, 7])
def test_a_mistake_shows_its_picture_and_its_ten_outputs(path: Path, drawn: list[Figure], count: int) -> None:
    rng = np.random.default_rng(0)
    mistakes = [
        Mistake(1000 + i, rng.integers(0, 256, 784).astype(np.uint8), i, rng.random(10).tolist()) for i in range(count)
    ]
    plot_mistakes(mistakes, TITLE, path)
    axes, shown = drawn[0].axes[0], texts(drawn[0])
    for place, mistake in enumerate(mistakes):
        answer = int(np.argmax(mistake.activations))
        assert shown[12 * place : 12 * place + 2] == [f"{place} read as {answer}", f"no. {1000 + place:,}"]
        assert np.array_equal(array(axes.images[place]), mistake.pixels.reshape(28, 28))
        bars: list[Any] = axes.patches[10 * place : 10 * place + 10]
        np.testing.assert_allclose([bar.get_width() / 28 for bar in bars], mistake.activations)
        assert to_hex(bars[mistake.truth].get_facecolor()) == COLOURS[0]
        if answer != mistake.truth:
            assert to_hex(bars[answer].get_facecolor()) == COLOURS[2]


@pytest.mark.parametrize("neurons", [1, 10, 23])
def test_each_neuron_is_the_picture_of_its_weights(path: Path, drawn: list[Figure], neurons: int) -> None:
    weights = np.random.default_rng(0).normal(size=(neurons, 784))
    plot_pictures_of_weights(weights, TITLE, path)
    image = picture(drawn[0])
    assert_symmetric(image)
    mosaic = array(image)
    assert mosaic.count() == weights.size  # and nothing but them
    for text, weight in zip(drawn[0].axes[0].texts, weights, strict=True):
        x, y = text.get_position()
        assert text.get_text() == str(int(y // 36) * 10 + int(x // 30))
        top, left = round(y + 1.5), round(x - 13.5)
        assert np.array_equal(mosaic[top : top + 28, left : left + 28], weight.reshape(28, 28))


def test_red_excites_and_blue_inhibits(path: Path) -> None:
    """In the pixels of the file: a neuron of two halves."""
    plot_pictures_of_weights(np.repeat([[2.0, -2.0]], 392, axis=1), "half and half", path)
    with Image.open(path) as image:
        colours = {colour: count for count, colour in image.convert("RGB").getcolors(2**24) or []}
    red, blue = colours[(103, 0, 31)], colours[(5, 48, 97)]  # the ends of ColorBrewer's RdBu
    assert min(red, blue) > 1000
    assert red == pytest.approx(blue, rel=0.1)


def test_the_outputs_weights_stand_beside_their_biases(path: Path, drawn: list[Figure]) -> None:
    rng = np.random.default_rng(0)
    weights, biases = rng.normal(size=(10, 30)), 20 * rng.normal(size=10)
    plot_output_weights(weights, biases, TITLE, path)
    left, right = picture(drawn[0], 0), picture(drawn[0], 1)
    assert np.array_equal(array(left), weights)
    assert np.array_equal(array(right)[:, 0], biases)
    assert left.get_clim() == right.get_clim()
    assert_symmetric(left)
    assert [label.get_text() for label in drawn[0].axes[0].get_xticklabels()] == [str(i) for i in range(30)]


def test_of_many_neurons_the_title_says_which_are_shown(path: Path, drawn: list[Figure]) -> None:
    weights = np.random.default_rng(0).normal(size=(1000, 784))
    plot_pictures_of_weights(weights, "Neurons", path)
    plot_output_weights(weights[:, :10].T, np.zeros(10), "Outputs", path)
    plot_pictures_of_weights(weights[:MAX_NEURONS], "Neurons", path)
    first, last, whole = drawn
    assert first.get_suptitle() == "Neurons; the first 50 of 1,000 neurons"
    assert last.get_suptitle() == "Outputs; the first 50 of 1,000 neurons"
    assert whole.get_suptitle() == "Neurons"
    assert len(texts(first)) == array(picture(last)).shape[1] == MAX_NEURONS


def test_no_title_is_cut(path: Path, drawn: list[Figure]) -> None:
    plot_learning_curves(rows_of([0.5]), TITLE, path)
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
