"""One training run, from its options to a tested checkpoint."""

import errno
import json
import logging
import os
import platform
import shlex
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import torch

from torchdigits import __version__
from torchdigits.checkpoints import write_whole
from torchdigits.cli import OptionalPath, check_same_options, interruptible
from torchdigits.errors import CheckpointError, DataError, OptionError, TorchDigitsError
from torchdigits.figures import plot_learning_curves
from torchdigits.runs import BEST, LAST, SavedRun, best_of, held, mend, new_folder, read_run, remove_if_empty, way_on

if TYPE_CHECKING:
    import lightning as L

    from torchdigits.classifier import CompiledDigitClassifier, DigitClassifier
    from torchdigits.datamodule import DigitsDataModule
    from torchdigits.progress import EpochLog

# In Lightning's words; tf32 is a way of the GPU's to multiply floats.
_PRECISIONS = {"32": "32-true", "64": "64-true", "tf32": "32-true", "bf16": "bf16-mixed"}
# Of a mini-batch, from which on threads pay: measured on two cores, where 0.8 million took 1.5 times as long with two.
_PRODUCTS_WORTH_THREADS = 10**6
_PRODUCTS_A_SECOND = 8 * 10**9  # of a core, in an update of 25 to 35 us of the original's network
# Options that may differ when a run goes on
_FREE = ("data_dir", "epochs", "accelerator", "engine")
# In a run, from which on compiling pays: it takes 3 to 12 s, and an update of the eager engine 1 ms.
UPDATES_WORTH_COMPILING = 10_000
# Mini-batches in a compiled block: of MNIST's 5,000 in an epoch, blocks of 250 took 3 % longer, and of 2,500 13 %.
BLOCK_SIZE = 500


def train(
    *,
    dataset: Literal["mnist", "digits"] = "mnist",
    data_dir: OptionalPath = None,
    hidden: tuple[int, ...] = (30,),
    epochs: int = 30,
    batch_size: int = 10,
    learning_rate: float = 3.0,
    seed: int = 0,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
    devices: int = 1,
    precision: Literal["32", "64", "bf16"] = "32",
    engine: Literal["auto", "eager", "compiled"] = "auto",
    output: Path = Path("checkpoints"),
    resume: OptionalPath = None,
) -> Path:
    """Train a network of sigmoid neurons to recognise digits, and test the best of its epochs.

    Makes a new folder with best.ckpt (by validation accuracy), last.ckpt, metrics.csv, curve.png and run.json. The
    same seed on the same machine gives the same network, bit for bit, also if it is interrupted and goes on.

    Args:
        dataset: mnist, or the 1,797 small digits that come with scikit-learn.
        data_dir: the folder of MNIST (default: $TORCHDIGITS_DATA_DIR, else data); downloaded where it is missing.
        hidden: neurons in each hidden layer.
        epochs: passes over the training images.
        batch_size: images in a mini-batch, on each device.
        learning_rate: eta, the step against the gradient of a mini-batch's mean cost.
        seed: of the first weights and of each epoch's order.
        accelerator: where to train; auto takes a GPU if there is one.
        devices: number of GPUs, or of processes on the CPU; under torchrun, as many as it starts.
        precision: bits of a number; bf16 is mixed precision.
        engine: eager is plain Lightning, an update at a time; compiled takes hundreds at a time, many times as fast;
            auto compiles if the run has 10,000 updates or more, and if it can be done here.
        output: the folder in which the run's own is made.
        resume: go on with the run in this folder, after its last finished epoch; the other options are those that it
            was begun with, but there may be more epochs. In Python: train(**saved_options(run) | {"resume": run}).

    Returns:
        The run's folder; of several processes only the first knows it, the others return `output`.

    Raises:
        OptionError: an option that makes no sense, that this machine cannot honour, or that is not the resumed run's;
            a folder or a file that cannot be written.
        DataError: the dataset cannot be had, or is not the resumed run's.
        CheckpointError: there is no run to resume, or it is damaged.
        DivergedError: weights or costs are no finite numbers after an epoch; the run ends with the one before.
        Interrupted: by Ctrl-C or SIGTERM.
    """
    options = {name: value for name, value in locals().items() if name != "resume"}
    options |= {"hidden": tuple(hidden), "output": Path(output), "data_dir": data_dir and Path(data_dir).resolve()}
    saved: SavedRun | None = None
    log: EpochLog | None = None  # noqa: F823  # the annotation is not evaluated

    def kept() -> str:
        folder, number = output, 0
        if log is not None:
            folder, number = log.folder, log.kept
        elif saved is not None:
            folder, number = saved.folder, len(saved.rows)
        if not number or not (folder / LAST).exists():
            return "no epoch was finished, nothing is kept" if not number else "nothing is kept"
        before = {} if saved is None else saved.options
        changed = {name: options[name] for name in _FREE if name in before and options[name] != before[name]}
        return f"{number} of {epochs} epochs are kept; go on with {way_on(folder, changed)}"

    with interruptible(kept), ExitStack() as stack:
        if epochs < 1:
            raise OptionError(f"--epochs {epochs}: it must be 1 or more")
        hardware = choose_hardware(accelerator, _processes(devices), precision)
        options["devices"] = hardware["devices"]
        if resume is not None:
            saved = read_run(Path(resume), _option_types())
            _check_resumed(options, saved)

        import lightning as L  # here, because --help and a mistyped option should not wait for Lightning
        from lightning.pytorch.utilities import rank_zero_only

        from torchdigits.classifier import DigitClassifier
        from torchdigits.datamodule import DigitsDataModule
        from torchdigits.progress import EpochLog, WholeFiles

        datamodule = DigitsDataModule(dataset, data_dir, batch_size, seed)
        torch.manual_seed(seed)
        classifier = DigitClassifier((784, *hidden, 10), learning_rate)
        splits, fingerprint = datamodule.splits, datamodule.splits.fingerprint()
        if saved is not None and fingerprint != saved.fingerprint:
            raise DataError(f"{dataset} has other images or labels than the run in {saved.folder} was begun with")
        products = batch_size * sum(parameter.numel() for parameter in classifier.parameters())
        stack.enter_context(quiet())
        stack.enter_context(torch_settings(products, torch.float64 if precision == "64" else torch.float32))
        block_size = min(BLOCK_SIZE, max(1, _PRODUCTS_A_SECOND // products))  # Ctrl-C is heard between blocks
        classifier, reason = choose_engine(engine, classifier, datamodule, epochs, hardware, block_size)

        # The first process makes the folder and writes; the others hear from it where that is.
        is_first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
        folder = output if saved is None else saved.folder
        if is_first:
            if saved is None:
                folder = new_folder(output, "-".join(map(str, (dataset, *classifier.network.sizes))))
                stack.callback(remove_if_empty, folder)
            stack.enter_context(held(folder))
            print(f"Engine: {reason}", flush=True)
        try:
            if is_first and resume is not None:
                saved = read_run(Path(resume), _option_types())  # again, now that no other process writes there
                mend(saved)
            chosen = {"accelerator": hardware["accelerator"], "engine": reason.partition(",")[0]}
            run = {"options": _plain(options | chosen), "fingerprint": fingerprint}
            log = EpochLog(folder, len(splits.validation.labels), run, [] if saved is None else saved.rows)
            trainer = L.Trainer(
                **hardware,
                max_epochs=epochs,
                callbacks=[log],
                plugins=[WholeFiles()],
                deterministic=True,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
            if log.kept < epochs:
                _fit(trainer, classifier, datamodule, log, saved)
            # The one look at the test images.
            trainer.test(classifier, datamodule, log.folder / BEST, verbose=False, weights_only=True)
            if is_first:
                test_count = len(splits.test.labels)
                test_correct = round(trainer.callback_metrics["test_accuracy"].item() * test_count)
                record = {
                    "options": _plain(options),
                    "engine": reason,
                    "versions": versions_here(),
                    "hardware": hardware | {"device": device_name(hardware["accelerator"])},
                    "dataset": {"sha256": fingerprint}
                    | {name: len(part.labels) for name, part in splits._asdict().items()},
                    "best": (best := best_of(log.rows)),
                    "test": {"correct": test_correct, "total": test_count},
                }
                plot_learning_curves(log.rows, title_of_run(record), folder / "curve.png")
                write_whole(folder / "run.json", (json.dumps(record, indent=2) + "\n").encode())
                checkpoint = shlex.quote(str(folder / BEST))
                print(f"Test: {test_correct} / {test_count} with the best network, of epoch {best['epoch']}")
                print(f"Saved as {checkpoint}; use it with")
                print(f"    python scripts/predict.py --checkpoint {checkpoint} PICTURE")
        except OSError as error:
            if error.filename is None and error.errno != errno.ENOSPC:
                raise
            what = f"cannot write {error.filename or 'to the disk'}: {error.strerror}"
            raise OptionError(f"{what}; {kept()}") from error
    return folder


def saved_options(run: Path) -> dict[str, Any]:
    """The options with which train() goes on with a run.

    Args:
        run: its folder, or the last.ckpt in it.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    return read_run(run, _option_types()).options


def _option_types() -> dict[str, Any]:
    return {name: kind for name, kind in get_type_hints(train).items() if name not in ("resume", "return")}


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


def _check_resumed(options: dict[str, Any], saved: SavedRun) -> None:
    """Refuse options with which a run would not be the same that was begun."""
    there = saved.folder.resolve().parent == options["output"].resolve()
    fixed = {name: value for name, value in options.items() if name not in _FREE and not (name == "output" and there)}
    check_same_options(fixed, saved.options, f"the run in {saved.folder}")
    if options["epochs"] < len(saved.rows):
        raise OptionError(f"--epochs {options['epochs']}: the run in {saved.folder} has {len(saved.rows)} already")


def _fit(
    trainer: "L.Trainer",
    classifier: "DigitClassifier",
    datamodule: "DigitsDataModule",
    log: "EpochLog",
    saved: SavedRun | None,
) -> None:
    path = None if saved is None else saved.folder / LAST
    try:
        trainer.fit(classifier, datamodule, ckpt_path=path, weights_only=None if saved is None else True)
    except (TorchDigitsError, OSError):
        raise
    except Exception as error:
        if saved is None or log.started:
            raise
        raise CheckpointError(f"{path} is damaged: {root_cause(error)}") from error


def title_of_run(record: dict[str, Any]) -> str:
    """What was trained and how, in a line, of what run.json holds."""
    options = record["options"]
    sizes = "-".join(map(str, (784, *options["hidden"], 10)))
    devices = "" if record["hardware"]["devices"] == 1 else f" on each of {record['hardware']['devices']} devices"
    return (
        f"Learning curves of {sizes} on {options['dataset']}, learning rate {options['learning_rate']:g},"
        f" mini-batches of {options['batch_size']}{devices}, seed {options['seed']},"
        f" {record['engine'].partition(',')[0]} engine"
    )


def _processes(devices: int) -> int:
    """The number of processes on this machine: what was asked for, or as many as torchrun has started."""
    if not torch.distributed.is_torchelastic_launched():
        return devices
    started = int(os.environ["LOCAL_WORLD_SIZE"])
    if int(os.environ["WORLD_SIZE"]) != started:
        raise OptionError("torchrun on several machines: train on one, with --nnodes 1")
    if devices not in (1, started):
        raise OptionError(f"--devices {devices}: torchrun starts {started}; leave --devices out")
    return started


def choose_hardware(accelerator: str, devices: int, precision: str) -> dict[str, Any]:
    """The Trainer's arguments for what was asked for.

    Raises:
        OptionError: this machine lacks it.
    """
    gpus = torch.cuda.device_count() or int(torch.backends.mps.is_available())
    if accelerator == "gpu" and not gpus:
        raise OptionError(f"--accelerator gpu: torch {torch.__version__} finds no GPU here; use --accelerator cpu")
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() or (gpus and precision != "64") else "cpu"
    if devices < 1:
        raise OptionError(f"--devices {devices}: it must be 1 or more")
    if accelerator == "gpu" and devices > gpus:
        raise OptionError(f"--devices {devices}: torch {torch.__version__} finds {gpus} GPU(s) here")
    if accelerator == "gpu" and precision == "64" and not torch.cuda.is_available():
        raise OptionError("--precision 64: this GPU has no 64-bit numbers; use --accelerator cpu")
    if precision == "tf32" and not (accelerator == "gpu" and _has_tf32()):
        raise OptionError("--precision tf32: only NVIDIA's GPUs have it, from Ampere on; use --precision 32")
    return {"accelerator": accelerator, "devices": devices, "precision": _PRECISIONS[precision]}


def _has_tf32() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def choose_engine(
    engine: str,
    classifier: "DigitClassifier",
    datamodule: "DigitsDataModule",
    epochs: int,
    hardware: dict[str, Any],
    block_size: int = BLOCK_SIZE,
) -> "tuple[DigitClassifier, str]":
    """The classifier of the engine that was asked for, already compiled, or of the one that suits; and which, and why.

    The data module is set to give it what it takes: for the compiled engine, blocks of
    at most `block_size` mini-batches.

    Raises:
        OptionError: the compiled engine was asked for, and cannot be had.
    """
    updates = epochs * len(datamodule.train_dataloader())
    obstacle = obstacle_to_compiling(hardware)
    if engine == "auto" and not obstacle and updates < UPDATES_WORTH_COMPILING:
        return classifier, f"eager, as {updates:,} updates do not earn a compilation back"
    if engine == "eager":
        return classifier, "eager"
    if not obstacle:
        start = time.perf_counter()
        datamodule.block_size = block_size
        try:
            compiled = _compiled(classifier, datamodule, "cuda" if hardware["accelerator"] == "gpu" else "cpu")
        except Exception as error:  # whatever it is, the eager engine can do without
            datamodule.block_size = None
            obstacle = f"torch could not compile: {root_cause(error)}"
        else:
            return compiled, f"compiled, in {time.perf_counter() - start:.1f} s"
    if engine == "compiled":
        raise OptionError(f"--engine compiled: {obstacle}; use --engine eager")
    return classifier, f"eager, not compiled: {obstacle}"


def obstacle_to_compiling(hardware: dict[str, Any]) -> str:
    """What the compiled engine lacks for the hardware and precision of `choose_hardware`, or nothing."""
    if hardware["devices"] > 1:
        return "it takes one device"
    if hardware["precision"] == "bf16-mixed":
        return "it takes 32 or 64 bits"
    if hardware["accelerator"] == "gpu" and not torch.cuda.is_available():
        return "of GPUs it takes those with CUDA"
    return ""


def _compiled(classifier: "DigitClassifier", datamodule: "DigitsDataModule", device: str) -> "CompiledDigitClassifier":
    """The same network on the compiled engine, after its compilation; `device` is where it will be trained."""
    from torchdigits.classifier import CompiledDigitClassifier

    compiled = CompiledDigitClassifier(classifier.network.sizes, classifier.learning_rate)
    compiled.load_state_dict(classifier.state_dict())
    compiled.to(device, torch.get_default_dtype())
    images, labels = next(iter(datamodule.train_dataloader()))
    parameters = {name: parameter.detach() for name, parameter in compiled.network.named_parameters()}
    compiled.train_block(parameters, (images.to(device), labels.to(device)))
    return compiled


def root_cause(error: BaseException) -> str:
    """The first line of what an exception came from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


@contextmanager
def torch_settings(products: int, dtype: torch.dtype) -> Iterator[None]:
    """What a run needs of torch's settings, all of which are given back as they were.

    One CPU thread if a mini-batch takes few products: several are slower then, and round otherwise. Deterministic
    algorithms, as Lightning's Trainer will set them; but new memory is not filled with NaN first, as torch does then:
    it takes as long as an update. All of this now, and the default type: a change later would compile everything again.
    """
    memory: Any = torch.utils.deterministic
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filled, default_dtype = memory.fill_uninitialized_memory, torch.get_default_dtype()
    if products < _PRODUCTS_WORTH_THREADS:
        torch.set_num_threads(1)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # Lightning sets it too, but only with the Trainer
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        memory.fill_uninitialized_memory = filled
        torch.set_default_dtype(default_dtype)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's tips, lists of hardware, and warnings that a user of train() can do nothing about.

    Nor with the one of torch's compiler about machines with CUDA's tools and no GPU.
    """
    names = dict.fromkeys(("lightning.pytorch", "lightning.fabric", "torch.utils.cpp_extension"), logging.ERROR)
    names["torch._inductor"] = logging.CRITICAL + 1  # what it could not compile, choose_engine says
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name, level in names.items():
            logging.getLogger(name).setLevel(level)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", "Error detected in ")  # of a backward pass that Ctrl-C has ended
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def versions_here() -> dict[str, str]:
    """The versions of what a run's result depends on."""
    packages = ("torchvision", "lightning", "numpy", "scikit-learn", "pillow")
    own = {"torchdigits": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    return own | {name: metadata.version(name) for name in packages}


def device_of(accelerator: str) -> str:
    """In torch's words, what the Trainer's argument chooses on this machine."""
    if accelerator == "cpu":
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "mps"


def device_name(accelerator: str) -> str:
    """What computes: the GPU's name, or the processor's where the system tells it."""
    if accelerator == "gpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
