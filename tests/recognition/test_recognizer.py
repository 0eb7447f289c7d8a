import itertools
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from torchdigits import Recognizer, SigmoidMLP
from torchdigits.errors import CheckpointError
from torchdigits.files.networks import save_network
from torchdigits.recognition import recognizer
from torchdigits.recognition.recognizer import Found, Page, Recognition
from torchdigits.recognition.shapes import distances, doubts, unlikeness
from torchdigits.recognition.sight import Sight


@pytest.mark.slow
def test_to_recognise_digits_imports_neither_lightning_nor_what_only_commands_and_figures_need() -> None:
    code = (
        "import sys, torchdigits.recognition.recognizer, torchdigits.recognition.report;"
        "from torchdigits import Recognizer; Recognizer();"
        "print(sorted({'lightning', 'matplotlib', 'rich', 'torchmetrics', 'torchvision', 'tyro'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_of_equal_activations_the_first_digit_is_the_answer(tmp_path: Path) -> None:
    """As argmax has it, by which images are counted."""
    network = SigmoidMLP((784, 10))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    save_network(network, tmp_path / "x.ckpt")
    found = Recognizer(tmp_path / "x.ckpt").answer(np.zeros(784, np.uint8))
    assert (found.digit, found.runner_up) == (0, 1)


def test_a_picture_may_come_as_bytes_and_pictures_in_a_list(tmp_path: Path) -> None:
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 12:16] = 255
    Image.fromarray(pixels).save(tmp_path / "one.png")
    recognizer, file = Recognizer(), tmp_path / "one.png"
    expected = recognizer.recognize(file)
    found = recognizer.recognize([file, file.read_bytes(), Image.open(file), pixels, pixels.reshape(784)])
    assert [recognition.activations for recognition in found] == [expected.activations] * 5
    assert recognizer.recognize([]) == []


def test_answers_are_those_of_the_network_and_of_the_shapes() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 784)).astype(np.uint8)
    reader = Recognizer(unsure=0.5)
    layers = reader.network.forward_pass(torch.from_numpy(images).float() / 255)[1]
    apart = np.arange(50, dtype=np.float32).reshape(5, 10)[:, ::-1] * 4
    for given in (None, apart):
        answers = reader.answers(images, given)
        assert len(answers) == 5
        for number, answer in enumerate(answers):
            outputs = layers[-1][number]
            assert answer.activations == pytest.approx(outputs.tolist(), rel=1e-5)
            best, second = outputs.argsort(descending=True)[:2].tolist()
            assert (answer.digit, answer.runner_up) == (best, second)
            assert answer.hidden == [pytest.approx(layers[1][number].tolist(), rel=1e-5)]
            assert answer.pixels is images[number] or np.array_equal(answer.pixels, images[number])
            far = (distances(images) if given is None else apart)[number : number + 1]
            unlike = unlikeness(far, np.array([best]))
            assert answer.distance == pytest.approx(float(unlike[0]), rel=1e-5)
            assert answer.doubt == pytest.approx(float(doubts(unlike)[0]), abs=2e-3)
            assert answer.sure is (answer.doubt <= 0.5)


def test_a_network_of_other_layers_is_refused(tmp_path: Path) -> None:
    for sizes in ((784, 5, 9), (783, 10)):
        save_network(SigmoidMLP(sizes), file := tmp_path / f"{sizes[0]}.ckpt")
        with pytest.raises(CheckpointError) as raised:
            Recognizer(file)
        assert str(raised.value) == f"{file} has layers of {sizes} neurons: 784 inputs and 10 outputs are needed"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_whose_sums_can_overflow_is_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    """Infinities of both signs could meet in a sum, and its answers be NaN."""
    network, most = SigmoidMLP((784, 2, 10)).to(dtype), torch.finfo(dtype).max
    weights, biases = list(network.parameters())[2:]
    with torch.no_grad():
        weights[1] = torch.tensor([0.5, -0.25], dtype=dtype) * most
        biases[1] = most / 8
        save_network(network, tmp_path / "sound.ckpt")
        biases[1] = most / 2
        save_network(network, file := tmp_path / "x.ckpt")
    Recognizer(tmp_path / "sound.ckpt")
    with pytest.raises(CheckpointError, match=r"x\.ckpt: layers\.1 has weights so large that their sums can overflow$"):
        Recognizer(file)


# How a page is read


def answer(digit: int, distance: float = 0.0, sure: bool = True, activation: float = 0.9) -> Recognition:
    outputs = [activation if d == digit else 0.1 for d in range(10)]
    return Recognition(digit, (digit + 1) % 10, outputs, [], np.zeros(784, np.uint8), distance, 0.5, sure)


def test_a_page_has_its_text() -> None:
    lines = [[1, 2], [3]]
    found = [[Found((d, 0, d + 1, 2), answer(d, sure=d != 2)) for d in line] for line in lines]
    page = Page((30, 20), found)
    assert page.text == "12\n3"
    assert page.sure_text == "1?\n3"
    assert [one.box[0] for one in page.digits] == [1, 2, 3]


def test_what_it_costs_to_take_something_for_a_digit() -> None:
    """The likelihood that the outputs give, what its shape is beyond those of digits, and whether it is one digit."""
    likelihood, no_odds = 9 * math.log(0.9) + math.log(0.9), np.array([-math.inf, -math.inf])
    cost = recognizer._cost
    assert cost(answer(3), 2.0, no_odds) == pytest.approx(1 - 0.28 * likelihood)
    assert cost(answer(3, distance=50), 2.0, no_odds) == pytest.approx(1 - 0.28 * likelihood)
    assert cost(answer(3, distance=90), 2.0, no_odds) == pytest.approx(1 + 0.8 * 2 * 2.0 - 0.28 * likelihood)
    certain = answer(3)._replace(activations=[1.0 if d == 3 else 0.0 for d in range(10)])
    assert cost(certain, 1.0, no_odds) == pytest.approx(1 - 0.28 * 10 * math.log(0.999), rel=1e-6)
    wrong = answer(3)._replace(activations=[0.0 if d == 3 else 1.0 for d in range(10)])
    assert cost(wrong, 1.0, no_odds) == pytest.approx(1 - 0.28 * 10 * math.log(0.001), rel=1e-6)
    for part, several in ((0.5, 2.0), (-3.0, 7.0), (200.0, 300.0)):
        one = 1 / (1 + math.exp(part) + math.exp(several))  # of the three
        odd = cost(answer(3), 2.0, np.array([part, several], np.float32))
        assert odd - cost(answer(3), 2.0, no_odds) == pytest.approx(-3 * math.log(one), rel=1e-5)


def test_the_cheapest_way_to_cut_a_line_is_the_cheapest_of_all_ways() -> None:
    draw = random.Random(0)
    for _ in range(200):
        pieces = draw.randint(1, 6)
        spans = [(start, start + 1) for start in range(pieces)]
        spans += [pair for pair in itertools.combinations(range(pieces + 1), 2) if draw.random() < 0.5]
        if len(spans) > 1 and draw.random() < 0.5:
            del spans[draw.randrange(pieces)]  # it may be part of a longer one alone
        numbered = [(number + 10, *span) for number, span in enumerate(spans)]
        costs = [0.0] * 10 + [draw.uniform(0, 9) for _ in spans]

        def ways(at: int, end: int, given: Any = numbered) -> list[list[int]]:
            if at == end:
                return [[]]
            return [[n, *rest] for n, start, stop in given if start == at for rest in ways(stop, end)]

        if not (every := ways(0, max(stop for *_, stop in numbered))):
            continue
        chosen, cost = recognizer._cheapest(numbered, costs)
        assert chosen in every
        assert cost == pytest.approx(sum(costs[number] for number in chosen))
        assert cost == pytest.approx(min(sum(costs[number] for number in way) for way in every))


def sight(
    spans: list[tuple[int, int, int]],
    fits: list[tuple[float, float]],
    box: Any,
    alone: bool = True,
    several: float = -2.9,
) -> Sight:
    count = len(spans)
    return Sight(
        size=np.array([300, 200]),
        pixels=np.zeros(784, np.uint8),
        box=np.array(box),
        distances=np.zeros((1 + count, 10), np.float32),
        odds=np.array([(-math.inf, several), *[(-math.inf, -math.inf)] * count], np.float32),
        alone=np.array(alone),
        candidates=np.zeros((count, 784), np.uint8),
        boxes=np.array([(n, 0, n + 1, 9) for n in range(count)]).reshape(-1, 4),
        spans=np.array(spans, np.int64).reshape(-1, 3),
        fits=np.array(fits, np.float32).reshape(-1, 2),
    )


SQUARE, TWO = (10, 20, 30, 40), [(0, 0, 1), (0, 1, 2)]


@pytest.mark.parametrize(
    ("seen", "answers", "text"),
    [
        (sight([], [], SQUARE), [answer(7)], "7"),
        # two that are like digits, and one that is not
        (sight(TWO, [(0, 1), (0, 1)], SQUARE), [answer(7, 400), answer(1), answer(2)], "12"),
        # likely one, whatever it may be besides
        (sight(TWO, [(0, 1), (0, 1)], SQUARE, several=-3.1), [answer(7, 400), answer(1), answer(2)], "7"),
        (sight(TWO, [(0, 1), (0, 1)], SQUARE, False, -3.1), [answer(7, 400), answer(1), answer(2)], "12"),
        # or likely several
        (sight(TWO, [(0, 1), (0, 1)], SQUARE), [answer(7), answer(1), answer(2)], "7"),
        (sight(TWO, [(0, 1), (0, 1)], SQUARE, several=0), [answer(7), answer(1), answer(2)], "12"),
        # but not if it is too wide
        (sight(TWO, [(0, 1), (0, 1)], (10, 20, 80, 40), several=-3.1), [answer(7, 400), answer(1), answer(2)], "12"),
        (sight(TWO, [(0, 1), (0, 1)], (10, 20, 36, 40), several=-3.1), [answer(7, 400), answer(1), answer(2)], "12"),
        (sight(TWO, [(0, 1), (0, 1)], (10, 20, 35, 40), several=-3.1), [answer(7, 400), answer(1), answer(2)], "7"),
        # cheaper as one, for what the pieces cost
        (sight(TWO, [(60, 1), (0, 1)], SQUARE), [answer(7, 237.5), answer(1), answer(2)], "7"),
        (sight(TWO, [(0, 1), (0, 1)], SQUARE), [answer(7, 237.5), answer(1, 560), answer(2)], "7"),
        # as wide as its pieces are together, and so the dearer
        (sight(TWO, [(0, 3), (13, 3)], SQUARE), [answer(7, 237.5), answer(1), answer(2)], "12"),
        (sight(TWO, [(0, 0), (13, 0)], SQUARE), [answer(7, 237.5), answer(1), answer(2)], "7"),
        (sight([(0, 0, 1), (1, 0, 1)], [(0, 3), (13, 0)], SQUARE), [answer(7, 237.5), answer(1), answer(2)], "1\n2"),
        (sight(TWO, [(0, 0.5), (6.2, 0.5)], SQUARE), [answer(7, 237.5), answer(1), answer(2)], "12"),
        (sight(TWO, [(0, 0.5), (6.5, 0.5)], SQUARE), [answer(7, 237.5), answer(1), answer(2)], "7"),
        # of one piece, as one
        (sight([(0, 0, 1)], [(0, 1)], SQUARE), [answer(7, 400), answer(1)], "7"),
        # the cheapest of the ways to cut it, line by line
        (
            sight([(0, 0, 1), (0, 1, 2), (0, 0, 2), (1, 0, 1)], [(9, 1), (9, 1), (0, 1), (0, 1)], SQUARE),
            [answer(7, 900), answer(1), answer(2), answer(3), answer(4)],
            "3\n4",
        ),
        # a digit is in four pieces at most
        (
            sight([(0, n, n + 1) for n in range(4)], [(0, 1)] * 4, SQUARE, several=-3.1),
            [answer(7, 400), *map(answer, range(4))],
            "7",
        ),
        (
            sight([(0, n, n + 1) for n in range(5)], [(0, 1)] * 5, SQUARE, several=-3.1),
            [answer(7, 400), *map(answer, range(5))],
            "01234",
        ),
    ],
)
def test_a_page_is_read_as_what_is_likeliest(seen: Sight, answers: list[Recognition], text: str) -> None:
    page = recognizer._read(seen, answers)
    assert page.text == text
    assert page.size == (300, 200)
    for found in page.digits:
        number = next(n for n, one in enumerate(answers) if one is found.recognition)
        box = seen.box if number == 0 else seen.boxes[number - 1]
        assert found.box == tuple(box.tolist())
        assert {type(side) for side in found.box} == {int}


def test_pieces_that_are_likely_parts_of_a_digit_are_not_read() -> None:
    answers = [answer(7), answer(1), answer(2)]
    seen = sight(TWO, [(0, 1), (0, 1)], SQUARE, several=0)
    for odds, text in ((-2.0, "12"), (1.0, "7")):
        changed = seen.odds.copy()
        changed[2, 0] = odds
        assert recognizer._read(seen._replace(odds=changed), answers).text == text


def test_several_pages_are_read_as_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(0)
    one, two = sight(TWO, [(0, 1), (0, 1)], SQUARE), sight([], [], SQUARE)
    sights = [
        seen._replace(
            pixels=chance.integers(0, 256, 784).astype(np.uint8),
            candidates=chance.integers(0, 256, seen.candidates.shape).astype(np.uint8),
            distances=chance.uniform(0, 200, seen.distances.shape).astype(np.float32),
        )
        for seen in (one, two, one)
    ]
    reader = Recognizer()
    given: list[list[Recognition]] = []
    monkeypatch.setattr(recognizer, "_read", lambda seen, answers: given.append(answers))
    assert reader.read_all([]) == []
    assert len(reader.read_all(sights)) == 3
    assert [len(answers) for answers in given] == [3, 1, 3]
    for seen, answers in zip(sights, given, strict=True):
        expected = reader.answers(np.vstack([seen.pixels, seen.candidates]), seen.distances)
        for ours, theirs in zip(answers, expected, strict=True):
            assert ours.digit == theirs.digit
            assert ours.distance == theirs.distance
            assert ours.activations == pytest.approx(theirs.activations, rel=1e-5)


def test_no_images_have_no_answers() -> None:
    assert Recognizer().answers(np.zeros((0, 784), np.uint8), np.zeros((0, 10), np.float32)) == []
