"""The API and the page's files, as an ASGI application."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Annotated, Any, BinaryIO, cast

from fastapi import FastAPI, HTTPException, Request, Response
from PIL import Image
from pydantic import BaseModel, Field
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from torchdigits import __version__
from torchdigits.checkpoints import shipped_checkpoint
from torchdigits.errors import ImageError
from torchdigits.images import FORMATS
from torchdigits.inference import Recognition, Recognizer
from torchdigits.web.guard import MAX_BYTES, Guard, refuse

IN_MEMORY = 1_000_000  # of a picture; the rest waits on the disk
DECODERS = 2  # pictures taken apart at a time
LARGE = 4_000_000  # pixels, from which on one is taken apart at a time: 64 million take a gigabyte and seconds

FILES = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}


class Failure(BaseModel):
    error: str = Field(description="one line: what, and the way out")


Digit = Annotated[int, Field(ge=0, le=9)]
Activation = Annotated[float, Field(ge=0, le=1)]
Row = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=28, max_length=28)]


class Answer(BaseModel):
    digit: Digit = Field(description="the one with the largest output")
    runner_up: Digit = Field(description="the one with the second largest")
    outputs: list[Activation] = Field(min_length=10, max_length=10)
    hidden: list[list[Activation]] = Field(description="activations of every hidden layer")
    pixels: list[Row] = Field(min_length=28, max_length=28, description="what the network saw; 255 is ink")


class Layer(BaseModel):
    weights: list[list[float]] = Field(description="a row for each neuron, of a weight for each of the layer before")
    biases: list[float]


class Card(BaseModel):
    """What the model card says of the network that comes with torchdigits."""

    data: str
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


SHIPPED_SHA256 = "cc78f88f3207e6e5d96d162a1489eaf89e82887e51c9a94b2c41aa328e15e5e5"
SHIPPED_CARD = Card(
    data="MNIST: the first 50,000 of its training images to train, the last 10,000 for validation, the 10,000 test "
    "images for one look at the end",
    validation="9,583 / 10,000",
    test="9,509 / 10,000",
)


def application(checkpoint: Path | None = None, host: str = "127.0.0.1") -> FastAPI:
    """The application.

    Args:
        checkpoint: the trained network; the shipped one by default.
        host: the name or address by which it is asked, besides this machine's own; if it stands for every address
            (0.0.0.0 or ::), any address will do, and the machine's name.

    Raises:
        CheckpointError: the file holds no network that reads digits.
    """
    recognizer = Recognizer(checkpoint)
    network = _describe(recognizer, checkpoint or shipped_checkpoint()).model_dump_json()
    decoders, large_decoder = ThreadPoolExecutor(DECODERS, "decoder"), ThreadPoolExecutor(1, "large decoder")

    def recognize_small(picture: BinaryIO) -> Recognition | None:
        return None if _is_large(picture) else recognizer.recognize(picture)

    refused = _failures({403: "asked by another site's page", 421: "asked under another name than its own"})
    app = FastAPI(
        title="torchdigits",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=refused,
    )
    app.add_middleware(Guard, host=host)
    for error in (StarletteHTTPException, ImageError, FormParserError, ClientDisconnect, Exception):
        app.add_exception_handler(error, _failed)
    for path, (name, media_type) in FILES.items():
        app.add_api_route(path, _file(name, media_type), methods=["GET", "HEAD"], include_in_schema=False)

    failures = {
        400: "a form that cannot be read",
        413: f"a body of more than {MAX_BYTES:,} bytes",
        415: "a body of another type",
        422: "no picture, or none of a digit",
    }
    picture = {"schema": {"type": "string", "format": "binary"}}
    form = {"type": "object", "required": ["picture"], "properties": {"picture": picture["schema"]}}
    types = ("image/png", "image/jpeg", "image/*", "application/octet-stream")
    content = {"multipart/form-data": {"schema": form}} | dict.fromkeys(types, picture)
    body = {"requestBody": {"required": True, "content": content}}

    @app.post("/recognize", responses=_failures(failures), openapi_extra=body)
    async def recognize(request: Request) -> Answer:
        """Recognise the digit in a picture, sent as the field `picture` of a form or as the body itself."""
        async with _picture_of(request) as picture:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(decoders, recognize_small, picture)
            if found is None:
                found = await loop.run_in_executor(large_decoder, recognizer.recognize, picture)
        return Answer(
            digit=found.digit,
            runner_up=found.runner_up,
            outputs=found.activations,
            hidden=found.hidden,
            pixels=found.pixels.reshape(28, 28).tolist(),
        )

    @app.get("/network", response_model=Network)
    async def describe() -> Response:
        """The network that answers: where it comes from, and all its weights and biases."""
        return Response(network, media_type="application/json")

    return app


def _is_large(picture: BinaryIO) -> bool:
    try:
        with Image.open(picture, formats=FORMATS) as image:
            return image.width * image.height > LARGE
    except Exception:  # whatever it is, the recognizer says it
        return False
    finally:
        picture.seek(0)


@asynccontextmanager
async def _picture_of(request: Request) -> AsyncIterator[BinaryIO]:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        async with request.form(max_files=1) as form:
            picture = form.get("picture")
            if not isinstance(picture, UploadFile):
                raise HTTPException(422, "the form has no file as its field picture")
            yield picture.file
    elif content_type.startswith("image/") or content_type == "application/octet-stream":
        with SpooledTemporaryFile(IN_MEMORY) as file:
            async for part in request.stream():
                file.write(part)
            file.seek(0)
            yield cast(BinaryIO, file)
    else:
        raise HTTPException(415, "send a form with the field picture, or a body of image/... or octet-stream")


def _describe(recognizer: Recognizer, checkpoint: Path) -> Network:
    network, sha256 = recognizer.network, hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    arrays = [parameter.detach().numpy() for parameter in network.parameters()]
    # By way of text: the shortest decimal of a float32 is a third as long as that of the same number as a float64.
    numbers = [array.astype(str).astype(float).tolist() for array in arrays]
    return Network(
        file=checkpoint.name,
        sha256=sha256,
        sizes=list(network.sizes),
        parameters=sum(array.size for array in arrays),
        precision=str(arrays[0].dtype),
        card=SHIPPED_CARD if sha256 == SHIPPED_SHA256 else None,
        layers=[Layer(weights=w, biases=b) for w, b in zip(numbers[0::2], numbers[1::2], strict=True)],
    )


def _file(name: str, media_type: str) -> Callable[[], Awaitable[Response]]:
    content = (Path(__file__).parent / name).read_bytes()

    async def file() -> Response:
        return Response(content, media_type=media_type)

    return file


def _failures(descriptions: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Failure, "description": text} for status, text in descriptions.items()}


async def _failed(_: Request, error: Exception) -> Response:
    if isinstance(error, StarletteHTTPException):
        return refuse(error.status_code, error.detail, error.headers)
    if isinstance(error, ImageError):
        return refuse(422, str(error))
    if isinstance(error, FormParserError | ClientDisconnect):
        return refuse(400, "the request cannot be read")
    logging.getLogger(__name__).error("while answering", exc_info=error)
    return refuse(500, "a mistake of the server's own; it says more where it runs")
