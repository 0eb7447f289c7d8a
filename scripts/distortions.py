"""How well digits are read from pictures unlike MNIST's: its images, distorted in known ways.

python scripts/distortions.py --images 200
"""

import io
import json as json_format
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import ndimage

from torchdigits.commands.cli import main
from torchdigits.data.datasets import load_splits
from torchdigits.errors import NoInkError, OptionError
from torchdigits.recognition.preparation import prepare
from torchdigits.recognition.recognizer import load_digit_network


class Distortion(NamedTuple):
    """A way to draw an image of MNIST, uint8 `(28, 28)`, with some randomness.

    Attributes:
        name: what is done.
        draw: does it.
        allowed: points of accuracy that it may cost after preparation; None if it has no limit.
    """

    name: str
    draw: Callable[[np.ndarray, np.random.Generator], Image.Image]
    allowed: float | None = None


class Row(NamedTuple):
    """What a distortion costs.

    Attributes:
        distortion: its name.
        before: accuracy before preparation, in percent.
        after: accuracy after it.
        refused: pictures in which preparation finds no ink; they count as not recognised.
        allowed: points that it may cost.
    """

    distortion: str
    before: float
    after: float
    refused: int
    allowed: float | None


def inverted(digit: np.ndarray, _: np.random.Generator) -> Image.Image:
    return Image.fromarray(255 - digit)


def shifted(digit: np.ndarray, chance: np.random.Generator) -> Image.Image:
    return Image.fromarray(placed(digit, 112, chance))


def scaled(digit: np.ndarray, chance: np.random.Generator) -> Image.Image:
    return Image.fromarray(enlarged(digit, chance.uniform(4, 20)))


def transparent(digit: np.ndarray, _: np.random.Generator) -> Image.Image:
    ink = Image.fromarray(enlarged(digit, 4))
    return Image.merge("LA", (Image.new("L", ink.size), ink))


def on_gradient(digit: np.ndarray, chance: np.random.Generator) -> Image.Image:
    ink = enlarged(digit, 8)
    return picture_of(drawn(ink, 30, gradient(len(ink), 110, 250, chance)))


def on_grey(digit: np.ndarray, _: np.random.Generator) -> Image.Image:
    return picture_of(drawn(enlarged(digit, 8), 100, 170))


def on_texture(digit: np.ndarray, chance: np.random.Generator) -> Image.Image:
    ink = enlarged(digit, 8)
    texture = grain(ink.shape, 1.5, 12, chance) + grain(ink.shape, 8, 8, chance)
    return picture_of(drawn(ink, 50, 205 + texture))


def noisy(digit: np.ndarray, chance: np.random.Generator) -> Image.Image:
    shown = drawn(enlarged(digit, 4), 40, 220)
    return picture_of(shown + chance.normal(0, 25, shown.shape))


def noisy_at_28(digit: np.ndarray, chance: np.random.Generator) -> Image.Image:
    return picture_of(drawn(digit, 40, 220) + chance.normal(0, 25, digit.shape))


def jpeg(digit: np.ndarray, _: np.random.Generator) -> Image.Image:
    return compressed(picture_of(drawn(enlarged(digit, 4), 30, 240)), 15)


def hairline(digit: np.ndarray, _: np.random.Generator) -> Image.Image:
    return picture_of(drawn(traced(digit, 0.25), 0, 255))


def thin(digit: np.ndarray, _: np.random.Generator) -> Image.Image:
    return picture_of(drawn(traced(digit, 1), 0, 255))


def thick(digit: np.ndarray, _: np.random.Generator) -> Image.Image:
    return picture_of(drawn(traced(digit, 5.5), 0, 255))


def rotated(digit: np.ndarray, chance: np.random.Generator) -> Image.Image:
    return Image.fromarray(enlarged(digit, 8)).rotate(chance.uniform(-10, 10), Image.Resampling.BICUBIC)


def cropped(digit: np.ndarray, _: np.random.Generator) -> Image.Image:
    rows, columns = (np.flatnonzero(digit.any(axis)) for axis in (1, 0))
    return Image.fromarray(255 - enlarged(digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 6))


def on_a_table(digit: np.ndarray, chance: np.random.Generator) -> Image.Image:
    paper = np.full((400, 400), 60.0)
    paper[30:370, 40:] = 210
    ink = np.zeros((400, 400), np.uint8)
    ink[30:370, 40:380] = placed(enlarged(digit, 6), 340, chance)
    shown = ndimage.gaussian_filter(drawn(ink, 40, paper), 1)
    return picture_of(shown + chance.normal(0, 5, shown.shape))


def shaded(digit: np.ndarray, chance: np.random.Generator) -> Image.Image:
    shadow = gradient(400, 0, 1, chance) > chance.uniform(0.3, 0.7)
    light = 215 * (1 - 0.3 * ndimage.gaussian_filter(shadow.astype(float), 4))
    ink = placed(enlarged(digit, 8), 400, chance)
    shown = ndimage.gaussian_filter(light * drawn(ink, 0.2, 1), 1)
    return picture_of(shown + chance.normal(0, 5, shown.shape))


def photographed(digit: np.ndarray, chance: np.random.Generator) -> Image.Image:
    held = Image.fromarray(enlarged(digit, chance.uniform(5, 10)))
    held = held.rotate(chance.uniform(-5, 5), Image.Resampling.BICUBIC)
    ink = placed(np.asarray(held), 400, chance)
    paper = gradient(400, 120, 215, chance) + grain(ink.shape, 1.2, 6, chance)
    shown = ndimage.gaussian_filter(drawn(ink, 45, paper), 1)
    return compressed(picture_of(shown + chance.normal(0, 5, shown.shape)), 70)


# What each may cost is what the project set out to reach.
DISTORTIONS = (
    Distortion("inverted: black on white", inverted, 1),
    Distortion("anywhere on a canvas of 112x112", shifted, 1),
    Distortion("4 to 20 times as large", scaled, 1),
    Distortion("black ink on transparent paper", transparent, 1),
    Distortion("paper from light to dark grey", on_gradient, 1),
    Distortion("grey ink on grey paper", on_grey, 3),
    Distortion("textured paper", on_texture, 3),
    Distortion("noise, at 112x112", noisy, 3),
    Distortion("noise, at 28x28", noisy_at_28, 3),
    Distortion("JPEG of quality 15", jpeg, 3),
    Distortion("hairline: strokes of 1/4 pixel", hairline),
    Distortion("thin: strokes of 1 pixel", thin),
    Distortion("thick: strokes of 5.5 pixels", thick),
    Distortion("rotated by up to 10 degrees", rotated),
    Distortion("cropped to the ink", cropped),
    Distortion("paper on a dark table", on_a_table),
    Distortion("a hard shadow across it", shaded),
    Distortion("photograph: most of it at once", photographed),
)


@torch.inference_mode()
def distortions(
    *, checkpoint: Path | None = None, data_dir: Path | None = None, images: int = 2000, json: bool = False
) -> None:
    """Distort test images of MNIST in known ways, and count how many are recognised.

    They are counted twice: turned grey and shrunk to 28x28, as any program would do it, and prepared as `predict` does.

    Args:
        checkpoint: the network (default: the shipped one).
        data_dir: MNIST's folder (default: $TORCHDIGITS_DATA_DIR or data).
        images: how many of the 10,000, evenly spread.
        json: print one JSON object.
    """
    network = load_digit_network(checkpoint)
    test = load_splits("mnist", data_dir).test
    if not 1 <= images <= len(test.labels):
        raise OptionError(f"--images {images}: it must be 1 to {len(test.labels):,}")
    chosen = torch.linspace(0, len(test.labels) - 1, images).round().long()
    digits, labels = test.images[chosen].numpy().reshape(-1, 28, 28), test.labels[chosen]

    def accuracy(pixels: list[np.ndarray | None]) -> float:
        """In percent. A picture that could not be prepared counts as wrong."""
        there = [number for number, image in enumerate(pixels) if image is not None]
        batch = torch.tensor(np.stack([image.reshape(784) for image in pixels if image is not None]))
        answers = network(batch.to(next(network.parameters()).dtype) / 255).argmax(1)
        return float((answers == labels[there]).sum()) * 100 / images

    clean = accuracy(list(digits))
    rows: list[Row] = []
    for name, draw, allowed in track(DISTORTIONS, "distorting", console=Console(stderr=True), transient=True):
        before: list[np.ndarray | None] = []
        after: list[np.ndarray | None] = []
        for number, digit in enumerate(digits):
            picture = draw(digit, np.random.default_rng(number))
            before.append(np.asarray(picture.convert("L").resize((28, 28))))
            after.append(_prepared(picture))
        refused = sum(image is None for image in after)
        rows.append(Row(name, accuracy(before), accuracy(after), refused, allowed))
    if json:
        print(json_format.dumps({"images": images, "clean": clean, "distortions": [row._asdict() for row in rows]}))
        return
    title = f"{images:,} test images of MNIST, of which {clean:.2f} % are recognised undistorted; in %"
    table = Table(title=title, title_style="")
    table.add_column("distortion", no_wrap=True)
    for heading in ("before", "after", "lost", "refused", "allowed"):
        table.add_column(heading, justify="right")
    for row in rows:
        numbers = (row.before, row.after, clean - row.after, row.refused * 100 / images)
        table.add_row(row.distortion, *(f"{number:.2f}" for number in numbers), f"{row.allowed or ''}")
    Console().print(table)


def _prepared(picture: Image.Image) -> np.ndarray | None:
    try:
        return prepare(picture)
    except NoInkError:
        return None


def enlarged(digit: np.ndarray, factor: float) -> np.ndarray:
    height, width = (round(factor * side) for side in digit.shape)
    return np.asarray(Image.fromarray(digit).resize((width, height), Image.Resampling.BICUBIC))


def placed(ink: np.ndarray, size: int, chance: np.random.Generator) -> np.ndarray:
    """Put ink at a random place on a square canvas."""
    canvas = np.zeros((size, size), np.uint8)
    top, left = (int(chance.integers(0, size - side + 1)) for side in ink.shape)
    canvas[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return canvas


def traced(digit: np.ndarray, pen: float) -> np.ndarray:
    """Draw the digit again along its skeleton, 8 times as large, with a pen as wide as so many of its own pixels."""
    from skimage.morphology import skeletonize

    skeleton = skeletonize(np.pad(enlarged(digit, 8), 24) > 127)  # type: ignore[no-untyped-call]
    distance = ndimage.distance_transform_edt(~skeleton)
    return np.asarray(255 * np.clip(4 * pen - distance + 0.5, 0, 1))


def drawn(ink: np.ndarray, colour: float, paper: np.ndarray | float) -> np.ndarray:
    return np.asarray(paper + (colour - paper) * (ink / 255))


def gradient(size: int, darkest: float, lightest: float, chance: np.random.Generator) -> np.ndarray:
    """A linear gradient in some direction."""
    angle = chance.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size]
    along = x * np.cos(angle) + y * np.sin(angle)
    return np.asarray(darkest + (lightest - darkest) * (along - along.min()) / np.ptp(along))


def grain(shape: tuple[int, ...], size: float, deviation: float, chance: np.random.Generator) -> np.ndarray:
    grain = ndimage.gaussian_filter(chance.normal(size=shape), size)
    return np.asarray(deviation * grain / grain.std())


def picture_of(grey: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.round(grey), 0, 255).astype(np.uint8))


def compressed(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file)


if __name__ == "__main__":
    main(distortions)
