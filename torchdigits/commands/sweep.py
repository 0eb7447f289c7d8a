"""Train many networks at once, and tell how their results spread."""

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from torchdigits.commands.cli import catching_signals, command_line, options_given, progress_bar
from torchdigits.data.datasets import DigitSplits, load_splits
from torchdigits.engines.machine import find_machine, quiet, versions_here
from torchdigits.errors import OptionError
from torchdigits.population.ensemble import Trained
from torchdigits.population.figures import draw_sweep
from torchdigits.population.folder import BEST, SweepFolder, cells_of, opened
from torchdigits.population.members import Row, SweepOptions, in_words
from torchdigits.population.slices import memory_for_slices, slices_of, train_slices
from torchdigits.population.statistics import Summary, summarise

_EPOCHS_SHOWN = (1, 5, 10)  # of a single setting, beside the last


class _Place(NamedTuple):
    """Where a sweep trains: a device, its name, the bytes that a slice may take there, and what trains slices."""

    device: torch.device
    name: str
    memory: int
    obstacle: str  # to compiling
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
    folder: SweepFolder | None = None
    with _one_line(lambda: _kept(folder, options, resume)), ExitStack() as stack, quiet():
        place = _place(accelerator, cluster, stack)
        splits = load_splits(options.dataset, data_dir)
        folder = stack.enter_context(opened(output, options, resume))
        folder.check_counts(splits)
        part = _train(folder, place, splits)
        summaries, dataset = summarise(folder.rows), splits.summary()
        best = folder.best and cells_of(folder.best)
        folder.record({"dataset": dataset, "best": best, "summaries": [each._asdict() for each in summaries]})
        draw_sweep(folder.rows, dataset["test"], f"{options.dataset}, seeds 0 to {options.seeds - 1}", output)
    _show(summaries, options.epochs, dataset["test"])
    if part["networks"]:
        each = part["seconds"] / part["networks"] / options.epochs
        print(f"Trained in {part['seconds']:.1f} s, {each:.3f} s a network and epoch")
    if folder.best is not None:
        _praise(folder.best, dataset["validation"], dataset["test"], output)


@contextmanager
def _one_line(kept: Callable[[], str]) -> Iterator[None]:
    """Say what is kept if Ctrl-C or SIGTERM comes, or a file cannot be written."""
    try:
        with catching_signals(kept):
            yield
    except BrokenPipeError:
        raise
    except OSError as error:
        what = f"cannot write {error.filename or 'to the disk'}: {error.strerror}"
        raise OptionError(f"{what}; {kept()}") from error


def _kept(folder: SweepFolder | None, options: SweepOptions, resume: bool) -> str:
    """What is kept of a sweep that ends early, and the command that goes on with it.

    Args:
        folder: the sweep's, if it has been opened already.
        options: of the sweep.
        resume: whether it had been begun before.
    """
    if folder is None and resume:
        kept = "what was finished before is kept"
    elif folder is None or not folder.finished:
        return "no network was finished, nothing is kept"
    else:
        kept = f"{folder.finished} of {len(options.members())} networks are kept"
    command = command_line("sweep", *options_given(), *([] if resume else ["--resume"]))
    return f"{kept}; go on with {command}"


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


def _train(folder: SweepFolder, place: _Place, splits: DigitSplits) -> dict[str, Any]:
    """Train the networks that the folder lacks; how many they were, where they were trained, and for how long."""
    before, epochs, total = folder.finished, folder.options.epochs, len(folder.options.members())
    slices, waited = slices_of(folder.options.members(), place.device, place.memory), 0.0

    def compiling(outcome: str, seconds: float) -> None:
        nonlocal waited
        waited += seconds
        print(outcome[0].upper() + outcome[1:] + (f", in {seconds:.1f} s" if seconds else ""), flush=True)

    if place.obstacle:
        compiling(f"not compiled: {place.obstacle}", 0)
    start, bar = time.perf_counter(), progress_bar()
    advance = partial(bar.advance, bar.add_task("training", total=total * epochs, completed=before * epochs))
    with nullcontext() if bar.disable else bar:  # else rich before 15 ends with an empty line
        options = epochs, place.device, not place.obstacle, compiling, advance, folder.known
        for trained in place.train(slices, splits, *options):
            folder.add(trained)
            print(f"{folder.finished} of {total} networks", flush=True)
    seconds = time.perf_counter() - start - waited
    part: dict[str, Any] = {"device": place.name, "versions": versions_here()}
    part |= {"networks": folder.finished - before, "seconds": round(seconds, 3), "compiling": round(waited, 3)}
    if part["networks"]:
        folder.parts.append(part)
    return part


def _show(summaries: Sequence[Summary], epochs: int, images: int) -> None:
    """Print a table: what the last epoch has brought, and of networks of one kind some epochs before it."""
    kinds = {(summary.hidden, summary.learning_rate) for summary in summaries}
    shown = {epochs} if len(kinds) > 1 else {*_EPOCHS_SHOWN, epochs}
    summaries = [summary for summary in summaries if summary.epoch in shown]
    names = [
        (in_words(summary.hidden), f"learning rate {summary.learning_rate:g}", f"epoch {summary.epoch}")
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
    # In a console that is narrower than the table, rich would leave numbers out.
    Console(highlight=False, markup=False, soft_wrap=True, width=1000).print(table)


def _praise(best: Row, validation: int, test: int, folder: Path) -> None:
    hidden, rate, seed = best.member
    checkpoint = shlex.quote(str(folder / BEST))
    print(
        f"Best: {in_words(hidden)}, learning rate {rate:g}, seed {seed}, epoch {best.epoch}:"
        f" {best.validation_correct} / {validation} validation, {best.test_correct} / {test} test"
    )
    print(f"Saved as {checkpoint}; use it with")
    print(f"    {command_line('predict', '--checkpoint', folder / BEST)} PICTURE")
