"""What is between HTTP and the application: whom it answers, how much it reads, what a browser may do with answers."""

import asyncio
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from ipaddress import ip_address
from socket import gethostname

from fastapi import Response
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BYTES = 10_000_000  # of a request's body
LARGE = 200_000  # bytes of a body, from which on it counts as large; a drawing has some 6,000
LARGE_AT_A_TIME = 8  # large bodies that are read and answered at once
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # the next start may bring another network
}


class Middleware:
    """Checks the headers Host and Origin, limits the body, and adds SECURITY_HEADERS to every response.

    A browser lets another site's page send requests to a server on this machine. The header Origin then names that
    site; or, if the site has pointed its own name at this machine, the header Host does.

    Args:
        app: the application behind it.
        host: the name or address that the server listens on, as `application` has it.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app = app
        self.large = asyncio.Semaphore(LARGE_AT_A_TIME)
        self.hosts = {"127.0.0.1", "localhost", "[::1]", host.lower(), f"[{host.lower()}]"}
        self.any_address = _is_address(host) and ip_address(host).is_unspecified
        if self.any_address:
            self.hosts.add(gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        read = 0

        async def limited_receive() -> Message:
            nonlocal read
            before, message = read, await receive()
            read += len(message.get("body", b""))
            if before <= LARGE < read:  # wait for a place; meanwhile uvicorn reads no more of this body
                await place.enter_async_context(self.large)
            return message

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
                message["headers"] = [*message["headers"], *ours]
            await send(message)

        async with AsyncExitStack() as place:
            await (self._refusal(scope) or self.app)(scope, limited_receive, send_with_headers)
        return None

    def _refusal(self, scope: Scope) -> Response | None:
        """The response to a request that the application shall not see."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        if not self._is_own(host, scope["server"][1]):
            return error_response(421, "this server has another name; see --host")
        if origin not in (None, f"http://{host}"):
            return error_response(403, "this server does not answer pages of other sites")
        if int(headers.get("content-length", 0)) > MAX_BYTES:
            return error_response(413, f"the body is larger than {MAX_BYTES:,} bytes")
        return None

    def _is_own(self, host: str, port: int) -> bool:
        """Whether a header Host names this server."""
        parts = re.fullmatch(r"(\[[^\]]+\]|[^:]+)(?::([0-9]{1,5}))?", host)
        if not parts or int(parts[2] or 80) != port:
            return False
        return parts[1] in self.hosts or (self.any_address and _is_address(parts[1].strip("[]")))


def error_response(status: int, error: str, headers: Mapping[str, str] | None = None) -> Response:
    """A response with this status, and the error, one line, in JSON."""
    return JSONResponse({"error": error}, status, headers)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
