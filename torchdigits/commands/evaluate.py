"""Measure a trained network on a dataset, and write a report on it."""

import json as json_format
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from torchdigits.data.datasets import Digits, load_splits
from torchdigits.errors import DataError, printable
from torchdigits.files.networks import shipped_checkpoint
from torchdigits.files.reading import read_json, read_table, reading
from torchdigits.files.writing import empty_folder
from torchdigits.recognition.measuring import measure
from torchdigits.recognition.recognizer import load_digit_network
from torchdigits.recognition.report import Subject, write_report

Curves = tuple[list[dict[str, float]], str]  # the rows of metrics.csv, and the title of their figure


def evaluate(
    *,
    checkpoint: Path | None = None,
    dataset: Literal["mnist", "digits"] = "mnist",
    data_dir: Path | None = None,
    split: Literal["training", "validation", "test"] = "test",
    figures: Path | None = None,
    json: bool = False,
) -> None:
    """Count how many images of a dataset a trained network recognises.

    Args:
        checkpoint: the network (default: the shipped one).
        dataset: MNIST, or scikit-learn's small digits.
        data_dir: MNIST's folder (default: $TORCHDIGITS_DATA_DIR or data).
        split: which part of the dataset.
        figures: a new folder for a report: each digit's figures, mistakes, what the neurons look at, and the learning
            curves if the checkpoint is in its run's folder.
        json: print one JSON object.

    Raises:
        CheckpointError: the file holds no network of 784 inputs and 10 outputs.
        OptionError: the folder for figures is not empty, or in use, or cannot be made.
        DataError: the dataset cannot be had, or what the run recorded beside the checkpoint is damaged.
    """
    path = shipped_checkpoint() if checkpoint is None else checkpoint
    network = load_digit_network(path)
    curves = None if figures is None else _read_curves(path.parent)
    digits: Digits = getattr(load_splits(dataset, data_dir), split)
    with nullcontext() if figures is None else empty_folder("--figures", figures):
        measured = measure(network, digits)
        name = printable(Path(*path.parts[-2:]) if checkpoint is None else path)
        options = {"--checkpoint": checkpoint, "--dataset": dataset, "--data-dir": data_dir, "--split": split}
        words = [str(word) for option in {**options, "--figures": figures}.items() if option[1] for word in option]
        # In a file that is kept, without a path of this machine
        command = printable(shlex.join(["torchdigits", "evaluate", *words]))
        subject = Subject(network, path, name, digits, f"{split} images of {dataset}", measured, command)
        found: dict[str, object] = {"checkpoint": str(path), "dataset": dataset, "split": split}
        found |= {"correct": measured.correct, "total": measured.total}
        found |= {"accuracy": measured.correct / measured.total, "cost": measured.cost}
        lines = [subject.result]
        if figures is not None:
            found["report"] = str(write_report(subject, figures, _curves_section(curves, figures)))
            lines.append(f"Report: {found['report']}")
        print(json_format.dumps(found) if json else "\n".join(lines))


def _read_curves(folder: Path) -> Curves | None:
    """What a run recorded of its epochs, if the folder is one's.

    Raises:
        DataError: it is damaged.
    """
    from torchdigits.training.folder import COLUMNS, METRICS
    from torchdigits.training.options import MOST_EPOCHS

    path, record = folder / METRICS, folder / "run.json"
    if not path.exists():
        return None
    from torchdigits.training.run import title_of_run  # here, because the import takes seconds

    with reading(path, "table of a run", DataError):
        rows = [{name: float(row[name]) for name in COLUMNS} for row in read_table(path, COLUMNS, MOST_EPOCHS)]
        if not rows or [row["epoch"] for row in rows] != [*range(1, len(rows) + 1)]:
            raise ValueError("its epochs are not 1, 2, 3 and so on")
        if not all(0 <= number < 1e6 for row in rows for number in row.values()):
            raise ValueError("it has numbers that no epoch has")
    if not record.exists():  # the run was interrupted
        return rows, printable(f"Learning curves of {folder.resolve().name}")
    with reading(record, "record of a run", DataError):
        title = title_of_run(read_json(record))
        if len(title) > 1000 or not title.isprintable():
            raise ValueError("its options are not a run's")
    return rows, title


def _curves_section(curves: Curves | None, folder: Path) -> list[str]:
    """Draw the learning curves; the Markdown that shows them."""
    if curves is None:
        return []
    from torchdigits.training.figures import plot_learning_curves

    plot_learning_curves(*curves, folder / "curve.png")
    return [
        "## Learning curves",
        "Training is measured during an epoch, while the network learns; validation after it.",
        "![Cost and accuracy against the epoch, of training and validation, the best epoch marked](curve.png)",
    ]
