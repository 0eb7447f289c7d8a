"""Processes that decode pictures and prepare them: whatever a file does to its decoder, it ends there.

A picture of some kilobytes can keep a decoder busy for hours, or make it fill the memory. A worker has so many seconds
and bytes for each; the system ends one that takes more, and the next picture gets a new one.
"""

import atexit
import json
import os
import queue
import resource
import signal
import subprocess
import traceback
from contextlib import suppress
from functools import cache
from math import ceil, prod
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from torchdigits import pipes
from torchdigits.errors import ImageError, NoInkError, SlowImageError, printable
from torchdigits.files.reading import read_whole

MOST_BYTES = 2**27  # of a file
SECONDS = 6  # of a processor for a picture; the largest that are allowed take 3
MEMORY = 640 * 2**20  # bytes for a picture; the largest that are allowed take less, but for WebP


class Workers:
    """Processes that prepare pictures, each one at a time; threads can share them. Close them after use.

    Args:
        number: of processes.
        seconds: of a processor that a picture may take; SECONDS if None. The system counts whole ones, so it may get
            up to one more.
    """

    def __init__(self, number: int = 1, seconds: int | None = None) -> None:
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._all = [_Worker(SECONDS if seconds is None else seconds) for _ in range(number)]
        for worker in self._all:
            self._idle.put(worker)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def work(self, file: Path | str | BinaryIO, task: str) -> dict[str, np.ndarray]:
        """Decode the picture in a file, and prepare it.

        Args:
            file: a path, or a file that is open.
            task: one of `torchdigits.recognition.preparation.TASKS`.

        Returns:
            What that returns.

        Raises:
            ImageError, NoInkError: as that does. The message begins with the file's name.
            SlowImageError: it takes longer than it may.
        """
        name = printable(file) if isinstance(file, str | Path) else "the picture"
        try:
            content = read_whole(file, MOST_BYTES) if isinstance(file, str | Path) else file.read(MOST_BYTES + 1)
            if not isinstance(content, bytes):
                raise TypeError("it is open as text")
            if len(content) > MOST_BYTES:
                raise ValueError(f"it has more than the {MOST_BYTES:,} bytes that are allowed")
        except (OSError, TypeError, ValueError) as error:
            raise ImageError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from error
        worker = self._idle.get()
        try:
            return worker.work(content, task)
        except ImageError as error:
            raise type(error)(f"{name}: {error}") from None
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End the processes."""
        for worker in self._all:
            worker.stop()


@cache
def shared(lane: str = "", number: int = 1, seconds: int | None = None) -> Workers:
    """Workers for all who name the same lane, so that one lane's pictures do not wait for another's.

    They start at once, and end with this process.
    """
    workers = Workers(number, seconds)
    atexit.register(workers.close)
    return workers


os.register_at_fork(after_in_child=shared.cache_clear)


class _Worker:
    """A process, and the pipe to it."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._start()

    def _start(self) -> None:
        self._process, self._pipe = pipes.start(
            __name__,
            "_work",
            self._seconds,
            MEMORY,
            stderr=subprocess.DEVNULL,  # where decoders write what they think of a file
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def work(self, content: bytes, task: str) -> dict[str, np.ndarray]:
        """What the process makes of a picture. If it ends over that, it is replaced."""
        if self._process.poll() is not None:  # the system ended it meanwhile, perhaps for its memory
            self._replace()
        try:
            self._pipe.send_bytes(task.encode())
            self._pipe.send_bytes(content)
            answer = json.loads(self._pipe.recv_bytes())
            arrays, packed, start = {}, bytearray(self._pipe.recv_bytes()), 0
            for name, dtype, shape in answer.get("arrays", ()):
                arrays[name] = np.frombuffer(packed, dtype, prod(shape), start).reshape(shape)
                start += arrays[name].nbytes
        except (OSError, EOFError):
            if self._replace() == -signal.SIGXCPU:
                raise SlowImageError(f"it would take more than {self._seconds} s to decode") from None
            raise ImageError(f"its decoder broke down; perhaps it takes more than {MEMORY >> 20} MB") from None
        except BaseException:  # Ctrl-C: what it still answers must not be taken for the answer to the next picture
            self._replace()
            raise
        match answer.get("kind"):
            case None:
                return arrays
            case "NoInkError":
                raise NoInkError(answer["error"])
            case "ImageError":
                raise ImageError(answer["error"])
            case "MemoryError":
                self._replace()  # as it may have kept some
                raise ImageError(f"it would take more than {MEMORY >> 20} MB to decode")
            case _:
                raise RuntimeError(answer["error"])  # a mistake of ours

    def _replace(self) -> int:
        """End the process and start another; the status of the first."""
        status = self.stop()
        try:
            self._start()
        except OSError as error:
            raise ImageError(f"no process can be started to decode it: {error.strerror}") from error
        return status

    def stop(self) -> int:
        """End the process, if it has not ended itself; its status."""
        self._pipe.close()
        self._process.kill()
        return self._process.wait()


def _work(descriptor: int, seconds: int, memory: int) -> None:
    """Prepare the pictures that come through a pipe, until it is closed; with so much time and memory for each."""
    import cv2

    from torchdigits.recognition.preparation import TASKS

    cv2.setNumThreads(1)  # as there are as many processes as cores, or more
    pipe = Connection(descriptor)
    _limit_memory(memory)
    with suppress(EOFError, BrokenPipeError):
        while True:
            answer: dict[str, Any]
            _limit_time(seconds)
            task, content = pipe.recv_bytes().decode(), pipe.recv_bytes()
            try:
                arrays = TASKS[task](content)
            except (MemoryError, ImageError) as error:
                answer, arrays = {"kind": type(error).__name__, "error": str(error)}, {}
            except Exception as error:  # what is wrong with our own steps is told where somebody sees it
                answer = {"kind": _kind_of(error), "error": traceback.format_exc()}
                arrays = {}
            else:
                answer = {"arrays": [(name, array.dtype.str, array.shape) for name, array in arrays.items()]}
            pipe.send_bytes(json.dumps(answer).encode())
            pipe.send_bytes(b"".join(array.tobytes() for array in arrays.values()))


def _kind_of(error: Exception) -> str:
    """What to call it: OpenCV has no exception of its own for a lack of memory."""
    no_memory = any(words in str(error) for words in ("Insufficient memory", "bad_alloc"))
    return "MemoryError" if no_memory and type(error).__module__ == "cv2" else "Exception"


def _limit_memory(more: int) -> None:
    """Let this process have so much more memory than it has now, where the system tells how much that is."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if (sizes := Path("/proc/self/statm")).exists():
        most = int(sizes.read_text(encoding="ascii").split()[0]) * resource.getpagesize() + more
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _limit_time(more: int) -> None:
    """Let the system end this process when it has taken so much more time of a processor."""
    used, hard = resource.getrusage(resource.RUSAGE_SELF), resource.getrlimit(resource.RLIMIT_CPU)[1]
    most = ceil(used.ru_utime + used.ru_stime) + more
    resource.setrlimit(resource.RLIMIT_CPU, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
