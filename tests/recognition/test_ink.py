"""What is ink, and which straight lines nobody wrote, on small masks that can be counted by hand."""

import itertools

import numpy as np
import pytest

from torchdigits.errors import NoInkError
from torchdigits.recognition import ink, rules
from torchdigits.recognition.ink import Ink, ink_of, is_light_on_dark, run_lengths

Box = tuple[int, int, int, int]


def drawn(shape: tuple[int, int], *boxes: Box) -> np.ndarray:
    """A mask with these boxes: left, top, right, bottom."""
    mask = np.zeros(shape, bool)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    return mask


def frame(left: int, top: int, right: int, bottom: int, pen: int = 2) -> list[Box]:
    return [
        (left, top, right, top + pen),
        (left, bottom - pen, right, bottom),
        (left, top, left + pen, bottom),
        (right - pen, top, right, bottom),
    ]


def test_run_lengths_are_those_that_are_counted() -> None:
    chance = np.random.default_rng(0)
    for share in (0.1, 0.5, 0.9, 0, 1):
        mask = chance.random((9, 13)) < share
        found = run_lengths(mask)
        for row, expected in zip(mask, found, strict=True):
            counted = [[len(run) * value for _ in run] for value, same in itertools.groupby(row) for run in [[*same]]]
            assert [int(n) for run in counted for n in run] == expected.tolist()


@pytest.mark.parametrize("paper", [60, 128, 220])
def test_ink_may_be_lighter_or_darker_than_its_paper(paper: int) -> None:
    wide = drawn((90, 300), (20, 20, 25, 70), (100, 20, 150, 25))
    for strokes in (drawn((90, 90), (20, 20, 25, 70)), wide, wide.T):
        light = np.arange(strokes.size, dtype=np.float32).reshape(strokes.shape) / strokes.size * 20  # on one side
        for sign in (-1, 1):
            assert is_light_on_dark(paper + light + sign * 30 * strokes) is (sign == 1)


@pytest.mark.parametrize("shape", [(60, 80), (450, 600), (1300, 1700)])
@pytest.mark.parametrize("inverted", [False, True])
def test_ink_is_where_it_is_and_as_strong_and_the_pen_as_wide(shape: tuple[int, int], inverted: bool) -> None:
    """Under a shadow whose edge crosses it, too; a table beside the paper is no ink."""
    height, width = shape
    pen = max(3, height // 50)
    stroke = drawn(shape, (width // 4, height // 5, width // 4 + pen, height // 2))
    stroke |= drawn(shape, (width // 4, height // 2 - pen, width // 2, height // 2))
    light = np.full(shape, 200, np.float32)
    light[:, : width // 3] *= 0.8
    light[height * 9 // 10 :] = 60  # the table
    grey = light * np.where(stroke, 0.4, 1.0).astype(np.float32)
    grey += np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    found = ink_of(255 - grey if inverted else grey)
    assert found.mask.dtype == bool
    assert found.strength.shape == found.mask.shape == shape
    upper = np.zeros(shape, bool)
    upper[: height * 8 // 10] = True
    wrong = (found.mask != stroke) & upper
    assert wrong.sum() < 0.35 * stroke.sum()
    assert found.mask[stroke].mean() > 0.95
    assert found.strength[stroke].mean() == pytest.approx(0.6, abs=0.05)
    assert abs(found.strength[upper & ~stroke].mean()) < 0.06
    assert found.pen == pytest.approx(pen, abs=max(1, 0.25 * pen))


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("side", [110, 60])
def test_a_blot_is_no_ink_beside_a_stroke(scale: int, side: int) -> None:
    """It is wider than the pen by far; as large as it is, a picture of 240 x 320 is looked at without a sketch."""
    shape = (240 * scale, 320 * scale)
    stroke = drawn(shape, (50 * scale, 40 * scale, 55 * scale, 200 * scale))
    blot = drawn(shape, (150 * scale, 60 * scale, (150 + side) * scale, (60 + side) * scale))
    found = ink_of(np.where(stroke | blot, 60, 210).astype(np.float32))
    assert found.mask[stroke].all()
    assert not found.mask[blot].any()
    assert found.pen == pytest.approx(5 * scale, abs=scale)


def test_a_round_spot_is_no_ink_nor_is_its_rim() -> None:
    """A square as large as some widths of the pen does not reach into its corners: those are told by a sketch."""
    shape = (1000, 1200)
    stroke = drawn(shape, *[(left, 100, left + 20, 900) for left in range(50, 650, 100)])
    rows, columns = np.mgrid[:1000, :1200]
    spot = np.hypot(rows - 500, columns - 830) < 150
    found = ink_of(np.where(stroke | spot, 60, 210).astype(np.float32))
    assert found.mask[stroke].all()
    assert not found.mask[spot].any()


def test_white_on_black_is_black_on_white() -> None:
    grey = np.where(drawn((200, 200), (50, 50, 56, 150)), 0, 200).astype(np.float32)
    one, other = ink_of(grey), ink_of(255 - grey)
    assert np.array_equal(one.strength, other.strength)
    assert one.strength.max() == np.float32(199 / 200)  # as nothing is darker than 1


def test_a_pixel_alone_is_noise_but_on_a_small_picture() -> None:
    for side in (56, 57):
        stroke, dot = drawn((side, side), (20, 5, 24, 50)), drawn((side, side), (40, 30, 41, 31))
        found = ink_of(np.where(stroke | dot, 60, 210).astype(np.float32))
        assert found.mask[30, 40] == (side == 56)
        assert found.mask[stroke].all()


@pytest.mark.parametrize(("paper", "dark"), [(200, 50), (64, 16), (40, 10)])
def test_strength_is_a_share_of_the_paper_or_of_64_steps_of_grey(paper: int, dark: int) -> None:
    stroke = drawn((60, 60), (20, 10, 24, 50))
    found = ink._ink(np.where(stroke, dark, paper).astype(np.float32), 21, smooth=False)
    expected = np.where(stroke, (paper - dark) / max(paper, 64), 0)
    np.testing.assert_allclose(found.strength, expected, rtol=1e-6)
    assert np.array_equal(found.mask, stroke)
    assert found.pen == 4


@pytest.mark.parametrize(
    ("grain", "full", "none", "some"),
    [
        (0.0, 0.5, 0.224, 0.226),  # 45 % of what most ink has
        (0.0, 0.064, 0.0295, 0.0305),  # half of the least contrast
        (0.01, 0.12, 0.068, 0.071),  # 4 standard deviations of the noise beside what most paper has
    ],
)
def test_how_dark_a_pixel_of_ink_is(grain: float, full: float, none: float, some: float) -> None:
    """Of rows of paper, 4 in 10 are a grain darker than the lightest, and 3 two: a deviation is 1.48 grains."""
    strength = np.tile(grain * np.array([0, 1, 0, 1, 0, 2, 1, 2, 1, 2]), 9)[:, np.newaxis] * np.ones(90)
    strength[10:80, 20:24] = full
    strength[40, 50], strength[60, 70] = none, some
    found = ink._ink((200 * (1 - strength)).astype(np.float32), 31, smooth=False)
    assert found.mask[10:80, 20:24].all()
    assert found.mask.sum() == 4 * 70 + 1
    assert found.mask[60, 70]


def test_a_wide_pen_on_a_small_picture_is_seen_without_a_second_look() -> None:
    stroke = drawn((60, 60), (25, 5, 35, 55))
    found = ink_of(np.where(stroke, 60, 210).astype(np.float32))
    assert found.mask[stroke].all()
    assert found.mask.sum() < 1.5 * stroke.sum()
    assert 10 <= found.pen <= 14


@pytest.mark.parametrize(("noise", "darker", "told"), [(0, 12, 6), (6, 8, 5)])
def test_what_is_too_faint_is_told_by_how_much(noise: float, darker: int, told: int) -> None:
    """Beside the paper as it mostly is, which noise makes a little darker than the lightest around."""
    grey = np.random.default_rng(0).normal(200, noise, (200, 200)) - darker * drawn((200, 200), (50, 50, 56, 150))
    with pytest.raises(NoInkError) as raised:
        ink_of(grey.astype(np.float32))
    expected = f"its ink is too faint, {told}% darker than the paper: use a darker pen, or more light"
    assert str(raised.value) == expected


def test_blank_paper_has_no_ink() -> None:
    with pytest.raises(NoInkError) as raised:
        ink_of(np.full((200, 200), 200, np.float32))
    assert str(raised.value) == "there is no ink on it"


def test_whether_something_fills_a_square() -> None:
    mask = drawn((20, 30), (5, 5, 12, 11))  # 7 by 6
    for size, fills in ((2, True), (3, True), (5.9, True), (6, True), (7, False), (50, False)):
        assert ink._fills(mask, size) is fills
    assert not ink._fills(drawn((20, 30), (5, 5, 7, 15)), 1)  # of three pixels at least
    assert ink._fills(drawn((20, 30), (5, 5, 8, 8)), 1)
    assert not ink._fills(drawn((20, 30), (0, 0, 4, 20)), 5)  # beyond the edge there is nothing


def test_rims_of_spots_are_no_ink() -> None:
    """The sketch has the spot, a quarter as large; of it the fine picture has its rim alone."""
    stroke, spot = (80, 30, 84, 90), (10, 10, 58, 58)
    sketched = drawn((100, 100), stroke, spot)[::4, ::4]
    rim = drawn((100, 100), *frame(*spot, pen=4))
    mask = drawn((100, 100), stroke) | rim
    assert np.array_equal(ink._without_rims(mask, sketched), drawn((100, 100), stroke))
    assert np.array_equal(ink._without_rims(mask, drawn((100, 100), stroke)[::4, ::4]), mask)


@pytest.mark.parametrize(("side", "kept"), [(32, True), (33, False)])
def test_a_ring_is_a_rim_if_two_fifths_of_its_spot_are_inside(side: int, kept: bool) -> None:
    """Of a spot of 33 x 33 pixels 21 x 21 are more than two pixels inside a rim of four: 40.5 %; of 32 x 32, 39.1 %."""
    spot = (10, 10, 10 + side, 10 + side)
    rim = drawn((60, 60), *frame(*spot, pen=4))
    assert np.array_equal(ink._without_rims(rim, drawn((60, 60), spot)), rim if kept else np.zeros_like(rim))


# Rules


def test_the_typical_length_has_as_much_ink_above_as_below() -> None:
    chance = np.random.default_rng(0)
    for _ in range(50):
        lengths, areas = chance.integers(1, 40, 9), chance.integers(1, 90, 9)
        found = rules._typical(lengths, areas, 3.0)
        large = [(n, a) for n, a in zip(lengths.tolist(), areas.tolist(), strict=True) if n > 6]
        total = sum(a for _, a in large)
        assert found in {n for n, _ in large}
        assert sum(a for n, a in large if n < found) < total / 2 <= sum(a for n, a in large if n <= found)
    assert rules._typical(np.array([6, 2]), np.array([6, 2]), 3.0) == 0
    assert rules._typical(np.array([], int), np.array([], int), 3.0) == 0


@pytest.mark.parametrize("slope", [-0.1, -0.06, 0, 0.04, 0.1])
def test_lines_of_so_many_pixels_near_the_rows(slope: float) -> None:
    def line(start: int, length: int) -> np.ndarray:
        mask = np.zeros((80, 200), bool)
        columns = np.arange(start, start + length)
        mask[40 + np.round(slope * columns).astype(int), columns] = True
        return mask

    assert np.array_equal(rules._on_lines(line(20, 120), 100), line(20, 120))
    assert not rules._on_lines(line(20, 80), 100).any()
    assert not rules._on_lines(line(20, 120).T, 60).any()
    holed = line(20, 120)
    holed[:, 60:68] = False
    assert rules._on_lines(holed, 100).sum() == 112
    holed[:, 50:78] = False
    assert not rules._on_lines(holed, 100).any()


def test_a_stroke_across_a_line_stays() -> None:
    rule, stroke = (0, 20, 100, 22), (50, 5, 54, 40)
    mask = drawn((50, 100), rule, stroke)
    lines, beside = rules._without_crossings(mask, drawn((50, 100), rule))
    assert np.array_equal(lines, drawn((50, 100), (0, 20, 50, 22), (54, 20, 100, 22)))
    assert np.array_equal(beside, lines)  # as there is no ink beside it
    ragged = mask | drawn((50, 100), (10, 19, 20, 20), (30, 22, 40, 23), (80, 18, 90, 19))
    lines, beside = rules._without_crossings(ragged, drawn((50, 100), rule))
    assert np.array_equal(beside & ~lines, drawn((50, 100), (10, 19, 20, 20), (30, 22, 40, 23)))
    # A little thicker than usual is no crossing, of thin lines or of thick ones.
    for thick, usual, kept in ((4, 2, True), (5, 2, False), (16, 10, True), (17, 10, False)):
        mask = drawn((50, 100), (0, 20, 100, 20 + usual), (50, 20, 54, 20 + thick))
        lines, _ = rules._without_crossings(mask, mask)
        assert lines[20, 52] == kept
        assert lines[20, 20]
    nothing = np.zeros((50, 100), bool)
    assert not any(found.any() for found in rules._without_crossings(mask, nothing))


@pytest.mark.parametrize(
    ("boxes", "removed"),
    [
        ([*frame(5, 5, 65, 45), (20, 15, 24, 35)], 4),
        ([*frame(5, 5, 65, 45), (20, 15, 24, 35), (0, 0, 70, 2)], 4),  # after another long line
        ([(7, 5, 63, 7), (7, 43, 63, 45), (5, 7, 7, 43), (63, 7, 65, 43), (20, 15, 24, 35)], 4),  # by its corners
        ([*frame(5, 5, 65, 45)], 0),  # around nothing
        ([*frame(5, 5, 65, 45), (20, 15, 24, 30)], 0),  # around something too short: the stroke of a 0 around a speck
        ([*frame(5, 5, 65, 45), (70, 15, 74, 45)], 0),  # beside something
        ([*frame(5, 5, 65, 45, 9), (30, 20, 34, 40)], 0),  # that fills half of its box
        ([*frame(5, 5, 65, 45), (28, 7, 36, 43), (48, 12, 52, 36)], 0),  # with much ink inside, that touches it
        ([*frame(5, 5, 16, 16, 1), (8, 8, 12, 13)], 0),  # shorter than six widths of the pen
        ([*frame(2, 2, 75, 48, 1), *frame(5, 5, 65, 45), (20, 15, 24, 35)], 8),  # one in the other
    ],
)
def test_frames_around_ink_are_removed(boxes: list[Box], removed: int) -> None:
    mask = drawn((50, 80), *boxes)
    assert np.array_equal(rules._without_frames(mask, 2.0), drawn((50, 80), *boxes[removed:]))


DIGITS: list[Box] = [(20 + 30 * n, 30, 24 + 30 * n, 54) for n in range(8)]


@pytest.mark.parametrize(
    ("boxes", "lengths"),
    [
        ([*DIGITS, (0, 10, 280, 12)], [140, 70, 43]),  # a half, a quarter, and 1.8 times the digits' 24
        ([*DIGITS, (0, 10, 120, 12)], [60, 43]),  # 30 is less than eight widths of the pen
        ([(20, 20, 24, 80)], [85]),  # 0.85 of the picture's shorter side
        (DIGITS, []),
        (DIGITS[:2], []),
        ([(20, 20, 130, 70), (150, 20, 240, 70)], []),  # two of 2.2 heights and less
        ([(20, 20, 131, 70), (150, 20, 240, 70)], [55]),  # half of one that may hang on a line
        ([(20, 20, 140, 70)], [60]),
        ([(20, 20, 22, 22)], []),
        ([], []),
    ],
)
def test_how_long_a_rule_may_be(boxes: list[Box], lengths: list[int]) -> None:
    assert rules._lengths_of_rules(drawn((100, 280), *boxes), 4.0) == lengths


def written(shape: tuple[int, int], *boxes: Box) -> Ink:
    mask = drawn(shape, *boxes)
    return Ink(mask.astype(np.float32), mask, 4.0)


@pytest.mark.parametrize("turned", [False, True])
def test_rules_are_removed_and_digits_are_not(turned: bool) -> None:
    def without(*boxes: Box) -> np.ndarray:
        given = written((100, 280), *boxes)
        turn = Ink(given.strength.T, given.mask.T, given.pen)
        return rules.without_rules(turn).T if turned else rules.without_rules(given)

    digits = drawn((100, 280), *DIGITS)
    assert np.array_equal(without(*DIGITS), digits)
    rule = [(0, y, 280, y + 2) for y in (10, 70)]
    assert np.array_equal(without(*DIGITS, *rule), digits)
    # One that goes through them; they are thicker than it is.
    assert np.array_equal(without(*DIGITS, *rule, (0, 40, 280, 42)), digits)
    alone = [(0, 50, 280, 52)]  # nothing but a line: nothing sticks out of anything else
    assert np.array_equal(without(*alone), drawn((100, 280), *alone))
    assert not without().any()
