"""From a picture to what there is to read on it: the digits, made like MNIST's images."""

import io
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from torchdigits.errors import ImageError, NoInkError
from torchdigits.recognition import workers
from torchdigits.recognition.page import SEVERAL_ALONE, Candidate, candidates_on
from torchdigits.recognition.pictures import NO_INK, Grey, Picture, read_grey
from torchdigits.recognition.shapes import likeness
from torchdigits.recognition.sheet import only_sheet
from torchdigits.recognition.sight import MOST_PIECES, Sight
from torchdigits.recognition.steps import Digit, whole_digit

_HOPELESS = 225.0  # distance, as `likeness` has it, of what is no digit: one in a thousand of MNIST's has more
_WIDEST = 1.3  # in heights: as wide are one in a hundred of MNIST's digits
_LIKE = 107.0  # distance, as `likeness` has it, of what is taken for one digit: 95 in 100 of MNIST's have less


def prepare(picture: Picture) -> np.ndarray:
    """Make a picture of a digit like those that the network was trained on. A picture in MNIST's form stays as it is.

    Args:
        picture: a file or its bytes, a Pillow image, or an array of uint8: grey `(H, W)` or `(784,)`, RGB
            `(H, W, 3)`, RGBA `(H, W, 4)`. Any size; dark ink on light paper or light on dark. Of a file with several
            pictures, the first.

    Returns:
        Pixels `(784,)`, uint8, 255 ink and 0 paper: of all that is written, if there are several digits.

    Raises:
        ImageError: the file is missing, damaged, or no picture; or it has more than 89 million pixels,
            or takes more seconds or memory than a worker has.
        NoInkError: there is no ink on it, or too little contrast.
    """
    return look(picture).pixels


def look(picture: Picture) -> Sight:
    """Look for digits on a picture, as `prepare` takes it.

    Raises:
        ImageError, NoInkError: as `prepare` does.
    """
    return Sight(**_here_or_in_worker(picture, "look"))


def preparation(picture: Picture) -> dict[str, np.ndarray]:
    """Prepare a picture, as `prepare` takes it, and keep it after each step.

    Returns:
        The picture `(H, W)` after each step, by the step's name, in order. The first is grey, the last `(28, 28)`,
        uint8.

    Raises:
        ImageError, NoInkError: as `prepare` does.
    """
    return _here_or_in_worker(picture, "steps")


def _here_or_in_worker(picture: Picture, task: str) -> dict[str, np.ndarray]:
    if isinstance(picture, bytes):
        picture = io.BytesIO(picture)
    if not isinstance(picture, Image.Image | np.ndarray):
        return workers.shared().work(picture, task)
    try:
        return TASKS[task](picture)
    except ImageError as error:
        raise type(error)(f"the picture: {error}") from None


def look_here(picture: bytes | Image.Image | np.ndarray) -> dict[str, np.ndarray]:
    """As `look`, in this process, as a dictionary; what it raises does not name the picture."""
    grey = read_grey(picture)
    shape, found = _seen(grey)
    digit = shape.digit
    candidates = np.array([c.pixels for c in found], np.uint8).reshape(-1, 784)
    scale = grey.size[0] / grey.pixels.shape[1], grey.size[1] / grey.pixels.shape[0]
    boxes = np.array([digit.box, *(candidate.box for candidate in found)]) * (scale * 2)
    boxes = np.column_stack([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])]).clip(0, grey.size * 2).astype(np.int64)
    apart, odds = likeness(candidates)
    sight = Sight(
        size=np.array(grey.size),
        pixels=digit.pixels,
        box=boxes[0],
        distances=np.vstack([shape.distances, apart]),
        odds=np.vstack([shape.odds, odds]),
        alone=np.array(digit.alone),
        candidates=candidates,
        boxes=boxes[1:],
        spans=np.array([(c.line, c.start, c.end) for c in found], np.int64).reshape(-1, 3),
        fits=np.array([(c.cost, c.width) for c in found], np.float32).reshape(-1, 2),
    )
    return sight._asdict()


def steps_here(picture: bytes | Image.Image | np.ndarray) -> dict[str, np.ndarray]:
    """As `preparation`, in this process; what it raises does not name the picture."""
    return _seen(read_grey(picture))[0].digit.steps


TASKS: dict[str, Callable[[Any], dict[str, np.ndarray]]] = {"look": look_here, "steps": steps_here}


class _Shape(NamedTuple):
    """A digit, and its `likeness`: `(10,)` and `(2,)`."""

    digit: Digit
    distances: np.ndarray
    odds: np.ndarray

    @classmethod
    def of(cls, digit: Digit) -> "_Shape":
        (apart,), (odds,) = likeness(digit.pixels[np.newaxis])
        return cls(digit, apart, odds)

    @property
    def distance(self) -> float:
        """To the nearest shapes of any digit."""
        return float(self.distances.min())

    @property
    def is_like_one(self) -> bool:
        """Whether it is so much like a digit that it need not be asked whether it is several."""
        return self.distance < _LIKE and float(self.odds[1]) < SEVERAL_ALONE


def _seen(grey: Grey) -> tuple[_Shape, list[Candidate]]:
    """All of a picture as one digit, and the candidates if it may be several.

    Of two ways to find a digit, the one counts that finds something more like one: all ink, against the paper's
    brightness as a whole; or what stands out from the paper around it.
    """
    shape, pixels = None, only_sheet(grey.pixels)
    with suppress(NoInkError):
        digit = whole_digit(pixels)
        if pixels is not grey.pixels:  # the first step is the picture as it was
            digit = digit._replace(steps={**digit.steps, "grey": grey.pixels})
        shape = _Shape.of(digit)
        one = digit.alone and digit.aspect < _WIDEST and shape.is_like_one
        if "as it is" in digit.steps or (one and digit.pieces <= MOST_PIECES):
            return shape, []
    found = _candidates(pixels, shape)
    if found:
        several = len({(candidate.line, candidate.start) for candidate in found}) > 1
        return _more_like_one(shape, found, grey.pixels), found if several else []
    if shape is None:
        raise NoInkError("there is nothing on it but specks: write larger, or scan it at a higher resolution")
    return shape, []


def _candidates(pixels: np.ndarray, shape: _Shape | None) -> list[Candidate]:
    """What may be digits; nothing, where nothing stands out but all of it may be one digit."""
    try:
        return candidates_on(pixels)
    except NoInkError as error:
        if shape is not None and shape.distance <= _HOPELESS:
            return []
        if shape is not None and error.args == (NO_INK,):
            raise NoInkError(f"{NO_INK}, only light and shadow: use a darker pen, or more light") from None
        raise


def _more_like_one(shape: _Shape | None, found: list[Candidate], pixels: np.ndarray) -> _Shape:
    """The shape; or the candidate that is all of the picture, if it is more like a digit; or the largest candidate."""
    end = max(candidate.end for candidate in found)
    whole = [c for c in found if (c.line, c.start, c.end) == (0, 0, end)] if not any(c.line for c in found) else []
    if shape is not None and not whole:
        return shape
    best = whole[0] if whole else max(found, key=lambda c: (c.box[2] - c.box[0]) * (c.box[3] - c.box[1]))
    left, top, right, bottom = best.box
    steps = {"grey": pixels, "found": pixels[top:bottom, left:right], "28x28": best.pixels.reshape(28, 28)}
    other = _Shape.of(Digit(best.box, steps, bool(whole)))
    return shape if shape is not None and shape.distance <= other.distance else other
