"""Networks of the same layers trained as one: parameters stacked along a first axis, `sgd_step` mapped over it."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from torchdigits.data.batches import blocks_of, epoch_order
from torchdigits.data.datasets import DigitSplits
from torchdigits.engines.check import WrongUpdatesError, check_updates
from torchdigits.engines.choice import BLOCK_SIZE
from torchdigits.engines.compiler import Block, CapturedBlock, Held, Train, layers_without_numbers, sgd_loop
from torchdigits.engines.library import Building
from torchdigits.errors import root_cause
from torchdigits.network import SigmoidMLP
from torchdigits.population.members import Member, Row
from torchdigits.sgd import Parameters, sgd_step

LOST = 0.5  # recall under which a digit counts as lost
IMAGES_AT_ONCE = 500  # when they are measured

_generator = threading.Lock()  # torch's, from which first weights are drawn, is one for all threads


class Trained(NamedTuple):
    """What became of a slice.

    Attributes:
        rows: one for each epoch and network.
        networks: after the last epoch, in the order of the members.
        best: the row of the most validation images, the first of several; None if all networks diverged at once.
        best_network: that network as it was then.
    """

    rows: list[Row]
    networks: list[SigmoidMLP]
    best: Row | None
    best_network: SigmoidMLP | None


class Ensemble:
    """Trains slices of up to `count` networks of the same layers on one device; several threads may do so at once.

    Args:
        sizes: neurons in each layer, the inputs first.
        count: K, networks in a slice. A slice of fewer is filled up with copies, which are dropped again.
        splits: the dataset; it is kept as floats.
        device: where to train.
        dtype: of all parameters.
        batch_size: images in a mini-batch.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        count: int,
        splits: DigitSplits,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        batch_size: int = 10,
    ) -> None:
        self.sizes, self.count, self.batch_size = tuple(sizes), count, batch_size
        self._training, *self._held_out = (
            (_floats(part.images, dtype).to(device), part.labels.to(device)) for part in splits
        )
        self._device, self._dtype, self._examples = device, dtype, len(splits.training.labels)
        self._compiled: tuple[torch.Size, Train] | None = None

    @torch.no_grad()
    def compile(self, callers: int = 1) -> str:
        """Compile the updates, if torch can here, and check them on a first block; whether it could, and why not.

        Args:
            callers: threads that will train at once.
        """
        filled, update = [Member(self.sizes[1:-1], 3.0, seed) for seed in range(self.count)], EnsembleUpdate(self.sizes)
        parameters, held = self._first_parameters(filled), self._held(filled)
        block = (self._blocks(filled, 0)[0].to(self._device),)
        train: Train
        try:
            if self._device.type == "cuda":
                train = CapturedBlock(update)
            else:
                threads = torch.get_num_threads()
                train = Building(update, parameters, block, held, threads, callers).library()
            check_updates(train, partial(sgd_loop, update), parameters, block, held)
        except WrongUpdatesError as error:
            return f"not compiled, as it is wrong on this machine: {error}"
        except Exception as error:  # whatever it is, the networks can be trained without
            return f"not compiled, as torch could not: {root_cause(error)}"
        self._compiled = block[0].shape, train
        return "compiled"

    @torch.no_grad()
    def train(
        self, members: Sequence[Member], epochs: int, after_block: Callable[[float], None] = lambda _: None
    ) -> Trained:
        """Train a slice.

        Args:
            members: 1 to `count`, all of this ensemble's layers.
            epochs: passes over the training images.
            after_block: is told how many epochs have been passed, in parts too; may raise, to stop.
        """
        filled = self._filled(members)
        parameters, held = self._first_parameters(filled), self._held(filled)
        update = EnsembleUpdate(self.sizes)  # of its own, as other threads have theirs
        rows: list[Row] = []
        most, best, best_network = -1, None, None
        for epoch in range(epochs):
            passed = 0
            for places in self._blocks(filled, epoch):
                block = places.to(self._device)
                if self._compiled is not None and block.shape == self._compiled[0]:
                    parameters, _ = self._compiled[1](parameters, (block,), held)
                else:
                    parameters, _ = sgd_loop(update, parameters, (block,), held)
                passed += block.shape[0] * block.shape[2]
                after_block(epoch + passed / self._examples)
            measured = self._measure(members, epoch + 1, parameters)
            rows += measured
            for place, row in enumerate(measured):
                if row.validation_correct is not None and row.validation_correct > most:
                    most, best, best_network = row.validation_correct, row, self._network_of(parameters, place)
        return Trained(rows, [self._network_of(parameters, place) for place in range(len(members))], best, best_network)

    def _filled(self, members: Sequence[Member]) -> list[Member]:
        return [*members, *[members[0]] * (self.count - len(members))]

    def _held(self, members: Sequence[Member]) -> Held:
        """What `EnsembleUpdate` holds: the learning rates, and all training examples."""
        rates = torch.tensor([member.learning_rate for member in members], dtype=torch.float64)
        return rates.to(self._dtype).to(self._device), *self._training

    def _network_of(self, parameters: Parameters, place: int) -> SigmoidMLP:
        """A copy of one of the networks, on the CPU."""
        network = layers_without_numbers(self.sizes)
        state = {name: value[place].to("cpu", copy=True) for name, value in parameters.items()}
        network.load_state_dict(state, assign=True)
        return network

    def _first_parameters(self, members: Sequence[Member]) -> Parameters:
        """The stacked parameters `(K, ...)`."""
        networks = [dict(_first_network(self.sizes, member.seed).named_parameters()) for member in members]
        stacked = {name: torch.stack([network[name].detach() for network in networks]) for name in networks[0]}
        return {name: value.to(self._dtype).to(self._device) for name, value in stacked.items()}

    def _blocks(self, members: Sequence[Member], epoch: int) -> list[Tensor]:
        """The places of an epoch's examples, in blocks `(S, K, m)`, on the CPU."""
        orders = {seed: epoch_order(self._examples, seed, epoch) for seed in {member.seed for member in members}}
        order = torch.stack([orders[member.seed] for member in members], 1)
        return [block.movedim(2, 1).contiguous() for block in blocks_of(order, self.batch_size, BLOCK_SIZE)]

    def _measure(self, members: Sequence[Member], epoch: int, parameters: Parameters) -> list[Row]:
        flags = [value.reshape(self.count, -1).isfinite().all(1) for value in parameters.values()]
        finite = torch.stack(flags).all(0).tolist()
        validation, test = (self._recognised(parameters, *part) for part in self._held_out)
        totals = torch.bincount(self._held_out[1][1].cpu(), minlength=self.sizes[-1])
        rows = []
        for place, member in enumerate(members):
            if finite[place]:
                lost = (test[place] < LOST * totals).nonzero()[:, 0].tolist()
                correct = int(validation[place].sum()), int(test[place].sum())
                rows.append(Row(member, epoch, *correct, " ".join(map(str, lost))))
            else:
                rows.append(Row(member, epoch, None, None, ""))
        return rows

    def _recognised(self, parameters: Parameters, images: Tensor, labels: Tensor) -> Tensor:
        """Images of each digit that each network recognises, `(K, 10)`."""
        weights, biases = [[*parameters.values()][first::2] for first in (0, 1)]
        counts = torch.zeros(self.count, self.sizes[-1], dtype=torch.int64)
        for part, truth in zip(*(torch.split(tensor, IMAGES_AT_ONCE) for tensor in (images, labels)), strict=True):
            # By hand, as torch makes one product of the first layer's for all networks; by vmap it takes twice as long.
            activations = part.T
            for weight, bias in zip(weights, biases, strict=True):
                activations = torch.sigmoid(weight @ activations + bias[:, :, None])
            right = activations.argmax(1) == truth
            digits = truth == torch.arange(self.sizes[-1], device=truth.device)[:, None]
            counts += (right[:, None] & digits).sum(2).cpu()
        return counts


def _floats(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Images as floats in [0, 1], by NumPy, which asks Linux for large pages: random rows are gathered faster there.

    Bytes would be read faster still, but Inductor's conversion takes twice as long as all the reading.
    """
    numpy_dtype = np.float64 if dtype == torch.float64 else np.float32
    return torch.from_numpy(np.divide(images.numpy(), 255, dtype=numpy_dtype))


def _first_network(sizes: tuple[int, ...], seed: int) -> SigmoidMLP:
    """As `train.py` draws it."""
    with _generator, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SigmoidMLP(sizes)


class EnsembleUpdate:
    """`sgd_step` of each of K networks on its own mini-batch, given as the places `(K, m)` of its examples.

    Held are the learning rates `(K,)`, all images `(N, 784)`, floats in [0, 1], and their labels `(N,)`. It is not for
    several threads at once: `functional_call` changes its network for a moment.

    Args:
        sizes: neurons in each layer, the inputs first.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes, self._network = sizes, layers_without_numbers(sizes)

    def __call__(self, parameters: Parameters, mini_batch: Block, held: Held) -> tuple[Parameters, Tensor]:
        (chosen,), (rates, images, labels) = mini_batch, held
        targets = (labels[chosen][..., None] == torch.arange(self.sizes[-1], device=labels.device)).to(images.dtype)
        step = vmap(partial(sgd_step, self._network))
        updated, activations = step(rates, parameters, (images[chosen], targets))
        return updated, activations.clone()  # for scan, whose results must not be views of one another
