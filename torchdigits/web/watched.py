"""A run that a page watches, and what was asked of it: how far it goes on, how fast, and what it shows."""

import json
from time import monotonic, perf_counter
from typing import Any

import torch

from torchdigits.files.checkpoints import to_checkpoint
from torchdigits.recognition.measuring import Measurement
from torchdigits.training.live import LiveRun

SHOWN = 40  # neurons of a layer that a frame shows: their weights are 31 kB
POINTS = 50  # of the curves that a frame brings: 4 kB at most
_MOST_POINTS = 20_000  # that are kept; then only those of an epoch's end are taken down
_TURN = 0.02  # seconds of updates until messages are heard again
_MEASURE = 0.25  # seconds between two measurements within an epoch at least,
_SHARE = 10  # and as many times as long as one takes
_LOOK_AGAIN = 0.05  # seconds until it is looked again whether something is compiled
_CHANGED = "its learning rate was changed on the way"
_INEXACT = "its single updates cannot be compiled here to the last bit"
_MOST_EAGER = 50  # updates in a turn


class Watched:
    """A run, and what was asked of it.

    Args:
        run: it.

    Attributes:
        version: counts whatever a frame would show otherwise.
        problem: why the run has ended early; may be empty.
        points: of the curves.
    """

    def __init__(self, run: LiveRun) -> None:
        self.run = run
        self.version = 0
        self._wanted = 0  # the number of updates up to which it goes on
        self._pace: float | None = None  # updates a second; None: as many as it can
        self.problem = ""
        self.points: list[list[Any]] = []
        self._drawing: torch.Tensor | None = None
        self._begin_to_pace()
        self._shown_state, self._eager_portion = "", 1
        self._speed = (perf_counter(), 0, 0.0)
        self._add_point()

    @property
    def state(self) -> str:
        if self.problem:
            return "failed"
        if self.run.finished:
            return "finished"
        if self.run.updates >= self._wanted:
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
            self._drawing = None if pixels is None else torch.tensor(pixels, dtype=torch.uint8).view(1, 784)
        if "pace" in changes:
            self._pace = changes["pace"] or None
        match updates:
            case int():
                self._wanted = self.run.updates + updates
            case "epoch":
                self._wanted = (self.run.epochs + 1) * self.run.updates_in_epoch
            case "end":
                self._wanted = self.run.options.epochs * self.run.updates_in_epoch
        self._begin_to_pace()
        self.version += 1

    def work(self) -> float | None:
        """Take some updates; how long there is nothing to do then, in seconds, or None until something is asked."""
        if self.state == "running":
            self._train()
        else:
            self._begin_to_pace()
        if (state := self.state) != self._shown_state:
            self._shown_state, self.version = state, self.version + 1
        return {"running": self._pause(), "compiling": _LOOK_AGAIN}.get(state)

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
            "pace": self._pace or 0,
            "speed": self._measured_speed(),
            "engine": "" if engine is None else str(engine),
            "engine_name": "" if engine is None else engine.name,
            "unlike_train": _CHANGED if run.changed else "" if run.exact else _INEXACT,
            "validation_images": len(run.splits.validation.labels),
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
        left = max(1, self._wanted - self.run.updates)
        return left if self._pace is None else min(left, max(1, self._due()))

    def _due(self) -> int:
        """How many updates the pace asks for by now."""
        assert self._pace is not None
        return int((monotonic() - self._since) * self._pace) - self._taken

    def _pause(self) -> float:
        """Seconds until the pace asks for the next update."""
        return 0 if self._pace is None else max(0.0, (self._taken + 1) / self._pace - (monotonic() - self._since))

    def _train(self) -> None:
        end, epoch = monotonic() + _TURN, self.run.epochs
        while self.state == "running" and monotonic() < end:
            if self._pace is not None and self._due() < 1:
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
            self._add_point()

    def _add_point(self, measured: Measurement | None = None) -> None:
        """Take down a point of the curves: updates, cost, images recognised, and the share of each digit's."""
        if measured is None:
            start = monotonic()
            measured = self.run.measure()
            self._rest = max(_MEASURE, _SHARE * (monotonic() - start))
        recall = (measured.recognised / measured.images.clamp(min=1)).tolist()
        if not self.points or self.points[-1][0] < self.run.updates:
            self.points.append(
                [self.run.updates, round(measured.cost, 5), measured.correct, [round(share, 3) for share in recall]]
            )
        self._next_measure = monotonic() + self._rest

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
        if self._drawing is None:
            return None
        network = self.run.network
        layers = network.forward_pass(self._drawing.to(next(network.parameters()).dtype) / 255)[1][1:]
        digit, runner_up = layers[-1][0].topk(2).indices.tolist()
        activations = [[round(a, 4) for a in layer[0, :SHOWN].tolist()] for layer in layers]
        return {"digit": digit, "runner_up": runner_up, "activations": activations[-1], "hidden": activations[:-1]}
