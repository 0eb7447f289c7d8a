"""Measuring a trained network on a dataset, and the report on it."""

import csv
import hashlib
import json as json_format
import shlex
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from torchdigits.checkpoints import shipped_checkpoint
from torchdigits.cli import OptionalPath, check_new_file, make_empty_folder
from torchdigits.datasets import Digits, load_splits
from torchdigits.errors import DataError, reason
from torchdigits.figures import (
    Mistake,
    plot_confusion,
    plot_learning_curves,
    plot_mistakes,
    plot_output_weights,
    plot_pictures_of_weights,
)
from torchdigits.inference import load_digit_network
from torchdigits.network import SigmoidMLP, quadratic_cost
from torchdigits.training import title_of_run

# Of metrics.csv
_COLUMNS = ("epoch", "training_cost", "training_accuracy", "validation_cost", "validation_accuracy")
_MAX_MISTAKES = 12  # in the gallery


@torch.inference_mode()
def evaluate(
    *,
    checkpoint: OptionalPath = None,
    dataset: Literal["mnist", "digits"] = "mnist",
    data_dir: OptionalPath = None,
    split: Literal["training", "validation", "test"] = "test",
    figures: OptionalPath = None,
    json: bool = False,
) -> None:
    """Count how many images of a dataset a trained network recognises.

    Args:
        checkpoint: the trained network; the shipped one by default.
        dataset: mnist, or the small one that comes with scikit-learn.
        data_dir: the folder of MNIST (default: $TORCHDIGITS_DATA_DIR, else data).
        split: which part of the dataset.
        figures: a folder, new or empty, for report.md: each digit's precision and recall, the confusion matrix, the
            worst mistakes, what the neurons look at, and the learning curves if the checkpoint is in its run's folder.
        json: print one JSON object.

    Raises:
        CheckpointError: the file holds no network of 784 inputs and 10 outputs.
        OptionError: the folder for figures is not empty, or cannot be made.
        DataError: the dataset cannot be had, or what the run recorded beside the checkpoint is damaged.
    """
    path = shipped_checkpoint() if checkpoint is None else checkpoint
    network = load_digit_network(path)
    if figures is not None:
        curves = _read_curves(path.parent)
    digits: Digits = getattr(load_splits(dataset, data_dir), split)
    if figures is not None:
        make_empty_folder("--figures", figures)
        check_new_file("--figures", report := figures / "report.md", (".md",))
    dtype = next(network.parameters()).dtype
    activations = torch.cat([network(part.to(dtype) / 255) for part in torch.split(digits.images, 10_000)])
    cost = float(quadratic_cost(activations, digits.labels))
    correct, total = int((activations.argmax(1) == digits.labels).sum()), len(digits.labels)
    found: dict[str, object] = {"checkpoint": str(path), "dataset": dataset, "split": split}
    found |= {"correct": correct, "total": total, "accuracy": correct / total, "cost": cost}
    lines = [f"{correct} / {total} {split} images of {dataset} recognised ({correct / total:.2%}), cost {cost:.4f}"]
    if figures is not None:
        options = {"--checkpoint": checkpoint, "--dataset": dataset, "--data-dir": data_dir, "--split": split}
        options["--figures"] = figures
        command = ["python", "scripts/evaluate.py"]
        command += [str(word) for option in options.items() if option[1] is not None for word in option]
        sizes, name = "-".join(map(str, network.sizes)), Path(*path.parts[-2:])
        sections = [
            f"# {sizes} on the {split} images of {dataset}",
            lines[0],
            (
                f"- checkpoint: `{name if checkpoint is None else path}`\n"
                f"- its SHA-256: `{hashlib.sha256(path.read_bytes()).hexdigest()}`\n"
                f"- torch: {torch.__version__}"
            ),
            f"The command, which takes a new folder each time:\n\n```\n{shlex.join(command)}\n```",
            *_curves(curves, figures),
            *_answers(digits, activations, f"{sizes}, {name}; {total:,} {split} images of {dataset}", figures),
            *_neurons(network, f"{sizes}, {name}", figures),
        ]
        report.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
        found["report"] = str(report)
        lines.append(f"Report: {report}")
    print(json_format.dumps(found) if json else "\n".join(lines))


def _read_curves(folder: Path) -> tuple[list[dict[str, float]], str] | None:
    """What a run recorded of its epochs, and a title that says which run, if the folder is one's."""
    path, record = folder / "metrics.csv", folder / "run.json"
    if not path.exists():
        return None
    try:
        with path.open(newline="") as file:
            rows = [{name: float(row[name]) for name in _COLUMNS} for row in csv.DictReader(file)]
        if not rows or [row["epoch"] for row in rows] != [*range(1, len(rows) + 1)]:
            raise ValueError("its epochs are not 1, 2, 3 and so on")
        if not all(0 <= number < 1e6 for row in rows for number in row.values()):
            raise ValueError("it has numbers that no cost or accuracy has")
        if not record.exists():  # of a run that was interrupted
            return rows, f"Learning curves of {folder.resolve().name}"
        title = title_of_run(json_format.loads(record.read_text()))
        if len(title) > 1000 or not title.isprintable():
            raise ValueError("its options are no run's")
        return rows, title
    # Whatever else a file of these names can hold
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise DataError(f"{path}, or run.json beside it, is not a run's: {reason(error)}") from error


def _curves(curves: tuple[list[dict[str, float]], str] | None, folder: Path) -> list[str]:
    """Draw the learning curves; the Markdown that shows them."""
    if curves is None:
        return []
    plot_learning_curves(*curves, folder / "curve.png")
    return [
        "## Learning curves",
        "Those of training are measured while the network learns, during an epoch; those of validation after it.",
        "![Cost and accuracy against the epoch, of training and validation, the best epoch marked](curve.png)",
    ]


def _answers(digits: Digits, activations: Tensor, what: str, folder: Path) -> list[str]:
    """Draw the confusion matrix and the worst mistakes; the Markdown that shows them, and each digit's figures."""
    from torchmetrics.functional import classification  # here, because the import takes seconds

    answers, labels = activations.argmax(1), digits.labels
    counts = classification.multiclass_confusion_matrix(answers, labels, 10)
    precision, recall, f1 = (
        measure(answers, labels, 10, average="none").tolist()
        for measure in (
            classification.multiclass_precision,
            classification.multiclass_recall,
            classification.multiclass_f1_score,
        )
    )
    table = [
        "| digit | images | recognised | answers | precision | recall | F1 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for digit in range(10):
        numbers = (counts[digit].sum(), counts[digit, digit], counts[:, digit].sum())
        shares = (precision[digit], recall[digit], f1[digit])
        cells = (str(digit), *(f"{number:,}" for number in numbers), *(f"{share:.2%}" for share in shares))
        table.append(f"| {' | '.join(cells)} |")
    plot_confusion(counts.numpy(), f"Which digits are taken for which\n{what}", folder / "confusion.png")
    text = [
        "## Digits",
        "\n".join(table),
        (
            "Recall is the share of a digit's images that are recognised, precision the share of right answers among"
            " those that name it, and F1 their harmonic mean."
        ),
        "![Confusion matrix: how many images of each digit were taken for which](confusion.png)",
    ]
    wrong = (answers != labels).nonzero()[:, 0]
    if len(wrong):
        errors = activations[wrong] - one_hot(labels[wrong], 10)
        order = errors.square().sum(1).argsort(descending=True, stable=True)  # which is that of their costs
        worst = wrong[order][:_MAX_MISTAKES].tolist()
        mistakes = [Mistake(i, digits.images[i].numpy(), int(labels[i]), activations[i].tolist()) for i in worst]
        title = f"The worst mistakes, {len(mistakes)} of {len(wrong):,}\n{what}"
        plot_mistakes(mistakes, title, folder / "mistakes.png")
        text += [
            "## The worst mistakes",
            "Those of the largest cost, each with the ten outputs; the numbers are their places in the split, from 0.",
            "![Pictures of misread digits, with truth, answer and outputs](mistakes.png)",
        ]
    return text


def _neurons(network: SigmoidMLP, what: str, folder: Path) -> list[str]:
    """Draw the weights of the first and of the last layer; the Markdown that shows them."""
    parameters = [parameter.numpy() for parameter in network.parameters()]
    hidden = len(network.layers) - 1
    whose = ("outputs", "hidden neurons")[hidden] if hidden < 2 else "neurons of the first hidden layer"
    plot_pictures_of_weights(parameters[0], f"What the {whose} look at\n{what}", folder / "first_layer.png")
    text = [
        f"## What the {whose} look at",
        (
            "Each weight at its pixel: where ink excites the neuron, red; where it inhibits it, blue. Where no training"
            " image has ink, gradient descent leaves the weights as they began: noise. Neurons are numbered from 0."
        ),
        "![A picture for each neuron: its 784 weights](first_layer.png)",
    ]
    if hidden:
        whose = "hidden neurons" if hidden == 1 else "neurons of the last hidden layer"
        weights, biases = parameters[-2:]
        plot_output_weights(weights, biases, f"How the outputs use the {whose}\n{what}", folder / "last_layer.png")
        text += [
            f"## How the outputs use the {whose}",
            "Where a neuron speaks for the digit, red; where it speaks against it, blue.",
            "![A row for each output: its weights and its bias](last_layer.png)",
        ]
    return text
