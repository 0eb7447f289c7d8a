"""Measure what an epoch takes, here and elsewhere, side by side: python scripts/benchmark.py"""

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from json import dumps
from pathlib import Path
from statistics import median
from typing import Any, Literal

from contenders import (
    SEED,
    Run,
    Setting,
    compiled_loop,
    engine,
    jax_scan,
    lightning_example,
    numpy_by_example,
    numpy_by_mini_batch,
    pytorch_loop,
    seconds,
)

from torchdigits.commands.cli import main
from torchdigits.errors import OptionError
from torchdigits.figures import FIGURE_SUFFIXES
from torchdigits.files.writing import check_new_file

# In the order of the table; the first is what the others are compared with.
CONTENDERS: dict[str, tuple[str, Callable[[Setting], Run]]] = {
    "numpy-example": ("the original's way: NumPy, an example at a time", numpy_by_example),
    "numpy": ("NumPy, a mini-batch at a time, float32", numpy_by_mini_batch),
    "lightning": ("Lightning as its examples show it", lightning_example),
    "pytorch": ("plain PyTorch loop", pytorch_loop),
    "eager": ("eager engine, in the Trainer", lambda setting: engine(setting, compiled=False)),
    "compiled": ("compiled engine, in the Trainer", lambda setting: engine(setting, compiled=True)),
    "compiled-loop": ("compiled engine, the updates alone", compiled_loop),
    "jax": ("JAX, scan over shuffled floats", lambda setting: jax_scan(setting, gather=False)),
    "jax-bytes": ("JAX, scan that gathers bytes", lambda setting: jax_scan(setting, gather=True)),
}


# JAX takes part where it is installed.
DEFAULT = tuple(name for name in CONTENDERS if not name.startswith("jax") or find_spec("jax"))
# From the shell: the same, and in all else whole_runs.py; the population's seconds are those of a network and epoch.
WHOLE_RUNS = {
    "numpy-example": "the original's way: NumPy, an example at a time",
    "lightning": "Lightning as its examples show it",
    "pytorch": "plain PyTorch loop",
    "jax": "JAX, scan that gathers bytes",
    "train": "torchdigits train",
    "jax-vmap": "JAX, vmap of 32 networks, seconds a network and epoch",
    "sweep": "torchdigits sweep of 32 networks, seconds a network and epoch",
}
NETWORKS = 32


def benchmark(
    *,
    only: tuple[str, ...] = DEFAULT,
    epochs: int = 5,
    threads: int = 1,
    dataset: Literal["mnist", "digits"] = "mnist",
    data_dir: Path | None = None,
    accelerator: Literal["cpu", "gpu"] = "cpu",
    whole: tuple[str, ...] = (),
    json: Path | None = None,
    figure: Path | None = None,
) -> None:
    """Time an epoch of the 784-30-10 network in several programs, in turns, and show their medians.

    All start from the same weights and take mini-batches of 10 at learning rate 3.0. The first epoch of each is not
    counted. The two engines in the Trainer validate and write two checkpoints in each epoch.

    With --whole, programs are timed instead from the shell to the test accuracy, each in a process of its own on all
    cores, after as many epochs as --epochs says: with nothing kept from before, and twice more.

    Args:
        only: contenders: numpy-example, numpy, lightning, pytorch, eager, compiled, compiled-loop, jax, jax-bytes.
        epochs: how many are timed, of each contender.
        threads: CPU cores and threads that all are pinned to.
        dataset: mnist, or the small digits that come with scikit-learn.
        data_dir: the folder of MNIST (default: $TORCHDIGITS_DATA_DIR, else data).
        accelerator: where those train that can train on a GPU.
        whole: programs: numpy-example, lightning, pytorch, jax, train; of 32 networks at once, jax-vmap, sweep.
        json: a file to write all figures to.
        figure: a file to draw the medians in, .png, .svg or .pdf.

    Raises:
        OptionError: an option that makes no sense, or a contender that cannot run here.
        DataError: the dataset cannot be had.
    """
    check(only, whole, epochs, threads, json, figure)
    if whole:
        time_whole_runs(whole, epochs, dataset, data_dir, json)
        return
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
    torch.manual_seed(SEED)
    machine = describe(cores, threads, accelerator)
    print("\n".join(f"{key}: {value}" for key, value in machine.items()), flush=True)
    with tempfile.TemporaryDirectory() as folder, quiet():
        setting = Setting(splits, SigmoidMLP(), "cuda" if accelerator == "gpu" else "cpu", Path(folder))
        rows = measure(setting, only, epochs)
    show(rows)
    if json is not None:
        options = {"epochs": epochs, "threads": threads, "dataset": dataset, "accelerator": accelerator}
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


def time_whole_runs(
    names: tuple[str, ...], epochs: int, dataset: str, data_dir: Path | None, json: Path | None
) -> None:
    """Time programs in turns: once with nothing kept from before, and twice more."""
    folder = data_dir or Path(os.environ.get("TORCHDIGITS_DATA_DIR") or "data")
    rows: dict[str, dict[str, Any]] = {name: {"name": name, "what": WHOLE_RUNS[name], "seconds": []} for name in names}
    with tempfile.TemporaryDirectory() as place:
        for _ in range(3):
            for name, row in rows.items():
                note(f"running {name}")
                row["seconds"].append(whole_run(name, epochs, dataset, folder.resolve(), Path(place), row))
    note("")
    print(f"{'from the shell to the test accuracy':<64} first, s  again, s  peak, MB  test images")
    for row in rows.values():
        first, *again = row["seconds"]
        print(f"{row['what']:<64} {first:8.3f}  {min(again):8.3f}  {row['peak_mb']:8.0f}  {row['test']}")
    if json is not None:
        options = {"epochs": epochs, "dataset": dataset}
        json.write_text(dumps({"options": options, "rows": [*rows.values()]}, indent=2) + "\n")


def whole_run(name: str, epochs: int, dataset: str, folder: Path, place: Path, row: dict[str, Any]) -> float:
    """Seconds that a program takes; its test images and peak of memory go into the row."""
    scripts, own = Path(__file__).resolve().parent, place / name
    own.mkdir(exist_ok=True)
    if name in {"train", "sweep"}:
        seeds = ["--seeds", str(NETWORKS)] if name == "sweep" else []
        options = ["--dataset", dataset, "--data-dir", str(folder), "--epochs", str(epochs), "--accelerator", "cpu"]
        output = ["--output", str(own / str(time.time_ns())) if seeds else str(own)]
        command = [str(scripts / f"{name}.py"), *options, *seeds, *output]
    else:
        command = [str(scripts / "whole_runs.py"), name, dataset, str(folder), str(epochs)]
    environment = os.environ | {"XDG_CACHE_HOME": str(own), "TORCHINDUCTOR_CACHE_DIR": str(own / "inductor")}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=own,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    if status:
        raise OptionError(f"{name} cannot run here: choose others with --whole")
    row["peak_mb"] = max(row.get("peak_mb", 0), usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
    found = re.search(r"^Test: (.*?)(?: with|$)", printed, re.MULTILINE)
    row["test"] = found[1] if found else ""
    return took / (NETWORKS * epochs) if name in {"jax-vmap", "sweep"} else took


def check(only: tuple[str, ...], whole: tuple[str, ...], epochs: int, threads: int, *files: Path | None) -> None:
    """Refuse what cannot be done before anything takes time."""
    for option, names, known in (("--only", only, [*CONTENDERS]), ("--whole", whole, [*WHOLE_RUNS])):
        unknown = [name for name in names if name not in known]
        if unknown or (option == "--only" and not only):
            raise OptionError(f"{' '.join((option, *unknown))}: choose from {' '.join(known)}")
        if len(set(names)) < len(names):
            raise OptionError(f"{option} {' '.join(names)}: each may be named once")
    for name, value in (("epochs", epochs), ("threads", threads)):
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
    from torchdigits.errors import root_cause

    note(f"starting {name}")
    os.environ["XDG_CACHE_HOME"] = os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(dir=setting.folder)
    try:
        return CONTENDERS[name][1](setting)
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
    print(
        "Compiling: with an empty cache. The second of the compiled engine's rows finds much of the first's in memory."
    )


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
