from collections.abc import Iterable
from itertools import chain

import pytest
import torch

from torchdigits.data.batches import Blocks, MiniBatches, epoch_order
from torchdigits.data.datasets import Digits


def numbered(count: int) -> Digits:
    """Examples whose label is their number, and their pixels its remainder by 256."""
    numbers = torch.arange(count)
    return Digits((numbers % 256).to(torch.uint8)[:, None].expand(-1, 784).contiguous(), numbers)


def taken(batches: MiniBatches) -> list[list[int]]:
    return [labels.tolist() for _, labels in batches]


def flat(lists: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(lists))


def test_an_epochs_order_is_a_permutation_that_depends_on_seed_and_epoch_alone() -> None:
    orders = {(seed, epoch): epoch_order(1000, seed, epoch) for seed in range(5) for epoch in range(5)}
    torch.manual_seed(1)
    for (seed, epoch), order in orders.items():
        assert torch.equal(order.sort().values, torch.arange(1000))
        assert torch.equal(order, epoch_order(1000, seed, epoch))
    assert len({tuple(order.tolist()) for order in orders.values()}) == 25


def test_an_epochs_order_is_the_same_in_every_version() -> None:
    """NumPy's `default_rng((3, 1)).permutation(10)`: seed 3, the second epoch. Else a resumed run would be another."""
    assert epoch_order(10, seed=3, epoch=1).tolist() == [4, 1, 2, 8, 5, 0, 7, 9, 6, 3]


def test_a_mini_batch_is_floats_between_0_and_1_and_its_labels() -> None:
    digits = numbered(256)
    (images, labels), *_ = MiniBatches(digits, 7, seed=3)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert images.shape == (7, 784)
    assert torch.equal(images[:, 0], labels / 255)


def test_a_mini_batch_of_doubles_has_the_pixels_without_rounding_to_floats() -> None:
    ((images, _),) = MiniBatches(numbered(256), 256, dtype=torch.float64)
    assert images[:, 0].tolist() == [number / 255 for number in range(256)]


def test_a_mini_batch_larger_than_the_dataset_is_the_dataset() -> None:
    assert taken(MiniBatches(numbered(5), 10**30)) == [[0, 1, 2, 3, 4]]


def test_every_example_comes_once_and_the_last_short_mini_batch_is_kept() -> None:
    batches = MiniBatches(numbered(1217), 10, seed=0)
    labels = taken(batches)
    assert len(labels) == len(batches) == 122
    assert [len(batch) for batch in labels] == [10] * 121 + [7]
    assert flat(labels) == epoch_order(1217, 0, 0).tolist()
    batches.set_epoch(4)
    assert flat(taken(batches)) == epoch_order(1217, 0, 4).tolist()


def test_without_a_seed_the_order_is_kept() -> None:
    assert taken(MiniBatches(numbered(5), 2)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("processes", [2, 3, 4])
@pytest.mark.parametrize("count", [60, 61, 1217])
def test_processes_share_each_mini_batch_that_one_would_take(count: int, processes: int) -> None:
    alone = taken(MiniBatches(numbered(count), 5 * processes, seed=1))
    parts = [
        taken(MiniBatches(numbered(count), 5, seed=1, process=process, processes=processes))
        for process in range(processes)
    ]
    assert [flat(shares) for shares in zip(*parts, strict=True)] == alone
    assert all(len(batch) == 5 for part in parts for batch in part[:-1])
    last = [len(part[-1]) for part in parts]
    assert max(last) - min(last) <= 1


@pytest.mark.parametrize(
    ("count", "batch_size", "block_size", "lengths"),
    [
        (1217, 10, 1000, [121, 1]),
        (1217, 10, 50, [40, 40, 40, 1, 1]),
        (1200, 10, 50, [40, 40, 40]),
        (25, 10, 1, [1, 1, 1]),
        (7, 1, 1000, [7]),
        (5, 10, 1000, [1]),
    ],
)
def test_blocks_are_the_mini_batches_of_an_epoch_as_bytes(
    count: int, batch_size: int, block_size: int, lengths: list[int]
) -> None:
    digits = numbered(count)
    blocks = Blocks(digits, batch_size, 3, "cpu", block_size)
    mini_batches = MiniBatches(digits, batch_size, 3)
    for epoch in (0, 5):
        blocks.set_epoch(epoch)
        mini_batches.set_epoch(epoch)
        assert [len(labels) for _, labels in blocks] == lengths
        assert {images.dtype for images, _ in blocks} == {torch.uint8}
        unstacked = [mini_batch for images, labels in blocks for mini_batch in zip(images, labels, strict=True)]
        for (images, labels), (floats, expected) in zip(unstacked, mini_batches, strict=True):
            assert torch.equal(labels, expected)
            assert torch.equal(images / 255, floats)
    assert len(blocks) == len(lengths)
