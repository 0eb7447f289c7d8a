"""A process that trains while a page watches, as the server has it."""

import asyncio
import json
import queue
import threading
from contextlib import suppress
from itertools import count
from typing import Any

from torchdigits import pipes
from torchdigits.errors import OptionError
from torchdigits.web.schemas import CannotNowError

_MOST_MESSAGES = 100  # that wait until a process reads them


class TrainingProcess:
    """A process that trains, and the pipe to it.

    Attributes:
        state: of the run that it has, as the last frame had it: see `learning.FRAME`.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        self._process, self._pipe = pipes.start("torchdigits.web.trainer", "work")
        self._loop = asyncio.get_running_loop()
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._messages: queue.Queue[bytes] = queue.Queue(_MOST_MESSAGES)
        self.state = "running"
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def over(self) -> bool:
        """Whether its run is."""
        return self.state in ("finished", "failed")

    @property
    def rests(self) -> bool:
        """Whether its run is over or pauses: another may have its place beside it."""
        return self.over or self.state == "paused"

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    async def ask(self, message: dict[str, Any], patience: float) -> bytes:
        """What it answers.

        Raises:
            TimeoutError: nothing, for so many seconds.
            EOFError: it has ended.
            OptionError: it refuses, and says why.
        """
        if not self.alive:
            raise EOFError
        number = self.tell(message)
        future = self._asked[number] = self._loop.create_future()
        try:
            return await asyncio.wait_for(future, patience)
        finally:
            self._asked.pop(number, None)

    def tell(self, message: dict[str, Any]) -> int:
        """Send a message; its number."""
        number = next(self._numbers)
        try:
            self._messages.put_nowait(json.dumps(message | {"id": number}).encode())
        except queue.Full:
            raise CannotNowError("the run is busy: try again") from None
        return number

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _write(self) -> None:
        """Send messages, in a thread: a process may read nothing for a while."""
        with suppress(OSError):  # it has ended, and whoever waits for an answer hears of that
            while message := self._messages.get():
                self._pipe.send_bytes(message)

    def _listen(self) -> None:
        """Hand on what comes through the pipe, in a thread: a process may stop in the middle of a message."""
        with suppress(EOFError, OSError, RuntimeError):  # the last: the server's loop is closed
            while True:
                answer, content = json.loads(self._pipe.recv_bytes()), self._pipe.recv_bytes()
                self._loop.call_soon_threadsafe(self._take, answer, content)
        self._process.wait()
        with suppress(queue.Full):  # then the other thread is sending, which fails
            self._messages.put_nowait(b"")  # which ends it
        self._writer.join()
        self._pipe.close()
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end_all)

    def _take(self, answer: dict[str, Any], content: bytes) -> None:
        self.state = answer.get("state", self.state)
        future = self._asked.get(answer["id"])
        if future is None or future.done():
            return
        if "error" in answer:
            future.set_exception(OptionError(answer["error"]))
        elif "mistake" in answer:
            future.set_exception(RuntimeError(answer["mistake"]))
        else:
            future.set_result(content)

    def _end_all(self) -> None:
        for future in self._asked.values():
            if not future.done():
                future.set_exception(EOFError())
