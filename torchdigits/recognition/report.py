"""The report on what a network answers to the images of a dataset: report.md and its figures."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from torchdigits.data.datasets import Digits
from torchdigits.files.writing import write_whole
from torchdigits.network import SigmoidMLP
from torchdigits.recognition.figures import (
    Mistake,
    plot_confusion,
    plot_mistakes,
    plot_output_weights,
    plot_pictures_of_weights,
)
from torchdigits.recognition.measuring import Measurement

REPORT = "report.md"
_MAX_MISTAKES = 12  # in the gallery


class Subject(NamedTuple):
    """What a report is on.

    Attributes:
        network: of 784 inputs and 10 outputs.
        checkpoint: its file.
        name: what the report calls that file.
        digits: the images and labels that it was measured on.
        images: what they are, such as "test images of mnist".
        measurement: of the network on them.
        command: what to type to write the report again.
    """

    network: SigmoidMLP
    checkpoint: Path
    name: str
    digits: Digits
    images: str
    measurement: Measurement
    command: str

    @property
    def sizes(self) -> str:
        return "-".join(map(str, self.network.sizes))

    @property
    def title(self) -> str:
        """Of its figures."""
        return f"{self.sizes}, {Path(*Path(self.name).parts[-2:])}"

    @property
    def result(self) -> str:
        """How many images are recognised, in a line."""
        correct, total = self.measurement.correct, self.measurement.total
        share = f"{correct} / {total} {self.images} recognised ({correct / total:.2%})"
        return f"{share}, cost {self.measurement.cost:.4f}"


def write_report(subject: Subject, folder: Path, more: Sequence[str] = ()) -> Path:
    """Write report.md and its figures.

    Args:
        subject: what it is on.
        folder: where; it exists.
        more: paragraphs of Markdown between the first section and the rest.

    Returns:
        The path of report.md.

    Raises:
        OSError: a file cannot be written.
    """
    paragraphs = [
        f"# {subject.sizes} on the {subject.images}",
        subject.result,
        (
            f"- checkpoint: `{subject.name}`\n"
            f"- its SHA-256: `{hashlib.sha256(subject.checkpoint.read_bytes()).hexdigest()}`\n"
            f"- torch: {torch.__version__}"
        ),
        "This command writes the report again, into a folder that must be new or empty:",
        f"```\n{subject.command}\n```",
        *more,
        *_digits_section(subject, folder),
        *_mistakes_section(subject, folder),
        *_neurons_section(subject, folder),
        *_outputs_section(subject, folder),
    ]
    write_whole(folder / REPORT, ("\n\n".join(paragraphs) + "\n").encode(), overwrite=False)
    return folder / REPORT


def _digits_section(subject: Subject, folder: Path) -> list[str]:
    """Draw the confusion matrix; the Markdown that shows it, and each digit's figures."""
    counts = subject.measurement.confusion
    table = [
        "| digit | images | recognised | answers | precision | recall | F1 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    of_each = zip(counts.sum(1), counts.sum(0), counts.diagonal(), strict=True)
    for digit, (images, answers, recognised) in enumerate(of_each):
        shares = _share(recognised, answers), _share(recognised, images), _share(2 * recognised, images + answers)
        cells = (str(digit), *(f"{n:,}" for n in (images, recognised, answers)), *(f"{share:.2%}" for share in shares))
        table.append(f"| {' | '.join(cells)} |")
    title = f"Which digits are taken for which\n{_measured(subject)}"
    plot_confusion(counts.numpy(), title, folder / "confusion.png")
    return [
        "## Digits",
        "\n".join(table),
        (
            "Recall is the share of a digit's images that are recognised. Precision is the share of the answers with"
            " that digit that are right. F1 is their harmonic mean."
        ),
        "![Confusion matrix: how many images of each digit were taken for which](confusion.png)",
    ]


def _share(part: Tensor, whole: Tensor) -> float:
    return float(part) / float(whole) if whole else 0.0


def _mistakes_section(subject: Subject, folder: Path) -> list[str]:
    """Draw the worst mistakes, if there are any; the Markdown that shows them."""
    activations, labels = subject.measurement.activations, subject.measurement.labels
    wrong = (subject.measurement.answers != labels).nonzero()[:, 0]
    if len(wrong) == 0:
        return []
    costs = (activations[wrong] - one_hot(labels[wrong], 10)).square().sum(1)  # twice as large, in the same order
    worst = wrong[costs.argsort(descending=True, stable=True)][:_MAX_MISTAKES].tolist()
    images = subject.digits.images
    mistakes = [Mistake(i, images[i].numpy(), int(labels[i]), activations[i].tolist()) for i in worst]
    title = f"The worst mistakes, {len(mistakes)} of {len(wrong):,}\n{_measured(subject)}"
    plot_mistakes(mistakes, title, folder / "mistakes.png")
    return [
        "## The worst mistakes",
        "Those of the largest cost, each with its ten activations. Images are numbered from 0, in the dataset's order.",
        "![Pictures of misread digits, with truth, answer and activations](mistakes.png)",
    ]


def _neurons_section(subject: Subject, folder: Path) -> list[str]:
    """Draw the weights of the first layer; the Markdown that shows them."""
    hidden = len(subject.network.layers) - 1
    whose = ("outputs", "hidden neurons")[hidden] if hidden < 2 else "neurons of the first hidden layer"
    weights = next(subject.network.parameters()).detach().numpy()
    plot_pictures_of_weights(weights, f"What the {whose} look at\n{subject.title}", folder / "first_layer.png")
    return [
        f"## What the {whose} look at",
        (
            "Each weight at its pixel: orange where ink excites the neuron, blue where ink inhibits it. Where no"
            " training image has ink, gradient descent leaves the weights as they began: noise. Neurons are numbered"
            " from 0."
        ),
        "![A picture for each neuron: its 784 weights](first_layer.png)",
    ]


def _outputs_section(subject: Subject, folder: Path) -> list[str]:
    """Draw the weights of the last layer, if there is a hidden one; the Markdown that shows them."""
    hidden = len(subject.network.layers) - 1
    if hidden == 0:
        return []
    whose = "hidden neurons" if hidden == 1 else "neurons of the last hidden layer"
    weights, biases = (parameter.detach().numpy() for parameter in [*subject.network.parameters()][-2:])
    title = f"How the outputs use the {whose}\n{subject.title}"
    plot_output_weights(weights, biases, title, folder / "last_layer.png")
    return [
        f"## How the outputs use the {whose}",
        "Orange where an active neuron speaks for the digit, blue where it speaks against it.",
        "![A row for each output: its weights and its bias](last_layer.png)",
    ]


def _measured(subject: Subject) -> str:
    return f"{subject.title}; {subject.measurement.total:,} {subject.images}"
