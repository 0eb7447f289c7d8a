import gzip
import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, Outcome, assert_one_line_error
from PIL import Image

from torchdigits import Recognizer, SigmoidMLP, load_network
from torchdigits.datasets import IDX_FILES_MD5, IDX_FOLDER, DigitSplits
from torchdigits.errors import CheckpointError, ImageError
from torchdigits.parity import reference_of
from torchdigits.reference import columns, one_hot

Run = Callable[..., Outcome]


@pytest.fixture
def pictures(tmp_path: Path, digits: DigitSplits) -> list[Path]:
    """Ten pictures of the embedded test digits, as files."""
    paths = [tmp_path / f"{number} of ten.png" for number in range(10)]
    for path, image in zip(paths, digits.test.images, strict=False):
        Image.fromarray(image.view(28, 28).numpy()).save(path)
    return paths


def test_a_picture_is_recognised_alike_as_file_image_and_array(pictures: list[Path], digits: DigitSplits) -> None:
    recognizer = Recognizer()
    for path, pixels in zip(pictures, digits.test.images.numpy(), strict=False):
        expected = reference_of(load_network()).feedforward(columns(pixels[np.newaxis]))[:, 0]
        with Image.open(path) as image:
            answers = [recognizer.recognize(p) for p in (path, str(path), image, pixels, pixels.reshape(28, 28))]
        assert len(set(map(str, answers))) == 1
        assert answers[0].digit == expected.argmax()
        np.testing.assert_allclose(answers[0].activations, expected, atol=1e-5)


def test_predict_prints_a_line_a_picture(run_script: Run, pictures: list[Path]) -> None:
    outcome = run_script("predict.py", *pictures)
    assert (outcome.status, outcome.err) == (0, "")
    recognizer = Recognizer()
    for path, line in zip(pictures, outcome.out.splitlines(), strict=True):
        name, rest = line.rsplit(": ", 1)
        digit, *activations = rest.split()
        answer = recognizer.recognize(path)
        assert (name, int(digit)) == (str(path), answer.digit)
        assert activations == [f"{number}:{a:.3f}" for number, a in enumerate(answer.activations)]


def test_predict_can_speak_json(run_script: Run, pictures: list[Path]) -> None:
    outcome = run_script("predict.py", *pictures, "--json")
    assert outcome.status == 0
    answers = [json.loads(line) for line in outcome.out.splitlines()]
    assert [answer["file"] for answer in answers] == [str(path) for path in pictures]
    recognizer = Recognizer()
    for path, answer in zip(pictures, answers, strict=True):
        assert answer == {"file": str(path)} | recognizer.recognize(path)._asdict()


def test_a_picture_that_cannot_be_read_does_not_stop_the_others(
    run_script: Run, pictures: list[Path], tmp_path: Path
) -> None:
    outcome = run_script("predict.py", pictures[0], tmp_path / "missing.png", pictures[1])
    assert outcome.status == 2
    assert len(outcome.out.splitlines()) == 2
    assert outcome.err == f"error: cannot read {tmp_path / 'missing.png'}: No such file or directory\n"


def test_what_is_no_picture_of_a_digit_is_one_line(run_script: Run, pictures: list[Path], tmp_path: Path) -> None:
    text, empty, cut, large, coloured = (tmp_path / name for name in ("a.txt", "b.png", "c.png", "d.png", "e.png"))
    text.write_text("seven")
    empty.write_bytes(b"")
    cut.write_bytes(pictures[0].read_bytes()[:100])
    Image.new("L", (280, 280)).save(large)
    Image.new("RGBA", (28, 28)).save(coloured)
    assert_one_line_error(run_script("predict.py", text), f"{text} is not a picture")
    assert_one_line_error(run_script("predict.py", empty), f"{empty} is not a picture")
    assert_one_line_error(run_script("predict.py", cut), f"cannot read {cut}")
    assert_one_line_error(run_script("predict.py", large), f"{large} has 280x280 pixels", "28x28")
    assert_one_line_error(run_script("predict.py", coloured), f"{coloured} has 28x28 pixels of mode RGBA", "grey")
    assert_one_line_error(run_script("predict.py", tmp_path), f"cannot read {tmp_path}: Is a directory")
    assert_one_line_error(run_script("predict.py"), "picture")


def test_a_damaged_image_that_is_already_open_is_refused(pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(pictures[0].read_bytes()[:100])
    with Image.open(tmp_path / "cut.png") as image, pytest.raises(ImageError, match="cannot read the image"):
        Recognizer().recognize(image)


def test_a_picture_cannot_run_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary, ghostscript = tmp_path / "canary", tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {canary}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "x.eps").write_text(
        '%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n%%EndComments\n%%ImageData: 28 28 8 1 0 1 1 "x"\n'
    )
    with pytest.raises(ImageError, match="not a picture"):
        Recognizer().recognize(tmp_path / "x.eps")
    assert not canary.exists()


@pytest.mark.parametrize("array", [np.zeros((28, 28)), np.zeros((27, 28), np.uint8), np.zeros((1, 784), np.uint8)])
def test_an_array_of_another_kind_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match="an array"):
        Recognizer().recognize(array)


def test_checkpoints_that_read_no_digits_are_one_line(run_script: Run, pictures: list[Path], tmp_path: Path) -> None:
    missing, text, other = tmp_path / "missing.ckpt", tmp_path / "text.ckpt", tmp_path / "other.ckpt"
    text.write_text("weights")
    torch.save({"state_dict": {f"network.{k}": v for k, v in SigmoidMLP([9, 2]).state_dict().items()}}, other)
    for path, words in (
        (missing, "there is no checkpoint"),
        (text, "damaged, or no checkpoint"),
        (other, "784 inputs"),
    ):
        for script, arguments in (("predict.py", pictures[:1]), ("evaluate.py", ["--dataset", "digits"])):
            outcome = run_script(script, *arguments, "--checkpoint", path)
            assert_one_line_error(outcome, str(path), words)
        with pytest.raises(CheckpointError):
            Recognizer(path)


def test_a_network_of_doubles_is_asked_in_doubles(run_script: Run, digits: DigitSplits, tmp_path: Path) -> None:
    network = SigmoidMLP().double()
    path = tmp_path / "double.ckpt"
    torch.save({"state_dict": {f"network.{name}": tensor for name, tensor in network.state_dict().items()}}, path)
    twin, (images, labels) = reference_of(network), (tensor.numpy() for tensor in digits.test)
    answer = Recognizer(path).recognize(images[0])
    np.testing.assert_allclose(answer.activations, twin.feedforward(columns(images[:1]))[:, 0], rtol=1e-12)
    found = json.loads(run_script("evaluate.py", "--dataset", "digits", "--checkpoint", path, "--json").out)
    assert found["cost"] == pytest.approx(twin.cost(columns(images), one_hot(labels)), rel=1e-12)
    assert found["correct"] == twin.evaluate(columns(images), labels)


class Hostile:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("protocol", [2, 4])
def test_hostile_files_are_one_line(run_script: Run, tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps(Hostile(tmp_path / "canary"), protocol)
    (tmp_path / "x.ckpt").write_bytes(content)
    (tmp_path / "mnist.pkl.gz").write_bytes(gzip.compress(content))
    assert_one_line_error(run_script("evaluate.py", "--checkpoint", tmp_path / "x.ckpt"), "x.ckpt")
    assert_one_line_error(run_script("evaluate.py", "--data-dir", tmp_path), "mnist.pkl.gz", "only arrays are admitted")
    assert not (tmp_path / "canary").exists()


def test_damaged_idx_files_are_one_line(run_script: Run, tmp_path: Path) -> None:
    (tmp_path / IDX_FOLDER).mkdir(parents=True)
    for name in IDX_FILES_MD5:
        (tmp_path / IDX_FOLDER / name).write_bytes(b"\0\0\x08\x03" + b"\xff" * 12)
    assert_one_line_error(run_script("evaluate.py", "--data-dir", tmp_path), "train-images-idx3-ubyte", "altered")


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


def test_predict_runs_from_any_folder(pictures: list[Path], tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "predict.py"), pictures[0].name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{pictures[0].name}: ")
