"""A run's folder: made, written to by one process at a time, and read again to go on."""

import csv
import io
import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from math import isfinite
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import torch
from filelock import FileLock, Timeout

from torchdigits.checkpoints import (
    PART,
    load_network,
    network_of,
    parameters_of,
    read_checkpoint,
    refused,
    write_whole,
)
from torchdigits.errors import CheckpointError, OptionError

COLUMNS = ("epoch", "training_cost", "training_accuracy", "validation_cost", "validation_accuracy", "seconds")
BEST, LAST, METRICS = "best.ckpt", "last.ckpt", "metrics.csv"


class SavedRun(NamedTuple):
    """What last.ckpt knows of its run.

    Attributes:
        folder: where it is.
        options: train()'s, as the run was begun or last gone on with; its engine and accelerator as they were chosen,
            its devices as the number of its processes.
        fingerprint: of the dataset.
        rows: of the finished epochs, by COLUMNS.
        checkpoint: all of it.
    """

    folder: Path
    options: dict[str, Any]
    fingerprint: str
    rows: list[dict[str, Any]]
    checkpoint: dict[str, Any]


def best_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of the epoch with the most validation images recognised; of several, the first."""
    return max(rows, key=lambda row: row["validation_accuracy"])


def table(rows: list[dict[str, Any]], header: bool = True) -> str:
    """metrics.csv, or a part of it."""
    writer = csv.DictWriter(file := io.StringIO(), COLUMNS)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def read_run(run: Path, types: Mapping[str, Any]) -> SavedRun:
    """Read what a run needs to go on.

    Args:
        run: its folder, or the last.ckpt in it.
        types: of the options, by their names.

    Raises:
        CheckpointError: there is none, or it is damaged or hostile, or the best network so far is lost.
    """
    path = run / LAST if run.is_dir() else run
    if path.name != LAST:
        raise CheckpointError(f"--resume {run}: a run goes on from its folder, or the {LAST} in it")
    with refused(path, f"{LAST} of a run of train.py"):
        if not path.is_file():
            raise CheckpointError(f"--resume {run}: no run to go on with, as there is no {path}")
        checkpoint = read_checkpoint(path)
        if "run" not in checkpoint["callbacks"].get("EpochLog", {}):
            raise ValueError("another program wrote it, or an older version, without the run's options")
        state = json.loads(checkpoint["callbacks"]["EpochLog"]["run"])
        options = {name: _option(name, state["options"][name], kind) for name, kind in types.items()}
        rows, fingerprint = state["rows"], state["fingerprint"]
        if not rows or [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)):
            raise ValueError("its epochs are not 1, 2, 3, ...")
        if any(tuple(row) != COLUMNS or not all(map(isfinite, row.values())) for row in rows):
            raise ValueError("its metrics are not all numbers")
        epochs = {"ready": len(rows), "completed": len(rows) - 1, "started": len(rows), "processed": len(rows)}
        loop = checkpoint["loops"]["fit_loop"]
        if (
            loop["epoch_progress"] != {"total": epochs, "current": epochs}
            or loop["epoch_loop.batch_progress"]["is_last_batch"] is not True
            or not _all_counts(checkpoint["loops"])
        ):
            raise ValueError(f"it is not of the end of epoch {len(rows)}")
        if network_of(parameters_of(checkpoint)).sizes != (784, *options["hidden"], 10):
            raise ValueError(f"its network has other hidden layers than {options['hidden']}")
    if best_of(rows) is not rows[-1]:  # else it can be made of last.ckpt
        load_network(path.with_name(BEST))
    return SavedRun(path.parent, options, fingerprint, rows, checkpoint)


def _option(name: str, value: Any, kind: Any) -> Any:
    """A saved option as train() takes it."""
    choices = get_args(kind)
    if Path in (kind, *choices) and type(value) is str:
        return Path(value)
    if get_origin(kind) is Literal:
        sound = type(value) is str and value in choices
    elif get_origin(kind) is tuple:
        sound = type(value) is list and all(type(number) is choices[0] for number in value)
        value = tuple(value) if sound else value
    else:
        sound = type(value) in (kind, *choices) or (kind is float and type(value) is int)
    if not sound:
        raise ValueError(f"its option {name} is damaged")
    return value


def _all_counts(state: Any) -> bool:
    if isinstance(state, dict):
        return all(map(_all_counts, state.values()))
    return type(state) in (int, bool) and state >= 0


def mend(saved: SavedRun) -> None:
    """Put a folder in the order in which its last.ckpt was written, whenever its process was killed.

    best.ckpt and metrics.csv are written after last.ckpt, so that they may lack the epoch that last.ckpt ends with.

    Raises:
        OSError: something cannot be written.
    """
    for part in saved.folder.glob(f"{PART}*"):
        part.unlink()
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


def new_folder(output: Path, name: str) -> Path:
    """Make the first of `name-run1`, `name-run2`, ... that is not yet in `output`.

    Raises:
        OptionError: no folder can be made there.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = output / f"{name}-run{number}"
            with suppress(FileExistsError):
                folder.mkdir()
                break
    except OSError as error:
        raise OptionError(f"--output {output}: no folder can be made there: {error.strerror}") from error
    return folder


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a run's folder.

    Raises:
        OptionError: another process trains there, or nothing can be written.
    """
    lock = FileLock(folder / "run.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise OptionError(f"{folder}: another process is training there") from None
    except OSError as error:
        raise OptionError(f"{folder}: it cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def way_on(folder: Path, changed: Mapping[str, Any]) -> str:
    """The command that goes on with a run, with options that its last.ckpt does not know of yet."""
    script = sys.argv[0] if Path(sys.argv[0]).parts[-2:] == ("scripts", "train.py") else "scripts/train.py"
    words = [word for name, value in changed.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return shlex.join(["python", script, "--resume", str(folder), *words])
