"""A picture in any of the usual forms, read in grey: float32 `(H, W)`, 0 black and 255 white."""

import io
from math import ceil
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from torchdigits.errors import ImageError, printable

# Not every format of Pillow: it hands some files to another program, EPS to Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
Picture = Path | str | bytes | BinaryIO | Image.Image | np.ndarray
_LARGEST = 1600  # pixels of the longer side; a larger picture is read at a lower resolution
LEAST_CONTRAST = 0.06  # of the paper's brightness


def read_grey(picture: bytes | Image.Image | np.ndarray) -> np.ndarray:
    """Read a picture in grey.

    Args:
        picture: the bytes of a file, which the decoders of this process are let loose on; a Pillow image; or an array.

    Returns:
        The pixels `(H, W)`, float32, 0 black and 255 white, at most some 1,600 high and wide.

    Raises:
        ImageError: it cannot be read, or has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    try:
        if isinstance(picture, np.ndarray):
            return _grey(_image_of(picture))
        if isinstance(picture, Image.Image):
            return _grey(ImageOps.exif_transpose(picture))
        with Image.open(io.BytesIO(picture), formats=FORMATS) as image:
            _check_size(image)
            image.draft("L", (_LARGEST, _LARGEST))  # a large JPEG need not be decoded in full
            ImageOps.exif_transpose(image, in_place=True)  # else it copies, and a large one takes 400 MB
            return _grey(image)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError("it is not a picture that can be read") from error
    # Pillow does not document what a damaged file raises; seen: OSError, SyntaxError, TypeError, ValueError.
    except Exception as error:
        raise ImageError(f"it cannot be read: {printable(error)}") from error


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
    elif image.mode not in ("I", "F"):
        image = image.convert("L")
    image = image.reduce(max(1, ceil(max(image.size) / _LARGEST)))
    pixels = np.asarray(image, np.float32)
    if image.mode == "RGBA":
        return _on_paper(pixels[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32), pixels[..., 3] / 255)
    if image.mode in ("I", "F"):  # white is the smallest usual value for it that no pixel exceeds
        pixels = np.clip(np.nan_to_num(pixels), 0, None)
        most = float(pixels.max())
        pixels = pixels * (255 / next((white for white in (1, 255, 1023, 4095, 65535) if most <= white), most))
    return pixels


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
