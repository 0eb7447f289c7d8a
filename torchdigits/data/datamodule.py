"""Mini-batches of digits from memory, for Lightning."""

from functools import cached_property
from pathlib import Path

import lightning as L
import torch

from torchdigits.data.batches import EVALUATION_BATCH_SIZE, Blocks, MiniBatches, check_seed
from torchdigits.data.datasets import Digits, DigitSplits, fetch_mnist, load_splits
from torchdigits.errors import check_count


class DigitsDataModule(L.LightningDataModule):
    """Shuffled mini-batches for training; validation, test and prediction (on the test images) in order.

    Args:
        dataset: `mnist`, `digits`, or a dataset that has been read already.
        data_dir: the folder of MNIST (see `load_splits`).
        batch_size: examples in a mini-batch of one process.
        seed: of the epochs' orders, 0 or more.
        block_size: None to train on mini-batches; a number to train on `Blocks`, as `CompiledDigitClassifier` does.

    Raises:
        OptionError: a batch size or a block size is less than 1, or the seed is out of range.
        DataError: the dataset cannot be read; raised when it is first used.
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
        check_count("batch size", batch_size)
        if block_size is not None:
            check_count("block size", block_size)
        check_seed(seed)
        self.dataset, self.data_dir, self.batch_size, self.seed = dataset, data_dir, batch_size, seed
        self.block_size = block_size

    @cached_property
    def splits(self) -> DigitSplits:
        """The dataset, read when it is first used."""
        return self.dataset if isinstance(self.dataset, DigitSplits) else load_splits(self.dataset, self.data_dir)

    def prepare_data(self) -> None:
        """Download MNIST if it is missing. Lightning calls this in one process of each machine."""
        if self.dataset == "mnist":
            fetch_mnist(self.data_dir)

    def train_dataloader(self) -> MiniBatches:
        if self.block_size is not None:
            device, most = torch.device("cpu"), None
            if self.trainer is not None:
                device, limit = self.trainer.strategy.root_device, self.trainer.limit_train_batches
                most = limit if isinstance(limit, int) else None  # mini-batches, of which Lightning would count blocks
            return Blocks(self.splits.training, self.batch_size, self.seed, device, self.block_size, most)
        return self._mini_batches("training", self.batch_size, self.seed)

    def val_dataloader(self) -> MiniBatches:
        return self._mini_batches("validation", EVALUATION_BATCH_SIZE)

    def test_dataloader(self) -> MiniBatches:
        return self._mini_batches("test", EVALUATION_BATCH_SIZE)

    def predict_dataloader(self) -> MiniBatches:
        return self.test_dataloader()

    def _mini_batches(self, split: str, batch_size: int, seed: int | None = None) -> MiniBatches:
        digits: Digits = getattr(self.splits, split)
        if (trainer := self.trainer) is None:
            return MiniBatches(digits, batch_size, seed)
        dtype = torch.float64 if trainer.precision == "64-true" else torch.float32
        where = trainer.strategy.root_device, dtype, trainer.global_rank, trainer.world_size
        return MiniBatches(digits, batch_size, seed, *where)
