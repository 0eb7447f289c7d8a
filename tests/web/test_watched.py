"""A run that is watched, and what its process answers, in this process and by a clock that the tests turn."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Clock

from torchdigits.data.datasets import DigitSplits
from torchdigits.proof.reference import sigmoid
from torchdigits.recognition.measuring import Measurement, measure
from torchdigits.training.live import LiveRun, live_run
from torchdigits.training.options import TrainOptions
from torchdigits.web import trainer as web_trainer
from torchdigits.web import watched as web_watched
from torchdigits.web.trainer import Trainer
from torchdigits.web.watched import Watched

SLOW = 60  # seconds that a busy machine may take


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for name in ("monotonic", "perf_counter"):
        monkeypatch.setattr(web_watched, name, clock)
    return clock


@contextmanager
def watched_run(digits: DigitSplits) -> Iterator[Watched]:
    """A run of 122 updates an epoch, whose engine is there."""
    options = TrainOptions(dataset="digits", epochs=2, accelerator="cpu", engine="eager")
    with live_run(options, digits) as run:
        while run.engine is None:
            sleep(0.001)
        yield Watched(run)


def header_of(frame: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(frame[4 : 4 + int.from_bytes(frame[:4], "little")])
    return header


def test_a_pace_is_kept_to_the_update(digits: DigitSplits, clock: Clock) -> None:
    with watched_run(digits) as watched:
        assert watched.work() is None  # paused
        clock.now += 5  # which is not made up for
        watched.set(pace=10, updates=6)
        taken = []
        for passed in (0, 0.0625, 0.0625, 0.25, 0.0625, 1, 0):
            clock.now += passed
            taken.append((watched.work(), watched.run.updates))
        pauses = [None if pause is None else round(pause, 6) for pause, _ in taken]
        assert [updates for _, updates in taken] == [0, 0, 1, 3, 4, 6, 6]
        assert pauses == [0.1, 0.0375, 0.075, 0.025, 0.0625, None, None]
        clock.now += 5
        watched.set(updates=100)
        assert watched.work() == pytest.approx(0.1)
        assert watched.run.updates == 6
        watched.set(pace=0)
        assert (watched.work(), watched.run.updates) == (None, 106)
        assert watched.run.epochs == 0


def test_a_turn_is_short_and_has_more_updates_the_faster_they_are(
    digits: DigitSplits, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for: list[int] = []
    with watched_run(digits) as watched:
        advance = watched.run.advance

        def slow(most: int) -> int:
            asked_for.append(most)
            clock.now += most / 512  # so that ten fit into a turn
            return advance(most)

        monkeypatch.setattr(watched.run, "advance", slow)
        watched.set(updates=45)
        turns = [0]
        while watched.work() == 0:
            turns.append(watched.run.updates)
        assert turns == [0, 11, 31]
        assert asked_for == [1, 10, 10, 10, 10, 4]
        assert watched.run.updates == 45


def test_the_speed_is_that_of_the_last_half_second_or_more(digits: DigitSplits, clock: Clock) -> None:
    with watched_run(digits) as watched:
        speeds = []
        for updates, passed in ((20, 0.5), (0, 0.3), (10, 0.6), (0, 0.4), (0, 0.2)):
            watched.set(updates=updates)
            watched.work()
            clock.now += passed
            speeds.append(header_of(watched.frame(0))["speed"])
        assert speeds == [0, 25, 16.7, 16.7, 0]


def test_the_curves_get_a_point_at_most_every_quarter_second_or_tenth_of_the_time(
    digits: DigitSplits, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched_run(digits) as watched:
        measure_now = watched.run.measure

        def slow() -> Measurement:
            clock.now += 0.125
            return measure_now()

        for passed, takes_time in ((0.1875, False), (0.0625, False), (0.3, True), (0.875, True), (0.4, True)):
            if takes_time:
                monkeypatch.setattr(watched.run, "measure", slow)
            clock.now += passed
            watched.set(updates=1)
            watched.work()
        assert [point[0] for point in watched.points] == [0, 2, 3, 5]
        monkeypatch.setattr(web_watched, "_MOST_POINTS", 4)
        for updates in (10, "end"):
            clock.now += 2
            watched.set(updates=updates)
            while watched.work() == 0:
                pass
        assert [point[0] for point in watched.points] == [0, 2, 3, 5, 122, 244]  # then those of an epoch's end alone
        cost, correct, recall = watched.points[-1][1:]
        last = measure(watched.run.network, digits.validation)
        assert (cost, correct) == (round(last.cost, 5), last.correct)
        assert recall == [round(share, 3) for share in (last.recognised / last.images).tolist()]
        assert header_of(watched.frame(2))["points"] == watched.points[2:]
        monkeypatch.setattr(web_watched, "POINTS", 3)
        assert header_of(watched.frame(1))["points"] == watched.points[1:4]


def test_a_frame_answers_the_drawing(digits: DigitSplits) -> None:
    drawing = digits.test.images[3]
    with watched_run(digits) as watched:
        assert header_of(watched.frame(0))["answer"] is None
        watched.set(updates=20, drawing=drawing.flatten().tolist())
        while watched.work() is not None:
            pass
        answer = header_of(watched.frame(0))["answer"]
        a, layers = drawing.flatten().numpy()[:, np.newaxis] / 255, []
        values = [parameter.detach().numpy() for parameter in watched.run.network.parameters()]
        for w, b in zip(values[::2], values[1::2], strict=True):
            layers.append(a := sigmoid(w @ a + b.reshape(-1, 1)))
        hidden, outputs = (layer[:, 0].tolist() for layer in layers)
        assert answer["activations"] == pytest.approx(outputs, abs=1e-4)
        assert answer["hidden"] == [pytest.approx(hidden, abs=1e-4)]
        assert [answer["runner_up"], answer["digit"]] == np.argsort(outputs)[-2:].tolist()
        watched.set(drawing=None)
        assert header_of(watched.frame(0))["answer"] is None


def test_a_frame_has_the_first_layers_weights_in_bytes_and_the_pace(digits: DigitSplits) -> None:
    with watched_run(digits) as watched:
        frame = watched.frame(0)
        header = header_of(frame)
        weights = next(watched.run.network.parameters()).detach().numpy()
        assert header["full"] == pytest.approx(np.sort(abs(weights), axis=None)[int(0.99 * weights.size) - 1])
        expected = np.round(np.clip(weights / np.float32(header["full"]), -1, 1) * 127)
        shown = np.frombuffer(frame[-weights.size :], np.int8).reshape(weights.shape)
        assert abs(shown - expected).max() <= 1  # where it is halfway
        assert {*np.unique(shown)[[0, -1]].tolist()} == {-127, 127}
        assert (header["neurons"], header["shown"], header["pace"]) == (30, 30, 0)
        watched.set(pace=30)
        assert header_of(watched.frame(0))["pace"] == 30


def test_it_goes_on_to_the_end_of_the_epoch_or_the_run(digits: DigitSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    with watched_run(digits) as watched:
        asked_for, reached = [], []

        def waits(updates: int) -> bool:
            asked_for.append(updates)
            return False

        monkeypatch.setattr(watched.run, "waits", waits)
        for updates in (5, "epoch", "epoch"):
            watched.set(updates=updates)
            while watched.work() is not None:
                pass
            reached.append((watched.run.updates, watched.state))
        assert reached == [(5, "paused"), (122, "paused"), (244, "finished")]
        assert asked_for[0] == 5
        assert watched.run.test is not None
        told = header_of(watched.frame(0))["test"]
        assert told == {"correct": watched.run.test.correct, "total": len(digits.test.labels)}


def test_versions_count_what_a_frame_would_show(
    digits: DigitSplits, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched_run(digits) as watched:
        versions = [watched.version]
        watched.work()
        versions.append(watched.version)
        for changes in ({"updates": 1}, {"drawing": None}, {"pace": 5}):
            watched.set(**changes)
            watched.work()
            versions.append(watched.version)
            watched.work()
            assert watched.version == versions[-1]
        assert versions == sorted(set(versions))
        assert header_of(watched.frame(0)) | {"points": [], "full": 0, "engine": ""} == {
            "version": versions[-1], "state": "paused", "problem": "", "updates": 1, "updates_in_epoch": 122,
            "epochs": 0, "learning_rate": 3, "pace": 5, "speed": 0, "engine": "", "engine_name": "eager",
            "unlike_train": "", "validation_images": 290, "points": [], "point": 0, "best": None, "test": None,
            "answer": None, "neurons": 30, "shown": 30, "full": 0,
        }  # fmt: skip
        watched.run.exact = False
        assert header_of(watched.frame(9))["unlike_train"] == (
            "its single updates cannot be compiled here to the last bit"
        )
        assert header_of(watched.frame(9))["point"] == 1
        monkeypatch.setattr(LiveRun, "engine", None)
        for updates in (0, 5):
            watched.set(updates=updates)
            pause, state = watched.work(), watched.state
            assert state == "compiling"
            assert pause is not None
            assert 0 < pause < 1


class Asked:
    """Who asks a trainer, through its pipe."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.last = pipe, 0

    def tell(self, do: str, **message: Any) -> int:
        self.last += 1
        self.pipe.send_bytes(json.dumps({"do": do, "id": self.last, **message}).encode())
        return self.last

    def hear(self) -> tuple[dict[str, Any], bytes]:
        assert self.pipe.poll(SLOW)
        return json.loads(self.pipe.recv_bytes()), self.pipe.recv_bytes()

    def ask(self, do: str, **message: Any) -> tuple[dict[str, Any], bytes]:
        number = self.tell(do, **message)
        answer, content = self.hear()
        assert answer.pop("id") == number
        return answer, content

    def frame(self, after: int = -1, points: int = 0, patience: float = SLOW) -> int:
        return self.tell("frame", after=after, points=points, patience=patience)


@pytest.fixture
def trainer() -> Iterator[tuple[Trainer, Asked]]:
    ours, theirs = Pipe()
    trainer, asked = Trainer(theirs), Asked(ours)
    with ThreadPoolExecutor(1) as beside:
        loop = beside.submit(trainer.loop)
        try:
            yield trainer, asked
            assert asked.ask("end") == ({}, b"")
        finally:
            ours.close()
    assert isinstance(loop.exception(), EOFError | ConnectionResetError)


DIGITS = {"options": TrainOptions(dataset="digits", epochs=1, accelerator="cpu", engine="eager").to_plain()}


def test_a_trainer_without_a_run_says_so(trainer: tuple[Trainer, Asked]) -> None:
    _, asked = trainer
    nothing: list[tuple[str, dict[str, Any]]] = [("set", {"changes": {}}), ("checkpoint", {"best": False}), ("x", {})]
    for do, message in nothing:
        assert asked.ask(do, **message) == ({"error": "there is no such run"}, b"")
    number = asked.frame()
    assert asked.hear() == ({"error": "there is no such run", "id": number}, b"")


def test_a_trainer_answers_as_soon_as_there_is_something_new(trainer: tuple[Trainer, Asked]) -> None:
    _, asked = trainer
    assert asked.ask("begin", **DIGITS) == ({}, b"")
    number = asked.frame()
    answer, frame = asked.hear()
    header = header_of(frame)
    assert answer == {"state": answer["state"], "id": number}
    assert {answer["state"], header["state"]} <= {"compiling", "paused"}
    asked.ask("set", changes={"updates": 1})
    while header["updates"] == 0 or header["state"] != "paused":
        asked.frame(header["version"])
        header = header_of(asked.hear()[1])
    seen = header["version"], len(header["points"])
    asked.frame(*seen, patience=0)
    waiting = [asked.frame(*seen) for _ in range(2)]
    assert asked.ask("checkpoint", best=True)[0]["error"].startswith("no epoch has ended")
    assert "Traceback" in asked.ask("set", changes={"drawing": [1]})[0]["mistake"]
    assert asked.ask("set", changes={"learning_rate": -1})[0]["error"].startswith("learning rate -1: ")
    assert not asked.pipe.poll(0.1)
    assert len(asked.ask("checkpoint", best=False)[1]) > 10_000  # which is no news
    number = asked.tell("set", changes={"updates": 1})
    assert asked.hear() == ({"id": number}, b"")
    for number in waiting:  # and who has given up gets none
        answer, frame = asked.hear()
        assert answer == {"state": header_of(frame)["state"], "id": number}
        assert header_of(frame)["version"] > header["version"]
    ended = asked.frame(10**9, 10**9)
    number = asked.tell("begin", **DIGITS)
    assert asked.hear() == ({"error": "there is no such run", "id": ended}, b"")
    assert asked.hear() == ({"id": number}, b"")


def test_a_trainer_takes_the_dataset_from_where_it_is(
    trainer: tuple[Trainer, Asked], digits: DigitSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, asked = trainer
    taken: list[tuple[str, Path | None]] = []

    def load(name: str, data_dir: Path | None) -> DigitSplits:
        taken.append((name, data_dir))
        return digits

    monkeypatch.setattr(web_trainer, "load_splits", load)
    options = DIGITS["options"] | {"dataset": "mnist", "data_dir": str(tmp_path)}
    for _ in range(2):
        assert asked.ask("begin", options=options) == ({}, b"")
    assert taken == [("mnist", tmp_path)]  # once, as it takes seconds


def test_a_trainer_sends_no_more_frames_than_an_eye_can_follow(trainer: tuple[Trainer, Asked]) -> None:
    _, asked = trainer
    asked.ask("begin", **DIGITS)
    start, versions = monotonic(), [-1]
    for _ in range(4):
        asked.ask("set", changes={})
        asked.frame(versions[-1], 10**6)
        versions.append(header_of(asked.hear()[1])["version"])
    assert monotonic() - start >= 3 * 0.04
    assert versions == sorted(set(versions))


def test_a_run_that_ends_or_diverges_is_over(trainer: tuple[Trainer, Asked]) -> None:
    inside, asked = trainer
    for poisoned, state in ((False, "finished"), (True, "failed")):
        asked.ask("begin", **DIGITS)
        watched = inside._watched
        assert watched is not None
        if poisoned:
            watched.run.parameters["layers.0.weight"][0, 0] = torch.nan
        asked.ask("set", changes={"updates": "end"})
        header: dict[str, Any] = {"version": -1}
        while header.get("state") not in ("finished", "failed"):
            asked.frame(header["version"])
            answer, frame = asked.hear()
            header = header_of(frame)
            over = [of["state"] in ("finished", "failed") for of in (answer, header)]
            assert over[0] == over[1]
        assert header["state"] == state
        assert header["problem"][:24] == ("epoch 1: weights are NaN" if poisoned else "")
        assert len(asked.ask("checkpoint", best=not poisoned)[1]) > 10_000
