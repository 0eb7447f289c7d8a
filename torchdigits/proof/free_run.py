"""A run and the reference side by side: the same start and mini-batches, but each with its own weights."""

from collections.abc import Callable
from copy import copy
from itertools import takewhile
from typing import Any, NamedTuple

import lightning as L
import numpy as np

from torchdigits.proof import reference
from torchdigits.proof.gradients import TOLERANCES, parameters_of, relative_errors, set_parameters
from torchdigits.proof.runs import Run

# How many times as far from the reference as its mirror image a float64 run may be. Measured after an epoch of MNIST at
# learning rate 3, with 24 seeds: 0.006 to 3 times. So chance alone can make a factor of some hundred.
MARGIN = 1000
# Among some thousand images none is so near a tie that weights which differ by less give it another answer.
NO_TIE = 1e-9
PARTED = 1e-3  # two runs that differ by more have nothing to do with each other from then on
_INTERVAL = 50  # updates from one point of a curve to the next


class Growth(NamedTuple):
    """How the weights of a run and of the reference move apart: three lists of the same length."""

    updates: list[int]  #: after which the differences were taken
    differences: list[float]  #: the largest relative one of a weight matrix or bias vector, torch from the reference
    mirrored: list[float]  #: the same for the reference's mirror image

    @property
    def doubling(self) -> float | None:
        """The number of updates in which the difference of a float64 run doubles, where it grows exponentially.

        A straight line is fitted through the logarithms of the differences from 1e-14, which is well above rounding, to
        the first 1e-3, where the two have parted. None if they do not grow a hundredfold there, or if the line explains
        less than 0.85 of their variance.
        """
        together = takewhile(lambda pair: pair[1] < PARTED, zip(self.updates, self.differences, strict=True))
        points = np.array([pair for pair in together if pair[1] > 1e-14])
        if len(points) < 3 or points[-1, 1] < 100 * points[0, 1]:
            return None
        steps, doublings = points[:, 0], np.log2(points[:, 1])
        explained = np.corrcoef(steps, doublings)[0, 1] ** 2
        return float(1 / np.polyfit(steps, doublings, 1)[0]) if explained >= 0.85 else None


class Epoch(NamedTuple):
    """Where a run and the reference are after an epoch."""

    epoch: int  #: from 1
    reference: int  #: test images that it recognises
    torch: int  #: test images that it recognises
    total: int  #: test images
    differing: int  #: test images that get different answers
    difference: float  #: the largest relative one of a weight matrix or bias vector
    tensor: str  #: which one that is
    mirrored: float  #: the same between the reference and its mirror image
    #: how large `difference` may be; None in less than float64, and once the reference has left its mirror image
    allowed: float | None
    broken: str  #: the first thing that was found wrong so far; empty if nothing was


class FreeRun(L.Callback):
    """Trains the reference beside a run, from the same weights and on the same mini-batches, each by itself.

    A third network is trained too: the reference's mirror image, which does the same mathematics but rounds in another
    way. Its distance from the reference shows what rounding does to this run. A float64 run may be a thousand times as
    far from the reference, or 1e-12, until the reference and its mirror image have parted.

    Args:
        run: what is trained.
        report: called after each epoch.
    """

    def __init__(self, run: Run, report: Callable[[Epoch], object]) -> None:
        self.run, self.report = run, report
        self.epochs: list[Epoch] = []  #: what was found after each
        self.growth = Growth([], [], [])  #: taken every fifty updates or so and after each epoch
        self._broken = ""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mini_batches, self._taken = self.run.mini_batches(), 0
        self._twin = reference.Network(self.run.sizes)
        set_parameters(self._twin, parameters_of(pl_module))
        self._image = mirror_image(self._twin)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        while self._taken < trainer.global_step:
            x, y = next(self._mini_batches)
            self._twin.update_mini_batch(x, y, self.run.learning_rate)
            self._image.update_mini_batch(x[::-1], y[::-1], self.run.learning_rate)
            self._taken += 1
        if not self.growth.updates or self._taken - self.growth.updates[-1] >= _INTERVAL:
            self._measure(pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        tensor, allowed = self._measure(pl_module)
        images, labels = (part.numpy() for part in self.run.splits.test)
        ours = self.run.answers(pl_module, trainer)
        theirs = self._twin.feedforward(reference.columns(images)).argmax(axis=0)
        differing = int((ours != theirs).sum())
        if differing and allowed is not None and allowed <= NO_TIE:
            self._broken = self._broken or f"different answers for {differing} of {len(labels)} test images"
        counts = int((theirs == labels).sum()), int((ours == labels).sum()), len(labels), differing
        differences = self.growth.differences[-1], tensor, self.growth.mirrored[-1], allowed
        self.epochs.append(Epoch(trainer.current_epoch + 1, *counts, *differences, self._broken))
        self.report(self.epochs[-1])

    def _measure(self, module: L.LightningModule) -> tuple[str, float | None]:
        """Take the differences; gives the tensor in which torch's is the largest, and how large it may be."""
        truth = parameters_of(self._twin)
        errors = relative_errors(parameters_of(module), truth)
        others = relative_errors(parameters_of(mirror_image(self._image)), truth)
        tensor = list(errors)[np.argmax([*errors.values()])]  # NaN counts as the largest
        difference = errors[tensor]
        self.growth.updates.append(self._taken)
        self.growth.differences.append(difference)
        self.growth.mirrored.append(max(others.values()))
        apart = max(self.growth.mirrored)
        promised = self.run.machine.precision == "64" and apart < PARTED
        allowed = max(TOLERANCES["64"], MARGIN * apart) if promised else None
        if allowed is not None and not difference <= allowed and not self._broken:
            self._broken = f"{tensor} differs by {difference:.1e} at update {self._taken:,}, {allowed:.1e} allowed"
        return tensor, allowed


def free_run(run: Run, epochs: int, report: Callable[[Epoch], object] = lambda epoch: None) -> FreeRun:
    """Train for so many epochs, with the reference beside it: see `FreeRun`."""
    follower = FreeRun(run, report)
    run.fit(follower, epochs)
    return follower


def mirror_image(network: reference.Network) -> reference.Network:
    """The same network with the neurons of every layer, the inputs too, in reverse order.

    It computes the same for reversed images and outputs. But it adds up in another order, and so rounds in another way.
    """
    image = copy(network)
    image.weights = [weights[::-1, ::-1].copy() for weights in network.weights]
    image.biases = [biases[::-1].copy() for biases in network.biases]
    return image
