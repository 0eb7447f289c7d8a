"""Runs of a server, with processes that only say that they train."""

import asyncio
import errno
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from conftest import Clock

from torchdigits.errors import OptionError
from torchdigits.training.options import TrainOptions
from torchdigits.web import runs as web_runs
from torchdigits.web.runs import NoSuchRunError, Runs, TooManyRunsError
from torchdigits.web.schemas import CannotNowError


class StandIn:
    """A process that keeps what it hears, and answers what a test says."""

    def __init__(self, answers: "Answers") -> None:
        self.answers, self.heard = answers, list[dict[str, Any]]()
        self.over, self.alive, self.ends = False, True, False
        self.answering = asyncio.Event()
        self.answering.set()

    async def ask(self, message: dict[str, Any], _: float) -> bytes:
        self.heard.append(message)
        await self.answering.wait()
        answer = self.answers(message) if self.alive else EOFError()
        self.alive = self.alive and not isinstance(answer, EOFError)
        self.over = self.over or self.ends
        if isinstance(answer, Exception):
            raise answer
        return answer

    def tell(self, message: dict[str, Any]) -> None:
        self.heard.append(message)

    def stop(self) -> None:
        self.alive = False


Answers = Callable[[dict[str, Any]], bytes | Exception]


def stand_in(monkeypatch: pytest.MonkeyPatch, *answers: Answers | Exception) -> list[StandIn]:
    """The processes that are started from now on, which answer so, one after the other; an exception: it cannot."""
    started: list[StandIn] = []
    left = list(answers)

    def start() -> StandIn:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        started.append(StandIn(answer))
        return started[-1]

    monkeypatch.setattr(web_runs, "TrainingProcess", start)
    return started


def well(_: dict[str, Any]) -> bytes:
    return b"well"


def refusing(what: str, error: Exception) -> Answers:
    return lambda message: error if message["do"] == what else b"well"


OPTIONS = TrainOptions(dataset="digits", seed=5)
NO_PROCESS = OSError(errno.EAGAIN, "Resource temporarily unavailable")
NO_PROCESS_WORDS = "^no process can be started: Resource temporarily unavailable$"


def test_that_no_process_can_be_started_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        runs = Runs(1)
        stand_in(monkeypatch, NO_PROCESS, refusing("set", EOFError()), NO_PROCESS)
        with pytest.raises(TooManyRunsError, match=NO_PROCESS_WORDS):
            runs.begin(OPTIONS)
        assert (runs.going, runs.waiting) == (0, 0)
        first, second = runs.begin(OPTIONS), runs.begin(OPTIONS)
        assert [runs.turn_of(first), runs.turn_of(second)] == [0, 1]
        assert await runs.ask(second, "frame") is None
        with pytest.raises(CannotNowError, match=r"^the run waits for its turn$"):
            await runs.checkpoint(second)
        with pytest.raises(NoSuchRunError, match=r"^the process that trained it has ended: start over$"):
            await runs.ask(first, "set", changes={})
        with pytest.raises(OptionError, match=NO_PROCESS_WORDS):
            await runs.ask(second, "frame")
        assert (runs.going, runs.waiting, runs.turn_of(second)) == (0, 0, 0)

    monkeypatch.setattr(web_runs, "_TURN", 0.01)
    asyncio.run(ask())


def test_a_process_that_ends_before_a_run_begins_is_replaced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        runs = Runs(1)
        ending = refusing("begin", EOFError())
        started = stand_in(monkeypatch, ending, well)
        run = runs.begin(OPTIONS)
        for changes in ({"pace": 3}, {"updates": 7}):
            await runs.change(run, changes)
        assert await runs.ask(run, "frame", after=4) == b"well"
        assert await runs.checkpoint(run) == b"well"
        await runs.change(run, {"updates": 0})
        begin, *rest = started[1].heard
        assert begin == {"do": "begin", "options": OPTIONS.to_plain()} == started[0].heard[0]
        assert rest == [
            {"do": "set", "changes": {"pace": 3, "updates": 7}},
            {"do": "frame", "patience": 10, "after": 4},
            {"do": "checkpoint", "best": False},
            {"do": "set", "changes": {"updates": 0}},
        ]
        for answers, error, words in (
            ((ending, NO_PROCESS), OptionError, NO_PROCESS_WORDS),
            ((ending, ending), NoSuchRunError, "^the process that trained it has ended: start over$"),
            ((refusing("begin", OptionError("no such precision")),), OptionError, "^no such precision$"),
        ):
            runs = Runs(1)
            started = stand_in(monkeypatch, *answers)
            run = runs.begin(OPTIONS)
            with pytest.raises(error, match=words):
                await runs.ask(run, "checkpoint")
            assert [process.heard[0] for process in started] == [begin] * len(started)

    asyncio.run(ask())


def test_a_run_that_begins_as_the_server_ends_gets_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started = stand_in(monkeypatch, well)

    async def ask() -> None:
        runs = Runs(1)
        async with runs.open():
            run = runs.begin(OPTIONS)
            started[0].answering.clear()
            await asyncio.sleep(0)
            assert [message["do"] for message in started[0].heard] == ["begin"]
        started[0].answering.set()
        assert run.beginning is not None
        await asyncio.wait([run.beginning])
        assert run.beginning.cancelled()
        assert len(started) == 1

    asyncio.run(ask())


@pytest.mark.parametrize("silent", ["begin", "set"])
def test_a_process_that_does_not_answer_is_stopped_and_its_run_ends(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> None:
        runs = Runs(1)
        started = stand_in(monkeypatch, refusing(silent, TimeoutError()), refusing("frame", TimeoutError()))
        run, other = runs.begin(OPTIONS), runs.begin(OPTIONS)
        with pytest.raises(NoSuchRunError, match="start over"):
            await runs.ask(run, "set", changes={})
        with pytest.raises(NoSuchRunError, match="start over"):
            runs.find(run.name)
        assert [process.alive for process in started] == [False, True]
        assert await runs.ask(other, "frame") is None  # there may be nothing new
        assert await runs.ask(other, "set", changes={}) == b"well"
        assert runs.find(other.name) is other
        monkeypatch.setattr(started[1], "tell", busy)
        runs.end(other)
        assert not started[1].alive

    def busy(_: dict[str, Any]) -> None:
        raise CannotNowError("it reads nothing")

    asyncio.run(ask())


def test_of_runs_that_are_over_the_one_asked_for_longest_ago_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()

    async def ask() -> None:
        runs = Runs(1)
        started = stand_in(monkeypatch, *[well] * (web_runs.MOST_OVER + 1))
        over = []
        for place in range(web_runs.MOST_OVER):
            over.append(runs.begin(OPTIONS))
            await over[-1].begun.wait()
            runs.warm_up()  # no more than there are places
            assert (runs.going, len(started)) == (1, place + 1)
            started[-1].ends = True
            await runs.ask(over[-1], "frame")
            assert runs.going == 0
        runs.warm_up()
        runs.end(runs.begin(OPTIONS))  # on one that idles
        started[-1].stop()
        clock.now += 1
        assert all(runs.find(run.name) is run for run in [over[0], *over[2:]])
        new = runs.begin(OPTIONS)
        assert await runs.ask(new, "frame") == b"well"
        assert [message["do"] for message in started[1].heard] == ["begin", "frame", "end", "begin", "frame"]
        with pytest.raises(NoSuchRunError, match=r"^there is no such run; .* 30 s: start over$"):
            runs.find(over[1].name)
        with pytest.raises(NoSuchRunError, match=r"^the run has ended: start over$"):
            await runs.ask(over[1], "frame")  # who had asked just before

    monkeypatch.setattr(web_runs, "monotonic", clock)
    asyncio.run(ask())


def test_runs_and_processes_end_when_nobody_has_used_them_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pause = Clock(), asyncio.sleep

    async def ask() -> None:
        async def a_moment() -> None:
            for _ in range(20):
                await now()

        runs = Runs(2)
        started = stand_in(monkeypatch, well, well, well)
        async with runs.open():
            run, other = runs.begin(OPTIONS), runs.begin(OPTIONS)
            await runs.ask(run, "set", changes={})
            started[0].answering.clear()
            asked_for = asyncio.create_task(runs.ask(run, "frame"))
            clock.now += web_runs.GONE
            await a_moment()
            assert runs.find(other.name) is other
            clock.now += web_runs.GONE + 1
            await a_moment()
            assert (runs.going, [process.alive for process in started]) == (1, [True, True])  # one waits for its frame
            with pytest.raises(NoSuchRunError, match=r"^there is no such run; .* 30 s: start over$"):
                runs.find(other.name)
            started[0].answering.set()
            assert await asked_for == b"well"
            clock.now += web_runs.GONE + 1
            await a_moment()
            assert (runs.going, [process.alive for process in started]) == (0, [True, True])
            clock.now += web_runs.IDLE
            await a_moment()
            assert [process.alive for process in started] == [True, True]
            clock.now += 1
            await a_moment()
            assert [process.alive for process in started] == [False, False]
            runs.begin(OPTIONS)
        assert not started[2].alive

    monkeypatch.setattr(web_runs, "monotonic", clock)
    monkeypatch.setattr(asyncio, "sleep", lambda _: pause(0))
    now = partial(pause, 0)
    asyncio.run(ask())


def test_what_is_refused_as_a_run_ends_is_told_as_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        runs = Runs(1)
        started = stand_in(monkeypatch, refusing("checkpoint", OptionError("none is the best")))
        run = runs.begin(OPTIONS)
        with pytest.raises(OptionError, match="none is the best"):
            await runs.checkpoint(run, best=True)
        started[0].answering.clear()
        asked_for = asyncio.create_task(runs.checkpoint(run))
        for _ in range(20):
            await asyncio.sleep(0)
        assert started[0].heard[-1] == {"do": "checkpoint", "best": False}
        runs.end(run)
        started[0].answering.set()
        with pytest.raises(NoSuchRunError, match=r"^the run has ended: start over$"):
            await asked_for
        assert started[0].heard[-1] == {"do": "end"}
        started[0].answering.clear()
        run = runs.begin(OPTIONS)
        await runs.change(run, {"pace": 3})
        await asyncio.sleep(0)
        runs.end(run)
        started[0].answering.set()
        assert run.beginning is not None
        await run.beginning
        assert [message["do"] for message in started[0].heard[-2:]] == ["begin", "end"]

    asyncio.run(ask())


def test_there_are_as_many_places_as_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 5, 7}, raising=False)
    assert (Runs().places, Runs(5).places) == (3, 5)
    monkeypatch.delattr(os, "sched_getaffinity")
    for cores, places in ((7, 7), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert Runs().places == places
