"""The server's side of a process that trains: here, no process, but a pipe that a test answers through."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection, Pipe
from time import monotonic, sleep
from typing import Any

import pytest

from torchdigits import pipes
from torchdigits.errors import OptionError
from torchdigits.web.process import TrainingProcess
from torchdigits.web.schemas import CannotNowError

SLOW = 60  # seconds that a busy machine may take


class StandIn:
    """What trains: the test reads what it is sent, and answers."""

    def __init__(self) -> None:
        self.ours, self.pipe = Pipe()
        self.status: int | None = None
        self.reaped = False

    def poll(self) -> int | None:
        return self.status

    def kill(self) -> None:
        self.status = -9
        self.pipe.close()

    def wait(self) -> None:
        self.reaped = True

    def read(self) -> dict[str, Any]:
        assert self.pipe.poll(SLOW)
        message: dict[str, Any] = json.loads(self.pipe.recv_bytes())
        return message

    def answer(self, content: bytes = b"", **answer: Any) -> None:
        self.pipe.send_bytes(json.dumps(answer).encode())
        self.pipe.send_bytes(content)


Test = Callable[[TrainingProcess, StandIn], Awaitable[None]]


def run(test: Test, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test, after which no thread is left."""
    stand_in, threads = StandIn(), set(threading.enumerate())
    unheard: list[threading.ExceptHookArgs] = []
    started: list[tuple[str, str]] = []

    def start(module: str, function: str) -> tuple[StandIn, Connection]:
        started.append((module, function))
        return stand_in, stand_in.ours

    async def with_process() -> None:
        process = TrainingProcess()
        # Python waits for the others when it ends, and these may wait for a process.
        assert all(thread.daemon for thread in set(threading.enumerate()) - threads)
        await test(process, stand_in)
        assert process._asked == {}  # nothing is kept of what was asked

    monkeypatch.setattr(pipes, "start", start)
    monkeypatch.setattr(threading, "excepthook", unheard.append)
    asyncio.run(with_process())
    stand_in.pipe.close()
    end = monotonic() + SLOW
    while set(threading.enumerate()) - threads and monotonic() < end:
        sleep(0.001)
    assert set(threading.enumerate()) <= threads
    assert stand_in.ours.closed
    assert stand_in.reaped
    assert unheard == []
    assert started == [("torchdigits.web.trainer", "work")]


def test_an_answer_goes_to_who_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(process: TrainingProcess, stand_in: StandIn) -> None:
        questions = [asyncio.create_task(process.ask({"do": "frame", "after": n}, SLOW)) for n in range(4)]
        await asyncio.sleep(0)
        heard = [stand_in.read() for _ in questions]
        assert [message["after"] for message in heard] == [0, 1, 2, 3]
        assert len({message["id"] for message in heard}) == 4
        numbers = [message["id"] for message in heard]
        stand_in.answer(b"of nobody", id=max(numbers) + 1)
        stand_in.answer(b"third", id=numbers[2])
        stand_in.answer(error="there is no such run", id=numbers[0])
        stand_in.answer(mistake="Traceback", id=numbers[3])
        stand_in.answer(id=numbers[1])
        first, second, third, fourth = await asyncio.gather(*questions, return_exceptions=True)
        assert (second, third) == (b"", b"third")
        assert isinstance(first, OptionError)
        assert str(first) == "there is no such run"
        assert isinstance(fourth, RuntimeError)
        assert str(fourth) == "Traceback"

    run(ask, monkeypatch)


def test_whether_a_run_rests_or_is_over_is_what_was_said_last(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(process: TrainingProcess, stand_in: StandIn) -> None:
        assert not process.rests
        found = []
        sayings: list[dict[str, Any]] = [
            {}, {"state": "paused"}, {}, {"state": "running"}, {"state": "failed"}, {"state": "compiling"},
            {"error": "x", "state": "finished"},
        ]  # fmt: skip
        for said in sayings:
            question = asyncio.create_task(process.ask({"do": "frame"}, SLOW))
            await asyncio.sleep(0)
            stand_in.answer(**said, id=stand_in.read()["id"])
            await asyncio.wait([question])
            assert ("error" in said) == (question.exception() is not None)
            found.append((process.rests, process.over))
        goes, pauses, is_over = (False, False), (True, False), (True, True)
        assert found == [goes, pauses, pauses, goes, is_over, goes, is_over]

    run(ask, monkeypatch)


def test_an_answer_that_comes_too_late_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(process: TrainingProcess, stand_in: StandIn) -> None:
        with pytest.raises(TimeoutError):
            await process.ask({"do": "frame"}, 0.01)
        late = stand_in.read()
        question = asyncio.create_task(process.ask({"do": "checkpoint"}, SLOW))
        await asyncio.sleep(0)
        stand_in.answer(b"late", id=late["id"])
        stand_in.answer(b"checkpoint", id=stand_in.read()["id"])
        assert await question == b"checkpoint"
        for steps in range(5):  # an answer to one who is about to give up, or just has
            question = asyncio.create_task(process.ask({"do": "frame"}, SLOW))
            await asyncio.sleep(0)
            number = stand_in.read()["id"]
            question.cancel()
            for _ in range(steps):
                await asyncio.sleep(0)
            process._take({"id": number}, b"well")
            await asyncio.wait([question])
            assert question.cancelled() or question.result() == b"well"

    run(ask, monkeypatch)


def test_who_waits_for_a_process_that_ends_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(process: TrainingProcess, stand_in: StandIn) -> None:
        alive = [process.alive]
        questions = [asyncio.create_task(process.ask({"do": "frame"}, SLOW)) for _ in range(3)]
        await asyncio.sleep(0)
        numbers = [stand_in.read()["id"] for _ in questions]
        stand_in.answer(b"well", id=numbers[0])
        assert await questions[0] == b"well"
        process.stop()
        alive.append(process.alive)
        assert alive == [True, False]
        assert stand_in.reaped
        answers = await asyncio.gather(*questions[1:], return_exceptions=True)
        assert [type(answer) for answer in answers] == [EOFError, EOFError]
        with pytest.raises(EOFError):
            await process.ask({"do": "frame"}, SLOW)

    run(ask, monkeypatch)


def test_a_process_that_reads_nothing_is_busy_and_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(process: TrainingProcess, stand_in: StandIn) -> None:
        large = {"do": "set", "drawing": "0" * 10**6}  # more than a pipe holds
        numbers = [process.tell(large)]
        assert stand_in.pipe.poll(SLOW)  # it is being sent
        numbers += [process.tell({"do": "set"}) for _ in range(100)]
        for _ in range(2):
            with pytest.raises(CannotNowError, match=r"^the run is busy: try again$"):
                process.tell({"do": "set"})
        with pytest.raises(CannotNowError):
            await process.ask({"do": "set"}, SLOW)
        assert [stand_in.read()["id"] for _ in numbers] == numbers == sorted(set(numbers))
        process.tell({"do": "end"})
        assert stand_in.read()["do"] == "end"
        # It may end with as many messages in its pipe and before it.
        process.tell(large)
        assert stand_in.pipe.poll(SLOW)
        for _ in range(100):
            process.tell(large)

    run(ask, monkeypatch)


def test_what_comes_when_the_server_has_ended_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[StandIn] = []

    async def ask(process: TrainingProcess, stand_in: StandIn) -> None:
        process.tell({"do": "frame"})
        asked.append(stand_in)

    def answer_late(close: Callable[[], None]) -> Callable[[], None]:
        def closed() -> None:
            close()
            for stand_in in asked:
                stand_in.answer(b"late", id=stand_in.read()["id"])

        return closed

    loop = asyncio.new_event_loop()
    monkeypatch.setattr(loop, "close", answer_late(loop.close))
    monkeypatch.setattr(asyncio.events, "new_event_loop", lambda: loop)
    run(ask, monkeypatch)
