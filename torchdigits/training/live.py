"""A run that is watched: the updates of `train`, in portions, and nothing of them on the disk."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from torchdigits.data.batches import blocks_of, epoch_order
from torchdigits.data.datasets import DigitSplits
from torchdigits.engines.choice import BLOCK_SIZE, Engine, EngineChoice, products_of
from torchdigits.engines.compiler import Block, Held, NetworkUpdate, Train, layers_without_numbers, sgd_loop
from torchdigits.engines.library import BuildError, Building
from torchdigits.engines.machine import PRECISIONS, find_machine, threads_for
from torchdigits.errors import DivergedError
from torchdigits.network import SigmoidMLP
from torchdigits.recognition.measuring import Measurement, measure
from torchdigits.sgd import Parameters, check_learning_rate
from torchdigits.training.options import TrainOptions


class Best(NamedTuple):
    """The network of the epoch with the most validation images recognised; of several, the first.

    Attributes:
        epoch: it, from 1.
        correct: how many validation images.
        network: a copy.
    """

    epoch: int
    correct: int
    network: SigmoidMLP


@contextmanager
def live_run(options: TrainOptions, splits: DigitSplits) -> Iterator["LiveRun"]:
    """A run on the CPU that begins; while it lasts, torch is set as `train` sets it.

    Args:
        options: of the run; `output`, `accelerator` and `devices` are not used.
        splits: the dataset.

    Raises:
        OptionError: options that this machine cannot honour.
    """
    machine = find_machine("cpu", 1, options.precision)
    products = products_of(options.sizes, options.batch_size)
    run = options.sizes, splits.training, options.batch_size, options.epochs, options.seed
    with ExitStack() as stack:
        choice = EngineChoice(options.engine, *run, machine, threads_for(products))
        stack.callback(choice.close)
        torch.manual_seed(options.seed)
        network = SigmoidMLP(options.sizes).to(PRECISIONS[options.precision].dtype)
        stack.enter_context(machine.settings(products))
        yield stack.enter_context(LiveRun(options, splits, network, choice))


class LiveRun:
    """A run, of which updates are taken as they are asked for; `live_run` makes it.

    All updates of it, however they are portioned, give the network that `train` gives with the same options, bit for
    bit, unless the learning rate is changed on the way, or `exact` turns false.

    Attributes:
        options: of the run.
        splits: the dataset.
        parameters: of the network of this moment, by the names of `network.named_parameters()`.
        updates: taken so far.
        epochs: finished so far.
        learning_rate: eta of the next update; set it by `change_learning_rate`.
        changed: whether an update was taken with another than the options'.
        exact: false if single updates could not be compiled, or differ in their last bits from those in a block.
        latest: what the network made of the validation images after the last epoch; None before.
        best: so far; None before the first epoch ends.
        test: what the best network makes of the test images; None until the run ends.
    """

    def __init__(self, options: TrainOptions, splits: DigitSplits, network: SigmoidMLP, choice: EngineChoice) -> None:
        self.options, self.splits = options, splits
        self.parameters: Parameters = {name: value.detach() for name, value in network.named_parameters()}
        self.learning_rate = options.learning_rate
        self.updates = self.epochs = 0
        self.changed, self.exact = False, True
        self.latest: Measurement | None = None
        self.best: Best | None = None
        self.test: Measurement | None = None
        self._update = NetworkUpdate(options.sizes)
        self._block_size = choice.block_size or BLOCK_SIZE
        self._blocks, self._within = self._epoch(), 0
        self._first = self.parameters, self._gathered(self._blocks[0])
        self._beside = ThreadPoolExecutor(1)
        self._made: Future[tuple[Train, Engine]] = self._beside.submit(choice.updates, network)
        self._singly: Future[Train] | None = None
        self._building: Building | None = None  # of single updates
        self._one: Train | None = None

    def __enter__(self) -> "LiveRun":
        return self

    def __exit__(self, *_: object) -> None:
        if self._building is not None:
            self._building.stop()
        self._beside.shutdown(wait=False, cancel_futures=True)

    @property
    def updates_in_epoch(self) -> int:
        return -(-len(self.splits.training.labels) // self.options.batch_size)

    @property
    def finished(self) -> bool:
        return self.epochs == self.options.epochs

    @property
    def engine(self) -> Engine | None:
        """The one that takes the updates; None as long as it is compiled.

        Raises:
            OptionError: the compiled engine was asked for, and cannot be had.
        """
        return self._made.result()[1] if self._made.done() else None

    @property
    def network(self) -> SigmoidMLP:
        """A copy of the network of this moment."""
        network = layers_without_numbers(self.options.sizes)
        network.load_state_dict({name: value.clone() for name, value in self.parameters.items()}, assign=True)
        return network

    def change_learning_rate(self, learning_rate: float) -> None:
        """Take the next updates with another learning rate.

        Raises:
            OptionError: it is not a positive number.
        """
        check_learning_rate(learning_rate)
        self.learning_rate = learning_rate

    def waits(self, most: int) -> bool:
        """Whether `advance` would take none, as what it needs is still being compiled."""
        if (engine := self.engine) is None:
            return True
        if engine.name == "eager" or not self._is_part(most):
            return False
        if self._singly is None:
            self._singly = self._beside.submit(self._compile_singly)
        return not self._singly.done()

    @torch.no_grad()
    def advance(self, most: int) -> int:
        """Take updates: as many, or fewer, as a block ends there; none while it `waits`, or when all are taken.

        At the end of an epoch the network is shown the validation images, and at the end of the run the best one the
        test images.

        Returns:
            How many were taken.

        Raises:
            DivergedError: weights are NaN or infinite after an epoch.
        """
        if self.finished or self.waits(most):
            return 0
        block = self._blocks[0]
        places = block[self._within : self._within + most]
        held = self._held(self.learning_rate)
        self.parameters, _ = self._updates_for(most)(self.parameters, self._gathered(places), held)
        self.changed = self.changed or self.learning_rate != self.options.learning_rate
        self.updates += len(places)
        self._within += len(places)
        if self._within == len(block):
            self._within = 0
            del self._blocks[0]
            if not self._blocks:
                self._end_epoch()
        return len(places)

    def measure(self) -> Measurement:
        """What the network of this moment makes of the validation images."""
        return measure(self.network, self.splits.validation)

    def _epoch(self) -> list[Tensor]:
        """The places of the next epoch's examples, in blocks `(S, m)`."""
        order = epoch_order(len(self.splits.training.labels), self.options.seed, self.epochs)
        return blocks_of(order, self.options.batch_size, self._block_size)

    def _end_epoch(self) -> None:
        self.epochs += 1
        if not all(value.isfinite().all() for value in self.parameters.values()):
            raise DivergedError(f"epoch {self.epochs}: weights are NaN or infinite; use a smaller learning rate")
        self.latest = self.measure()
        if self.best is None or self.latest.correct > self.best.correct:
            self.best = Best(self.epochs, self.latest.correct, self.network)
        if self.finished:
            self.test = measure(self.best.network, self.splits.test)
        else:
            self._blocks = self._epoch()

    def _gathered(self, places: Tensor) -> Block:
        images, labels = (part.index_select(0, places.flatten()) for part in self.splits.training)
        return images.view(*places.shape, -1), labels.view(places.shape)

    def _is_part(self, most: int) -> bool:
        """Whether so many updates are a part of a block that is compiled as a whole."""
        block = self._blocks[0]
        return block.shape == self._first[1][1].shape and (self._within > 0 or most < len(block))

    def _updates_for(self, most: int) -> Train:
        """What takes so many updates of the current block, as `train` would."""
        train, engine = self._made.result()
        if engine.name == "eager":
            return train
        if self._is_part(most):
            self._one = self._one or self._checked_singly(train)
            return self._one
        return train if self._blocks[0].shape == self._first[1][1].shape else partial(sgd_loop, self._update)

    def _compile_singly(self) -> Train:
        """The compiled updates of blocks of one.

        Raises:
            BuildError: they cannot be compiled.
        """
        (parameters, block), update = self._first, NetworkUpdate(self.options.sizes)
        one, held = tuple(part[:1] for part in block), self._held(self.options.learning_rate)
        self._building = Building(update, parameters, one, held, torch.get_num_threads())
        return self._building.library()

    def _checked_singly(self, train: Train) -> Train:
        """The compiled updates one at a time, if they are those of `train` to the last bit; else uncompiled."""
        assert self._singly is not None
        (parameters, block), held = self._first, self._held(self.options.learning_rate)
        with suppress(BuildError):  # the uncompiled updates are as right, and slower
            singly = partial(_singly, self._singly.result())
            ours, theirs = singly(parameters, block, held)[0], train(parameters, block, held)[0]
            if all(torch.equal(ours[name], value) for name, value in theirs.items()):
                return singly
        self.exact = False
        return partial(sgd_loop, self._update)

    def _held(self, learning_rate: float) -> Held:
        return (torch.tensor(learning_rate, dtype=next(iter(self.parameters.values())).dtype),)


def _singly(one: Train, parameters: Parameters, block: Block, held: Held) -> tuple[Parameters, Tensor]:
    """The updates of a block by what takes one at a time."""
    activations = []
    for place in range(len(block[0])):
        parameters, outputs = one(parameters, tuple(part[place : place + 1] for part in block), held)
        activations.append(outputs)
    return parameters, torch.cat(activations)
