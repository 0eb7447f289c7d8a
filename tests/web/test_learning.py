"""Runs that a page watches, and one example step by step, asked for as the page asks, and as it never would."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
import torch
from conftest import served

from torchdigits import SigmoidMLP, load_network
from torchdigits.data.datasets import DigitSplits
from torchdigits.files.networks import load_network as load
from torchdigits.proof.example import step_through
from torchdigits.recognition.measuring import measure
from torchdigits.training.options import TrainOptions
from torchdigits.training.run import train
from torchdigits.web import runs as web_runs
from torchdigits.web.app import application
from torchdigits.web.learning import words_of
from torchdigits.web.stepping import packed

SLOW = 60  # seconds that a busy machine may take
BEGUN: list[str] = []  # runs that a test began


class Frame(NamedTuple):
    header: dict[str, Any]
    weights: np.ndarray
    size: int


class Watch:
    """What a page does: it asks for the next frame when it has the last, and keeps the points."""

    def __init__(self, client: httpx.Client, **options: Any) -> None:
        self.client = client
        answer = client.post("/runs", json=options)
        assert answer.status_code == 201, answer.text
        self.name, self.command = answer.json()["run"], answer.json()["command"]
        BEGUN.append(self.name)
        self.points: list[Any] = []
        self.after = -1

    @property
    def path(self) -> str:
        return f"/runs/{self.name}"

    def frame(self) -> Frame:
        for _ in range(SLOW // 10):
            answer = self.client.get(f"{self.path}/frame", params={"after": self.after, "points": len(self.points)})
            if answer.status_code == 200:
                break
            assert answer.status_code in (202, 204), answer.text
        assert answer.status_code == 200, "nothing new"
        size = int.from_bytes(answer.content[:4], "little")
        header = json.loads(answer.content[4 : 4 + size])
        self.after = header["version"]
        assert header["point"] == len(self.points)
        self.points += header["points"]
        weights = np.frombuffer(answer.content[4 + size :], np.int8).reshape(header["shown"], 784)
        return Frame(header, weights, len(answer.content))

    def until(self, holds: Callable[[dict[str, Any]], bool]) -> Frame:
        end = monotonic() + SLOW
        while monotonic() < end:
            if holds((frame := self.frame()).header):
                return frame
        raise AssertionError(frame.header)

    def change(self, **changes: Any) -> None:
        answer = self.client.patch(self.path, json=changes)
        assert (answer.status_code, answer.text) == (204, "")

    def network(self, **query: Any) -> SigmoidMLP:
        content = self.client.get(f"{self.path}/checkpoint", params=query).content
        path = Path(os.environ["PYTEST_CURRENT_TEST_FOLDER"]) / "downloaded.ckpt"
        path.write_bytes(content)
        return load(path)

    def end(self) -> None:
        assert self.client.delete(self.path).status_code == 204


@contextmanager
def asked(**options: Any) -> Iterator[httpx.Client]:
    with served(application(**options)) as address, httpx.Client(base_url=address, trust_env=False, timeout=SLOW) as c:
        yield c


@pytest.fixture(scope="module")
def lasting_client() -> Iterator[httpx.Client]:
    with asked() as client:
        yield client


@pytest.fixture
def client(lasting_client: httpx.Client) -> Iterator[httpx.Client]:
    """A client of a server on which no run is going."""
    yield lasting_client
    while BEGUN:
        lasting_client.delete(f"/runs/{BEGUN.pop()}")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_CURRENT_TEST_FOLDER", str(tmp_path))


def children() -> set[int]:
    """The processes that train, started by this one."""
    found = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "web.trainer"], capture_output=True, check=False)
    return {int(line) for line in found.stdout.split()}


@pytest.mark.slow
def test_a_whole_run_is_trains(client: httpx.Client, digits: DigitSplits, tmp_path: Path) -> None:
    watch = Watch(client, epochs=4, seed=2)
    first = watch.frame()
    assert first.header["state"] == "paused"
    assert first.header["updates"] == 0
    watch.change(updates="end")
    frames = [watch.frame()]
    while frames[-1].header["state"] != "finished":
        frames.append(watch.frame())
    last = frames[-1].header
    trained = train(TrainOptions(dataset="digits", epochs=4, seed=2, accelerator="cpu", output=tmp_path))
    for query, file in (({}, "last.ckpt"), ({"best": True}, "best.ckpt")):
        ours, theirs = watch.network(**query).state_dict(), load_network(trained.folder / file).state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert last["updates"] == 4 * 122
    assert last["test"] == {"correct": trained.test.correct, "total": 290}
    assert last["best"]["epoch"] == trained.best["epoch"]
    assert last["unlike_train"] == ""
    by_update = {point[0]: point for point in watch.points}
    for row in trained.rows:
        _, cost, correct, recall = by_update[122 * row["epoch"]]
        assert cost == pytest.approx(row["validation_cost"], abs=1e-5)
        assert correct == round(290 * row["validation_accuracy"])
        assert sum(recall) == pytest.approx(correct / 29, abs=0.01)
    assert max(frame.size for frame in frames) <= 40_000
    assert [point[0] for point in watch.points] == sorted(by_update)
    watch.end()


@pytest.mark.slow
def test_the_weights_of_a_frame_are_the_networks(client: httpx.Client) -> None:
    for hidden, shown in (([30], 30), ([50, 12], 40), ([], 10)):
        watch = Watch(client, hidden=hidden)
        watch.change(updates=3)
        header, weights, size = watch.until(lambda header: header["updates"] == 3 and header["state"] == "paused")
        layer = next(watch.network().parameters()).detach()
        assert (header["neurons"], header["shown"]) == (len(layer), shown)
        expected = (layer[:shown].numpy() * 127 / header["full"]).clip(-127, 127)
        assert np.abs(weights - expected).max() <= 0.51
        assert 0.985 < (layer.abs() <= header["full"] * 1.0001).float().mean() < 0.995
        assert size <= 40_000
        watch.end()


@pytest.mark.slow
def test_steps_are_as_many_as_asked_for(client: httpx.Client) -> None:
    watch = Watch(client, epochs=3)
    for updates, reached in ((1, 1), (10, 11), ("epoch", 122), ("epoch", 244), (0, 244), ("end", 366)):
        watch.change(updates=updates)
        found = watch.until(lambda header: header["state"] in ("paused", "finished") and header["version"] > 0)
        while found.header["updates"] < reached:
            found = watch.frame()
        assert found.header["updates"] == reached
    assert found.header["state"] == "finished"
    watch.end()


def test_slow_motion_and_pause(client: httpx.Client) -> None:
    watch = Watch(client)
    watch.frame()
    watch.change(updates="end", pace=20)
    start = monotonic()
    watch.until(lambda header: header["updates"] >= 10)
    assert monotonic() - start > 9 / 20
    watch.change(updates=0)
    paused = watch.until(lambda header: header["state"] == "paused").header
    sleep(0.3)
    watch.change(pace=0)
    assert watch.frame().header["updates"] == paused["updates"] < 122
    watch.end()


def test_a_changed_learning_rate_is_no_longer_trains(client: httpx.Client) -> None:
    watch = Watch(client, learning_rate=0.3)
    watch.change(learning_rate=3)
    assert watch.until(lambda header: header["learning_rate"] == 3).header["unlike_train"] == ""
    watch.change(updates=1)
    assert (
        watch.until(lambda header: header["updates"] == 1).header["unlike_train"]
        == "its learning rate was changed on the way"
    )
    watch.end()


@pytest.mark.slow
def test_a_run_that_does_nothing_takes_no_time_of_a_processor(client: httpx.Client) -> None:
    watch = Watch(client)
    watch.change(updates=5)
    watch.until(lambda header: header["updates"] == 5 and header["state"] == "paused")
    with ThreadPoolExecutor(1) as beside:
        waiting = beside.submit(watch.frame)
        for _ in range(10):  # in some of which a process of another run may still begin or end
            before = {process: used(process) for process in children()}
            sleep(1)
            spent = max(used(process) - before[process] for process in children() & before.keys())
            if spent < 0.25:
                break
        watch.change(drawing="none")
        waiting.result()
    assert spent < 0.25
    watch.end()


def used(process: int) -> float:
    """Seconds of a processor that a process has taken."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_a_pace_of_next_to_nothing_is_no_harm(client: httpx.Client) -> None:
    watch = Watch(client)
    watch.change(pace=1e-300, updates="end")
    watch.until(lambda header: header["state"] == "running")
    watch.change(pace=0)
    assert watch.until(lambda header: header["updates"] > 0)
    watch.end()


def test_a_process_that_reads_nothing_keeps_nobody_else_waiting(client: httpx.Client) -> None:
    watch = Watch(client)
    watch.frame()
    stopped = children()
    for process in stopped:
        os.kill(process, signal.SIGSTOP)
    try:
        body = {"drawing": [[200] * 28] * 28}
        with ThreadPoolExecutor(90) as pool:  # the client has 100 connections
            sent = [pool.submit(client.patch, watch.path, json=body) for _ in range(90)]
            sleep(1)
            start = monotonic()
            assert client.get("/network").status_code == 200
            assert monotonic() - start < 5
            for process in stopped:
                os.kill(process, signal.SIGCONT)
            assert {answer.result().status_code for answer in sent} <= {204, 409}
    finally:
        for process in stopped:
            os.kill(process, signal.SIGCONT)
    watch.end()


@pytest.mark.slow
def test_a_finished_run_makes_room_and_still_answers(client: httpx.Client, digits: DigitSplits) -> None:
    places = client.get("/runs").json()["places"]
    done = [Watch(client, epochs=1, batch_size=500) for _ in range(places)]
    for watch in done:
        watch.change(updates="end")
        watch.until(lambda header: header["state"] == "finished")
    more = [Watch(client) for _ in range(places)]
    for watch in more:
        assert watch.frame().header["state"] == "paused"
    done[0].change(drawing=digits.test.images[0].view(28, 28).tolist())
    assert done[0].until(lambda header: header["answer"] is not None)
    for watch in [*done, *more]:
        watch.end()


def test_a_drawing_is_answered_by_the_network_of_the_moment(client: httpx.Client, digits: DigitSplits) -> None:
    watch = Watch(client, hidden=[20, 12])
    image = digits.test.images[3]
    watch.change(drawing=image.view(28, 28).tolist(), updates=20)
    answer = watch.until(lambda header: header["updates"] == 20 and header["state"] == "paused").header["answer"]
    _, *hidden, outputs = watch.network().forward_pass(image[None] / 255)[1]
    np.testing.assert_allclose(answer["activations"], outputs[0].detach(), atol=6e-5)
    for found, expected in zip(answer["hidden"], hidden, strict=True):
        np.testing.assert_allclose(found, expected[0].detach(), atol=6e-5)
    assert [answer["digit"], answer["runner_up"]] == outputs[0].topk(2).indices.tolist()
    watch.change(drawing="none")
    assert watch.frame().header["answer"] is None
    watch.end()


@pytest.mark.slow
def test_a_lost_digit_is_seen_to_be_lost_and_found_again(client: httpx.Client, digits: DigitSplits) -> None:
    watch = Watch(client, seed=2)  # with which 9 is known, then lost, and found in the third epoch
    watch.change(updates="end")
    watch.until(lambda header: header["state"] == "finished")
    known = [point[3][0] >= 0.5 for point in watch.points]
    assert not any(known[: len(known) // 3])
    assert known[-1]
    last = measure(watch.network(), digits.validation)
    shares = (last.recognised / last.images).tolist()
    assert watch.points[-1][3] == pytest.approx(shares, abs=6e-4)
    watch.end()


def test_two_may_watch_a_run(client: httpx.Client) -> None:
    one = Watch(client, epochs=1)
    other = Watch.__new__(Watch)
    other.client, other.name, other.points, other.after = client, one.name, [], -1
    one.change(updates="end")
    for watch in (one, other):
        assert watch.until(lambda header: header["state"] == "finished").header["updates"] == 122
    assert one.points == other.points
    one.end()
    assert client.get(f"{other.path}/frame").status_code == 404


def test_frames_and_checkpoints_come_as_bytes_and_no_news_as_nothing(
    monkeypatch: pytest.MonkeyPatch, client: httpx.Client
) -> None:
    watch = Watch(client, epochs=1, batch_size=500, learning_rate=0.5)
    watch.change(updates="end")
    watch.until(lambda header: header["state"] == "finished")
    for what, name in (("frame", None), ("checkpoint", "eta0.5-seed0"), ("checkpoint?best=true", "eta0.5-seed0-best")):
        headers = client.get(f"{watch.path}/{what}").headers
        assert headers["content-type"] == "application/octet-stream"
        saved_as = name and f'attachment; filename="digits-784-30-10-{name}.ckpt"'
        assert headers.get("content-disposition") == saved_as
    monkeypatch.setattr(web_runs, "_PATIENCE", 0.1)
    answer = client.get(f"{watch.path}/frame", params={"after": 10**6, "points": 10**6})
    assert (answer.status_code, answer.content) == (204, b"")
    watch.end()


BAD_RUNS = [({"learning_rate": value}, "learning_rate") for value in (1e9, 0, -1, "3", None, True, 1e400)] + [
    ({"hidden": [0]}, "hidden.0"),
    ({"hidden": [100_000]}, "hidden.0"),
    ({"hidden": [30.5]}, "hidden.0"),
    ({"hidden": [10] * 5}, "hidden"),
    ({"hidden": "30"}, "hidden"),
    ({"batch_size": 0}, "batch_size"),
    ({"batch_size": 10**30}, "batch_size"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**32}, "seed"),
    ({"epochs": 0}, "epochs"),
    ({"dataset": "../mnist"}, "dataset"),
    ({"engine": "eager"}, "engine"),
    ([], "the body"),
]


@pytest.mark.parametrize(("options", "word"), BAD_RUNS, ids=str)
def test_wrong_options_are_told_in_a_line(client: httpx.Client, options: Any, word: str) -> None:
    before = client.get("/runs").json()
    answer = client.post("/runs", content=json.dumps(options), headers={"Content-Type": "application/json"})
    assert_refused(answer, 422, word)
    assert client.get("/runs").json() == before


BAD_CHANGES: list[tuple[Any, str]] = [
    ({"updates": -1}, "updates"),
    ({"updates": 1.5}, "updates"),
    ({"updates": "all"}, "updates"),
    ({"learning_rate": float("nan")}, "learning_rate"),
    ({"learning_rate": 1e9}, "learning_rate"),
    ({"pace": -1}, "pace"),
    ({"pace": float("inf")}, "pace"),
    ({"drawing": [[0] * 28] * 27}, "drawing"),
    ({"drawing": [[0] * 27] * 28}, "drawing"),
    ({"drawing": [[256] * 28] * 28}, "drawing"),
    ({"drawing": [["0"] * 28] * 28}, "drawing"),
    ({"stop": True}, "stop"),
    ({"x" * 1000: True}, "x" * 300),
    ("x", "the body"),
]


@pytest.mark.slow
def test_wrong_changes_are_told_in_a_line_and_change_nothing(client: httpx.Client) -> None:
    watch = Watch(client)
    before = watch.frame().header
    for changes, word in BAD_CHANGES:
        answer = client.patch(watch.path, content=json.dumps(changes), headers={"Content-Type": "application/json"})
        assert_refused(answer, 422, word)
    for body in (b"", b"{", b"[" * 100_000, b"\xff"):
        answer = client.patch(watch.path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422)
        assert "\n" not in answer.json()["error"]
    assert_refused(client.get(f"{watch.path}/checkpoint", params={"best": True}), 422, "no epoch")
    for query in ({"after": "x"}, {"points": -1}, {"points": 10**9}):
        assert_refused(client.get(f"{watch.path}/frame", params=query), 422, next(iter(query)))
    watch.change(updates=0)
    header = watch.frame().header
    assert {**header, "version": 0, "points": []} | {"point": 0} == {**before, "version": 0, "points": []} | {
        "point": 0
    }
    watch.end()


def test_a_body_that_is_no_json_is_told_and_where_it_is_wrong(client: httpx.Client) -> None:
    for body in (b"x", b"{"):
        answer = client.post("/runs", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()) == (422, {"error": "the body: it is no JSON"})
    answer = client.post("/runs", json={"hidden": [30, 0]})
    assert answer.json() == {"error": "hidden.1: Input should be greater than or equal to 1"}


def assert_refused(answer: httpx.Response, status: int, word: str) -> None:
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert word in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert len(answer.json()["error"]) <= 300


def test_no_run_of_another_name(client: httpx.Client) -> None:
    requests = [("GET", "/frame"), ("PATCH", ""), ("GET", "/checkpoint"), ("DELETE", "")]
    for name in ("x", "%00", "..", "a" * 5000):
        for method, rest in requests:
            answer = client.request(method, f"/runs/{name}{rest}", json={} if method == "PATCH" else None)
            assert answer.status_code in (404, 405)
            assert "\n" not in answer.json()["error"]


def test_other_sites_are_refused_at_every_address(client: httpx.Client) -> None:
    watch = Watch(client)
    addresses = [
        *(("GET", path) for path in ("/learn", "/step-through", "/runs", "/test-images/digits/0")),
        *(("POST", path) for path in ("/runs", "/steps")),
        *(("GET", f"{watch.path}/{what}") for what in ("frame", "checkpoint")),
        *((method, watch.path) for method in ("PATCH", "DELETE")),
    ]
    before = client.get("/runs").json()
    for method, path in addresses:
        assert client.request(method, path, headers={"Origin": "http://example.com"}).status_code == 403
        assert client.request(method, path, headers={"Host": "example.com"}).status_code == 421
    assert client.get("/runs").json() == before
    watch.end()


@pytest.mark.slow
def test_more_runs_than_cores_wait_and_are_told_so(client: httpx.Client) -> None:
    places = client.get("/runs").json()["places"]
    going = [Watch(client) for _ in range(places)]
    for watch in going:
        watch.change(updates="end", pace=1)
        watch.until(lambda header: header["state"] == "running")
    waiting = [Watch(client) for _ in range(web_runs.MOST_WAITING)]
    for turn, watch in enumerate(waiting[:2], 1):
        answer = client.get(f"{watch.path}/frame")
        assert (answer.status_code, answer.json()) == (202, {"waiting": turn, "places": places})
    refused = [client.post("/runs", json={}) for _ in range(100)]
    for answer in refused:
        assert_refused(answer, 429, "wait already")
    waiting[0].change(updates=2, pace=1)
    assert_refused(client.get(f"{waiting[0].path}/checkpoint"), 409, "its turn")
    going.pop().end()
    going.append(waiting.pop(0))
    assert going[-1].until(lambda header: header["updates"] == 1)  # it has not forgotten
    going[-1].change(updates="end")
    waiting.pop().end()  # one that waits may be ended
    assert client.get("/runs").json() | {"datasets": []} == {
        "datasets": [], "places": places, "going": places, "waiting": web_runs.MOST_WAITING - 2,
    }  # fmt: skip
    for watch in [*going, *waiting]:
        watch.end()
    assert len(children()) <= places + web_runs.MOST_RESTING


@pytest.mark.slow
def test_a_run_whose_page_is_gone_ends(monkeypatch: pytest.MonkeyPatch, client: httpx.Client) -> None:
    gone, kept = Watch(client), Watch(client)
    for watch in (gone, kept):
        watch.change(updates="end", pace=1)
    monkeypatch.setattr(web_runs, "GONE", 2.0)
    end = monotonic() + SLOW
    while client.get("/runs").json()["going"] > 1 and monotonic() < end:
        kept.frame()
    assert_refused(client.get(f"{gone.path}/frame"), 404, "start over")
    assert kept.frame().header["state"] == "running"
    kept.end()


@pytest.mark.slow
def test_a_process_that_is_killed_is_told_and_replaced(client: httpx.Client) -> None:
    watch = Watch(client)
    watch.change(updates="end", pace=1)
    watch.frame()  # it has begun: one that has not begins on another process
    for process in children():
        os.kill(process, signal.SIGKILL)
    answer = client.get(f"{watch.path}/frame", params={"after": 10**6})
    assert_refused(answer, 404, "start over")
    again = Watch(client, epochs=1)
    again.change(updates="end")
    assert again.until(lambda header: header["state"] == "finished").header["updates"] == 122
    again.end()


@pytest.mark.slow
def test_processes_end_with_the_server_and_when_nobody_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    before = children()
    with asked() as client:
        Watch(client).frame()
        assert children() > before
    assert children() <= before
    monkeypatch.setattr(web_runs, "IDLE", 0.0)
    with asked() as client:
        client.get("/runs")
        end = monotonic() + SLOW
        while children() - before and monotonic() < end:
            sleep(0.2)
        assert children() <= before


@pytest.mark.slow
def test_mnist_is_offered_where_it_is(mnist_dir: Path) -> None:
    with asked(data_dir=mnist_dir, train_command=lambda *words: " ".join(words)) as client:
        assert client.get("/runs").json()["datasets"] == ["digits", "mnist"]
        watch = Watch(client, dataset="mnist", epochs=1)
        assert watch.command == f"--epochs 1 --accelerator cpu --data-dir {mnist_dir}"
        assert watch.frame().header["validation_images"] == 10_000
        watch.change(updates=3)
        assert watch.until(lambda header: header["updates"] == 3).header["engine_name"] == "eager"
        assert client.get("/test-images/mnist/9999").json()["images"] == 10_000
        watch.end()


@pytest.mark.slow
def test_a_run_that_is_compiled_says_so_while_it_waits(client: httpx.Client) -> None:
    watch = Watch(client, epochs=100, batch_size=7)  # 17,400 updates
    header = watch.frame().header
    assert header["state"] == "compiling"
    assert header["engine"] == header["engine_name"] == ""
    watch.change(updates=1)
    watch.end()  # and with it, what compiles
    assert Watch(client).frame().header["state"] == "paused"


def test_no_mnist_is_told(client: httpx.Client, tmp_path: Path) -> None:
    with asked(data_dir=tmp_path) as client:
        assert client.get("/runs").json()["datasets"] == ["digits"]
        assert_refused(client.post("/runs", json={"dataset": "mnist"}), 409, "--data-dir")
        assert_refused(client.get("/test-images/mnist/0"), 404, "--data-dir")
        Watch(client).end()  # of the digits, a run begins
        assert client.get("/test-images/digits/0").status_code == 200
        assert not any(tmp_path.glob("*"))  # nothing was downloaded, or begun to be


def test_a_network_that_is_too_large_is_refused(client: httpx.Client) -> None:
    assert_refused(client.post("/runs", json={"hidden": [1000, 1000]}), 409, "1,000,000 at most")


def test_words_give_the_options_back() -> None:
    options = TrainOptions(dataset="digits", hidden=(12, 11), epochs=7, batch_size=3, learning_rate=0.5, seed=9)
    words = words_of(options)
    assert words == [
        "--dataset",
        "digits",
        "--hidden",
        "12",
        "11",
        "--epochs",
        "7",
        "--batch-size",
        "3",
        "--learning-rate",
        "0.5",
        "--seed",
        "9",
    ]
    assert words_of(TrainOptions(data_dir=Path("here"), output=Path("there"))) == []
    assert words_of(TrainOptions(learning_rate=30)) == ["--learning-rate", "30"]


# One example, step by step


def test_steps_are_those_of_the_reference(client: httpx.Client, digits: DigitSplits) -> None:
    image = client.get("/test-images/digits/7").json()
    assert np.array_equal(np.array(image["pixels"]).reshape(784), digits.test.images[7].numpy())
    assert (image["label"], image["images"]) == (int(digits.test.labels[7]), 290)
    question = {"pixels": image["pixels"], "label": 4, "learning_rate": 0.5}
    answer = client.post("/steps", json=question).json()
    expected = step_through(load_network(), digits.test.images[7].numpy(), 4, 0.5)
    assert answer["sizes"] == [784, 30, 10]
    assert answer["x"] == expected.x.tolist()
    assert answer["y"] == expected.y.tolist()
    for name in ("cost", "new_cost", "predicted_fall"):
        assert answer[name]["by_hand"] == [float(getattr(expected, name).by_hand)]
        assert answer[name]["by_autograd"] == [float(getattr(expected, name).by_autograd)]
    for found, layer in zip(answer["layers"], expected.layers, strict=True):
        assert found["weights"] == packed(layer.weights)
        assert found["biases"] == layer.biases.tolist()
        assert found["slope"] == layer.slope.tolist()
        for name in ("z", "a", "delta", "bias_gradient", "new_biases", "new_a"):
            twice = getattr(layer, name)
            assert found[name] == {
                "by_hand": twice.by_hand.tolist(),
                "by_autograd": twice.by_autograd.tolist(),
                "ulps": twice.ulps.tolist(),
            }
        for name in ("weight_gradient", "new_weights"):
            twice = getattr(layer, name)
            assert found[name]["by_hand"] == packed(twice.by_hand)
            assert found[name]["by_autograd"] == packed(twice.by_autograd)
            assert found[name]["largest_ulps"] == twice.ulps.max()


@pytest.mark.slow
def test_steps_of_a_runs_network(client: httpx.Client, digits: DigitSplits) -> None:
    watch = Watch(client, hidden=[12])
    watch.change(updates=5)
    watch.until(lambda header: header["updates"] == 5)
    question = {"pixels": digits.test.images[0].view(28, 28).tolist(), "label": 0, "run": watch.name}
    answer = client.post("/steps", json=question).json()
    assert answer["sizes"] == [784, 12, 10]
    assert answer["layers"][1]["biases"] == watch.network().layers[1].bias.double().tolist()  # type: ignore[operator]
    watch.end()
    assert_refused(client.post("/steps", json=question), 404, "no such run")


def test_wrong_examples_are_told_in_a_line(client: httpx.Client) -> None:
    good = {"pixels": [[0] * 28] * 28, "label": 0}
    for changes, word in (
        ({"label": 10}, "label"), ({"label": "3"}, "label"), ({"pixels": [[0] * 28] * 29}, "pixels"),
        ({"pixels": [[0] * 28] * 27}, "pixels"), ({"more": 0}, "more"),
        ({"pixels": [[-1] * 28] * 28}, "pixels"), ({"learning_rate": 0}, "learning_rate"), ({"run": 3}, "run"),
    ):  # fmt: skip
        assert_refused(client.post("/steps", json=good | changes), 422, word)
    assert client.post("/steps", json=good).json()["learning_rate"] == 3
    assert client.get("/test-images/digits/0").status_code == client.get("/test-images/digits/289").status_code == 200
    assert_refused(client.get("/test-images/digits/290"), 404, "from 0")
    assert_refused(client.get("/test-images/digits/-1"), 422, "place")
    assert_refused(client.get("/test-images/x/0"), 422, "dataset")


def test_api_describes_a_frame(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()["paths"]["/runs/{run}/frame"]["get"]["description"]
    for field in Watch(client).frame().header:
        assert f"`{field}`" in described
