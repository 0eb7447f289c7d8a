"""Where the digits are on a page: of a font, whose boxes are known. What the network answers does not matter."""

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from test_lines_of_a_page import box_of, part

from torchdigits import Recognizer
from torchdigits.data.datasets import DigitSplits
from torchdigits.errors import ImageError, NoInkError
from torchdigits.recognition import cuts, page
from torchdigits.recognition.cuts import cuts as cuts_of
from torchdigits.recognition.ink import Ink, ink_of
from torchdigits.recognition.lines import Part
from torchdigits.recognition.preparation import look
from torchdigits.recognition.recognizer import Page
from torchdigits.recognition.rules import without_rules
from torchdigits.recognition.shapes import likeness
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


def test_the_ragged_edges_of_a_rule_go_with_it() -> None:
    """Of strong squared paper: the outermost pixels are ink half of the time."""
    ink, boxes = written()
    rules, chance = np.zeros_like(ink), np.random.default_rng(0)
    for turned in (rules, rules.T):
        for row in range(20, len(turned) - 3, 45):
            turned[row : row + 4] = [chance.random(turned.shape[1]) < share for share in (0.5, 2, 2, 0.5)]
    picture = on_paper(np.maximum(ink, 0.9 * rules))
    page = Recognizer().read(picture)
    assert [len(line) for line in page.lines] == [len(line) for line in boxes]


def test_digits_may_stand_on_underlines() -> None:
    """So that all ink hangs on them, and nothing is left to compare their lengths with."""
    for numbers in (("5041",), ("5041", "3186"), ("504192", "31864")):
        ink, boxes = written(numbers, gap=0.2)
        for line in boxes:
            bottom = max(box[3] for box in line) - 2
            ink[bottom : bottom + 4, line[0][0] - 8 : line[-1][2] + 8] = 1
        page = Recognizer().read(on_paper(np.pad(ink, 300)))
        assert [len(line) for line in page.lines] == [len(line) for line in boxes]


def test_a_column_of_numbers_is_no_digit() -> None:
    """However much it looks like one from afar: of many, none is read as one."""
    chance = np.random.default_rng(3)
    for _ in range(20):
        lines = tuple("".join(map(str, chance.integers(0, 10, chance.integers(2, 4)))) for _ in range(8))
        ink, boxes = written(lines, size=24, gap=0.3)
        assert len(Recognizer().read(on_paper(ink)).lines) == len(boxes)


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


@pytest.mark.slow
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
    assert found >= 24


def test_a_cut_goes_through_what_joins_two_strokes() -> None:
    mask = np.zeros((40, 60), bool)
    mask[:, 5:12] = mask[:, 45:52] = True
    mask[18:22, 12:45] = True
    found = cuts_of(mask, 7)
    between = [length for left, length in found if left[:, :12].sum() == mask[:, :12].sum() and not left[:, 45:].any()]
    assert 0 < min(between) <= 4 / 7
    taken = [left.sum() for left, _ in found]
    assert taken == sorted(taken)
    assert all(not (left & ~mask).any() for left, _ in found)


def test_a_cut_goes_through_no_more_than_3_6_widths_of_the_pen() -> None:
    for thick, parted in ((25, True), (28, False)):
        mask = np.zeros((40, 60), bool)
        mask[:, 5:17] = mask[:, 45:57] = mask[10 : 10 + thick, 17:45] = True
        assert any(left[0, 5] and not left[0, 50] for left, _ in cuts_of(mask, 7)) is parted
        assert cuts._width(mask) == 51  # from the first column to the last


@pytest.mark.parametrize("slope", [0.6, -0.6, 0.3, -0.3])
def test_slanted_strokes_are_cut_along_their_slope(slope: float) -> None:
    """Two of them, joined by little, which no upright seam parts."""
    rows, columns = np.mgrid[:40, :60]
    along = columns - slope * rows - (4 if slope > 0 else 28)
    one, other = (along >= 0) & (along < 7), (along >= 14) & (along < 21)
    joint = (along >= 7) & (along < 14) & (rows >= 18) & (rows < 22)
    found = cuts_of(one | other | joint, 7)
    assert any(left[one].all() and not left[other].any() for left, _ in found)
    length = min(length for left, length in found if left[one].all() and not left[other].any())
    assert length == pytest.approx(4 / 7, abs=1 / 7)


def test_a_long_chain_is_cut_between_each_two() -> None:
    """Bars in a row, joined at one height or another."""
    mask = np.zeros((40, 12 * 30), bool)
    for bar in range(12):
        mask[:, 30 * bar : 30 * bar + 20] = True
        mask[4 + 2 * bar : 10 + 2 * bar, 30 * bar : 30 * bar + 30] = True
    mask[:, -10:] = False
    lefts = [left for left, _ in cuts_of(mask, 7)]
    for bar in range(11):
        assert any(left[:, 30 * bar + 19].any() and not left[:, 30 * bar + 30].any() for left in lefts)
    assert len(lefts) <= 6 * 9


@pytest.mark.parametrize(("width", "number"), [(40, 12), (100, 30), (300, 60)])
def test_there_are_six_cuts_for_each_digit_that_the_ink_may_be_and_60_in_all(width: int, number: int) -> None:
    seams = [np.full(20, column) for column in range(1, width - 2)]
    assert len(cuts._different(np.ones((20, width), bool), seams)) == number
    assert cuts._different(np.ones((20, width), bool), []) == []


def test_large_ink_is_cut_as_small_ink_is() -> None:
    """From twice 100 rows on it is made smaller for that."""
    mask = np.zeros((50, 60), bool)
    mask[:, 5:12] = mask[:, 45:52] = mask[18:22, 12:45] = True
    large = np.kron(mask, np.ones((8, 8), bool))
    found = cuts_of(large, 56)
    between = [length for left, length in found if left[:, 40:96].all() and not left[:, 360:].any()]
    assert 0 < min(between) <= 4 / 7
    assert all(left.shape == large.shape and not (left & ~large).any() for left, _ in found)
    few = np.random.default_rng(0).random((9, 11)) < 0.2
    expected = [[few[row : row + 4, column : column + 4].any() for column in (0, 4, 8)] for row in (0, 4, 8)]
    assert cuts._smaller(few, 4).tolist() == expected


def test_what_is_sheared_is_ink_or_outside() -> None:
    mask = np.random.default_rng(0).random((9, 5)) < 0.5
    for slope in (0.0, 0.6, -0.3):
        columns, ink = cuts._sheared(mask, slope)
        assert np.diff(columns, axis=1).min() == np.diff(columns, axis=1).max() == 1
        assert np.abs(np.diff(columns, axis=0) - slope).max() < 1
        assert columns.min(1).max() <= 0  # each row has all of its ink
        assert columns.max(1).min() >= 4
        for row in range(9):
            for column, inked in zip(columns[row], ink[row], strict=True):
                assert inked == (0 <= column < 5 and mask[row, column])


def test_a_seam_is_the_cheapest_there_is() -> None:
    """A pixel of ink costs 1, one of paper 0.02, and 1 more if it is reached from its side."""
    chance = np.random.default_rng(0)
    for width in range(1, 9):
        mask = chance.random((6, width)) < 0.5
        cost = np.where(mask, 1, 0.02)

        def aside(row: int, start: int, end: int, cost: np.ndarray = cost) -> float:
            reached = cost[row, start + 1 : end + 1] if start < end else cost[row, end:start]
            return float((reached + 1).sum())

        total = cost[0]
        for row in range(1, 6):
            total = cost[row] + [min(total[a] + aside(row, a, b) for a in range(width)) for b in range(width)]
        found, sources = cuts._cheapest_seams(mask)
        np.testing.assert_allclose(found, total)
        for end in range(width):
            [seam] = cuts._traced(sources, np.array([end])).T
            price = sum(cost[row, seam[row]] + (aside(row, seam[row - 1], seam[row]) if row else 0) for row in range(6))
            assert price == pytest.approx(total[end])


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
            "^the picture: there is nothing on it but lines, .*: use a darker pen, or paper without lines$",
        ),
    ],
    ids=["blank", "a shadow", "faint", "squared"],
)
def test_a_page_without_digits_says_why(picture: Callable[[], np.ndarray], reason: str) -> None:
    with pytest.raises(NoInkError, match=reason):
        Recognizer().read(picture().astype(np.uint8))


def test_more_marks_than_a_page_of_digits_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ink = np.zeros((1400, 1400), np.float32)
    for row in range(10, 1390, 20):
        for column in range(10, 1390, 20):
            ink[row : row + 12, column : column + 3] = 1
    with pytest.raises(ImageError, match=r"too many marks on it, .*: cut out the part"):
        Recognizer().read(on_paper(ink))
    monkeypatch.setattr(page, "_MOST_CANDIDATES", 10)
    with pytest.raises(ImageError, match=r"too many marks on it"):
        page.candidates_on(on_paper(written()[0]).astype(np.float32))


@pytest.mark.slow
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


# The steps, on boxes that can be counted by hand


def test_a_crop_keeps_its_place() -> None:
    both = part(2, 1, 12, 9)
    some = both.mask.copy()
    some[:, :9] = some[4:] = False
    crop = page._cropped(some, both)
    assert box_of(crop) == (11, 1, 12, 5)
    assert crop.mask.all()


def blank_line(height: float = 40) -> page._Line:
    strength = np.ones((60, 300), np.float32)
    return page._Line(3, height, Ink(strength, strength > 0, 4.0), 5.0)


def wholes(parts: list[Part], several: float) -> list[page._Whole]:
    return [page._Whole.of(one, blank_line(), several) for one in parts]


@pytest.mark.parametrize(
    ("box", "cost"),
    [
        ((10, 5, 30, 45), 0),
        ((10, 5, 70, 45), 10),  # too wide
        ((10, 5, 30, 25), 10),  # too low
        ((10, 5, 14, 45), 5),  # too narrow
        ((10, 5, 50, 45), 0),
    ],
)
def test_a_candidate_costs_what_it_is_unlike_a_digit_of_its_line(box: Box, cost: float) -> None:
    found = blank_line().candidate(part(*box), 2, 4, 1.5)
    assert (found.box, found.line, found.start, found.end) == (box, 3, 2, 4)
    assert found.cost == pytest.approx(cost + 1.5)
    assert found.width == (box[2] - box[0]) / 40
    assert found.pixels.shape == (784,)
    assert found.pixels.dtype == np.uint8
    assert found.pixels.any()


@pytest.mark.parametrize(
    ("lefts", "width", "spans"),
    [
        ((0, 19, 60), 15, [(0, 1), (1, 2), (0, 2), (2, 3)]),  # 4 pixels apart
        ((0, 20, 60), 15, [(0, 1), (1, 2), (2, 3)]),  # 5
        ((0, 21, 60), 20, [(0, 1), (1, 2), (0, 2), (2, 3)]),  # 41 pixels wide together
        ((0, 22, 60), 20, [(0, 1), (1, 2), (2, 3)]),  # 42
    ],
)
def test_two_parts_that_are_close_may_be_one_digit(lefts: tuple[int, ...], width: int, spans: list[Any]) -> None:
    parts = [part(left, 5, left + width, 45) for left in lefts]
    found = page._of_line(blank_line(), wholes(parts, math.inf), 99)
    assert [(one.start, one.end) for one in found] == spans
    assert {one.line for one in found} == {3}


def test_pieces_stand_for_their_part_which_may_be_one_digit_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def pieces(one: Part, start: int, line: page._Line) -> list[page.Candidate]:
        whole = line.candidate(one, start, start + 1)
        return [whole, whole._replace(start=start + 1, end=start + 2)] if one.left == 19 else []

    monkeypatch.setattr(page, "_pieces", pieces)
    parts = [part(left, 5, left + 15, 45) for left in (0, 19, 38)]
    found = page._of_line(blank_line(), wholes(parts, -math.inf), 99)
    assert [(one.start, one.end) for one in found] == [(0, 1), (1, 2), (2, 3), (0, 3), (3, 4), (1, 4)]


def test_a_part_is_cut_if_it_is_likely_to_be_several(monkeypatch: pytest.MonkeyPatch) -> None:
    likely = {20: 0.4, 30: 0.5, 40: 0.6, 80: -9.0, 81: -9.0}  # the last is more than two heights wide
    monkeypatch.setattr(page, "_odds", lambda candidate: likely[candidate.box[2] - candidate.box[0]])
    cut: list[int] = []

    def pieces(one: Part, *_: Any) -> list[page.Candidate]:
        cut.append(one.width)
        return []

    monkeypatch.setattr(page, "_pieces", pieces)
    parts = [part(left, 5, left + width, 45) for left, width in ((0, 20), (60, 30), (100, 40), (150, 80), (250, 81))]
    assert len(page._of_line(blank_line(), wholes(parts, 0.5), 5)) == 5
    assert cut == [30, 40, 81]
    with pytest.raises(ImageError, match="too many marks on it"):
        page._of_line(blank_line(), wholes(parts, 0.5), 4)


def test_what_is_all_of_a_picture_is_cut_at_smaller_odds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, float, float]] = []
    whole_of = page._Whole.of

    def of(part: Part, line: page._Line, several: float) -> page._Whole:
        asked.append((line.number, line.height, several))
        return whole_of(part, line, several)

    monkeypatch.setattr(page._Whole, "of", of)
    for lines, several in ((("8",), None), (("88",), None), (("8", "8"), None), (("8",), 3.0)):
        page.candidates_on(on_paper(written(lines)[0]).astype(np.float32), several)
    assert [(number, several) for number, _, several in asked] == [
        (0, -0.5),
        *[(0, 1.5), (0, 1.5)],
        *[(0, 1.5), (1, 1.5)],
        (0, 3.0),
    ]
    assert len({height for _, height, _ in asked}) == 1


def test_a_cut_costs_more_where_most_parts_are_taken_for_one_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    costs: list[float] = []

    def pieces(one: Part, start: int, line: page._Line) -> list[page.Candidate]:
        costs.append(line.cut)
        return []

    monkeypatch.setattr(page, "_pieces", pieces)
    for lines, several, cut in (
        (("8",), 1, 0),
        (("88",), 1, 0),  # one of two
        (("88", "8"), 1, 5),
        (("88", "8"), 2, 0),
        (("888", "88"), 2, 5),
    ):
        odds = iter([9.0] * several + [-9.0] * 9)
        monkeypatch.setattr(page, "_odds", lambda _, odds=odds: next(odds))
        costs.clear()
        page.candidates_on(on_paper(written(lines)[0]).astype(np.float32))
        assert costs == [cut] * several


def test_the_odds_of_a_candidate_are_those_of_several() -> None:
    candidate = blank_line().candidate(part(30, 5, 60, 45), 0, 1)
    image = candidate.pixels[np.newaxis]
    assert page._odds(candidate) == pytest.approx(float(likeness(image)[1][0, 1]), rel=1e-5)


def test_pieces_are_what_is_between_two_cuts_that_do_not_cross(monkeypatch: pytest.MonkeyPatch) -> None:
    line, whole = blank_line(), part(30, 5, 90, 45)
    whole.mask[15:, 20:40] = whole.mask[17:, 40:] = False
    lefts = [whole.mask.copy() for _ in range(3)]
    lefts[0][:, 20:] = lefts[1][:, 40:] = lefts[2][:, 50:] = False
    lefts[2][:10, 10:] = False  # it crosses the other two
    given = list(zip(lefts, (0.5, 2.0, 3.0), strict=True))
    monkeypatch.setattr(page, "cuts", lambda mask, pen: given if mask is whole.mask and pen == line.ink.pen else [])
    found = page._pieces(whole, 5, line)
    edges = {0: 30, 1: 50, 2: 70, 3: 80, 4: 90}
    costs = {(0, 1): 2.75, (0, 2): 3.5, (0, 3): 4, (0, 4): 0, (1, 4): 2.75, (2, 4): 3.5, (3, 4): 4}  # 5 a cut, and ink
    assert [(one.start - 5, one.end - 5) for one in found] == [*costs]  # between the first two it is too low
    for one in found:
        first, last = one.start - 5, one.end - 5
        fit = line.candidate(part(*one.box), 0, 1).cost
        assert one.cost - fit == pytest.approx(costs[first, last])
        assert one.box[2] == edges[last]
        assert one.box[0] == (40 if (first, last) == (3, 4) else edges[first])
    monkeypatch.setattr(page, "cuts", lambda *_: [])
    assert page._pieces(whole, 5, line) == []
    low = part(30, 5, 90, 45)
    low.mask[15:, 20:40] = False
    given = [(low.mask & (np.arange(60) < column), 0.0) for column in (20, 40)]
    monkeypatch.setattr(page, "cuts", lambda *_: given)
    assert [(one.start, one.end) for one in page._pieces(low, 5, line)] == [(5, 6), (5, 7), (5, 8), (6, 8), (7, 8)]
    for width, spans in ((52, [(5, 6), (5, 7), (6, 7)]), (53, [(5, 7), (6, 7)])):  # 1.3 heights, and more
        wide = part(30, 5, 90, 45)
        left = wide.mask.copy()
        left[:, width:] = False
        monkeypatch.setattr(page, "cuts", lambda *_, left=left: [(left, 0.0)])
        assert [(one.start, one.end) for one in page._pieces(wide, 5, line)] == spans


def test_the_strength_of_a_part_has_soft_edges_and_nothing_of_others() -> None:
    strength = np.zeros((40, 40), np.float32)
    strength[10:20, 10:20], strength[10:20, 20] = 0.5, 0.25
    strength[10:20, 22:30] = 0.5
    strength[15, 15] = 0.9  # darker than most
    found = page._strength(part(10, 10, 20, 20), Ink(strength, strength > 0.4, 4.0))
    expected = np.zeros((12, 12))
    expected[1:11, 1:11], expected[1:11, 11] = 1, 0.5
    np.testing.assert_allclose(found, expected)
    assert found.dtype == np.float32
    at_edge = page._strength(part(0, 0, 10, 10), Ink(np.ones((10, 10), np.float32), np.ones((10, 10), bool), 4.0))
    assert at_edge.shape == (12, 12)
