"""A run and the reference in step: both compute every update from the same weights, those of the run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import lightning as L

from torchdigits.engines.machine import PRECISIONS
from torchdigits.proof import gradients, reference
from torchdigits.proof.findings import Findings
from torchdigits.proof.rounding import rounding_bounds, unit_roundoff
from torchdigits.proof.runs import Run


class Progress(NamedTuple):
    """How far a run in step is."""

    updates: int  #: taken and compared
    correct: int  #: test images recognised
    total: int  #: test images
    findings: Findings  #: of every update so far


class InStep(L.Callback):
    """Computes every update of a run by hand too, from the weights that torch has at that moment.

    Compared are all weights and biases after the update and, on the eager engine, the gradients. The gradients may
    differ as in `check_gradients`. The weights may differ by what that makes of them, and by the rounding of the update
    itself: some 1e-15 in float64. The compiled engine takes one update at a time here, as its blocks do not show the
    weights between their updates.

    Args:
        run: what is trained.
        report: called after each epoch.
    """

    def __init__(self, run: Run, report: Callable[[Progress], object]) -> None:
        self.run, self.report = run, report
        self.findings = Findings(gradients.TOLERANCES.get(run.machine.precision))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mini_batches, self._twin = self.run.mini_batches(), reference.Network(self.run.sizes)
        self._before = gradients.parameters_of(pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        (x, y), twin, before = next(self._mini_batches), self._twin, self._before
        precision = PRECISIONS[self.run.machine.precision]
        u, tolerance = unit_roundoff(precision.eps), self.findings.tolerance or 0.0
        gradients.set_parameters(twin, before)
        slopes = [
            gradients.double(parameter.grad) for parameter in pl_module.parameters() if parameter.grad is not None
        ]
        truths = gradients.mean_gradients(twin, x, y) if slopes else {}
        twin.update_mini_batch(x, y, self.run.learning_rate)
        after, truth = gradients.parameters_of(pl_module), gradients.parameters_of(twin)
        values = dict(zip(truths, slopes, strict=True)) | after
        truths |= truth
        deviations = [gradients.deviation(name, value, truths[name], precision) for name, value in values.items()]

        # The new weights may differ by the rounding of the subtraction, and by the gradient's error in the step.
        steps = gradients.relative_errors(before, truth)

        def bounds() -> dict[str, float]:
            gradients.set_parameters(twin, before)
            errors = rounding_bounds(twin, x, y, precision.eps, precision.tiny)
            return errors | {name: u + errors[f"dC/d{name}"] * step for name, step in steps.items()}

        tolerances = {name: u + tolerance * step for name, step in steps.items()}
        self.findings.add(deviations, bounds, tolerances)
        self._before = after

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        labels = self.run.splits.test.labels.numpy()
        correct = int((self.run.answers(pl_module, trainer) == labels).sum())
        self.report(Progress(trainer.global_step, correct, len(labels), self.findings))


def in_step(run: Run, updates: int, report: Callable[[Progress], object] = lambda progress: None) -> Findings:
    """Train for so many updates, and compute each of them by hand too: see `InStep`."""
    follower = InStep(run, report)
    per_epoch = -(-len(run.splits.training.labels) // run.batch_size)
    run.fit(follower, -(-updates // per_epoch), updates, block_size=1)
    return follower.findings
