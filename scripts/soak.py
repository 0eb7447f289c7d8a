"""Try for long what must go on for long: python scripts/soak.py --minutes 30; python scripts/soak.py --part runs"""

import io
import json
import random
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from queue import SimpleQueue
from shutil import rmtree
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Literal

import numpy as np
import torch
from benchmark_page import Usage, usage_of
from PIL import Image

from torchdigits import load_network
from torchdigits.commands.cli import main
from torchdigits.errors import OptionError

SCRIPTS = Path(__file__).parent
CHANCE = random.Random()  # noqa: S311  # nothing secret
CONNECTIONS = 40  # of each kind of client that connects only to disturb; the server has 128 at most
WORKERS = 4  # processes that train in one folder
GROWTH = 64  # MiB that a server's memory may have grown by
PATIENCE = 35  # seconds: the server ends connections after 20, and runs that nobody watches after 30
END = (0, 130, 143, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)  # what a run that was stopped may end with


def soak(*, part: Literal["serve", "runs"] = "serve", minutes: float = 30, runs: int = 100) -> None:
    """Try for long what must go on for long, and end with status 1 if it does not.

    serve: the page's server, asked by clients that draw, and by others that are slow or hostile. At the end its memory,
    threads and files must be as before. runs: training, stopped and resumed at random in one folder by four processes.
    At the end every run must have the weights of one that nothing disturbed, and no file may be left over.

    Args:
        part: what is tried.
        minutes: how long the server is asked; a tenth of it is for warming up.
        runs: how many runs are trained.

    Raises:
        OptionError: minutes or runs are too few, or the server or training does not start.
    """
    if minutes <= 0 or runs < 1:
        raise OptionError(f"--minutes {minutes:g} --runs {runs}: they must be more than 0")
    problems = _serve(60 * minutes) if part == "serve" else _train(runs)
    if problems:
        raise SystemExit("\n".join(problems))


def _serve(seconds: float) -> list[str]:
    """Ask a server; what is wrong afterwards."""
    command = [sys.executable, str(SCRIPTS / "serve.py"), "--port", "0"]
    with TemporaryDirectory() as folder, (Path(folder) / "errors").open("w+") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as server:
            assert server.stdout is not None
            port = re.search(r":(\d+)/", server.stdout.readline())
            if not port:
                raise OptionError("scripts/serve.py does not start")
            try:
                _ask(int(port[1]), seconds / 10)
                before = _usage_of(server.pid)
                counts, times = _ask(int(port[1]), 0.9 * seconds)
                after = _usage_of(server.pid)
            finally:
                server.terminate()
        errors.seek(0)
        said = errors.read()
    print(", ".join(f"{count:,} x {what}" for what, count in sorted(counts.items())))
    print(f"drawings: median {1000 * median(times):.0f} ms, longest {1000 * max(times):.0f} ms")
    print(f"the server before: {before}\nthe server after: {after}")
    problems = [what for what in counts if what.startswith("drawing") and what != "drawing 200"]
    if said:
        problems.append(f"the server said {said[:1000]}")
    if (
        before
        and after
        and (after.memory > before.memory + GROWTH or after.threads > before.threads or after.files > before.files)
    ):
        problems.append("the server has grown")
    return problems


def _usage_of(server: int) -> Usage | None:
    """What it has, less two threads and a pipe for each process that it keeps ready to train."""
    if (usage := usage_of(server)) is None:
        return None
    tasks = Path(f"/proc/{server}/task").glob("*/children")
    children = [child for task in tasks for child in task.read_text(encoding="utf-8").split()]
    kept = sum(b"web.trainer" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)
    return usage._replace(threads=usage.threads - 2 * kept, files=usage.files - kept)


def _ask(port: int, seconds: float) -> tuple[Counter[str], list[float]]:
    """Ask for some seconds, and wait until the server has ended what is left; what was answered, and how fast."""
    clients = _Clients(port, monotonic() + seconds)

    def go_on(client: Callable[[], None]) -> None:
        while monotonic() < clients.end:
            with suppress(ConnectionError):
                client()

    with ThreadPoolExecutor(len(clients.all())) as pool:
        for client in [pool.submit(go_on, client) for client in clients.all()]:
            client.result()
    sleep(PATIENCE)
    return Counter(clients.done.get_nowait() for _ in range(clients.done.qsize())), clients.times


class _Clients:
    """Those who ask a server.

    Attributes:
        end: when they stop.
        done: what was sent, and how it was answered.
        times: seconds that each drawing took.
    """

    def __init__(self, port: int, end: float) -> None:
        self.end, self.done, self.times = end, SimpleQueue[str](), list[float]()
        self._port, self._drawing, self._large = port, _digit(1), _digit(100) + bytes(500_000)

    def all(self) -> list[Callable[[], None]]:
        """Each is called again and again."""
        drawing, head = self._drawing, f"HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n"
        begun = f"POST /recognize {head}Content-Type: image/png\r\nContent-Length: 199000\r\n\r\n".encode()
        return [
            *[self.draw] * 4,
            *[self.learn] * 2,
            lambda: self.send("page", drawing, "/read"),
            lambda: self.send("large picture", self._large),
            lambda: self.send("broken picture", drawing[: CHANCE.randrange(len(drawing))]),
            lambda: self.send("noise", CHANCE.randbytes(CHANCE.randrange(300_000))),
            lambda: self.connect("idle", b""),
            lambda: self.connect("drips", begun, drips=True),
            lambda: self.connect("half a body", begun + bytes(100_000)),
            lambda: self.connect("reads nothing", f"GET /network {head}\r\n".encode() * 60),
            lambda: self.connect("garbage", CHANCE.randbytes(10_000)),
        ]

    def draw(self) -> None:
        start = monotonic()
        self._request("drawing", "/recognize", self._drawing)
        self.times.append(monotonic() - start)
        sleep(0.05)

    def send(self, what: str, content: bytes, path: str = "/recognize") -> None:
        self._request(what, path, content)
        sleep(0.2)

    def learn(self) -> None:
        """Begin a run, watch it for some time, and end it, or leave that to the server."""
        status, answer = self._request("run", "/runs", b'{"epochs": 2}')
        sleep(1)
        if status != "201":
            return
        run, version = f"/runs/{json.loads(answer)['run']}", -1
        self._request("change of a run", run, b'{"updates": "end"}', "PATCH")
        until = min(self.end, monotonic() + CHANCE.uniform(0.1, 1) * PATIENCE)
        while monotonic() < until:
            status, answer = self._request("frame", f"{run}/frame?after={version}&points=0", method="GET")
            if status == "200":
                version = json.loads(answer[4 : 4 + int.from_bytes(answer[:4], "little")])["version"]
        if CHANCE.random() < 0.5:
            self._request("end of a run", run, method="DELETE")

    def connect(self, what: str, content: bytes, drips: bool = False) -> None:
        """Send something on many connections at once, read nothing, and wait until they are ended, or longer."""
        connections = [
            socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE) for _ in range(CONNECTIONS)
        ]
        until = min(self.end, monotonic() + CHANCE.uniform(0.1, 1) * PATIENCE)
        for connection in connections:
            with suppress(OSError):
                connection.setblocking(False)
                connection.send(content)
            self.done.put(what)
        while monotonic() < until:
            sleep(0.5)
            for connection in connections if drips else ():
                with suppress(OSError):
                    connection.send(b"x")
        for connection in connections:
            connection.close()

    def _request(self, what: str, path: str, content: bytes = b"", method: str = "POST") -> tuple[str, bytes]:
        """Ask; the answer's status, or what went wrong, and the answer."""
        kind = "application/json" if path.startswith("/runs") else "image/png"
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(method, path, content, {"Content-Type": kind})
            response = connection.getresponse()
            status, answer = str(response.status), response.read()
        except (OSError, HTTPException) as error:
            status, answer = type(error).__name__, b""
        finally:
            connection.close()
        self.done.put(f"{what} {status}")
        return status, answer


def _digit(scale: int) -> bytes:
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 12:15] = 255
    Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1)).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def _train(runs: int) -> list[str]:
    """Train, stop and resume; what is wrong afterwards."""
    with TemporaryDirectory() as folder, ThreadPoolExecutor(WORKERS) as pool:
        output, undisturbed, problems = Path(folder) / "runs", Path(folder) / "undisturbed", list[str]()
        seconds = [*pool.map(lambda seed: _undisturbed(seed, undisturbed), range(WORKERS))]
        shares = [len(range(seed, runs, WORKERS)) for seed in range(WORKERS)]
        stops = sum(pool.map(_disturbed, range(WORKERS), shares, [output] * WORKERS, seconds, [problems] * WORKERS))
        found = sorted(path.name for path in output.iterdir())
        for run in found:
            expected = undisturbed / re.sub(r"run\d+$", "run1", run)
            if not expected.is_dir() or not _are_same(output / run, expected):
                problems.append(f"{run} is not as if nothing had disturbed it")
    print(f"{len(found)} runs of {runs} trained, stopped {stops} times; {len(problems)} problems")
    return problems if len(found) == runs else [*problems, f"there are {len(found)} folders for {runs} runs"]


def _command(*options: object) -> list[str]:
    return [sys.executable, str(SCRIPTS / "train.py"), *map(str, options)]


def _options(seed: int, output: Path) -> tuple[object, ...]:
    return "--dataset", "digits", "--epochs", 10, "--engine", "eager", "--seed", seed, "--output", output


def _undisturbed(seed: int, output: Path) -> float:
    """Train a run that nothing disturbs; the seconds that it takes."""
    start = monotonic()
    done = subprocess.run(_command(*_options(seed, output)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise OptionError(f"scripts/train.py ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    return monotonic() - start


def _disturbed(seed: int, runs: int, output: Path, seconds: float, problems: list[str]) -> int:
    """Train runs one after the other, each stopped at random and resumed until it is finished; how often."""
    stops, before = 0, set[Path]()
    for _ in range(runs):
        status = None
        while status != 0:
            begun = [*set(output.glob(f"*-seed{seed}-*")) - before]
            if begun and not (begun[0] / "last.ckpt").exists():  # no epoch was finished
                rmtree(begun.pop())
            command = _command("--resume", begun[0]) if begun else _command(*_options(seed, output))
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(CHANCE.uniform(0, 1.5 * seconds))
                process.send_signal(CHANCE.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)))
                _, said = process.communicate()
            if (status := process.returncode) not in END:
                problems.append(f"status {status} after {' '.join(command[1:])}: {said.strip()[-500:]}")
                return stops
            stops += status != 0
        before.update(output.glob(f"*-seed{seed}-*"))
    return stops


def _are_same(run: Path, expected: Path) -> bool:
    """Whether two runs have the same files, and the same weights in them."""
    if sorted(path.name for path in run.iterdir()) != sorted(path.name for path in expected.iterdir()):
        return False
    pairs = [(load_network(run / name), load_network(expected / name)) for name in ("best.ckpt", "last.ckpt")]
    return all(
        torch.equal(*both) for one, two in pairs for both in zip(one.parameters(), two.parameters(), strict=True)
    )


if __name__ == "__main__":
    main(soak)
