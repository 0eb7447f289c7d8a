import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Outcome, assert_one_line_error
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy import ndimage

from torchdigits.data.datasets import DigitSplits
from torchdigits.errors import ImageError, NoInkError
from torchdigits.recognition.pictures import read_grey
from torchdigits.recognition.preparation import preparation, prepare
from torchdigits.recognition.steps import (
    _without_specks,
    centre,
    find_ink,
    is_mnist_like,
    keep_ink,
    match_stroke,
    of_ink,
    remove_paper,
    scale,
)

Run = Callable[..., Outcome]


def drawing(size: int = 280, pen: int = 24, ink: int = 0, paper: int = 255) -> Image.Image:
    """A seven, anti-aliased."""
    picture = Image.new("L", (4 * size, 4 * size), paper)
    strokes = [(size, size), (3 * size, size), (2 * size, 3.2 * size)]
    ImageDraw.Draw(picture).line(strokes, ink, width=4 * pen, joint="curve")
    return picture.reduce(4)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The mean difference of two images' pixels, as a share of the mean ink of the second."""
    return float(np.abs(one.astype(float) - other).mean() / other.mean())


@pytest.mark.slow
def test_mnist_passes_unchanged(mnist: DigitSplits) -> None:
    for split in mnist:
        for pixels in split.images[::29].numpy():
            np.testing.assert_array_equal(prepare(pixels), pixels)
            np.testing.assert_array_equal(prepare(Image.fromarray(pixels.reshape(28, 28)).convert("RGB")), pixels)


@pytest.mark.parametrize("length", [19, 20])
def test_a_centred_digit_19_or_20_pixels_long_is_left_as_it_is(length: int) -> None:
    """All of MNIST's 70,000 are so long, but 19 are only sixteen of them, which may not be among those above."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[5 : 5 + length, 12:16] = 255
    np.testing.assert_array_equal(prepare(pixels), pixels.ravel())


def test_a_picture_in_mnists_form_is_left_as_it_is_whatever_its_mode() -> None:
    """All 256 values of grey, through the floats and the other ranges that modes have."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 8:21] = np.random.default_rng(0).permutation(260).reshape(20, 13) % 256
    grey, sixteen = Image.fromarray(pixels), pixels.astype(np.uint16)
    pictures = [grey.convert(mode) for mode in ("RGB", "RGBA", "LA", "I", "F")]
    pictures += [Image.fromarray(np.round(pixels * (most / 255)).astype(np.int32)) for most in (1023, 4095, 65535)]
    pictures += [Image.fromarray(sixteen * 257), Image.fromarray(np.float32(pixels / 255))]
    for picture in pictures:
        np.testing.assert_array_equal(prepare(picture), pixels.ravel(), err_msg=picture.mode)


def test_a_picture_of_more_or_fewer_bits_keeps_its_greys() -> None:
    """Twelve bits in sixteen, for instance: a white of 4095."""
    grey = np.asarray(drawing(), np.float32)
    for white in (255, 1023, 4095, 65535):
        values = np.round(grey * (white / 255))
        pictures = [Image.fromarray(values.astype(kind)) for kind in (np.uint16, np.int32, np.float32)]
        for picture in (*pictures, saved(pictures[0], "PNG")):
            np.testing.assert_allclose(read_grey(picture).pixels, grey, atol=0.2, err_msg=f"{picture.mode}, {white}")
    np.testing.assert_allclose(read_grey(Image.fromarray(grey / 255)).pixels, grey, atol=1e-4)


def test_mnist_comes_back_from_ink_on_paper(mnist: DigitSplits) -> None:
    """Black on white at 28x28, all that is lost is the change of the stroke, and a place of half a pixel."""
    differences = [difference(prepare(255 - pixels), pixels) for pixels in mnist.test.images[::50].numpy()]
    assert np.median(differences) < 0.2


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    points=st.lists(st.tuples(st.integers(20, 380), st.integers(20, 280)), min_size=3, max_size=6, unique=True),
    pen=st.integers(6, 16),
    colours=st.sampled_from([(0, 255), (255, 0), (60, 180), (200, 90)]),
)
def test_whatever_is_drawn_comes_out_in_mnists_form(
    points: list[tuple[int, int]], pen: int, colours: tuple[int, int]
) -> None:
    picture = Image.new("L", (400, 300), colours[1])
    ImageDraw.Draw(picture).line(points, colours[0], width=pen, joint="curve")
    digit = prepare(picture).reshape(28, 28)
    rows, columns = (np.flatnonzero(digit.any(axis)) for axis in (1, 0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 in (18, 19, 20)  # the faintest edges can round to 0
    for place, side in zip(ndimage.center_of_mass(digit), (rows, columns), strict=True):
        assert 13.4 < place < 14.6 or 0 in side or 27 in side
    assert digit.max() > 150


def test_ink_and_paper_may_be_of_any_brightness_size_and_place() -> None:
    expected = prepare(drawing())
    assert is_mnist_like(expected.reshape(28, 28).astype(np.float32))
    for ink, paper in ((255, 0), (80, 160), (160, 80), (0, 60), (255, 195)):
        assert difference(prepare(drawing(ink=ink, paper=paper)), expected) < 0.02
    for size, pen in ((70, 6), (140, 12), (1120, 96)):
        assert difference(prepare(drawing(size, pen)), expected) < 0.15
    canvas = Image.new("L", (900, 600), 255)
    canvas.paste(drawing(), (500, 40))
    assert difference(prepare(canvas), expected) < 0.05


def test_uneven_light_and_a_table_around_the_paper_are_removed() -> None:
    expected = prepare(drawing())
    y, x = np.mgrid[:280, :280] / 280
    reflected = np.asarray(drawing(ink=60, paper=255)) / 255
    for light in (
        120 + 130 * x,
        250 - 140 * y,
        230 - 150 * ((x - 0.5) ** 2 + (y - 0.3) ** 2),
        100 + 60 * x * y + 40 * y,
    ):
        assert difference(prepare((light * reflected).astype(np.uint8)), expected) < 0.05
    sheet, lines = np.asarray(drawing(ink=60, paper=240)), np.arange(280)
    for brightness in (20, 90, 140):
        for above, below, left, right in ((20, 0, 40, 0), (80, 0, 80, 80), (60, 60, 60, 60), (9, 200, 30, 150)):
            table = np.pad(sheet, ((above, below), (left, right)), constant_values=brightness)
            assert difference(prepare(table), expected) < 0.05
        corner = np.where(lines[:, np.newaxis] + lines < 90, brightness, sheet).astype(np.uint8)
        assert difference(prepare(corner), expected) < 0.05
    blackboard = np.pad(255 - sheet, 60, constant_values=220)
    assert difference(prepare(blackboard), expected) < 0.05


def test_of_a_sheet_on_a_table_nothing_but_the_sheet_is_looked_at() -> None:
    """The digit reaches to near each edge of the sheet, nearer than its margin."""
    sheet = np.full((150, 120), 240, np.float32)
    sheet[14:136, 50:70] = sheet[60:80, 14:106] = 30
    for brightness in (90, 140):
        picture = np.pad(sheet, 30, constant_values=brightness)
        found = picture[find_ink(picture)[:2]]
        assert {*found.ravel()} == {30, 240}
        assert (found == 30).sum() == (sheet == 30).sum()


@pytest.mark.parametrize(("length", "alone"), [(22, True), (28, False)])
@pytest.mark.parametrize("large", [1, 4])
def test_what_is_beside_a_sheet_is_told_as_it_may_be_a_shadow(length: int, alone: bool, large: int) -> None:
    """From three tenths of what is found on it, 80 pixels long, it is as large as a digit."""
    picture = np.full((200, 240), 240, np.float32)
    picture[40:160, 20:140] = 100
    picture[60:140, 78:82] = 20
    picture[70 : 70 + length, 200:206] = 60
    _, columns, found = find_ink(np.kron(picture, np.ones((large, large), np.float32)))
    assert large * 20 < columns.start < large * 78 < large * 82 < columns.stop < large * 140
    assert found is alone


@pytest.mark.parametrize(
    ("ink", "rows", "columns"),
    [
        (np.s_[60:160, 90:120], (40, 180), (70, 140)),
        (np.s_[0:100, 2:32], (0, 120), (0, 52)),
        (np.s_[140:240, 190:220], (120, 240), (170, 220)),
    ],
)
def test_ink_is_found_with_a_margin_of_a_fifth_of_its_length(
    ink: tuple[slice, slice], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    grey = np.full((240, 220), 230, np.float32)
    grey[ink] = 20
    found = find_ink(grey)[:2]
    np.testing.assert_allclose([(side.start, side.stop) for side in found], [rows, columns], atol=2)
    assert np.count_nonzero(grey[found] == 20) == np.count_nonzero(grey == 20)


@pytest.mark.parametrize(("size", "near", "far"), [(140, 5, 8), (28, 1, 2)])
def test_ink_keeps_soft_edges_as_wide_as_a_twentieth_of_its_length(size: int, near: int, far: int) -> None:
    """Its length is what the margins leave; at least a pixel and a half."""
    flat, half = np.zeros((size, size), np.float32), size // 2
    flat[: half + 8, half - 10 : half + 10] = 0.2
    flat[:half, half - 2 : half + 2] = 0.8
    for paper in (0, 0.5):
        ink = keep_ink(flat + paper * (1 - flat))
        assert ink[:half, half - 2 : half + 2].min() > 0.9
        assert ink[0, half - 2 - near] > 0.1
        assert ink[0, half - 2 - far] == 0
        assert ink[half + near - 1, half] > 0.1
        assert ink[half + far - 1, half] == 0
    with pytest.raises(NoInkError, match="too little contrast"):
        keep_ink(flat - 1)


def test_what_lies_along_the_edge_is_dropped_if_there_is_something_else() -> None:
    """Along more than a fifth of it, or in a corner; a digit in parts is not, however few pixels it has."""
    digit = np.zeros((40, 40), bool)
    digit[10:14, 20] = digit[16:22, 20] = True
    for part, dropped in (
        (np.s_[0, 2:38], True),
        (np.s_[0, 4:36], False),
        (np.s_[36:, 39], True),
        (np.s_[36:, 0], True),
        (np.s_[:4, 0], True),
        (np.s_[0, :4], True),
        (np.s_[0, 36:], True),
        (np.s_[35:39, 39], False),
    ):
        ink = digit.copy()
        ink[part] = True
        np.testing.assert_array_equal(_without_specks(ink), digit if dropped else ink)
    for one, other in ((np.s_[0, 2:38], np.s_[20, 18:22]), (np.s_[10:14, 20], np.s_[16:20, 20])):
        ink = np.zeros((40, 40), bool)
        ink[one] = ink[other] = True
        np.testing.assert_array_equal(_without_specks(ink), ink)  # nothing is longer than a tenth of the picture


def test_specks_are_removed_and_parts_of_a_digit_are_not() -> None:
    picture = drawing()
    expected = prepare(picture)
    specks = picture.copy()
    for place in ((20, 20), (250, 30), (30, 240), (260, 260)):
        specks.putpixel(place, 0)
        ImageDraw.Draw(specks).ellipse((*place, place[0] + 5, place[1] + 5), 0)
    assert difference(prepare(specks), expected) < 0.02
    ImageDraw.Draw(picture).line([(20, 250), (90, 250)], 0, width=24)  # a stroke that does not touch the other
    found = prepare(picture).reshape(28, 28)
    assert found[20:, :10].max() > 200


@pytest.mark.parametrize("pen", [2, 5, 9, 22, 30, 44])
def test_a_stroke_is_made_as_thick_as_mnists(pen: int) -> None:
    """A square frame 160 pixels wide is 20 pixels in MNIST's box: 8 of its pixels are one of those."""
    frame = np.zeros((160, 160), np.float32)
    frame[:pen] = frame[-pen:] = frame[:, :pen] = frame[:, -pen:] = 1
    matched = match_stroke(frame)
    profile = matched[len(matched) // 2, : len(matched) // 2]  # across one side
    width = 20 * profile.sum() / len(matched)
    assert 2.3 < width < 3.2
    if 2.5 * 8 < pen < 3 * 8:
        np.testing.assert_array_equal(matched, frame)


def test_the_centre_of_mass_is_placed_where_mnists_is() -> None:
    corner = np.zeros((20, 12), np.uint8)
    corner[:, :3] = 255
    corner[-4:] = 255
    placed = centre(corner)
    assert placed.sum(dtype=int) == corner.sum(dtype=int)
    assert all(13.5 <= place <= 14.5 for place in ndimage.center_of_mass(placed))


def test_scaling_keeps_the_aspect_and_the_share_of_ink() -> None:
    bar = np.ones((300, 75), np.float32)
    np.testing.assert_array_equal(scale(bar), np.full((20, 5), 255))
    np.testing.assert_array_equal(scale(np.ones((800, 10), np.float32)), np.full((20, 1), 255))
    chequers = np.indices((160, 160)).sum(0) % 2
    np.testing.assert_allclose(scale(chequers.astype(np.float32)), 127.5, atol=1)


def test_paper_without_ink_is_zero_once_removed() -> None:
    y, x = np.mgrid[:60, :90] / 90
    light = (100 + 80 * x - 60 * y + 30 * x * y).astype(np.float32)
    light[20:40, 30:34] *= 0.3
    flat = remove_paper(light)
    assert np.abs(np.delete(flat, np.s_[28:36], axis=1)).max() < 0.03
    np.testing.assert_allclose(flat[20:40, 30:34], 0.7, atol=0.02)


def saved(picture: Image.Image, form: str, **options: object) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return Image.open(file)


def test_every_mode_and_format_gives_the_same_digit(tmp_path: Path) -> None:
    grey = drawing()
    expected = prepare(grey)
    ink = Image.eval(grey, lambda value: 255 - value)
    black, white = Image.new("L", grey.size, 0), Image.new("L", grey.size, 255)
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    pictures = {
        "rgb": grey.convert("RGB"),
        "cmyk": grey.convert("RGB").convert("CMYK"),
        "palette": grey.convert("P"),
        "bits": grey.convert("1", dither=Image.Dither.NONE),
        "16 bits": saved(sixteen, "PNG"),
        "32 bits": Image.fromarray(np.asarray(grey).astype(np.int32) * 200),
        "floats": Image.fromarray(np.asarray(grey, np.float32) / 255),
        "black on transparent": Image.merge("LA", (black, ink)),
        "white on transparent": Image.merge("RGBA", (white, white, white, ink)),
        "opaque": Image.merge("RGBA", (grey, grey, grey, white)),
        "transparent palette": saved(grey.convert("P"), "PNG", transparency=255),
        **{form: saved(grey, form) for form in ("BMP", "GIF", "JPEG", "PPM", "TIFF", "WEBP")},
        "animated": saved(grey, "GIF", save_all=True, append_images=[Image.new("L", grey.size, 128)]),
    }
    for name, picture in pictures.items():
        assert difference(prepare(picture), expected) < 0.08, name
    turned = grey.rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise to be seen upright
    turned.save(tmp_path / "turned.png", exif=exif)
    assert difference(prepare(tmp_path / "turned.png"), expected) < 0.01
    for array in (np.asarray(grey), np.asarray(grey.convert("RGB")), np.asarray(grey.convert("RGBA"))):
        np.testing.assert_array_equal(prepare(array), expected)
    with (tmp_path / "turned.png").open("rb") as file:
        np.testing.assert_array_equal(prepare(file), prepare(str(tmp_path / "turned.png")))


def test_a_large_photograph_is_read_as_a_small_one() -> None:
    expected = prepare(drawing())
    large = drawing(1000, 86).resize((4000, 4000)).convert("RGB")
    assert difference(prepare(saved(large, "JPEG")), expected) < 0.15
    assert difference(prepare(large), expected) < 0.15


@pytest.mark.parametrize(
    "blank",
    [
        Image.new("L", (28, 28)),
        Image.new("RGB", (300, 200), "white"),
        Image.new("RGBA", (50, 50)),
        Image.new("L", (1, 1), 255),
        Image.fromarray(np.linspace(90, 250, 40_000).reshape(200, 200).astype(np.uint8)),
        Image.fromarray(np.random.default_rng(0).normal(190, 12, (300, 300)).astype(np.uint8)),
        Image.fromarray(np.random.default_rng(0).normal(128, 30, (28, 28)).astype(np.uint8)),
        drawing(ink=200, paper=208),
    ],
    ids=["black", "white", "transparent", "a pixel", "gradient", "grain", "small noise", "faint"],
)
def test_a_picture_without_a_digit_is_not_guessed_at(blank: Image.Image) -> None:
    with pytest.raises(
        NoInkError, match=r"the picture: (there is no ink|its ink is too faint|there is nothing on it but specks)"
    ):
        prepare(blank)


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)) | st.sampled_from([(1, 3000), (2000, 2), (300, 200)]),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]),
    values=st.sampled_from([(0, 256), (100, 104), (0, 2)]),
    seed=st.integers(0, 10**6),
)
def test_whatever_a_picture_is_it_is_prepared_or_refused(
    shape: tuple[int, int], mode: str, values: tuple[int, int], seed: int
) -> None:
    chance = np.random.default_rng(seed)
    channels = len(Image.new(mode, (1, 1)).getbands())
    raw = chance.integers(*values, (*shape, channels), np.uint8)
    if mode == "F":
        picture = Image.fromarray(
            chance.choice([0, 1, np.nan, np.inf, -np.inf, -3e38, 1e-30], shape).astype(np.float32)
        )
    elif mode in ("I", "I;16", "1", "P"):
        picture = Image.fromarray(raw[..., 0]).convert("I" if mode == "I;16" else mode).convert(mode)
    else:
        picture = Image.frombytes(mode, shape[::-1], raw.tobytes())
    try:
        pixels = prepare(picture)
    except NoInkError:
        return
    assert pixels.shape == (784,)
    assert pixels.dtype == np.uint8
    assert pixels.any()


@pytest.mark.parametrize(
    "array",
    [np.zeros((28, 28)), np.zeros(783, np.uint8), np.zeros((2, 28, 28), np.uint8), np.zeros((0, 28), np.uint8)],
)
def test_an_array_of_another_kind_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match="an array"):
        prepare(array)


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(ImageError, match="no pixels"):
        prepare(Image.new("RGBA", (0, 5)))


def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("1", (3000, 2000)).save(file, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5_000_000)
    with pytest.raises(ImageError, match="3000x2000 pixels"), pytest.warns(Image.DecompressionBombWarning):
        read_grey(file.getvalue())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000)  # Pillow itself raises above twice as much
    with pytest.raises(ImageError, match=r"6000000 pixels"):
        read_grey(file.getvalue())


def test_a_picture_of_just_the_most_pixels_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = prepare(drawing())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 280 * 280)
    np.testing.assert_array_equal(prepare(drawing()), expected)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 280 * 280 - 1)
    with pytest.raises(ImageError, match="280x280 pixels"):
        prepare(drawing())


def test_the_steps_lead_from_the_picture_to_the_digit() -> None:
    steps = preparation(drawing())
    assert [*steps] == ["grey", "found", "paper removed", "ink", "stroke", "28x28"]
    np.testing.assert_array_equal(steps["grey"], np.asarray(drawing()))
    np.testing.assert_array_equal(steps["28x28"].reshape(784), prepare(drawing()))
    digit = steps["28x28"]
    assert [*preparation(digit)] == ["as it is"]


@pytest.mark.slow
def test_distorted_digits_are_recognised(run_script: Run, mnist_dir: Path) -> None:
    outcome = run_script("distortions.py", "--data-dir", mnist_dir, "--images", 30, "--json")
    found = json.loads(outcome.out)
    assert len(found["distortions"]) == 18
    for row in found["distortions"]:
        if "shadow" not in row["distortion"]:  # which is too much
            assert row["after"] >= found["clean"] - (row["allowed"] or 5) - 7, row  # of 30, two by chance
    assert_one_line_error(run_script("distortions.py", "--data-dir", mnist_dir, "--images", 0), "--images 0")


def test_ink_of_sparse_dots_is_scaled_to_what_can_be_seen() -> None:
    dots = np.zeros((1700, 1700), np.float32)
    dots[range(0, 1700, 6), range(0, 1700, 6)] = 1
    prepared = of_ink(dots, 96)["28x28"]
    assert prepared.max() == 255
    assert np.abs(np.subtract(*np.nonzero(prepared))).max() <= 3  # along the diagonal
