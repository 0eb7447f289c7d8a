import gzip
import hashlib
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, Outcome, assert_one_line_error
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from torchdigits import SigmoidMLP, load_network
from torchdigits.data.datasets import Digits, DigitSplits
from torchdigits.files.networks import save_network
from torchdigits.proof.gradients import reference_of
from torchdigits.proof.reference import columns, one_hot

Run = Callable[..., Outcome]
METRICS = "epoch,training_cost,training_accuracy,validation_cost,validation_accuracy,seconds\n1,0.4,0.5,0.3,0.6,0.1\n"
RECORD: dict[str, Any] = {
    "options": {"dataset": "mnist", "hidden": [30], "learning_rate": 3.0, "batch_size": 10, "seed": 7},
    "engine": "eager",
    "hardware": {"devices": 2},
}


@pytest.fixture
def plotted(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Any, ...]]:
    """What each plotting function was called with, in place of a figure."""
    calls: dict[str, tuple[Any, ...]] = {}
    for name in ("learning_curves", "confusion", "mistakes", "pictures_of_weights", "output_weights"):
        module = "training.figures" if name == "learning_curves" else "recognition.report"
        monkeypatch.setattr(f"torchdigits.{module}.plot_{name}", lambda *call, name=name: calls.update({name: call}))
    return calls


@pytest.fixture
def answers(digits: DigitSplits) -> np.ndarray:
    """The activations of the shipped network for the embedded test digits, by hand: `(290, 10)`."""
    return reference_of(load_network()).feedforward(columns(digits.test.images.numpy())).T


def network_with(tmp_path: Path, *hidden: int) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "network.ckpt"
    save_network(SigmoidMLP((784, *hidden, 10)), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [(), (20, 15)])
def test_a_report_shows_every_figure_that_it_has(run_script: Run, tmp_path: Path, hidden: tuple[int, ...]) -> None:
    checkpoint, folder = network_with(tmp_path, *hidden), tmp_path / "new" / "report"
    (tmp_path / "metrics.csv").write_text(METRICS)
    outcome = run_script("evaluate.py", "--dataset", "digits", "--checkpoint", checkpoint, "--figures", folder)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.splitlines()[1:] == [f"Report: {folder / 'report.md'}"]
    text = (folder / "report.md").read_text()
    expected = ["confusion.png", "curve.png", "first_layer.png", "mistakes.png"] + ["last_layer.png"] * bool(hidden)
    assert sorted(re.findall(r"!\[\w[^]]+\]\((.*)\)", text)) == sorted(expected)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*expected, "report.md"])
    assert outcome.out.splitlines()[0] in text
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() in text
    assert (
        f"\ntorchdigits evaluate --checkpoint {checkpoint} --dataset digits --split test --figures {folder}\n" in text
    )
    assert torch.__version__ in text


REPORT_OF_ZEROS = """\
# {sizes} on the test images of digits

29 / 290 test images of digits recognised (10.00%), cost 1.2500

- checkpoint: `{checkpoint}`
- its SHA-256: `{sha256}`
- torch: {torch}

This command writes the report again, into a folder that must be new or empty:

```
torchdigits evaluate --checkpoint {checkpoint} --dataset digits --split test --figures {folder}
```

## Learning curves

Training is measured during an epoch, while the network learns; validation after it.

![Cost and accuracy against the epoch, of training and validation, the best epoch marked](curve.png)

## Digits

| digit | images | recognised | answers | precision | recall | F1 |
| --- | --- | --- | --- | --- | --- | --- |
| 0 | 29 | 29 | 290 | 10.00% | 100.00% | 18.18% |
{others}

Recall is the share of a digit's images that are recognised. Precision is the share of the answers with that digit \
that are right. F1 is their harmonic mean.

![Confusion matrix: how many images of each digit were taken for which](confusion.png)

## The worst mistakes

Those of the largest cost, each with its ten activations. Images are numbered from 0, in the dataset's order.

![Pictures of misread digits, with truth, answer and activations](mistakes.png)

## What the {first} look at

Each weight at its pixel: orange where ink excites the neuron, blue where ink inhibits it. Where no training image has \
ink, gradient descent leaves the weights as they began: noise. Neurons are numbered from 0.

![A picture for each neuron: its 784 weights](first_layer.png)
"""
LAST_LAYER_OF_ZEROS = """
## How the outputs use the {last}

Orange where an active neuron speaks for the digit, blue where it speaks against it.

![A row for each output: its weights and its bias](last_layer.png)
"""


@pytest.mark.parametrize(
    ("hidden", "first", "last"),
    [
        ((), "outputs", ""),
        ((30,), "hidden neurons", "hidden neurons"),
        ((20, 15), "neurons of the first hidden layer", "neurons of the last hidden layer"),
    ],
)
def test_a_report_of_a_network_that_answers_0_to_all_reads_as_by_hand(
    run_script: Run,
    tmp_path: Path,
    plotted: dict[str, Any],
    digits: DigitSplits,
    hidden: tuple[int, ...],
    first: str,
    last: str,
) -> None:
    """All its weights are 0, so that ten activations of 0.5 have the same cost for each of 29 images of each digit."""
    network, checkpoint, folder = SigmoidMLP((784, *hidden, 10)), tmp_path / "zero.ckpt", tmp_path / "report"
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    save_network(network, checkpoint)
    (tmp_path / "metrics.csv").write_text(METRICS)
    run_script("evaluate.py", "--dataset", "digits", "--checkpoint", checkpoint, "--figures", folder)
    sizes = "-".join(map(str, network.sizes))
    expected = (REPORT_OF_ZEROS + LAST_LAYER_OF_ZEROS * bool(hidden)).format(
        sizes=sizes,
        checkpoint=checkpoint,
        sha256=hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        torch=torch.__version__,
        folder=folder,
        others="\n".join(f"| {digit} | 29 | 0 | 0 | 0.00% | 0.00% | 0.00% |" for digit in range(1, 10)),
        first=first,
        last=last,
    )
    assert (folder / "report.md").read_text() == expected
    name, images = f"{sizes}, {tmp_path.name}/zero.ckpt", "290 test images of digits"
    titles = {
        "learning_curves": f"Learning curves of {tmp_path.name}",
        "confusion": f"Which digits are taken for which\n{name}; {images}",
        "mistakes": f"The worst mistakes, 12 of 261\n{name}; {images}",
        "pictures_of_weights": f"What the {first} look at\n{name}",
        "output_weights": f"How the outputs use the {last}\n{name}",
    }
    assert {call: next(word for word in words if isinstance(word, str)) for call, words in plotted.items()} == {
        call: title for call, title in titles.items() if last or call != "output_weights"
    }
    wrong = (digits.test.labels != 0).nonzero()[:12, 0].tolist()
    assert [mistake.number for mistake in plotted["mistakes"][0]] == wrong


def test_counts_precision_and_recall_are_scikit_learns(
    run_script: Run, tmp_path: Path, plotted: dict[str, Any], digits: DigitSplits, answers: np.ndarray
) -> None:
    run_script("evaluate.py", "--dataset", "digits", "--figures", tmp_path)
    truth, answer = digits.test.labels.numpy(), answers.argmax(1)
    counts = confusion_matrix(truth, answer)
    assert plotted["confusion"][0].tolist() == counts.tolist()
    text = (tmp_path / "report.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if re.match(r"\| \d", line)]
    *shares, images = precision_recall_fscore_support(truth, answer, zero_division=0)
    whole = (range(10), images, counts.diagonal(), counts.sum(0))
    assert [row[:4] for row in rows] == [list(map(str, row)) for row in zip(*whole, strict=True)]
    assert [row[4:] for row in rows] == [[f"{share:.2%}" for share in row] for row in zip(*shares, strict=True)]


def test_the_gallery_has_the_wrong_answers_of_the_largest_cost(
    run_script: Run, tmp_path: Path, plotted: dict[str, Any], digits: DigitSplits, answers: np.ndarray
) -> None:
    run_script("evaluate.py", "--dataset", "digits", "--figures", tmp_path)
    mistakes, title, _ = plotted["mistakes"]
    images, labels = (tensor.numpy() for tensor in digits.test)
    wrong = answers.argmax(1) != labels
    costs = np.square(answers - one_hot(labels).T).sum(1) / 2
    assert all(wrong[mistake.number] for mistake in mistakes)
    # In float32, two costs that are all but the same may change places.
    worst = np.sort(costs[wrong])[::-1][: len(mistakes)]
    np.testing.assert_allclose([costs[mistake.number] for mistake in mistakes], worst, atol=1e-5)
    for mistake in mistakes:
        assert mistake.truth == labels[mistake.number]
        assert np.array_equal(mistake.pixels, images[mistake.number])
        np.testing.assert_allclose(mistake.activations, answers[mistake.number], atol=1e-5)
    assert title.startswith(f"The worst mistakes, 12 of {wrong.sum()}\n")


@pytest.mark.parametrize("hidden", [(30,), (20, 15), ()])
def test_the_first_and_the_last_layer_are_drawn(
    run_script: Run, tmp_path: Path, plotted: dict[str, Any], hidden: tuple[int, ...]
) -> None:
    checkpoint = network_with(tmp_path, *hidden)
    run_script("evaluate.py", "--dataset", "digits", "--checkpoint", checkpoint, "--figures", tmp_path / "report")
    parameters = [parameter.detach().numpy() for parameter in load_network(checkpoint).parameters()]
    assert np.array_equal(plotted["pictures_of_weights"][0], parameters[0])
    assert ("output_weights" in plotted) == bool(hidden)
    if hidden:
        for ours, theirs in zip(plotted["output_weights"], parameters[-2:], strict=False):
            assert np.array_equal(ours, theirs)


def test_a_network_without_mistakes_has_no_gallery(
    run_script: Run,
    tmp_path: Path,
    plotted: dict[str, Any],
    digits: DigitSplits,
    answers: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, labels = digits.test
    right = torch.from_numpy(answers.argmax(1)) == labels
    splits = DigitSplits(*[Digits(images[right], labels[right])] * 3)
    monkeypatch.setattr("torchdigits.commands.evaluate.load_splits", lambda *_: splits)
    outcome = run_script("evaluate.py", "--figures", tmp_path)
    assert (outcome.status, outcome.err) == (0, "")
    assert sorted(plotted) == ["confusion", "output_weights", "pictures_of_weights"]
    assert "mistakes.png" not in (tmp_path / "report.md").read_text()


@pytest.mark.usefixtures("plotted")
def test_a_report_can_speak_json_too_and_names_no_path_of_this_machine(run_script: Run, tmp_path: Path) -> None:
    plain = run_script("evaluate.py", "--dataset", "digits", "--json")
    reported = run_script("evaluate.py", "--dataset", "digits", "--json", "--figures", tmp_path)
    assert json.loads(reported.out) == json.loads(plain.out) | {"report": str(tmp_path / "report.md")}
    assert str(ROOT) not in (tmp_path / "report.md").read_text()


def test_the_learning_curves_are_those_of_the_run_beside_the_checkpoint(
    run_script: Run, tmp_path: Path, plotted: dict[str, Any]
) -> None:
    checkpoint = network_with(tmp_path, 30)
    (tmp_path / "metrics.csv").write_text(METRICS)
    (tmp_path / "run.json").write_text(json.dumps(RECORD))
    run_script("evaluate.py", "--dataset", "digits", "--checkpoint", checkpoint, "--figures", tmp_path / "report")
    rows, title, _ = plotted["learning_curves"]
    assert rows == [
        {
            "epoch": 1,
            "training_cost": 0.4,
            "training_accuracy": 0.5,
            "validation_cost": 0.3,
            "validation_accuracy": 0.6,
            "seconds": 0.1,
        }
    ]
    assert title == (
        "Learning curves of 784-30-10 on mnist, learning rate 3, mini-batches of 10 on each of 2 devices, seed 7,"
        " eager engine"
    )


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("metrics.csv", "epoch,loss\n1,0.5\n", "table of a run: other columns"),
        ("metrics.csv", METRICS.replace("0.3", "low"), "table of a run: could not convert string to float: 'low'"),
        ("metrics.csv", METRICS.partition("\n")[0], "table of a run: its epochs are not 1, 2, 3 and so on"),
        ("metrics.csv", METRICS.replace("\n1", "\n2"), "table of a run: its epochs are not 1, 2, 3 and so on"),
        ("metrics.csv", METRICS.replace("0.3", "-1"), "table of a run: it has numbers that no epoch has"),
        ("metrics.csv", METRICS.replace("0.3", "1e6"), "table of a run: it has numbers that no epoch has"),
        ("metrics.csv", METRICS.replace("0.3", "nan"), "table of a run: it has numbers that no epoch has"),
        ("metrics.csv", "\xff", "table of a run: "),
        ("run.json", "{", "record of a run: "),
        ("run.json", "[]", "record of a run: "),
        ("run.json", '{"options": {}}', "record of a run: 'hidden' is missing"),
        ("run.json", json.dumps(RECORD | {"engine": "\x1b[31m"}), "record of a run: its options are not a run's"),
        ("run.json", json.dumps(RECORD | {"engine": "x" * 999}), "record of a run: its options are not a run's"),
    ],
)
def test_a_damaged_record_of_a_run_is_one_line(
    run_script: Run, tmp_path: Path, name: str, content: str, problem: str
) -> None:
    checkpoint, folder = network_with(tmp_path, 30), tmp_path / "report"
    (tmp_path / "metrics.csv").write_text(METRICS)
    (tmp_path / name).write_text(content, encoding="latin1")
    arguments = ("--dataset", "digits", "--checkpoint", checkpoint, "--figures", folder)
    assert_one_line_error(run_script("evaluate.py", *arguments), f"error: {tmp_path / name} is not a {problem}")
    assert not folder.exists()


def test_a_folder_in_use_is_one_line_and_stays_as_it_is(run_script: Run, tmp_path: Path) -> None:
    used, file = tmp_path / "used", tmp_path / "file"
    used.mkdir()
    (used / ".hidden").touch()
    file.write_text("precious")
    for folder, words in ((used, "not empty"), (file, "File exists"), (file / "below", "Not a directory")):
        outcome = run_script("evaluate.py", "--dataset", "digits", "--figures", folder)
        assert_one_line_error(outcome, f"--figures {folder}", words)
    assert [path.name for path in used.iterdir()] == [".hidden"]
    assert file.read_text() == "precious"


def test_a_number_that_is_no_pixel_is_one_line(run_script: Run, tmp_path: Path) -> None:
    part = np.full((2, 784), np.nan, np.float32), np.zeros(2, np.int64)
    (tmp_path / "mnist.pkl.gz").write_bytes(gzip.compress(pickle.dumps([part] * 3, protocol=2)))
    assert_one_line_error(run_script("evaluate.py", "--data-dir", tmp_path), "mnist.pkl.gz", "other images or labels")


@pytest.mark.parametrize("split", ["training", "validation", "test"])
def test_evaluate_counts_what_the_reference_counts(run_script: Run, digits: DigitSplits, split: str) -> None:
    images, labels = (tensor.numpy() for tensor in getattr(digits, split))
    correct = reference_of(load_network()).evaluate(columns(images), labels)
    outcome = run_script("evaluate.py", "--dataset", "digits", "--split", split)
    assert outcome.out.startswith(f"{correct} / {len(labels)} {split} images of digits recognised")
    found = json.loads(run_script("evaluate.py", "--dataset", "digits", "--split", split, "--json").out)
    assert (found["correct"], found["total"]) == (correct, len(labels))
    assert found["accuracy"] == correct / len(labels)
    assert (found["dataset"], found["split"]) == ("digits", split)


def test_the_shipped_network_is_as_good_as_its_model_card_says(run_script: Run, mnist_dir: Path) -> None:
    card = (ROOT / "checkpoints" / "README.md").read_text()
    checkpoint = ROOT / "checkpoints" / "mnist-784-30-10.ckpt"
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() in card
    for split in ("validation", "test"):
        found = json.loads(run_script("evaluate.py", "--data-dir", mnist_dir, "--split", split, "--json").out)
        assert re.search(rf"{split}\W+{found['correct']:,} / 10,000\b", card)
    assert found["correct"] >= 9500


def test_a_network_of_doubles_is_asked_in_doubles(run_script: Run, digits: DigitSplits, tmp_path: Path) -> None:
    network = SigmoidMLP().double()
    save_network(network, tmp_path / "double.ckpt")
    twin, (images, labels) = reference_of(network), (tensor.numpy() for tensor in digits.test)
    outcome = run_script("evaluate.py", "--dataset", "digits", "--checkpoint", tmp_path / "double.ckpt", "--json")
    found = json.loads(outcome.out)
    assert found["cost"] == pytest.approx(twin.cost(columns(images), one_hot(labels)), rel=1e-12)
    assert found["correct"] == twin.evaluate(columns(images), labels)
