"""The network as a LightningModule, with two engines: DigitClassifier is the eager one."""

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, distributed

from torchdigits.errors import OptionError
from torchdigits.network import SigmoidMLP, quadratic_cost
from torchdigits.sgd import check_learning_rate


class DigitClassifier(L.LightningModule):
    """A SigmoidMLP that learns by plain stochastic gradient descent on the quadratic cost.

    A batch is a pair: images `(m, 784)` or `(m, 1, 28, 28)`, floats in [0, 1], and labels `(m,)`, int64. Logged once an
    epoch, or what a Trainer makes one by `max_steps` and its like, as means
    over its examples: `training_cost`, `training_accuracy`, and the same for validation and test. Those of training are
    of the outputs that the updates were computed from.

    Args:
        sizes: neurons in each layer, the inputs first.
        learning_rate: eta, the step against the gradient of a mini-batch's mean cost.

    Raises:
        OptionError: sizes that make no network, or a learning rate that is not a positive number.
    """

    def __init__(self, sizes: Sequence[int] = (784, 30, 10), learning_rate: float = 3.0) -> None:
        super().__init__()
        check_learning_rate(learning_rate)
        self.save_hyperparameters({"sizes": [int(size) for size in sizes], "learning_rate": float(learning_rate)})
        self.learning_rate = float(learning_rate)
        self.network = SigmoidMLP(sizes)
        self._outputs: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Activations of the output layer `(N, 10)` for images `(N, 784)` or `(N, 1, 28, 28)`, floats in [0, 1].

        Raises:
            OptionError: the images are bytes.
        """
        if not images.is_floating_point():
            raise OptionError(
                f"images of {str(images.dtype)[6:]}: divide them by 255, so that they are floats in [0, 1]"
            )
        activations: Tensor = self.network(images.flatten(1) if images.dim() > 2 else images)
        return activations

    def setup(self, stage: str) -> None:
        # Lightning does this too, but only after it has loaded a checkpoint, whose doubles would be rounded to floats.
        if self.trainer.precision == "64-true":
            self.double()

    def configure_optimizers(self) -> torch.optim.SGD:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)

    def on_train_epoch_start(self) -> None:
        self._outputs.clear()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        activations = self(images)
        self._outputs.append((activations.detach(), labels))
        cost = quadratic_cost(activations, labels)
        return cost * _share_of_mini_batch(len(labels), cost) if distributed.is_initialized() else cost

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Once an epoch: logging every step would take longer than the steps, which are this small.
        if self.trainer.is_last_batch or 0 < self.trainer.max_steps <= self.trainer.global_step:
            self._log_training()

    def on_train_epoch_end(self) -> None:
        if self._outputs:  # what ended the epoch was neither its last batch nor max_steps
            self._log_training()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self._log_means("validation", self(images), labels)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self._log_means("test", self(images), labels)

    def predict_step(self, batch: Tensor | tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Activations of the output layer `(N, 10)`; a batch is images, with or without their labels."""
        activations: Tensor = self(batch if isinstance(batch, Tensor) else batch[0])
        return activations

    def _log_training(self) -> None:
        activations, labels = zip(*self._outputs, strict=True)
        self._outputs.clear()
        self._log_means("training", torch.cat(activations), torch.cat(labels))

    def _log_means(self, split: str, activations: Tensor, labels: Tensor) -> None:
        cost = quadratic_cost(activations, labels)
        count = len(labels)
        sums = torch.stack([cost * count, (activations.argmax(1) == labels).sum(), cost.new_tensor(count)])
        # By hand: Lightning's sync_dist rounds the mean number of examples of a process down to an integer.
        if distributed.is_initialized():
            distributed.all_reduce(sums)
        costs, correct, counted = sums
        means = {f"{split}_cost": costs / counted, f"{split}_accuracy": correct / counted}
        self.log_dict(means, on_step=False, on_epoch=True, batch_size=int(counted))


def _share_of_mini_batch(count: int, like: Tensor) -> Tensor:
    """What this process's mean cost counts for, relative to 1, in the mini-batch that all processes share.

    DDP averages the gradients of the processes as if each had as many examples; of a last, shorter mini-batch some have
    one fewer, or none.
    """
    total = like.new_tensor(count)
    distributed.all_reduce(total)
    return count * distributed.get_world_size() / total
