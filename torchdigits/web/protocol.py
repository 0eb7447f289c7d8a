"""The HTTP server: uvicorn, with limits to what it waits for, and an answer to what is not HTTP."""

import asyncio
import json
import math
import resource
import socket
from typing import Any, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from torchdigits.errors import OptionError
from torchdigits.web.middleware import SECURITY_HEADERS

REQUEST_TIMEOUT = 20.0  # seconds until a request must have arrived whole, and a response must have been read
MAX_CONNECTIONS = 128  # at once
WAITING = 1024  # connections that the system keeps until they are accepted


def server(application: ASGIApp) -> uvicorn.Server:
    """A server of the application. It logs nothing: the application logs what goes wrong, and uvicorn would also log
    what Ctrl-C interrupts."""
    config = uvicorn.Config(
        application,
        http=GuardedProtocol,
        ws="none",
        log_level="critical",
        timeout_graceful_shutdown=1,
        workers=1,  # whatever WEB_CONCURRENCY says
        backlog=max(most_connections() // 8, 1),  # accepted at once: the others have time to send what they came for
    )
    return _Server(config)


def most_connections() -> int:
    """How many connections may be open: few enough that there is always a file for one more."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(MAX_CONNECTIONS, files // 4)


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(WAITING)  # asyncio lets as few wait as it accepts at once


class _Connection(h11.Connection):
    """Takes no body whose length is not told: one in chunks of a byte would keep its parser busy for minutes.

    Attributes:
        in_chunks: whether one was refused.
    """

    in_chunks = False

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = super().next_event()
        if isinstance(event, h11.Request) and any(name == b"transfer-encoding" for name, _ in event.headers):
            self.in_chunks = True
            raise h11.RemoteProtocolError("a body in chunks")
        return event


class GuardedProtocol(H11Protocol):
    """Closes a connection whose request does not arrive in time, where uvicorn waits forever as long as some bytes
    come; or whose response is not read in time; or, if there are too many, the one that has kept us waiting longest.

    What is not HTTP gets a response in JSON too. After a response, where uvicorn would fail, the connection is closed.

    Attributes:
        request_timeout: seconds until a request must have arrived whole, and a response must have been read.
    """

    conn: _Connection
    request_timeout = REQUEST_TIMEOUT
    _deadline: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = _Connection(h11.SERVER)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._set_timer()
        if len(self.connections) > most_connections():
            longest = min(cast(set[GuardedProtocol], self.connections), key=GuardedProtocol.due)
            longest.end(503, "the server has too many connections")

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._set_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._stop_timer()
        self._set_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_timer()
        self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()

    def send_400_response(self, msg: str) -> None:
        if self.conn.in_chunks:
            self._respond(411, "the length of the body is missing: send Content-Length, and no chunks")
        else:
            self._respond(400, msg)
        self.transport.close()

    def due(self) -> float:
        """When the client must have done what it is waited for, by the clock of the event loop."""
        return self._deadline.when() if self._deadline else math.inf

    def end(self, status: int, error: str) -> None:
        """Close the connection, and do not wait for the client to read what is still to be sent."""
        self._stop_timer()
        if self._is_unread():
            self.transport.abort()
        else:
            self._respond(status, error)
            self.transport.close()

    def _set_timer(self) -> None:
        """Start the timer if the client has to send or to read something, and stop it if not."""
        if not self._is_to_send() and not self._is_unread():
            self._stop_timer()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.request_timeout, self._time_out)

    def _stop_timer(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _time_out(self) -> None:
        self._deadline = None
        if self._is_unread() or (self._is_to_send() and not self.flow.read_paused):
            self.end(408, f"the request did not arrive within {self.request_timeout:g} s")
        else:
            self._set_timer()

    def _is_to_send(self) -> bool:
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self.transport.is_closing()

    def _is_unread(self) -> bool:
        return self.transport.get_write_buffer_size() > 0

    def _respond(self, status: int, error: str) -> None:
        """If a request has begun and has no response yet, this is its response."""
        asked = self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]
        if asked and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": error}).encode()
            headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
            response = h11.Response(status_code=status, headers=[*(headers | SECURITY_HEADERS).items()])
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")


def listen(host: str, port: int) -> socket.socket:
    """Open a socket that listens, so that no other process can have the same port.

    Args:
        host: a name or an address of this machine, or 0.0.0.0 or :: for all of them.
        port: 0 takes a free one.

    Raises:
        OptionError: the host or the port cannot be had.
    """
    if not 0 <= port <= 65535:
        raise OptionError(f"--port {port}: it must be 0 to 65535")
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason, *_ = str(getattr(error, "strerror", None) or error).partition(
            " ("
        )  # what follows names the place again
        raise OptionError(f"cannot listen at {host}, port {port}: {reason}") from error
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else half of a response waits 40 ms for the other
    return listener
