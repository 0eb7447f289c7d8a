"""What is no digit, or hardly: what scripts/doubts.py shows to a network."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy.interpolate import CubicSpline

from torchdigits.data.datasets import Digits

FONTS = ("DejaVuSans", "DejaVuSerif-Italic", "DejaVuSansMono-Bold", "cmmi10", "STIXGeneral", "DejaVuSans-BoldOblique")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
LIKE_DIGITS = "BDIJOSZbgiloqsyz"  # in some hand
SIDE = 448

Draw = Callable[[np.random.Generator], Image.Image]


def scribble(chance: np.random.Generator) -> Image.Image:
    """A curve, a zigzag, a blot, strokes that cross, or loops."""
    picture = Image.new("L", (SIDE, SIDE))
    draw, pen = ImageDraw.Draw(picture), int(chance.integers(18, 44))

    def line(points: np.ndarray) -> None:
        draw.line([(float(x), float(y)) for x, y in points], fill=255, width=pen, joint="curve")

    kind = chance.integers(5)
    if kind == 0:
        corners = chance.uniform(60, 390, (int(chance.integers(4, 9)), 2))
        line(CubicSpline(np.arange(len(corners)), corners)(np.linspace(0, len(corners) - 1, 200)))
    elif kind == 1:
        across = np.linspace(60, 390, int(chance.integers(4, 10)))
        line(np.column_stack([across + chance.uniform(-20, 20, len(across)), chance.uniform(60, 390, len(across))]))
    elif kind == 2:
        for _ in range(int(chance.integers(3, 12))):
            (x, y), (wide, high) = chance.uniform(120, 330, 2), chance.uniform(20, 90, 2)
            draw.ellipse((x - wide, y - high, x + wide, y + high), fill=255)
    elif kind == 3:
        for _ in range(int(chance.integers(3, 7))):
            line(chance.uniform(60, 390, (2, 2)))
    else:
        turns = np.linspace(0, 2 * np.pi * chance.uniform(1.5, 4), 300)
        waves = np.sin(np.outer(chance.uniform(0.5, 2.5, 4), turns) + chance.uniform(0, 6, (4, 1)))
        line(SIDE / 2 + np.column_stack([90 * waves[0] + 60 * waves[1], 90 * waves[2] + 60 * waves[3]]))
    return ImageOps.invert(picture.resize((112, 112)))


def letter(chance: np.random.Generator, like_digits: bool = False) -> Image.Image:
    """A letter of some font, slanted and turned; of those that look like digits, or of the others."""
    name = chance.choice([name for name in LETTERS if (name in LIKE_DIGITS) == like_digits])
    file = Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{FONTS[int(chance.integers(len(FONTS)))]}.ttf"
    picture, middle = Image.new("L", (SIDE, SIDE)), (SIDE / 2, SIDE / 2)
    font, stroke = ImageFont.truetype(str(file), 260), int(chance.integers(0, 8))
    ImageDraw.Draw(picture).text(middle, name, fill=255, font=font, anchor="mm", stroke_width=stroke)
    slant = (1, chance.uniform(-0.25, 0.25), 0, chance.uniform(-0.1, 0.1), 1, 0)
    picture = picture.transform(picture.size, Image.Transform.AFFINE, slant, Image.Resampling.BICUBIC)
    picture = picture.rotate(chance.uniform(-8, 8), Image.Resampling.BICUBIC)
    return ImageOps.invert(picture.resize((112, 112)))


def strangers(test: Digits) -> dict[str, Draw]:
    """Each kind, by its name; some are made of test images."""
    images, labels = test.images.view(-1, 28, 28).numpy(), test.labels.numpy()

    def pair(chance: np.random.Generator) -> Image.Image:
        both = np.hstack([*images[chance.integers(0, len(images), 2)]])
        return Image.fromarray(255 - both).resize((224, 112))

    def upside_down(chance: np.random.Generator) -> Image.Image:
        which = chance.choice(np.flatnonzero(np.isin(labels, (2, 3, 4, 5, 7))))
        return Image.fromarray(255 - images[which][::-1, ::-1]).resize((112, 112))

    return {
        "scribbles": scribble,
        "letters": letter,
        "letters like digits": lambda chance: letter(chance, like_digits=True),
        "two digits as one": pair,
        "upside down": upside_down,
    }
