"""What is killed, interrupted or starved goes on as if nothing had happened, and nothing is lost."""

import csv
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from conftest import ROOT, Outcome, assert_one_line_error, leave_uncompiled

from torchdigits import load_network
from torchdigits.classifier import DigitClassifier
from torchdigits.data.datasets import Digits, DigitSplits
from torchdigits.files.writing import locked
from torchdigits.network import quadratic_cost
from torchdigits.training import run
from torchdigits.training.folder import SavedRun, resumed
from torchdigits.training.options import TrainOptions

Run = Callable[..., Outcome]
OPTIONS: dict[str, Any] = {
    "dataset": "digits",
    "hidden": (12,),
    "epochs": 5,
    "seed": 4,
    "accelerator": "cpu",
    "engine": "eager",
}
SCRIPT = ROOT / "scripts" / "train.py"
NAME = "digits-784-12-10-eta3-seed4-run1"
FILES = ["best.ckpt", "curve.png", "last.ckpt", "metrics.csv", "run.json"]


def words(options: dict[str, Any]) -> list[object]:
    """Options as the command line has them."""
    lists = ((name, value if isinstance(value, tuple) else (value,)) for name, value in options.items())
    return [word for name, value in lists for word in (f"--{name.replace('_', '-')}", *value)]


def train(options: dict[str, Any], saved: SavedRun | None = None) -> Path:
    """Train with these options; the run's folder."""
    return run.train(TrainOptions(**options), saved).folder


def metrics(folder: Path) -> list[dict[str, str]]:
    """metrics.csv without the seconds."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def assert_same_run(ours: Path, theirs: Path) -> None:
    """All files, and in them the same bits, the same metrics and the same result."""
    for folder in (ours, theirs):
        assert sorted(path.name for path in folder.iterdir()) == FILES
    for name in ("best.ckpt", "last.ckpt"):
        one, two = load_network(ours / name), load_network(theirs / name)
        assert all(torch.equal(*pair) for pair in zip(one.parameters(), two.parameters(), strict=True)), name
    assert metrics(ours) == metrics(theirs)
    results = [re.findall(r'"(?:correct|epoch)": \d+', (folder / "run.json").read_text()) for folder in (ours, theirs)]
    assert results[0] == results[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of runs that nothing has disturbed: one with each engine, and one of two epochs."""
    output = tmp_path_factory.mktemp("runs")
    different: dict[str, dict[str, Any]] = {"eager": {}, "compiled": {"engine": "compiled"}, "begun": {"epochs": 2}}
    with pytest.MonkeyPatch.context() as patch:
        leave_uncompiled(patch)
        return {name: train(OPTIONS | options | {"output": output / name}) for name, options in different.items()}


@pytest.fixture
def begun(runs: dict[str, Path], tmp_path: Path) -> Path:
    """A run of two epochs."""
    return Path(shutil.copytree(runs["begun"], tmp_path / "begun"))


@pytest.fixture
def not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_uncompiled(monkeypatch)


def train_apart(options: dict[str, Any], folder: Path | None) -> None:
    """What a process does that will be killed: begin a run, or go on with the one in a folder."""
    leave_uncompiled(pytest.MonkeyPatch())
    torch.set_num_threads(1)
    with Path(os.devnull).open("w") as nowhere:
        sys.stdout = nowhere
        if folder is None:
            train(options)
        else:
            with resumed(folder) as saved:
                run.train(saved.options, saved)


def start(options: dict[str, Any], folder: Path | None = None) -> Any:
    """Start a process that trains. It is forked from one that has imported what that takes."""
    context = get_context("forkserver")
    context.set_forkserver_preload(
        ["torchdigits.training.callbacks", "torchdigits.classifier", "matplotlib.pyplot", "sklearn.datasets"]
    )
    process = context.Process(target=train_apart, args=(options, folder))
    process.start()
    return process


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_a_run_that_is_killed_at_any_moment_goes_on_to_the_same_bits(
    runs: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest, engine: str
) -> None:
    options = OPTIONS | {"engine": engine}
    chance, kills, number = random.Random(0), 0, 0
    for name in ("first", "second"):  # the first has to wait for the imports
        begin = time.perf_counter()
        (process := start(options | {"output": tmp_path / name})).join()
        seconds = time.perf_counter() - begin
        assert process.exitcode == 0
    while kills < request.config.getoption("rounds"):
        number += 1
        folder, epochs, exit_code = tmp_path / f"{number}" / NAME, 0, None
        while exit_code != 0:
            begun = (folder / "last.ckpt").exists()
            if not begun:  # killed before an epoch was finished
                shutil.rmtree(folder.parent, ignore_errors=True)
            process = start(options | {"output": folder.parent}, folder if begun else None)
            process.join(chance.uniform(0, seconds))
            process.kill()
            process.join()
            exit_code = process.exitcode
            assert exit_code in (0, -signal.SIGKILL)
            kills += exit_code != 0
            if (folder / "last.ckpt").exists():
                finished = torch.load(folder / "last.ckpt", weights_only=True)["epoch"] + 1
                assert finished >= epochs
                epochs = finished
            for checkpoint in folder.glob("*.ckpt"):
                load_network(checkpoint)
        assert_same_run(folder, runs[engine])


@pytest.mark.slow
@pytest.mark.usefixtures("not_compiled")
@pytest.mark.parametrize(
    ("engine", "number", "status"), [("eager", signal.SIGINT, 130), ("compiled", signal.SIGTERM, 143)]
)
def test_an_interrupted_run_says_how_to_go_on_and_does(
    run_script: Run,
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    status: int,
    engine: str,
) -> None:
    def interrupt(self: DigitClassifier, batch: Any, batch_idx: int) -> None:
        if self.current_epoch == 3:
            signal.raise_signal(number)

    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(DigitClassifier, "on_train_batch_start", interrupt)
        outcome = run_script("train.py", *words(OPTIONS | {"engine": engine}), "--output", tmp_path)
    folder = tmp_path / NAME
    command = f"python {SCRIPT} --resume {folder}"
    assert outcome.status == status
    assert outcome.err == f"error: interrupted: 3 of 5 epochs are kept; go on with {command}\n"
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt", "metrics.csv"]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers  # as they were
    outcome = run_script("train.py", *command.split()[2:])
    assert (outcome.status, outcome.err) == (0, "")
    assert re.findall(r"^Epoch (\d)/5", outcome.out, re.MULTILINE) == ["4", "5"]
    assert_same_run(folder, runs[engine])


@pytest.mark.slow
def test_a_process_that_is_interrupted_early_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), *map(str, words(OPTIONS))]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "--output", str(tmp_path)], **options) as process:  # type: ignore[call-overload]
        assert process.stdout is not None
        assert process.stdout.readline() == "Engine: eager\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "error: interrupted: no epoch was finished, nothing is kept\n"
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_goes_on_with_more_epochs_where_it_was_moved_to(
    run_script: Run, begun: Path, runs: dict[str, Path]
) -> None:
    moved = begun.rename(begun.with_name("moved"))
    run_script("train.py", "--resume", moved / "last.ckpt", "--epochs", 5)
    assert_same_run(moved, runs["eager"])
    before = (moved / "metrics.csv").read_bytes()
    outcome = run_script("train.py", "--resume", moved)  # all epochs are there
    assert (outcome.status, outcome.err) == (0, "")
    assert "Epoch" not in outcome.out.split("Test: ")[0]
    assert (moved / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--hidden", "12", "12"], ["--hidden 12 12", "has 12"]),
        (["--seed", "5"], ["--seed 5", "has 4"]),
        (["--batch-size", "7"], ["--batch-size 7", "has 10"]),
        (["--learning-rate", "1"], ["--learning-rate 1.0", "has 3.0"]),
        (["--dataset", "mnist"], ["--dataset mnist", "has digits"]),
        (["--precision", "64"], ["--precision 64", "has 32"]),
        (["--devices", "2"], ["--devices 2", "has 1"]),
        (["--output", "elsewhere"], ["--output elsewhere", "/begun"]),
        (["--epochs", "1"], ["--epochs 1", "has 2 already"]),
    ],
)
def test_options_that_contradict_the_run_are_refused(
    run_script: Run, begun: Path, options: list[str], words: list[str]
) -> None:
    before = {path.name: path.read_bytes() for path in begun.iterdir()}
    assert_one_line_error(run_script("train.py", "--resume", begun, *options), *words, str(begun))
    assert {path.name: path.read_bytes() for path in begun.iterdir()} == before


def test_a_run_may_be_told_the_folder_that_it_is_in(run_script: Run, begun: Path) -> None:
    outcome = run_script("train.py", "--resume", begun, "--output", begun.parent / ".." / begun.parent.name)
    assert (outcome.status, outcome.err) == (0, "")


def test_another_dataset_of_the_same_name_is_refused(
    run_script: Run, begun: Path, monkeypatch: pytest.MonkeyPatch, digits: DigitSplits
) -> None:
    other = digits._replace(training=Digits(255 - digits.training.images, digits.training.labels))
    monkeypatch.setattr("torchdigits.training.run.load_splits", lambda *_: other)
    assert_one_line_error(run_script("train.py", "--resume", begun), "digits", "other images", str(begun))


def test_what_is_no_run_is_refused(run_script: Run, begun: Path, tmp_path: Path) -> None:
    for path, word in (
        (tmp_path, "no run to go on with"),
        (tmp_path / "nowhere", "nowhere"),
        (begun / "best.ckpt", "last.ckpt"),
        (begun / "run.json", "last.ckpt"),
        (tmp_path / ("x" * 300), "goes on from its folder"),
    ):
        assert_one_line_error(run_script("train.py", "--resume", path), word)
    shutil.copy(begun / "best.ckpt", begun / "last.ckpt")  # which has no state of a run
    assert_one_line_error(run_script("train.py", "--resume", begun), "last.ckpt of a training run")


State = dict[str, Any]


def change(path: Path, damage: Callable[[State, State], object]) -> None:
    """Change a checkpoint, and what its log says of the run."""
    checkpoint = torch.load(path, weights_only=True)
    run = json.loads(checkpoint["callbacks"]["EpochLog"]["run"])
    damage(checkpoint, run)
    if checkpoint["callbacks"]:
        checkpoint["callbacks"]["EpochLog"]["run"] = json.dumps(run)
    torch.save(checkpoint, path)


def loop(checkpoint: State) -> State:
    return cast("State", checkpoint["loops"]["fit_loop"])


DAMAGES: dict[str, Callable[[State, State], object]] = {
    "no log": lambda checkpoint, _: checkpoint["callbacks"].clear(),
    "an option of another type": lambda _, run: run["options"].update(hidden="12"),
    "an option that there is not": lambda _, run: run["options"].update(precision="7"),
    "an option missing": lambda _, run: run["options"].pop("seed"),
    "other layers": lambda _, run: run["options"].update(hidden=[13]),
    "no fingerprint": lambda _, run: run.pop("fingerprint"),
    "an epoch twice": lambda _, run: run["rows"].insert(0, run["rows"][0]),
    "no epoch": lambda _, run: run["rows"].clear(),
    "another column": lambda _, run: run["rows"][0].update(x=1.0),
    "a folder with NUL": lambda _, run: run["options"].update(data_dir="\0"),
    "half a character": lambda _, run: run["options"].update(data_dir="\ud800"),
    "output with NUL": lambda _, run: run["options"].update(output="\0"),
    "many devices": lambda _, run: run["options"].update(devices=10**400),
    "epochs without end": lambda _, run: run["options"].update(epochs=10**4000),
    "a cost that no network has": lambda _, run: run["rows"][0].update(training_cost=1e308),
    "an accuracy over 1": lambda _, run: run["rows"][0].update(training_accuracy=1.1),
    "no threads": lambda _, run: run.update(threads=0),
    "no number": lambda _, run: run["rows"][0].update(seconds="x"),
    "not finite": lambda _, run: run["rows"][1].update(training_cost=float("nan")),
    "not the end of an epoch": lambda checkpoint, _: loop(checkpoint)["epoch_progress"]["total"].update(processed=1),
    "half an epoch": lambda checkpoint, _: loop(checkpoint)["epoch_loop.batch_progress"].update(is_last_batch=False),
    "no count": lambda checkpoint, _: loop(checkpoint)["epoch_loop.state_dict"].update(_batches_that_stepped="x"),
    "no loops": lambda checkpoint, _: checkpoint["loops"].clear(),
    "part of the loops": lambda checkpoint, _: loop(checkpoint).pop("epoch_loop.batch_progress"),
    "not a number": lambda checkpoint, _: checkpoint["state_dict"]["network.layers.0.bias"].fill_(torch.nan),
    "weights missing": lambda checkpoint, _: checkpoint["state_dict"].clear(),
    "another version": lambda checkpoint, _: checkpoint.update({"pytorch-lightning_version": "x"}),
}


def test_a_damaged_state_is_refused_and_left_as_it_is(run_script: Run, begun: Path) -> None:
    last = begun / "last.ckpt"
    sound = last.read_bytes()
    for kind, damage in DAMAGES.items():
        last.write_bytes(sound)
        change(last, damage)
        before = {path.name: path.read_bytes() for path in begun.iterdir()}
        outcome = run_script("train.py", "--resume", begun, "--epochs", 3)
        assert outcome.status == 2, kind
        assert re.fullmatch(rf"error: .*{re.escape(str(last))}.*\n", outcome.err), kind
        assert {path.name: path.read_bytes() for path in begun.iterdir()} == before, kind


def test_a_last_checkpoint_that_is_cut_off_or_altered_is_refused(run_script: Run, begun: Path) -> None:
    last, chance = begun / "last.ckpt", random.Random(0)
    sound = last.read_bytes()
    places = [chance.randrange(len(sound)) for _ in range(30)]
    altered = [sound[:place] + bytes([sound[place] ^ 255]) + sound[place + 1 :] for place in places]
    resumed = 0
    for content in [*(sound[:length] for length in range(0, len(sound), 1024)), *altered]:
        last.write_bytes(content)
        outcome = run_script("train.py", "--resume", begun)
        if outcome.status == 0:  # the byte was a filling between two records
            resumed += 1
        else:
            assert_one_line_error(outcome, str(last))
    assert resumed < 5


def test_hyper_parameters_that_ask_for_code_run_none(run_script: Run, begun: Path, tmp_path: Path) -> None:
    def ask(checkpoint: State, _: State) -> None:
        canary = str(tmp_path / "canary")
        checkpoint["hyper_parameters"].update(_instantiator="os.mkdir", _class_path="antigravity", path=canary)

    change(begun / "last.ckpt", ask)
    assert run_script("train.py", "--resume", begun, "--epochs", 3).status == 0
    assert not (tmp_path / "canary").exists()


def test_the_optimizer_is_the_runs_own_whatever_the_file_says(begun: Path, runs: dict[str, Path]) -> None:
    def other_rule(checkpoint: State, _: State) -> None:
        checkpoint["optimizer_states"][0]["param_groups"][0].update(lr="x", momentum=0.9)

    change(begun / "last.ckpt", other_rule)
    with resumed(begun) as saved:
        run.train(replace(saved.options, epochs=5), saved)
    assert_same_run(begun, runs["eager"])


def threads(count: Any) -> Callable[[State, State], object]:
    """What makes a run one of so many threads."""
    return lambda _, run: run.update(threads=count)


@pytest.mark.slow
def test_a_run_goes_on_with_as_many_threads_as_it_was_begun_with(
    run_script: Run, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchdigits.engines.machine._PRODUCTS_WORTH_THREADS", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    seen: list[int] = []
    monkeypatch.setattr(DigitClassifier, "on_train_epoch_start", lambda _: seen.append(torch.get_num_threads()))
    change(begun / "last.ckpt", threads(2))
    outcome = run_script("train.py", "--resume", begun, "--epochs", 3)
    assert (seen, torch.get_num_threads()) == ([2], 1)
    assert outcome.out.startswith("Engine: ")
    with resumed(begun) as saved:
        assert saved.threads == 2
    change(begun / "last.ckpt", threads(3))
    outcome = run_script("train.py", "--resume", begun, "--epochs", 4)
    assert seen == [2, 1]
    assert outcome.out.startswith("Begun with 3 threads of the CPU, goes on with 1: the last bits may differ\n")
    change(begun / "last.ckpt", lambda _, run: run.pop("threads"))  # as an older version leaves it
    assert run_script("train.py", "--resume", begun).out.startswith("Engine: ")


def test_an_epoch_that_metrics_lack_is_found_again(run_script: Run, begun: Path) -> None:
    before = (begun / "metrics.csv").read_bytes()
    (begun / "metrics.csv").write_bytes(before[:-20])  # killed while it was written, after the last epoch
    assert run_script("train.py", "--resume", begun).status == 0
    assert (begun / "metrics.csv").read_bytes() == before


def test_a_resumed_run_that_is_interrupted_early_says_how_to_go_on(
    run_script: Run, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("torchdigits.training.run.EngineChoice", interrupt)
    options = ("--resume", begun, "--epochs", 9, "--data-dir", "somewhere")
    monkeypatch.chdir(tmp_path)
    outcome = run_script("train.py", *options)
    command = f"python {SCRIPT} --resume {begun} --data-dir {tmp_path}/somewhere --epochs 9"
    assert outcome.status == 143
    assert outcome.err == f"error: interrupted: 2 of 9 epochs are kept; go on with {command}\n"


def test_the_best_network_is_found_again_if_the_process_died_before_it_was_written(
    run_script: Run, begun: Path, runs: dict[str, Path]
) -> None:
    (begun / ".torchdigits-0123456789abcdef").write_bytes((begun / "best.ckpt").read_bytes()[:1000])
    (begun / "best.ckpt").unlink()  # of the second epoch, as last.ckpt is
    (begun / "metrics.csv").write_text("epoch,training_cost\n1,0.")
    assert run_script("train.py", "--resume", begun, "--epochs", 5).status == 0
    assert_same_run(begun, runs["eager"])


def test_a_best_network_that_is_lost_or_damaged_is_missed(run_script: Run, begun: Path) -> None:
    change(begun / "last.ckpt", lambda _, run: run["rows"][0].update(validation_accuracy=1.0))
    (begun / "best.ckpt").write_bytes((begun / "best.ckpt").read_bytes()[:5000])
    assert_one_line_error(run_script("train.py", "--resume", begun), str(begun / "best.ckpt"))
    (begun / "best.ckpt").unlink()
    assert_one_line_error(run_script("train.py", "--resume", begun), str(begun / "best.ckpt"))


def test_a_run_is_trained_by_one_process_at_a_time(run_script: Run, begun: Path) -> None:
    with locked(begun):
        outcome = run_script("train.py", "--resume", begun, "--epochs", 3)
    assert (outcome.status, outcome.err) == (2, f"error: {begun}: another process is writing there\n")
    assert sorted(path.name for path in begun.iterdir()) == FILES


@pytest.mark.slow
def test_runs_started_at_once_in_the_same_folder_do_not_touch_each_other(runs: dict[str, Path], tmp_path: Path) -> None:
    processes = [start(OPTIONS | {"output": tmp_path}) for _ in range(3)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    folders = sorted(tmp_path.iterdir())
    assert [folder.name[-4:] for folder in folders] == ["run1", "run2", "run3"]
    for folder in folders:
        assert_same_run(folder, runs["eager"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with room for two checkpoints but not for three."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    run_script: Run, small_disk: Path, tmp_path: Path
) -> None:
    outcome = run_script("train.py", *words(OPTIONS | {"hidden": (30,)}), "--output", small_disk)
    folder = small_disk / NAME.replace("-12-", "-30-")
    assert outcome.status == 2
    assert re.fullmatch(
        rf"error: cannot write {folder}/\w+\.\w+: No space left on device; \d of 5 epochs are kept;"
        rf" go on with python {SCRIPT} --resume {folder}\n",
        outcome.err,
    )
    assert not list(folder.glob(".*"))
    for name in ("best.ckpt", "last.ckpt"):
        load_network(folder / name)
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert run_script("train.py", "--resume", folder).status == 0
    assert_same_run(folder, train(OPTIONS | {"hidden": (30,), "output": tmp_path}))


def test_a_disk_that_fills_up_while_a_checkpoint_is_written_leaves_the_one_before(
    run_script: Run, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in begun.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torchdigits.files.writing.os.fsync", full)
    outcome = run_script("train.py", "--resume", begun, "--epochs", 3)
    assert outcome.status == 2
    assert outcome.err.startswith(f"error: cannot write {begun}/")
    assert outcome.err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in begun.iterdir()} == before


def test_an_epoch_counts_as_kept_once_last_has_it(
    run_script: Run, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("torchdigits.training.callbacks.write_whole", full)
    outcome = run_script("train.py", "--resume", begun, "--epochs", 5)
    assert outcome.status == 2
    assert "last.ckpt: No space left on device; 2 of 5 epochs are kept" in outcome.err
    assert torch.load(begun / "last.ckpt", weights_only=True)["epoch"] == 1  # the second, counted from 0


def test_a_folder_that_is_replaced_while_its_run_trains_is_one_line(
    run_script: Run, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace_folder(self: DigitClassifier) -> None:
        if begun.is_dir():
            begun.rename(begun.with_name("aside"))
            begun.touch()

    monkeypatch.setattr(DigitClassifier, "on_train_epoch_start", replace_folder)
    outcome = run_script("train.py", "--resume", begun, "--epochs", 3)
    assert outcome.status == 2
    assert (
        outcome.err
        == f"error: cannot write {begun}/last.ckpt: Not a directory; no epoch was finished, nothing is kept\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_output_that_cannot_be_written_is_one_line(run_script: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        outcome = run_script("evaluate.py", "--dataset", "digits")
    assert (outcome.status, outcome.err) == (2, "error: No space left on device\n")


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("learning_rate", [3.0, 1e6])
def test_images_all_of_one_colour_and_large_steps_give_finite_weights(
    run_script: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    digits: DigitSplits,
    value: int,
    learning_rate: float,
) -> None:
    plain = DigitSplits(*(Digits(torch.full_like(part.images, value), part.labels) for part in digits))
    monkeypatch.setattr("torchdigits.training.run.load_splits", lambda *_: plain)
    options = OPTIONS | {"epochs": 2, "learning_rate": learning_rate}
    outcome = run_script("train.py", *words(options), "--output", tmp_path)
    assert (outcome.status, outcome.err) == (0, "")
    for name in ("best.ckpt", "last.ckpt"):
        load_network(next(tmp_path.iterdir()) / name)  # which refuses what is not finite


@pytest.mark.usefixtures("not_compiled")
@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize(("size", "status"), [(1e30, 0), (3e38, 1)])
def test_a_diverged_run_names_the_epoch_and_keeps_what_is_sound(
    run_script: Run, begun: Path, engine: str, size: float, status: int
) -> None:
    def enlarge(checkpoint: State, _: State) -> None:
        weights = checkpoint["state_dict"]["network.layers.0.weight"]
        weights.copy_(weights.sign() * size)

    change(begun / "last.ckpt", enlarge)
    before = {name: (begun / name).read_bytes() for name in ("last.ckpt", "metrics.csv")}
    outcome = run_script("train.py", "--resume", begun, "--epochs", 4, "--engine", engine)
    assert outcome.status == status
    if status:
        assert re.fullmatch(rf"error: epoch 3: .*diverged; {begun}/last\.ckpt has epoch 2; .*\n", outcome.err)
        assert {name: (begun / name).read_bytes() for name in before} == before
    load_network(begun / "best.ckpt")


def test_a_cost_that_is_no_number_ends_a_run_too(run_script: Run, begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def costly(activations: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        cost = quadratic_cost(activations, labels)
        return cost if activations.requires_grad else cost * torch.inf

    before = (begun / "last.ckpt").read_bytes()
    monkeypatch.setattr("torchdigits.classifier.quadratic_cost", costly)
    outcome = run_script("train.py", "--resume", begun, "--epochs", 4)
    assert outcome.status == 1
    assert outcome.err.startswith("error: epoch 3: ")
    assert (begun / "last.ckpt").read_bytes() == before


def test_a_run_that_diverges_at_once_leaves_nothing(
    run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(self: DigitClassifier) -> None:
        with torch.no_grad():
            next(self.parameters())[0, 0] = torch.inf

    monkeypatch.setattr(DigitClassifier, "on_train_epoch_start", diverge)
    outcome = run_script("train.py", *words(OPTIONS), "--output", tmp_path)
    assert outcome.status == 1
    assert re.fullmatch(r"error: epoch 1: .*diverged; nothing is kept; .*\n", outcome.err)
    assert list(tmp_path.iterdir()) == []
