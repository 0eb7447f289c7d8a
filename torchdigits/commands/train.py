"""Train a network, and tell how it went."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from torchdigits.commands.cli import catching_signals, command_line
from torchdigits.engines.processes import is_first_process
from torchdigits.errors import CheckpointError, OptionError
from torchdigits.training.folder import BEST, LAST, SavedRun, read_run, resumed
from torchdigits.training.options import TrainOptions
from torchdigits.training.run import train as train_run

if TYPE_CHECKING:
    from lightning import Callback

    from torchdigits.engines.choice import Engine

__all__ = ["resumed", "train"]


def train(
    options: TrainOptions,
    *,
    logger: str | None = None,
    resume: Path | None = None,
    saved: SavedRun | None = None,
) -> None:
    """Train a network of sigmoid neurons to recognise digits.

    The best of its epochs is tested. The run's folder gets best.ckpt (by validation accuracy), last.ckpt, metrics.csv,
    curve.png and run.json.

    Args:
        logger: csv, tensorboard, wandb or mlflow; it gets each epoch too.
        resume: go on with the run in this folder; other options are as it was begun, but there may be more epochs.
        saved: that run.

    Raises:
        Interrupted: Ctrl-C or SIGTERM came.
    """
    folder = None if saved is None else saved.folder

    def started(where: Path, engine: "Engine") -> None:
        nonlocal folder
        folder = where
        if saved is not None and saved.threads not in (None, now := torch.get_num_threads()):
            print(f"Begun with {saved.threads} threads of the CPU, goes on with {now}: the last bits may differ")
        print(f"Engine: {engine}", flush=True)

    def shown() -> "list[Callback]":
        from torchdigits.commands.progress import EpochLines, RunBar  # here, since importing Lightning takes seconds

        return [RunBar(), EpochLines()]

    with catching_signals(lambda: _kept(folder, options, saved)):
        try:
            found = train_run(options, saved, callbacks=shown, logger=logger, on_start=started)
        except BrokenPipeError:  # what reads has read enough
            raise
        except OSError as error:
            what = f"cannot write {error.filename or 'to the disk'}: {error.strerror}"
            raise OptionError(f"{what}; {_kept(folder, options, saved)}") from error
    if is_first_process():
        checkpoint = str(found.folder / BEST)
        print(f"Test: {found.test.correct} / {found.test.total} with the best network, of epoch {found.best['epoch']}")
        for sentence in found.advice:
            print(sentence)
        print(f"Saved as {shlex.quote(checkpoint)}; use it with")
        print(f"    {command_line('predict', '--checkpoint', checkpoint)} PICTURE")


def _kept(folder: Path | None, options: TrainOptions, saved: SavedRun | None) -> str:
    """What is kept of a run that ends early, and the command that goes on with it.

    Args:
        folder: the run's, if it has one already.
        options: of the run.
        saved: what was gone on with, if something was.
    """
    if folder is None or not (folder / LAST).exists():
        return "no epoch was finished, nothing is kept"
    try:
        finished = len(read_run(folder / LAST).rows)
    except CheckpointError as error:
        return str(error)
    changed = {} if saved is None else options.changed_from(saved.options)
    words = [word for name, value in changed.items() for word in (f"--{name.replace('_', '-')}", value)]
    command = command_line("train", "--resume", folder, *words)
    return f"{finished} of {options.epochs} epochs are kept; go on with {command}"
