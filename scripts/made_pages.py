"""Pages made of MNIST's images, with known text: what scripts/pages.py reads."""

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from distortions import compressed as compressed_as_jpeg
from distortions import drawn, enlarged, gradient, grain, picture_of, traced
from PIL import Image
from scipy import ndimage

from torchdigits.data.datasets import Digits

Box = tuple[int, int, int, int]  # left, top, right, bottom
Chance = np.random.Generator
Draw = Callable[[Digits, Chance], tuple[Image.Image, "Sheet"]]


class Written(NamedTuple):
    """A digit on a page.

    Attributes:
        digit: which.
        box: of its ink.
    """

    digit: int
    box: Box


class Sheet(NamedTuple):
    """Digits in lines, before they are ink on paper.

    Attributes:
        ink: `(H, W)`, 0 to 1.
        lines: the digits, in reading order.
        height: of a usual digit, in pixels.
    """

    ink: np.ndarray
    lines: list[list[Written]]
    height: float


class Condition(NamedTuple):
    """A kind of page.

    Attributes:
        name: what is special.
        draw: makes a picture and the sheet that it shows, of the test images and chance.
        tuned: whether pages of the kind were looked at while the rules were made.
        short: whether it has a few digits alone.
    """

    name: str
    draw: "Draw"
    tuned: bool = True
    short: bool = False


# Layout


def written(
    test: Digits,
    chance: Chance,
    lengths: list[int],
    *,
    height: float = 0,
    gap: tuple[float, float] = (0.15, 0.6),
    slope: float = 0,
    sizes: float = 0.1,
    pen: float = 0,
    box: bool = False,
    touching: bool = False,
) -> Sheet:
    """Write lines of digits.

    Args:
        test: what to write.
        chance: what is left to it.
        lengths: digits in each line.
        height: of 28 pixels of MNIST; by chance if 0.
        gap: between two digits' ink, at least and at most, in heights.
        slope: of the lines, downwards to the right.
        sizes: by how much sizes differ, as a share.
        pen: the stroke's width in MNIST's pixels; as it is if 0.
        box: whether each digit stands in a frame.
        touching: whether each digit touches the one before it.
    """
    height = height or chance.uniform(40, 90)
    line_height = height * (1.3 if not box else 1.6)
    lines: list[list[_Placed]] = []
    for number, length in enumerate(lengths):
        x = 0.0
        line: list[_Placed] = []
        for _ in range(length):
            which = int(chance.integers(len(test.labels)))
            scale = height / 28 * (1 + chance.uniform(-sizes, sizes))
            ink = _ink(test.images[which].numpy().reshape(28, 28), scale, pen)
            x += height * (chance.uniform(*gap) if not box else 0.5)
            wobble = chance.uniform(-0.06, 0.06) * height
            y = number * line_height + (height - len(ink)) / 2 + wobble + slope * x
            if touching and line:
                x = _touching(line[-1], ink, y) - chance.uniform(0, 0.04) * height
            line.append(_Placed(ink, int(test.labels[which]), x, y))
            x += ink.shape[1] if not box else height
        lines.append(line)
    return _sheet_of(lines, height)


class _Placed(NamedTuple):
    """A digit's ink, 0 to 1, and where it is."""

    ink: np.ndarray
    digit: int
    x: float
    y: float


def _ink(image: np.ndarray, scale: float, pen: float) -> np.ndarray:
    """The ink of an image of MNIST, so many times as large, cut to its box; drawn again, if there is a pen."""
    if pen:
        large = Image.fromarray(np.round(traced(image, pen)).astype(np.uint8))
        side = round(scale * large.width / 8)
        ink = np.asarray(large.resize((side, side), Image.Resampling.BOX), np.float32) / 255
    else:
        ink = enlarged(image, scale).astype(np.float32) / 255
    rows, columns = (np.flatnonzero((ink > 0.3).any(axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _sheet_of(lines: list[list[_Placed]], height: float) -> Sheet:
    """The sheet that has digits where they are placed, and a margin."""
    margin = 0.6 * height
    everything = [digit for line in lines for digit in line]
    left, top = min(digit.x for digit in everything) - margin, min(digit.y for digit in everything) - margin
    width = max(digit.x + digit.ink.shape[1] for digit in everything) + margin - left
    depth = max(digit.y + digit.ink.shape[0] for digit in everything) + margin - top
    page = np.zeros((int(depth) + 1, int(width) + 1), np.float32)
    found: list[list[Written]] = []
    for line in lines:
        found.append([])
        for ink, digit, x, y in line:
            at = int(x - left), int(y - top)
            window = page[at[1] : at[1] + ink.shape[0], at[0] : at[0] + ink.shape[1]]
            np.maximum(window, ink, out=window)
            found[-1].append(Written(digit, (*at, at[0] + ink.shape[1], at[1] + ink.shape[0])))
    return Sheet(page, found, height)


def _touching(before: _Placed, ink: np.ndarray, y: float) -> float:
    """Where ink at `y` begins so that it just touches the digit before it."""
    other, _, x, top = before
    rows = range(max(int(y), int(top)), min(int(y) + len(ink), int(top) + len(other)))
    gaps = []
    for row in rows:
        theirs, ours = np.flatnonzero(other[row - int(top)] > 0.5), np.flatnonzero(ink[row - int(y)] > 0.5)
        if theirs.size and ours.size:
            gaps.append(x + theirs[-1] + 1 - ours[0])
    return float(max(gaps, default=x + other.shape[1])) - 1


def several_lines(chance: Chance, most: int = 60) -> list[int]:
    """How many digits each line of a page has, 1 to 12, and all of them `most` at most."""
    lengths: list[int] = []
    wanted = int(chance.integers(1, most + 1))
    while sum(lengths) < wanted:
        lengths.append(min(int(chance.integers(1, 13)), wanted - sum(lengths)))
    return lengths


def turned(sheet: Sheet, degrees: float) -> Sheet:
    """Rotate a sheet about its middle, anticlockwise."""
    page = np.asarray(Image.fromarray(sheet.ink).rotate(degrees, Image.Resampling.BICUBIC, expand=True)).clip(0, 1)
    angle = np.deg2rad(degrees)
    old, new = np.array(sheet.ink.shape[::-1]) / 2, np.array(page.shape[::-1]) / 2
    lines: list[list[Written]] = []
    for line in sheet.lines:
        lines.append([])
        for digit, (left, top, right, bottom) in line:
            ink = Image.new("L", sheet.ink.shape[::-1])
            ink.paste(Image.fromarray(np.uint8(255 * sheet.ink[top:bottom, left:right])), (left, top))
            corners = np.array([(x, y) for x in (left, right) for y in (top, bottom)]) - old
            x = corners[:, 0] * np.cos(angle) + corners[:, 1] * np.sin(angle) + new[0]
            y = -corners[:, 0] * np.sin(angle) + corners[:, 1] * np.cos(angle) + new[1]
            near = (int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)
            shown = np.asarray(ink.rotate(degrees, Image.Resampling.BICUBIC, expand=True).crop(near)) > 76
            rows, columns = (np.flatnonzero(shown.any(axis)) for axis in (1, 0))
            lines[-1].append(
                Written(
                    digit,
                    (near[0] + columns[0], near[1] + rows[0], near[0] + columns[-1] + 1, near[1] + rows[-1] + 1),
                )
            )
    return Sheet(page, lines, sheet.height)


# Paper and pens


def plain(sheet: Sheet, _: Chance) -> Image.Image:
    return picture_of(drawn(255 * sheet.ink, 30, 245))


def light_on_dark(sheet: Sheet, _: Chance) -> Image.Image:
    return picture_of(drawn(255 * sheet.ink, 235, 40))


def _stripes(shape: tuple[int, int], distance: float, width: float, offset: float) -> np.ndarray:
    """Horizontal lines, 0 to 1."""
    y = (np.arange(shape[0]) + offset) % distance
    return np.broadcast_to(np.clip(width / 2 + 0.5 - np.abs(y - distance / 2), 0, 1)[:, np.newaxis], shape)


def ruled(
    sheet: Sheet, chance: Chance, strength: float = 0.4, squared: bool = False, dashed: bool = False
) -> np.ndarray:
    """The brightness of a ruled page."""
    distance = sheet.height * (chance.uniform(0.5, 0.8) if squared else 1.3)
    width, offset = max(1, sheet.height / 30), chance.uniform(0, distance)
    lines = _stripes(sheet.ink.shape, distance, width, offset)
    if squared:
        lines = np.maximum(lines, _stripes(sheet.ink.shape[::-1], distance, width, chance.uniform(0, distance)).T)
    if dashed:
        lines = lines * (np.arange(sheet.ink.shape[1]) % 12 < 7)
    paper = 245 * (1 - strength * lines)
    return np.asarray(drawn(255 * sheet.ink, 0, 1) * paper + 30 * sheet.ink)


def on_lines(sheet: Sheet, chance: Chance) -> Image.Image:
    return picture_of(ruled(sheet, chance))


def on_squares(sheet: Sheet, chance: Chance) -> Image.Image:
    return picture_of(ruled(sheet, chance, squared=True))


def on_strong_lines(sheet: Sheet, chance: Chance) -> Image.Image:
    return picture_of(ruled(sheet, chance, strength=0.85))


def on_dashes(sheet: Sheet, chance: Chance) -> Image.Image:
    return picture_of(ruled(sheet, chance, strength=0.6, dashed=True))


def on_blue_lines_with_a_margin(sheet: Sheet, chance: Chance) -> Image.Image:
    """Blue rules, a red line at the left, a blue pen."""
    rules = _stripes(sheet.ink.shape, 1.3 * sheet.height, max(1, sheet.height / 25), chance.uniform(0, sheet.height))
    margin = np.zeros_like(sheet.ink)
    margin[:, int(0.25 * sheet.height) : int(0.25 * sheet.height) + 2] = 1
    paper = np.array([250, 248, 240.0])
    for mask, colour in ((rules, (150, 180, 235)), (margin, (230, 120, 120)), (sheet.ink, (30, 40, 140))):
        paper = paper + mask[..., np.newaxis] * (np.array(colour) - paper)
    return Image.fromarray(np.clip(np.round(paper), 0, 255).astype(np.uint8))


def with_other_side(sheet: Sheet, chance: Chance, other: Sheet) -> Image.Image:
    """What is written on the other side shines through, mirrored and blurred."""
    through = np.zeros_like(sheet.ink)
    mirrored = ndimage.gaussian_filter(other.ink[:, ::-1], sheet.height / 40)[: through.shape[0], : through.shape[1]]
    through[: mirrored.shape[0], : mirrored.shape[1]] = mirrored
    paper = 240 * (1 - chance.uniform(0.1, 0.2) * through)
    return picture_of(drawn(255 * sheet.ink, 40, paper))


def in_shadow(sheet: Sheet, chance: Chance) -> Image.Image:
    """A shadow with an edge across the page."""
    size = max(sheet.ink.shape)
    shadow = gradient(size, 0, 1, chance)[: sheet.ink.shape[0], : sheet.ink.shape[1]] > chance.uniform(0.35, 0.65)
    light = 225 * (1 - chance.uniform(0.25, 0.45) * ndimage.gaussian_filter(shadow.astype(float), chance.uniform(1, 6)))
    noise = chance.normal(0, 4, light.shape)
    return picture_of(light * drawn(255 * sheet.ink, 0.2, 1) + noise)


def badly_lit(sheet: Sheet, chance: Chance) -> Image.Image:
    light = gradient(max(sheet.ink.shape), 110, 240, chance)[: sheet.ink.shape[0], : sheet.ink.shape[1]]
    return picture_of(drawn(255 * sheet.ink, 35, light) + chance.normal(0, 4, light.shape))


def noisy(sheet: Sheet, chance: Chance) -> Image.Image:
    return picture_of(drawn(255 * sheet.ink, 40, 220) + chance.normal(0, 20, sheet.ink.shape))


def specked(sheet: Sheet, chance: Chance) -> tuple[Image.Image, Sheet]:
    """Specks, a punch hole, and the table beside the sheet's edge."""
    dirt = np.zeros_like(sheet.ink)
    height, width = dirt.shape
    for _ in range(int(chance.integers(20, 60))):
        y, x, radius = chance.uniform(0, height), chance.uniform(0, width), chance.uniform(0.5, 0.05 * sheet.height)
        rows, columns = np.ogrid[:height, :width]
        dirt[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = 1
    page = np.maximum(sheet.ink, dirt * (ndimage.maximum_filter(sheet.ink, int(0.1 * sheet.height)) < 0.1))
    shown = drawn(255 * page, 40, 240)
    side = int(0.5 * sheet.height)
    shown = np.pad(shown, ((side, side), (3 * side, 0)), constant_values=240)
    rows, columns = np.ogrid[: shown.shape[0], : shown.shape[1]]
    shown[(rows - shown.shape[0] / 2) ** 2 + (columns - 1.8 * side) ** 2 < (0.5 * side) ** 2] = 70
    shown[:, : side // 2] = 70
    moved = [
        [
            Written(digit, (left + 3 * side, top + side, right + 3 * side, bottom + side))
            for digit, (left, top, right, bottom) in line
        ]
        for line in sheet.lines
    ]
    return picture_of(ndimage.gaussian_filter(shown, 0.7)), sheet._replace(lines=moved)


def framed(sheet: Sheet, chance: Chance, strength: float = 0.7) -> Image.Image:
    """Each digit in a box, as forms have them."""
    page, width = sheet.ink.copy(), max(1, round(sheet.height / 35))
    for line in sheet.lines:
        for _, (left, top, right, bottom) in line:
            middle, centre, half = (left + right) // 2, (top + bottom) // 2, int(0.68 * sheet.height)
            box = np.zeros_like(page)
            box[max(0, centre - half) : centre + half, max(0, middle - half) : middle + half] = strength
            box[
                max(0, centre - half + width) : centre + half - width,
                max(0, middle - half + width) : middle + half - width,
            ] = 0
            np.maximum(page, box, out=page)
    return picture_of(drawn(255 * page, 30, 245))


def coloured(sheet: Sheet, chance: Chance) -> Image.Image:
    """A coloured pen on coloured paper, yellow on white among them."""
    pens = [(250, 225, 40), (200, 40, 60), (60, 140, 60), (90, 90, 220), (240, 140, 30)]
    papers = [(252, 252, 250), (250, 240, 215), (225, 238, 250)]
    pen, paper = (np.array(colours[int(chance.integers(len(colours)))], float) for colours in (pens, papers))
    shown = paper + sheet.ink[..., np.newaxis] * (pen - paper) + chance.normal(0, 2, (*sheet.ink.shape, 3))
    return Image.fromarray(np.clip(np.round(shown), 0, 255).astype(np.uint8))


def blurred(sheet: Sheet, _: Chance) -> Image.Image:
    return picture_of(ndimage.gaussian_filter(drawn(255 * sheet.ink, 30, 235), sheet.height / 30))


def compressed(sheet: Sheet, chance: Chance) -> Image.Image:
    return compressed_as_jpeg(picture_of(drawn(255 * sheet.ink, 30, 235)), 20)


def underlined(sheet: Sheet, chance: Chance) -> Image.Image:
    """Each line stands on an underline, which most of its digits touch."""
    page, width = sheet.ink.copy(), max(2, round(sheet.height / 25))
    for line in sheet.lines:
        top = int(np.median([bottom for _, (_, _, _, bottom) in line])) - width
        page[top : top + width, max(0, line[0].box[0] - width) : line[-1].box[2] + width] = 1
    return picture_of(drawn(255 * page, 40, 240))


def on_a_table(sheet: Sheet, chance: Chance) -> tuple[Image.Image, Sheet]:
    """A photograph of the sheet on a darker table, at an angle, badly lit, with noise, as JPEG."""
    height, width = sheet.ink.shape
    margin = round(chance.uniform(0.06, 0.2) * max(height, width))
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    moved = corners + margin + chance.uniform(-0.04, 0.04, (4, 2)).astype(np.float32) * (width, height)
    turn = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    size = width + 2 * margin, height + 2 * margin
    shown = cv2.warpPerspective(
        drawn(255 * sheet.ink, 40, 230), turn, size, flags=cv2.INTER_AREA, borderValue=chance.uniform(40, 130)
    )
    lines: list[list[Written]] = []
    for line in sheet.lines:
        lines.append([])
        for digit, (left, top, right, bottom) in line:
            around = np.array([[(x, y) for x in (left, right) for y in (top, bottom)]], np.float32)
            x, y = cv2.perspectiveTransform(around, turn)[0].T
            lines[-1].append(Written(digit, (int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)))
    light = gradient(max(size), 0.65, 1.05, chance)[: size[1], : size[0]]
    picture = compressed_as_jpeg(picture_of(shown * light + chance.normal(0, 3, light.shape)), 80)
    return picture, sheet._replace(lines=lines)


def textured(sheet: Sheet, chance: Chance) -> Image.Image:
    paper = 205 + grain(sheet.ink.shape, 1.5, 9, chance) + grain(sheet.ink.shape, 8, 8, chance)
    return picture_of(drawn(255 * sheet.ink, 50, paper))


# Conditions

Show = Callable[[Sheet, Chance], Image.Image | tuple[Image.Image, Sheet]]


def _page(show: Show, **how: Any) -> Draw:
    def draw(test: Digits, chance: Chance) -> tuple[Image.Image, Sheet]:
        sheet = written(test, chance, several_lines(chance), **how)
        shown = show(sheet, chance)
        return shown if isinstance(shown, tuple) else (shown, sheet)

    return draw


def _row(length: int, **how: Any) -> Draw:
    def draw(test: Digits, chance: Chance) -> tuple[Image.Image, Sheet]:
        sheet = written(test, chance, [length], **how)
        return plain(sheet, chance), sheet

    return draw


def _sloping(test: Digits, chance: Chance) -> tuple[Image.Image, Sheet]:
    sheet = written(test, chance, several_lines(chance), slope=chance.uniform(-0.08, 0.08))
    return plain(sheet, chance), sheet


def _turned(test: Digits, chance: Chance) -> tuple[Image.Image, Sheet]:
    sheet = turned(written(test, chance, several_lines(chance)), chance.uniform(-5, 5))
    return plain(sheet, chance), sheet


def _shining(test: Digits, chance: Chance) -> tuple[Image.Image, Sheet]:
    sheet = written(test, chance, several_lines(chance))
    other = written(test, chance, [12] * 12, height=sheet.height)
    return with_other_side(sheet, chance, other), sheet


def _all_at_once(test: Digits, chance: Chance) -> tuple[Image.Image, Sheet]:
    """A photograph of squared paper, turned, badly lit, with noise, as JPEG."""
    sheet = turned(written(test, chance, several_lines(chance)), chance.uniform(-3, 3))
    light = gradient(max(sheet.ink.shape), 0.6, 1, chance)[: sheet.ink.shape[0], : sheet.ink.shape[1]]
    shown = ruled(sheet, chance, strength=0.25, squared=True) * light
    return compressed_as_jpeg(
        picture_of(ndimage.gaussian_filter(shown, 0.8) + chance.normal(0, 4, light.shape)), 60
    ), sheet


CONDITIONS = (
    Condition("rows of 4, space between", _row(4), short=True),
    Condition("touching pairs", _row(2, touching=True), short=True),
    Condition("clean, 1 to 60 digits", _page(plain)),
    Condition("white on black", _page(light_on_dark)),
    Condition("sizes that differ twofold", _page(plain, sizes=0.33)),
    Condition("close: gaps of 1/50 to 1/6 of a height", _page(plain, gap=(0.02, 0.16))),
    Condition("scattered: gaps to 3 heights", _page(plain, gap=(0.3, 3))),
    Condition("thin pen", _page(plain, pen=1)),
    Condition("thick pen", _page(plain, pen=3.5)),
    Condition("lines that slope", _sloping),
    Condition("turned by up to 5 degrees", _turned),
    Condition("ruled", _page(on_lines)),
    Condition("squared", _page(on_squares)),
    Condition("each digit in a frame", _page(framed, box=True)),
    Condition("the other side shines through", _shining),
    Condition("a shadow's edge", _page(in_shadow)),
    Condition("uneven light", _page(badly_lit)),
    Condition("noise", _page(noisy)),
    Condition("specks, a punch hole, a table", _page(specked)),
    Condition("coloured pen and paper", _page(coloured)),
    Condition("blurred", _page(blurred)),
    Condition("JPEG of quality 20", _page(compressed)),
    Condition("rules as strong as the pen", _page(on_strong_lines), tuned=False),
    Condition("dashed rules", _page(on_dashes), tuned=False),
    Condition("blue rules, red margin, blue pen", _page(on_blue_lines_with_a_margin), tuned=False),
    Condition("hairline", _page(plain, pen=0.5), tuned=False),
    Condition("textured paper", _page(textured), tuned=False),
    Condition("photograph: most of it at once", _all_at_once, tuned=False),
    Condition("on underlines that they touch", _page(underlined)),
    Condition("a sheet on a table, at an angle", _page(on_a_table)),
)
