"""A picture in any of the usual forms, read in grey: float32 `(H, W)`, 0 black and 255 white."""

import logging
import warnings
from math import ceil
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from torchdigits.errors import ImageError, printable

# Not every format of Pillow: it hands some files to another program, EPS to Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
Picture = Path | str | BinaryIO | Image.Image | np.ndarray
_LARGEST = 1600  # pixels of the longer side; a larger picture is read at a lower resolution
_LONGEST = 65_535  # pixels of a side, as in a JPEG: Pillow needs 16 bytes for each row beside its pixels
_MOST_SCANNED = 2**31  # pixels in all scans of a JPEG, some nanoseconds each; a progressive one usually has 10 scans
_MOST_RUN_LENGTH_CODED = 2**23  # pixels of a BMP that Pillow decodes in Python, some 0.2 microseconds each
LEAST_CONTRAST = 0.06  # of the paper's brightness


def quiet_pillow() -> None:
    """Stop Pillow from writing to stderr about files that it reads all the same. What it cannot read, we report."""
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def read_grey(picture: Picture) -> tuple[np.ndarray, str]:
    """Read a picture in grey.

    Args:
        picture: as `prepare` takes it.

    Returns:
        The pixels `(H, W)`, float32, 0 black and 255 white, at most some 1,600 high and wide; and what to call the
        picture in a message.

    Raises:
        ImageError: it cannot be read, is too large, or would take too long.
    """
    name = printable(picture) if isinstance(picture, str | Path) else "the picture"
    try:
        if isinstance(picture, np.ndarray):
            return _grey(_image_of(picture)), name
        if isinstance(picture, Image.Image):
            return _grey(ImageOps.exif_transpose(picture)), name
        with Image.open(picture, formats=FORMATS) as image:
            _check_size(image)
            _check_work(image)
            image.draft("L", (_LARGEST, _LARGEST))  # a large JPEG need not be decoded in full
            ImageOps.exif_transpose(image, in_place=True)  # else it copies, and a large one takes 400 MB
            return _grey(image), name
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not a picture that can be read") from error
    # Pillow does not document what a damaged file raises; seen: OSError, SyntaxError, TypeError, ValueError.
    except Exception as error:
        raise ImageError(f"cannot read {name}: {printable(getattr(error, 'strerror', None) or error)}") from error


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
    if max(image.size) > _LONGEST:
        raise ImageError(f"{image.width}x{image.height} pixels: a side longer than the {_LONGEST:,} that are allowed")


def _check_work(image: ImageFile.ImageFile) -> None:
    """Raise ImageError for a file of some kilobytes that would keep Pillow busy for minutes."""
    pixels = image.width * image.height
    if image.format in ("JPEG", "MPO") and image.fp is not None:
        place = image.fp.tell()
        image.fp.seek(0)
        scans = image.fp.read().count(b"\xff\xda")
        image.fp.seek(place)
        if scans * pixels > _MOST_SCANNED:
            raise ImageError(f"{image.width}x{image.height} pixels in {scans:,} scans: it would take too long")
    if image.tile and image.tile[0].codec_name == "bmp_rle" and pixels > _MOST_RUN_LENGTH_CODED:
        raise ImageError(f"run-length coded, with more than the {_MOST_RUN_LENGTH_CODED:,} pixels that are allowed")


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
