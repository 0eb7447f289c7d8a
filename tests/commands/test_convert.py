import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Outcome, assert_one_line_error

from torchdigits import DigitClassifier, Recognizer, SigmoidMLP, load_network
from torchdigits.errors import OptionError
from torchdigits.files.networks import save_network, shipped_checkpoint

Run = Callable[..., Outcome]


def test_lightning_loads_a_converted_checkpoint(run_script: Run, tmp_path: Path) -> None:
    network = SigmoidMLP((784, 30, 30, 10)).double()
    save_network(network, tmp_path / "x.json")
    outcome = run_script("convert.py", tmp_path / "x.json", tmp_path / "x.ckpt")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == f"{tmp_path / 'x.ckpt'}: 784-30-30-10, float64\n"
    classifier = DigitClassifier.load_from_checkpoint(tmp_path / "x.ckpt", map_location="cpu", weights_only=True)
    for ours, theirs in zip(classifier.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-7, atol=0)


@pytest.mark.parametrize("way", [".json", ".npz", ".ckpt"])
def test_a_converted_network_answers_as_the_shipped_one(run_script: Run, tmp_path: Path, way: str) -> None:
    path = tmp_path / f"x{way}"
    assert run_script("convert.py", shipped_checkpoint(), path).status == 0
    options = ("--dataset", "digits", "--json")
    ours, shipped = (
        json.loads(run_script("evaluate.py", *options, *more).out) for more in (("--checkpoint", path), ())
    )
    assert ours.pop("checkpoint") == str(path)
    del shipped["checkpoint"]
    assert ours == shipped
    picture = np.zeros((28, 28), np.uint8)
    picture[4:24, 10:14] = 255
    assert Recognizer(path).recognize(picture)[:4] == Recognizer().recognize(picture)[:4]


def test_an_error_is_short_and_commands_no_terminal(run_script: Run, tmp_path: Path) -> None:
    network: dict[str, object] = {"sizes": [1, 1], "weights": [[[1.0]]], "biases": [[[1.0]]], "cost": "QuadraticCost"}
    for name, content in (("sizes", list(range(100_000))), ("cost", "\x1b[31m" * 10_000)):
        (tmp_path / f"{name}.json").write_text(json.dumps(network | {name: content}))
    torch.save(torch.ones(3), tmp_path / "tensor.ckpt")
    torch.save({"state_dict": {"\x1b[31m": torch.ones(3)}}, tmp_path / "name.ckpt")
    for name in ("sizes.json", "cost.json", "tensor.ckpt", "name.ckpt"):
        outcome = run_script("convert.py", tmp_path / name, tmp_path / "y.npz")
        assert_one_line_error(outcome, f"{name} is not a ")
        assert len(outcome.err) < 600
        assert "\x1b" not in outcome.err


def test_nothing_is_overwritten_unless_asked(run_script: Run, tmp_path: Path) -> None:
    kept = tmp_path / "x.json"
    kept.write_text("precious")
    assert_one_line_error(run_script("convert.py", shipped_checkpoint(), kept), str(kept), "--overwrite")
    assert kept.read_text() == "precious"
    outcome = run_script("convert.py", shipped_checkpoint(), kept, "--overwrite")
    assert outcome.out == f"{kept}: 784-30-10, float32\n"
    for ours, theirs in zip(load_network(kept).parameters(), load_network().parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert list(tmp_path.iterdir()) == [kept]


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("shipped", "x.pt", ["x.pt", ".ckpt or .json or .npz or .onnx"]),
        ("shipped", "x", ["x: ", ".ckpt or .json or .npz or .onnx"]),
        ("shipped", "nowhere/x.json", ["cannot write nowhere/x.json", "No such file or directory"]),
        ("shipped", "folder.json", ["folder.json"]),
        ("shipped", "network.h5/x.json", ["cannot write network.h5/x.json", "Not a directory"]),
        ("shipped", "x" * 300 + ".json", ["cannot write xxx", "File name too long"]),
        ("missing.json", "x.json", ["there is no checkpoint missing.json"]),
        ("network.onnx", "x.json", ["network.onnx", ".ckpt or .json or .npz"]),
        ("network.h5", "x.json", ["network.h5", ".ckpt or .json or .npz"]),
        ("folder.json", "x.json", ["folder.json is not a network in .json: it is a folder"]),
    ],
)
def test_what_cannot_be_converted_is_one_line(
    run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, target: str, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "network.onnx").write_bytes(b"onnx")
    (tmp_path / "network.h5").write_bytes(b"h5")
    before = sorted(tmp_path.iterdir())
    outcome = run_script("convert.py", shipped_checkpoint() if source == "shipped" else source, target)
    assert_one_line_error(outcome, *words)
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(OptionError, match="folder"):
        save_network(load_network(), "folder.json", overwrite=True)
    assert sorted(tmp_path.iterdir()) == before


def test_help_fits_a_screen(run_script: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run_script("convert.py", "--help").out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
