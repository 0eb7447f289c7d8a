"""What scripts/sweep.py does: train a population, tell how its results spread, and lose nothing on the way."""

import csv
import io
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import nan
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from torchdigits.checkpoints import save_network
from torchdigits.cli import OptionalPath, OptionalText, check_same_options, make_empty_folder
from torchdigits.datasets import load_splits
from torchdigits.errors import DataError, OptionError, reason
from torchdigits.figures import Spread, plot_spreads, plot_strips
from torchdigits.population import Member, Row, Trained, memory_for_slices, population, slices_of, train_slices
from torchdigits.training import (
    choose_hardware,
    device_name,
    device_of,
    obstacle_to_compiling,
    quiet,
    versions_here,
)

_COLUMNS = ("hidden", "learning_rate", "seed", "epoch", "validation_correct", "test_correct", "lost_digits")
_EPOCHS_SHOWN = (1, 5, 10)  # of a single setting, beside the last


class Summary(NamedTuple):
    """How the networks that differ by their seeds alone did after an epoch, in test images recognised.

    Attributes:
        hidden, learning_rate, epoch: of which networks, and when.
        networks: how many have not diverged: those whose weights are all finite numbers.
        mean, deviation, lowest, quartiles, highest: of these, and of the sample; quartiles are interpolated linearly.
            None where there are too few.
        lost: how many of them lost a digit: recognise under half of its images.
        diverged: how many of all have diverged.
    """

    hidden: tuple[int, ...]
    learning_rate: float
    epoch: int
    networks: int
    mean: float | None
    deviation: float | None
    lowest: int | None
    quartiles: list[float] | None
    highest: int | None
    lost: int
    diverged: int


def sweep(
    *,
    seeds: int = 32,
    learning_rates: tuple[float, ...] = (3.0,),
    hidden: tuple[str, ...] = ("30",),
    epochs: int = 30,
    dataset: Literal["mnist", "digits"] = "mnist",
    data_dir: OptionalPath = None,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
    cluster: OptionalText = None,
    output: Path = Path("checkpoints/sweep"),
    resume: bool = False,
) -> None:
    """Train many networks at once, and tell how their results spread.

    Every seed is trained with every learning rate and every choice of hidden layers, as train.py would train it. The
    folder gets sweep.csv (a row for each network and epoch), sweep.json, accuracy.png, final.png, and best.ckpt, the
    best of all by validation accuracy. What is interrupted goes on with --resume.

    Args:
        seeds: how many; they are 0, 1, 2, ...
        learning_rates: eta, one or several.
        hidden: neurons in the hidden layer, one or several; 30-30 is two layers.
        epochs: passes over the training images.
        dataset: mnist, or the 1,797 small digits that come with scikit-learn.
        data_dir: the folder of MNIST (default: $TORCHDIGITS_DATA_DIR, else data); downloaded where it is missing.
        accelerator: where to train; auto takes a GPU if there is one.
        cluster: train on a Ray cluster: HOST:PORT of its head, or auto for the one that this machine is part of.
        output: the folder to write to, new or empty.
        resume: go on with the sweep in that folder; the other options are those that it was begun with.

    Raises:
        OptionError: an option that makes no sense, or that this machine or the cluster cannot honour.
        DataError: the dataset cannot be had, or the sweep to go on with is damaged.
    """
    options = {
        "dataset": dataset,
        "hidden": list(hidden),
        "learning_rates": list(learning_rates),
        "seeds": seeds,
        "epochs": epochs,
    }
    for name, number in (("--seeds", seeds), ("--epochs", epochs)):
        if number < 1:
            raise OptionError(f"{name} {number}: it must be 1 or more")
    members = population([_layers(text) for text in hidden], learning_rates, range(seeds))
    with ExitStack() as stack, quiet():
        if cluster is None:
            hardware = choose_hardware(accelerator, 1, "32")
            device, where = torch.device(device_of(hardware["accelerator"])), device_name(hardware["accelerator"])
            memory, obstacle, train = memory_for_slices(device), obstacle_to_compiling(hardware), train_slices
        else:
            try:
                from torchdigits import cluster as ray_cluster
            except ImportError as error:
                raise OptionError(f"--cluster: {error.name} is missing; pip install -e '.[cluster]'") from error
            where = stack.enter_context(ray_cluster.connected(cluster))
            device, memory = ray_cluster.choose_device(accelerator)
            obstacle, train = "", ray_cluster.train_slices
        splits = load_splits(dataset, data_dir)
        folder = stack.enter_context(_opened(output, options, members, resume))
        slices = slices_of(folder.missing(), device, memory)
        start, before = time.perf_counter(), folder.finished
        try:
            with _Watch(len(members) * epochs, before * epochs) as watch:
                if obstacle:
                    watch.compiling(f"not compiled: {obstacle}", 0)
                for done in train(slices, splits, epochs, device, not obstacle, watch.compiling, watch.advance):
                    folder.add(done)
                    watch.say(f"{folder.finished} of {len(members)} networks")
        except KeyboardInterrupt:
            if folder.finished:
                command = shlex.join(["python", *sys.argv, *([] if resume else ["--resume"])])
                print(f"{folder.finished} of {len(members)} networks are kept; go on with\n    {command}")
            raise
        seconds, trained = time.perf_counter() - start - watch.seconds, folder.finished - before
        summaries = _summaries(folder.rows)
        if trained:
            part = {"networks": trained, "seconds": round(seconds, 1), "compiling": round(watch.seconds, 1)}
            folder.parts.append(part | {"device": where, "versions": versions_here()})
        folder.record(
            {
                "dataset": {"sha256": splits.fingerprint()}
                | {name: len(part.labels) for name, part in splits._asdict().items()},
                "best": folder.best and _cells(folder.best),
                "summaries": [summary._asdict() for summary in summaries],
            }
        )
    images = len(splits.test.labels)
    _draw(folder.rows, images, f"{dataset}, seeds 0 to {seeds - 1}", output)
    _show(summaries, epochs, images)
    if trained:
        each = seconds / trained / epochs
        print(f"Trained in {seconds:.1f} s, {each:.3f} s a network and epoch")
    if folder.best is not None:
        _praise(folder.best, len(splits.validation.labels), images, output)


class _Sweep:
    """What is known of a sweep, and its folder: after each slice, all that is known is there."""

    def __init__(self, folder: Path, options: dict[str, Any], members: list[Member]) -> None:
        self._folder, self._options = folder, options
        self._order = {member: place for place, member in enumerate(members)}
        self.rows: list[Row] = []
        self.best: Row | None = None
        self.parts: list[dict[str, Any]] = []  # which process has trained how many networks, and on what

    @property
    def finished(self) -> int:
        return len({row.member for row in self.rows})

    def read(self) -> None:
        """Take up what an earlier process has left.

        Raises:
            OptionError: there is no sweep, or one with other options.
            DataError: it is damaged.
        """
        try:
            record = json.loads((self._folder / "sweep.json").read_bytes())
            options, self.parts = dict(record["options"]), list(record["parts"])
            if any(not _alike(options.get(name), value) for name, value in self._options.items()):
                raise ValueError("its options are not a sweep's")
        except FileNotFoundError:
            raise OptionError(f"--resume: there is no sweep in {self._folder}") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{self._folder / 'sweep.json'} is damaged: {reason(error)}") from error
        check_same_options(self._options, options, f"the sweep in {self._folder}")
        table = self._folder / "sweep.csv"
        try:
            with table.open(newline="") as file:
                reader = csv.DictReader(file)
                self.rows = [_row(cells) for cells in reader]
            if tuple(reader.fieldnames or ()) != _COLUMNS:
                raise ValueError("other columns")
            epochs: dict[Member, list[int]] = {}
            for row in self.rows:
                epochs.setdefault(row.member, []).append(row.epoch)
            wanted = list(range(1, self._options["epochs"] + 1))
            if not epochs.keys() <= self._order.keys() or any(found != wanted for found in epochs.values()):
                raise ValueError("other networks or epochs")
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
            raise DataError(f"{table} is damaged: {reason(error)}") from error
        self.best = self._best(self.rows)
        if self.best is not None and self._candidate(self.best).exists():  # killed before the last line of add
            self._candidate(self.best).replace(self._folder / "best.ckpt")
        for candidate in self._folder.glob(".best-*.ckpt"):
            candidate.unlink()
        if self.best is not None and not (self._folder / "best.ckpt").exists():
            raise DataError(f"{self._folder / 'best.ckpt'} is missing: it has the best network so far")

    def missing(self) -> list[Member]:
        known = {row.member for row in self.rows}
        return [member for member in self._order if member not in known]

    def add(self, trained: Trained) -> None:
        """Keep what became of a slice: sweep.csv says which network is best, and then best.ckpt becomes that one."""
        rows = sorted([*self.rows, *trained.rows], key=lambda row: (self._order[row.member], row.epoch))
        best = self._best(rows)
        candidate = None
        if best is not None and best != self.best and trained.best_network is not None:
            candidate = self._candidate(best)
            save_network(trained.best_network, candidate, overwrite=True)
        file = io.StringIO()
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(map(_cells, rows))
        self._write("sweep.csv", file.getvalue())
        if candidate is not None:
            candidate.replace(self._folder / "best.ckpt")
        self.rows, self.best = rows, best

    def _candidate(self, row: Row) -> Path:
        """The file that has a network until sweep.csv has its rows."""
        return self._folder / f".best-{self._order[row.member]}-{row.epoch}.ckpt"

    def record(self, results: dict[str, Any]) -> None:
        content = {"options": self._options, "parts": self.parts, **results}
        self._write("sweep.json", json.dumps(content, indent=2) + "\n")

    def _best(self, rows: list[Row]) -> Row | None:
        """The most validation images; of several, the earliest epoch, and then the first network."""
        sound = [row for row in rows if row.validation_correct is not None]
        return min(
            sound, key=lambda row: (-(row.validation_correct or 0), row.epoch, self._order[row.member]), default=None
        )

    def _write(self, name: str, content: str) -> None:
        """Whole, or not at all."""
        path, part = self._folder / name, self._folder / f"{name}.part"
        try:
            part.write_text(content, newline="")
            part.replace(path)
        except OSError as error:
            raise OptionError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def _opened(folder: Path, options: dict[str, Any], members: list[Member], resume: bool) -> Iterator[_Sweep]:
    """The sweep in a folder, which is ours alone meanwhile.

    Raises:
        OptionError, DataError: the folder is not empty, or in use, or there is nothing in it to go on with.
    """
    sweep = _Sweep(folder, options, members)
    if resume and not folder.is_dir():
        raise OptionError(f"--resume: there is no sweep in {folder}")
    if not resume:
        make_empty_folder("--output", folder, "; to go on with a sweep, use --resume")
    lock = folder / "sweep.lock"
    try:
        lock.touch()
    except OSError as error:
        raise OptionError(f"--output {folder}: it cannot be written: {error.strerror}") from None
    try:
        with FileLock(lock, blocking=False):
            try:
                if resume:
                    sweep.read()
                else:
                    sweep.record({})
                yield sweep
            finally:
                if not (folder / "sweep.csv").exists():  # nothing to go on with, so nothing in the way of a new one
                    for path in (folder / "sweep.json", folder / "sweep.csv.part", *folder.glob(".best-*.ckpt")):
                        path.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
    except Timeout:
        raise OptionError(f"--output {folder}: another sweep is writing there") from None


class _Watch:
    """Progress: a line for each slice, and on a terminal a bar below."""

    def __init__(self, total: int, completed: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, transient=True, disable=not sys.stdout.isatty())
        self._task = self._bar.add_task("training", total=total, completed=completed)
        self.seconds = 0.0  # that compiling took

    def __enter__(self) -> "_Watch":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        print(text, flush=True)

    def compiling(self, outcome: str, seconds: float) -> None:
        self.seconds += seconds
        self.say(f"{outcome.capitalize()}, in {seconds:.1f} s" if seconds else outcome.capitalize())

    def advance(self, epochs: float) -> None:
        self._bar.advance(self._task, epochs)


def _summaries(rows: Sequence[Row]) -> list[Summary]:
    """Of all networks, in the order of hidden layers, learning rates and epochs."""
    groups: dict[tuple[tuple[int, ...], float, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.member.hidden, row.member.learning_rate, row.epoch), []).append(row)
    summaries = []
    for (hidden, rate, epoch), group in sorted(groups.items()):
        sound = [row for row in group if row.test_correct is not None]
        counts = np.array([row.test_correct for row in sound], dtype=np.int64)
        summaries.append(
            Summary(
                hidden,
                rate,
                epoch,
                networks=len(sound),
                mean=float(counts.mean()) if sound else None,
                deviation=float(counts.std(ddof=1)) if len(sound) > 1 else None,
                lowest=int(counts.min()) if sound else None,
                quartiles=np.quantile(counts, (0.25, 0.5, 0.75)).tolist() if sound else None,
                highest=int(counts.max()) if sound else None,
                lost=sum(bool(row.lost_digits) for row in sound),
                diverged=len(group) - len(sound),
            )
        )
    return summaries


def _show(summaries: Sequence[Summary], epochs: int, images: int) -> None:
    """Print a table: what the last epoch has brought, and of networks of one kind some epochs before it."""
    kinds = {(summary.hidden, summary.learning_rate) for summary in summaries}
    shown = {epochs} if len(kinds) > 1 else {*_EPOCHS_SHOWN, epochs}
    summaries = [summary for summary in summaries if summary.epoch in shown]
    names = [
        (_in_words(summary.hidden), f"learning rate {summary.learning_rate:g}", f"epoch {summary.epoch}")
        for summary in summaries
    ]
    # What all have in common is in the title, what tells them apart in the first column.
    varied = [len(set(values)) > 1 for values in zip(*names, strict=True)]
    common = [name for name, varies in zip(names[0], varied, strict=True) if not varies]
    table = Table(
        title=f"{', '.join(common)}: test images recognised, of {images:,}", title_justify="left", title_style=""
    )
    table.add_column(no_wrap=True)
    for heading in ("networks", "mean", "deviation", "lowest", "quartile", "median", "quartile", "highest"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("lost a digit", justify="right")
    if any(summary.diverged for summary in summaries):
        table.add_column("diverged", justify="right")
    for summary, name in zip(summaries, names, strict=True):
        counts = (summary.lowest, *(summary.quartiles or (None, None, None)), summary.highest)
        table.add_row(
            ", ".join(part for part, varies in zip(name, varied, strict=True) if varies),
            f"{summary.networks}",
            *("" if value is None else f"{value:,.1f}" for value in (summary.mean, summary.deviation)),
            *("" if value is None else f"{value:,.1f}".removesuffix(".0") for value in counts),
            f"{summary.lost}",
            *([f"{summary.diverged}"] if len(table.columns) > 10 else []),
        )
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.width = max(console.width, 120) if sys.stdout.isatty() else 120  # in less, rich would leave numbers out
    console.print(table)


def _draw(rows: Sequence[Row], images: int, what: str, folder: Path) -> None:
    """Draw the accuracies of all networks that have not diverged, by epoch and in the end."""
    kinds: dict[tuple[tuple[int, ...], float], dict[int, list[float]]] = {}
    for row in rows:
        networks = kinds.setdefault((row.member.hidden, row.member.learning_rate), {})
        accuracy = nan if row.test_correct is None else row.test_correct / images
        networks.setdefault(row.member.seed, []).append(accuracy)
    several_layers, several_rates = (len(set(values)) > 1 for values in zip(*kinds, strict=True))
    spreads = []
    for (hidden, rate), networks in sorted(kinds.items()):
        layers, learning_rate = _in_words(hidden), f"learning rate {rate:g}"
        accuracies = np.array(list(networks.values()))
        accuracies = accuracies[np.isfinite(accuracies).all(1)]
        label = ", ".join([layers] * several_layers + [learning_rate] * several_rates) or "all"
        spreads.append(Spread(label, accuracies))
    common = [layers] * (not several_layers) + [learning_rate] * (not several_rates)
    title = ", ".join([*common, what])
    plot_spreads(spreads, title, folder / "accuracy.png")
    plot_strips(spreads, title, folder / "final.png")


def _praise(best: Row, validation: int, test: int, folder: Path) -> None:
    hidden, rate, seed = best.member
    checkpoint = shlex.quote(str(folder / "best.ckpt"))
    print(
        f"Best: {_in_words(hidden)}, learning rate {rate:g}, seed {seed}, epoch {best.epoch}:"
        f" {best.validation_correct} / {validation} validation, {best.test_correct} / {test} test"
    )
    print(f"Saved as {checkpoint}; use it with")
    print(f"    python scripts/predict.py --checkpoint {checkpoint} PICTURE")


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split("-"))
    except ValueError:
        raise OptionError(f"--hidden {text}: it must be a number, or several with hyphens, as 30-30") from None


def _in_words(hidden: tuple[int, ...]) -> str:
    return "-".join(map(str, (784, *hidden, 10)))


def _alike(one: Any, other: Any) -> bool:
    """Whether it is of the same type, and can be shown."""
    if isinstance(other, list):
        return isinstance(one, list) and all(_alike(item, other[0]) for item in one)
    return type(one) is type(other) and str(one).isprintable()


def _cells(row: Row) -> dict[str, Any]:
    """As in sweep.csv; of a network that has diverged, there are no counts."""
    member, *results = row
    return dict(zip(_COLUMNS, ("-".join(map(str, member.hidden)), *member[1:], *results), strict=True))


def _row(cells: dict[str, str]) -> Row:
    member = Member(_layers(cells["hidden"]), float(cells["learning_rate"]), int(cells["seed"]))
    validation, test = (
        int(cells[f"{split}_correct"]) if cells[f"{split}_correct"] else None for split in ("validation", "test")
    )
    counts = [count for count in (validation, test) if count is not None]
    if len(counts) == 1 or not all(0 <= count < 2**31 for count in counts):
        raise ValueError("no counts of images")
    return Row(member, int(cells["epoch"]), validation, test, cells["lost_digits"])
