"""The order of an epoch, and its mini-batches from memory, one at a time or in blocks."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from torchdigits.data.datasets import Digits
from torchdigits.errors import OptionError

EVALUATION_BATCH_SIZE = 10_000  # images measured at once: all test images of MNIST, 31 MB of floats


def check_seed(seed: int) -> None:
    """Raise OptionError if the seed of a run is negative, or has more than 32 bits."""
    if not 0 <= seed < 2**32:
        raise OptionError(f"seed {seed}: it must be a whole number from 0 to {2**32 - 1}")


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch, from 0, takes its examples: a permutation `(count,)` that (seed, epoch) decides."""
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(count))


def blocks_of(order: Tensor, batch_size: int, block_size: int) -> list[Tensor]:
    """Cut an epoch's order `(count, ...)` into blocks `(S, m, ...)` of S mini-batches, at most `block_size`.

    All blocks have the same number of mini-batches, except for two at the end: the mini-batches that are left over, and
    the last one if it has less than `batch_size` examples.
    """
    batch_size = min(batch_size, len(order))
    full, rest = divmod(len(order), batch_size)
    blocks = -(-full // block_size)
    size, left_over = divmod(full, blocks)
    parts = torch.split(order, [*[size * batch_size] * blocks, left_over * batch_size, rest])
    return [part.view(-1, min(batch_size, len(part)), *part.shape[1:]) for part in parts if len(part)]


class MiniBatches:
    """The mini-batches of one epoch: pairs of images `(m, 784)`, floats in [0, 1], and labels `(m,)`, int64.

    The images stay bytes, on `device`, where each mini-batch is turned into floats. The last mini-batch may be shorter.
    Several processes share the mini-batches of `processes * batch_size` examples that a single process would take. If
    the last one cannot be shared equally, the first processes get an example more than the others.

    Args:
        digits: the examples.
        batch_size: examples in a mini-batch of one process.
        seed: shuffles every epoch by `epoch_order`; None keeps the order of the examples.
        device, dtype: of the mini-batches' floats.
        process, processes: the number of this process, from 0, and of all.
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
        self._kept: list[tuple[Tensor, Tensor]] = []

    batch_sampler = None

    @property
    def sampler(self) -> "MiniBatches":
        """This object: Lightning announces an epoch to a loader's sampler, if the loader has a batch_sampler too."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.digits.labels) // (self.batch_size * self.processes))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.seed is not None:
            yield from self._converted()
            return
        if not self._kept:  # as floats, since the same are asked for after every epoch
            self._kept = [*self._converted()]
        yield from self._kept

    def _converted(self) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in torch.split(self._order(), self.batch_size * self.processes):
            mine = chosen.tensor_split(self.processes)[self.process] if self.processes > 1 else chosen
            images, labels = (part.index_select(0, mine) for part in self.digits)
            yield images.to(self.dtype).div_(255), labels

    def _order(self) -> Tensor:
        labels = self.digits.labels
        order = torch.arange(len(labels)) if self.seed is None else epoch_order(len(labels), self.seed, self.epoch)
        return order.to(labels.device)


class Blocks(MiniBatches):
    """The same mini-batches for the compiled engine: images `(S, m, 784)`, uint8, and labels `(S, m)` of S at once.

    Args:
        digits, batch_size, seed, device: as for `MiniBatches`.
        block_size: mini-batches in a block, at most; see `blocks_of`.
        most: mini-batches in an epoch, at most.
    """

    def __init__(
        self,
        digits: Digits,
        batch_size: int,
        seed: int | None,
        device: torch.device | str,
        block_size: int,
        most: int | None = None,
    ) -> None:
        super().__init__(digits, batch_size, seed, device)
        self.block_size = block_size
        self.examples = len(digits.labels) if most is None else min(len(digits.labels), most * self.batch_size)

    def __len__(self) -> int:
        return len(blocks_of(self.digits.labels[: self.examples], self.batch_size, self.block_size))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """A block is gathered while the one before it is trained on."""
        blocks = self._places()
        with ThreadPoolExecutor(1) as beside:
            coming = beside.submit(self._gather, blocks[0])
            for following in [*blocks[1:], None]:
                block = coming.result()
                if following is not None:
                    coming = beside.submit(self._gather, following)
                yield block

    def first(self) -> tuple[Tensor, Tensor]:
        """The first block."""
        return self._gather(self._places()[0])

    def _places(self) -> list[Tensor]:
        return blocks_of(self._order()[: self.examples], self.batch_size, self.block_size)

    def _gather(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = (part.index_select(0, chosen.flatten()) for part in self.digits)
        return images.view(*chosen.shape, -1), labels.view(chosen.shape)
