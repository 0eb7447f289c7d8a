"""Pictures of digits, as the network takes them."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from torchdigits.errors import ImageError

# Not every format of Pillow's: some hand the file to another program, as EPS does to Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

Picture = Path | str | Image.Image | np.ndarray


def read_pixels(picture: Picture) -> np.ndarray:
    """The pixels `(784,)`, uint8, of a picture made like MNIST's: 28x28, grey, white ink (255) on black paper (0).

    Args:
        picture: a file, a Pillow image, or an array `(28, 28)` or `(784,)` of uint8.

    Raises:
        ImageError: no file, no picture, or one of another size or kind.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.shape not in ((28, 28), (784,)):
            raise ImageError(f"an array {picture.shape} of {picture.dtype}: wanted is (28, 28) or (784,) of uint8")
        return picture.reshape(784)
    name = "the image" if isinstance(picture, Image.Image) else str(picture)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of what it could read nevertheless
            if isinstance(picture, Image.Image):
                return _grey_pixels(picture, name)
            with Image.open(picture, formats=FORMATS) as image:
                return _grey_pixels(image, name)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not a picture that can be read") from error
    # What else Pillow raises of a damaged file is not documented; seen: OSError, SyntaxError, TypeError, ValueError.
    except Exception as error:
        raise ImageError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from error


def _grey_pixels(image: Image.Image, name: str) -> np.ndarray:
    if image.size != (28, 28) or image.mode not in ("1", "L"):
        size = f"{image.width}x{image.height}"
        raise ImageError(f"{name} has {size} pixels of mode {image.mode}: wanted is 28x28 and grey")
    return np.asarray(image.convert("L")).reshape(784)
