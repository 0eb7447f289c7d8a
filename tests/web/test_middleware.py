"""The middleware alone, before an application of three lines: no server, no network."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from torchdigits.web.middleware import LARGE, LARGE_AT_A_TIME, MAX_BYTES, Middleware


async def fine(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("fine")(scope, receive, send)


def answer(listens: str, asked: str, **headers: str) -> httpx.Response:
    """What a server that listens at this host answers who asks it by that name, and port."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Middleware(fine, listens))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{asked}") as client:
            return await client.get("/", headers=headers)

    return asyncio.run(ask())


@pytest.mark.parametrize("listens", ["127.0.0.1", "localhost", "::1", "Digits.example", "192.0.2.1", "FE80::1"])
def test_a_server_is_asked_by_its_own_name_or_those_of_this_machine(listens: str) -> None:
    own = f"[{listens}]" if ":" in listens else listens
    for name in ("127.0.0.1", "localhost", "[::1]", own, own.lower(), own.upper()):
        assert answer(listens, f"{name}:8000", Host=f"{name}:8000").status_code == 200, name
    for name in ("192.0.2.2", "[fe80::2]", "other.example", "digits.example.evil.example"):
        assert answer(listens, f"{name}:8000").status_code == 421, name


@pytest.mark.parametrize(
    ("asked", "headers", "status", "error"),
    [
        ("other.example", {}, 421, "this server has another name; see --host"),
        ("localhost:8000", {"Origin": "http://other.example"}, 403, "this server does not answer pages of other sites"),
        ("localhost:8000", {"Content-Length": f"{MAX_BYTES + 1}"}, 413, "the body is larger than 10,000,000 bytes"),
    ],
)
def test_a_refusal_says_why(asked: str, headers: dict[str, str], status: int, error: str) -> None:
    refusal = answer("127.0.0.1", asked, **headers)
    assert (refusal.status_code, refusal.json()) == (status, {"error": error})


def test_names_of_headers_are_in_small_letters_as_asgi_has_them() -> None:
    names = [name for name, _ in answer("127.0.0.1", "localhost:8000").headers.raw]
    assert names == [name.lower() for name in names]
    assert b"cache-control" in names


def test_what_is_no_http_is_passed_on_as_it_is() -> None:
    seen: list[Any] = []

    async def application(*given: Any) -> None:
        seen.extend(given)

    async def never() -> Message:
        raise AssertionError

    async def nowhere(message: Message) -> None:
        raise AssertionError

    given = ({"type": "lifespan"}, never, nowhere)
    asyncio.run(Middleware(application, "127.0.0.1")(*given))
    assert seen == [*given]


async def at_work(bodies: Sequence[Sequence[int]]) -> tuple[int, int]:
    """How many of these bodies, of parts of so many bytes, are read at once while none is answered; and in the end."""
    read = 0
    may_end = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal read
        while (await receive())["more_body"]:
            pass
        read += 1
        await may_end.wait()

    async def request(parts: Sequence[int]) -> None:
        left = [*parts]

        async def receive() -> Message:
            return {"type": "http.request", "body": bytes(left.pop(0)), "more_body": bool(left)}

        async def nowhere(message: Message) -> None:
            raise AssertionError

        scope = {"type": "http", "server": ("localhost", 80), "headers": [(b"host", b"localhost")]}
        await middleware(scope, receive, nowhere)

    middleware = Middleware(application, "localhost")
    tasks = [asyncio.ensure_future(request(parts)) for parts in bodies]
    for _ in range(100):
        await asyncio.sleep(0)  # until all wait
    before = read
    may_end.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 10)
    return before, read


@pytest.mark.parametrize(
    "large", [[LARGE + 1], [LARGE, 1], [LARGE - 1, 2], [1, LARGE], [LARGE // 2] * 3, [LARGE + 1, 1]]
)
def test_of_large_bodies_eight_at_a_time_are_read(large: list[int]) -> None:
    assert asyncio.run(at_work([large] * 12)) == (LARGE_AT_A_TIME, 12)


@pytest.mark.parametrize("small", [[LARGE], [0], [LARGE // 2] * 2])
def test_small_bodies_do_not_wait_for_large_ones(small: list[int]) -> None:
    assert asyncio.run(at_work([[LARGE + 1]] * 12 + [small] * 12)) == (LARGE_AT_A_TIME + 12, 24)
