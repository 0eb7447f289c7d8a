import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

from torchdigits import web
from torchdigits.figures import BLUE, ORANGE, any_letter
from torchdigits.recognition.figures import (
    MAX_NEURONS,
    Mistake,
    Strip,
    plot_confusion,
    plot_mistakes,
    plot_output_weights,
    plot_pictures_of_weights,
    plot_preparation,
)

TITLE = "What it is\n784-30-10, in/its.ckpt"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "figure.png"


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
def test_a_mistake_shows_its_picture_and_its_ten_activations(path: Path, drawn: list[Figure], count: int) -> None:
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
        assert to_hex(bars[mistake.truth].get_facecolor()) == BLUE
        if answer != mistake.truth:
            assert to_hex(bars[answer].get_facecolor()) == ORANGE


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


def test_what_excites_has_the_pages_orange_and_what_inhibits_its_blue(path: Path) -> None:
    """In the pixels of the file: a neuron of two halves."""
    style = (Path(web.__file__).parent / "page" / "style.css").read_text().partition("@media")[0]
    page = {name: tuple(map(int, rgb.split())) for name, rgb in re.findall(r"--(for|against): ([\d ]+);", style)}
    plot_pictures_of_weights(np.repeat([[2.0, -2.0]], 392, axis=1), "half and half", path)
    with Image.open(path) as image:
        colours = {colour: count for count, colour in image.convert("RGB").getcolors(2**24) or []}
    orange, blue = colours[page["for"]], colours[page["against"]]
    assert min(orange, blue) > 1000
    assert orange == pytest.approx(blue, rel=0.1)


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


@pytest.mark.parametrize("steps", [1, 6])
def test_the_answer_and_both_ends_of_a_name_are_whole_however_long_it_is(
    path: Path, drawn: list[Figure], steps: int
) -> None:
    pictures = {str(step): np.eye(28, dtype=np.float32) for step in range(steps)}
    names = [
        "$7$.png",
        f"start {'W' * 240}.png",
        f"start {'i' * 240}.jpg",
        "start " + "\N{CJK UNIFIED IDEOGRAPH-6570}" * 80,
    ]
    plot_preparation([Strip(name, "7", pictures) for name in names], path)
    for name, row in zip(names, drawn[0].subfigs, strict=True):
        title = row._suptitle  # type: ignore[attr-defined]
        assert title.get_text().startswith(name[:7])
        assert title.get_text().endswith(f"{name[-5:]}: 7")
        with any_letter():
            box = title.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= drawn[0].bbox.width
        assert all(axes.get_window_extent().y1 <= box.y0 for axes in row.axes)
