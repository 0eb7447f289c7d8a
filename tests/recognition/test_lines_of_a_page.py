"""Parts of ink and their lines, on boxes that can be counted by hand."""

import numpy as np
import pytest

from torchdigits.errors import ImageError
from torchdigits.recognition import lines
from torchdigits.recognition.lines import Part, lines_of, parts_on, together

Box = tuple[int, int, int, int]


def part(left: int, top: int, right: int, bottom: int) -> Part:
    return Part(np.ones((bottom - top, right - left), bool), left, top)


def box_of(one: Part) -> Box:
    return one.left, one.top, one.right, one.bottom


def test_a_part_has_its_level_along_a_slope() -> None:
    one = part(10, 20, 30, 60)
    assert (one.right, one.bottom, one.width, one.height, one.longest) == (30, 60, 20, 40, 40)
    assert part(0, 0, 9, 5).longest == 9
    assert [one.level(slope) for slope in (0, 0.5, -0.5)] == [40, 30, 50]


def test_a_gap_is_the_distance_of_two_boxes_aside_twice_as_much() -> None:
    one = part(10, 10, 20, 20)
    for other, gap in (((22, 23, 30, 30), 5), ((12, 23, 15, 25), 3), ((1, 12, 8, 15), 4), ((15, 5, 17, 40), 0)):
        assert lines._gap(one, part(*other)) == lines._gap(part(*other), one) == gap


def test_parts_together_keep_their_places() -> None:
    boxes = ((2, 3, 6, 8), (10, 1, 12, 5), (3, 7, 11, 9))
    mask = np.zeros((20, 30), bool)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    parts = [part(*box) for box in boxes]
    parts[2].mask[0] = False  # where the first has ink
    mask[7, 6:11] = False
    both = together(parts)
    assert box_of(both) == (2, 1, 12, 9)
    assert np.array_equal(both.mask, mask[1:9, 2:12])


@pytest.mark.parametrize(
    ("box", "typical", "outside"),
    [
        ((0, 40, 10, 60), 20, False),
        ((0, 40, 10, 60), 9, True),  # more than 2.2 times as long as usual
        ((0, 40, 10, 60), 10, False),
        ((0, 40, 10, 60), 40, True),  # half as long
        ((0, 40, 10, 60), 39, False),
        ((40, 0, 50, 20), 5, True),
        ((190, 40, 200, 60), 5, True),
        ((40, 80, 50, 100), 5, True),
        ((1, 1, 199, 99), 5, False),
    ],
)
def test_what_comes_from_outside_is_at_the_edge_and_of_another_length(box: Box, typical: int, outside: bool) -> None:
    assert lines._comes_from_outside(part(*box), (100, 200), typical) is outside


def test_spots_are_as_thick_as_long() -> None:
    rows, columns = np.mgrid[-12:13, -12:13]
    disc = np.hypot(rows, columns) < 12
    assert lines._is_spot(Part(disc, 0, 0))
    assert not lines._is_spot(Part(disc & (np.hypot(rows, columns) > 6), 0, 0))
    # The mean distance to the edge of h x w pixels, h the less, is h / 4 - h² / 12w: their stroke is longer than
    # w / 2.3 up to w = 1.9 h.
    for long, short, spot in ((24, 24, True), (42, 23, True), (44, 22, False), (24, 10, False), (30, 9, False)):
        assert lines._is_spot(part(0, 0, long, short)) is lines._is_spot(part(0, 0, short, long)) is spot
    corner = np.add.outer(np.arange(24), np.arange(24)) < 25  # a triangle, which fills half of its box
    assert not lines._is_spot(Part(corner, 0, 0))


@pytest.mark.parametrize("slope", [-0.1, -0.05, 0, 0.05, 0.1])
def test_lines_lie_along_a_slope(slope: float) -> None:
    tops = [(x, y + round(slope * x)) for y in (100, 180) for x in range(0, 480, 60)]
    parts = [part(x, y, x + 20, y + 40) for x, y in tops]
    assert lines._slope(parts) == pytest.approx(slope, abs=0.011)
    assert lines._slope(parts * 60) == lines._slope(parts)
    jitter = np.random.default_rng(0).integers(-4, 5, len(tops)).tolist()
    uneven = [part(x, y + aside, x + 20, y + aside + 40) for (x, y), aside in zip(tops, jitter, strict=True)]
    assert lines._slope(uneven) == pytest.approx(slope, abs=0.021)
    assert lines._slope(parts[:1]) == pytest.approx(0, abs=1e-9)  # what any would do for
    chance = np.random.default_rng(0)
    found = lines_of([parts[n] for n in chance.permutation(len(parts))], 4)
    assert [[box_of(one) for one in line] for line in found] == [
        [box_of(one) for one in parts[n : n + 8]] for n in (0, 8)
    ]


@pytest.mark.parametrize(
    ("small", "number"),
    [
        ([(100, 10, 112, 24)], 2),  # alone, and higher than three widths of the pen
        ([(100, 10, 112, 22)], 1),
        ([(100, 10, 112, 19), (120, 10, 132, 19)], 2),  # higher than two
        ([(100, 10, 112, 18), (120, 10, 132, 18)], 1),
        ([(100, 72, 112, 85)], 1),  # a piece of the digit below, 15 pixels away
        ([(100, 71, 112, 84)], 2),  # 16 pixels: two fifths of its height
    ],
)
def test_small_digits_have_lines_of_their_own_unless_they_are_pieces_of_others(small: list[Box], number: int) -> None:
    large = [(x, 100, x + 20, 140) for x in range(0, 300, 50)]
    found = lines_of([part(*box) for box in (*large, *small)], 4)
    assert len(found) == number
    if number == 2:
        assert [box_of(one) for one in found[0]] == small
    pieces = small if small == [(100, 72, 112, 85)] else []
    expected = [(x, 72 if pieces and x == 100 else 100, x + 20, 140) for x in range(0, 300, 50)]
    assert [box_of(one) for one in found[-1]] == expected


@pytest.mark.parametrize(
    ("low", "joined"),
    [
        ((24, 117, 34, 121), False),  # a minus sign before the second digit
        ((20, 117, 29, 121), False),
        ((24, 117, 34, 123), True),  # no dash
        ((24, 104, 34, 108), True),  # the bar of a 5
        ((24, 108, 34, 114), True),
        ((24, 109, 34, 113), False),
        ((24, 129, 34, 133), False),
        ((24, 131, 34, 135), True),
        ((18, 117, 29, 121), True),  # it goes on into the digit
    ],
)
def test_a_dash_beside_a_digit_is_no_piece_of_it(low: Box, joined: bool) -> None:
    large = [(x, 100, x + 20, 140) for x in range(0, 300, 50)]
    [found] = lines_of([part(*box) for box in (*large, low)], 4)
    first = (0, 100, low[2], 140) if joined else large[0]
    assert [box_of(one) for one in found] == [first, *large[1:]]


def test_a_line_is_what_lies_within_half_a_height_and_is_half_as_high() -> None:
    large = [(x, 100, x + 20, 140) for x in range(0, 300, 50)]
    for lower, higher, end, numbers in ((15, 0, 300, [12]), (25, 0, 300, [6, 6]), (16, 16, 150, [9])):
        others = [(x + 25, 100 + lower, x + 45, 140 + lower - higher) for x in range(0, end, 50)]
        assert [len(line) for line in lines_of([part(*box) for box in (*large, *others)], 4)] == numbers


@pytest.mark.parametrize(("lower", "together"), [(5, True), (7, False)])
def test_a_higher_digit_is_of_the_line_if_it_lies_within_two_fifths_of_its_height(lower: int, together: bool) -> None:
    low = [(x, 100, x + 20, 120) for x in range(0, 300, 50)]
    found = lines_of([part(*box) for box in (*low, (300, 100 + lower, 320, 140 + lower))], 4)
    assert [len(line) for line in found] == ([7] if together else [6, 1])


@pytest.mark.parametrize(
    ("boxes", "stacked"),
    [
        ([(0, 0, 20, 8), (2, 10, 20, 40)], [(0, 0, 20, 40)]),  # the bar of a 5
        ([(0, 0, 20, 8), (10, 10, 28, 40)], [(0, 0, 28, 40)]),
        ([(0, 0, 20, 12), (2, 10, 20, 40)], [(0, 0, 20, 40)]),  # which it overlaps a little
        ([(0, 0, 20, 16), (14, 18, 34, 50)], [(0, 0, 20, 16), (14, 18, 34, 50)]),  # above, but farther to the side
        ([(0, 5, 20, 28), (16, 10, 34, 40)], [(0, 5, 20, 28), (16, 10, 34, 40)]),  # beside each other
        ([(0, 0, 20, 30), (2, 20, 20, 40)], [(0, 0, 20, 30), (2, 20, 20, 40)]),  # not above each other
        ([(0, -30, 20, 0), (2, 5, 20, 40)], [(0, -30, 20, 0), (2, 5, 20, 40)]),  # too high for one
        ([(0, -14, 20, 6), (2, 12, 20, 40)], [(0, -14, 20, 40)]),  # less than 1.4 heights
        ([(0, -18, 20, 2), (2, 8, 20, 40)], [(0, -18, 20, 2), (2, 8, 20, 40)]),
        ([(0, 0, 20, 13)], []),  # dashes
        ([(left, 0, left + 20, 10) for left in range(-150, 0, 30)], []),
        ([(0, 0, 20, 15)], [(0, 0, 20, 15)]),
    ],
)
def test_what_lies_above_is_of_one_digit_and_dashes_are_of_none(boxes: list[Box], stacked: list[Box]) -> None:
    others = [(50 + 30 * n, 0, 70 + 30 * n, 40) for n in range(3)]
    found = lines._stacked([part(*box) for box in (*boxes, *others)])
    assert [box_of(one) for one in found] == [*stacked, *others]


@pytest.mark.parametrize(
    ("boxes", "mended"),
    [
        ([(0, 0, 20, 27), (4, 27, 24, 47)], True),  # less than 1.2 heights in all
        ([(0, 0, 20, 27), (4, 27, 24, 48)], False),
        ([(0, 0, 20, 27), (4, 27, 24, 40)], True),  # less than 0.7 each
        ([(0, 0, 20, 28), (4, 28, 24, 40)], False),
        ([(0, 0, 20, 12), (4, 28, 24, 40)], False),
        ([(0, 0, 20, 20), (4, 25, 24, 40)], True),  # less than 0.15 apart
        ([(0, 0, 20, 20), (4, 26, 24, 40)], False),
        ([(0, 0, 20, 20), (4, 19, 24, 40)], False),  # beside each other in a row
        ([(0, 0, 20, 20), (14, 20, 38, 40)], True),  # more than a quarter of the narrower one above the other
        ([(0, 0, 20, 20), (15, 20, 39, 40)], False),
        ([(0, 0, 20, 10), (4, 10, 24, 19)], True),  # more than 0.45 in all
        ([(0, 0, 20, 10), (4, 10, 24, 18)], False),
        ([(0, 0, 20, 8), (0, 12, 20, 20)], True),
        ([(0, 0, 21, 8), (0, 12, 21, 20)], False),  # bars, more than 2.5 times as wide as high: an equals sign
        ([(0, 0, 3, 16), (0, 18, 3, 34)], True),
        ([(0, 0, 3, 16), (0, 18, 3, 34), (0, 36, 3, 52)], False),  # a dashed line
    ],
)
def test_halves_one_close_above_the_other_are_a_digit(boxes: list[Box], mended: bool) -> None:
    parts = [part(*box) for box in reversed(boxes)]
    both = [box_of(together(parts))] if mended else boxes
    for others in ([], [(100, 0, 125, 40)]):
        found = lines._mended([part(*box) for box in others] + parts, 40)
        assert sorted(box_of(one) for one in found) == both + others


@pytest.mark.parametrize(
    ("left", "lower", "height", "mended"),
    [
        (54, 0, 20, False),
        (55, 0, 20, True),  # not within a height
        (54, 0, 14, False),
        (54, 0, 13, True),  # not two thirds as high
        (54, 9, 20, False),
        (54, 10, 20, True),  # half of it below
    ],
)
def test_lines_of_small_digits_stay_apart(left: int, lower: int, height: int, mended: bool) -> None:
    rows = [[(0, y, 15, y + 20), (left, y + lower, left + 15, y + lower + height)] for y in (0, 21)]
    found = lines._mended([part(*box) for row in rows for box in row], 40)
    assert ((0, 0, 15, 41) in map(box_of, found)) is mended


@pytest.mark.parametrize("down", [0, 60])
@pytest.mark.parametrize(
    "pieces",
    [
        [(50, 0, 70, 19), (54, 21, 74, 40)],
        [(50, 0, 80, 15), (50, 17, 66, 34)],  # each less than half as high as a digit
        [(54, 0, 84, 8), (50, 9, 66, 20), (52, 20, 70, 36)],
    ],
)
def test_a_digit_in_halves_is_one_of_its_line_or_a_line(pieces: list[Box], down: int) -> None:
    others = [(left, down, left + 25, down + 40) for left in (0, 100, 150, 200)]
    found = [[box_of(one) for one in line] for line in lines_of([part(*box) for box in (*others, *pieces)], 6.0)]
    whole = box_of(together([part(*box) for box in pieces]))
    assert found == ([[whole], others] if down else [[others[0], whole, *others[1:]]])


def test_specks_and_short_pieces_are_no_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.zeros((80, 300), bool)
    strokes = [(x, 20, x + 4, 60) for x in (20, 60, 100)]
    # Less than 0.4 squares of the pen, or no longer than 1.5 of its widths, or touching with a corner.
    for left, top, right, bottom in (
        *strokes,
        (150, 20, 156, 21),
        (170, 20, 176, 26),
        (190, 20, 199, 21),
        (104, 60, 106, 62),
    ):
        mask[top:bottom, left:right] = True
    found = parts_on(mask, 4.0)
    assert [box_of(one) for one in found] == [*strokes[:2], (100, 20, 106, 62), (190, 20, 199, 21)]
    assert [int(one.mask.sum()) for one in found] == [160, 160, 164, 9]
    thin = np.zeros((80, 300), bool)
    thin[20:40, 20:22] = thin[20:40, 60:62] = True
    thin[range(30, 34), range(100, 104)] = thin[range(30, 33), range(120, 123)] = True  # 4 pixels, and 3
    thin[[30, 31, 32, 32], [140, 141, 142, 140]] = True  # 4, but no longer than 1.5 widths of the pen
    assert [box_of(one) for one in parts_on(thin, 2.0)] == [(20, 20, 22, 40), (60, 20, 62, 40), (100, 30, 104, 34)]
    monkeypatch.setattr(lines, "_MOST_PARTS", 3)
    assert len(parts_on(thin, 2.0)) == 3
    monkeypatch.setattr(lines, "_MOST_PARTS", 2)
    with pytest.raises(ImageError, match=r"^there are too many marks on it, as in print or noise: cut out the part "):
        parts_on(thin, 2.0)
    wide = np.zeros((80, 300), bool)
    wide[10:70, 20:30] = wide[40, 100:120] = True
    wide[40:66, 290:] = True  # comes in from outside
    assert [box_of(one) for one in parts_on(wide, 10.0)] == [(20, 10, 30, 70)]
