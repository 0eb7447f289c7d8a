"""What answers to /recognize and /read: pictures of digits."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from heapq import heappop, heappush
from io import BytesIO
from itertools import count
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartParser
from starlette.requests import ClientDisconnect

from torchdigits.errors import SlowImageError
from torchdigits.recognition.recognizer import Recognition, Recognizer
from torchdigits.recognition.sight import Sight
from torchdigits.recognition.workers import Workers, shared
from torchdigits.web.middleware import LARGE, MAX_BYTES
from torchdigits.web.schemas import Activation, Digit, Row, errors

SMALL, SECONDS = 2, 1  # small pictures decoded at once, and beside them a large one; what a small one may take
RECOGNIZE_ERRORS = {
    400: "a form that cannot be read",
    411: "a body in chunks, whose length is not told",
    413: f"a body of more than {MAX_BYTES:,} bytes",
    415: "a body of another type",
    422: "no picture, or one without a digit",
}
_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"schema": {"type": "object", "required": ["picture"], "properties": {"picture": _PICTURE["schema"]}}}
_TYPES = ("image/png", "image/jpeg", "image/*", "application/octet-stream")
_CONTENT = {"multipart/form-data": _FORM} | dict.fromkeys(_TYPES, _PICTURE)
RECOGNIZE_BODY = {"requestBody": {"required": True, "content": _CONTENT}}


_Route = Callable[[Request], Awaitable[Any]]


class Answer(BaseModel):
    digit: Digit = Field(description="the one with the largest activation")
    runner_up: Digit = Field(description="the one with the second largest")
    activations: list[Activation] = Field(min_length=10, max_length=10, description="of the ten outputs")
    doubt: Annotated[float, Field(ge=0, le=1)] = Field(
        description="the share of MNIST's training images that are more like their digits than this is like the answer"
    )
    sure: bool = Field(description="whether the doubt is small enough; else the digit is a guess")
    hidden: list[list[Activation]] = Field(description="activations of each hidden layer")
    pixels: list[Row] = Field(min_length=28, max_length=28, description="what the network saw; 255 is ink")


class PageDigit(Answer):
    box: list[int] = Field(
        min_length=4, max_length=4, description="left, top, right and bottom of its ink, in pixels of the picture"
    )


class PageAnswer(BaseModel):
    size: list[int] = Field(min_length=2, max_length=2, description="width and height of the picture, in pixels")
    text: str = Field(description="the digits, its lines joined by a newline")
    digits: list[PageDigit] = Field(min_length=1, description="in reading order: lines first, then from left to right")


def routes(recognizer: Recognizer) -> APIRouter:
    """Answers to /recognize and /read."""
    router = APIRouter()
    recognize, read = _reading(recognizer)
    for path, route, model in (("/recognize", recognize, Answer), ("/read", read, PageAnswer)):
        router.add_api_route(
            path,
            route,
            methods=["POST"],
            response_model=model,
            responses=errors(RECOGNIZE_ERRORS),
            openapi_extra=RECOGNIZE_BODY,
        )
    return router


def _reading(recognizer: Recognizer) -> tuple[_Route, _Route]:
    """What answers to POST /recognize and /read.

    Small pictures do not wait for large ones, nor for small ones that take long.
    """
    small = shared("small", SMALL, SECONDS), _Places(SMALL)
    large = shared("large"), _Places(1)
    threads = ThreadPoolExecutor(SMALL + 1)  # as many as there are places, so that nothing waits for one

    async def looked_at(lane: tuple[Workers, "_Places"], picture: bytes, request: Request) -> Sight:
        workers, places = lane
        await _wait_for_place(places, request)
        try:
            look = partial(workers.work, BytesIO(picture), "look")
            return Sight(**await asyncio.get_running_loop().run_in_executor(threads, look))
        finally:
            places.release(_client_of(request))

    async def sight_of(request: Request) -> Sight:
        picture = await _picture_of(request)
        try:
            return await looked_at(small if len(picture) <= LARGE else large, picture, request)
        except SlowImageError:
            if len(picture) > LARGE:
                raise
            return await looked_at(large, picture, request)

    async def recognize(request: Request) -> Answer:
        """Recognise the digit in a picture, sent as the field `picture` of a form or as the body itself."""
        return Answer(**_answer(recognizer.answer((await sight_of(request)).pixels)))

    async def read(request: Request) -> PageAnswer:
        """Read all digits on a picture, sent as for /recognize: a page, or a single digit."""
        [page] = recognizer.read_all([await sight_of(request)])
        digits = [PageDigit(box=list(box), **_answer(found)) for box, found in page.digits]
        return PageAnswer(size=list(page.size), text=page.text, digits=digits)

    return recognize, read


def _answer(found: Recognition) -> dict[str, Any]:
    answer = found._asdict() | {"pixels": found.pixels.reshape(28, 28).tolist()}
    del answer["distance"]
    return answer


class _Places:
    """So many places for pictures. The next goes to the client that has the fewest there and waiting before it."""

    def __init__(self, number: int) -> None:
        self._free = number
        self._clients = Counter[str]()  # pictures there or waiting
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap: its client's, arrival, the call
        self._arrivals = count()

    async def acquire(self, client: str) -> None:
        self._clients[client] += 1
        if self._free:
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (self._clients[client], next(self._arrivals), place))
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                self._forget(client)
            else:  # it was just given
                self.release(client)
            raise

    def release(self, client: str) -> None:
        self._forget(client)
        while self._waiting:
            *_, place = heappop(self._waiting)
            if not place.done():
                place.set_result(None)
                return
        self._free += 1

    def _forget(self, client: str) -> None:
        self._clients[client] -= 1
        self._clients += Counter()  # without those that have none


async def _wait_for_place(places: _Places, request: Request) -> None:
    """Raises ClientDisconnect if the client leaves meanwhile: else any number of those who have left would wait."""
    place, left = asyncio.ensure_future(places.acquire(_client_of(request))), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({place, left}, return_when=asyncio.FIRST_COMPLETED)
        if not place.done():
            raise ClientDisconnect
    finally:
        place.cancel()
        left.cancel()


def _client_of(request: Request) -> str:
    """The address that a request comes from."""
    return request.client.host if request.client else ""


class _FormParser(MultiPartParser):
    """Writes no temporary file: a body is short enough for memory, and a full disk then harms nobody."""

    spool_max_size = max_file_size = MAX_BYTES  # the second is its name in older versions of starlette


async def _picture_of(request: Request) -> bytes:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        form = await _FormParser(request.headers, request.stream(), max_files=1).parse()
        try:
            if isinstance(picture := form.get("picture"), UploadFile):
                return await picture.read()
        finally:
            await form.close()
        raise HTTPException(422, "the form needs a file as its field picture")
    if content_type.startswith("image/") or content_type == "application/octet-stream":
        return await request.body()
    raise HTTPException(415, "send a form with the field picture, or a body of image/... or octet-stream")
