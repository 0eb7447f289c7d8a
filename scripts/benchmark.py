"""Measure what an epoch takes, here and elsewhere, side by side: python scripts/benchmark.py"""

import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from json import dumps
from pathlib import Path
from statistics import median
from typing import Any, Literal

import programs
from contenders import Run, Setting, compiled_loop, engine, lightning_example, numpy_by_mini_batch, plain, seconds

from torchdigits.commands.cli import main
from torchdigits.errors import OptionError
from torchdigits.figures import FIGURE_SUFFIXES
from torchdigits.files.writing import check_new_file

# In the order of the table; the first is what the others are compared with.
CONTENDERS: dict[str, tuple[str, Callable[[Setting], Run]]] = {
    "numpy-example": ("the original's way: NumPy, an example at a time", partial(plain, programs.numpy_by_example)),
    "numpy": ("NumPy, a mini-batch at a time, float32", numpy_by_mini_batch),
    "lightning": ("Lightning as its examples show it", lightning_example),
    "pytorch": ("plain PyTorch loop", lambda setting: plain(partial(programs.pytorch, device=setting.device), setting)),
    "eager": ("eager engine, in the Trainer", lambda setting: engine(setting, compiled=False)),
    "compiled": ("compiled engine, in the Trainer", lambda setting: engine(setting, compiled=True)),
    "compiled-loop": ("compiled engine, the updates alone", compiled_loop),
    "jax": ("JAX, scan over shuffled floats", partial(plain, partial(programs.jax, gather=False))),
    "jax-bytes": ("JAX, scan that gathers bytes", partial(plain, programs.jax)),
}


# JAX takes part where it is installed.
DEFAULT = tuple(name for name in CONTENDERS if not name.startswith("jax") or find_spec("jax"))


def benchmark(
    *,
    only: tuple[str, ...] = DEFAULT,
    epochs: int = 5,
    threads: int = 1,
    hidden: tuple[int, ...] = (30,),
    batch_size: int = 10,
    dataset: Literal["mnist", "digits"] = "mnist",
    data_dir: Path | None = None,
    accelerator: Literal["cpu", "gpu"] = "cpu",
    json: Path | None = None,
    figure: Path | None = None,
) -> None:
    """Time an epoch of training in several programs, in turns, and show their medians.

    All start from the same weights and take the same mini-batches at learning rate 3.0. The first epoch of each, in
    which JAX compiles, is not counted. The two engines in the Trainer validate and write two checkpoints in each epoch.

    Args:
        only: contenders: numpy-example, numpy, lightning, pytorch, eager, compiled, compiled-loop, jax, jax-bytes.
        epochs: how many are timed, of each contender.
        threads: CPU cores and threads that all are pinned to.
        hidden: neurons in each hidden layer.
        batch_size: images in a mini-batch.
        dataset: mnist, or the small digits that come with scikit-learn.
        data_dir: the folder of MNIST (default: $TORCHDIGITS_DATA_DIR, else data).
        accelerator: where those train that can train on a GPU.
        json: a file to write all figures to.
        figure: a file to draw the medians in, .png, .svg or .pdf.

    Raises:
        OptionError: an option that makes no sense, or a contender that cannot run here.
        DataError: the dataset cannot be had.
    """
    check(only, (epochs, threads, batch_size, *hidden), json, figure)
    cores = pin(threads)

    import lightning  # noqa: F401  here, since importing it makes its loggers talkative again
    import torch

    from torchdigits.data.datasets import load_splits
    from torchdigits.engines.machine import quiet
    from torchdigits.network import SigmoidMLP

    if accelerator == "gpu" and not torch.cuda.is_available():
        raise OptionError(f"--accelerator gpu: torch {torch.__version__} finds no GPU with CUDA here")
    torch.set_num_threads(threads)
    splits = load_splits(dataset, data_dir)
    torch.manual_seed(programs.SEED)
    machine = describe(cores, threads, accelerator)
    print("\n".join(f"{key}: {value}" for key, value in machine.items()), flush=True)
    with tempfile.TemporaryDirectory() as folder, quiet():
        network, device = SigmoidMLP((784, *hidden, 10)), "cuda" if accelerator == "gpu" else "cpu"
        setting = Setting(splits, network, batch_size, device, Path(folder))
        rows = measure(setting, only, epochs)
    show(rows)
    if json is not None:
        options: dict[str, Any] = {"epochs": epochs, "threads": threads, "dataset": dataset, "accelerator": accelerator}
        options |= {"hidden": hidden, "batch_size": batch_size}
        json.write_text(dumps({"machine": machine, "options": options, "rows": rows}, indent=2) + "\n")
    if figure is not None:
        draw(rows, f"{machine['processor']}, {machine['cores used']} of its cores", figure)


def measure(setting: Setting, only: tuple[str, ...], epochs: int) -> list[dict[str, Any]]:
    """Time the contenders in turns; a row for each."""
    from torchdigits.proof.reference import columns

    runs = {name: start(name, setting) for name in only}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(1 + epochs):
        for name, run in runs.items():
            note(f"epoch {number} of {epochs}: {name}")
            with told_if_it_cannot_run(name):  # a plain program imports what it needs in its first epoch
                times[name].append(seconds(setting, partial(run.epoch, number)))
    note("")
    x, labels = columns(setting.splits.test.images.numpy()), setting.splits.test.labels.numpy()
    return [
        {
            "name": name,
            "what": CONTENDERS[name][0],
            "compile_seconds": run.compile_seconds,
            "epoch_seconds": times[name][1:],
            "median": median(times[name][1:]),
            "test": {"correct": recognised(run.weights(), x, labels), "total": len(labels)},
        }
        for name, run in runs.items()
    ]


def check(only: tuple[str, ...], counts: tuple[int, ...], *files: Path | None) -> None:
    """Refuse what cannot be done before anything takes time."""
    unknown = [name for name in only if name not in CONTENDERS]
    if unknown or not only:
        raise OptionError(f"{' '.join(('--only', *unknown))}: choose from {' '.join(CONTENDERS)}")
    if len(set(only)) < len(only):
        raise OptionError(f"--only {' '.join(only)}: each may be named once")
    for name, value in zip(("epochs", "threads", "batch-size", *["hidden"] * len(counts)), counts, strict=False):
        if value < 1:
            raise OptionError(f"--{name} {value}: it must be 1 or more")
    for file, option, suffixes in zip(files, ("--json", "--figure"), ((".json",), FIGURE_SUFFIXES), strict=True):
        if file is not None:
            check_new_file(option, file, suffixes)


def pin(threads: int) -> int:
    """Hold this process to so many cores and threads, before a numerical library is loaded; the number of cores."""
    count = os.cpu_count() or 1
    if threads > count:
        raise OptionError(f"--threads {threads}: there are {count} cores here")
    for library in ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM"):
        os.environ[f"{library}_NUM_THREADS"] = str(threads)
    if not hasattr(os, "sched_setaffinity"):
        return count
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    return threads


def start(name: str, setting: Setting) -> Run:
    """A contender, compiled with nothing in a cache."""
    note(f"starting {name}")
    os.environ["XDG_CACHE_HOME"] = os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(dir=setting.folder)
    with told_if_it_cannot_run(name):
        return CONTENDERS[name][1](setting)


@contextmanager
def told_if_it_cannot_run(name: str) -> Iterator[None]:
    from torchdigits.errors import root_cause

    try:
        yield
    except Exception as error:
        hint = "pip install -e '.[bench]', or " if name.startswith("jax") else ""
        raise OptionError(f"{name} cannot run here ({root_cause(error)}): {hint}choose others with --only") from error


def note(text: str) -> None:
    """Say on a terminal what is going on, over what was said before."""
    if sys.stderr.isatty():
        print(f"\r{text:<40}\r", end="", file=sys.stderr, flush=True)


def recognised(weights: list[Any], x: Any, labels: Any) -> int:
    """How many test images the reference recognises with these weights."""
    from torchdigits.proof.reference import Network

    twin = Network([array.shape[1] for array in weights[0::2]] + [10])
    twin.weights, twin.biases = weights[0::2], [biases[:, None] for biases in weights[1::2]]
    return twin.evaluate(x, labels)


def describe(cores: int, threads: int, accelerator: str) -> dict[str, Any]:
    """The machine and the versions."""
    from torchdigits.engines.machine import find_machine

    processor = find_machine("cpu").name
    if accelerator == "gpu":
        processor += f" and {find_machine('gpu').name}"
    machine = {"processor": processor, "cores": os.cpu_count(), "cores used": cores, "threads": threads}
    machine |= {"system": platform.platform(), "python": platform.python_version()}
    for package in ("torch", "lightning", "numpy", "jax"):
        try:
            machine[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return machine


def show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("an epoch of training", no_wrap=True)
    for heading in ("median, s", "min", "max", f"x {rows[0]['name']}", "compiling, s", "test images"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        cells = [f"{value:.3f}" for value in (row["median"], min(row["epoch_seconds"]), max(row["epoch_seconds"]))]
        ratio = f"{row['median'] / rows[0]['median']:.3f}"
        compiling = "" if row["compile_seconds"] is None else f"{row['compile_seconds']:.1f}"
        table.add_row(row["what"], *cells, ratio, compiling, f"{row['test']['correct']} / {row['test']['total']}")
    Console(width=130).print(table)
    print("Compiling: with an empty cache.")


def draw(rows: list[dict[str, Any]], machine: str, file: Path) -> None:
    """The medians as bars, on a logarithmic scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.6 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names, values = [row["what"] for row in rows], [row["median"] for row in rows]
    colours = ["#0072b2" if row["name"].startswith(("eager", "compiled")) else "#999999" for row in rows]
    axes.bar_label(axes.barh(names, values, color=colours), [f"{value:.2f} s" for value in values], padding=4)
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 2, max(values) * 3)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("seconds an epoch (log scale)")
    axes.set_title(f"An epoch of training, by program: {machine}", loc="left", fontsize=10)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main(benchmark)
