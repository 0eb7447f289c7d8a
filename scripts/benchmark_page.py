"""Time the page's server under clients that draw: python scripts/benchmark_page.py --clients 50 --seconds 30"""

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from itertools import chain
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, sleep
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from torchdigits.commands.cli import main
from torchdigits.data.datasets import load_splits
from torchdigits.errors import OptionError

PICTURES = 100  # of which every client draws one after the other
FRAME = 1 / 60  # seconds: the page asks at most once in each that the screen shows
PROMPT, REST = 0.1, 1.0  # seconds: as in paper.js


class Reply(NamedTuple):
    milliseconds: float
    digit: int | None  # None: an error
    label: int


class Usage(NamedTuple):
    """Of a process: MiB of memory, now and at most so far, threads, and open files."""

    memory: int
    most: int
    threads: int
    files: int

    def __str__(self) -> str:
        return f"{self.memory} MiB, {self.most} MiB at most so far; {self.threads} threads, {self.files} files"


def benchmark_page(
    *, clients: int = 1, seconds: float = 20, size: int = 224, url: str | None = None, data_dir: Path | None = None
) -> None:
    """Draw test images of MNIST without a pause, as the page does, and show how long the server takes to answer.

    A client has one request under way. After the answer it waits for the next of 60 frames a second. If the server
    took more than 0.1 s, the client waits as long as it took, 1 s at most. Then it sends what is drawn by then.

    Args:
        clients: how many draw at once.
        seconds: how long they draw.
        size: of a drawing, in pixels; the page's have 224.
        url: a running server (default: one is started, and its memory is shown too).
        data_dir: MNIST's folder (default: $TORCHDIGITS_DATA_DIR or data).

    Raises:
        OptionError: no server answers, or an option is out of range.
        DataError: MNIST cannot be had.
    """
    for name, value in (("--clients", clients), ("--seconds", seconds), ("--size", size)):
        if value <= 0:
            raise OptionError(f"{name} {value}: it must be more than 0")
    with started() if url is None else _running(url) as (address, process):
        drawings = drawings_of(data_dir, size)
        before = usage_of(process)
        with ThreadPoolExecutor(clients) as pool:
            draws = [pool.submit(draw_for, address, drawings, seconds, k / clients) for k in range(clients)]
            sleep(0.9 * seconds)
            during = usage_of(process)
            replies = [*chain.from_iterable(draw.result() for draw in draws)]
        sleep(1 if process else 0)
        after = usage_of(process)
    errors = sum(reply.digit is None for reply in replies)
    if errors == len(replies) or len(replies) < 2:
        raise OptionError(f"{address}: none of {len(replies)} requests was answered")
    times = [reply.milliseconds for reply in replies]
    correct = sum(reply.digit == reply.label for reply in replies)
    print(f"{len(replies):,} requests of {clients} clients, {len(replies) / seconds:.0f} a second: ", end="")
    print(f"{errors} errors, {correct:,} recognised; ", end="")
    print(f"median {median(times):.1f} ms, p95 {quantiles(times, n=20)[-1]:.1f} ms, longest {max(times):.1f} ms")
    for when, usage in (("before", before), ("towards the end", during), ("after", after)):
        if usage:
            print(f"server {when}: {usage}")


def drawings_of(data_dir: Path | None, size: int = 224) -> list[tuple[bytes, int]]:
    """Pictures of test images of MNIST, and their labels."""
    test = load_splits("mnist", data_dir).test
    digits = test.images[:PICTURES].view(-1, 28, 28).numpy()
    return [(_png(pixels, size), label) for pixels, label in zip(digits, test.labels.tolist(), strict=False)]


def _png(pixels: np.ndarray, size: int) -> bytes:
    picture = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    picture.save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def draw_for(address: str, drawings: list[tuple[bytes, int]], seconds: float, phase: float = 0) -> list[Reply]:
    """What one client does. Clients of different phases, 0 to 1, have different drawings, starts and frames."""
    replies: list[Reply] = []
    connection = HTTPConnection(urlsplit(address).netloc, timeout=10)
    end, i = perf_counter() + seconds, int(phase * len(drawings))
    sleep(phase * min(1, seconds / 10))
    while perf_counter() < end:
        drawing, label = drawings[(i := i + 1) % len(drawings)]
        digit, start = None, perf_counter()
        with suppress(OSError, HTTPException, ValueError, LookupError):
            connection.request("POST", "/recognize", drawing, {"Content-Type": "image/png"})
            digit = json.loads(connection.getresponse().read())["digit"]
        took = perf_counter() - start
        replies.append(Reply(1000 * took, digit, label))
        if digit is None:
            connection.close()
            took = REST
        sleep(min(took, REST) if took > PROMPT else 0)
        sleep((phase - perf_counter() / FRAME) % 1 * FRAME)
    connection.close()
    return replies


@contextmanager
def _running(url: str) -> Iterator[tuple[str, None]]:
    try:
        HTTPConnection(urlsplit(url).netloc, timeout=10).connect()
    except (OSError, HTTPException, ValueError) as error:
        raise OptionError(f"--url {url}: no server answers: {error}") from error
    yield url, None


@contextmanager
def started(*options: str) -> Iterator[tuple[str, int]]:
    """Start a server with these options; its address, and the id of its process."""
    command = [sys.executable, str(Path(__file__).parent / "serve.py"), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        if not found:
            raise OptionError("scripts/serve.py does not start")
        try:
            yield found[0], server.pid
        finally:
            server.terminate()


def usage_of(process: int | None) -> Usage | None:
    """What a process has of memory, threads and files, on Linux; elsewhere nothing."""
    folder = Path(f"/proc/{process}")
    if not (folder / "status").exists():
        return None
    status = dict(re.findall(r"^(\w+):\s+(\d+)", (folder / "status").read_text(), re.MULTILINE))
    now, most = (int(status[name]) // 1024 for name in ("VmRSS", "VmHWM"))
    return Usage(now, most, int(status["Threads"]), len([*(folder / "fd").iterdir()]))


if __name__ == "__main__":
    main(benchmark_page)
