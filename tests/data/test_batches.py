from collections.abc import Callable, Iterable
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchdigits.data.batches import Blocks, MiniBatches, blocks_of, epoch_order
from torchdigits.data.datasets import Digits


def numbered(count: int) -> Digits:
    """Examples whose label is their number, and their pixels its remainder by 256."""
    numbers = torch.arange(count)
    return Digits((numbers % 256).to(torch.uint8)[:, None].expand(-1, 784).contiguous(), numbers)


def epochs(**more: st.SearchStrategy[int]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Any epoch of any run: how many examples in mini-batches of which size, and what decides their order."""
    seeds, numbers = st.integers(0, 2**32 - 1), st.integers(0, 10**6)
    return given(count=st.integers(1, 150), batch_size=st.integers(1, 200), seed=seeds, epoch=numbers, **more)


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


@epochs()
@settings(deadline=None)
def test_an_epoch_is_its_order_cut_into_mini_batches(count: int, batch_size: int, seed: int, epoch: int) -> None:
    """Every example comes once, whatever the sizes, and the last, shorter mini-batch is kept."""
    order = np.random.default_rng((seed, epoch)).permutation(count).tolist()
    batches = MiniBatches(numbered(count), batch_size, seed)
    batches.set_epoch(epoch)
    wanted = [order[start : start + batch_size] for start in range(0, count, batch_size)]
    assert taken(batches) == taken(batches) == wanted
    assert len(batches) == len(wanted)


def test_without_a_seed_the_order_is_kept() -> None:
    assert taken(MiniBatches(numbered(5), 2)) == [[0, 1], [2, 3], [4]]


@given(st.integers(1, 150), st.integers(1, 40), st.integers(1, 6))
@settings(deadline=None)
def test_processes_share_each_mini_batch_that_one_would_take(count: int, batch_size: int, processes: int) -> None:
    alone = taken(MiniBatches(numbered(count), min(batch_size, count) * processes, seed=1))
    shared = [
        MiniBatches(numbered(count), batch_size, 1, process=process, processes=processes)
        for process in range(processes)
    ]
    assert {len(batches) for batches in shared} == {len(alone)}
    for whole, shares in zip(alone, zip(*map(taken, shared), strict=True), strict=True):
        assert flat(shares) == whole
        lengths = [len(share) for share in shares]
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[0] - lengths[-1] <= 1


@pytest.mark.parametrize("block_size", [None, 2])
def test_mini_batches_are_on_the_device_that_is_asked_for(block_size: int | None) -> None:
    digits, meta = numbered(25), torch.device("meta")
    mini_batches = MiniBatches(digits, 10, 1, meta) if block_size is None else Blocks(digits, 10, 1, meta, block_size)
    for images, labels in mini_batches:
        assert images.device == labels.device == meta


def test_the_orders_of_several_networks_are_cut_together() -> None:
    orders = torch.arange(24).view(12, 2)
    blocks = blocks_of(orders, 5, 2)
    assert [tuple(block.shape) for block in blocks] == [(2, 5, 2), (1, 2, 2)]
    assert torch.equal(torch.cat([block.flatten(0, 1) for block in blocks]), orders)


@epochs(block_size=st.integers(1, 60))
@settings(deadline=None)
def test_blocks_are_the_mini_batches_of_an_epoch_as_bytes(
    count: int, batch_size: int, seed: int, epoch: int, block_size: int
) -> None:
    digits = numbered(count)
    blocks, mini_batches = Blocks(digits, batch_size, seed, "cpu", block_size), MiniBatches(digits, batch_size, seed)
    for batches in (blocks, mini_batches):
        batches.set_epoch(epoch)
    assert {images.dtype for images, _ in blocks} == {torch.uint8}
    unstacked = [mini_batch for images, labels in blocks for mini_batch in zip(images, labels, strict=True)]
    for (images, labels), (floats, expected) in zip(unstacked, mini_batches, strict=True):
        assert torch.equal(labels, expected)
        assert torch.equal(images / 255, floats)
    # As few as can be, of one size but for those that are left over, so that few sizes are compiled.
    sizes = [len(labels) for _, labels in blocks]
    full, rest = divmod(count, min(batch_size, count))
    if rest:
        assert sizes.pop() == 1
    number = -(-full // block_size)
    assert sizes[:number] == [full // number] * number
    assert sizes[number:] == [full % number] * (full % number > 0)
    assert len(blocks) == len(list(blocks))
