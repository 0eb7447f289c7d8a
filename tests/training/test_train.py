import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Outcome, assert_one_line_error, leave_unbuilt
from PIL import Image

from torchdigits import load_network
from torchdigits.data.datasets import DigitSplits
from torchdigits.training.options import TrainOptions

Run = Callable[..., Outcome]
NAME = "digits-784-30-10-eta3-seed0"


def test_a_run_trains_tests_and_leaves_its_files(run_script: Run, tmp_path: Path, digits: DigitSplits) -> None:
    outcome = run_script("train.py", "--dataset", "digits", "--epochs", 4, "--hidden", 12, "--output", tmp_path)
    assert outcome.status == 0
    assert outcome.err == ""
    folder = tmp_path / "digits-784-12-10-eta3-seed0-run1"
    files = ["best.ckpt", "curve.png", "last.ckpt", "metrics.csv", "run.json"]
    assert sorted(path.name for path in folder.iterdir()) == files
    with Image.open(folder / "curve.png") as curve:
        assert curve.size == (900, 400)

    engine, *epochs, test, advice, saved, use = outcome.out.splitlines()
    assert re.match(r"Only \d+ of 29 images of a 8 were recognised: output 8 stays ", advice)
    assert engine == "Engine: eager, as 488 updates are too few to be worth compiling"
    for number, line in enumerate(epochs, 1):
        assert re.fullmatch(rf"Epoch {number}/4: \d+ / 290 validation, cost 0\.\d{{4}}, \d+\.\d\d s", line)
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]

    record = json.loads((folder / "run.json").read_text())
    assert f"{record['engine']}, {record['why']}" == engine.removeprefix("Engine: ")
    assert record["options"]["hidden"] == [12]
    assert record["options"]["seed"] == 0
    assert record["dataset"] == {
        "sha256": digits.fingerprint(),
        "training": 1217,
        "validation": 290,
        "test": 290,
    }
    assert record["versions"]["torch"] == torch.__version__

    # The printed counts are those of the network in best.ckpt, counted anew.
    network = load_network(folder / "best.ckpt")
    correct = {
        name: int((network(images / 255).argmax(1) == labels).sum())
        for name, (images, labels) in digits._asdict().items()
    }
    best = max(rows, key=lambda row: float(row["validation_accuracy"]))
    assert round(float(best["validation_accuracy"]) * 290) == correct["validation"]
    assert test == f"Test: {correct['test']} / 290 with the best network, of epoch {best['epoch']}"
    assert record["test"] == {"correct": correct["test"], "total": 290}
    assert str(folder / "best.ckpt") in saved
    assert use.strip() == f"python {ROOT / 'scripts' / 'predict.py'} --checkpoint {folder / 'best.ckpt'} PICTURE"


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_in_a_new_folder(
    run_script: Run, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    before = torch.are_deterministic_algorithms_enabled()
    for seed, threads in ((1, 1), (1, 2), (2, 1)):
        torch.set_num_threads(threads)
        run_script("train.py", "--dataset", "digits", "--epochs", 2, "--seed", seed, "--output", tmp_path)
    assert torch.are_deterministic_algorithms_enabled() is before
    first, again, other = (
        load_network(tmp_path / f"digits-784-30-10-eta3-{name}" / "last.ckpt")
        for name in ("seed1-run1", "seed1-run2", "seed2-run1")
    )
    for ours, theirs, others in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert not torch.equal(ours, others)


@pytest.mark.slow
def test_best_and_last_are_the_networks_of_their_epochs(run_script: Run, tmp_path: Path) -> None:
    # So large a step soon does harm, so that the best epoch is not the last one.
    options = ("--dataset", "digits", "--learning-rate", 60, "--seed", 3, "--output", tmp_path)
    run_script("train.py", *options, "--epochs", 8)
    with (tmp_path / "digits-784-30-10-eta60-seed3-run1" / "metrics.csv").open() as file:
        accuracies = [float(row["validation_accuracy"]) for row in csv.DictReader(file)]
    best = accuracies.index(max(accuracies)) + 1
    assert best < 8
    run_script("train.py", *options, "--epochs", best)
    one, two = (tmp_path / f"digits-784-30-10-eta60-seed3-run{number}" for number in (1, 2))
    for ours, theirs in zip(
        load_network(one / "best.ckpt").parameters(), load_network(two / "last.ckpt").parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert torch.load(one / "last.ckpt", weights_only=True)["epoch"] == 7


def test_a_checkpoint_names_no_path_of_its_machine(run_script: Run, tmp_path: Path) -> None:
    run_script("train.py", "--dataset", "digits", "--epochs", 1, "--output", tmp_path)
    assert str(tmp_path).encode() not in (tmp_path / "digits-784-30-10-eta3-seed0-run1" / "best.ckpt").read_bytes()


def test_no_hidden_layer_and_several_train_too(run_script: Run, tmp_path: Path) -> None:
    for hidden, name in (((), "digits-784-10-eta3-seed0-run1"), ((20, 15), "digits-784-20-15-10-eta3-seed0-run1")):
        outcome = run_script(
            "train.py",
            "--dataset",
            "digits",
            "--epochs",
            1,
            "--output",
            tmp_path,
            "--precision",
            "bf16",
            "--hidden",
            *hidden,
        )
        assert (outcome.status, outcome.err) == (0, "")
        assert load_network(tmp_path / name / "best.ckpt").sizes == (784, *hidden, 10)


@pytest.mark.slow
def test_the_compiled_engine_trains_the_same_network(run_script: Run, tmp_path: Path) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    options = ("--dataset", "digits", "--epochs", 3, "--precision", 64, "--accelerator", "cpu", "--output", tmp_path)
    eager = run_script("train.py", *options, "--engine", "eager")
    compiled = run_script("train.py", *options, "--engine", "compiled")
    assert (compiled.status, compiled.err) == (0, "")
    lines = [re.sub(r"[\d.]+ s$", "", outcome.out).replace("run2", "run1") for outcome in (eager, compiled)]
    assert lines[0].startswith("Engine: eager\n")
    assert re.match(r"Engine: compiled, (in \d+\.\d s|from the cache)\n", lines[1])  # as another test may have done it
    results = [re.findall(r"(\d+ / \d+)", outcome.out) for outcome in (eager, compiled)]
    assert results[0] == results[1]
    one, two = (load_network(tmp_path / f"{NAME}-run{number}" / "last.ckpt") for number in (1, 2))
    for ours, theirs in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    # Interrupted after its first epoch and gone on with, it has the same bits.
    third = tmp_path / f"{NAME}-run3"
    run_script("train.py", *options, "--epochs", 1, "--engine", "compiled")
    outcome = run_script("train.py", "--resume", third, "--epochs", 3)
    assert outcome.out.startswith("Engine: compiled, from the cache\n")
    for ours, theirs in zip(load_network(third / "last.ckpt").parameters(), two.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.are_deterministic_algorithms_enabled() is before
    assert torch.get_default_dtype() is torch.float32


@pytest.mark.slow
def test_without_a_compiler_auto_trains_eagerly_and_says_why(
    run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no compiler"))
    monkeypatch.setattr("torchdigits.engines.choice.UPDATES_WORTH_COMPILING", 1)
    outcome = run_script("train.py", "--dataset", "digits", "--epochs", 1, "--output", tmp_path, "--accelerator", "cpu")
    assert outcome.status == 0
    engine, epoch, *_ = outcome.out.splitlines()
    assert engine.startswith("Engine: eager, not compiled: torch could not compile: ")
    assert "No working C++ compiler" in engine
    assert epoch.startswith("Epoch 1/1: ")


def test_without_a_compiler_asking_for_compiled_is_one_line(
    run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_unbuilt(monkeypatch)
    output = tmp_path / "runs"
    outcome = run_script(
        "train.py", "--dataset", "digits", "--engine", "compiled", "--output", output, "--accelerator", "cpu"
    )
    assert_one_line_error(outcome, "--engine compiled", "No working C++ compiler", "--engine eager")
    assert not output.exists()


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_training_on_a_gpu_learns_and_repeats(run_script: Run, tmp_path: Path, engine: str) -> None:
    options = ("--dataset", "digits", "--epochs", 5, "--accelerator", "gpu", "--engine", engine, "--output", tmp_path)
    for _ in range(2):
        outcome = run_script("train.py", *options)
        assert (outcome.status, outcome.err) == (0, "")
        assert int(outcome.out.split("Test: ")[1].split()[0]) > 200
    one, two = (load_network(tmp_path / f"{NAME}-run{number}" / "last.ckpt") for number in (1, 2))
    for ours, theirs in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dataset", "cifar"], ["error: --dataset: invalid choice: 'cifar' (choose from ", "mnist", "digits"]),
        (["--epochs", "0"], ["epochs", "0", "1 or more"]),
        (["--epochs", "many"], ["--epochs", "many"]),
        (["--epochs"], ["--epochs"]),
        (["--batch-size", "0"], ["batch size 0"]),
        (["--hidden", "30", "0"], ["hidden 30 0", "1 neuron or more"]),
        (["--hidden", "-5"], ["-5"]),
        (["--hidden", "9" * 20], ["hidden 999", "a network may have 62,914,560 weights and biases"]),
        (["--learning-rate", "0"], ["learning rate 0"]),
        (["--learning-rate", "-1"], ["learning rate -1"]),
        (["--learning-rate", "nan"], ["learning rate nan"]),
        (["--learning-rate", "inf"], ["learning rate inf"]),
        (["--learning-rate", "1e39"], ["learning rate 1e+39"]),
        (["--seed", "-1"], ["seed -1"]),
        (["--devices", "0"], ["devices 0"]),
        (["--accelerator", "abacus"], ["--accelerator", "abacus"]),
        (["--precision", "7"], ["--precision", "7"]),
        (["--engine", "steam"], ["--engine", "steam"]),
        (["--engine", "compiled", "--precision", "bf16"], ["--engine compiled", "32 or 64 bits"]),
        (["--engine", "compiled", "--accelerator", "cpu", "--devices", "2"], ["--engine compiled", "one device"]),
        (["--speed", "fast"], ["--speed"]),
    ],
)
def test_a_wrong_option_is_one_line_and_makes_no_folder(
    run_script: Run, tmp_path: Path, options: list[str], words: list[str]
) -> None:
    output = tmp_path / "runs"
    outcome = run_script("train.py", "--dataset", "digits", "--output", output, *options)
    assert_one_line_error(outcome, *words)
    assert not output.exists()


@pytest.mark.slow
def test_a_wrong_option_is_one_line_on_a_terminal_without_unicode_too() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--dataset", "\u00e9"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii:backslashreplace"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --dataset: invalid choice: ")
    assert done.stderr.count("\n") == 1


def test_a_gpu_that_is_not_there_is_one_line(run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    outcome = run_script("train.py", "--dataset", "digits", "--accelerator", "gpu", "--output", tmp_path / "runs")
    assert_one_line_error(outcome, "--accelerator gpu", "no GPU", "--accelerator cpu")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("world", "options", "words"),
    [("2", ["--devices", "3"], ["--devices 3", "torchrun starts 2"]), ("4", [], ["several machines"])],
)
def test_what_torchrun_contradicts_is_one_line(
    run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: str, options: list[str], words: list[str]
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": world}.items():
        monkeypatch.setenv(name, value)
    outcome = run_script("train.py", "--dataset", "digits", "--output", tmp_path / "runs", *options)
    assert_one_line_error(outcome, *words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "variables",
    [
        {"LOCAL_RANK": "1", "SLURM_JOB_ID": "1", "SLURM_PROCID": "1", "WORLD_SIZE": "4"},
        {"SLURM_NTASKS": "4", "RANK": "x", "MASTER_PORT": "x", "TORCHELASTIC_RUN_ID": "x"},
    ],
)
def test_a_run_is_one_process_whatever_other_programs_say(
    run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "last.ckpt").write_text("precious")
    options = ("--dataset", "digits", "--epochs", 1, "--accelerator", "cpu", "--output", tmp_path)
    outcome = run_script("train.py", *options)
    assert (outcome.status, outcome.err) == (0, "")
    assert "Engine: eager" in outcome.out
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{NAME}-run1", "last.ckpt"]
    assert_one_line_error(run_script("train.py", "--epochs", 0), "epochs 0")


def test_an_output_that_cannot_be_written_is_one_line(run_script: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "dangling").symlink_to(tmp_path / "not there" / "disk")
    for output in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "dangling", "/proc/runs"):
        outcome = run_script("train.py", "--dataset", "digits", "--output", output)
        assert_one_line_error(outcome, "--output", str(output))
    assert (tmp_path / "file").read_text() == "precious"


def test_nobody_has_to_read_all_epochs(run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def piped(*_: object, **__: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("torchdigits.commands.train.train_run", piped)
    outcome = run_script("train.py", "--dataset", "digits", "--output", tmp_path)
    assert outcome == (1, "", "")


def test_missing_mnist_is_one_line(run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])  # nobody listens there
    outcome = run_script("train.py", "--data-dir", tmp_path / "nowhere", "--output", tmp_path / "runs")
    assert_one_line_error(outcome, str(tmp_path / "nowhere"), "Connection refused", "--dataset digits")
    assert not (tmp_path / "runs").exists()


def test_help_fits_a_screen_and_shows_every_option_and_its_default(
    run_script: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outcome = run_script("train.py", "--help")
    assert (outcome.status, outcome.err) == (0, "")
    assert len(outcome.out.splitlines()) <= 24
    assert max(map(len, outcome.out.splitlines())) <= 80
    for field in fields(TrainOptions):
        default = "" if field.default is None else f"[{field.default}]"
        assert f"--{field.name.replace('_', '-')} " in outcome.out
        assert default.strip("[(,)]") in outcome.out


def test_the_command_hands_the_logger_on(run_script: Run, tmp_path: Path) -> None:
    options = ("--dataset", "digits", "--epochs", 1, "--output", tmp_path)
    assert_one_line_error(run_script("train.py", *options, "--logger", "nonsense"), "error: --logger nonsense: ")
