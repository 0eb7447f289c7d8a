"""The HTTP server alone, before an application of three lines: what it says when it ends a connection."""

import asyncio
import json
import resource
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import served
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from torchdigits.errors import OptionError
from torchdigits.web import protocol
from torchdigits.web.middleware import SECURITY_HEADERS
from torchdigits.web.protocol import WAITING, GuardedProtocol, listen, most_connections, server

POST = b"POST / HTTP/1.1\r\nHost: x\r\n"


at_work, may_end = threading.Event(), threading.Event()


async def reads(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers a request once it has its body; to /slow, once it may."""
    if scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        if scope["path"] == "/slow":
            at_work.set()
            while not may_end.is_set():  # noqa: ASYNC110  # another thread sets it
                await asyncio.sleep(0.001)
        await PlainTextResponse("fine")(scope, receive, send)


@pytest.fixture
def slow(place: tuple[str, int]) -> Iterator[socket.socket]:
    """A connection whose request the application is answering, until it may end."""
    at_work.clear()
    may_end.clear()
    with connected(place) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        assert at_work.wait(10)
        yield connection
    may_end.set()


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[str, int]]:
    with served(reads) as address:  # type: ignore[arg-type]  # any application will do
        yield "127.0.0.1", int(address.rpartition(":")[2])


def connected(place: tuple[str, int]) -> socket.socket:
    return socket.create_connection(place, timeout=10)


def until_the_end(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(2**16):
        received += part
    return received


def assert_refusal(answer: bytes, status: int, error: str) -> None:
    """One response of this status, the error in JSON, and all headers that the application's responses have too."""
    head, body = answer.split(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert first == f"HTTP/1.1 {status} "
    assert json.loads(body) == {"error": error}
    own = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
    assert dict(line.split(": ") for line in lines) == own | SECURITY_HEADERS


@pytest.mark.parametrize(
    ("request_", "status", "error"),
    [
        (
            POST + b"Transfer-Encoding: chunked\r\n\r\n",
            411,
            "the length of the body is missing: send Content-Length, and no chunks",
        ),
        (POST + b"Content-Length: -1\r\n\r\n", 400, "Invalid HTTP request received."),
        (POST + b"Content-Length: 9\r\n\r\n", 408, "the request did not arrive within 0.05 s"),
        (POST, 408, "the request did not arrive within 0.05 s"),
    ],
)
def test_a_request_that_cannot_be_answered_is_told_why(
    place: tuple[str, int], monkeypatch: pytest.MonkeyPatch, request_: bytes, status: int, error: str
) -> None:
    monkeypatch.setattr(GuardedProtocol, "request_timeout", 0.05)
    with connected(place) as connection:
        connection.sendall(request_)
        assert_refusal(until_the_end(connection), status, error)


def test_of_just_as_many_connections_as_there_may_be_none_is_ended(
    place: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 2)
    whole = POST + b"Content-Length: 0\r\n\r\n"
    with connected(place) as first, connected(place) as second:
        first.sendall(POST + b"Content-Length: 9\r\n\r\n")
        assert ask(second, whole) == b"HTTP/1.1 200 OK"
        with connected(place) as third:  # which is one too many
            assert_refusal(until_the_end(first), 503, "the server has too many connections")
            assert [ask(other, whole) for other in (second, third)] == [b"HTTP/1.1 200 OK"] * 2


def test_a_slow_answer_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, place: tuple[str, int], request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(GuardedProtocol, "request_timeout", 0.05)
    slow = request.getfixturevalue("slow")
    with connected(place) as later:  # whose time begins after that of the slow one, and is over
        later.sendall(POST)
        assert until_the_end(later).startswith(b"HTTP/1.1 408 ")
    may_end.set()
    assert ask(slow, b"") == b"HTTP/1.1 200 OK"


def test_of_too_many_connections_one_that_is_answered_stays(
    monkeypatch: pytest.MonkeyPatch, place: tuple[str, int], slow: socket.socket
) -> None:
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 2)
    with connected(place) as idle, connected(place) as third:
        assert until_the_end(idle) == b""  # it had asked for nothing
        may_end.set()
        assert ask(slow, b"") == b"HTTP/1.1 200 OK"
        assert ask(third, POST + b"Content-Length: 0\r\n\r\n") == b"HTTP/1.1 200 OK"


def ask(connection: socket.socket, request: bytes) -> bytes:
    connection.sendall(request)
    answer = b""
    while not answer.endswith(b"fine") and (part := connection.recv(2**16)):
        answer += part
    return answer.partition(b"\r\n")[0]


def test_a_hosts_number_of_workers_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("3", "many"):
        monkeypatch.setenv("WEB_CONCURRENCY", value)
        assert server(reads).config.workers == 1


@pytest.mark.parametrize(("files", "connections", "accepted"), [(16, 4, 1), (67, 16, 2), (4096, 128, 16)])
def test_few_files_leave_few_connections(
    monkeypatch: pytest.MonkeyPatch, files: int, connections: int, accepted: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert str(most_connections()) == str(connections)  # a whole number
    assert server(reads).config.backlog == accepted


def test_it_waits_a_second_for_what_is_answered_as_it_ends_and_has_no_websockets() -> None:
    config = server(reads).config
    assert (config.timeout_graceful_shutdown, config.ws) == (1, "none")  # whichever packages are installed


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells")
def test_more_connections_may_wait_than_are_accepted_at_once() -> None:
    with listen("127.0.0.1", 0) as listener:
        running = server(reads)
        thread = threading.Thread(target=running.run, args=([listener],))
        thread.start()
        with connected(listener.getsockname()) as connection:
            assert ask(connection, POST + b"Content-Length: 0\r\n\r\n") == b"HTTP/1.1 200 OK"
            waiting = struct.unpack_from("I", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64), 28)
        running.should_exit = True
        thread.join()
    assert waiting == (min(WAITING, int(Path("/proc/sys/net/core/somaxconn").read_text())),)  # tcpi_sacked


def test_a_response_is_sent_at_once() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_where_it_cannot_listen_is_said_in_a_line() -> None:
    for port in (-1, 65536):
        with pytest.raises(OptionError, match=rf"^--port {port}: it must be 0 to 65535$"):
            listen("127.0.0.1", port)
    listen("127.0.0.1", 65535).close()
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OptionError, match=rf"^cannot listen at 127.0.0.1, port {port}: Address already in use$"):
            listen("127.0.0.1", port)
    with pytest.raises(OptionError, match=r"^cannot listen at a\.\.b, port 0: [a-z' ]+$"):  # no name, says Python
        listen("a..b", 0)
