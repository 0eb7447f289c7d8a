"""What is in a run's folder, whenever its process was stopped."""

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from crashes import Killed, failing_at, failures
from hypothesis import given, settings
from hypothesis import strategies as st

from torchdigits import DigitClassifier, SigmoidMLP, load_network
from torchdigits.data.datasets import Digits, DigitSplits
from torchdigits.errors import CheckpointError, OptionError
from torchdigits.files import writing
from torchdigits.files.networks import save_network
from torchdigits.training import callbacks, folder
from torchdigits.training.folder import best_of, folder_for, read_run, repair, resumed, table
from torchdigits.training.options import TrainOptions
from torchdigits.training.run import train

OPTIONS = TrainOptions(dataset="digits", hidden=(5,), epochs=2, accelerator="cpu", engine="eager")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, of which the second is the better one."""
    return train(replace(OPTIONS, output=tmp_path_factory.mktemp("whole"))).folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def weights(checkpoint: Path) -> list[torch.Tensor]:
    return list(load_network(checkpoint).parameters())


def test_a_best_network_of_an_earlier_epoch_is_replaced_as_last_ckpt_knows_better(run: Path) -> None:
    with resumed(run) as saved:
        checkpoint = dict(saved.checkpoint)
        earlier = {name: value + 1 for name, value in checkpoint["state_dict"].items()}
        torch.save(checkpoint | {"state_dict": earlier}, run / "best.ckpt")  # as a kill between two writes leaves it
        repair(saved)
    assert all(torch.equal(*pair) for pair in zip(weights(run / "best.ckpt"), weights(run / "last.ckpt"), strict=True))


def test_last_ckpt_is_written_before_best_ckpt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def full_after_one(path: Path, content: bytes) -> None:
        if written:
            raise OSError(28, "No space left on device", str(path))
        written.append(path.name)
        writing.write_whole(path, content)

    monkeypatch.setattr(callbacks, "write_whole", full_after_one)
    with pytest.raises(OSError, match="No space"):
        train(replace(OPTIONS, output=tmp_path))
    assert written == ["last.ckpt"]


def test_a_run_is_read_after_it_is_locked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = (run / "last.ckpt").read_bytes()
    (run / "last.ckpt").write_bytes(b"an epoch before, while another process still wrote")

    @contextmanager
    def locked_late(path: Path) -> Iterator[None]:
        (run / "last.ckpt").write_bytes(state)
        yield

    monkeypatch.setattr(folder, "locked", locked_late)
    with resumed(run) as saved:
        assert len(saved.rows) == 2


def changed(run: Path, change: Callable[[dict[str, Any]], object], what: str = "state") -> None:
    """Let last.ckpt tell otherwise of its run, or of its loops."""
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    state = json.loads(checkpoint["callbacks"]["EpochLog"]["run"])
    change(state if what == "state" else checkpoint["loops"])
    checkpoint["callbacks"]["EpochLog"]["run"] = json.dumps(state)
    torch.save(checkpoint, run / "last.ckpt")


NO_EPOCHS, NO_NUMBERS = "its epochs are not 1, 2, 3, ...", "its metrics are not all numbers"
NO_COSTS, NOT_THE_END = "its metrics are not costs and accuracies", "it is not of the end of epoch 2"
NO_THREADS = "its number of threads is damaged"


@pytest.mark.parametrize(
    ("what", "change", "said"),
    [
        ("state", lambda state: state.update(rows=[]), NO_EPOCHS),
        ("state", lambda state: state["rows"].reverse(), NO_EPOCHS),
        ("state", lambda state: state["rows"].pop(0), NO_EPOCHS),
        ("state", lambda state: state["rows"].pop(), "it is not of the end of epoch 1"),
        ("state", lambda state: state["rows"][0].update(more=1), NO_NUMBERS),
        ("state", lambda state: state["rows"][0].update(training_cost=5.002), NO_COSTS),
        ("state", lambda state: state["rows"][0].update(validation_accuracy=1.0001), NO_COSTS),
        ("state", lambda state: state["rows"][1].update(validation_cost=-1e-9), NO_COSTS),
        ("state", lambda state: state.update(threads=0), NO_THREADS),
        ("state", lambda state: state.update(threads=2**31), NO_THREADS),
        ("state", lambda state: state.update(threads=True), NO_THREADS),
        ("state", lambda state: state.update(threads="2"), NO_THREADS),
        ("state", lambda state: state["options"].update(hidden=[6]), "its network has other hidden layers than [6]"),
        ("loops", lambda loops: loops["fit_loop"]["epoch_progress"]["total"].update(completed=2), NOT_THE_END),
        ("loops", lambda loops: loops["fit_loop"]["epoch_progress"]["current"].update(ready=1), NOT_THE_END),
        (
            "loops",
            lambda loops: loops["fit_loop"]["epoch_loop.batch_progress"].update(is_last_batch=False),
            NOT_THE_END,
        ),
        ("loops", lambda loops: loops["fit_loop"]["epoch_loop.batch_progress"].update(is_last_batch=1), NOT_THE_END),
        ("loops", lambda loops: loops["fit_loop"]["epoch_loop.batch_progress"]["total"].update(ready=-1), NOT_THE_END),
        ("loops", lambda loops: loops["fit_loop"]["epoch_loop.batch_progress"]["total"].update(ready=1.0), NOT_THE_END),
    ],
)
def test_what_last_ckpt_tells_of_its_run_must_fit_together(
    run: Path, what: str, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    changed(run, change, what)
    with pytest.raises(CheckpointError) as caught:
        read_run(run / "last.ckpt")
    assert str(caught.value) == f"{run / 'last.ckpt'} is not a last.ckpt of a training run: {said}"


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["rows"][0].update(training_cost=5.0, training_accuracy=1, validation_cost=0),
        lambda state: state["rows"][0].update(seconds=1e9),
        lambda state: state.update(threads=1),
        lambda state: state.update(threads=2**31 - 1),
    ],
)
def test_what_last_ckpt_tells_of_its_run_may_be_odd(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    changed(run, change)
    assert len(read_run(run / "last.ckpt").rows) == 2


def test_a_run_is_read_with_all_that_is_known_of_it(run: Path, whole: Path) -> None:
    with resumed(run / "last.ckpt") as by_file, suppress(OptionError), resumed(run):
        pytest.fail("two processes at once")
    with resumed(run) as saved:
        assert saved.folder == by_file.folder == run
        assert saved.options == replace(OPTIONS, output=whole.parent)
        assert saved.threads == torch.get_num_threads()
        assert saved.fingerprint == json.loads((run / "run.json").read_text())["dataset"]["sha256"]
        assert [row["epoch"] for row in saved.rows] == [1, 2]
        assert saved.checkpoint["epoch"] == 1
        assert table(saved.rows).encode() == (run / "metrics.csv").read_bytes()
    changed(run, lambda state: state.pop("threads"))
    assert read_run(run / "last.ckpt").threads is None


def test_a_best_network_of_other_layers_is_no_best_network(run: Path) -> None:
    changed(run, lambda state: state["rows"][0].update(validation_accuracy=1.0))
    save_network(SigmoidMLP((784, 5, 10)), run / "best.ckpt", overwrite=True)
    assert len(read_run(run / "last.ckpt").rows) == 2
    save_network(SigmoidMLP((784, 5, 7)), run / "best.ckpt", overwrite=True)
    with pytest.raises(CheckpointError) as caught:
        read_run(run / "last.ckpt")
    assert str(caught.value) == f"{run / 'best.ckpt'} is not the best network so far: it has other layers"


def test_what_is_no_run_says_where_one_would_be(run: Path, tmp_path: Path) -> None:
    for name, said in (
        (run / "best.ckpt", "a run goes on from its folder, or the last.ckpt in it"),
        (tmp_path / "x", "a run goes on from its folder, or the last.ckpt in it"),
        (tmp_path, f"no run to go on with, as there is no {tmp_path / 'last.ckpt'}"),
        (tmp_path / "x" / "last.ckpt", f"no run to go on with, as there is no {tmp_path / 'x' / 'last.ckpt'}"),
    ):
        with pytest.raises(CheckpointError) as caught, resumed(name):
            pass
        assert str(caught.value) == f"--resume {name}: {said}"


def test_of_several_processes_the_first_locks_and_repairs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "is_first_process", lambda: False)
    (run / "metrics.csv").write_text("lacks an epoch")
    with writing.locked(run), resumed(run) as saved, folder_for(saved.options, saved) as found:
        assert found == run
    assert (run / "metrics.csv").read_text() == "lacks an epoch"
    with folder_for(replace(OPTIONS, output=run), None) as found:
        assert found == run
    monkeypatch.setattr(folder, "is_first_process", lambda: True)
    with resumed(run) as saved, folder_for(saved.options, saved) as found:
        assert found == run
    assert (run / "metrics.csv").read_bytes() == table(saved.rows).encode()


def test_a_folder_is_new_locked_and_gone_if_nothing_is_written(tmp_path: Path) -> None:
    options = replace(OPTIONS, output=tmp_path)
    with folder_for(options, None) as first:
        assert first == tmp_path / f"{OPTIONS.name}-run1"
        with pytest.raises(OptionError, match="another process is writing there"), writing.locked(first):
            pass
        with folder_for(options, None) as second:
            assert second == tmp_path / f"{OPTIONS.name}-run2"
            (second / "x").touch()
    assert [path.name for path in tmp_path.iterdir()] == [second.name]


def test_the_best_epoch_is_the_first_of_the_most_recognised() -> None:
    rows = [{"epoch": epoch, "validation_accuracy": found} for epoch, found in enumerate((0.5, 0.9, 0.9, 0.8), 1)]
    assert best_of(rows)["epoch"] == 2


def test_a_part_of_a_table_has_no_header() -> None:
    row = dict(zip(folder.COLUMNS, (1, 2.5, 0.25, 1.5, 0.75, 0.125), strict=True))
    header = "epoch,training_cost,training_accuracy,validation_cost,validation_accuracy,seconds\r\n"
    assert table([row]) == f"{header}1,2.5,0.25,1.5,0.75,0.125\r\n"
    assert table([row, row], header=False) == "1,2.5,0.25,1.5,0.75,0.125\r\n" * 2


def test_a_repaired_best_network_is_one_that_lightning_reads(run: Path) -> None:
    (run / "best.ckpt").unlink()
    with resumed(run) as saved:
        repair(saved)
    best, last = (torch.load(run / name, weights_only=True) for name in ("best.ckpt", "last.ckpt"))
    assert not {"callbacks", "optimizer_states", "lr_schedulers"} & best.keys()
    assert best.keys() | {"callbacks", "optimizer_states", "lr_schedulers"} == last.keys()
    DigitClassifier.load_from_checkpoint(run / "best.ckpt", weights_only=True)
    before = (run / "best.ckpt").stat()
    with resumed(run) as saved:
        repair(saved)
    assert (run / "best.ckpt").stat() == before  # which has them already
    save_network(SigmoidMLP((784, 5, 5, 10)), run / "best.ckpt", overwrite=True)
    with resumed(run) as saved:
        repair(saved)
    assert load_network(run / "best.ckpt").sizes == (784, 5, 10)


def test_an_older_options_record_that_lacks_one_is_refused_in_one_line(run: Path) -> None:
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    said = "another program wrote it, or an older version, without the run's options"
    for without in (checkpoint["callbacks"]["EpochLog"].clear, checkpoint["callbacks"].clear):
        without()
        torch.save(checkpoint, run / "last.ckpt")
        with pytest.raises(CheckpointError) as caught, resumed(run):
            pass
        assert str(caught.value) == f"{run / 'last.ckpt'} is not a last.ckpt of a training run: {said}"


@contextmanager
def killed_at(what: str, moment: int) -> Iterator[None]:
    """Let training end at this mini-batch, before this file is written, or after it has got its name."""
    owner: Any = {"mini-batch": DigitClassifier, "writing": os, "written": Path}[what]
    name = {"mini-batch": "on_train_batch_start", "writing": "fsync", "written": "replace"}[what]
    function, calls = getattr(owner, name), 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == moment and what != "written":
            raise Killed
        result = function(*arguments, **options)
        if calls == moment:
            raise Killed
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, counted)
        with suppress(Killed):
            yield


def train_on(folder: Path) -> None:
    """Go on with the run in a folder, or begin it there if it has no epoch yet."""
    if (run := folder / f"{OPTIONS.name}-run1").exists():
        with resumed(run) as saved:
            train(saved.options, saved)
    else:
        train(replace(OPTIONS, epochs=3, output=folder))


def outcome(folder: Path) -> list[Any]:
    """All that a run leaves, but for the seconds."""
    (run,) = folder.iterdir()
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{**row, "seconds": ""} for row in csv.DictReader(file)]
    bits = [tensor.tolist() for name in ("best.ckpt", "last.ckpt") for tensor in weights(run / name)]
    return [sorted(path.name for path in run.iterdir()), rows, bits]


@pytest.fixture(scope="module")
def few_digits(digits: DigitSplits) -> Iterator[None]:
    """45 images are the dataset."""
    few = DigitSplits(*(Digits(part.images[:45], part.labels[:45]) for part in digits))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchdigits.training.run.load_splits", lambda *_: few)
        patch.setattr("torchdigits.training.run.plot_learning_curves", lambda rows, title, path: path.touch())
        yield


@pytest.fixture(scope="module")
def uninterrupted(few_digits: None, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    train_on(folder)
    return outcome(folder)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["mini-batch", "writing", "written"]), st.integers(1, 9)), max_size=4))
def test_a_run_killed_at_any_moments_ends_with_the_same_bits(
    uninterrupted: list[Any], kills: list[tuple[str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        for what, moment in kills:
            with killed_at(what, moment):
                train_on(Path(name))
        train_on(Path(name))
        assert outcome(Path(name)) == uninterrupted


@settings(max_examples=25, deadline=None)
@given(
    missing=st.sets(st.sampled_from(["best.ckpt", "metrics.csv"])),
    moment=st.integers(1, 14),
    after=st.booleans(),
    failure=failures,
)
def test_wherever_the_repair_of_a_run_stops_it_can_be_repaired(
    whole: Path, missing: set[str], moment: int, after: bool, failure: BaseException
) -> None:
    with tempfile.TemporaryDirectory() as name:
        run = Path(shutil.copytree(whole, Path(name, "run")))
        before = {path.name: path.read_bytes() for path in run.iterdir()}
        (run / ".torchdigits-0123456789abcdef").touch()  # as a killed process leaves it
        for file in missing:
            (run / file).unlink()
        with suppress(Killed, OSError, OptionError), failing_at(moment, after, failure), resumed(run) as saved:
            repair(saved)
        assert (run / "last.ckpt").read_bytes() == before["last.ckpt"]
        if (lock := run / ".lock").exists():  # which a process that has ended leaves, and holds no more
            lock.unlink()
            lock.touch()
        with resumed(run) as saved:
            repair(saved)
        assert {path.name for path in run.iterdir()} == before.keys()
        assert (run / "metrics.csv").read_bytes() == before["metrics.csv"]
        pairs = zip(weights(run / "best.ckpt"), weights(run / "last.ckpt"), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)


@settings(max_examples=60, deadline=None)
@given(moment=st.integers(1, 8), after=st.booleans(), failure=failures)
def test_wherever_making_a_runs_folder_stops_the_next_run_gets_one_of_its_own(
    moment: int, after: bool, failure: BaseException
) -> None:
    with tempfile.TemporaryDirectory() as name:
        options = replace(OPTIONS, output=Path(name, "runs"))
        failing = failing_at(moment, after, failure)
        with suppress(Killed, OSError, OptionError), failing, folder_for(options, None) as first:
            writing.write_whole(first / "last.ckpt", b"first")
        left = {path: path.read_bytes() for path in Path(name).glob("runs/*/last.ckpt")}
        with folder_for(options, None) as second:
            assert [path.name for path in second.iterdir()] == [".lock"]
        assert {path: path.read_bytes() for path in Path(name).glob("runs/*/last.ckpt")} == left
        assert all(content == b"first" for content in left.values())
