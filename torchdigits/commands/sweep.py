"""Train many networks at once, and tell how their results spread."""

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from torchdigits.commands.cli import catching_signals, command_line, options_given, progress_bar
from torchdigits.data.datasets import DigitSplits, load_splits
from torchdigits.engines.machine import find_machine, quiet, versions_here
from torchdigits.errors import OptionError
from torchdigits.population.ensemble import Trained
from torchdigits.population.figures import Spread, plot_spreads, plot_strips
from torchdigits.population.folder import BEST, SweepFolder, cells_of, opened
from torchdigits.population.members import Row, SweepOptions
from torchdigits.population.slices import memory_for_slices, slices_of, train_slices
from torchdigits.population.statistics import Summary, summarise

_EPOCHS_SHOWN = (1, 5, 10)  # of a single setting, beside the last


class _Place(NamedTuple):
    """Where a sweep trains: a device, what it is called, what a slice may take there, and what trains slices."""

    device: torch.device
    name: str
    memory: int
    obstacle: str
    train: Callable[..., Iterator[Trained]]


def sweep(
    options: SweepOptions,
    *,
    data_dir: Path | None = None,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
    cluster: str | None = None,
    output: Path = Path("checkpoints/sweep"),
    resume: bool = False,
) -> None:
    """Train many networks at once, and tell how their results spread.

    Every seed is trained with every learning rate and every choice of hidden layers, as train would. The folder gets
    sweep.csv (a row for each network and epoch), sweep.json, accuracy.png, final.png, and the best network, best.ckpt.

    Args:
        data_dir: where MNIST is, or is downloaded to. Default: $TORCHDIGITS_DATA_DIR, or data.
        accelerator: where to train; auto takes a GPU if there is one.
        cluster: a Ray cluster to train on; HOST:PORT, or auto for this machine's.
        output: the folder to write to, new or empty.
        resume: go on with the sweep in that folder; the other options are those that it was begun with.

    Raises:
        OptionError: an option that this machine or the cluster cannot honour.
        DataError: the dataset cannot be had, or the sweep to go on with is damaged.
        Interrupted: Ctrl-C or SIGTERM came.
    """
    finished = 0

    def kept() -> str:
        if not finished:
            return "no network was finished, nothing is kept"
        command = command_line("sweep", *options_given(), *([] if resume else ["--resume"]))
        return f"{finished} of {len(options.members())} networks are kept; go on with {command}"

    with catching_signals(kept), ExitStack() as stack, quiet():
        place = _place(accelerator, cluster, stack)
        splits = load_splits(options.dataset, data_dir)
        folder = stack.enter_context(opened(output, options, resume))
        finished = before = folder.finished
        start = time.perf_counter()
        with _Watch(len(options.members()) * options.epochs, before * options.epochs) as watch:
            for trained in _slices(folder, place, splits, watch):
                folder.add(trained)
                finished = folder.finished
                watch.say(f"{finished} of {len(options.members())} networks")
        seconds = time.perf_counter() - start - watch.seconds
        if finished > before:
            part = {"networks": finished - before, "seconds": round(seconds, 1), "compiling": round(watch.seconds, 1)}
            folder.parts.append(part | {"device": place.name, "versions": versions_here()})
        summaries, dataset = summarise(folder.rows), splits.summary()
        best = folder.best and cells_of(folder.best)
        folder.record({"dataset": dataset, "best": best, "summaries": [each._asdict() for each in summaries]})
    _draw(folder.rows, options.epochs, dataset["test"], f"{options.dataset}, seeds 0 to {options.seeds - 1}", output)
    _show(summaries, options.epochs, dataset["test"])
    if finished > before:
        each = seconds / (finished - before) / options.epochs
        print(f"Trained in {seconds:.1f} s, {each:.3f} s a network and epoch")
    if folder.best is not None:
        _praise(folder.best, dataset["validation"], dataset["test"], output)


def _place(accelerator: str, cluster: str | None, stack: ExitStack) -> _Place:
    """This machine, or the cluster, which is left when the stack unwinds."""
    if cluster is None:
        machine = find_machine(accelerator)
        memory, obstacle = memory_for_slices(machine.device), machine.obstacle_to_compiling
        return _Place(machine.device, machine.name, memory, obstacle, train_slices)
    try:
        from torchdigits.population import cluster as ray_cluster
    except ImportError as error:
        raise OptionError(f"--cluster needs the package {error.name}: pip install 'torchdigits[cluster]'") from error
    name = stack.enter_context(ray_cluster.connected(cluster))
    device, memory = ray_cluster.choose_device(accelerator)
    return _Place(device, name, memory, "", ray_cluster.train_slices)


def _slices(folder: SweepFolder, place: _Place, splits: DigitSplits, watch: "_Watch") -> Iterator[Trained]:
    """What becomes of each slice that is missing in the folder."""
    slices = slices_of(folder.missing(), place.device, place.memory)
    if place.obstacle:
        watch.compiling(f"not compiled: {place.obstacle}", 0)
    compiled, epochs = not place.obstacle, folder.options.epochs
    return place.train(slices, splits, epochs, place.device, compiled, watch.compiling, watch.advance)


class _Watch:
    """Progress: a line for each slice, and on a terminal a bar below."""

    def __init__(self, total: int, completed: int) -> None:
        self._bar = progress_bar()
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


def _draw(rows: Sequence[Row], epochs: int, images: int, what: str, folder: Path) -> None:
    """Draw the accuracies of all networks that have not diverged, by epoch and in the end."""
    kinds: dict[tuple[tuple[int, ...], float], dict[int, list[Row]]] = {}
    for row in rows:
        kinds.setdefault(row.member[:2], {}).setdefault(row.member.seed, []).append(row)
    several_layers, several_rates = (len(set(values)) > 1 for values in zip(*kinds, strict=True))
    spreads = []
    for (hidden, rate), networks in sorted(kinds.items()):
        layers, learning_rate = _in_words(hidden), f"learning rate {rate:g}"
        sound = [each for each in networks.values() if all(row.test_correct is not None for row in each)]
        shares = [(row.test_correct or 0) / images for each in sound for row in each]
        label = ", ".join([layers] * several_layers + [learning_rate] * several_rates) or "all"
        lost = [place for place, each in enumerate(sound) if each[-1].lost_digits]
        spreads.append(Spread(label, np.reshape(shares, (len(sound), epochs)), lost))
    common = [layers] * (not several_layers) + [learning_rate] * (not several_rates)
    title = ", ".join([*common, what])
    plot_spreads(spreads, title, folder / "accuracy.png")
    plot_strips(spreads, title, folder / "final.png")


def _praise(best: Row, validation: int, test: int, folder: Path) -> None:
    hidden, rate, seed = best.member
    checkpoint = shlex.quote(str(folder / BEST))
    print(
        f"Best: {_in_words(hidden)}, learning rate {rate:g}, seed {seed}, epoch {best.epoch}:"
        f" {best.validation_correct} / {validation} validation, {best.test_correct} / {test} test"
    )
    print(f"Saved as {checkpoint}; use it with")
    print(f"    {command_line('predict', '--checkpoint', folder / BEST)} PICTURE")


def _in_words(hidden: tuple[int, ...]) -> str:
    return "-".join(map(str, (784, *hidden, 10)))
