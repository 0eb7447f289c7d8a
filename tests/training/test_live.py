"""A run that is watched is the run of `train`, however its updates are portioned."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import cycle, repeat
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from conftest import Uncompiled, leave_uncompiled

from torchdigits import load_network
from torchdigits.data.batches import epoch_order
from torchdigits.data.datasets import DigitSplits
from torchdigits.engines.compiler import Block, Train, Update, sgd_loop
from torchdigits.engines.library import BuildError
from torchdigits.errors import DivergedError, OptionError
from torchdigits.network import SigmoidMLP
from torchdigits.proof.gradients import parameters_of, reference_of
from torchdigits.proof.reference import columns, one_hot
from torchdigits.recognition.measuring import Measurement, measure
from torchdigits.training import live
from torchdigits.training.live import LiveRun, live_run
from torchdigits.training.options import TrainOptions
from torchdigits.training.run import train


def options(folder: Path, **changes: object) -> TrainOptions:
    return replace(TrainOptions(dataset="digits", epochs=2, accelerator="cpu", output=folder), **changes)  # type: ignore[arg-type]


def finish(run: LiveRun, portion: Callable[[], int]) -> int:
    """Take all updates, in these portions; how many there were."""
    taken = 0
    while not run.finished:
        most = portion()
        if run.waits(most):
            time.sleep(0.01)
            continue
        step = run.advance(most)
        assert 1 <= step <= most
        taken += step
    return taken


def assert_same(network: SigmoidMLP, path: Path) -> None:
    expected = load_network(path).state_dict()
    assert network.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


PORTIONS: dict[str, Callable[[], Callable[[], int]]] = {
    "one": lambda: partial(next, repeat(1)),
    "as many as can be": lambda: partial(next, repeat(10**9)),
    "any": lambda: partial(Random(0).choice, [1, 1, 2, 10, 45, 300]),
}


@pytest.mark.parametrize("changes", [{}, {"batch_size": 32, "learning_rate": 0.7, "hidden": (12, 11)}, {"hidden": ()}])
def test_it_is_the_run_of_train_bit_for_bit(changes: dict[str, object], digits: DigitSplits, tmp_path: Path) -> None:
    wanted = options(tmp_path, **changes)
    trained = train(wanted)
    for portions in PORTIONS.values():
        with live_run(wanted, digits) as run:
            assert finish(run, portions()) == run.updates == 2 * run.updates_in_epoch
        assert_same(run.network, trained.folder / "last.ckpt")
        assert run.best is not None
        assert_same(run.best.network, trained.folder / "best.ckpt")
        assert run.best.epoch == trained.best["epoch"]
        assert run.test is not None
        assert run.test.correct == trained.test.correct
        assert run.exact
        assert not run.changed


@pytest.mark.slow
def test_the_same_with_updates_in_blocks(digits: DigitSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Singly(Uncompiled):
        def __init__(self, update: Update, parameters: object, block: Block, *_: object) -> None:
            super().__init__(update)
            assert [tuple(part.shape) for part in block] == [(1, 13, 784), (1, 13)]

    leave_uncompiled(monkeypatch)
    monkeypatch.setattr(live, "Building", Singly)
    wanted = options(tmp_path, engine="compiled", batch_size=13)  # 93 mini-batches of 13, and one of 8
    trained = train(wanted)
    for portions in PORTIONS.values():
        with live_run(wanted, digits) as run:
            assert finish(run, portions()) == 2 * 94
        assert_same(run.network, trained.folder / "last.ckpt")


@pytest.mark.slow
def test_the_same_compiled(digits: DigitSplits, tmp_path: Path) -> None:
    wanted = options(tmp_path, engine="compiled", epochs=3)
    trained = train(wanted)
    for portions in PORTIONS.values():
        with live_run(wanted, digits) as run:
            finish(run, portions())
            assert run.engine is not None
            assert run.engine.name == "compiled"
            assert run.exact
        assert_same(run.network, trained.folder / "last.ckpt")


@pytest.mark.slow
def test_single_updates_with_other_bits_are_told(
    digits: DigitSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(Uncompiled):
        def library(self) -> Train:
            def train(*arguments: object) -> object:
                parameters, activations = sgd_loop(self.update, *arguments)  # type: ignore[arg-type]
                return {name: value * (1 + 2**-22) for name, value in parameters.items()}, activations

            return train  # type: ignore[return-value]

    class Failing(Uncompiled):
        def library(self) -> Train:
            raise BuildError("no compiler")

    leave_uncompiled(monkeypatch)
    for building in (Other, Failing):
        monkeypatch.setattr(live, "Building", building)
        with live_run(options(tmp_path, engine="compiled", epochs=1), digits) as run:
            finish(run, partial(next, cycle([100, 1])))
            assert not run.exact
        trained = train(options(tmp_path, engine="compiled", epochs=1))
        assert_same(run.network, trained.folder / "last.ckpt")  # by the uncompiled updates, which here are the same


def test_it_waits_for_the_compiler(digits: DigitSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready: list[bool] = []
    stopped: list[bool] = []
    in_time: list[bool] = []

    class Slow(Uncompiled):
        def library(self) -> Train:
            end = time.monotonic() + 20
            while not ready and time.monotonic() < end:
                time.sleep(0.01)
            in_time.append(time.monotonic() < end)
            return super().library()

        def stop(self) -> None:
            stopped.append(True)
            ready.append(True)

    leave_uncompiled(monkeypatch)
    monkeypatch.setattr("torchdigits.engines.choice.Building", Slow)
    monkeypatch.setattr(live, "Building", Slow)
    with live_run(options(tmp_path, engine="compiled"), digits) as run:
        assert run.engine is None
        assert run.waits(500)
        assert run.advance(500) == run.updates == 0
        ready.append(True)
        while run.waits(500):
            time.sleep(0.01)
        ready.clear()
        assert run.waits(1)  # for single updates, which are compiled only when they are asked for
        assert run.advance(1) == 0
        assert run.advance(500) == run.updates == 121  # a whole block, which needs no single ones
        assert len(stopped) == 1  # what compiled the block
    assert len(stopped) == 3  # that again, and what still compiled single ones
    ready.clear()
    with live_run(options(tmp_path, engine="compiled"), digits) as run:
        assert run.waits(1)
    assert False not in in_time  # nobody has waited for the end of what was still being compiled


def test_the_learning_rate_may_change_on_the_way(digits: DigitSplits, tmp_path: Path) -> None:
    wanted = options(tmp_path, precision="64")
    order = epoch_order(len(digits.training.labels), wanted.seed, 0)
    with live_run(wanted, digits) as run:
        twin = reference_of(run.network)
        for rate, updates in ((3.0, 5), (0.5, 7), (30.0, 3)):
            start = run.updates
            run.change_learning_rate(rate)
            assert run.changed == (start > 5)  # once an update was taken with another
            while run.updates < start + updates:
                run.advance(start + updates - run.updates)
            for update in range(start, start + updates):
                chosen = order[10 * update : 10 * update + 10]
                images, labels = (part[chosen].numpy() for part in digits.training)
                twin.update_mini_batch(columns(images), one_hot(labels), rate)
        for name, value in parameters_of(run.network).items():
            np.testing.assert_allclose(value, parameters_of(twin)[name], rtol=0, atol=1e-12)
        with pytest.raises(OptionError):
            run.change_learning_rate(0)


def test_a_learning_rate_that_no_update_was_taken_with_changes_nothing(digits: DigitSplits, tmp_path: Path) -> None:
    with live_run(options(tmp_path), digits) as run:
        run.change_learning_rate(0.3)
        assert not run.changed
        run.change_learning_rate(3)
        while not run.advance(1):  # until the engine is there
            assert not run.changed
        assert not run.changed
        run.change_learning_rate(0.3)
        assert run.advance(1) == 1
        run.change_learning_rate(3)
        assert run.changed


def test_measures_are_those_of_the_network_of_the_moment(digits: DigitSplits, tmp_path: Path) -> None:
    with live_run(options(tmp_path), digits) as run:
        assert not run.epochs
        assert (run.latest, run.best, run.test) == (None, None, None)
        before = run.network
        assert run.measure().correct == measure(before, digits.validation).correct
        finish(run, partial(next, repeat(10**9)))
        latest: Measurement | None = run.latest
        assert latest is not None
        assert latest.cost == measure(run.network, digits.validation).cost
        assert latest.cost < measure(before, digits.validation).cost
        assert run.advance(1) == 0  # it has finished
        next(run.network.parameters()).data.zero_()  # it is a copy
        assert run.measure().cost == latest.cost


def test_what_diverges_ends(digits: DigitSplits, tmp_path: Path) -> None:
    with live_run(options(tmp_path, epochs=3), digits) as run:
        run.parameters["layers.0.weight"][0, 0] = torch.nan
        with pytest.raises(DivergedError, match="epoch 1"):
            finish(run, partial(next, repeat(10**9)))


def test_torchs_settings_are_put_back(digits: DigitSplits, tmp_path: Path) -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.get_default_dtype(), torch.get_num_threads()
    with live_run(options(tmp_path, precision="64"), digits):
        assert torch.are_deterministic_algorithms_enabled()
    assert before == (torch.are_deterministic_algorithms_enabled(), torch.get_default_dtype(), torch.get_num_threads())
