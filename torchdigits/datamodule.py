"""Mini-batches of digits out of memory, for Lightning."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from torchdigits.datasets import Digits, DigitSplits, blocks_of, check_seed, epoch_order, fetch_mnist, load_splits
from torchdigits.errors import OptionError

EVALUATION_BATCH_SIZE = 10_000  # images measured at once: one batch for each held-out part of MNIST, 31 MB of floats


class MiniBatches:
    """The mini-batches of one epoch: pairs of images `(m, 784)`, floats in [0, 1], and labels `(m,)`, int64.

    The images stay bytes, on `device`; a mini-batch is turned into floats there. The last mini-batch may be shorter.
    Several processes share a mini-batch of `processes * batch_size` examples, those that a single process would take;
    of a last, shorter mini-batch the first processes may get one example more than the others.

    Args:
        digits: the examples.
        batch_size: examples in a mini-batch of one process.
        seed: shuffles every epoch by `epoch_order`; None keeps the order of the examples.
        device, dtype: where the mini-batches are wanted, and as which floats.
        process, processes: which process this is, and of how many.
    """

    def __init__(
        self,
        digits: Digits,
        batch_size: int,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.digits = Digits(digits.images.to(device), digits.labels.to(device))
        self.batch_size, self.seed, self.dtype = min(batch_size, len(digits.labels)), seed, dtype
        self.process, self.processes = process, processes
        self.epoch = 0

    batch_sampler = None

    @property
    def sampler(self) -> "MiniBatches":
        """Lightning announces an epoch to a loader's sampler, and asks a loader that has one for a batch_sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.digits.labels) // (self.batch_size * self.processes))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in torch.split(self._order(), self.batch_size * self.processes):
            mine = chosen.tensor_split(self.processes)[self.process] if self.processes > 1 else chosen
            images, labels = (part.index_select(0, mine) for part in self.digits)
            yield images.to(self.dtype).div_(255), labels

    def _order(self) -> Tensor:
        labels = self.digits.labels
        order = torch.arange(len(labels)) if self.seed is None else epoch_order(len(labels), self.seed, self.epoch)
        return order.to(labels.device)


class Blocks(MiniBatches):
    """The same mini-batches as the compiled engine takes them: many at once, and as bytes.

    A block of S mini-batches is images `(S, m, 784)`, uint8, and labels `(S, m)`; an epoch is cut by `blocks_of`.

    Args:
        digits, batch_size, seed, device: as for `MiniBatches`.
        block_size: mini-batches in a block, at most.
    """

    def __init__(
        self, digits: Digits, batch_size: int, seed: int | None, device: torch.device | str, block_size: int
    ) -> None:
        super().__init__(digits, batch_size, seed, device)
        self.block_size = block_size

    def __len__(self) -> int:
        return len(blocks_of(self.digits.labels, self.batch_size, self.block_size))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in blocks_of(self._order(), self.batch_size, self.block_size):
            images, labels = (part.index_select(0, chosen.flatten()) for part in self.digits)
            yield images.view(*chosen.shape, -1), labels.view(chosen.shape)


class DigitsDataModule(L.LightningDataModule):
    """Shuffled mini-batches for training; validation, test and prediction (on the test images) in order.

    Args:
        dataset: `mnist`, `digits`, or a dataset that is already read.
        data_dir: the folder of MNIST (see `load_splits`).
        batch_size: examples in a mini-batch of one process.
        seed: of the epochs' orders, 0 or more.
        block_size: None for mini-batches; a number for `Blocks` of so many to train on, which is what
            `CompiledDigitClassifier` takes.

    Raises:
        OptionError: a batch size or a block size below 1, or a negative seed.
        DataError: when the dataset is read, if it cannot be.
    """

    def __init__(
        self,
        dataset: str | DigitSplits = "mnist",
        data_dir: Path | str | None = None,
        batch_size: int = 10,
        seed: int = 0,
        block_size: int | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise OptionError(f"batch size {batch_size}: a mini-batch needs 1 example or more")
        if block_size is not None and block_size < 1:
            raise OptionError(f"block size {block_size}: a block needs 1 mini-batch or more")
        check_seed(seed)
        self.dataset, self.data_dir, self.batch_size, self.seed = dataset, data_dir, batch_size, seed
        self.block_size = block_size

    @cached_property
    def splits(self) -> DigitSplits:
        """The dataset, read when it is first wanted."""
        return self.dataset if isinstance(self.dataset, DigitSplits) else load_splits(self.dataset, self.data_dir)

    def prepare_data(self) -> None:
        """Download MNIST where it is missing; Lightning calls this in one process of a machine."""
        if self.dataset == "mnist":
            fetch_mnist(self.data_dir)

    def train_dataloader(self) -> MiniBatches:
        if self.block_size is not None:
            device = "cpu" if self.trainer is None else self.trainer.strategy.root_device
            return Blocks(self.splits.training, self.batch_size, self.seed, device, self.block_size)
        return self._mini_batches("training", self.batch_size, self.seed)

    def val_dataloader(self) -> MiniBatches:
        return self._mini_batches("validation", EVALUATION_BATCH_SIZE)

    def test_dataloader(self) -> MiniBatches:
        return self._mini_batches("test", EVALUATION_BATCH_SIZE)

    def predict_dataloader(self) -> MiniBatches:
        return self.test_dataloader()

    def _mini_batches(self, split: str, batch_size: int, seed: int | None = None) -> MiniBatches:
        digits: Digits = getattr(self.splits, split)
        trainer = self.trainer
        if trainer is None:
            return MiniBatches(digits, batch_size, seed)
        dtype = torch.float64 if trainer.precision == "64-true" else torch.float32
        device, process, processes = trainer.strategy.root_device, trainer.global_rank, trainer.world_size
        return MiniBatches(digits, batch_size, seed, device, dtype, process, processes)
