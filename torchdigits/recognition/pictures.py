"""A picture in any of the usual forms, read in grey: float32 `(H, W)`, 0 black and 255 white."""

import io
import math
from math import ceil
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from torchdigits.errors import ImageError, printable

# Not every format of Pillow: it hands some files to another program, EPS to Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
Picture = Path | str | bytes | BinaryIO | Image.Image | np.ndarray
# What begins so cannot be read: the bytes, from which on, and what it is.
_OTHERS = (
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypavi", "AVIF"),
    (0, b"%PDF", "PDF"),
    (0, b"<svg", "SVG"),
)
OTHER_SUFFIXES = (".avif", ".heic", ".heif", ".pdf", ".svg")
_MOST_PIXELS = 3_200_000  # a larger picture is read at a lower resolution: A4 at 300 dpi at 150
LEAST_CONTRAST = 0.06  # of the paper's brightness
NO_INK = "there is no ink on it"
_COLOURED = ("YCbCr", "CMYK", "HSV", "RGBX")
_COLOURLESS = 24  # the largest difference of a pixel's red, green and blue that noise may make
_MUCH_MORE = 1.5


class Grey(NamedTuple):
    """A picture in grey.

    Attributes:
        pixels: `(H, W)`, float32, 0 black and 255 white; 3.2 million at most.
        size: width and height of the picture, in its own pixels, as it is to be looked at.
    """

    pixels: np.ndarray
    size: tuple[int, int]


def read_grey(picture: bytes | Image.Image | np.ndarray) -> Grey:
    """Read a picture in grey: in the channel of its colours in which ink stands out most from paper.

    Args:
        picture: the bytes of a file, which the decoders of this process are let loose on; a Pillow image; or an array.

    Raises:
        ImageError: it cannot be read, or has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    try:
        if isinstance(picture, np.ndarray):
            image = _image_of(picture)
            return Grey(_grey(image), image.size)
        if isinstance(picture, Image.Image):
            image = ImageOps.exif_transpose(picture)
            return Grey(_grey(image), image.size)
        with Image.open(io.BytesIO(picture), formats=FORMATS) as image:
            _check_size(image)
            size = image.size
            image.draft(
                None, (size[0] // _factor(image), size[1] // _factor(image))
            )  # a large JPEG need not be decoded in full
            drafted = image.size
            ImageOps.exif_transpose(image, in_place=True)  # else it copies, and a large one takes 400 MB
            return Grey(_grey(image), size if image.size == drafted else size[::-1])
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        for start, begin, name in _OTHERS:
            if isinstance(picture, bytes) and picture[start:].startswith(begin):
                raise ImageError(f"it is {name}, which cannot be read: save it as JPEG or PNG") from error
        raise ImageError("it is not a picture that can be read") from error
    # Pillow does not document what a damaged file raises; seen: OSError, SyntaxError, TypeError, ValueError.
    except Exception as error:
        raise ImageError(f"it cannot be read: {printable(error)}") from error


def _factor(image: Image.Image) -> int:
    """By how much its sides are divided."""
    return ceil(math.sqrt(image.width * image.height / _MOST_PIXELS))


def _image_of(array: np.ndarray) -> Image.Image:
    if array.shape == (784,):
        array = array.reshape(28, 28)
    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or 0 in array.shape
        or array.shape[2:] not in ((), (3,), (4,))
    ):
        raise ImageError(
            f"an array {array.shape} of {array.dtype}: use uint8 and (H, W), (H, W, 3), (H, W, 4) or (784,)"
        )
    return Image.fromarray(array)


def _check_size(image: Image.Image) -> None:
    if 0 in image.size:
        raise ImageError("it has no pixels")
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and image.width * image.height > most:
        raise ImageError(f"{image.width}x{image.height} pixels: more than the {most:,} that are allowed")


def _grey(image: Image.Image) -> np.ndarray:
    _check_size(image)
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
    elif image.mode == "LAB":
        image = image.getchannel("L")
    elif image.mode.startswith("I;16"):
        image = image.convert("I")
    elif image.mode in ("P", "1"):  # which cannot be reduced
        image = image.convert("RGB" if image.mode == "P" else "L")
    image = image.reduce(_factor(image))
    if image.mode not in ("I", "F", "L", "RGB", "RGBA"):
        image = image.convert("RGB" if image.mode in _COLOURED else "L")
    channel = _clearest_channel(image)
    if image.mode == "RGB":
        image = image.convert("L") if channel is None else image.getchannel(channel)
    pixels = np.asarray(image, np.float32)
    if image.mode == "RGBA":
        grey = pixels[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
        return _on_paper(grey if channel is None else pixels[..., channel], pixels[..., 3] / 255)
    if image.mode in ("I", "F"):  # white is the smallest usual value for it that no pixel exceeds
        pixels = np.clip(np.nan_to_num(pixels), 0, None)
        most = float(pixels.max())
        pixels = pixels * (255 / next((white for white in (1, 255, 1023, 4095, 65535) if most <= white), most))
    return pixels


def _clearest_channel(image: Image.Image) -> int | None:
    """The colour in which ink stands out much more than in grey, as that of a yellow pen does in blue, if there is one.

    How far something stands out is told by the outermost of the pixels on either side of the median.
    """
    if image.mode not in ("RGB", "RGBA"):
        return None
    step = max(1, round((image.width * image.height / 100_000) ** 0.5))
    sample = np.asarray(image)[::step, ::step]
    colours = sample[sample[..., 3] > 127, :3] if image.mode == "RGBA" else sample.reshape(-1, 3)
    if not colours.size or np.ptp(colours, axis=1).max() < _COLOURLESS:
        return None
    colours = colours.astype(np.float32)
    channels = np.column_stack([colours @ np.array([0.299, 0.587, 0.114], np.float32), colours])
    low, middle, high = np.percentile(channels, (1, 50, 99), axis=0)
    contrast = np.maximum(middle - low, high - middle)
    best = int(contrast.argmax())
    return best - 1 if best and contrast[best] > _MUCH_MORE * max(contrast[0], 1) else None


def _on_paper(grey: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Put a transparent picture on paper as bright as its own; if it has none, on black or white, by contrast."""
    visible = grey[opacity > 0.5]
    if not visible.size:
        paper = 255.0
    elif visible.size > grey.size / 2 and np.ptp(np.percentile(visible, (1, 99))) > 255 * LEAST_CONTRAST:
        paper = float(np.median(visible))
    else:
        paper = 255.0 if visible.mean() < 128 else 0.0
    return np.asarray(grey * opacity + paper * (1 - opacity))
