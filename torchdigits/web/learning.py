"""What answers to /runs: training that a page watches."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from torchdigits.data.datasets import has_mnist
from torchdigits.files.checkpoints import parameters_of, parse_checkpoint
from torchdigits.files.networks import network_of
from torchdigits.network import SigmoidMLP, count_parameters
from torchdigits.training.options import TrainOptions
from torchdigits.web.runs import Runs
from torchdigits.web.schemas import WHOLE, CannotNowError, Row, errors

MOST_PARAMETERS = 10**6  # weights and biases of a network that is trained here

STRICT = ConfigDict(strict=True, extra="forbid")
LearningRate = Annotated[float, Field(ge=1e-6, le=1000, description="eta")]


class NewRun(BaseModel):
    """The options of a run; the defaults are those of `train`."""

    model_config = STRICT
    dataset: Literal["digits", "mnist"] = Field("digits", description="scikit-learn's small digits, or MNIST")
    hidden: list[Annotated[int, Field(ge=1, le=1000), WHOLE]] = Field(
        [30], max_length=4, description="neurons in each hidden layer"
    )
    epochs: Annotated[int, Field(ge=1, le=1000), WHOLE] = Field(30, description="passes over the training images")
    batch_size: Annotated[int, Field(ge=1, le=50_000), WHOLE] = Field(10, description="images in a mini-batch")
    learning_rate: LearningRate = 3.0
    seed: Annotated[int, Field(ge=0, lt=2**32), WHOLE] = Field(
        0, description="of the first weights and the epochs' orders"
    )


class Changes(BaseModel):
    """What is asked of a run that goes on; what is left out stays as it is."""

    model_config = STRICT
    updates: Annotated[int, Field(ge=0, le=10**9), WHOLE] | Literal["epoch", "end"] | None = Field(
        None, description="how many more to take, 0 to pause; or all to the end of the epoch, or of the run"
    )
    learning_rate: LearningRate | None = Field(None, description="eta of the updates from now on")
    pace: float | None = Field(None, ge=0, le=10**6, description="updates a second; 0 for as many as can be")
    drawing: Annotated[list[Row], Field(min_length=28, max_length=28)] | Literal["none"] | None = Field(
        None,
        description="a digit in the form of MNIST's, as /recognize gives its `pixels`, that the frames answer",
    )


class Started(BaseModel):
    run: str = Field(description="by which the other requests name it")
    command: str = Field(
        description="trains the same network, from a shell; as long as `unlike_train` is empty in the frames"
    )


class Place(BaseModel):
    waiting: int = Field(description="how many runs wait, this one included, until it is its turn")
    places: int = Field(description="runs that go on at once")


class Possible(BaseModel):
    datasets: list[str] = Field(description="that are here")
    places: int = Field(description="runs that go on at once: as many as there are cores")
    going: int = Field(description="runs that have a place: that neither pause nor are over")
    waiting: int = Field(description="runs that wait for one")


FRAME = """The run of this moment, as soon as there is something new, 25 times a second at most; after 10 s, 204.

Four bytes: the length of what follows as JSON, a whole number, little-endian. The JSON. Then the weights of the first
`shown` neurons of the first layer to the 784 pixels, a signed byte each, 127 for a weight of `full`, which 99 in 100
do not exceed. A frame has 40 kB at most.

The JSON: `version`, to ask for the next by; `state`: compiling, running, paused, finished, failed; `problem`: why it
failed; `updates` taken, `updates_in_epoch`, `epochs` finished; `learning_rate`; `pace`, as asked for; `speed`,
updates a second; `engine`, what takes the updates, and why, and `engine_name`; `unlike_train`: why the command does
not give the same network, empty if it does; `points` of the curves from number `point` on, 50 at most: updates, cost,
recognised validation images, and the share of each digit's that is; `validation_images`; `best`: the epoch with the
most recognised; `test`: what that network makes of the test images, when the run has finished; `answer` to the
drawing: digit, runner_up, activations, hidden; `neurons` of the first layer, of which `shown` are shown; `full`.
"""
_BYTES: dict[str, Any] = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}


def routes(runs: Runs, data_dir: Path | None, train_command: Callable[..., str]) -> APIRouter:
    """Answers to /runs.

    Args:
        runs: the server's.
        data_dir: MNIST's folder.
        train_command: gives what is to be typed to train with these words.
    """
    router = APIRouter()
    unknown = errors({404: "there is no such run"})

    @router.get("/runs")
    async def possible() -> Possible:
        """What can be trained here, and what is under way. It gets processes ready to begin at once."""
        runs.warm_up()
        datasets = ["digits", *["mnist"] * has_mnist(data_dir)]
        return Possible(datasets=datasets, places=runs.places, going=runs.going, waiting=runs.waiting)

    @router.post(
        "/runs",
        status_code=201,
        responses=errors(
            {400: "a body that is no JSON", 409: "no such data here, or too large a network", 429: "too many runs wait"}
        ),
    )
    async def begin(wanted: NewRun) -> Started:
        """Begin a run, which is paused. It ends when nobody has asked for its frames for 30 s."""
        options = TrainOptions(**wanted.model_dump(), data_dir=data_dir, accelerator="cpu")
        if (size := count_parameters(options.sizes)) > MOST_PARAMETERS:
            raise CannotNowError(f"{size:,} weights and biases: the page trains {MOST_PARAMETERS:,} at most")
        if options.dataset == "mnist" and not has_mnist(data_dir):
            raise CannotNowError(
                "MNIST is not on this machine: train on the digits, or start the server with --data-dir"
            )
        run = runs.begin(options)
        folder = [] if data_dir is None or options.dataset != "mnist" else ["--data-dir", str(data_dir)]
        return Started(run=run.name, command=train_command(*words_of(options), *folder))

    @router.get(
        "/runs/{run}/frame",
        description=FRAME,
        response_class=Response,
        responses={200: _BYTES, 202: {"model": Place}, 204: {}, **unknown},
    )
    async def frame(run: str, after: int = -1, points: Annotated[int, Field(ge=0, le=10**6)] = 0) -> Response:
        found = runs.find(run)
        content = await runs.ask(found, "frame", after=after, points=points)
        if content is None and (turn := runs.turn_of(found)):
            return JSONResponse(Place(waiting=turn, places=runs.places).model_dump(), 202)
        if content is None:
            return Response(status_code=204)
        return Response(content, media_type="application/octet-stream")

    @router.patch("/runs/{run}", status_code=204, responses=unknown | errors({400: "a body that is no JSON"}))
    async def change(run: str, changes: Changes) -> None:
        """Let it go on, pause it, change its learning rate or pace, or give it a drawing to answer."""
        asked: dict[str, Any] = changes.model_dump(exclude_none=True)
        if "drawing" in asked:
            asked["drawing"] = None if asked["drawing"] == "none" else asked["drawing"]
        await runs.change(runs.find(run), asked)

    @router.get(
        "/runs/{run}/checkpoint",
        response_class=Response,
        responses={200: _BYTES, **unknown, **errors({409: "it waits for its turn"})},
    )
    async def checkpoint(run: str, best: bool = False) -> Response:
        """The network of this moment, or of the best epoch so far, as a checkpoint, which all commands read."""
        content = await runs.checkpoint(found := runs.find(run), best)
        name = f"{found.options.name}{'-best' if best else ''}.ckpt"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type="application/octet-stream", headers=headers)

    @router.delete("/runs/{run}", status_code=204, responses=unknown)
    async def end(run: str) -> None:
        """End it. Nothing of it is kept."""
        runs.end(runs.find(run))

    return router


async def network_of_run(runs: Runs, run: str) -> SigmoidMLP:
    """The network of this moment of a run."""
    content = await runs.checkpoint(runs.find(run))
    return network_of(parameters_of(parse_checkpoint(content)))


def words_of(options: TrainOptions) -> list[str]:
    """The options as `train` takes them; those of the original are left out."""
    plain, original = options.to_plain(), TrainOptions().to_plain()
    words: list[object] = []
    for name, value in plain.items():
        if name not in {"data_dir", "output"} and value != original[name]:
            words += [f"--{name.replace('_', '-')}", *(value if isinstance(value, tuple) else [value])]
    return [str(word).removesuffix(".0") for word in words]
