"""The API and the page's files, as an ASGI application."""

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from heapq import heappop, heappush
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, Field
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from torchdigits.errors import CheckpointError, ImageError, SlowImageError
from torchdigits.files.checkpoints import MOST_BYTES
from torchdigits.files.networks import shipped_checkpoint
from torchdigits.files.reading import read_whole
from torchdigits.recognition.card import card_facts
from torchdigits.recognition.recognizer import Recognition, Recognizer
from torchdigits.recognition.sight import Sight
from torchdigits.recognition.workers import Workers, shared
from torchdigits.version import __version__
from torchdigits.web.middleware import LARGE, MAX_BYTES, Middleware, error_response

SMALL, SECONDS = 2, 1  # small pictures decoded at once, and beside them a large one; what a small one may take
MOST_SHOWN = 10**6  # weights and biases, which the page is sent as text
FILES = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
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


class Error(BaseModel):
    error: str = Field(description="one line: what is wrong, and the way out")


Digit = Annotated[int, Field(ge=0, le=9)]
Activation = Annotated[float, Field(ge=0, le=1)]
Row = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=28, max_length=28)]


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


class Layer(BaseModel):
    weights: list[list[float]] = Field(
        description="a row for each neuron: its weights to the neurons of the layer before"
    )
    biases: list[float]


class Card(BaseModel):
    """What the model card says of the network that comes with torchdigits: rows of its table."""

    data: str = Field(description="what it was trained and tested on")
    validation: str = Field(description="validation images recognised")
    test: str = Field(description="test images recognised")


class Network(BaseModel):
    file: str
    sha256: str = Field(description="of the file")
    sizes: list[int] = Field(description="neurons in each layer, the inputs first")
    parameters: int = Field(description="number of weights and biases")
    precision: str
    card: Card | None = Field(description="null for networks other than the one that comes with torchdigits")
    layers: list[Layer] = Field(description="from the first after the inputs; decimals that keep every bit")


def application(checkpoint: Path | None = None, host: str = "127.0.0.1") -> FastAPI:
    """The application.

    Args:
        checkpoint: the trained network. Default: the shipped one.
        host: the name or address by which clients know it, besides this machine's own. If it stands for all addresses
            (0.0.0.0 or ::), any address will do, and the machine's name.

    Raises:
        CheckpointError: the file holds no network that reads digits, or one of more than a million weights and biases.
    """
    recognizer = Recognizer(checkpoint)
    network = _describe(recognizer, checkpoint or shipped_checkpoint()).model_dump_json()
    app = FastAPI(
        title="torchdigits",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=_errors(
            {403: "a page of another site asks", 421: "the server is asked by another name than its own"}
        ),
    )
    app.add_middleware(Middleware, host=host)
    for error in (StarletteHTTPException, ImageError, FormParserError, MultiPartException, ClientDisconnect, Exception):
        app.add_exception_handler(error, _response_to)
    for path, (name, media_type) in FILES.items():
        app.add_api_route(path, _file(name, media_type), methods=["GET", "HEAD"], include_in_schema=False)
    recognize, read = _reading(recognizer)
    for path, route, model in (("/recognize", recognize, Answer), ("/read", read, PageAnswer)):
        app.add_api_route(
            path,
            route,
            methods=["POST"],
            response_model=model,
            responses=_errors(RECOGNIZE_ERRORS),
            openapi_extra=RECOGNIZE_BODY,
        )

    @app.get("/network", response_model=Network)
    async def describe() -> Response:
        """The network that answers: where it comes from, and all its weights and biases."""
        return Response(network, media_type="application/json")

    return app


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


def _describe(recognizer: Recognizer, checkpoint: Path) -> Network:
    network, sha256 = recognizer.network, hashlib.sha256(read_whole(checkpoint, MOST_BYTES)).hexdigest()
    arrays = [parameter.detach().numpy() for parameter in network.parameters()]
    if (size := sum(array.size for array in arrays)) > MOST_SHOWN:
        raise CheckpointError(f"{checkpoint} has {size:,} weights and biases; the page shows {MOST_SHOWN:,} at most")
    # By way of text: the shortest decimal of a float32 is a third as long as that of the same number as a float64.
    numbers = [array.astype(str).astype(float).tolist() for array in arrays]
    return Network(
        file=checkpoint.name,
        sha256=sha256,
        sizes=list(network.sizes),
        parameters=size,
        precision=str(arrays[0].dtype),
        card=Card(**facts) if (facts := card_facts(sha256)) else None,
        layers=[Layer(weights=w, biases=b) for w, b in zip(numbers[0::2], numbers[1::2], strict=True)],
    )


def _file(name: str, media_type: str) -> Callable[[], Awaitable[Response]]:
    content = (Path(__file__).parent / name).read_bytes()

    async def file() -> Response:
        return Response(content, media_type=media_type)

    return file


def _errors(descriptions: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Error, "description": text} for status, text in descriptions.items()}


async def _response_to(_: Request, error: Exception) -> Response:
    if isinstance(error, StarletteHTTPException):
        return error_response(error.status_code, error.detail, error.headers)
    if isinstance(error, ImageError):
        return error_response(422, str(error))
    if isinstance(error, FormParserError | MultiPartException | ClientDisconnect):
        return error_response(400, "the request cannot be read")
    logging.getLogger(__name__).error("while answering", exc_info=error)
    return error_response(500, "the server made a mistake; its terminal says more")
