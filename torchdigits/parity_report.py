"""What scripts/parity.py does: hold this machine's torch against the reference, and say what was found."""

import json as json_format
import sys
from dataclasses import asdict
from itertools import groupby
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from torchdigits.cli import FIGURE_SUFFIXES, OptionalInt, OptionalPath, check_new_file
from torchdigits.datasets import check_seed, epoch_order, load_splits
from torchdigits.errors import OptionError
from torchdigits.figures import Growth, plot_growth
from torchdigits.network import SigmoidMLP
from torchdigits.parity import Finding, Findings, check_gradients
from torchdigits.sgd import check_learning_rate
from torchdigits.training import (
    choose_hardware,
    device_name,
    device_of,
    obstacle_to_compiling,
    torch_settings,
    versions_here,
)

if TYPE_CHECKING:
    from torchdigits.whole_runs import Run

MINI_BATCHES = 100  # whose gradients are compared
_NAMES = {"64": "float64", "32": "float32", "tf32": "float32 by TF32 products", "bf16": "bfloat16, mixed"}


def parity(
    *,
    dataset: Literal["mnist", "digits"] = "mnist",
    data_dir: OptionalPath = None,
    hidden: tuple[int, ...] = (30,),
    batch_size: int = 10,
    learning_rate: tuple[float, ...] = (3.0,),
    seed: int = 0,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
    precision: tuple[Literal["64", "32", "tf32", "bf16"], ...] = ("64", "32"),
    engine: Literal["eager", "compiled"] = "eager",
    train: OptionalInt = None,
    in_step: OptionalInt = None,
    figure: OptionalPath = None,
    json: bool = False,
) -> None:
    """Hold torch on this machine against back-propagation by hand in NumPy.

    Without --train and --in-step it compares the gradients of 100 mini-batches, at a network's first weights. Where an
    error is larger than rounding explains, it says in which tensor, with the numbers, and ends with exit status 1.

    Args:
        dataset: mnist, or the 1,797 small digits that come with scikit-learn.
        data_dir: the folder of MNIST (default: $TORCHDIGITS_DATA_DIR, else data); downloaded where it is missing.
        hidden: neurons in each hidden layer.
        batch_size: images in a mini-batch.
        learning_rate: eta, for --train and --in-step; of several, each in turn.
        seed: of the first weights and of each epoch's order, as in train.py.
        accelerator: where torch computes; auto takes a GPU if there is one.
        precision: bits of torch's numbers, one or several. Errors of tf32 and bf16, and what --train finds in 32, are
            reported and not judged.
        engine: for --train and --in-step, as in train.py.
        train: epochs that torch and NumPy train from the same first weights, each with its own from there on.
        in_step: updates to take, each computed by torch and by NumPy from the same weights.
        figure: a file to draw how the weights of --train part, .png, .svg or .pdf.
        json: print one JSON object.

    Raises:
        OptionError: an option that makes no sense, or that this machine cannot honour.
        DataError: the dataset cannot be had.
        SystemExit: with status 1 where an error is larger than rounding explains.
    """
    options = {
        name: str(value) if name in ("data_dir", "figure") and value else value for name, value in locals().items()
    }
    for name, value in (("--batch-size", batch_size), ("--train", train), ("--in-step", in_step)):
        if value is not None and value < 1:
            raise OptionError(f"{name} {value}: it must be 1 or more")
    for name, values in (("--precision", precision), ("--learning-rate", learning_rate)):
        if not values:
            raise OptionError(f"{name}: name one or more")
    for rate in learning_rate:
        check_learning_rate(rate)
    check_seed(seed)
    if figure is not None:
        check_new_file("--figure", figure, FIGURE_SUFFIXES)
        if train is None or "64" not in precision:
            raise OptionError(f"--figure {figure}: it shows --train in --precision 64")
    if engine == "compiled" and train is None and in_step is None:
        raise OptionError("--engine compiled: it is for --train and --in-step")
    hardware = {bits: choose_hardware(accelerator, 1, bits) for bits in precision}
    for bits, chosen in hardware.items():
        if engine == "compiled" and (obstacle := obstacle_to_compiling(chosen)):
            raise OptionError(f"--engine compiled, --precision {bits}: {obstacle}; use --engine eager")
    torch.manual_seed(seed)
    network = SigmoidMLP((784, *hidden, 10))
    splits = load_splits(dataset, data_dir)
    batch_size = min(batch_size, len(splits.training.labels))
    what = f"{'-'.join(map(str, network.sizes))} on {dataset}, mini-batches of {batch_size}, seed {seed}"
    versions = versions_here()
    width = None if sys.stdout.isatty() else 100
    report = _Report(Console(quiet=json, highlight=False, markup=False, soft_wrap=True, width=width))
    report.say(f"{what}; torch {versions['torch']}, numpy {versions['numpy']}, Python {versions['python']}")
    curves = []
    for bits, trainer in hardware.items():
        place = f"{_NAMES[bits]} on {device_of(trainer['accelerator'])} ({device_name(trainer['accelerator'])})"
        if train is None and in_step is None:
            order = epoch_order(len(splits.training.labels), seed, 0)
            mini_batches = torch.split(order, batch_size)[:MINI_BATCHES]
            products = batch_size * sum(parameter.numel() for parameter in network.parameters())
            with torch_settings(products, torch.get_default_dtype()):
                findings = check_gradients(
                    network, splits.training, mini_batches, bits, device_of(trainer["accelerator"])
                )
            report.gradients(place, findings)
            continue
        from torchdigits.whole_runs import Run  # here, since it imports Lightning

        for rate in learning_rate:
            run = Run(splits, network.sizes, batch_size, rate, seed, engine, bits, trainer)
            if train is not None:
                curves += report.free_run(place, run, train)
            if in_step is not None:
                report.in_step(place, run, in_step)
    if json:
        whole = {"options": options, "versions": versions, "results": report.results, "broken": report.broken}
        print(json_format.dumps(_plain(whole)))
    for line in report.broken:
        print(f"broken: {line}", file=sys.stderr)
    if figure is not None:
        plot_growth(curves, f"How torch and NumPy part: {what}; float64, {engine} engine", figure)
    if report.broken:
        raise SystemExit(1)


class _Report:
    """Prints what is found, as it is found, and keeps it.

    Attributes:
        results: what JSON shows of it.
        broken: a line for each bound that was broken.
    """

    def __init__(self, console: Console) -> None:
        self.results: list[dict[str, Any]] = []
        self.broken: list[str] = []
        self._console = console

    def say(self, line: str) -> None:
        """Print a line now."""
        self._console.print(line)

    def gradients(self, place: str, findings: Findings) -> None:
        """The table of a check of gradients."""
        self.say(f"\nBack-propagation by torch and by hand, of {findings.comparisons} mini-batches; {place}")
        self._findings("gradients", place, findings, "mini-batch")

    def free_run(self, place: str, run: "Run", epochs: int) -> list[Growth]:
        """A free-running run, a line an epoch; gives the curve of a run in float64."""
        from torchdigits.whole_runs import Epoch, doubling, free_run

        name = f"{place}, {run.engine} engine, learning rate {run.learning_rate:g}"
        self.say(f"\nFrom the same weights over the same mini-batches, each by itself; {name}")
        self.say("        test images recognised      decided      largest difference of the weights")
        self.say("epoch        NumPy       torch    otherwise     torch   allowed   mirror image")

        def line(epoch: Epoch) -> None:
            allowed = "" if epoch.allowed is None else f"{epoch.allowed:.1e}"
            self.say(
                f"{epoch.epoch:5} {epoch.reference:12,} {epoch.torch:11,} {epoch.differing:12,}"
                f" {epoch.difference:9.1e} {allowed:>9} {epoch.mirrored:14.1e}"
            )

        found = free_run(run, epochs, line)
        # What follows the first comes from it.
        self.broken += [f"{name}, epoch {epoch.epoch}: {epoch.broken}" for epoch in found.epochs if epoch.broken][:1]
        doubled = doubling(found.updates, found.differences) if run.precision == "64" else None
        if doubled is not None:
            self.say(f"The difference doubles every {doubled:,.0f} updates, between 1e-14 and 1e-3.")
        label = f"learning rate {run.learning_rate:g}" + (f", doubling every {doubled:,.0f} updates" if doubled else "")
        curve = Growth(label, found.updates, found.differences, found.mirrored)
        lines = [epoch._asdict() for epoch in found.epochs]
        self.results.append(
            {"kind": "free run", "what": name, "epochs": lines, "doubling": doubled, "curve": curve._asdict()}
        )
        return [curve] if run.precision == "64" else []

    def in_step(self, place: str, run: "Run", updates: int) -> None:
        """A run in step, a line an epoch, and its table."""
        from torchdigits.whole_runs import Progress, in_step

        name = f"{place}, {run.engine} engine, learning rate {run.learning_rate:g}"
        self.say(f"\nUpdate by update from the same weights; {name}")

        def line(progress: Progress) -> None:
            worst = progress.findings.worst
            self.say(
                f"{progress.updates:,} updates: worst {worst.name} {worst.relative:.1e}{_allowed(worst)};"
                f" {progress.correct:,} / {progress.total:,} test"
            )

        self._findings("in step", name, in_step(run, updates, line), "update")

    def _findings(self, kind: str, what: str, findings: Findings, where: str) -> None:
        table = Table()
        for heading in ("tensor", "largest error", "ulps", "relative error", "allowed", where):
            table.add_column(heading, justify="left" if heading == "tensor" else "right", no_wrap=True)
        for _, tensors in groupby(sorted(findings.tensors.values(), key=_layer), key=_layer):
            for found in tensors:
                allowed = "" if found.allowed is None else f"{found.allowed:.1e}"
                ulps = f"{found.ulps:,.1f}" if found.ulps < 1e6 else f"{found.ulps:.1e}"
                numbers = (f"{found.absolute:.1e}", ulps, f"{found.relative:.1e}", allowed)
                table.add_row(found.name, *numbers, f"{found.where:,}", style="bold red" if found.broken else "")
            table.add_section()
        self._console.print(table)
        rows = [asdict(finding) for finding in findings.tensors.values()]
        self.results.append({"kind": kind, "what": what, "comparisons": findings.comparisons, "tensors": rows})
        self.broken += [
            f"{what}, {where} {finding.where:,}: {finding.name} has a relative error of {finding.relative:.1e}"
            f"{_allowed(finding)}"
            for finding in findings.broken
        ]


def _layer(finding: Finding) -> float:
    """The layer in a tensor's name; the cost comes after them all."""
    return int(finding.name.partition("(")[2].rstrip(")") or 0) or inf


def _allowed(finding: Finding) -> str:
    return "" if finding.allowed is None else f", {finding.allowed:.1e} allowed"


def _plain(value: Any) -> Any:
    """Numbers that JSON has no word for as text."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value
