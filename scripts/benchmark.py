"""Measure what an epoch takes, here and elsewhere, side by side: python scripts/benchmark.py"""

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from json import dumps
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple, cast

from torchdigits.commands.cli import main
from torchdigits.errors import OptionError
from torchdigits.figures import FIGURE_SUFFIXES
from torchdigits.files.writing import check_new_file

LEARNING_RATE, BATCH_SIZE, SEED = 3.0, 10, 0


class Run(NamedTuple):
    """A contender, compiled and ready."""

    epoch: Callable[[int], float | None]  # train the epoch of this number; seconds, where it measures them itself
    weights: Callable[[], list[Any]]  # as they are now: arrays (outputs, inputs) and (outputs,), layer by layer
    compile_seconds: float | None = None


class Setting(NamedTuple):
    """What all contenders have in common: the data, the first weights, and where to train."""

    splits: Any
    network: Any
    device: str
    folder: Path

    def order(self, epoch: int) -> Any:
        """The order `(N,)` of an epoch's images."""
        from torchdigits.data.batches import epoch_order

        return epoch_order(len(self.splits.training.labels), SEED, epoch)

    def mini_batches(self, epoch: int) -> Any:
        return self.order(epoch).split(BATCH_SIZE)


def lightning_example(setting: Setting) -> Run:
    """A torchvision dataset, transformed and collated an image at a time; a metric logged in every step."""
    import lightning as L
    import torch
    from torchvision.datasets import VisionDataset
    from torchvision.transforms.functional import to_tensor

    from torchdigits.network import quadratic_cost

    class Images(VisionDataset):  # type: ignore[misc]
        """As torchvision's MNIST gives its images: from an array to a Pillow image to a tensor."""

        def __init__(self) -> None:
            super().__init__("", transform=to_tensor)

        def __len__(self) -> int:
            return len(setting.splits.training.labels)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            from PIL import Image

            images, labels = setting.splits.training
            picture = Image.fromarray(images[index].view(28, 28).numpy())
            assert self.transform is not None
            return self.transform(picture), int(labels[index])

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = deepcopy(setting.network)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            images, labels = batch
            cost = quadratic_cost(self.network(images.flatten(1)), labels)
            self.log("training_cost", cost)
            return cost

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE)

    module = Module()
    generator = torch.Generator().manual_seed(SEED)
    loader: Any = torch.utils.data.DataLoader(Images(), batch_size=BATCH_SIZE, shuffle=True, generator=generator)
    fit = trainer(setting, [])
    return Run(partial(fit, module, loader), lambda: arrays(module.network))


def numpy_by_example(setting: Setting) -> Run:
    """As the original: float64, the gradient of one example after the other, summed."""
    from torchdigits.proof import gradients, reference

    twin = gradients.reference_of(setting.network)
    x = reference.columns(setting.splits.training.images.numpy())
    y = reference.one_hot(setting.splits.training.labels.numpy())

    def epoch(number: int) -> None:
        for chosen in setting.mini_batches(number):
            nabla_w, nabla_b = zip(*(twin.backprop(x[:, i, None], y[:, i, None]) for i in chosen.tolist()), strict=True)
            step = LEARNING_RATE / len(chosen)
            # By layers instead of by examples
            sums_w, sums_b = ([sum(layer) for layer in zip(*nablas, strict=True)] for nablas in (nabla_w, nabla_b))
            twin.weights = [w - step * nabla for w, nabla in zip(twin.weights, sums_w, strict=True)]
            twin.biases = [b - step * nabla for b, nabla in zip(twin.biases, sums_b, strict=True)]

    return Run(epoch, lambda: interleaved(twin.weights, twin.biases))


def numpy_by_mini_batch(setting: Setting) -> Run:
    """The reference in float32, its matrix products over a mini-batch."""
    import numpy as np

    from torchdigits.proof import gradients, reference

    twin = gradients.reference_of(setting.network)
    weights, biases = ([a.astype(np.float32) for a in values] for values in (twin.weights, twin.biases))
    twin.weights, twin.biases = cast("list[reference.Array]", weights), cast("list[reference.Array]", biases)
    images = reference.columns(setting.splits.training.images.numpy()).T.astype(np.float32)
    targets = reference.one_hot(setting.splits.training.labels.numpy()).T.astype(np.float32)

    def epoch(number: int) -> None:
        for chosen in setting.mini_batches(number):
            twin.update_mini_batch(images[chosen.numpy()].T, targets[chosen.numpy()].T, LEARNING_RATE)

    return Run(epoch, lambda: interleaved(twin.weights, twin.biases))


def pytorch_loop(setting: Setting) -> Run:
    """Autograd and torch.optim.SGD in a loop, on tensors in memory."""
    import torch

    from torchdigits.network import quadratic_cost

    network = deepcopy(setting.network).to(setting.device)
    images = setting.splits.training.images.to(setting.device).float() / 255
    labels = setting.splits.training.labels.to(setting.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)

    def epoch(number: int) -> None:
        order = setting.order(number).to(setting.device)
        for chosen in order.split(BATCH_SIZE):
            optimizer.zero_grad()
            cost: Any = quadratic_cost(network(images[chosen]), labels[chosen])
            cost.backward()
            optimizer.step()

    return Run(epoch, lambda: arrays(network))


def engine(setting: Setting, *, compiled: bool) -> Run:
    """An engine of torchdigits in Lightning's Trainer, with validation and two checkpoints an epoch, as in train.py."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    from torchdigits import CompiledDigitClassifier, DigitClassifier, DigitsDataModule
    from torchdigits.engines.choice import BLOCK_SIZE

    kind = CompiledDigitClassifier if compiled else DigitClassifier
    classifier = kind(setting.network.sizes, LEARNING_RATE)
    classifier.network.load_state_dict(setting.network.state_dict())
    module = DigitsDataModule(setting.splits, None, BATCH_SIZE, SEED, BLOCK_SIZE if compiled else None)
    compile_seconds = None
    if isinstance(classifier, CompiledDigitClassifier):
        classifier.to(setting.device)
        images, labels = next(iter(module.train_dataloader()))
        block = images.to(setting.device), labels.to(setting.device)
        compile_seconds = seconds(setting, lambda: classifier.train_block(parameters_of(classifier.network), block))
    best = ModelCheckpoint(setting.folder, f"{kind.__name__}-best", monitor="validation_accuracy", mode="max")
    last = ModelCheckpoint(setting.folder, f"{kind.__name__}-last", enable_version_counter=False)
    fit = trainer(setting, [best, last])
    return Run(partial(fit, classifier, module), lambda: arrays(classifier.network), compile_seconds)


def compiled_loop(setting: Setting) -> Run:
    """The compiled engine's blocks without the Trainer: nothing but the updates."""
    import torch

    from torchdigits.data.batches import Blocks
    from torchdigits.engines.choice import BLOCK_SIZE
    from torchdigits.engines.compiler import compiled_sgd, sgd_loop, sgd_update

    network = deepcopy(setting.network).to(setting.device)
    update = partial(sgd_update, network, LEARNING_RATE)
    train = compiled_sgd(update, torch.device(setting.device))
    blocks = Blocks(setting.splits.training, BATCH_SIZE, SEED, setting.device, BLOCK_SIZE)
    first = next(iter(blocks))
    parameters = parameters_of(network)

    @torch.no_grad()
    def epoch(number: int) -> None:
        nonlocal parameters
        blocks.set_epoch(number)
        for block in blocks:
            if block[0].shape == first[0].shape:
                parameters, _ = train(parameters, block)
            else:
                parameters, _ = sgd_loop(update, parameters, block)

    with torch.no_grad():
        compile_seconds = seconds(setting, lambda: train(parameters, first))
    return Run(epoch, lambda: [value.cpu().numpy() for value in parameters.values()], compile_seconds)


def jax_scan(setting: Setting, *, gather: bool) -> Run:
    """`jit` of a `lax.scan` over an epoch's mini-batches.

    Either of floats shuffled outside, the usual way, or with the bytes of a mini-batch gathered inside the scan.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    training = setting.splits.training
    full = len(training.labels) // BATCH_SIZE * BATCH_SIZE
    pixels, labels = training.images.numpy(), training.labels.numpy().astype(np.int32)
    images = pixels.astype(np.float32) / 255
    state = [jnp.asarray(value) for value in arrays(setting.network)]

    def cost(state: Any, images: Any, labels: Any) -> Any:
        for weights, biases in zip(state[0::2], state[1::2], strict=True):
            images = jax.nn.sigmoid(images @ weights.T + biases)
        return jnp.sum((images - jax.nn.one_hot(labels, images.shape[1])) ** 2) / (2 * len(images))

    def update(state: Any, mini_batch: Any) -> tuple[Any, None]:
        gradients = jax.grad(cost)(state, *mini_batch)
        return jax.tree.map(lambda value, gradient: value - LEARNING_RATE * gradient, state, gradients), None

    held = jnp.asarray(pixels), jnp.asarray(labels)

    def gathered(held: Any, chosen: Any) -> Any:
        return held[0][chosen].astype(jnp.float32) / 255, held[1][chosen]

    scan = jax.jit(lambda state, mini_batches: jax.lax.scan(update, state, mini_batches)[0])
    gathering_scan = jax.jit(
        lambda state, held, order: jax.lax.scan(lambda s, chosen: update(s, gathered(held, chosen)), state, order)[0]
    )

    def epoch(number: int) -> None:
        nonlocal state
        order = setting.order(number).numpy()
        chosen, rest = order[:full].reshape(-1, BATCH_SIZE), order[full:]
        if gather:
            state = gathering_scan(state, held, chosen)
        else:
            state = scan(state, (images[chosen.ravel()].reshape(*chosen.shape, -1), labels[chosen]))
        if len(rest):
            state, _ = update(state, (images[rest], labels[rest]))
        jax.block_until_ready(state)  # type: ignore[no-untyped-call,unused-ignore]

    start = time.perf_counter()
    order = setting.order(0).numpy()[:full].reshape(-1, BATCH_SIZE)
    if gather:
        gathering_scan.lower(state, held, order).compile()
    else:
        scan.lower(state, (np.zeros((*order.shape, images.shape[1]), np.float32), labels[order])).compile()
    return Run(epoch, lambda: [np.asarray(value) for value in state], time.perf_counter() - start)


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


def benchmark(
    *,
    only: tuple[str, ...] = DEFAULT,
    epochs: int = 5,
    threads: int = 1,
    dataset: Literal["mnist", "digits"] = "mnist",
    data_dir: Path | None = None,
    accelerator: Literal["cpu", "gpu"] = "cpu",
    json: Path | None = None,
    figure: Path | None = None,
) -> None:
    """Time an epoch of the 784-30-10 network in several programs, in turns, and show their medians.

    All start from the same weights and take mini-batches of 10 at learning rate 3.0. The first epoch of each is not
    counted. The two engines in the Trainer validate and write two checkpoints in each epoch.

    Args:
        only: contenders: numpy-example, numpy, lightning, pytorch, eager, compiled, compiled-loop, jax, jax-bytes.
        epochs: how many are timed, of each contender.
        threads: CPU cores and threads that all are pinned to.
        dataset: mnist, or the small digits that come with scikit-learn.
        data_dir: the folder of MNIST (default: $TORCHDIGITS_DATA_DIR, else data).
        accelerator: where those train that can train on a GPU.
        json: a file to write all figures to.
        figure: a file to draw the medians in, .png, .svg or .pdf.

    Raises:
        OptionError: an option that makes no sense, or a contender that cannot run here.
        DataError: the dataset cannot be had.
    """
    check(only, epochs, threads, json, figure)
    cores = pin(threads)

    import lightning  # noqa: F401  here, since importing it makes its loggers talkative again
    import torch

    from torchdigits.data.datasets import load_splits
    from torchdigits.engines.machine import quiet
    from torchdigits.network import SigmoidMLP
    from torchdigits.proof.reference import columns

    if accelerator == "gpu" and not torch.cuda.is_available():
        raise OptionError(f"--accelerator gpu: torch {torch.__version__} finds no GPU with CUDA here")
    torch.set_num_threads(threads)
    splits = load_splits(dataset, data_dir)
    torch.manual_seed(SEED)
    machine = describe(cores, threads, accelerator)
    print("\n".join(f"{key}: {value}" for key, value in machine.items()), flush=True)
    x, labels = columns(splits.test.images.numpy()), splits.test.labels.numpy()
    rows = []
    with tempfile.TemporaryDirectory() as folder, quiet():
        setting = Setting(splits, SigmoidMLP(), "cuda" if accelerator == "gpu" else "cpu", Path(folder))
        runs = {name: start(name, setting) for name in only}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(1 + epochs):
            for name, run in runs.items():
                note(f"epoch {number} of {epochs}: {name}")
                times[name].append(seconds(setting, partial(run.epoch, number)))
        for name, run in runs.items():
            note("")
            correct = recognised(run.weights(), x, labels)
            rows.append(
                {
                    "name": name,
                    "what": CONTENDERS[name][0],
                    "compile_seconds": run.compile_seconds,
                    "epoch_seconds": times[name][1:],
                    "median": median(times[name][1:]),
                    "test": {"correct": correct, "total": len(labels)},
                }
            )
    show(rows)
    if json is not None:
        options = {"epochs": epochs, "threads": threads, "dataset": dataset, "accelerator": accelerator}
        json.write_text(dumps({"machine": machine, "options": options, "rows": rows}, indent=2) + "\n")
    if figure is not None:
        draw(rows, f"{machine['processor']}, {machine['cores used']} of its cores", figure)


def check(only: tuple[str, ...], epochs: int, threads: int, *files: Path | None) -> None:
    """Refuse what cannot be done before anything takes time."""
    unknown = [name for name in only if name not in CONTENDERS]
    if unknown or not only:
        raise OptionError(f"{' '.join(('--only', *unknown))}: choose from {' '.join(CONTENDERS)}")
    if len(set(only)) < len(only):
        raise OptionError(f"--only {' '.join(only)}: each may be named once")
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
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(dir=setting.folder)
    try:
        return CONTENDERS[name][1](setting)
    except Exception as error:
        hint = "pip install -e '.[bench]', or " if name.startswith("jax") else ""
        raise OptionError(f"{name} cannot run here ({root_cause(error)}): {hint}choose others with --only") from error


def note(text: str) -> None:
    """Say on a terminal what is going on, over what was said before."""
    if sys.stderr.isatty():
        print(f"\r{text:<40}\r", end="", file=sys.stderr, flush=True)


def seconds(setting: Setting, work: Callable[[], Any]) -> float:
    """How long it takes; or what it says itself, if that is a number."""
    import torch

    began = time.perf_counter()
    answer = work()
    if setting.device == "cuda":
        torch.cuda.synchronize()
    return answer if isinstance(answer, float) else time.perf_counter() - began


def trainer(setting: Setting, callbacks: list[Any]) -> Callable[[Any, Any, int], float]:
    """A function that trains a module for the epoch of a number, and gives the seconds from its start to its end."""
    import lightning as L

    class Clock(L.Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            self.began = time.perf_counter()

        def on_train_end(self, *_: Any) -> None:
            self.ended = time.perf_counter()

    clock = Clock()
    trainer = L.Trainer(
        accelerator="gpu" if setting.device == "cuda" else "cpu",
        devices=1,
        callbacks=[clock, *callbacks],
        logger=False,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )

    def fit(module: Any, data: Any, number: int) -> float:
        trainer.fit_loop.max_epochs = number + 1
        trainer.fit(module, data)
        return clock.ended - clock.began

    return fit


def arrays(network: Any) -> list[Any]:
    return [parameter.detach().cpu().numpy().copy() for parameter in network.parameters()]


def parameters_of(network: Any) -> dict[str, Any]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def interleaved(weights: list[Any], biases: list[Any]) -> list[Any]:
    return [array for pair in zip(weights, (b[:, 0] for b in biases), strict=True) for array in pair]


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
