"""Runs that pages watch: a process for each, as many as there are cores; the next run waits for one."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

from torchdigits.errors import OptionError, TorchDigitsError
from torchdigits.training.options import TrainOptions
from torchdigits.web.process import TrainingProcess
from torchdigits.web.schemas import CannotNowError

MOST_WAITING = 8  # runs
MOST_RESTING = 3  # runs beside those, that pause or are over, and are shown: as many as a page has side by side
GONE = 30.0  # seconds after which a page that asks for nothing is gone, and its run ends
IDLE = 600.0  # seconds after which processes that nobody uses end
_PATIENCE = 10.0  # seconds until a page that waits for a frame is told that there is none
_TURN = 1.0  # seconds until one whose run waits for a place is told again how many are before it
_SILENCE = 60.0  # seconds until a process that does not answer is taken for dead; reading MNIST takes three
_ENDED = "the run has ended: start over"
_NO_PROCESS = "no process can be started: {}"


class NoSuchRunError(TorchDigitsError):
    """A run that has ended, or never was."""


class TooManyRunsError(TorchDigitsError):
    """More runs than may wait."""


class Run:
    """A run that a page watches.

    Attributes:
        name: by which requests name it; nobody can guess it.
        options: of the run.
        asked: when its page last asked for something, by `monotonic`.
        asking: requests that are not answered yet.
        process: that trains it; None while it waits for one, or where none can be started.
        changes: what is asked of it before it begins.
        begun: set when the process has begun with it, or cannot, or the run has ended.
        beginning: the task that begins it.
        problem: why the process cannot; may be empty.
    """

    def __init__(self, options: TrainOptions) -> None:
        self.name, self.options = secrets.token_urlsafe(12), options
        self.asked, self.asking = monotonic(), 0
        self.process: TrainingProcess | None = None
        self.changes: dict[str, Any] = {}
        self.begun = asyncio.Event()
        self.beginning: asyncio.Task[None] | None = None
        self.problem = ""

    @property
    def waits(self) -> bool:
        """Whether it is not yet its turn."""
        return self.process is None and not self.problem


class Runs:
    """All runs of a server.

    Args:
        places: runs that go on at once. Default: as many as this process may use cores.
    """

    def __init__(self, places: int | None = None) -> None:
        self.places = places or (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )
        self._runs: dict[str, Run] = {}  # those that go on, and those that wait, in the order in which they came
        self._idle: list[TrainingProcess] = []
        self._used = monotonic()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """While this lasts, runs end when their pages are gone; afterwards all have ended."""
        tidying = asyncio.create_task(self._tidy_for_ever())
        try:
            yield
        finally:
            tidying.cancel()
            for run in self._runs.values():
                if run.beginning is not None:  # or it would begin on another process
                    run.beginning.cancel()
            for process in [*self._idle, *(run.process for run in self._runs.values() if run.process)]:
                process.stop()

    @property
    def going(self) -> int:
        return sum(run.process is not None and not run.process.rests for run in self._runs.values())

    @property
    def waiting(self) -> int:
        return sum(run.waits for run in self._runs.values())

    def warm_up(self) -> None:
        """Start the processes, so that a run can begin at once."""
        self._used = monotonic()
        self._idle = [process for process in self._idle if process.alive]
        while len(self._idle) + self.going < self.places:
            self._idle.append(TrainingProcess())

    def begin(self, options: TrainOptions) -> Run:
        """A new run, which begins as soon as there is a place for it.

        Raises:
            TooManyRunsError: too many wait already, or no process can be started.
        """
        if self.waiting >= MOST_WAITING:
            raise TooManyRunsError(
                f"{self.waiting} runs wait already for this machine's {self.places} cores; try later"
            )
        run = Run(options)
        self._runs[run.name] = run
        self._give_places()
        if run.problem:
            del self._runs[run.name]
            raise TooManyRunsError(run.problem)
        return run

    def find(self, name: str) -> Run:
        """The run of this name, whose page has just asked for it.

        Raises:
            NoSuchRunError: there is none.
        """
        if (run := self._runs.get(name)) is None:
            raise NoSuchRunError("there is no such run; it ends when its page has been gone for 30 s: start over")
        run.asked = self._used = monotonic()
        return run

    def turn_of(self, run: Run) -> int:
        """How many wait before it, itself included; 0 if it has begun."""
        waiting = [other for other in self._runs.values() if other.waits]
        return waiting.index(run) + 1 if run in waiting else 0

    async def ask(self, run: Run, do: str, **message: Any) -> bytes | None:
        """What the run's process answers; None if that takes too long, as it may for a frame.

        Raises:
            NoSuchRunError: the run has ended meanwhile, or its process.
            OptionError, and others: what the process refuses.
        """
        run.asking += 1
        try:
            await asyncio.wait_for(run.begun.wait(), _TURN if run.process is None else _SILENCE)
            if run.problem:
                raise OptionError(run.problem)
            if run.process is None:
                raise NoSuchRunError(_ENDED)
            if do != "frame":
                return await run.process.ask({"do": do, **message}, _SILENCE)
            rested, process = run.process.rests, run.process
            frame = await process.ask({"do": do, "patience": _PATIENCE, **message}, _PATIENCE)
            if process.rests and not rested:
                self._give_places()
            return frame
        except TimeoutError:
            if do == "frame" or run.process is None:
                return None
            run.process.stop()
            self.end(run)
            raise NoSuchRunError("the process that trained it does not answer: start over") from None
        except EOFError:
            self.end(run)
            raise NoSuchRunError("the process that trained it has ended: start over") from None
        except OptionError:
            if run.name not in self._runs:
                raise NoSuchRunError(_ENDED) from None
            raise
        finally:
            run.asked, run.asking = monotonic(), run.asking - 1

    async def change(self, run: Run, changes: dict[str, Any]) -> None:
        """Change what is asked of a run, as `trainer.Watched.set` takes it; of one that waits, as soon as it begins.

        Raises:
            NoSuchRunError, OptionError, and others: as `ask` does.
        """
        if run.begun.is_set():
            if changes.get("updates") and run.process is not None and not run.process.over:
                run.process.state = "running"  # even if all places are taken meanwhile: it has its process
            await self.ask(run, "set", changes=changes)
        else:
            run.changes |= changes

    async def checkpoint(self, run: Run, best: bool = False) -> bytes:
        """The network of this moment of a run, or the best of its epochs, as a checkpoint.

        Raises:
            NoSuchRunError, OptionError, and others: as `ask` does, or the run waits for its turn.
        """
        content = await self.ask(run, "checkpoint", best=best)
        if content is None:
            raise CannotNowError("the run waits for its turn")
        return content

    def end(self, run: Run) -> None:
        """End a run; the one that has waited longest takes its place."""
        if self._runs.pop(run.name, None) is None:
            return
        process, run.process = run.process, None
        run.begun.set()
        if process is not None:
            self._take_back(process)
        self._give_places()

    def _take_back(self, process: "TrainingProcess") -> None:
        """End the run of a process, which then idles."""
        try:
            process.tell({"do": "end"})
        except CannotNowError:  # it reads nothing
            process.stop()
        self._idle.append(process)

    def _give_places(self) -> None:
        for run in [*self._runs.values()]:
            if run.waits and self.going < self.places and self._makes_room():
                try:
                    run.process = self._idle.pop() if self._idle else TrainingProcess()
                except OSError as error:
                    run.problem = _NO_PROCESS.format(error.strerror)
                    run.begun.set()
                    if self.going:  # the next waits for one of those
                        break
                    continue
                run.process.state = "running"
                run.beginning = asyncio.get_running_loop().create_task(self._begin(run))
        self._used = monotonic()

    def _makes_room(self) -> bool:
        """Whether one more run may have a process; of too many that rest, the one over that was asked for longest ago
        gives its own."""
        self._idle = [process for process in self._idle if process.alive]
        resting = [run for run in self._runs.values() if run.process is not None and run.process.rests]
        if self._idle or len(resting) < MOST_RESTING:
            return True
        over = [run for run in resting if run.process is not None and run.process.over]
        if not over:
            return False
        forgotten = min(over, key=lambda run: run.asked)
        del self._runs[forgotten.name]
        assert forgotten.process is not None
        self._take_back(forgotten.process)
        forgotten.process = None
        return True

    async def _begin(self, run: Run) -> None:
        """Begin it on its process; if that has ended before, on another."""
        try:
            for process in (run.process, None):
                if run.process is None:  # it was ended meanwhile
                    return
                try:
                    run.process = process or TrainingProcess()
                    await run.process.ask({"do": "begin", "options": run.options.to_plain()}, _SILENCE)
                    while run.changes and run.process is not None:
                        changes, run.changes = run.changes, {}
                        await run.process.ask({"do": "set", "changes": changes}, _SILENCE)
                    break
                except TorchDigitsError as error:
                    run.problem = str(error)
                    break
                except EOFError:
                    continue
                except TimeoutError:  # which is an OSError too
                    if run.process is not None:
                        run.process.stop()
                    self.end(run)
                except OSError as error:
                    run.problem, run.process = _NO_PROCESS.format(error.strerror), None
                    self._give_places()
                    break
        finally:
            run.begun.set()

    def _end_forsaken(self) -> None:
        for run in [*self._runs.values()]:
            if not run.asking and monotonic() - run.asked > GONE:
                self.end(run)

    async def _tidy_for_ever(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._end_forsaken()
            if monotonic() - self._used > IDLE:
                while self._idle:
                    self._idle.pop().stop()
