"""Where the digits are on a page: of a font, whose boxes are known. What the network answers does not matter."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from torchdigits import Recognizer
from torchdigits.data.datasets import DigitSplits
from torchdigits.errors import ImageError, NoInkError
from torchdigits.recognition.cuts import cut
from torchdigits.recognition.ink import ink_of
from torchdigits.recognition.preparation import look
from torchdigits.recognition.recognizer import Page
from torchdigits.recognition.rules import without_rules
from torchdigits.recognition.steps import of_ink

Box = tuple[int, int, int, int]
LINES = ("504192", "31", "7728609")
SIZE = 64  # of the font, in pixels; its digits are 47 high


def written(
    lines: tuple[str, ...] = LINES, *, size: int = SIZE, slope: float = 0, gap: float = 0.5
) -> tuple[np.ndarray, list[list[Box]]]:
    """Ink, 0 to 1, and the box of each digit."""
    font = ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
    width, height = int(size * (2 + (0.64 + gap) * max(map(len, lines)))), int(size * (1.5 + 1.5 * len(lines)))
    boxes: list[list[Box]] = []
    picture = Image.new("L", (width, height))
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        boxes.append([])
        x = float(size)
        for digit in line:
            y = size * (0.75 + 1.5 * number) + slope * x
            draw.text((x, y), digit, fill=255, font=font)
            alone = Image.new("L", picture.size)
            ImageDraw.Draw(alone).text((x, y), digit, fill=255, font=font)
            box = alone.getbbox()
            assert box
            boxes[-1].append(box)
            x += (0.64 + gap) * size
    return np.asarray(picture, np.float32) / 255, boxes


def on_paper(ink: np.ndarray, paper: np.ndarray | float = 240, colour: float = 40) -> np.ndarray:
    return np.asarray(np.clip(paper + (colour - paper) * ink, 0, 255), np.uint8)


def assert_found(picture: np.ndarray, boxes: list[list[Box]], scale: float = 1) -> None:
    """In lines, from left to right, each box within some pixels."""
    page = Recognizer().read(picture)
    assert [len(line) for line in page.lines] == [len(line) for line in boxes]
    for found, expected in zip(page.digits, (box for line in boxes for box in line), strict=True):
        np.testing.assert_allclose(found.box, scale * np.array(expected), atol=max(4, 2 * scale))
    assert page.size == picture.shape[1::-1]
    assert [len(line) for line in page.text.split("\n")] == [len(line) for line in boxes]


def test_lines_are_read_from_top_to_bottom_and_from_left_to_right() -> None:
    ink, boxes = written()
    assert_found(on_paper(ink), boxes)
    assert_found(on_paper(ink, 20, 230), boxes)  # white on black


@pytest.mark.parametrize("slope", [-0.1, -0.04, 0.04, 0.1])
def test_lines_may_slope(slope: float) -> None:
    ink, boxes = written(("50419286", "31", "77286"), slope=slope)
    assert_found(
        on_paper(np.pad(ink, 80)), [[(a + 80, b + 80, c + 80, d + 80) for a, b, c, d in line] for line in boxes]
    )


def test_digits_may_be_small_large_near_and_scattered() -> None:
    for size, gap in ((24, 0.3), (64, 0.12), (64, 3), (200, 0.5)):
        ink, boxes = written(("504192", "3"), size=size, gap=gap)
        assert_found(on_paper(ink), boxes)


def test_lines_may_be_of_different_sizes() -> None:
    """A third as high as most, above and below them."""
    ink, boxes = written(("504192", "504382"), size=96)
    small, small_boxes = written(("27",), size=32)
    small = np.pad(small, ((0, 0), (0, ink.shape[1] - small.shape[1])))
    for first, second, lines in (
        (ink, small, [*boxes, [(a, b + len(ink), c, d + len(ink)) for a, b, c, d in small_boxes[0]]]),
        (small, ink, small_boxes + [[(a, b + len(small), c, d + len(small)) for a, b, c, d in box] for box in boxes]),
    ):
        assert_found(on_paper(np.vstack([first, second])), lines)


def test_boxes_are_of_the_picture_even_if_it_is_read_smaller() -> None:
    ink, boxes = written()
    large = np.kron(on_paper(ink), np.ones((6, 6), np.uint8))
    assert large.size > 3_200_000
    assert_found(large, boxes, 6)


def test_a_picture_that_is_turned_by_its_exif_has_boxes_as_it_is_looked_at(tmp_path: Path) -> None:
    ink, boxes = written(("504192",))
    image = Image.fromarray(on_paper(ink))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    page = Recognizer().read(tmp_path / "turned.jpg")
    assert page.size == image.size
    for found, expected in zip(page.digits, boxes[0], strict=True):
        np.testing.assert_allclose(found.box, expected, atol=4)


@pytest.mark.parametrize("strength", [0.3, 0.9])
@pytest.mark.parametrize("squared", [False, True])
def test_rules_are_not_digits(strength: float, squared: bool) -> None:
    ink, boxes = written()
    rules = np.zeros_like(ink)
    rules[30::96] = rules[31::96] = 1  # between the lines
    if squared:
        rules[:, 20::45] = rules[:, 21::45] = 1
    picture = on_paper(ink, 240 * (1 - strength * rules), 20)
    page = Recognizer().read(picture)
    assert [len(line) for line in page.lines] == [len(line) for line in boxes]


def test_frames_specks_holes_and_a_table_are_not_digits() -> None:
    ink, boxes = written()
    for line in boxes:
        for left, top, right, bottom in line:
            frame = (slice(top - 14, bottom + 14), slice(left - 14, right + 14))
            inner = (slice(top - 11, bottom + 11), slice(left - 11, right + 11))
            whole = np.zeros_like(ink)
            whole[frame] = 1
            whole[inner] = 0
            ink = np.maximum(ink, whole)
    chance = np.random.default_rng(0)
    for y, x in chance.integers(5, np.array(ink.shape) - 5, (60, 2)):
        if not ink[y - 5 : y + 6, x - 5 : x + 6].any():
            ink[y : y + 2, x : x + 2] = 1
    rows, columns = np.ogrid[: ink.shape[0], : ink.shape[1] + 120]
    ink = np.pad(ink, ((0, 0), (120, 0)))
    ink[(rows - 150) ** 2 + (columns - 70) ** 2 < 20**2] = 1
    ink[:, :25] = 1
    assert_found(on_paper(ink), [[(a + 120, b, c + 120, d) for a, b, c, d in line] for line in boxes])


def test_neither_light_nor_shadow_nor_the_other_side_are_digits() -> None:
    ink, boxes = written()
    y, x = np.mgrid[: ink.shape[0], : ink.shape[1]]
    for light in (
        120 + 120 * x / x.max(),
        np.where(x + y < 400, 140, 230),
        np.where(ndimage.gaussian_filter((x > 300).astype(float), 5) > 0.5, 120, 230),
        240 * (1 - 0.15 * ndimage.gaussian_filter(ink[:, ::-1], 2)),
    ):
        noise = np.random.default_rng(0).normal(0, 4, ink.shape)
        assert_found(on_paper(ink, light + noise, 30), boxes)


def test_pieces_of_a_digit_are_one() -> None:
    """A 5 without what joins its bar."""
    ink, boxes = written(("1252", "352"))
    for line, place in ((0, 2), (1, 1)):
        left, top, right, _ = boxes[line][place]
        ink[top + 8 : top + 13, left - 2 : right + 2] = 0
    assert_found(on_paper(ink), boxes)


def test_digits_that_touch_are_two(mnist: DigitSplits) -> None:
    """Of pairs of MNIST's, moved together until they touch, many are cut where one ends."""
    images = mnist.validation.images.view(-1, 28, 28).numpy()
    found = 0
    for number in range(0, 60, 2):
        one, other = (image[:, image.any(0)] for image in images[number : number + 2])
        overlap = min(
            (one[row][::-1] > 128).argmax() + (other[row] > 128).argmax()
            for row in range(28)
            if (one[row] > 128).any() and (other[row] > 128).any()
        )
        width = one.shape[1] + other.shape[1] - overlap - 1
        both = np.zeros((28, width), np.uint8)
        both[:, : one.shape[1]] = one
        both[:, -other.shape[1] :] = np.maximum(both[:, -other.shape[1] :], other)
        page = Recognizer().read(Image.fromarray(255 - np.pad(both, 8)).resize(((width + 16) * 3, 132)))
        middle = 3 * (8 + one.shape[1])
        found += len(page.digits) == 2 and abs(page.digits[0].box[2] - middle) < 15
    assert found >= 12


def test_a_cut_goes_through_what_joins_two_strokes() -> None:
    mask = np.zeros((40, 60), bool)
    mask[:, 5:12] = mask[:, 45:52] = True
    mask[18:22, 12:45] = True
    pieces = cut(mask, 7)
    assert np.array_equal(np.sum([piece for piece, _ in pieces], axis=0), mask)  # each pixel is in one
    assert all(length <= 4 / 7 for _, length in pieces)
    before = [np.sum([piece for piece, _ in pieces[:end]], axis=0) for end in range(1, len(pieces))]
    assert any(mask[:, :12].sum() == left[:, :12].sum() and not left[:, 45:].any() for left in before)


def test_a_stroke_through_a_rule_stays() -> None:
    ink = np.zeros((200, 400), np.float32)
    for left in (60, 160, 260, 340):
        ink[60:140, left : left + 8] = 1
    strokes = ink.copy()
    ink[99:101] = 1
    found = without_rules(ink_of(on_paper(ink).astype(np.float32)))
    wider = ndimage.binary_dilation(strokes > 0.5, np.ones((3, 3)))
    assert found[66:134][strokes[66:134] > 0.5].all()
    assert not found[66:134][~wider[66:134]].any()


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (lambda: np.full((300, 300), 220, np.uint8), "there is no ink on it"),
        (
            lambda: np.where(np.add.outer(np.arange(300), np.arange(300)) < 250, 120, 220),
            "there is no ink on it, only light and shadow",
        ),
        (lambda: on_paper(written()[0], 240, 230), "its ink is too faint, 4% darker than the paper: use a darker pen"),
        (
            lambda: np.where((np.indices((300, 300)) % 30 < 3).any(0), 40, 230),
            "nothing on it but lines, .*: use a darker pen",
        ),
    ],
    ids=["blank", "a shadow", "faint", "squared"],
)
def test_a_page_without_digits_says_why(picture: Callable[[], np.ndarray], reason: str) -> None:
    with pytest.raises(NoInkError, match=reason):
        Recognizer().read(picture().astype(np.uint8))


def test_more_marks_than_a_page_of_digits_has_are_refused() -> None:
    ink = np.zeros((1400, 1400), np.float32)
    for row in range(10, 1390, 20):
        for column in range(10, 1390, 20):
            ink[row : row + 12, column : column + 3] = 1
    with pytest.raises(ImageError, match=r"too many marks on it, .*: cut out the part"):
        Recognizer().read(on_paper(ink))


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    shapes=st.lists(
        st.tuples(
            st.sampled_from(["rectangle", "frame", "ellipse", "line"]),
            *[st.floats(-0.1, 1.1)] * 4,
            st.integers(1, 12),
            st.integers(0, 255),
        ),
        max_size=30,
    ),
    paper=st.integers(0, 255),
)
def test_whatever_is_on_a_page_it_is_read_within_the_page_or_refused(
    size: tuple[int, int], shapes: list[tuple[str, float, float, float, float, int, int]], paper: int
) -> None:
    picture = Image.new("L", size, paper)
    draw = ImageDraw.Draw(picture)
    for kind, x, y, to_x, to_y, pen, colour in shapes:
        ends = [*sorted((x * size[0], to_x * size[0])), *sorted((y * size[1], to_y * size[1]))]
        box = (ends[0], ends[2], ends[1], ends[3])
        if kind == "line":
            draw.line([(x * size[0], y * size[1]), (to_x * size[0], to_y * size[1])], colour, pen)
        elif kind == "ellipse":
            draw.ellipse(box, colour)
        else:
            draw.rectangle(box, colour if kind == "rectangle" else None, colour, pen)
    with suppress(ImageError):
        assert_within(Recognizer().read(picture), size)


def assert_within(page: Page, size: tuple[int, int]) -> None:
    assert all(page.lines)
    for left, top, right, bottom in (found.box for found in page.digits):
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]


def test_a_spot_whose_stroke_would_be_thinned_away_is_read_all_the_same() -> None:
    spot = np.zeros((60, 80), np.float32)
    spot[25:33, 30:38] = 1
    assert of_ink(spot)["28x28"].any()
    assert of_ink(spot, 96)["28x28"].any()


def test_colours_that_grey_hardly_shows_are_read() -> None:
    ink, boxes = written(("504192",))
    white, yellow = np.array([252, 252, 250]), np.array([250, 228, 40])
    picture = np.uint8(white + ink[..., np.newaxis] * (yellow - white))
    for mode in ("RGB", "RGBA", "CMYK", "P"):
        page = Recognizer().read(Image.fromarray(picture).convert(mode))
        assert len(page.digits) == 6, mode
        np.testing.assert_allclose(page.digits[3].box, boxes[0][3], atol=4)


def test_a_single_digit_has_its_box(mnist: DigitSplits) -> None:
    pixels = mnist.test.images[0].view(28, 28).numpy()
    rows, columns = (np.flatnonzero((pixels > 60).any(axis)) for axis in (1, 0))
    paper = np.zeros((200, 300), np.uint8)
    paper[50:134, 120:204] = np.kron(pixels, np.ones((3, 3), np.uint8))
    sight = look(paper)
    expected = (120 + 3 * columns[0], 50 + 3 * rows[0], 123 + 3 * columns[-1], 53 + 3 * rows[-1])
    np.testing.assert_allclose(sight.box, expected, atol=4)
    [[box, found]] = Recognizer().read(pixels).digits
    np.testing.assert_allclose(box, (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), atol=1)
    assert (found.digit, found.sure) == (7, True)
