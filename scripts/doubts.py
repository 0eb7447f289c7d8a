"""What --unsure is worth: how many of MNIST's test images are answered, how many answers are right, and how many
scribbles, letters and other strangers are taken for digits.

python scripts/doubts.py
"""

import json as json_format
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from strangers import Draw, strangers

from torchdigits.commands.cli import main
from torchdigits.data.datasets import load_splits
from torchdigits.errors import NoInkError, check_count
from torchdigits.recognition.preparation import prepare
from torchdigits.recognition.recognizer import UNSURE, Recognizer

LEVELS = (0.5, 0.9, 0.95, 0.97, 0.98, UNSURE, 0.995, 1.0)


def doubts(
    *,
    checkpoint: Path | None = None,
    data_dir: Path | None = None,
    pictures: int = 600,
    json: bool = False,
) -> None:
    """Count what is answered, what is answered rightly, and what is mistaken for a digit, by the level of doubt.

    Args:
        checkpoint: the network (default: the shipped one).
        data_dir: MNIST's folder (default: $TORCHDIGITS_DATA_DIR or data).
        pictures: how many scribbles, letters, and so on.
        json: print one JSON object.
    """
    check_count("--pictures", pictures, 10_000)
    recognizer = Recognizer(checkpoint)
    test = load_splits("mnist", data_dir).test
    answers = recognizer.answers(test.images.numpy())
    doubt = np.array([answer.doubt for answer in answers])
    right = np.array([answer.digit for answer in answers]) == test.labels.numpy()
    found = {name: _doubts_of(draw, pictures, recognizer) for name, draw in strangers(test).items()}
    rows = []
    for level in LEVELS:
        sure = doubt <= level
        taken = {name: 100 * float((other <= level).mean()) for name, other in found.items()}
        rows.append({"level": level, "answered": 100 * sure.mean(), "right": 100 * right[sure].mean()} | taken)
    if json:
        print(json_format.dumps(rows))
        return
    table = Table(title=f"MNIST's test images, and {pictures} of each kind of strangers; in %", title_style="")
    for heading in rows[0]:
        table.add_column(heading if heading not in found else f"{heading}: sure", justify="right")
    for row in rows:
        table.add_row(f"{row['level']:g}", *(f"{value:.2f}" for name, value in row.items() if name != "level"))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _doubts_of(draw: Draw, pictures: int, recognizer: Recognizer) -> np.ndarray:
    """Of so many pictures, `(pictures,)`; 1 for those that are refused, and so not taken for digits."""
    prepared = []
    for seed in range(pictures):
        with suppress(NoInkError):
            prepared.append(prepare(draw(np.random.default_rng(seed))))
    found = [answer.doubt for answer in recognizer.answers(np.stack(prepared))]
    return np.array(found + [1.0] * (pictures - len(found)))


if __name__ == "__main__":
    main(doubts)
