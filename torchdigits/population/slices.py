"""A population cut into slices, each trained as one ensemble, several side by side."""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import groupby

import torch

from torchdigits.data.datasets import DigitSplits
from torchdigits.engines.choice import BLOCK_SIZE, too_few, worth_compiling
from torchdigits.engines.machine import torch_settings
from torchdigits.network import count_parameters
from torchdigits.population.ensemble import IMAGES_AT_ONCE, Ensemble, Trained
from torchdigits.population.members import Member

# Networks in a slice, at most. On a CPU, more are no faster: measured with 2 to 16.
_SLICE = {"cpu": 8, "cuda": 256, "mps": 256}


def memory_for_slices(device: torch.device) -> int:
    """Bytes that a slice may take there: half of a GPU's free memory; 1 GiB on a CPU, which trains several at once."""
    return int(torch.cuda.mem_get_info(device)[0]) // 2 if device.type == "cuda" else 2**30


def slices_of(members: Sequence[Member], device: torch.device, memory: int, batch_size: int = 10) -> list[list[Member]]:
    """Cut a population into slices that are trained as one: of the same layers, of equal size, and that fit memory.

    A population has the same slices, and so the same results, on any number of threads or machines of the same kind.
    """
    slices = []
    for hidden in dict.fromkeys(member.hidden for member in members):
        alike = [member for member in members if member.hidden == hidden]
        parameters = count_parameters(alike[0].sizes)
        # Parameters, old and new, captured and copied, and gradients; a mini-batch; what is measured at once; and twice
        # a block's activations and the places of its examples, which are of eight bytes.
        values = 6 * parameters + 2 * 784 * batch_size + 2 * IMAGES_AT_ONCE * (sum(hidden) + 10)
        values += 2 * BLOCK_SIZE * batch_size * (10 + 2)
        count = -(-len(alike) // min(max(memory // (4 * values), 1), _SLICE[device.type]))
        size = -(-len(alike) // count)
        slices += [alike[start : start + size] for start in range(0, len(alike), size)]
    return slices


def why_not_compiled(slices: Sequence[Sequence[Member]], splits: DigitSplits, epochs: int) -> str:
    """The words if slices of the same layers take too few updates together, of 10 examples each; else nothing."""
    updates = len(slices) * epochs * -(-len(splits.training.labels) // 10)
    return "" if worth_compiling(updates) else f"not compiled, {too_few(updates)}"


def missing_of(slices: Sequence[Sequence[Member]], known: Collection[Member]) -> list[list[Member]]:
    """What is left of slices without the networks that are known already."""
    left = ([member for member in members if member not in known] for members in slices)
    return [members for members in left if members]


def train_slices(
    slices: Sequence[Sequence[Member]],
    splits: DigitSplits,
    epochs: int,
    device: torch.device,
    compiled: bool,
    compiling: Callable[[str, float], None],
    advance: Callable[[float], None],
    known: Collection[Member] = (),
) -> Iterator[Trained]:
    """Train slices on this machine, on a CPU as many at a time as torch has threads; yield each when it is done.

    Args:
        slices: what `slices_of` returns of all networks. Their number and sizes decide what is compiled, and so the
            last bits: they must be the same when a sweep goes on.
        splits: the dataset.
        epochs: passes over the training images.
        device: where to train.
        compiled: whether to compile the updates, if torch can and it pays.
        compiling: called with what became of that, in words, and the seconds that it took.
        advance: called with the progress, in networks times epochs, by several threads.
        known: networks that need no training.
    """
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    stop = threading.Event()

    def train(ensemble: Ensemble, members: Sequence[Member]) -> Trained:
        before = 0.0

        def after_block(passed: float) -> None:
            nonlocal before
            if stop.is_set():
                raise InterruptedError
            advance((passed - before) * len(members))
            before = passed

        return ensemble.train(members, epochs, after_block)

    with torch_settings(0, torch.float32):  # one thread of torch's in each of ours
        for hidden, group in groupby(slices, key=lambda members: members[0].hidden):
            alike = list(group)
            if not (missing := missing_of(alike, known)):
                continue
            ensemble = Ensemble((784, *hidden, 10), max(map(len, alike)), splits, device)
            if compiled:
                start = time.perf_counter()
                obstacle = why_not_compiled(alike, splits, epochs)
                outcome = obstacle or ensemble.compile(workers)
                compiling(outcome, 0 if obstacle else time.perf_counter() - start)
            with ThreadPoolExecutor(workers) as pool:
                stop.clear()
                futures = [pool.submit(train, ensemble, members) for members in missing]
                try:
                    for future in as_completed(futures):
                        yield future.result()
                finally:
                    stop.set()
                    pool.shutdown(cancel_futures=True)
            del ensemble, futures  # frees the device's memory before the next
