"""One training run, from its options to a tested checkpoint."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from torchdigits.data.datasets import DigitSplits, load_splits
from torchdigits.engines.choice import Engine, EngineChoice, products_of
from torchdigits.engines.machine import Machine, find_machine, quiet, threads_for, versions_here
from torchdigits.engines.processes import is_first_process, own_processes
from torchdigits.errors import CheckpointError, DataError, TorchDigitsError, root_cause
from torchdigits.files.networks import load_network
from torchdigits.files.writing import write_whole
from torchdigits.recognition.measuring import Measurement, measure
from torchdigits.training.advice import advice
from torchdigits.training.figures import plot_learning_curves
from torchdigits.training.folder import BEST, LAST, Row, SavedRun, best_of, folder_for
from torchdigits.training.loggers import check_logger, make_logger
from torchdigits.training.options import TrainOptions

if TYPE_CHECKING:
    import lightning as L
    from lightning.pytorch.loggers import Logger

    from torchdigits.classifier import DigitClassifier
    from torchdigits.data.datamodule import DigitsDataModule
    from torchdigits.training.callbacks import EpochRecord


class TrainedRun(NamedTuple):
    """A finished run.

    Attributes:
        folder: where it is.
        engine: which one trained it last.
        rows: of metrics.csv, an epoch each.
        best: the row of the epoch with the most validation images recognised.
        test: what the best network makes of the test images.
        advice: sentences on what went wrong, if anything did.
    """

    folder: Path
    engine: Engine
    rows: list[Row]
    best: Row
    test: Measurement
    advice: list[str]


@own_processes()
def train(
    options: TrainOptions,
    saved: SavedRun | None = None,
    *,
    callbacks: "Sequence[L.Callback] | Callable[[], Sequence[L.Callback]]" = (),
    logger: "Logger | str | None" = None,
    on_start: Callable[[Path, Engine], object] = lambda folder, engine: None,
) -> TrainedRun:
    """Train a network, and test the best of its epochs.

    The run's folder gets best.ckpt (by validation accuracy), last.ckpt, metrics.csv, curve.png and run.json. The same
    seed on the same machine, with as many threads, gives the same network, bit for bit, also if the run is interrupted
    and goes on: then it has the threads that it was begun with.

    To go on with a run: `with resumed(folder) as saved: train(replace(saved.options, epochs=60), saved)`.

    Args:
        options: of the run.
        saved: the run that goes on, given by `resumed`.
        callbacks: Lightning's, called after the run's own: after an epoch its checkpoints are written already. Or what
            makes them, for who does not want to import Lightning before the compiler is at work.
        logger: Lightning's, or a name for `make_logger`; it gets the metrics of each epoch, and the options.
        on_start: is told the folder and the engine before the first update; of several processes, in the first alone.

    Raises:
        OptionError: options that this machine cannot honour, or that are not the resumed run's; no folder can be made;
            there is no such logger.
        DataError: the dataset cannot be had, or is not the resumed run's.
        CheckpointError: the resumed run is damaged.
        DivergedError: weights or costs are NaN or infinite after an epoch; the run ends with the one before.
        OSError: a file cannot be written.
    """
    if isinstance(logger, str):
        check_logger(logger)
    machine = find_machine(options.accelerator, options.devices, options.precision)
    options = replace(options, devices=machine.devices)
    if saved is not None:
        options.check_goes_on_from(saved.options, saved.folder, len(saved.rows))
    splits, dataset = _dataset(options, saved)
    if saved is not None:
        _check_best(saved, splits)
    products, threads = products_of(options.sizes, options.batch_size), None if saved is None else saved.threads
    run = options.batch_size, options.epochs, options.seed
    with ExitStack() as stack:
        choice = EngineChoice(
            options.engine, options.sizes, splits.training, *run, machine, threads_for(products, threads)
        )
        stack.callback(choice.close)
        from torchdigits.classifier import DigitClassifier  # here: importing Lightning takes as long as compiling
        from torchdigits.data.datamodule import DigitsDataModule

        torch.manual_seed(options.seed)
        classifier = DigitClassifier(options.sizes, options.learning_rate)
        stack.enter_context(quiet())
        stack.enter_context(machine.settings(products, threads))
        classifier, engine = choice.apply(classifier)
        output = stack.enter_context(folder_for(options, saved))
        if is_first_process():
            on_start(output, engine)
        record = _record(output, options, machine, engine, dataset, saved)
        datamodule = DigitsDataModule(splits, None, options.batch_size, options.seed, engine.block_size)
        followers = callbacks() if callable(callbacks) else callbacks
        log = _logger(logger, output, options)
        folder = _fit(classifier, datamodule, machine, record, options.epochs, saved, followers, log)
        network = load_network(folder / BEST)
        test = measure(network, splits.test)
        finished = TrainedRun(folder, engine, record.rows, best_of(record.rows), test, advice(network, splits.test))
        if is_first_process():
            _write_results(finished, options, machine, dataset)
    return finished


def _logger(logger: "Logger | str | None", folder: Path, options: TrainOptions) -> "Logger | None":
    """The logger, which has taken down the options."""
    if isinstance(logger, str):
        logger = make_logger(logger, folder)
    if logger is not None:
        logger.log_hyperparams(json.loads(json.dumps(options.to_plain())))  # with lists for tuples
    return logger


def _dataset(options: TrainOptions, saved: SavedRun | None) -> tuple[DigitSplits, dict[str, Any]]:
    """The dataset and its summary, which must be the resumed run's."""
    splits = load_splits(options.dataset, options.data_dir)
    summary = splits.summary()
    if saved is not None and summary["sha256"] != saved.fingerprint:
        raise DataError(f"{options.dataset} has other images or labels than the run in {saved.folder} was begun with")
    return splits, summary


def _check_best(saved: SavedRun, splits: DigitSplits) -> None:
    """Raise CheckpointError if best.ckpt is another network than the one of the best epoch."""
    if (best := best_of(saved.rows)) is saved.rows[-1]:  # then it is made of last.ckpt
        return
    found = measure(load_network(saved.folder / BEST), splits.validation)
    correct, total = found.correct, found.total
    expected = round(best["validation_accuracy"] * total)
    if abs(correct - expected) > 1 + total // 1000:  # another processor may round a tie in another way
        raise CheckpointError(
            f"{saved.folder / BEST} is not the network of epoch {best['epoch']}: it recognises {correct} of {total}"
            f" validation images, not {expected}"
        )


def _record(
    folder: Path,
    options: TrainOptions,
    machine: Machine,
    engine: Engine,
    dataset: dict[str, Any],
    saved: SavedRun | None,
) -> "EpochRecord":
    """What is recorded of each epoch, and saved with it so that the run can go on."""
    from torchdigits.training.callbacks import EpochRecord

    chosen = options.to_plain() | {"accelerator": machine.accelerator, "engine": engine.name}
    state = {"options": chosen, "fingerprint": dataset["sha256"], "threads": torch.get_num_threads()}
    return EpochRecord(folder, state, [] if saved is None else saved.rows)


def _fit(
    classifier: "DigitClassifier",
    datamodule: "DigitsDataModule",
    machine: Machine,
    record: "EpochRecord",
    epochs: int,
    saved: SavedRun | None,
    callbacks: "Sequence[L.Callback]",
    logger: "Logger | None" = None,
) -> Path:
    """Train for the epochs that are missing; the folder, which only the first of several processes knew before."""
    from torchdigits.training.callbacks import KeepCheckpoints, MetricsFile, WholeFiles

    checkpoints = KeepCheckpoints(record)
    if len(record.rows) == epochs:
        return checkpoints.folder
    callbacks = [record, checkpoints, MetricsFile(record), *callbacks]
    trainer = machine.trainer(
        max_epochs=epochs, callbacks=callbacks, plugins=[WholeFiles(saved)], logger=logger or False
    )
    path = None if saved is None else saved.folder / LAST
    try:
        trainer.fit(classifier, datamodule, ckpt_path=path, weights_only=None if saved is None else True)
    except (TorchDigitsError, OSError):
        raise
    except Exception as error:
        if saved is None or record.started:
            raise
        raise CheckpointError(f"{path} is damaged: {root_cause(error)}") from error
    return checkpoints.folder


def _write_results(finished: TrainedRun, options: TrainOptions, machine: Machine, dataset: dict[str, Any]) -> None:
    """Write run.json and draw curve.png."""
    record = {
        "options": options.to_plain(),
        "engine": finished.engine.name,
        "why": finished.engine.why,
        "versions": versions_here(),
        "hardware": asdict(machine) | {"device": machine.name},
        "dataset": dataset,
        "best": finished.best,
        "test": {"correct": finished.test.correct, "total": finished.test.total},
    }
    plot_learning_curves(finished.rows, title_of_run(record), finished.folder / "curve.png")
    write_whole(finished.folder / "run.json", (json.dumps(record, indent=2) + "\n").encode())


def title_of_run(record: dict[str, Any]) -> str:
    """What was trained and how, in a line, of what run.json holds."""
    options = record["options"]
    sizes = "-".join(map(str, (784, *options["hidden"], 10)))
    devices = "" if record["hardware"]["devices"] == 1 else f" on each of {record['hardware']['devices']} devices"
    return (
        f"Learning curves of {sizes} on {options['dataset']}, learning rate {options['learning_rate']:g},"
        f" mini-batches of {options['batch_size']}{devices}, seed {options['seed']},"
        f" {record['engine']} engine"
    )
