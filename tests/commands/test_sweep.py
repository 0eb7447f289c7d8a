import csv
import io
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
import torch
from conftest import ROOT, Outcome, assert_one_line_error

from torchdigits import SigmoidMLP
from torchdigits.commands import sweep
from torchdigits.data.datasets import load_splits
from torchdigits.engines.machine import versions_here
from torchdigits.errors import OptionError
from torchdigits.files.networks import save_network
from torchdigits.files.writing import locked
from torchdigits.population import slices
from torchdigits.population.ensemble import Trained
from torchdigits.population.members import Member, Row, SweepOptions
from torchdigits.population.slices import slices_of
from torchdigits.population.statistics import Summary

Run = Callable[..., Outcome]
OPTIONS = ("--dataset", "digits", "--seeds", 3, "--learning-rates", 1, 3, "--epochs", 2)


@pytest.fixture
def slices_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(slices._SLICE, "cpu", 2)


@contextmanager
def interrupted() -> Iterator[None]:
    """A sweep in here is interrupted, as by Ctrl-C, after its first slice."""

    def one_slice(*arguments: object) -> Iterator[Trained]:
        yield next(slices.train_slices(*arguments))  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "train_slices", one_slice)
        yield


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_tells_how_its_networks_did(run_script: Run, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    outcome = run_script("sweep.py", *OPTIONS, "--output", folder)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith(
        "Not compiled, as 244 updates are too few to be worth compiling\n6 of 6 networks\n784"
    )
    assert {path.name for path in folder.iterdir()} == {
        "sweep.csv", "sweep.json", "accuracy.png", "final.png", "best.ckpt",
    }  # fmt: skip
    rows = rows_of(folder)
    assert [(row["learning_rate"], row["seed"], row["epoch"]) for row in rows] == [
        (rate, seed, epoch) for seed in "012" for rate in ("1.0", "3.0") for epoch in "12"
    ]
    record = json.loads((folder / "sweep.json").read_text())
    assert record["options"] == {
        "dataset": "digits", "hidden": ["30"], "learning_rates": [1, 3], "seeds": 3, "epochs": 2,
    }  # fmt: skip
    for summary in record["summaries"]:
        group = [
            row
            for row in rows
            if (float(row["learning_rate"]), int(row["epoch"])) == (summary["learning_rate"], summary["epoch"])
        ]
        counts = [int(row["test_correct"]) for row in group]
        assert summary["networks"] == len(counts) == 3
        assert (summary["lowest"], summary["highest"]) == (min(counts), max(counts))
        assert summary["mean"] == pytest.approx(statistics.mean(counts))
        assert summary["deviation"] == pytest.approx(statistics.stdev(counts))
        assert summary["quartiles"] == pytest.approx(statistics.quantiles(counts, method="inclusive"))
        assert summary["lost"] == sum(bool(row["lost_digits"]) for row in group)
        if summary["epoch"] == 2:
            assert f"{statistics.mean(counts):.1f}" in outcome.out
    best = max(rows, key=lambda row: int(row["validation_correct"]))
    assert f"{best['validation_correct']} / 290 validation, {best['test_correct']} / 290 test" in outcome.out
    evaluated = run_script("evaluate.py", "--dataset", "digits", "--checkpoint", folder / "best.ckpt", "--json")
    assert json.loads(evaluated.out)["correct"] == int(best["test_correct"])


TABLE = """\
784-30-10, learning rate 3: test images recognised, of 10,000
┏━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━━┳━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━━━━━┓
┃          ┃ networks ┃    mean ┃ deviation ┃ lowest ┃ quartile ┃  median ┃ quartile ┃ highest ┃ lost a digit ┃
┡━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━━╇━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━━━━━┩
│ epoch 1  │        4 │ 1,235.6 │       3.2 │  1,230 │    1,231 │ 1,234.5 │    1,236 │   1,238 │            1 │
│ epoch 5  │        4 │ 1,239.6 │       3.2 │  1,230 │    1,231 │ 1,234.5 │    1,236 │   1,238 │            2 │
│ epoch 10 │        4 │ 1,244.6 │       3.2 │  1,230 │    1,231 │ 1,234.5 │    1,236 │   1,238 │            1 │
│ epoch 12 │        4 │ 1,246.6 │       3.2 │  1,230 │    1,231 │ 1,234.5 │    1,236 │   1,238 │            0 │
└──────────┴──────────┴─────────┴───────────┴────────┴──────────┴─────────┴──────────┴─────────┴──────────────┘
"""


def summary(hidden: tuple[int, ...], rate: float, epoch: int, diverged: int = 0) -> Summary:
    quartiles = [1231.0, 1234.5, 1236.0]
    return Summary(hidden, rate, epoch, 4, 1234.56 + epoch, 3.25, 1230, quartiles, 1238, epoch % 3, diverged)


def test_the_table_of_one_setting_shows_some_epochs_before_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    sweep._show([summary((30,), 3.0, epoch) for epoch in range(1, 13)], 12, 10_000)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == TABLE.splitlines()


def test_the_table_of_several_settings_has_all_columns_however_wide(capsys: pytest.CaptureFixture[str]) -> None:
    """As when both the hidden layers and the learning rates vary, and a network has diverged."""
    nothing = Summary((100, 100, 100), 0.125, 12, 0, None, None, None, None, None, 0, 4)
    sweep._show([summary((), 3.0, 12), summary((30,), 3.0, 10), summary((30,), 3.0, 12, 1), nothing], 12, 10_000)
    title, _, headings, _, *rows, _ = capsys.readouterr().out.splitlines()
    assert title.rstrip() == "epoch 12: test images recognised, of 10,000"
    assert headings.endswith("┃ quartile ┃ highest ┃ lost a digit ┃ diverged ┃")
    numbers = ["4", "1,246.6", "3.2", "1,230", "1,231", "1,234.5", "1,236", "1,238", "0"]
    assert [[cell.strip() for cell in row.split("│")[1:-1]] for row in rows] == [
        ["784-10, learning rate 3", *numbers, "0"],
        ["784-30-10, learning rate 3", *numbers, "1"],
        ["784-100-100-100-10, learning rate 0.125", "0", *[""] * 7, "0", "4"],
    ]
    sweep._show([summary((30,), rate, epoch) for rate in (0.5, 3.0) for epoch in (10, 12)], 12, 10_000)
    title, _, _, _, *rows, _ = capsys.readouterr().out.splitlines()
    assert title.rstrip() == "784-30-10, epoch 12: test images recognised, of 10,000"
    assert [row.split("│")[1].strip() for row in rows] == ["learning rate 0.5", "learning rate 3"]


def test_the_best_network_is_named_with_how_to_use_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["scripts/sweep.py"])
    sweep._praise(Row(Member((30,), 0.5, 7), 5, 4870, 9512, ""), 5000, 10_000, Path("a b"))
    assert capsys.readouterr().out == (
        "Best: 784-30-10, learning rate 0.5, seed 7, epoch 5: 4870 / 5000 validation, 9512 / 10000 test\n"
        "Saved as 'a b/best.ckpt'; use it with\n"
        "    python scripts/predict.py --checkpoint 'a b/best.ckpt' PICTURE\n"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("slices_of_two")
def test_an_interrupted_sweep_goes_on(run_script: Run, tmp_path: Path) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    assert run_script("sweep.py", *OPTIONS, "--output", whole).status == 0
    with interrupted():
        outcome = run_script("sweep.py", *OPTIONS, "--output", halved)
    assert outcome.status == 130
    assert outcome.err.startswith("error: interrupted: 2 of 6 networks are kept; go on with python ")
    assert outcome.err.endswith(f"sweep.py {' '.join(map(str, OPTIONS))} --output {halved} --resume\n")
    assert len(rows_of(halved)) == 4
    outcome = run_script("sweep.py", *OPTIONS, "--output", halved, "--resume")
    assert (outcome.status, outcome.err) == (0, "")
    for name in ("sweep.csv", "best.ckpt", "accuracy.png", "final.png"):
        assert (halved / name).read_bytes() == (whole / name).read_bytes(), name
    assert {path.name for path in halved.iterdir()} == {path.name for path in whole.iterdir()}
    record = json.loads((halved / "sweep.json").read_text())
    assert [part["networks"] for part in record["parts"]] == [4]  # an interrupted process leaves no part
    # Once more, there is nothing to train, and the result is told again.
    before = (halved / "sweep.csv").read_bytes()
    assert "Best: " in run_script("sweep.py", *OPTIONS, "--output", halved, "--resume").out
    assert (halved / "sweep.csv").read_bytes() == before


def test_a_sweep_that_is_stopped_before_it_goes_on_says_that_it_can(
    run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "load_splits", lambda *_: signal.raise_signal(signal.SIGTERM))
    outcome = run_script("sweep.py", *OPTIONS, "--output", tmp_path, "--resume")
    assert outcome.status == 143
    assert outcome.err.startswith("error: interrupted: what was finished before is kept; go on with python ")
    assert outcome.err.endswith(f"--output {tmp_path} --resume\n")
    outcome = run_script("sweep.py", *OPTIONS, "--output", tmp_path)
    assert outcome.err == "error: interrupted: no network was finished, nothing is kept\n"


@pytest.mark.slow
@pytest.mark.usefixtures("slices_of_two")
def test_a_sweep_that_version_0_1_0_was_killed_in_goes_on(run_script: Run, tmp_path: Path) -> None:
    with interrupted():
        run_script("sweep.py", *OPTIONS, "--output", tmp_path)
    options = {"dataset": "digits", "hidden": ["30"], "learning_rates": [1.0, 3.0], "seeds": 3, "epochs": 2}
    (tmp_path / "sweep.json").write_text(json.dumps({"options": options, "parts": []}, indent=2) + "\n")
    (tmp_path / "sweep.lock").touch()
    (tmp_path / "sweep.csv.part").write_text("hidden,learning")
    outcome = run_script("sweep.py", *OPTIONS, "--output", tmp_path, "--resume")
    assert (outcome.status, outcome.err) == (0, "")
    assert "4 of 6 networks\n6 of 6 networks\n" in outcome.out
    assert len(rows_of(tmp_path)) == 12


@pytest.mark.slow
@pytest.mark.usefixtures("slices_of_two")
@pytest.mark.parametrize("killed_at", ["sweep.csv", "best.ckpt"])
def test_a_sweep_killed_between_two_files_goes_on(
    run_script: Run, tmp_path: Path, killed_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is as SIGKILL leaves it when a slice's rows, or then its best network, are about to get their name."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    replace = Path.replace

    def replace_after_copy(self: Path, target: Path) -> Path:
        if target.name == killed_at and not killed.exists():
            shutil.copytree(whole, killed)
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_after_copy)
        run_script("sweep.py", *OPTIONS, "--output", whole)
    left = {path.name for path in killed.iterdir()}
    assert sum(name.startswith(".best-") for name in left) == 1
    assert ("sweep.csv" in left) == (killed_at == "best.ckpt")
    assert run_script("sweep.py", *OPTIONS, "--output", killed, "--resume").status == 0
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}
    for name in ("sweep.csv", "best.ckpt"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_sweep_at_once(tmp_path: Path, number: signal.Signals, status: int) -> None:
    command = [sys.executable, "scripts/sweep.py", "--dataset", "digits", "--seeds", "9", "--epochs", "50"]
    process = subprocess.Popen(
        [*command, "--output", str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "sweep.json").exists():
        time.sleep(0.05)
        assert process.poll() is None
    time.sleep(0.5)
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    # Nothing was finished: the same command can be given again.
    assert (process.returncode, err) == (status, "error: interrupted: no network was finished, nothing is kept\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seeds", 0), ("seeds 0", "1 or more")),
        (("--epochs", 0), ("epochs 0", "1 or more")),
        (("--learning-rates",), ("learning rate",)),
        (("--learning-rates", 1, 3, 1), ("learning rate 1.0", "twice")),
        (("--learning-rates", -1), ("learning rate -1.0",)),
        (("--hidden", "thirty"), ("hidden thirty", "30-30")),
        (("--hidden", "30-0"), ("30-0",)),
        (("--hidden", 30, 30), ("30", "twice")),
        (("--resume",), ("no sweep",)),
        (("--hidden", 10**10), ("hidden 10000000000: a network may have 62,914,560 weights",)),
        (("--seeds", 2 * 10**9), ("networks times epochs: it must be at most 1,000,000",)),
    ],
)
def test_bad_options_are_one_line(
    run_script: Run, tmp_path: Path, options: Sequence[object], words: Sequence[str]
) -> None:
    outcome = run_script("sweep.py", "--dataset", "digits", "--output", tmp_path / "sweep", *options)
    assert_one_line_error(outcome, *words)
    assert not any(tmp_path.glob("sweep/*"))


def test_what_is_there_is_not_overwritten(run_script: Run, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    outcome = run_script("sweep.py", *OPTIONS, "--output", tmp_path)
    assert_one_line_error(outcome, "--output", "not empty", "--resume")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    outcome = run_script("sweep.py", *OPTIONS, "--output", tmp_path / "letter.txt")
    assert_one_line_error(outcome, "no folder can be made")
    if Path("/proc").is_dir():
        assert_one_line_error(run_script("sweep.py", *OPTIONS, "--output", "/proc", "--resume"), "cannot be written")


def test_a_cluster_without_ray_is_one_line(run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "torchdigits.population.cluster", raising=False)
    monkeypatch.delattr("torchdigits.population.cluster", raising=False)
    outcome = run_script("sweep.py", *OPTIONS, "--output", tmp_path / "sweep", "--cluster", "auto")
    assert_one_line_error(outcome, "--cluster needs the package ray", "pip install")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("slices_of_two")
def test_what_cannot_be_gone_on_with_is_one_line(run_script: Run, tmp_path: Path) -> None:
    with interrupted():
        run_script("sweep.py", *OPTIONS, "--output", tmp_path)
    again = ("sweep.py", *OPTIONS, "--output", tmp_path, "--resume")
    table, record, network = (tmp_path / name for name in ("sweep.csv", "sweep.json", "best.ckpt"))

    assert_one_line_error(run_script(*again, "--epochs", 3), "--epochs 3", "has 2")
    assert_one_line_error(run_script(*again, "--learning-rates", 3), "--learning-rates 3.0", "has 1.0 3.0")
    with locked(tmp_path):
        assert_one_line_error(run_script(*again), "another process is writing there")
    network.rename(tmp_path / "aside")
    assert_one_line_error(run_script(*again), "best.ckpt", "missing")
    (tmp_path / "aside").rename(network)

    sound = network.read_bytes()
    for content in (b"", (ROOT / "checkpoints" / "mnist-784-30-10.ckpt").read_bytes()[:5000]):
        network.write_bytes(content)
        assert_one_line_error(run_script(*again), "best.ckpt")
    save_network(SigmoidMLP((784, 5, 10)), network, overwrite=True)
    assert_one_line_error(run_script(*again), "best.ckpt is not the best network so far")
    network.write_bytes(sound)

    good = table.read_text()
    for damaged in (
        re.sub(r",\d+,\d+,(?=[\d ]*$)", ",1,291,", good, count=1, flags=re.MULTILINE),
        good.rsplit("\n", 2)[0],  # without the last row
        good.replace("validation_correct", "something"),
        re.sub(r"^(30,[\d.]+),\d", r"\1,7", good, flags=re.MULTILINE),  # another seed
        good.replace("3.0", "three"),
        good + "30\n",
        "\0",
    ):
        table.write_text(damaged)
        assert_one_line_error(run_script(*again), "sweep.csv is not")
    table.write_text(good)
    for damaged in ("", "[]", '{"options": 3}', '{"options": ' + good):
        record.write_text(damaged)
        assert_one_line_error(run_script(*again), "sweep.json is not a record of a sweep")
    record.unlink()
    assert_one_line_error(run_script(*again), "no sweep")
    assert table.read_text() == good
    # A record that cannot be gone on with is not removed, even if there is no table yet.
    table.unlink()
    record.write_text('{"options": 3}')
    assert_one_line_error(run_script(*again), "sweep.json is not a record of a sweep")
    assert record.exists()


@pytest.mark.usefixtures("slices_of_two")
@pytest.mark.parametrize(
    ("target", "begun", "kept"),
    [
        (".best-", (), "no network was finished, nothing is kept\n"),
        ("sweep.csv", ("--resume",), "2 of 6 networks are kept; go on with "),
        ("accuracy.png", ("--resume",), "6 of 6 networks are kept; go on with "),
    ],
)
def test_a_sweep_that_cannot_write_says_what_is_kept(
    run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, begun: tuple[str, ...], kept: str
) -> None:
    if begun:
        with interrupted():
            run_script("sweep.py", *OPTIONS, "--output", tmp_path)
    replace = Path.replace

    def too_large(self: Path, name: Path) -> Path:
        if name.name.startswith(target):
            raise OSError(27, "File too large")
        return replace(self, name)

    monkeypatch.setattr(Path, "replace", too_large)
    outcome = run_script("sweep.py", *OPTIONS, "--output", tmp_path, *begun)
    assert outcome.status == 2
    assert outcome.err.startswith(f"error: cannot write {tmp_path / target}")
    assert f": File too large; {kept}" in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_diverged_network_is_told_of(run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Sigmoid neurons saturate, and learn no more: only a rate that is no float32 makes their weights overflow.
    monkeypatch.setattr("torchdigits.population.members.check_learning_rate", lambda rate: None)
    options = ("--dataset", "digits", "--seeds", 2, "--epochs", 1, "--hidden", "4-3", "--learning-rates", 3, 1e39)
    outcome = run_script("sweep.py", *options, "--output", tmp_path)
    assert (outcome.status, outcome.err) == (0, "")
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in outcome.out.splitlines() if "│" in line]
    assert [cells[0][0], cells[0][-1]] == ["learning rate 3", "0"]
    assert cells[1] == ["learning rate 1e+39", "0", *[""] * 7, "0", "2"]
    assert {row["test_correct"] == "" for row in rows_of(tmp_path) if row["learning_rate"] == "1e+39"} == {True}


class Kept:
    """A sweep's folder of which some networks are finished."""

    def __init__(self, finished: int, options: SweepOptions) -> None:
        self.finished, self.options, self.parts = finished, options, list[dict[str, object]]()
        self.known, self.added = {"some"}, list[object]()

    def add(self, trained: int) -> None:
        self.added.append(trained)
        self.finished += trained


class Bar:
    """What a progress bar was told."""

    def __init__(self, disable: bool) -> None:
        self.disable, self.told = disable, list[object]()

    def add_task(self, *words: object, **numbers: object) -> str:
        self.told.append((words, numbers))
        return "task"

    def advance(self, *words: object) -> None:
        self.told.append(words)

    def __enter__(self) -> None:
        self.told.append("shown")

    def __exit__(self, *_: object) -> None:
        self.told.append("gone")


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("obstacle", ["", "no compiler"])
def test_what_is_trained_is_told_and_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool, obstacle: str
) -> None:
    """The seconds are those of training: what compiling waited for is told apart."""
    options = SweepOptions(seeds=5, epochs=4, hidden=("30", "20"))
    device, bar, given = torch.device("cpu"), Bar(disable=not terminal), list[object]()

    def train(*arguments: Any) -> Iterator[Any]:
        given.extend(arguments)
        compiling, advance = arguments[5:7]
        compiling("compiled", 1.25)
        advance(3)
        yield 2
        compiling("loaded from the cache", 0)
        compiling("compiled", 0.25)
        yield 1

    monkeypatch.setattr(sweep, "progress_bar", lambda: bar)
    monkeypatch.setattr("time.perf_counter", iter([100.0, 112.0004]).__next__)
    place, folder = sweep._Place(device, "a machine", 1000, obstacle, train), Kept(4, options)
    part = sweep._train(folder, place, "splits")  # type: ignore[arg-type]
    monkeypatch.undo()
    slices = slices_of(options.members(), device, 1000)
    assert given[:4] == [slices, "splits", 4, device]
    assert given[4] is not bool(obstacle)
    assert given[7] == {"some"}
    assert part == {
        "device": "a machine", "versions": versions_here(), "networks": 3, "seconds": 10.5, "compiling": 1.5,
    }  # fmt: skip
    assert (folder.parts, folder.added) == ([part], [2, 1])
    told = capsys.readouterr().out.splitlines()
    assert told[: bool(obstacle)] == ["Not compiled: no compiler"] * bool(obstacle)
    assert told[bool(obstacle) :] == [
        "Compiled, in 1.2 s",
        "6 of 10 networks",
        "Loaded from the cache",
        "Compiled, in 0.2 s",
        "7 of 10 networks",
    ]
    task = (("training",), {"total": 40, "completed": 16})
    assert bar.told == [task, *["shown"] * terminal, ("task", 3), *["gone"] * terminal]


def test_each_slice_is_told_as_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """To a pipe too, which else gets nothing before some kilobytes are written."""
    pipe = io.BytesIO()

    def train(*arguments: Any) -> Iterator[Any]:
        arguments[5]("compiled", 0)
        assert pipe.getvalue() == b"Compiled\n"
        yield 2
        assert pipe.getvalue() == b"Compiled\n2 of 3 networks\n"

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, newline="\n"))
    place = sweep._Place(torch.device("cpu"), "a machine", 1000, "", train)
    sweep._train(Kept(0, SweepOptions(seeds=3)), place, "splits")  # type: ignore[arg-type]


def test_nothing_to_train_is_no_part_of_the_record() -> None:
    options = SweepOptions(seeds=3)
    place = sweep._Place(torch.device("cpu"), "a machine", 1000, "", lambda *_: iter(()))
    part = sweep._train(folder := Kept(3, options), place, "splits")  # type: ignore[arg-type]
    assert (part["networks"], folder.parts) == (0, [])


def test_a_sweep_trains_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = SimpleNamespace(device=torch.device("meta"), name="mine", obstacle_to_compiling="it is old")
    monkeypatch.setattr(sweep, "find_machine", lambda accelerator: machine if accelerator == "gpu" else None)
    monkeypatch.setattr(sweep, "memory_for_slices", lambda device: 77 if device is machine.device else 0)
    with ExitStack() as stack:
        place = sweep._place("gpu", None, stack)
    assert place == (machine.device, "mine", 77, "it is old", slices.train_slices)

    left: list[str] = []

    @contextmanager
    def connected(address: str) -> Iterator[str]:
        yield f"the cluster at {address}"
        left.append(address)

    cluster = ModuleType("torchdigits.population.cluster")
    there = {"connected": connected, "choose_device": lambda accelerator: (accelerator, 55), "train_slices": len}
    vars(cluster).update(there)
    monkeypatch.setitem(sys.modules, cluster.__name__, cluster)
    monkeypatch.setattr("torchdigits.population.cluster", cluster, raising=False)
    with ExitStack() as stack:
        place = sweep._place("gpu", "there:1", stack)
        assert tuple(place) == ("gpu", "the cluster at there:1", 55, "", len)
        assert left == []
    assert left == ["there:1"]


def test_where_a_sweep_trains_and_what_on_is_as_asked_for(
    run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def enough(*words: object) -> None:
        asked.append(words)
        raise OptionError("enough")

    options = (*OPTIONS, "--accelerator", "cpu", "--data-dir", tmp_path / "data", "--output", tmp_path / "sweep")
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "_place", enough)
        assert_one_line_error(run_script("sweep.py", *options, "--cluster", "there:1"), "enough")
    monkeypatch.setattr(sweep, "load_splits", enough)
    assert_one_line_error(run_script("sweep.py", *options), "enough")
    (accelerator, cluster, stack), what = asked
    assert (accelerator, cluster, type(stack)) == ("cpu", "there:1", ExitStack)
    assert what == ("digits", tmp_path / "data")


def test_what_cannot_be_written_is_one_line_that_says_what_is_kept() -> None:
    for error, words in (
        (OSError(27, "File too large", "sweep.csv"), "cannot write sweep.csv: File too large; all is kept"),
        (OSError(28, "No space left"), "cannot write to the disk: No space left; all is kept"),
    ):
        with pytest.raises(OptionError) as raised, sweep._one_line(lambda: "all is kept"):
            raise error
        assert str(raised.value) == words
        assert raised.value.__cause__ is error
    for other in (BrokenPipeError(32, "Broken pipe"), ValueError("a bug")):
        with pytest.raises(type(other)) as unchanged, sweep._one_line(lambda: "all is kept"):
            raise other
        assert unchanged.value is other


def test_what_is_kept_of_a_sweep_and_how_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    options = SweepOptions(seeds=5, hidden=("30", "20"))
    monkeypatch.setattr(sys, "argv", ["scripts/sweep.py", "--seeds", "5", "--output", "a b"])
    again = "go on with python scripts/sweep.py --seeds 5 --output 'a b'"
    nothing, some = Kept(0, options), Kept(3, options)
    for folder, resume, words in (
        (None, False, "no network was finished, nothing is kept"),
        (nothing, False, "no network was finished, nothing is kept"),
        (nothing, True, "no network was finished, nothing is kept"),
        (None, True, f"what was finished before is kept; {again}"),
        (some, False, f"3 of 10 networks are kept; {again} --resume"),
        (some, True, f"3 of 10 networks are kept; {again}"),
    ):
        assert sweep._kept(folder, options, resume) == words  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "argv", ["torchdigits", "sweep", "--seeds", "5"])
    assert sweep._kept(some, options, False).endswith("torchdigits sweep --seeds 5 --resume")  # type: ignore[arg-type]


def test_the_end_of_a_sweep_tells_how_long_it_took(
    run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[object, ...]] = []
    run_script("sweep.py", *OPTIONS, "--output", tmp_path)
    monkeypatch.setattr(sweep, "draw_sweep", lambda *arguments: drawn.append(arguments))
    for part, words in (
        ({"networks": 4, "seconds": 12.04}, "Trained in 12.0 s, 1.505 s a network and epoch"),
        ({"networks": 0, "seconds": 12.04}, ""),
    ):
        monkeypatch.setattr(sweep, "_train", lambda *_, part=part: part)
        outcome = run_script("sweep.py", *OPTIONS, "--output", tmp_path, "--resume")
        (line,) = [line for line in outcome.out.splitlines() if "Trained" in line] or [""]
        assert line == words
    record, rows = json.loads((tmp_path / "sweep.json").read_text()), rows_of(tmp_path)
    best = max(rows, key=lambda row: int(row["validation_correct"]))
    assert {name: str(value) for name, value in record["best"].items()} == best
    assert record["dataset"] == {
        "sha256": load_splits("digits").fingerprint(), "training": 1217, "validation": 290, "test": 290,
    }  # fmt: skip
    given, images, title, folder = drawn[0]
    assert [row.epoch for row in cast("list[Row]", given)] == [1, 2] * 6
    assert (images, title, folder) == (290, "digits, seeds 0 to 2", tmp_path)
