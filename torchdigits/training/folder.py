"""A run's folder: locked, read again to go on, and repaired."""

import csv
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch

from torchdigits.engines.processes import is_first_process
from torchdigits.errors import CheckpointError
from torchdigits.files.checkpoints import parameters_of, read_checkpoint
from torchdigits.files.networks import load_network, network_of
from torchdigits.files.reading import parse_json, reading
from torchdigits.files.writing import locked, new_folder, remove_if_empty, remove_parts, write_whole
from torchdigits.training.options import TrainOptions

BEST, LAST, METRICS = "best.ckpt", "last.ckpt", "metrics.csv"
MEASURED = ("training_cost", "training_accuracy", "validation_cost", "validation_accuracy")
COLUMNS = ("epoch", *MEASURED, "seconds")  # of metrics.csv
_MOST_COST = 5.001  # of ten outputs between 0 and 1, but for rounding
STATE = "EpochLog"  # what the record of a run is called in its checkpoints

Row = dict[str, Any]  # of metrics.csv, by COLUMNS


class SavedRun(NamedTuple):
    """What last.ckpt knows of its run.

    Attributes:
        folder: where it is.
        options: as the run was begun or last gone on with; its engine and accelerator as they were chosen, its devices
            as the number of its processes.
        fingerprint: of the dataset.
        threads: of the CPU, with which it was begun or last gone on with; None if an older version did not keep it.
        rows: of the finished epochs.
        checkpoint: all of it.
    """

    folder: Path
    options: TrainOptions
    fingerprint: str
    threads: int | None
    rows: list[Row]
    checkpoint: dict[str, Any]


def best_of(rows: list[Row]) -> Row:
    """The row of the epoch with the most validation images recognised; of several, the first."""
    return max(rows, key=lambda row: row["validation_accuracy"])


def table(rows: list[Row], header: bool = True) -> str:
    """metrics.csv, or a part of it."""
    writer = csv.DictWriter(file := io.StringIO(), COLUMNS)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


@contextmanager
def folder_for(options: TrainOptions, saved: SavedRun | None) -> Iterator[Path]:
    """The folder of a run that begins, new and locked, or of one that goes on, repaired.

    The first process makes it. The others hear from it later where it is, and are given `options.output` until then.

    Raises:
        OptionError: no folder can be made.
        OSError: the one that is there cannot be repaired.
    """
    if saved is not None or not is_first_process():
        if saved is not None and is_first_process():
            repair(saved)
        yield options.output if saved is None else saved.folder
        return
    folder = new_folder(options.output, options.name)
    try:
        with locked(folder):
            yield folder
    finally:
        remove_if_empty(folder)


@contextmanager
def resumed(run: Path | str) -> Iterator[SavedRun]:
    """What a run needs to go on; until it has, no other process can write to its folder.

    Args:
        run: its folder, or the last.ckpt in it.

    Raises:
        CheckpointError: there is no run, it is damaged or hostile, or its best network so far is lost.
        OptionError: another process trains there.
    """
    path = Path(run) / LAST if os.path.isdir(run) else Path(run)  # noqa: PTH112  # raises nothing, whatever the name
    if path.name != LAST:
        raise CheckpointError(f"--resume {run}: a run goes on from its folder, or the {LAST} in it")
    if not os.path.isfile(path):  # noqa: PTH113
        raise CheckpointError(f"--resume {run}: no run to go on with, as there is no {path}")
    if not is_first_process():
        yield read_run(path)
        return
    with locked(path.parent):
        yield read_run(path)


def read_run(path: Path) -> SavedRun:
    """What the last.ckpt at `path` knows of its run.

    Raises:
        CheckpointError: it is damaged or hostile, or the run's best network so far is lost.
    """
    with reading(path, f"{LAST} of a training run"):
        checkpoint = read_checkpoint(path)
        if "run" not in checkpoint["callbacks"].get(STATE, {}):
            raise ValueError("another program wrote it, or an older version, without the run's options")
        state = parse_json(checkpoint["callbacks"][STATE]["run"])
        options, rows, fingerprint = TrainOptions.from_plain(state["options"]), state["rows"], state["fingerprint"]
        threads = _threads(state["threads"]) if "threads" in state else None  # which older versions did not keep
        _check_rows(rows)
        _check_epoch(checkpoint["loops"], len(rows))
        if network_of(parameters_of(checkpoint)).sizes != options.sizes:
            raise ValueError(f"its network has other hidden layers than {list(options.hidden)}")
    if best_of(rows) is not rows[-1]:  # else best.ckpt can be made of last.ckpt
        best = path.with_name(BEST)
        if load_network(best).sizes != options.sizes:
            raise CheckpointError(f"{best} is not the best network so far: it has other layers")
    return SavedRun(path.parent, options, fingerprint, threads, rows, checkpoint)


def _threads(saved: Any) -> int:
    if type(saved) is not int or not 1 <= saved < 2**31:
        raise ValueError("its number of threads is damaged")
    return saved


def _check_rows(rows: list[Row]) -> None:
    if not rows or [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)):
        raise ValueError("its epochs are not 1, 2, 3, ...")
    if any(tuple(row) != COLUMNS or not all(map(isfinite, row.values())) for row in rows):
        raise ValueError("its metrics are not all numbers")
    if any(not (0 <= row[name] <= (_MOST_COST if name.endswith("cost") else 1)) for row in rows for name in MEASURED):
        raise ValueError("its metrics are not costs and accuracies")


def _check_epoch(loops: dict[str, Any], epoch: int) -> None:
    """Check that Lightning's counts are those of the end of an epoch."""
    counts = {"ready": epoch, "completed": epoch - 1, "started": epoch, "processed": epoch}
    loop = loops["fit_loop"]
    if (
        loop["epoch_progress"] != {"total": counts, "current": counts}
        or loop["epoch_loop.batch_progress"]["is_last_batch"] is not True
        or not _all_counts(loops)
    ):
        raise ValueError(f"it is not of the end of epoch {epoch}")


def _all_counts(state: Any) -> bool:
    if isinstance(state, dict):
        return all(map(_all_counts, state.values()))
    return type(state) in (int, bool) and state >= 0


def repair(saved: SavedRun) -> None:
    """Put a folder in the order in which its last.ckpt was written, whenever its process was killed.

    best.ckpt and metrics.csv are written after last.ckpt, so they may lack the epoch that last.ckpt ends with.

    Raises:
        OSError: something cannot be written.
    """
    remove_parts(saved.folder)
    write_whole(saved.folder / METRICS, table(saved.rows).encode())
    if best_of(saved.rows) is saved.rows[-1] and not _has_weights(saved.folder / BEST, saved.checkpoint):
        states = ("callbacks", "optimizer_states", "lr_schedulers")
        torch.save({key: value for key, value in saved.checkpoint.items() if key not in states}, file := io.BytesIO())
        write_whole(saved.folder / BEST, file.getvalue())


def _has_weights(path: Path, checkpoint: dict[str, Any]) -> bool:
    """Whether a checkpoint has the weights of another."""
    try:
        found = load_network(path).state_dict()
    except CheckpointError:
        return False
    wanted = parameters_of(checkpoint)
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in found)
