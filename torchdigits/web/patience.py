"""HTTP as uvicorn speaks it, to clients that do not keep to it."""

import asyncio
import json

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from torchdigits.web.guard import HEADERS

PATIENCE = 20.0  # seconds for a whole request


def server(application: ASGIApp) -> uvicorn.Server:
    """What serves the application, and logs nothing: the application logs what goes wrong, and uvicorn would also log
    what Ctrl-C interrupts."""
    config = uvicorn.Config(
        application, http=PatientProtocol, ws="none", log_level="critical", timeout_graceful_shutdown=1
    )
    return uvicorn.Server(config)


class PatientProtocol(H11Protocol):
    """Ends a connection whose request does not arrive in time, which uvicorn awaits forever as long as bytes drip.

    What is no HTTP is refused as everything else is, also when it follows an answer: uvicorn would fail there.
    """

    patience = PATIENCE
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unwatch()

    def send_400_response(self, msg: str) -> None:
        self._end(400, msg)

    def _watch(self) -> None:
        if self.transport.is_closing() or self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._unwatch()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.patience, self._give_up)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self.flow.read_paused:  # it is we who keep the client waiting
            self._watch()
        else:
            self._end(408, f"the request was not there after {self.patience:g} s")

    def _end(self, status: int, error: str) -> None:
        """Close the connection, and say why if the client has begun to ask and nothing is answered yet."""
        asked = self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]
        if asked and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": error}).encode()
            headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
            response = h11.Response(status_code=status, headers=[*(headers | HEADERS).items()])
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
