"""A population cut into slices, each trained as one ensemble, several side by side."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import groupby, pairwise

import torch

from torchdigits.data.datasets import DigitSplits
from torchdigits.engines.choice import BLOCK_SIZE, worth_compiling
from torchdigits.engines.machine import torch_settings
from torchdigits.population.ensemble import IMAGES_AT_ONCE, Ensemble, Trained
from torchdigits.population.members import Member

NOT_WORTH_COMPILING = "not compiled, as these updates are too few to be worth compiling"
# Networks in a slice, at most. On a CPU, more are no faster: measured with 2 to 16.
_SLICE = {"cpu": 8, "cuda": 256, "mps": 256}


def memory_for_slices(device: torch.device) -> int:
    """Bytes that a slice may take there: half of what a GPU has left; little on a CPU, which trains several at once."""
    return int(torch.cuda.mem_get_info(device)[0]) // 2 if device.type == "cuda" else 2**30


def slices_of(members: Sequence[Member], device: torch.device, memory: int, batch_size: int = 10) -> list[list[Member]]:
    """Cut a population into slices that are trained as one: of the same layers, of equal size, and that fit memory.

    How many of them are trained at a time does not matter for it: so a population has the same slices, and the same
    results, on any number of threads or machines of the same kind.
    """
    slices = []
    for hidden in dict.fromkeys(member.hidden for member in members):
        alike = [member for member in members if member.hidden == hidden]
        parameters = sum((inputs + 1) * outputs for inputs, outputs in pairwise(alike[0].sizes))
        # Parameters, old and new, captured and copied, and gradients; a mini-batch; what is measured at once; and twice
        # a block's activations and the places of its examples, which are of eight bytes.
        values = 6 * parameters + 2 * 784 * batch_size + 2 * IMAGES_AT_ONCE * (sum(hidden) + 10)
        values += 2 * BLOCK_SIZE * batch_size * (10 + 2)
        count = -(-len(alike) // min(max(memory // (4 * values), 1), _SLICE[device.type]))
        size = -(-len(alike) // count)
        slices += [alike[start : start + size] for start in range(0, len(alike), size)]
    return slices


def slices_worth_compiling(slices: Sequence[Sequence[Member]], splits: DigitSplits, epochs: int) -> bool:
    """Whether slices of the same layers take enough updates together for compiling to pay; mini-batches are of 10."""
    return worth_compiling(len(slices) * epochs * -(-len(splits.training.labels) // 10))


def train_slices(
    slices: Sequence[Sequence[Member]],
    splits: DigitSplits,
    epochs: int,
    device: torch.device,
    compiled: bool,
    compiling: Callable[[str, float], None],
    advance: Callable[[float], None],
) -> Iterator[Trained]:
    """Train slices on this machine, on a CPU as many at a time as torch has threads; each as soon as it is done.

    Args:
        slices: of `slices_of`, or some of them.
        splits: the dataset.
        epochs: passes over the training images.
        device: where to train.
        compiled: whether to compile the updates, if torch can and it pays.
        compiling: is told whether it is done, and why not, and the seconds it took.
        advance: is told of progress, in networks times epochs; several threads call it.
    """
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    stop = threading.Event()

    def train(stack: Ensemble, members: Sequence[Member]) -> Trained:
        before = 0.0

        def after_block(passed: float) -> None:
            nonlocal before
            if stop.is_set():
                raise InterruptedError
            advance((passed - before) * len(members))
            before = passed

        return stack.train(members, epochs, after_block)

    with torch_settings(0, torch.float32):  # one thread of torch's in each of ours
        for hidden, group in groupby(slices, key=lambda members: members[0].hidden):
            alike = list(group)
            stack = Ensemble((784, *hidden, 10), max(map(len, alike)), splits, device)
            if compiled and slices_worth_compiling(alike, splits, epochs):
                start = time.perf_counter()
                compiling(stack.compile(), time.perf_counter() - start)
            elif compiled:
                compiling(NOT_WORTH_COMPILING, 0)
            with ThreadPoolExecutor(workers) as pool:
                stop.clear()
                futures = [pool.submit(train, stack, members) for members in alike]
                try:
                    for future in as_completed(futures):
                        yield future.result()
                finally:
                    stop.set()
                    pool.shutdown(cancel_futures=True)
            del stack, futures  # and with them the device's memory, before the next
