"""Sheets of paper on something darker, on pictures whose every pixel is known."""

from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from torchdigits.errors import NoInkError
from torchdigits.recognition.preparation import preparation, prepare
from torchdigits.recognition.recognizer import Recognizer
from torchdigits.recognition.sheet import only_sheet

Point = tuple[int, int]
CORNERS: list[Point] = [(60, 50), (340, 70), (330, 440), (50, 430)]
SHAPE = (500, 400)


def sheet(
    corners: list[Point] = CORNERS, *, table: float = 90, paper: Any = 220, shape: tuple[int, int] = SHAPE
) -> np.ndarray:
    inside = np.zeros(shape, np.uint8)
    cv2.fillPoly(inside, [np.array(corners, np.int32)], 1)
    return np.where(inside > 0, np.float32(paper), np.float32(table))


def with_strokes(grey: np.ndarray, *lefts: int) -> np.ndarray:
    written = grey.copy()
    for left in lefts:
        written[200:260, left : left + 6] = 30
    return written


@pytest.mark.parametrize("scale", [1, 3])
def test_what_is_around_a_sheet_is_made_paper(scale: int) -> None:
    grey = np.kron(with_strokes(sheet(), 120, 200, 270), np.ones((scale, scale), np.float32))
    found = only_sheet(grey)
    assert np.array_equal(found == 30, grey == 30)
    np.testing.assert_allclose(found[found != 30], 220, atol=2)


def test_paper_is_as_bright_as_the_sheet_beside_it() -> None:
    light = np.linspace(180, 240, 400)
    found = only_sheet(sheet(paper=light))
    middle = found[250]
    np.testing.assert_allclose(middle[80:300], light[80:300], atol=1e-4)
    np.testing.assert_allclose(middle[[0, 20, -20, -1]], [*light[[66, 66]], *light[[330, 330]]], atol=4)


@pytest.mark.parametrize(
    "grey",
    [
        with_strokes(np.full(SHAPE, 220, np.float32), 120, 200),  # no table
        np.where(np.indices(SHAPE).sum(0) < 400, np.float32(120), np.float32(220)),  # a shadow across all of it
        sheet([(0, 0), (250, 0), (240, 499), (0, 499)]),  # which ends along more than three tenths of the edge
        sheet([(60, 50), (340, 70), (200, 440)]),  # no quadrilateral
        sheet([(60, 50), (340, 70), (200, 220), (330, 440), (50, 430)]),  # nor convex
        sheet([(60, 50), (180, 60), (180, 200), (60, 200)]),  # small
        with_strokes(sheet(table=220) - 190 * (sheet() - sheet([(68, 58), (332, 78), (322, 432), (58, 422)]) != 0), 20),
        cv2.GaussianBlur(sheet(), (0, 0), 25),  # no sharp edge: the light of a lamp
        sheet()[::2, ::2],  # a picture of less than 300 pixels
    ],
    ids=["all", "shadow", "half", "triangle", "bent", "small", "frame", "lamp", "small picture"],
)
def test_what_is_no_sheet_on_a_table_is_left_as_it_is(grey: np.ndarray) -> None:
    assert only_sheet(grey) is grey


def test_digits_on_a_sheet_are_read_and_the_table_is_not() -> None:
    image = Image.fromarray(sheet(shape=(500, 700), corners=[(100, 50), (600, 80), (580, 440), (80, 430)]).astype("u1"))
    draw = ImageDraw.Draw(image)
    for x in range(160, 560, 80):
        draw.line([(x, 180), (x + 6, 260)], fill=30, width=6)
    [line] = Recognizer().read(image).lines
    assert [found.recognition.digit for found in line] == [1] * 5
    assert np.array_equal(preparation(image)["grey"], np.asarray(image))  # which --show draws on
    single = image.crop((0, 0, 230, 500)).resize((460, 1000))
    assert np.array_equal(preparation(single)["grey"], np.asarray(single))
    with pytest.raises(NoInkError, match="there is no ink on it"):
        prepare(sheet().astype(np.uint8))
