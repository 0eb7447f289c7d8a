"""Training runs of the engines, followed by the reference.

At the original's learning rate, training on MNIST is chaotic: two programs that differ by rounding alone part within
two epochs. So there are two ways to follow a run. In `free_run.py` each program has its own weights, and the yardstick
is how far the reference parts from its mirror image. In `in_step.py` both compute every update from the same weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from torchdigits.classifier import DigitClassifier
from torchdigits.data.batches import epoch_order
from torchdigits.data.datamodule import DigitsDataModule
from torchdigits.data.datasets import DigitSplits
from torchdigits.engines.choice import EngineChoice, products_of
from torchdigits.engines.machine import PRECISIONS, Machine, quiet
from torchdigits.proof import reference
from torchdigits.proof.gradients import multiplying_in
from torchdigits.proof.reference import Array


@dataclass(frozen=True)
class Run:
    """A training run to be followed."""

    splits: DigitSplits
    sizes: tuple[int, ...]  #: neurons in each layer
    batch_size: int
    learning_rate: float
    seed: int  #: of the first weights and of each epoch's order, as in `train`
    engine: str  #: `eager` or `compiled`
    machine: Machine  #: where torch computes, and in which precision

    def mini_batches(self) -> Iterator[tuple[Array, Array]]:
        """The reference's, one epoch after the other: images `(784, m)` and wanted outputs `(10, m)`."""
        images, labels = (tensor.numpy() for tensor in self.splits.training)
        for epoch in count():
            order = epoch_order(len(labels), self.seed, epoch)
            for chosen in map(np.asarray, torch.split(order, self.batch_size)):
                yield reference.columns(images[chosen]), reference.one_hot(labels[chosen], self.sizes[-1])

    def answers(self, module: L.LightningModule, trainer: L.Trainer) -> NDArray[np.int64]:
        """The digit that the network in training sees in each test image, `(N,)`."""
        images = self.splits.test.images.to(module.device, PRECISIONS[self.machine.precision].dtype) / 255
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            return module(images).argmax(1).cpu().numpy()  # type: ignore[no-any-return]

    def fit(self, follower: L.Callback, epochs: int, updates: int = -1, block_size: int | None = None) -> None:
        """Train on the engine, as `train` does, watched by the follower.

        Args:
            follower: is called by Lightning.
            epochs, updates: after which training ends, whichever comes first; -1 updates for no limit.
            block_size: updates that the compiled engine takes between two calls of the follower, at most.
        """
        torch.manual_seed(self.seed)
        classifier = DigitClassifier(self.sizes, self.learning_rate)
        products = products_of(self.sizes, self.batch_size)
        # The reference's products are small too: one thread of BLAS is faster, many times so on a busy machine.
        blas = threadpool_limits(1, user_api="blas")
        with blas, quiet(), multiplying_in(self.machine.precision), self.machine.settings(products):
            threads, run = torch.get_num_threads(), (self.batch_size, epochs, self.seed)
            choice = EngineChoice(
                self.engine, self.sizes, self.splits.training, *run, self.machine, threads, block_size
            )
            classifier, engine = choice.apply(classifier)
            datamodule = DigitsDataModule(self.splits, None, self.batch_size, self.seed, engine.block_size)
            limits = {"max_epochs": epochs, "max_steps": updates, "limit_val_batches": 0}
            self.machine.trainer(callbacks=[follower], **limits).fit(classifier, datamodule)
