"""Compare this machine's torch with the reference, and report what was found."""

import json
import sys
from dataclasses import asdict, dataclass
from itertools import groupby
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from torchdigits.commands.cli import catching_signals
from torchdigits.data.batches import check_seed, epoch_order
from torchdigits.data.datasets import DigitSplits, load_splits
from torchdigits.engines.machine import PRECISIONS, Machine, find_machine, versions_here
from torchdigits.errors import OptionError, check_count
from torchdigits.figures import FIGURE_SUFFIXES
from torchdigits.files.writing import becoming, check_new_file
from torchdigits.network import SigmoidMLP
from torchdigits.proof.figures import plot_growth
from torchdigits.proof.findings import Finding, Findings
from torchdigits.proof.gradients import check_gradients
from torchdigits.sgd import check_learning_rate

if TYPE_CHECKING:
    from torchdigits.proof.free_run import Epoch, FreeRun, Growth
    from torchdigits.proof.in_step import Progress
    from torchdigits.proof.runs import Run

MINI_BATCHES = 100  # whose gradients are compared


@dataclass(frozen=True, kw_only=True)
class ParityOptions:
    """What to compare; the defaults are the original's network and data.

    Attributes:
        dataset: mnist, or scikit-learn's digits; those are 1,797 small ones.
        data_dir: where MNIST is, or is downloaded to. Default: $TORCHDIGITS_DATA_DIR, or data.
        hidden: neurons in each hidden layer.
        batch_size: images in a mini-batch.
        learning_rate: eta of --train and --in-step; of several, each in turn.
        seed: of first weights and epochs' orders; as in train.
        accelerator: where torch computes; auto takes a GPU if there is one.
        precision: bits of a number; one or several. Errors of tf32 and bf16, and what --train finds in 32, are only
            reported.
        engine: of --train and --in-step, as in train.
        train: epochs to train torch and NumPy, each by itself; both start from the same weights.
        in_step: updates to compare one by one; torch and NumPy compute each from the same weights.
        figure: a file to draw the differences of --train; it ends in .png, .svg or .pdf.
        json: print one JSON object.

    Raises:
        OptionError: a value out of range, or options that do not go together.
    """

    dataset: Literal["mnist", "digits"] = "mnist"
    data_dir: Path | None = None
    hidden: tuple[int, ...] = (30,)
    batch_size: int = 10
    learning_rate: tuple[float, ...] = (3.0,)
    seed: int = 0
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: tuple[Literal["64", "32", "tf32", "bf16"], ...] = ("64", "32")
    engine: Literal["eager", "compiled"] = "eager"
    train: int | None = None
    in_step: int | None = None
    figure: Path | None = None
    json: bool = False

    def __post_init__(self) -> None:
        for name, number in (("--batch-size", self.batch_size), ("--train", self.train), ("--in-step", self.in_step)):
            check_count(name, 1 if number is None else number)
        for name, values in (("--precision", self.precision), ("--learning-rate", self.learning_rate)):
            if not values:
                raise OptionError(f"{name}: name one or more")
        for rate in self.learning_rate:
            check_learning_rate(rate)
        check_seed(self.seed)
        if self.figure is not None and (self.train is None or "64" not in self.precision):
            raise OptionError(f"--figure {self.figure}: it shows --train in --precision 64")
        if self.engine == "compiled" and not self.follows_runs:
            raise OptionError("--engine compiled: it is for --train and --in-step")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Neurons in each layer, the inputs first."""
        return (784, *self.hidden, 10)

    @property
    def follows_runs(self) -> bool:
        """Whether networks are trained, instead of the gradients of first weights compared."""
        return self.train is not None or self.in_step is not None


def parity(options: ParityOptions) -> None:
    """Compare torch on this machine with back-propagation by hand in NumPy.

    Without --train and --in-step, it compares the gradients of 100 mini-batches at a network's first weights. If an
    error is larger than rounding can cause, it says so on stderr, with the numbers, and the exit status is 1.

    Raises:
        OptionError, DataError: an option that this machine cannot honour; the dataset cannot be had.
        Interrupted: Ctrl-C or SIGTERM came.
        SystemExit: with status 1 if an error is larger than rounding can cause.
    """
    if options.figure is not None:
        check_new_file("--figure", options.figure, FIGURE_SUFFIXES)
    machines = [find_machine(options.accelerator, precision=bits) for bits in options.precision]
    for machine in machines:
        if options.engine == "compiled" and (obstacle := machine.obstacle_to_compiling):
            raise OptionError(f"--engine compiled, --precision {machine.precision}: {obstacle}; use --engine eager")
    torch.manual_seed(options.seed)
    network = SigmoidMLP(options.sizes)
    splits = load_splits(options.dataset, options.data_dir)
    batch_size, versions = min(options.batch_size, len(splits.training.labels)), versions_here()
    layers, report = "-".join(map(str, options.sizes)), Report(quiet=options.json)
    what = f"{layers} on {options.dataset}, mini-batches of {batch_size}, seed {options.seed}"
    report.say(f"{what}; torch {versions['torch']}, numpy {versions['numpy']}, Python {versions['python']}")
    with catching_signals(lambda: "nothing is kept"):
        for machine in machines:
            if options.follows_runs:
                _follow_runs(options, machine, splits, batch_size, report)
            else:
                order = epoch_order(len(splits.training.labels), options.seed, 0)
                mini_batches = torch.split(order, batch_size)[:MINI_BATCHES]
                findings, place = check_gradients(network, splits.training, mini_batches, machine), _place(machine)
                report.say(f"\nBack-propagation by torch and by hand, of {len(mini_batches)} mini-batches; {place}")
                report.table("gradients", place, findings, "mini-batch")
    if options.json:
        whole = {"options": asdict(options), "versions": versions, "results": report.results, "broken": report.broken}
        print(as_json(whole))
    for line in report.broken:
        print(f"broken: {line}", file=sys.stderr)
    if options.figure is not None:
        title = f"How torch and NumPy move apart\n{what}, float64, {options.engine} engine"
        with becoming("--figure", options.figure) as part:
            plot_growth(report.curves, title, part)
    if report.broken:
        raise SystemExit(1)


def _follow_runs(
    options: ParityOptions, machine: Machine, splits: DigitSplits, batch_size: int, report: "Report"
) -> None:
    """For each learning rate a free run, a run in step, or both."""
    from torchdigits.proof.free_run import free_run  # here, since these import Lightning
    from torchdigits.proof.in_step import in_step
    from torchdigits.proof.runs import Run

    for rate in options.learning_rate:
        run = Run(splits, options.sizes, batch_size, rate, options.seed, options.engine, machine)
        name = f"{_place(machine)}, {run.engine} engine, learning rate {rate:g}"
        if options.train is not None:
            report.say(f"\nFrom the same weights over the same mini-batches, each by itself; {name}")
            report.say("        test images recognised    different      largest difference of the weights")
            report.say("epoch        NumPy       torch      answers     torch   allowed   mirror image")
            report.free_run(name, run, free_run(run, options.train, report.epoch))
        if options.in_step is not None:
            report.say(f"\nUpdate by update from the same weights; {name}")
            report.table("in step", name, in_step(run, options.in_step, report.progress), "update")


class Report:
    """Prints what is found, as it is found, unless it is `quiet`; and keeps it."""

    def __init__(self, quiet: bool) -> None:
        self.results: list[dict[str, Any]] = []  # what JSON shows
        self.broken: list[str] = []  # a line for each error that is larger than allowed
        self.curves: list[tuple[str, Growth]] = []  # of the free runs in float64, each with its label
        width = None if sys.stdout.isatty() else 100
        self.say = Console(quiet=quiet, highlight=False, markup=False, soft_wrap=True, width=width).print

    def epoch(self, epoch: "Epoch") -> None:
        """A line for an epoch of a free run."""
        counts = f"{epoch.epoch:5} {epoch.reference:12,} {epoch.torch:11,} {epoch.differing:12,}"
        self.say(f"{counts} {epoch.difference:9.1e} {_number(epoch.allowed):>9} {epoch.mirrored:14.1e}")

    def free_run(self, name: str, run: "Run", found: "FreeRun") -> None:
        """What a whole free run has shown, and how fast the difference grew where it grew exponentially."""
        # Whatever is wrong after the first thing comes from it.
        self.broken += [f"{name}, epoch {epoch.epoch}: {epoch.broken}" for epoch in found.epochs if epoch.broken][:1]
        label, doubling = f"learning rate {run.learning_rate:g}", None
        if run.machine.precision == "64":
            doubling = found.growth.doubling
            if doubling is not None:
                self.say(f"The difference doubles every {doubling:,.0f} updates, between 1e-14 and 1e-3.")
                label += f": doubles every {doubling:,.0f} updates"
            self.curves.append((label, found.growth))
        result = {"kind": "free run", "what": name, "epochs": [epoch._asdict() for epoch in found.epochs]}
        self.results.append(result | {"doubling": doubling, "curve": {"label": label} | found.growth._asdict()})

    def progress(self, progress: "Progress") -> None:
        """A line for an epoch in step."""
        worst, test = progress.findings.worst, f"{progress.correct:,} / {progress.total:,} test"
        self.say(f"{progress.updates:,} updates: worst {worst.name} {_error(worst)}; {test}")

    def table(self, kind: str, what: str, findings: Findings, where: str) -> None:
        """A table of tensors; `where` is the word for one comparison."""
        table = Table()
        for heading in ("tensor", "largest error", "ulps", "relative error", "allowed", where):
            table.add_column(heading, justify="left" if heading == "tensor" else "right", no_wrap=True)
        for _, tensors in groupby(sorted(findings.tensors.values(), key=_layer), key=_layer):
            for found in tensors:
                ulps = f"{found.ulps:,.1f}" if found.ulps < 1e6 else f"{found.ulps:.1e}"
                numbers = _number(found.absolute), ulps, _number(found.relative), _number(found.allowed)
                table.add_row(found.name, *numbers, f"{found.where:,}", style="bold red" if found.broken else "")
            table.add_section()
        self.say(table)
        rows = [asdict(finding) for finding in findings.tensors.values()]
        self.results.append({"kind": kind, "what": what, "comparisons": findings.comparisons, "tensors": rows})
        for finding in findings.broken:
            broken = f"{finding.name} has a relative error of {_error(finding)}"
            self.broken.append(f"{what}, {where} {finding.where:,}: {broken}")


def _place(machine: Machine) -> str:
    return f"{PRECISIONS[machine.precision].words} on {machine.device} ({machine.name})"


def _layer(finding: Finding) -> float:
    """The layer in a tensor's name; the cost comes after them all."""
    return int(finding.name.partition("(")[2].rstrip(")") or 0) or inf


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _error(finding: Finding) -> str:
    return _number(finding.relative) + ("" if finding.allowed is None else f", {finding.allowed:.1e} allowed")


def as_json(value: Any) -> str:
    """The value in JSON, which has no paths, NaN or infinity: they become text."""
    return json.dumps(json.loads(json.dumps(value, default=str), parse_constant=lambda word: str(float(word))))
