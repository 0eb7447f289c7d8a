"""What answers to /steps: back-propagation of one example, with all its numbers."""

import base64
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import anyio.to_thread
import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, Field

from torchdigits.data.datasets import Digits, has_mnist, load_splits
from torchdigits.network import SigmoidMLP
from torchdigits.proof import example
from torchdigits.proof.reference import Array
from torchdigits.web.learning import STRICT, LearningRate, network_of_run
from torchdigits.web.runs import Runs
from torchdigits.web.schemas import Digit, NotHereError, Row, errors

Matrix = Annotated[str, Field(description="float64, little-endian, row by row (a neuron each), in base64")]


class Question(BaseModel):
    model_config = STRICT
    pixels: list[Row] = Field(min_length=28, max_length=28, description="the image, in the form of MNIST's; 255 is ink")
    label: Digit = Field(description="what it should be taken for")
    learning_rate: LearningRate = 3.0
    run: str | None = Field(None, description="the network: of this moment of a run; by default the one of /network")


class Numbers(BaseModel):
    """Numbers of a layer, a neuron each, computed twice in float64."""

    by_hand: list[float] = Field(description="by the NumPy reference")
    by_autograd: list[float] = Field(description="by torch")
    ulps: list[float] = Field(
        description="their differences, in units in the last place of the largest of the numbers by hand"
    )

    @classmethod
    def of(cls, twice: example.Twice) -> "Numbers":
        return cls(
            **{name: np.atleast_1d(getattr(twice, name)).tolist() for name in ("by_hand", "by_autograd", "ulps")}
        )


class Matrices(BaseModel):
    """Numbers of a layer, a row for each neuron, computed twice in float64."""

    by_hand: Matrix
    by_autograd: Matrix
    largest_ulps: float = Field(description="the largest difference, in units as those of `Numbers`")

    @classmethod
    def of(cls, twice: example.Twice) -> "Matrices":
        return cls(
            by_hand=packed(twice.by_hand), by_autograd=packed(twice.by_autograd), largest_ulps=float(twice.ulps.max())
        )


class SteppedLayer(BaseModel):
    weights: Matrix
    biases: list[float]
    z: Numbers = Field(description="weighted inputs")
    a: Numbers = Field(description="activations")
    slope: list[float] = Field(description="sigmoid'(z), by hand")
    delta: Numbers = Field(description="errors, dC/dz: BP1 for the last layer, BP2 for the others")
    bias_gradient: Numbers = Field(description="dC/db: BP3")
    weight_gradient: Matrices = Field(description="dC/dW: BP4")
    new_weights: Matrices = Field(description="after the update")
    new_biases: Numbers
    new_a: Numbers = Field(description="activations after the update")

    @classmethod
    def of(cls, layer: example.Layer) -> "SteppedLayer":
        return cls(
            weights=packed(layer.weights),
            biases=layer.biases.tolist(),
            z=Numbers.of(layer.z),
            a=Numbers.of(layer.a),
            slope=layer.slope.tolist(),
            delta=Numbers.of(layer.delta),
            bias_gradient=Numbers.of(layer.bias_gradient),
            weight_gradient=Matrices.of(layer.weight_gradient),
            new_weights=Matrices.of(layer.new_weights),
            new_biases=Numbers.of(layer.new_biases),
            new_a=Numbers.of(layer.new_a),
        )


class Steps(BaseModel):
    sizes: list[int] = Field(description="neurons in each layer, the inputs first")
    x: list[float] = Field(description="the image's 784 pixels, 0 to 1")
    y: list[float] = Field(description="the wanted activations")
    learning_rate: float
    layers: list[SteppedLayer] = Field(description="from the first after the inputs")
    cost: Numbers
    new_cost: Numbers = Field(description="after the update")
    predicted_fall: Numbers = Field(description="of the cost, to first order: eta |grad C|^2")


class TestImage(BaseModel):
    pixels: list[Row]
    label: Digit
    images: int = Field(description="how many test images there are")


def routes(network: SigmoidMLP, runs: Runs, data_dir: Path | None) -> APIRouter:
    """Answers to /steps and /test-images.

    Args:
        network: that answers by default.
        runs: the server's.
        data_dir: MNIST's folder.
    """
    router = APIRouter()

    @router.post(
        "/steps",
        responses=errors({400: "a body that is no JSON", 404: "there is no such run", 409: "it waits for its turn"}),
    )
    async def step_through(question: Question) -> Steps:
        """Everything that back-propagation computes for one example, by hand and by autograd, and one update on it."""
        asked = network if question.run is None else await network_of_run(runs, question.run)
        image = np.array(question.pixels, np.uint8).reshape(784)
        return await anyio.to_thread.run_sync(_steps, asked, image, question.label, question.learning_rate)

    @router.get("/test-images/{dataset}/{place}", responses=errors({404: "there is no such image"}))
    async def test_image(dataset: Literal["digits", "mnist"], place: Annotated[int, Field(ge=0)]) -> TestImage:
        """A test image of a dataset, by its place, from 0."""
        if dataset == "mnist" and not has_mnist(data_dir):
            raise NotHereError("MNIST is not on this machine: take the digits, or start the server with --data-dir")
        images, labels = await anyio.to_thread.run_sync(_test, dataset, data_dir)
        if place >= len(labels):
            raise NotHereError(f"image {place}: there are {len(labels):,}, from 0")
        pixels = images[place].view(28, 28).tolist()
        return TestImage(pixels=pixels, label=int(labels[place]), images=len(labels))

    return router


def packed(array: Array) -> str:
    """The numbers of an array as `Matrix` describes them."""
    return base64.b64encode(array.astype("<f8").tobytes()).decode()


def _steps(network: SigmoidMLP, image: np.ndarray, label: int, learning_rate: float) -> Steps:
    found = example.step_through(network, image, label, learning_rate)
    layers = [SteppedLayer.of(layer) for layer in found.layers]
    return Steps(
        sizes=list(network.sizes),
        x=found.x.tolist(),
        y=found.y.tolist(),
        learning_rate=learning_rate,
        layers=layers,
        cost=Numbers.of(found.cost),
        new_cost=Numbers.of(found.new_cost),
        predicted_fall=Numbers.of(found.predicted_fall),
    )


@cache
def _test(dataset: str, data_dir: Path | None) -> Digits:
    """The test images, without keeping the others in memory."""
    return Digits(*(part.clone() for part in load_splits(dataset, data_dir).test))
