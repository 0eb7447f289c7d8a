"""The API and the page's files, as an ASGI application."""

import hashlib
import logging
import re
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from python_multipart.exceptions import FormParserError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect

from torchdigits.errors import CheckpointError, TorchDigitsError, printable
from torchdigits.files.checkpoints import MOST_BYTES
from torchdigits.files.networks import shipped_checkpoint
from torchdigits.files.reading import read_whole
from torchdigits.recognition.card import card_facts
from torchdigits.recognition.recognizer import Recognizer
from torchdigits.version import __version__
from torchdigits.web import learning, reading, stepping
from torchdigits.web.middleware import Middleware, error_response
from torchdigits.web.runs import NoSuchRunError, Runs, TooManyRunsError
from torchdigits.web.schemas import CannotNowError, NotHereError, errors

MOST_SHOWN = 10**6  # weights and biases, which the page is sent as text
PAGE = Path(__file__).parent / "page"
VIEWS = ("/", "/learn", "/step-through")  # the addresses of the page's views
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
FILES = dict.fromkeys(VIEWS, "index.html") | {f"/{path.name}": path.name for path in sorted(PAGE.glob("*.[cj]s*"))}
_STATUS = {NotHereError: 404, NoSuchRunError: 404, CannotNowError: 409, TooManyRunsError: 429}  # others are 422


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
    file: str = Field(description="name of the checkpoint's file")
    sha256: str = Field(description="of the file")
    sizes: list[int] = Field(description="neurons in each layer, the inputs first")
    parameters: int = Field(description="number of weights and biases")
    precision: str = Field(description="type of the weights, as torch names it: float32 or float64")
    card: Card | None = Field(description="null for networks other than the one that comes with torchdigits")
    layers: list[Layer] = Field(description="from the first after the inputs; decimals that keep every bit")


def application(
    checkpoint: Path | None = None,
    host: str = "127.0.0.1",
    data_dir: Path | None = None,
    train_command: Callable[..., str] = lambda *words: shlex.join(["torchdigits", "train", *words]),
) -> FastAPI:
    """The application.

    Args:
        checkpoint: the trained network. Default: the shipped one.
        host: the name or address by which clients know it, besides this machine's own. If it stands for all addresses
            (0.0.0.0 or ::), any address will do, and the machine's name.
        data_dir: MNIST's folder, as for `load_splits`; nothing is downloaded.
        train_command: gives what is to be typed to train with these words.

    Raises:
        CheckpointError: the file holds no network that reads digits, or one of more than a million weights and biases.
    """
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # what it refuses is answered
    recognizer, runs = Recognizer(checkpoint), Runs()
    network = _describe(recognizer, checkpoint or shipped_checkpoint()).model_dump_json()

    @asynccontextmanager
    async def with_runs(_: FastAPI) -> AsyncIterator[None]:
        async with runs.open():
            yield

    app = FastAPI(
        title="torchdigits",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=with_runs,
        responses=errors({403: "a page of another site asks", 421: "the server is asked by another name than its own"}),
    )
    app.add_middleware(Middleware, host=host)
    ours = (StarletteHTTPException, RequestValidationError, TorchDigitsError)
    for error in (*ours, FormParserError, MultiPartException, ClientDisconnect, Exception):
        app.add_exception_handler(error, _response_to)
    for path, name in FILES.items():
        app.add_api_route(path, _file(name), methods=["GET", "HEAD"], include_in_schema=False)
    app.include_router(reading.routes(recognizer))
    app.include_router(learning.routes(runs, data_dir, train_command))
    app.include_router(stepping.routes(recognizer.network, runs, data_dir))

    @app.get("/network", response_model=Network)
    async def describe() -> Response:
        """The network that answers: where it comes from, and all its weights and biases."""
        return Response(network, media_type="application/json")

    return app


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


def _file(name: str) -> Callable[[], Awaitable[Response]]:
    content, media_type = (PAGE / name).read_bytes(), TYPES[Path(name).suffix]

    async def file() -> Response:
        return Response(content, media_type=media_type)

    return file


async def _response_to(request: Request, error: Exception) -> Response:
    if isinstance(error, StarletteHTTPException):
        headers = error.headers
        if error.status_code == 405 and (methods := _methods(request)):
            headers = {"Allow": methods}
        return error_response(error.status_code, error.detail, headers)
    if isinstance(error, RequestValidationError):
        return error_response(422, _in_a_line(error.errors()[0]))
    if isinstance(error, TorchDigitsError):
        return error_response(_STATUS.get(type(error), 422), str(error))
    if isinstance(error, FormParserError | MultiPartException | ClientDisconnect):
        return error_response(400, "the request cannot be read")
    logging.getLogger(__name__).error("while answering", exc_info=error)
    return error_response(500, "the server made a mistake; its terminal says more")


def _in_a_line(error: dict[str, Any]) -> str:
    """What FastAPI found wrong with a request: where, and what."""
    if error["type"] == "json_invalid":
        return "the body: it is no JSON"
    names = [str(part) for part in error["loc"][1:] if "[" not in str(part)]  # without those of our own functions
    where = ".".join(names) or "the body"
    return printable(f"{where}: {error['msg']}")[:300]


def _methods(request: Request) -> str | None:
    """What the header Allow says: starlette names the methods of one of an address's routes alone."""
    for path, methods in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), request.url.path):
            return ", ".join(sorted(map(str.upper, methods)))
    return None
