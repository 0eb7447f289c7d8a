"""How well whole pages are read: pages made of MNIST's test images, with known text.

python scripts/pages.py --pages 100
"""

import json as json_format
import sys
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
from made_pages import CONDITIONS, Box, Condition, Written
from rich.console import Console
from rich.progress import track
from rich.table import Table

from torchdigits.commands.cli import main
from torchdigits.data.datasets import Digits, load_splits
from torchdigits.errors import ImageError, OptionError, check_count
from torchdigits.recognition.recognizer import Found, Recognizer


class Row(NamedTuple):
    """What became of the pages of a condition.

    Attributes:
        condition: its name.
        tuned: whether the rules were tuned on its kind.
        digits: on its pages.
        pages: read without a mistake, in percent.
        found: digits that have a box: more than half of the area that both cover, they have in common; in percent.
        invented: boxes that have no digit, in percent of the digits.
        right: digits found and recognised, in percent.
        sure: of the digits that are found, those that are called sure, in percent.
        seconds: for a page, the median.
    """

    condition: str
    tuned: bool
    digits: int
    pages: float
    found: float
    invented: float
    right: float
    sure: float
    seconds: float


def pages(
    *,
    checkpoint: Path | None = None,
    data_dir: Path | None = None,
    pages: int = 50,
    seed: int = 0,
    only: str = "",
    save: Path | None = None,
    json: bool = False,
) -> None:
    """Make pages of MNIST's test images, and count what is read on them.

    Args:
        checkpoint: the network (default: the shipped one).
        data_dir: MNIST's folder (default: $TORCHDIGITS_DATA_DIR or data).
        pages: how many of each kind; ten times as many of the rows and pairs.
        seed: of the first page; each has its own.
        only: leave out the kinds whose names do not contain this.
        save: a folder for the first page of each kind; it must be there.
        json: print one JSON object.
    """
    check_count("--pages", pages)
    chosen = [condition for condition in CONDITIONS if only in condition.name]
    if not chosen:
        raise OptionError(f"--only {only}: no kind of page is called so")
    if save is not None and not save.is_dir():
        raise OptionError(f"--save {save}: there is no such folder")
    recognizer = Recognizer(checkpoint)
    test = load_splits("mnist", data_dir).test
    rows = []
    for condition in track(chosen, "reading", console=Console(stderr=True), transient=True):
        number = pages * (10 if condition.short else 1)
        rows.append(_row_of(condition, number, seed, test, recognizer))
        if save is not None:
            condition.draw(test, np.random.default_rng(seed))[0].save(save / f"{condition.name.replace(' ', '-')}.png")
    if json:
        print(json_format.dumps({"seed": seed, "pages": pages, "conditions": [row._asdict() for row in rows]}))
        return
    table = Table(
        title=f"Pages of MNIST's test images, {pages} of each kind, from seed {seed} on; in %", title_style=""
    )
    table.add_column("page", no_wrap=True)
    for heading in ("digits", "pages right", "found", "invented", "right", "sure", "ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        shares = (row.pages, row.found, row.invented, row.right, row.sure)
        name = row.condition if row.tuned else f"{row.condition} *"
        table.add_row(name, f"{row.digits:,}", *(f"{share:.1f}" for share in shares), f"{1000 * row.seconds:.0f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print("* The rules were not tuned on pages of this kind.")


def _row_of(condition: Condition, number: int, seed: int, test: Digits, recognizer: Recognizer) -> Row:
    """Read so many pages of a condition, each of a seed of its own."""
    counts, seconds = np.zeros(6), []
    for page in range(number):
        picture, sheet = condition.draw(test, np.random.default_rng(seed + page))
        start = perf_counter()
        try:
            read = recognizer.read(picture)
            found, text = read.digits, read.text
        except ImageError:
            found, text = [], ""
        seconds.append(perf_counter() - start)
        truth = [digit for line in sheet.lines for digit in line]
        pairs = _paired(truth, found)
        right = sum(one.digit == other.recognition.digit for one, other in pairs)
        sure = sum(other.recognition.sure for _, other in pairs)
        expected = "\n".join("".join(str(digit.digit) for digit in line) for line in sheet.lines)
        counts += (len(truth), text == expected, len(pairs), len(found) - len(pairs), right, sure)
    digits, perfect, paired, invented, correct, certain = counts.tolist()
    return Row(
        condition.name,
        condition.tuned,
        int(digits),
        pages=100 * perfect / number,
        found=100 * paired / digits,
        invented=100 * invented / digits,
        right=100 * correct / digits,
        sure=100 * certain / max(1, paired),
        seconds=float(np.median(seconds)),
    )


def _paired(truth: list[Written], found: list[Found]) -> list[tuple[Written, Found]]:
    """Digits and what was found of them."""
    left, pairs = [*found], []
    for digit in truth:
        best = max(left, key=lambda other: _overlap(digit.box, other.box), default=None)
        if best is not None and _overlap(digit.box, best.box) >= 0.5:
            pairs.append((digit, best))
            left = [other for other in left if other is not best]
    return pairs


def _overlap(one: Box, other: Box) -> float:
    """The area that two boxes share, as a share of the area that they cover together."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0, width) * max(0, height)
    areas = sum((right - left) * (bottom - top) for left, top, right, bottom in (one, other))
    return shared / (areas - shared)


if __name__ == "__main__":
    main(pages)
