"""Runs of a server, with processes that only say that they train."""

import asyncio
import errno
import itertools
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Clock

from torchdigits.errors import OptionError
from torchdigits.files.networks import shipped_checkpoint
from torchdigits.training.options import TrainOptions
from torchdigits.web import learning
from torchdigits.web import runs as web_runs
from torchdigits.web.app import application
from torchdigits.web.runs import NoSuchRunError, Runs, TooManyRunsError
from torchdigits.web.schemas import CannotNowError


class StandIn:
    """A process that keeps what it hears, and answers what a test says."""

    def __init__(self, answers: "Answers") -> None:
        self.answers, self.heard = answers, list[dict[str, Any]]()
        self.state, self.then, self.alive = "running", "running", True
        self.answering = asyncio.Event()
        self.answering.set()

    @property
    def over(self) -> bool:
        return self.state == "finished"

    @property
    def rests(self) -> bool:
        return self.state in ("finished", "paused")

    async def ask(self, message: dict[str, Any], _: float) -> bytes:
        self.heard.append(message)
        await self.answering.wait()
        answer = self.answers(message) if self.alive else EOFError()
        self.alive = self.alive and not isinstance(answer, EOFError)
        if message["do"] == "frame":
            self.state = self.then
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
        started = stand_in(monkeypatch, *[well] * (web_runs.MOST_RESTING + 1))
        over = []
        for place in range(web_runs.MOST_RESTING):
            over.append(runs.begin(OPTIONS))
            await over[-1].begun.wait()
            runs.warm_up()  # no more than there are places
            assert (runs.going, len(started)) == (1, place + 1)
            started[-1].then = "finished"
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


def test_a_run_that_pauses_makes_room_and_goes_on_when_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        runs = Runs(2)
        started = stand_in(monkeypatch, *[well] * (2 + web_runs.MOST_RESTING))
        pausing = []
        for place in range(web_runs.MOST_RESTING):
            pausing.append(runs.begin(OPTIONS))
            await pausing[-1].begun.wait()
            started[place].then = "paused"
            await runs.ask(pausing[-1], "frame")
            assert (runs.going, len(started)) == (0, place + 1)
        waiting = runs.begin(OPTIONS)  # too many pause, and none is ended for it
        assert [runs.turn_of(run) for run in (*pausing, waiting)] == [0] * web_runs.MOST_RESTING + [1]
        await runs.change(pausing[0], {"pace": 3})
        assert runs.going == 0
        for run, process in zip(pausing[:2], started, strict=False):
            await runs.change(run, {"updates": 5})
            process.then = "running"
        assert (runs.going, runs.waiting) == (2, 1)  # all places are taken again
        await runs.change(pausing[2], {"updates": "end"})
        assert (runs.going, runs.waiting, len(started)) == (3, 1, 3)  # a run that has its process goes on
        started[1].then = "finished"
        await runs.ask(pausing[1], "frame")
        assert runs.waiting == 1
        await runs.change(pausing[1], {"updates": 1})  # of one that is over there are none
        assert runs.going == 2
        await runs.change(pausing[2], {"updates": 0})
        assert runs.going == 2
        started[2].then = "paused"
        await runs.ask(pausing[2], "frame")
        assert (runs.going, runs.waiting, len(started)) == (2, 0, 4)  # by which the one that waited goes on, too
        assert all(runs.find(run.name) is run for run in pausing)

    asyncio.run(ask())


def test_an_unforeseen_error_of_a_process_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        runs = Runs(1)
        started = stand_in(monkeypatch, refusing("begin", RuntimeError("a mistake of ours")))
        run = runs.begin(OPTIONS)
        assert run.beginning is not None
        with pytest.raises(RuntimeError, match="a mistake of ours"):
            await run.beginning
        assert await runs.ask(run, "frame") == b"well"  # the process has no run, and says so
        assert [message["do"] for message in started[0].heard] == ["begin", "frame"]

    asyncio.run(asyncio.wait_for(ask(), 20))


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


# The same, asked for by requests


@asynccontextmanager
async def asked(**options: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = application(train_command=lambda *words: " ".join(words), **options)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000") as client:
        yield client


async def begun(client: httpx.AsyncClient, **options: Any) -> str:
    """The address of a new run."""
    answer = await client.post("/runs", json=options)
    assert answer.status_code == 201, answer.text
    return f"/runs/{answer.json()['run']}"


def test_a_run_is_trained_as_it_was_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    odd = {"hidden": [12, 11], "epochs": 7, "batch_size": 3, "learning_rate": 0.5, "seed": 9}
    largest = {"hidden": [1000], "epochs": 1000, "batch_size": 50_000, "learning_rate": 1000, "seed": 2**32 - 1}
    smallest = {"hidden": [1], "epochs": 1, "batch_size": 1, "learning_rate": 1e-6, "seed": 0}
    most = {"hidden": [710, 330, 610]}  # a million weights and biases
    plain = {"hidden": [30], "epochs": 30, "batch_size": 10, "learning_rate": 3, "seed": 0}
    asked_for: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({}, plain, ""),
        (odd, odd, "--hidden 12 11 --epochs 7 --batch-size 3 --learning-rate 0.5 --seed 9 "),
        (largest, largest, "--hidden 1000 --epochs 1000 --batch-size 50000 --learning-rate 1000 --seed 4294967295 "),
        (smallest, smallest, "--hidden 1 --epochs 1 --batch-size 1 --learning-rate 1e-06 "),
        (most, plain | most, "--hidden 710 330 610 "),
        ({"hidden": [], "epochs": 3.0}, plain | {"hidden": [], "epochs": 3}, "--hidden --epochs 3 "),
        ({"hidden": [9.0, 8, 7, 6]}, plain | {"hidden": [9, 8, 7, 6]}, "--hidden 9 8 7 6 "),
    ]  # fmt: skip

    async def ask() -> None:
        started = stand_in(monkeypatch, well, well)
        async with asked(data_dir=tmp_path) as client:
            for options, wanted, words in asked_for:
                answer = await client.post("/runs", json=options)
                assert answer.json()["command"] == f"--dataset digits {words}--accelerator cpu"
                run = f"/runs/{answer.json()['run']}"
                await client.get(f"{run}/frame")
                assert started[0].heard[-2]["do"] == "begin"
                begun_with = TrainOptions.from_plain(json.loads(json.dumps(started[0].heard[-2]["options"])))
                assert begun_with == TrainOptions(dataset="digits", accelerator="cpu", data_dir=tmp_path, **wanted)
                assert (await client.delete(run)).status_code == 204
            for options in (
                {"hidden": [1001]}, {"hidden": [1] * 5}, {"epochs": 1001}, {"batch_size": 50_001}, {"seed": 2**32},
                {"learning_rate": 1000.001}, {"learning_rate": 9e-7}, {"seed": "0"}, {"hidden": [1.5]}, {"more": 1},
            ):  # fmt: skip
                answer = await client.post("/runs", json=options)
                assert (answer.status_code, *answer.json()) == (422, "error")
            too_large = await client.post("/runs", json={"hidden": [710, 331, 610]})
            assert (too_large.status_code, too_large.json()) == (
                409, {"error": "1,001,321 weights and biases: the page trains 1,000,000 at most"},
            )  # fmt: skip
            assert (await client.get("/runs")).json() == {"datasets": ["digits"], "places": 1, "going": 0, "waiting": 0}
            no_mnist = await client.post("/runs", json={"dataset": "mnist"})
            assert (no_mnist.status_code, no_mnist.json()) == (
                409, {"error": "MNIST is not on this machine: train on the digits, or start the server with --data-dir"}
            )  # fmt: skip
            monkeypatch.setattr(learning, "has_mnist", lambda folder: folder == tmp_path)
            assert (await client.get("/runs")).json()["datasets"] == ["digits", "mnist"]
            answer = await client.post("/runs", json={"dataset": "mnist"})
            assert answer.json()["command"] == f"--accelerator cpu --data-dir {tmp_path}"
        monkeypatch.setattr(learning, "has_mnist", lambda folder: folder is None)
        async with asked() as client:  # MNIST is where `train` looks by itself
            answer = await client.post("/runs", json={"dataset": "mnist"})
            assert answer.json()["command"] == "--accelerator cpu"

    asyncio.run(ask())


def test_what_is_asked_of_a_run_reaches_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    network = shipped_checkpoint().read_bytes()
    image = [[n % 256 for n in range(28 * row, 28 * row + 28)] for row in range(28)]
    changes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        *(({"updates": updates}, {"updates": updates}) for updates in (0, 10**9, "epoch", "end")),
        *(({"learning_rate": rate}, {"learning_rate": rate}) for rate in (1e-6, 1000)),
        *(({"pace": pace}, {"pace": pace}) for pace in (0, 0.5, 10**6)),
        ({"drawing": image, "updates": 3.0}, {"drawing": image, "updates": 3}),
        ({"drawing": "none"}, {"drawing": None}),
        ({"pace": None, "updates": 1}, {"updates": 1}),
    ]

    async def ask() -> None:
        started = stand_in(monkeypatch, lambda message: network if message["do"] == "checkpoint" else b"frame")
        async with asked() as client:
            run = await begun(client, learning_rate=0.5)
            waiting = await begun(client)
            for query, after, points in (("", -1, 0), ("?after=7&points=1000000", 7, 10**6)):
                answer = await client.get(f"{run}/frame{query}")
                assert (answer.status_code, answer.content) == (200, b"frame")
                assert answer.headers["content-type"] == "application/octet-stream"
                assert started[0].heard[-1] == {"do": "frame", "patience": 10, "after": after, "points": points}
            for change, heard in changes:
                assert (await client.patch(run, json=change)).status_code == 204
                assert started[0].heard[-1] == {"do": "set", "changes": heard}
            before = len(started[0].heard)
            for change in (
                {"updates": 10**9 + 1},
                {"updates": -1},
                {"pace": 10**6 + 1},
                {"pace": -1},
                {"learning_rate": 0},
                {"updates": "all"},
                {"pace": "1"},
                {"more": 1},
            ):
                assert (await client.patch(run, json=change)).status_code == 422
            json_type = {"Content-Type": "application/json"}
            for number, name in itertools.product(("NaN", "1e999", "-1e999"), ("pace", "learning_rate")):
                answer = await client.patch(run, content=f'{{"{name}": {number}}}', headers=json_type)
                assert (answer.status_code, *answer.json()) == (422, "error")
            for query in ("points=1000001", "points=-1", "after=x"):
                assert (await client.get(f"{run}/frame?{query}")).status_code == 422
            assert len(started[0].heard) == before
            for query, best, name in (("", False, ""), ("?best=true", True, "-best")):
                answer = await client.get(f"{run}/checkpoint{query}")
                assert started[0].heard[-1] == {"do": "checkpoint", "best": best}
                assert (answer.status_code, answer.content) == (200, network)
                assert answer.headers["content-type"] == "application/octet-stream"
                assert answer.headers["content-disposition"] == (
                    f'attachment; filename="digits-784-30-10-eta0.5-seed0{name}.ckpt"'
                )
            own, ours = [
                (await client.post("/steps", json={"pixels": image, "label": 3} | of)).json()
                for of in ({"run": run.removeprefix("/runs/")}, {})
            ]
            assert own == ours
            assert started[0].heard[-1] == {"do": "checkpoint", "best": False}
            answer = await client.get(f"{waiting}/frame")
            assert (answer.status_code, answer.json()) == (202, {"waiting": 1, "places": 1})
            answer = await client.get(f"{waiting}/checkpoint")
            assert (answer.status_code, answer.json()) == (409, {"error": "the run waits for its turn"})
            assert (await client.get("/runs")).json() | {"datasets": []} == {
                "datasets": [], "places": 1, "going": 1, "waiting": 1,
            }  # fmt: skip
            assert (await client.patch(waiting, json={"pace": 4})).status_code == 204
            assert (await client.delete(run)).status_code == 204
            assert (await client.get(f"{waiting}/frame")).status_code == 200
            assert [message["do"] for message in started[0].heard[-4:]] == ["end", "begin", "set", "frame"]
            assert started[0].heard[-2]["changes"] == {"pace": 4}
            started[0].answers = refusing("frame", TimeoutError())
            answer = await client.get(f"{waiting}/frame")
            assert (answer.status_code, answer.content) == (204, b"")
            for method, rest in (("GET", "/frame"), ("PATCH", ""), ("GET", "/checkpoint"), ("DELETE", "")):
                answer = await client.request(method, f"{run}{rest}", json={} if method == "PATCH" else None)
                assert (answer.status_code, *answer.json()) == (404, "error")

    monkeypatch.setattr(web_runs, "_TURN", 0.01)
    asyncio.run(ask())


def test_api_describes_itself() -> None:
    described = application().openapi()
    paths = described["paths"]
    assert {"Network", "Steps", "Answer", "PageAnswer"} <= described["components"]["schemas"].keys()
    found = {f"{how} {path}": {*map(int, of["responses"])} for path, ways in paths.items() for how, of in ways.items()}
    assert found == {
        request: {403, 421} | statuses
        for request, statuses in {
            "get /runs": {200},
            "post /runs": {201, 400, 409, 422, 429},
            "get /runs/{run}/frame": {200, 202, 204, 404, 422},
            "patch /runs/{run}": {204, 400, 404, 422},
            "delete /runs/{run}": {204, 404, 422},
            "get /runs/{run}/checkpoint": {200, 404, 409, 422},
            "post /steps": {200, 400, 404, 409, 422},
            "get /test-images/{dataset}/{place}": {200, 404, 422},
            "get /network": {200},
            "post /recognize": {200, 400, 411, 413, 415, 422},
            "post /read": {200, 400, 411, 413, 415, 422},
        }.items()
    }
    assert all(of["description"] for ways in paths.values() for of in ways.values())
    content: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
    for what in ("frame", "checkpoint"):
        answers = paths[f"/runs/{{run}}/{what}"]["get"]["responses"]
        assert answers["200"]["content"] == {"application/octet-stream": content}
    form = {"type": "object", "required": ["picture"], "properties": {"picture": content["schema"]}}
    types = dict.fromkeys(("image/png", "image/jpeg", "image/*", "application/octet-stream"), content)
    for path in ("/recognize", "/read"):
        body = {"required": True, "content": {"multipart/form-data": {"schema": form}} | types}
        assert paths[path]["post"]["requestBody"] == body
    schemas = described["components"]["schemas"]
    for name in ("Started", "Place", "Possible"):
        assert schemas[name]["required"] == list(schemas[name]["properties"])
    for name in ("NewRun", "Changes", "Started", "Place", "Possible"):
        assert all(field["description"] for field in schemas[name]["properties"].values())
    run = schemas["NewRun"]["properties"]
    assert {name: field["default"] for name, field in run.items()} == {
        "dataset": "digits", "hidden": [30], "epochs": 30, "batch_size": 10, "learning_rate": 3, "seed": 0,
    }  # fmt: skip
