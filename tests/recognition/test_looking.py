"""What is seen on a picture: one digit, or several; the ways to find them stand aside, and have tests of their own."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from torchdigits.errors import ImageError, NoInkError
from torchdigits.recognition import preparation
from torchdigits.recognition.page import Candidate
from torchdigits.recognition.pictures import Grey
from torchdigits.recognition.sight import Sight
from torchdigits.recognition.steps import Digit

PIXELS = np.zeros((60, 80), np.float32)
GREY = Grey(PIXELS, (80, 60))


def digit(
    number: int, box: Any = (10, 10, 20, 30), alone: bool = True, *steps: str, several: float = -1.5, pieces: int = 1
) -> Digit:
    """One whose first pixel has its number, which tells its distance; and the second, the odds of being several.

    Its ink is in so many pieces of 40 pixels; the first has half as many again, and there is a speck of two.
    """
    pixels = np.zeros((28, 28), np.uint8)
    pixels[0, :2] = number, 100 + 10 * several
    ink = np.zeros((60, 80), np.float32)
    for piece in range(pieces):
        ink[10 : 14 if piece else 16, 12 * piece : 12 * piece + 10] = 0.6
    ink[30, 30:32] = 1
    ink[40:50, 30:50] = 0.4  # which is paper
    return Digit(box, dict.fromkeys(("grey", *steps), PIXELS) | {"ink": ink, "28x28": pixels}, alone)


def candidate(number: int, line: int, start: int, end: int, box: Any = (10, 10, 20, 30)) -> Candidate:
    pixels = np.zeros(784, np.uint8)
    pixels[0] = number
    return Candidate(pixels, box, line, start, end, number / 4, number / 2)


@pytest.fixture(autouse=True)
def likeness(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image's distance to the shapes of 3 is its first pixel, to all others a hundred more; its odds, the second."""

    def likeness(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        apart = np.repeat(images[:, :1].astype(np.float32) + 100, 10, axis=1)
        apart[:, 3] -= 100
        several = images[:, 1:2] / np.float32(10) - 10
        return apart, np.hstack([several - 20, several])

    monkeypatch.setattr(preparation, "likeness", likeness)


Seen = Callable[..., tuple[list[int], list[int], Any]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """The number of the shape, those of the candidates, and the shape."""

    def seen(whole: Digit | None, found: list[Candidate] | Exception) -> tuple[list[int], list[int], Any]:
        def whole_digit(pixels: np.ndarray) -> Digit:
            assert pixels is PIXELS
            if whole is None:
                raise NoInkError("none")
            return whole

        def candidates_on(pixels: np.ndarray) -> list[Candidate]:
            assert pixels is PIXELS
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(preparation, "whole_digit", whole_digit)
        monkeypatch.setattr(preparation, "candidates_on", candidates_on)
        shape, several = preparation._seen(GREY)
        return [int(shape.digit.pixels[0])], [int(c.pixels[0]) for c in several], shape

    return seen


TWO = [candidate(121, 0, 0, 1), candidate(122, 0, 1, 2)]
WHOLE = [*TWO, candidate(123, 0, 0, 2)]


@pytest.mark.parametrize(
    ("whole", "found", "shape", "several"),
    [
        # What is like one digit, alone, and not too wide, is one; nothing else is looked for.
        (digit(106), TWO, 106, []),
        (digit(107), TWO, 107, [121, 122]),
        (digit(106, several=-0.6), TWO, 106, []),
        (digit(106, several=-0.5), TWO, 106, [121, 122]),
        (digit(20, (10, 10, 35, 30)), TWO, 20, []),
        (digit(20, (10, 10, 36, 30)), TWO, 20, [121, 122]),
        (digit(20, (10, 10, 20, 30), False), TWO, 20, [121, 122]),
        (digit(200, (10, 10, 50, 30), False, "as it is"), TWO, 200, []),  # in MNIST's form
        (digit(20, pieces=4), TWO, 20, []),
        (digit(20, pieces=5), TWO, 20, [121, 122]),
        # One candidate is no choice.
        (digit(110), [candidate(121, 0, 0, 1)], 110, []),
        (digit(129), [candidate(121, 0, 0, 1)], 121, []),
        (digit(121), [candidate(121, 0, 0, 1)], 121, []),
        # Of the two ways, what is more like a digit.
        (digit(124), WHOLE, 123, [121, 122, 123]),
        (digit(122), WHOLE, 122, [121, 122, 123]),
        # Several lines have no candidate that is all of it.
        (digit(129), [candidate(121, 0, 0, 1), candidate(120, 1, 0, 1)], 129, [121, 120]),
        # Nothing stands out.
        (digit(110), [], 110, []),
        # All ink together is nothing: the largest candidate, or that which is all.
        (None, [candidate(121, 0, 0, 1, (0, 0, 9, 9)), candidate(122, 0, 1, 2, (10, 0, 20, 9))], 122, [121, 122]),
        (None, [candidate(121, 0, 0, 1, (0, 0, 9, 11)), candidate(122, 0, 1, 2, (10, 0, 20, 9))], 121, [121, 122]),
        (None, [candidate(121, 0, 0, 1, (0, 0, 50, 1)), candidate(122, 0, 1, 2, (10, 5, 20, 14))], 122, [121, 122]),
        (None, WHOLE, 123, [121, 122, 123]),
        # As far from a digit as a digit can be
        (digit(225), NoInkError("there is no ink on it"), 225, []),
    ],
)
def test_one_digit_or_several(
    seen: Seen, whole: Digit | None, found: list[Candidate], shape: int, several: list[int]
) -> None:
    assert seen(whole, found)[:2] == ([shape], several)


def test_a_candidate_that_is_all_of_a_picture_becomes_its_digit(seen: Seen) -> None:
    *_, shape = seen(digit(129), [*TWO, candidate(123, 0, 0, 2, (5, 6, 30, 40))])
    assert shape.digit.box == (5, 6, 30, 40)
    assert {name: step.shape for name, step in shape.digit.steps.items()} == {
        "grey": (60, 80), "found": (34, 25), "28x28": (28, 28),
    }  # fmt: skip
    assert shape.digit.alone
    assert shape.distance == 123
    *_, shape = seen(None, TWO)
    assert not shape.digit.alone


@pytest.mark.parametrize(
    ("whole", "found", "says"),
    [
        (None, [], "there is nothing on it but specks: write larger, or scan it at a higher resolution"),
        (None, NoInkError("there is no ink on it"), "there is no ink on it"),
        (
            digit(226),
            NoInkError("there is no ink on it"),
            "there is no ink on it, only light and shadow: use a darker pen, or more light",
        ),
        (digit(226), NoInkError("its ink is too faint"), "its ink is too faint"),
    ],
)
def test_what_is_no_digit_is_told(
    seen: Seen, whole: Digit | None, found: list[Candidate] | Exception, says: str
) -> None:
    with pytest.raises(NoInkError) as raised:
        seen(whole, found)
    assert str(raised.value) == says


@pytest.mark.parametrize("several", [True, False])
def test_a_sight_is_in_pixels_of_the_picture(monkeypatch: pytest.MonkeyPatch, several: bool) -> None:
    """The first of its own pixels, and the one after the last, of a picture that is read smaller, or larger."""
    shape = preparation._Shape.of(digit(60, (1, 2, 29, 50)))
    found = [candidate(70, 0, 0, 1, (0, 0, 1, 1)), candidate(80, 1, 2, 4, (3, 3, 81, 61))] if several else []
    given = b"a picture"
    for size, boxes in (
        ((200, 90), [(2, 3, 73, 75), (0, 0, 3, 2), (7, 4, 200, 90)]),
        ((40, 30), [(0, 1, 15, 25), (0, 0, 1, 1), (1, 1, 40, 30)]),
    ):
        grey = Grey(PIXELS, size)
        monkeypatch.setattr(preparation, "read_grey", lambda picture, grey=grey: grey if picture is given else None)
        monkeypatch.setattr(preparation, "_seen", lambda given, grey=grey: (shape, found) if given is grey else None)
        sight = Sight(**preparation.look_here(given))
        assert sight.size.tolist() == list(size)
        assert sight.pixels.tolist() == shape.digit.pixels.tolist()
        assert [tuple(box) for box in np.vstack([sight.box, sight.boxes]).tolist()] == boxes[: 1 + len(found)]
        assert sight.distances[:, 3].tolist() == [60, 70, 80][: 1 + len(found)]
        assert sight.distances.shape == (1 + len(found), 10)
        assert sight.odds.tolist() == [[-21.5, -1.5], [-30, -10], [-30, -10]][: 1 + len(found)]
        assert sight.alone.tolist() is True
        assert sight.candidates.shape == (len(found), 784)
        assert sight.candidates[:, 0].tolist() == [70, 80][: len(found)]
        assert sight.spans.tolist() == [[0, 0, 1], [1, 2, 4]][: len(found)]
        assert sight.fits.tolist() == [[17.5, 35], [20, 40]][: len(found)]
        assert sight.spans.shape[1:] == (3,)
        assert sight.fits.shape[1:] == (2,)
        kinds = {name: str(array.dtype) for name, array in sight._asdict().items()}
        assert kinds == {
            "size": "int64", "pixels": "uint8", "box": "int64", "distances": "float32", "odds": "float32",
            "alone": "bool", "candidates": "uint8", "boxes": "int64", "spans": "int64", "fits": "float32",
        }  # fmt: skip


def test_who_looks_at_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes from outside of this process, in a file, is opened by a worker."""
    asked: list[Any] = []

    class Workers:
        def work(self, picture: Any, task: str) -> dict[str, np.ndarray]:
            asked.append((picture if isinstance(picture, str) else picture.read(), task))
            return {"a": PIXELS}

    def here(picture: Any) -> dict[str, np.ndarray]:
        raise NoInkError("there is none")

    monkeypatch.setattr("torchdigits.recognition.workers.shared", Workers)
    monkeypatch.setattr(preparation, "TASKS", {"look": here, "steps": lambda picture: {"b": picture}})
    assert preparation.preparation("file.png") == {"a": PIXELS}
    assert preparation.preparation(b"bytes") == {"a": PIXELS}
    assert asked == [("file.png", "steps"), (b"bytes", "steps")]
    assert preparation.preparation(PIXELS) == {"b": PIXELS}
    with pytest.raises(NoInkError) as raised:
        preparation.look(PIXELS)
    assert str(raised.value) == "the picture: there is none"
    assert issubclass(NoInkError, ImageError)
