"""What stands before the application: whom it answers, how much it reads, what a browser may do with the answers."""

import asyncio
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from ipaddress import ip_address
from socket import gethostname

from fastapi import HTTPException, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BYTES = 10_000_000  # of a request's body
LARGE = 200_000  # bytes of a body, of which so many are read and answered at a time; a drawing has some 6,000
LARGE_AT_A_TIME = 8
TOO_LARGE = f"the body is larger than {MAX_BYTES:,} bytes"

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # the next start may bring another network
}


class Guard:
    """Turns away whom the application is not for and what is too large, and gives every answer its headers.

    A page of another site can reach a server on this machine through the browser that shows it. It tells by the header
    Origin, or, having had its own name point to this machine, by the header Host.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app = app
        self.large = asyncio.Semaphore(LARGE_AT_A_TIME)
        self.names = {"127.0.0.1", "localhost", "[::1]", host.lower(), f"[{host.lower()}]"}
        self.by_any_address = _is_address(host) and ip_address(host).is_unspecified
        if self.by_any_address:
            self.names.add(gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        read = 0

        async def receive_so_much() -> Message:
            nonlocal read
            before, message = read, await receive()
            read += len(message.get("body", b""))
            if read > MAX_BYTES:
                raise HTTPException(413, TOO_LARGE)
            if before <= LARGE < read:  # others wait here, and uvicorn reads no more of theirs than it has
                await place.enter_async_context(self.large)
            return message

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *ours]
            await send(message)

        headers = Headers(scope=scope)
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        app = self.app
        if not self._is_own(host, scope["server"][1]):
            app = refuse(421, "this server is not asked by that name; see --host")
        elif origin not in (None, f"http://{host}"):
            app = refuse(403, "this server answers no other site's page")
        elif int(headers.get("content-length", 0)) > MAX_BYTES:
            app = refuse(413, TOO_LARGE)
        async with AsyncExitStack() as place:
            await app(scope, receive_so_much, send_with_headers)
        return None

    def _is_own(self, host: str, port: int) -> bool:
        parts = re.fullmatch(r"(\[[^\]]+\]|[^:]+)(?::([0-9]{1,5}))?", host)
        if not parts or int(parts[2] or 80) != port:
            return False
        return parts[1] in self.names or (self.by_any_address and _is_address(parts[1].strip("[]")))


def refuse(status: int, error: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": error}, status, headers)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
