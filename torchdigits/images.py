"""Any picture of a digit, made into what MNIST's are: white ink on black paper, scaled into a box of 20x20 pixels, and
placed in 28x28 by its centre of mass (LeCun, Cortes and Burges, "The MNIST database of handwritten digits").

Each step is a function from pixels to pixels, and `preparation` takes them one after the other. Grey pictures are
float32 `(H, W)`, 0 black and 255 white; ink is float32 `(H, W)`, 0 where there is none and 1 where there is most.
"""

import logging
import warnings
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from scipy import ndimage
from skimage.filters import threshold_otsu

from torchdigits.errors import ImageError, NoInkError, printable

# Not every format of Pillow's: some hand the file to another program, as EPS does to Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

Picture = Path | str | BinaryIO | Image.Image | np.ndarray

# Pixels of the longer side: of what is read, of that in which the digit is looked for, and of the digit then.
_LARGEST, _SEARCHED, _DIGIT = 1600, 256, 160
_MARGIN = 0.2  # around the digit, in its longer sides
# Widths of a stroke, in pixels of the 20x20 box: from the median to the upper quartile of MNIST's training images.
_STROKE_WIDTHS = (2.5, 3.0)
_LONGEST = 65_535  # pixels of a side, as in a JPEG: Pillow takes 16 bytes for a row beside its pixels
_MOST_SCANNED = 2**31  # pixels of all scans of a JPEG, at some nanoseconds; there are usually 10 scans, if progressive
_MOST_RUN_LENGTH_CODED = 2**23  # pixels of a BMP that Pillow decodes in Python, at some 0.2 microseconds
_LEAST_CONTRAST = 0.06  # of the paper's brightness
_FAINT = 0.1  # of the darkest ink: where a stroke is said to end


def quiet_pillow() -> None:
    """Keep Pillow from writing to stderr about what it could read nevertheless; what it could not is our error."""
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def prepare(picture: Picture) -> np.ndarray:
    """The pixels `(784,)`, uint8, white ink (255) on black paper (0), that the network takes for a picture of a digit.

    A picture in MNIST's form is left as it is.

    Args:
        picture: a file, a Pillow image, or an array of uint8: grey `(H, W)` or `(784,)`, RGB `(H, W, 3)`, RGBA
            `(H, W, 4)`. Any size; dark ink on light paper or light on dark; of a file with several pictures, the first.

    Raises:
        ImageError: no file, no picture, a damaged one, or one with more pixels than `PIL.Image.MAX_IMAGE_PIXELS` or
            made to take long.
        NoInkError: there is no ink on it, or too little contrast.
    """
    return [*preparation(picture).values()][-1].reshape(784)


def preparation(picture: Picture) -> dict[str, np.ndarray]:
    """The picture after each step, by the step's name, in order: first in grey, last `(28, 28)` of uint8.

    Raises:
        ImageError, NoInkError: as `prepare` does.
    """
    grey, name = read_grey(picture)
    if is_mnist_like(grey):
        return {"as it is": grey.astype(np.uint8)}
    try:
        found = crop_to_ink(grey)
        flat = remove_paper(found)
        ink = keep_ink(flat)
        steps = {"grey": grey, "found": found, "paper removed": flat, "ink": ink}
        stroke = mend_stroke(trim(ink))
    except NoInkError as error:
        raise NoInkError(f"{name}: {error}") from None
    return steps | {"stroke": stroke, "28x28": centre(scale(stroke))}


def read_grey(picture: Picture) -> tuple[np.ndarray, str]:
    """A picture in grey, at most some 1,600 pixels high and wide, and what to call it.

    Raises:
        ImageError: as `prepare` does.
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
    # What else Pillow raises of a damaged file is not documented; seen: OSError, SyntaxError, TypeError, ValueError.
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
            f"an array {array.shape} of {array.dtype}: wanted is (H, W), (H, W, 3), (H, W, 4) or (784,) of uint8"
        )
    return Image.fromarray(array)


def _check_size(image: Image.Image) -> None:
    if 0 in image.size:
        raise ImageError("there are no pixels")
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and image.width * image.height > most:
        raise ImageError(f"{image.width}x{image.height} pixels: no more than {most:,} are read")
    if max(image.size) > _LONGEST:
        raise ImageError(f"{image.width}x{image.height} pixels: no side of more than {_LONGEST:,} is read")


def _check_work(image: ImageFile.ImageFile) -> None:
    """Refuse a file of some kilobytes that Pillow would be about for minutes."""
    pixels = image.width * image.height
    if image.format in ("JPEG", "MPO") and image.fp is not None:
        place = image.fp.tell()
        image.fp.seek(0)
        scans = image.fp.read().count(b"\xff\xda")
        image.fp.seek(place)
        if scans * pixels > _MOST_SCANNED:
            raise ImageError(f"{image.width}x{image.height} pixels in {scans:,} scans: they would take too long")
    if image.tile and image.tile[0].codec_name == "bmp_rle" and pixels > _MOST_RUN_LENGTH_CODED:
        raise ImageError(f"run-length coded: no more than {_MOST_RUN_LENGTH_CODED:,} pixels are read")


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
    if image.mode in ("I", "F"):  # white is the least of the usual values for it that none exceeds
        pixels = np.clip(np.nan_to_num(pixels), 0, None)
        most = float(pixels.max())
        pixels = pixels * (255 / next((white for white in (1, 255, 1023, 4095, 65535) if most <= white), most))
    return pixels


def _on_paper(grey: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """A transparent picture on paper as bright as its own if it shows some, else so bright that it is seen best."""
    visible = grey[opacity > 0.5]
    if not visible.size:
        paper = 255.0
    elif visible.size > grey.size / 2 and np.ptp(np.percentile(visible, (1, 99))) > 255 * _LEAST_CONTRAST:
        paper = float(np.median(visible))
    else:
        paper = 255.0 if visible.mean() < 128 else 0.0
    return np.asarray(grey * opacity + paper * (1 - opacity))


def is_mnist_like(grey: np.ndarray) -> bool:
    """Whether it is as all 70,000 of MNIST's are.

    That is, 28x28, the digit 19 or 20 pixels long, and its centre of mass at (14, 14), give or take a pixel.
    """
    if grey.shape != (28, 28) or not grey.any():
        return False
    top, bottom, left, right = _box(grey > 0)
    return max(bottom - top, right - left) in (19, 20) and all(
        abs(place - 14) < 1 for place in ndimage.center_of_mass(grey)
    )


def crop_to_ink(grey: np.ndarray) -> np.ndarray:
    """What is around the digit, with a margin, the digit some 160 pixels long at most.

    Where a sheet of paper stands out from a table, it is looked for on the sheet.

    Raises:
        NoInkError: there is none.
    """
    small = _shrink(grey, _SEARCHED)
    ink = _ink_mask(_blur(remove_paper(small), 1 if max(small.shape) > 56 else 0))
    top, bottom, left, right = np.array(_box(ink)) * np.repeat(np.divide(grey.shape, small.shape), 2)
    length = max(bottom - top, right - left)
    if _is_sheet(ink):
        edge = max(2, 0.03 * length)
        with suppress(NoInkError):
            return crop_to_ink(grey[int(top + edge) : int(bottom - edge), int(left + edge) : int(right - edge)])
    rows, columns = (
        slice(max(0, int(start - _MARGIN * length)), ceil(end + _MARGIN * length))
        for start, end in ((top, bottom), (left, right))
    )
    return _shrink(grey[rows, columns], round(_DIGIT * (1 + 2 * _MARGIN)))


def _is_sheet(ink: np.ndarray) -> bool:
    """Whether what is taken for ink is rather a sheet with ink on it: it fills its box, but for holes."""
    top, bottom, left, right = _box(ink)
    found = ink[top:bottom, left:right]
    sides = sorted(found.shape)
    return bool(
        sides[0] > max(8, 0.3 * sides[1]) and found.mean() > 0.6 and ndimage.binary_fill_holes(found).mean() > 0.88
    )


def remove_paper(grey: np.ndarray) -> np.ndarray:
    """How far each pixel is from the paper, towards the ink, as a share of all that it could be.

    Where what Otsu's threshold takes for paper is even, its brightness is the median. Else it is a quadratic surface,
    fitted by least absolute deviations (iteratively reweighted least squares), which the ink does not bend while it
    covers less than half; ink is then on the side to which pixels deviate further.
    """
    light = _over_otsus_threshold(grey)
    light_share = (2 * light.mean() + _edge(light).mean()) / 3
    ink_is_light = light_share <= 0.5
    on_paper, on_ink = grey[light != ink_is_light], grey[light == ink_is_light]
    brightness = np.median(on_paper)
    contrast = abs(brightness - on_ink.mean()) if on_ink.size else 0
    if np.median(np.abs(on_paper - brightness)) < contrast / 16:
        paper: np.ndarray | float = float(np.clip(brightness, 1, 254))
    else:
        paper = _lit_paper(grey)
        ink_is_light = ((grey - paper) ** 3).sum() > 0
    return np.asarray((grey - paper) / (255 - paper) if ink_is_light else (paper - grey) / paper, np.float32)


def _lit_paper(grey: np.ndarray) -> np.ndarray:
    """The brightness of paper under uneven light, between 1 and 254."""
    thumbnail = _resize(grey, min(32, grey.shape[0]), min(32, grey.shape[1]), Image.Resampling.BOX)
    terms, values = _quadratic_terms(thumbnail.shape), thumbnail.ravel()
    deviation = values - np.median(values)
    for _ in range(10):
        weighted = terms / np.maximum(np.abs(deviation), 1)[:, np.newaxis]
        surface = np.linalg.solve(terms.T @ weighted + 1e-3 * np.eye(6), values @ weighted)
        deviation = values - terms @ surface
    return np.asarray(np.clip((_quadratic_terms(grey.shape) @ surface).reshape(grey.shape), 1, 254))


def _quadratic_terms(shape: tuple[int, ...]) -> np.ndarray:
    y, x = (axis.ravel() for axis in np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij"))
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def keep_ink(flat: np.ndarray) -> np.ndarray:
    """The ink of a picture without its paper: what is above Otsu's threshold, with its soft edges, and without specks.

    Raises:
        NoInkError: there is none.
    """
    length = max(flat.shape) / (1 + 2 * _MARGIN)
    ink = _ink_mask(_blur(flat, length / 80))
    edge = max(1.5, length / 20)
    top, bottom, left, right = (np.array(_box(ink)) + ceil(edge) * np.array([-1, 1, -1, 1])).clip(0)
    near = np.zeros(ink.shape, bool)
    near[top:bottom, left:right] = ndimage.distance_transform_edt(~ink[top:bottom, left:right]) <= edge
    full = np.percentile(flat[ink], 75)
    if full < _LEAST_CONTRAST:
        raise NoInkError("too little contrast between ink and paper")
    return np.asarray(np.clip(flat / full, 0, 1) * near, np.float32)


def _ink_mask(flat: np.ndarray) -> np.ndarray:
    if np.ptp(flat) < _LEAST_CONTRAST:
        raise NoInkError("there is no ink on it")
    ink = _over_otsus_threshold(flat)
    paper = flat[~ink]
    deviation = 1.4826 * np.median(np.abs(paper - np.median(paper)))  # estimates the standard deviation of noise
    if flat[ink].mean() - paper.mean() < max(_LEAST_CONTRAST, 3.5 * deviation):
        raise NoInkError("too little contrast between ink and paper")
    return _without_specks(ink)


def _without_specks(ink: np.ndarray) -> np.ndarray:
    """Without parts of less than a twentieth of the largest, and without what surrounds the paper.

    That is a part in a corner of the picture, or along more than a fifth of its edge, as a table is, if there are
    others of a tenth of the picture's length.
    """
    parts, number = ndimage.label(ink, np.ones((3, 3)))
    if number == 1:
        return ink
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    edge = _edge(parts)
    around = np.bincount(edge, minlength=number + 1) > len(edge) / 5
    around[parts[[0, 0, -1, -1], [0, -1, 0, -1]]] = True
    lengths = [max(side.stop - side.start for side in box) for box in ndimage.find_objects(parts)]
    if np.any(~around[1:] & (np.array(lengths) > max(ink.shape) / 10)):
        areas[around] = 0
    return np.asarray((areas >= max(1, areas.max() / 20))[parts])


def mend_stroke(ink: np.ndarray) -> np.ndarray:
    """The ink of a pen much thinner or thicker than MNIST's, made as thick as those are by moving its edge.

    In a stroke of width w the mean distance to the edge is w / 4.
    """
    length = max(ink.shape)
    height, width = (max(1, round(_DIGIT * side / length)) for side in ink.shape)
    mask = np.pad(_resize(ink, height, width), _DIGIT // 10) > 0.5
    inside = ndimage.distance_transform_edt(mask) - 0.5  # from each pixel's centre, in pixels
    stroke = 4 * inside[mask].mean() * 20 / _DIGIT
    wanted = min(max(stroke, _STROKE_WIDTHS[0]), _STROKE_WIDTHS[1])
    if wanted == stroke:
        return ink
    outwards = (wanted - stroke) / (1 - wanted / 20) / 2 * _DIGIT / 20  # as the box of 20 pixels will grow with it
    distance = np.where(mask, inside, 0.5 - ndimage.distance_transform_edt(~mask)) if outwards > 0 else inside
    return trim(np.asarray(np.clip(distance + outwards + 0.5, 0, 1), np.float32))


def trim(ink: np.ndarray) -> np.ndarray:
    """The box of the ink."""
    top, bottom, left, right = _box(ink > _FAINT)
    return ink[top:bottom, left:right]


def scale(ink: np.ndarray) -> np.ndarray:
    """The ink in 20 pixels of the longer side, the aspect kept, as uint8."""
    height, width = (max(1, round(20 * side / max(ink.shape))) for side in ink.shape)
    return np.clip(np.round(255 * _resize(ink, height, width)), 0, 255).astype(np.uint8)


def centre(digit: np.ndarray) -> np.ndarray:
    """A digit of 20x20 pixels or less in 28x28, its centre of mass where MNIST's are: half a pixel around (14, 14)."""
    placed = np.zeros((28, 28), np.uint8)
    top, left = (
        int(np.clip(np.floor(14.5 - place), 0, 28 - side))
        for place, side in zip(ndimage.center_of_mass(digit), digit.shape, strict=True)
    )
    placed[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return placed


def _over_otsus_threshold(pixels: np.ndarray) -> np.ndarray:
    # Counted here: threshold_otsu's own count is the same, but slow, and fails where the floats are all but equal.
    ordered = np.sort(pixels, axis=None)
    if ordered[0] == ordered[-1]:
        return np.zeros(pixels.shape, bool)
    edges = np.linspace(ordered[0], ordered[-1], 257, dtype=np.float32)
    counts = np.diff(ordered.searchsorted(edges[1:-1]), prepend=0, append=ordered.size)
    threshold = threshold_otsu(hist=(counts, (edges[:-1] + edges[1:]) / 2))  # type: ignore[no-untyped-call]
    return np.asarray(pixels > threshold)


def _edge(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def _box(ink: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what is true, the second and last excluded."""
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def _blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    return np.asarray(ndimage.gaussian_filter(pixels, sigma, truncate=3)) if sigma > 0.4 else pixels


def _shrink(grey: np.ndarray, longest: int) -> np.ndarray:
    factor = longest / max(grey.shape)
    if factor >= 1:
        return grey
    height, width = (max(1, round(factor * side)) for side in grey.shape)
    return _resize(grey, height, width, Image.Resampling.BOX)


def _resize(
    pixels: np.ndarray, height: int, width: int, resampling: Image.Resampling = Image.Resampling.BICUBIC
) -> np.ndarray:
    """Resampled by Pillow, with anti-aliasing."""
    return np.asarray(Image.fromarray(pixels.astype(np.float32)).resize((width, height), resampling))
