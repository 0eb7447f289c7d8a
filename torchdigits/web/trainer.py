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
from time import monotonic
from typing import Any

from torchdigits.data.datasets import DigitSplits, load_splits
from torchdigits.errors import OptionError, TorchDigitsError
from torchdigits.training.live import live_run
from torchdigits.training.options import TrainOptions
from torchdigits.web.watched import Watched

_FRAME = 0.04  # seconds between two frames at least
_LONGEST = 1.0  # seconds that nothing is heard of a slow pace
_NICE = 5  # how much this process stands back for others, so that drawings are answered first
_NO_RUN = "there is no such run"


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
        self._watched = Watched(self._stack.enter_context(live_run(options, splits)))

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
                self._answer(message, {"state": self._watched.state}, self._watched.frame(message["points"]))
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
        watched = Watched(run)
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
