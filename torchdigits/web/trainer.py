"""The process that trains while a page watches: it takes updates, and answers what it is asked in between.

A message is JSON. The answer is two messages: JSON with the number of what it answers, and bytes, which may be none.
"""

import json
import os
import traceback
from contextlib import ExitStack, suppress
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import torch

from torchdigits.data.datasets import DigitSplits, load_splits
from torchdigits.errors import OptionError, TorchDigitsError
from torchdigits.files.checkpoints import to_checkpoint
from torchdigits.recognition.measuring import Measurement
from torchdigits.training.live import LiveRun, live_run
from torchdigits.training.options import TrainOptions

SHOWN = 40  # neurons of a layer that a frame shows: their weights are 31 kB
POINTS = 50  # of the curves that a frame brings: 4 kB at most
_MOST_POINTS = 20_000  # that are kept; then only those of an epoch's end are taken down
_TURN = 0.02  # seconds of updates until messages are heard again
_FRAME = 0.04  # seconds between two frames at least
_MEASURE = 0.25  # seconds between two measurements within an epoch at least,
_SHARE = 10  # and as many times as long as one takes
_MOST_EAGER = 50  # updates in a turn
_LONGEST = 1.0  # seconds that nothing is heard of a slow pace
_NICE = 5  # how much this process stands back for others, so that drawings are answered first
_NO_RUN = "there is no such run"


class Watched:
    """A run, and what was asked of it.

    Args:
        options: of the run.
        splits: the dataset.
        run: it.
    """

    def __init__(self, options: TrainOptions, splits: DigitSplits, run: LiveRun) -> None:
        self.options, self.splits, self.run = options, splits, run
        self.version = 0  # counts whatever a frame would show otherwise
        self.wanted = 0  # the number of updates up to which it goes on
        self.pace: float | None = None  # updates a second; None: as many as it can
        self.problem = ""
        self.points: list[list[Any]] = []
        self.drawing: torch.Tensor | None = None
        self._begin_to_pace()
        self._shown_state, self._eager_portion = "", 1
        self._next_measure = 0.0
        self._speed = (perf_counter(), 0, 0.0)
        self._add_point(run.measure())

    @property
    def state(self) -> str:
        if self.problem:
            return "failed"
        if self.run.finished:
            return "finished"
        if self.run.updates >= self.wanted:
            return "paused" if self.run.engine is not None else "compiling"
        return "compiling" if self.run.waits(self._portion()) else "running"

    def set(self, updates: int | str | None = None, **changes: Any) -> None:
        """Change what is asked of the run.

        Args:
            updates: how many more to take, 0 to pause; or `epoch` or `end` for those to the end of one or of all.
            changes: `learning_rate`; `pace`, in updates a second, 0 for no limit; `drawing`, 784 bytes or None.
        """
        if "learning_rate" in changes:
            self.run.change_learning_rate(changes["learning_rate"])
        if "drawing" in changes:
            pixels = changes["drawing"]
            self.drawing = None if pixels is None else torch.tensor(pixels, dtype=torch.uint8).view(1, 784)
        if "pace" in changes:
            self.pace = changes["pace"] or None
        match updates:
            case int():
                self.wanted = self.run.updates + updates
            case "epoch":
                self.wanted = (self.run.epochs + 1) * self.run.updates_in_epoch
            case "end":
                self.wanted = self.options.epochs * self.run.updates_in_epoch
        self._begin_to_pace()
        self.version += 1

    def work(self) -> float | None:
        """Take some updates; how long there is nothing to do then, in seconds, or None until something is asked."""
        state = self.state
        wait: float | None = None
        if state == "running":
            wait = self._train()
        else:
            wait = 0.05 if state == "compiling" else None
            self._begin_to_pace()
        if (state := self.state) != self._shown_state:
            self._shown_state, self.version = state, self.version + 1
        return wait

    def frame(self, points: int) -> bytes:
        """What a page shows, as `learning.FRAME` describes it.

        Args:
            points: of the curves, that the page has already.
        """
        run, network = self.run, self.run.network
        weights = next(network.parameters()).detach()
        # The few larger ones have the same colour.
        full = max(float(weights.abs().flatten().kthvalue(max(1, int(0.99 * weights.numel())))[0]), 1e-12)
        shown = (weights[:SHOWN] * (127 / full)).clamp(-127, 127).round().to(torch.int8).numpy()
        engine = run.engine
        header = {
            "version": self.version,
            "state": self.state,
            "problem": self.problem,
            "updates": run.updates,
            "updates_in_epoch": run.updates_in_epoch,
            "epochs": run.epochs,
            "learning_rate": run.learning_rate,
            "pace": self.pace or 0,
            "speed": self._measured_speed(),
            "engine": "" if engine is None else str(engine),
            "engine_name": "" if engine is None else engine.name,
            "same_as_train": run.exact and not run.changed,
            "validation_images": len(self.splits.validation.labels),
            "points": self.points[points : points + POINTS],
            "point": min(points, len(self.points)),
            "best": None if run.best is None else {"epoch": run.best.epoch, "correct": run.best.correct},
            "test": None if run.test is None else {"correct": run.test.correct, "total": run.test.total},
            "answer": self._answer(),
            "neurons": len(weights),
            "shown": len(shown),
            "full": full,
        }
        text = json.dumps(header).encode()
        return len(text).to_bytes(4, "little") + text + shown.tobytes()

    def checkpoint(self, best: bool) -> bytes:
        """The network of this moment, or the best so far, as a checkpoint."""
        return to_checkpoint(self.run.best.network if best and self.run.best is not None else self.run.network)

    def _portion(self) -> int:
        """How many updates to take at once."""
        left = max(1, self.wanted - self.run.updates)
        return left if self.pace is None else min(left, max(1, self._due()))

    def _due(self) -> int:
        """How many updates the pace asks for by now."""
        assert self.pace is not None
        return int((monotonic() - self._since) * self.pace) - self._taken

    def _train(self) -> float:
        end, epoch = monotonic() + _TURN, self.run.epochs
        while self.state == "running" and monotonic() < end:
            if self.pace is not None and self._due() < 1:
                break
            most = self._portion()
            # The eager engine takes its time for each update, and a block of them would be too long a turn.
            eager, start = self.run.engine is not None and self.run.engine.name == "eager", monotonic()
            taken = self.run.advance(min(most, self._eager_portion) if eager else most)
            self._eager_portion = max(1, min(_MOST_EAGER, int(taken * _TURN / max(monotonic() - start, 1e-6))))
            self._taken += taken
            self.version += 1
            if self.run.epochs > epoch and self.run.latest is not None:
                epoch = self.run.epochs
                self._add_point(self.run.latest)
        if monotonic() >= self._next_measure and not self.run.finished and len(self.points) < _MOST_POINTS:
            self._add_point(self.run.measure())
        return 0 if self.pace is None else max(0.0, (self._taken + 1) / self.pace - (monotonic() - self._since))

    def _add_point(self, measured: Measurement) -> None:
        """Take down a point of the curves: updates, cost, images recognised, and the share of each digit's."""
        start = monotonic()
        recall = (measured.recognised / measured.images.clamp(min=1)).tolist()
        if not self.points or self.points[-1][0] < self.run.updates:
            self.points.append(
                [self.run.updates, round(measured.cost, 5), measured.correct, [round(share, 3) for share in recall]]
            )
        self._next_measure = monotonic() + max(_MEASURE, _SHARE * (monotonic() - start))

    def _begin_to_pace(self) -> None:
        self._since, self._taken = monotonic(), 0

    def _measured_speed(self) -> float:
        """Updates a second, of the last half second or more."""
        since, updates, speed = self._speed
        if (passed := perf_counter() - since) > 0.5:
            speed = (self.run.updates - updates) / passed
            self._speed = perf_counter(), self.run.updates, speed
        return round(speed, 1)

    @torch.no_grad()
    def _answer(self) -> dict[str, Any] | None:
        if self.drawing is None:
            return None
        network = self.run.network
        layers = network.forward_pass(self.drawing.to(next(network.parameters()).dtype) / 255)[1][1:]
        digit, runner_up = layers[-1][0].topk(2).indices.tolist()
        activations = [[round(a, 4) for a in layer[0, :SHOWN].tolist()] for layer in layers]
        return {"digit": digit, "runner_up": runner_up, "activations": activations[-1], "hidden": activations[:-1]}


class Trainer:
    """Answers messages about one run at a time.

    Args:
        pipe: they come through it.
    """

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self._watched: Watched | None = None
        self._stack = ExitStack()
        self._waiting: list[dict[str, Any]] = []  # messages that ask for a frame that is not there yet
        self._last_frame = 0.0

    def loop(self) -> None:
        """Go on until the pipe is closed.

        Raises:
            EOFError: it is.
        """
        while True:
            wait = self._work()
            if any(map(self._is_due, self._waiting)):
                frame = self._last_frame + _FRAME - monotonic()
                wait = frame if wait is None else min(wait, frame)
            while self.pipe.poll(None if wait is None else min(max(0.0, wait), _LONGEST)):
                self._hear(json.loads(self.pipe.recv_bytes()))
                wait = 0
            self._send_frames()

    def _work(self) -> float | None:
        if self._watched is None:
            return None
        try:
            return self._watched.work()
        except TorchDigitsError as error:
            self._watched.problem = str(error)
            self._watched.version += 1
            return None

    def _hear(self, message: dict[str, Any]) -> None:
        try:
            match message["do"]:
                case "begin":
                    self._begin(TrainOptions.from_plain(message["options"]))
                case "end":
                    self._end()
                case "frame":  # whoever asked long ago has given up
                    now = monotonic()
                    self._waiting = [asked for asked in self._waiting if asked["until"] > now]
                    self._waiting.append(message | {"until": now + message["patience"]})
                    return
                case "set" if self._watched is not None:
                    self._watched.set(**message["changes"])
                case "checkpoint" if self._watched is not None:
                    if message["best"] and self._watched.run.best is None:
                        raise OptionError("no epoch has ended yet, so that none is the best")
                    self._answer(message, {}, self._watched.checkpoint(message["best"]))
                    return
                case _:
                    raise OptionError(_NO_RUN)
        except TorchDigitsError as error:
            self._answer(message, {"error": str(error)})
        except Exception:  # a mistake of ours, which is told where somebody sees it
            self._answer(message, {"mistake": traceback.format_exc()})
        else:
            self._answer(message, {})

    def _begin(self, options: TrainOptions) -> None:
        self._end()
        splits = _dataset(options.dataset, options.data_dir)
        self._watched = Watched(options, splits, self._stack.enter_context(live_run(options, splits)))

    def _end(self) -> None:
        """End the run; nobody gets a frame of the next one for it."""
        self._watched = None
        self._stack.close()
        for message in self._waiting:
            self._answer(message, {"error": _NO_RUN})
        self._waiting.clear()

    def _send_frames(self) -> None:
        """Answer who waits for a frame, if there is a new one."""
        if not self._waiting or monotonic() < self._last_frame + _FRAME:
            return
        still = []
        for message in self._waiting:
            if self._watched is None:
                self._answer(message, {"error": _NO_RUN})
            elif self._is_due(message):
                over = self._watched.state in ("finished", "failed")
                self._answer(message, {"over": over}, self._watched.frame(message["points"]))
                self._last_frame = monotonic()
            else:
                still.append(message)
        self._waiting = still

    def _is_due(self, message: dict[str, Any]) -> bool:
        """Whether there is something new for who waits for a frame."""
        watched = self._watched
        return watched is None or watched.version > message["after"] or len(watched.points) > message["points"]

    def _answer(self, message: dict[str, Any], answer: dict[str, Any], content: bytes = b"") -> None:
        self.pipe.send_bytes(json.dumps(answer | {"id": message["id"]}).encode())
        self.pipe.send_bytes(content)


@cache
def _dataset(name: str, data_dir: Path | None) -> DigitSplits:
    return load_splits(name, data_dir)


def _rehearse() -> None:
    """Take an update, so that what torch does only once is done before a run begins."""
    options, splits = TrainOptions(dataset="digits", accelerator="cpu"), _dataset("digits", None)
    with live_run(options, splits) as run:
        watched = Watched(options, splits, run)
        watched.set(updates=1)
        while run.updates == 0:
            watched.work()
        watched.frame(0)


def work(descriptor: int) -> None:
    """Train what is asked for through a pipe, until it is closed. For a process of its own."""
    os.nice(_NICE)
    _rehearse()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        Trainer(Connection(descriptor)).loop()
