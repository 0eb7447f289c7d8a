"""Training runs of the engines, followed by the reference: free-running, and in step.

At the original's learning rate, training on MNIST is chaotic: two programs that differ by rounding alone part within
two epochs. So there are two ways to follow a run. Free-running, each has its own weights, and the yardstick is how far
the reference parts from its own mirror image. In step, every update is computed by both from the same weights.
"""

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from torchdigits import reference
from torchdigits.classifier import DigitClassifier
from torchdigits.datamodule import DigitsDataModule
from torchdigits.datasets import DigitSplits, epoch_order
from torchdigits.parity import (
    PRECISIONS,
    Findings,
    bounds_of,
    deviation,
    mean_gradients,
    multiplying_in,
    parameter_names,
    parameters_of,
    reference_of,
    relative_error,
    set_parameters,
    unit_roundoffs,
)
from torchdigits.reference import Array
from torchdigits.training import BLOCK_SIZE, choose_engine, quiet, torch_settings

# How many times as far from the reference as its mirror image a float64 run may be. Measured after an epoch of MNIST at
# learning rate 3, with 24 seeds: 0.006 to 3 times, so that chance alone can do some hundred.
_MARGIN = 1000
# Of some thousand images none is so near a tie that weights which differ by less decide it differently.
_NO_TIE = 1e-9
# From this difference on, two runs have nothing to do with each other: at what a difference grows to, it stays.
_PARTED = 1e-3
_SAMPLE = 50  # updates from one point of a curve to the next


@dataclass(frozen=True)
class Run:
    """A training run to be followed.

    Attributes:
        splits: the dataset.
        sizes: neurons in each layer.
        batch_size: examples in a mini-batch.
        learning_rate: eta.
        seed: of the first weights and of each epoch's order, as in `train`.
        engine: `eager` or `compiled`.
        precision: a key of `PRECISIONS`.
        hardware: the Trainer's arguments, as `choose_hardware` gives them for that precision.
    """

    splits: DigitSplits
    sizes: tuple[int, ...]
    batch_size: int
    learning_rate: float
    seed: int
    engine: str
    precision: str
    hardware: dict[str, Any]

    def mini_batches(self) -> Iterator[tuple[Array, Array]]:
        """The reference's, one epoch after the other: images `(784, m)` and wanted outputs `(10, m)`."""
        images, labels = (tensor.numpy() for tensor in self.splits.training)
        for epoch in count():
            order = epoch_order(len(labels), self.seed, epoch).numpy()
            for start in range(0, len(order), self.batch_size):
                chosen = order[start : start + self.batch_size]
                yield reference.columns(images[chosen]), reference.one_hot(labels[chosen], self.sizes[-1])

    def digits_of(self, module: L.LightningModule, trainer: L.Trainer) -> NDArray[np.int64]:
        """What the trained network takes the test images for, `(N,)`."""
        images = self.splits.test.images.to(module.device, PRECISIONS[self.precision].dtype) / 255
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            return module(images).argmax(1).cpu().numpy()  # type: ignore[no-any-return]

    def fit(self, callback: L.Callback, epochs: int, updates: int = -1, block_size: int = BLOCK_SIZE) -> None:
        """Train with the engine in Lightning's Trainer, as `train` does, watched by the callback."""
        torch.manual_seed(self.seed)
        classifier = DigitClassifier(self.sizes, self.learning_rate)
        datamodule = DigitsDataModule(self.splits, batch_size=self.batch_size, seed=self.seed)
        products = self.batch_size * sum(parameter.numel() for parameter in classifier.parameters())
        dtype = PRECISIONS[self.precision].dtype
        # NumPy's products are small too, and one thread of BLAS is faster, many times so on a busy machine.
        blas = threadpool_limits(1, user_api="blas")
        with blas, quiet(), multiplying_in(self.precision), torch_settings(products, dtype):
            classifier, _ = choose_engine(self.engine, classifier, datamodule, epochs, self.hardware, block_size)
            trainer = L.Trainer(
                **self.hardware,
                max_epochs=epochs,
                max_steps=updates,
                callbacks=[callback],
                deterministic=True,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                limit_val_batches=0,
            )
            trainer.fit(classifier, datamodule)


class Epoch(NamedTuple):
    """Where a free-running run and the reference are after an epoch.

    Attributes:
        epoch: from 1.
        reference, torch: test images that each recognises.
        total: test images.
        differing: test images that the two take for different digits.
        difference: the largest relative difference of a weight matrix or bias vector.
        tensor: which one that is.
        mirrored: the same between the reference and its mirror image.
        allowed: what `difference` may be; None where it is only reported: in less than float64, and from where on the
            reference has parted from its mirror image.
        broken: what is wrong, of all that was measured so far, every fifty updates; or nothing.
    """

    epoch: int
    reference: int
    torch: int
    total: int
    differing: int
    difference: float
    tensor: str
    mirrored: float
    allowed: float | None
    broken: str = ""


class _Follower(L.Callback):
    """What follows a run; interrupted, it lets that be known, where Lightning would end as if something were wrong."""

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt):
            raise exception


class FreeRun(_Follower):
    """The reference beside an engine, from the same start on the same mini-batches, each with its own weights.

    A third network runs along, the reference's mirror image: the same mathematics, rounded otherwise. How far that one
    gets from the reference says what rounding does to this run. A float64 run may get a thousand times as far, or
    1e-12, until the two have parted.

    Args:
        run: what is trained.
        report: called after each epoch.

    Attributes:
        epochs: what was found after each.
        updates: after which the differences were taken, `(N,)`.
        differences: the largest relative difference of a tensor, torch from the reference, `(N,)`.
        mirrored: the reference from its mirror image, `(N,)`.
    """

    def __init__(self, run: Run, report: Callable[[Epoch], object] = lambda epoch: None) -> None:
        self.run, self.report = run, report
        self.epochs: list[Epoch] = []
        self.updates: list[int] = []
        self.differences: list[float] = []
        self.mirrored: list[float] = []
        self._broken = ""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mini_batches, self._taken = self.run.mini_batches(), 0
        self._twin = reference_of(_network(pl_module))
        self._image = mirror_image(self._twin)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        while self._taken < trainer.global_step:
            x, y = next(self._mini_batches)
            self._twin.update_mini_batch(x, y, self.run.learning_rate)
            self._image.update_mini_batch(x[::-1], y[::-1], self.run.learning_rate)
            self._taken += 1
        if not self.updates or self._taken - self.updates[-1] >= _SAMPLE:
            self._measure(pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        tensor, allowed = self._measure(pl_module)
        images, labels = (part.numpy() for part in self.run.splits.test)
        ours = self.run.digits_of(pl_module, trainer)
        theirs = self._twin.feedforward(reference.columns(images)).argmax(axis=0)
        counts = (int((theirs == labels).sum()), int((ours == labels).sum()), len(labels), int((ours != theirs).sum()))
        if counts[3] and allowed is not None and allowed <= _NO_TIE:
            self._broken = self._broken or f"{counts[3]} test images are taken for other digits"
        differences = (self.differences[-1], tensor, self.mirrored[-1], allowed)
        self.epochs.append(Epoch(trainer.current_epoch + 1, *counts, *differences, self._broken))
        self.report(self.epochs[-1])

    def _measure(self, module: L.LightningModule) -> tuple[str, float | None]:
        """Take the differences; gives the tensor in which torch's is the largest, and how large it may be."""
        truth = parameters_of(self._twin)
        image = parameters_of(mirror_image(self._image))
        errors, others = (
            [relative_error(*pair) for pair in zip(parameters, truth, strict=True)]
            for parameters in (parameters_of(_network(module)), image)
        )
        largest = int(np.argmax(errors))  # what is no number counts as the largest
        difference, tensor = errors[largest], parameter_names("", self.run.sizes)[largest]
        self.updates.append(self._taken)
        self.differences.append(difference)
        self.mirrored.append(max(others))
        promised = self.run.precision == "64" and max(self.mirrored) < _PARTED
        allowed = max(1e-12, _MARGIN * max(self.mirrored)) if promised else None
        if allowed is not None and not difference <= allowed and not self._broken:
            self._broken = f"{tensor} differs by {difference:.1e} at update {self._taken:,}, {allowed:.1e} allowed"
        return tensor, allowed


class Progress(NamedTuple):
    """How far a run in step is.

    Attributes:
        updates: taken and compared.
        correct, total: test images recognised, and how many there are.
        findings: of every update so far.
    """

    updates: int
    correct: int
    total: int
    findings: Findings


class InStep(_Follower):
    """Every update of a run, computed by torch and by hand from the same weights: those that torch has then.

    Compared are all weights and biases after the update and, with the eager engine, the gradients. Those may differ as
    in `check_gradients`; the weights by what that makes of them, and by the rounding of the update itself: some 1e-15
    in float64. The compiled engine is compiled for one update at a time, as its blocks do not show what lies within.

    Args:
        run: what is trained.
        report: called after each epoch.

    Attributes:
        findings: of every update, by tensor.
    """

    def __init__(self, run: Run, report: Callable[[Progress], object] = lambda progress: None) -> None:
        self.run, self.report = run, report
        self.findings = Findings(PRECISIONS[run.precision].tolerance)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mini_batches = self.run.mini_batches()
        self._twin, self._before = reference_of(_network(pl_module)), parameters_of(_network(pl_module))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        x, y = next(self._mini_batches)
        network, twin, sizes = _network(pl_module), self._twin, self.run.sizes
        precision, u = PRECISIONS[self.run.precision], unit_roundoffs(self.run.precision)
        set_parameters(twin, self._before)
        gradients = [parameter.grad for parameter in network.parameters()]
        pairs: list[tuple[str, ArrayLike, ArrayLike]] = []
        if gradients[0] is not None:
            arrays = [gradient.cpu().double().numpy() for gradient in gradients if gradient is not None]
            pairs += zip(parameter_names("dC/d", sizes), arrays, mean_gradients(twin, x, y), strict=True)
        twin.update_mini_batch(x, y, self.run.learning_rate)
        after, truth = parameters_of(network), parameters_of(twin)
        names = parameter_names("", sizes)
        pairs += zip(names, after, truth, strict=True)

        # The new weights may differ by the rounding of the subtraction, and by the gradient's error in the step.
        steps = {n: relative_error(old, new) for n, old, new in zip(names, self._before, truth, strict=True)}
        tolerances = {name: u + (precision.tolerance or 0.0) * step for name, step in steps.items()}

        def bounds() -> dict[str, float]:
            set_parameters(twin, self._before)
            errors = bounds_of(twin, x, y, self.run.precision)
            return errors | {name: u + errors[f"dC/d{name}"] * step for name, step in steps.items()}

        self.findings.add((deviation(*pair, precision) for pair in pairs), bounds, tolerances)
        self._before = after

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        labels = self.run.splits.test.labels.numpy()
        correct = int((self.run.digits_of(pl_module, trainer) == labels).sum())
        self.report(Progress(trainer.global_step, correct, len(labels), self.findings))


def free_run(run: Run, epochs: int, report: Callable[[Epoch], object] = lambda epoch: None) -> FreeRun:
    """Train for so many epochs, the reference running beside it: see `FreeRun`."""
    follower = FreeRun(run, report)
    run.fit(follower, epochs)
    return follower


def in_step(run: Run, updates: int, report: Callable[[Progress], object] = lambda progress: None) -> Findings:
    """Train for so many updates, the reference computing each of them too: see `InStep`."""
    follower = InStep(run, report)
    per_epoch = -(-len(run.splits.training.labels) // run.batch_size)
    run.fit(follower, -(-updates // per_epoch), updates, block_size=1)
    return follower.findings


def mirror_image(network: reference.Network) -> reference.Network:
    """The same network with the neurons of every layer, the inputs too, in reverse order.

    It computes the same, of images and outputs in reverse order, but adds up in another order, and so rounds otherwise.
    """
    image = copy(network)
    image.weights = [weights[::-1, ::-1].copy() for weights in network.weights]
    image.biases = [biases[::-1].copy() for biases in network.biases]
    return image


def doubling(updates: list[int], differences: list[float]) -> float | None:
    """The number of updates in which the difference of a float64 run doubles, where it grows exponentially.

    Least squares through the logarithms of what lies between 1e-14, some way above rounding, and the first 1e-3, where
    two runs have parted. None if it does not grow a hundredfold there, or if that line explains less than 0.85 of it.
    """
    parted = next((place for place, difference in enumerate(differences) if difference >= _PARTED), len(differences))
    points = np.array([pair for pair in zip(updates[:parted], differences[:parted], strict=True) if pair[1] > 1e-14])
    if len(points) < 3 or points[-1, 1] < 100 * points[0, 1]:
        return None
    steps, doublings = points[:, 0], np.log2(points[:, 1])
    explained = np.corrcoef(steps, doublings)[0, 1] ** 2
    return float(1 / np.polyfit(steps, doublings, 1)[0]) if explained >= 0.85 else None


def _network(module: L.LightningModule) -> Any:
    assert isinstance(module, DigitClassifier)
    return module.network
