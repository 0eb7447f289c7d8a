"""Compiled updates that are wrong are found out, whatever is wrong with them; those that are right are trusted."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from torchdigits import SigmoidMLP
from torchdigits.engines.check import WrongUpdatesError, _shaken, autograd_loop, check_updates
from torchdigits.engines.compiler import Block, Held, NetworkUpdate, Train, sgd_loop
from torchdigits.sgd import Parameters

SIZES = (784, 30, 10)
UPDATES = 60
right = partial(sgd_loop, NetworkUpdate(SIZES))


def a_run(
    learning_rate: float = 3.0, dtype: torch.dtype = torch.float32, sizes: tuple[int, ...] = SIZES
) -> tuple[SigmoidMLP, Parameters, Block, Held]:
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    network = SigmoidMLP(sizes).to(dtype)
    ink = torch.rand(UPDATES, 10, sizes[0], generator=generator) < 0.2  # a fifth of an image, as of MNIST's
    images = (torch.randint(256, ink.shape, generator=generator) * ink).to(torch.uint8)
    labels = torch.randint(10, (UPDATES, 10), generator=generator)
    parameters = {name: value.detach().clone() for name, value in network.named_parameters()}
    return network, parameters, (images, labels), (torch.tensor(learning_rate, dtype=dtype),)


def check(train: Train, learning_rate: float = 3.0, dtype: torch.dtype = torch.float32) -> None:
    network, parameters, block, held = a_run(learning_rate, dtype)
    check_updates(train, autograd_loop(network), parameters, block, held)


def without(number: int, parameters: Parameters, block: Block, held: Held) -> tuple[Parameters, Tensor]:
    """An update is dropped, though its activations are there."""
    outputs: list[Tensor] = []
    for images, labels in zip(*block, strict=True):
        updated, activations = NetworkUpdate(SIZES)(parameters, (images, labels), held)
        parameters = parameters if len(outputs) == number else updated
        outputs.append(activations)
    return parameters, torch.stack(outputs)


def with_another_rate(factor: float, parameters: Parameters, block: Block, held: Held) -> tuple[Parameters, Tensor]:
    return right(parameters, block, (held[0] * factor,))


def without_a_bias(parameters: Parameters, block: Block, held: Held) -> tuple[Parameters, Tensor]:
    """The gradient of one bias is lost."""
    updated, activations = right(parameters, block, held)
    bias = updated["layers.1.bias"].clone()
    bias[4] = parameters["layers.1.bias"][4]
    return updated | {"layers.1.bias": bias}, activations


class StaleWeights:
    """A captured graph that begins every block from the weights that were captured."""

    def __init__(self) -> None:
        self.captured: Parameters | None = None

    def __call__(self, parameters: Parameters, block: Block, held: Held) -> tuple[Parameters, Tensor]:
        self.captured = self.captured or {name: torch.zeros_like(value) for name, value in parameters.items()}
        return right(self.captured, block, held)


def a_stale_mini_batch(parameters: Parameters, block: Block, held: Held) -> tuple[Parameters, Tensor]:
    """The first mini-batch is read again and again."""
    return right(parameters, tuple(tensor[:1].expand_as(tensor) for tensor in block), held)


def written_where_they_are_read(parameters: Parameters, block: Block, held: Held) -> tuple[Parameters, Tensor]:
    """The last layer is updated first, and the first layer's error is computed from its new weights."""
    outputs = []
    values = {name: value.clone() for name, value in parameters.items()}
    for images, labels in zip(*block, strict=True):
        late, activations = NetworkUpdate(SIZES)(values, (images, labels), held)
        mixed = values | {"layers.1.weight": late["layers.1.weight"]}
        early, _ = NetworkUpdate(SIZES)(mixed, (images, labels), held)
        values = late | {name: early[name] for name in ("layers.0.weight", "layers.0.bias")}
        outputs.append(activations)
    return values, torch.stack(outputs)


def in_place(parameters: Parameters, block: Block, held: Held) -> tuple[Parameters, Tensor]:
    updated, activations = right(parameters, block, held)
    for name, value in parameters.items():
        value.copy_(updated[name])
    return parameters, activations


def nan_at_the_end(parameters: Parameters, block: Block, held: Held) -> tuple[Parameters, Tensor]:
    updated, activations = right(parameters, block, held)
    return {name: value * torch.nan for name, value in updated.items()}, activations


FAULTS: dict[str, Callable[[], Train]] = {
    "a dropped update, the first": lambda: partial(without, 0),
    "a dropped update amid": lambda: partial(without, 30),
    "a dropped update, the last": lambda: partial(without, UPDATES - 1),
    "a gradient of another sign": lambda: partial(with_another_rate, -1),
    "a gradient off by a thousandth": lambda: partial(with_another_rate, 1.001),
    "a gradient that is lost": lambda: without_a_bias,
    "stale weights": StaleWeights,
    "a stale mini-batch": lambda: a_stale_mini_batch,
    "weights written where they are still read": lambda: written_where_they_are_read,
    "the caller's weights written over": lambda: in_place,
    "NaN": lambda: nan_at_the_end,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, dtype: torch.dtype) -> None:
    with torch.no_grad(), pytest.raises(WrongUpdatesError):
        check(FAULTS[fault](), dtype=dtype)


def test_the_error_shows_the_numbers() -> None:
    with torch.no_grad(), pytest.raises(WrongUpdatesError, match=r"before update 32 of 60 .* loop by \d\.\de-0\d; .* "):
        check(partial(without, 30))
    words = r"^after 60 updates, layers.0.weight differs .* by \d\.\de-0\d of its norm; rounding explains \d\.\de-0\d$"
    with torch.no_grad(), pytest.raises(WrongUpdatesError, match=words):
        check(partial(without, UPDATES - 1))
    with torch.no_grad(), pytest.raises(WrongUpdatesError, match="write over the weights"):
        check(in_place)


def test_sixteen_times_what_rounding_was_seen_to_do_is_trusted_and_no_more() -> None:
    def ending(weight: float, *outputs: float) -> Train:
        def train(parameters: Parameters, *_: object) -> tuple[Parameters, Tensor]:
            moved = (parameters["weight"] - 1) * 1e13  # by 4.4e-3, from weights that are off by four roundings
            activations = torch.tensor(outputs, dtype=torch.float64)
            activations[0] += moved.item()
            return {"none": parameters["none"] * torch.nan, "weight": weight + moved}, activations.view(4, 1, 1)

        return train

    parameters = {name: torch.ones(1, dtype=torch.float64) for name in ("none", "weight")}
    loop = ending(4, 0, 0, 0, 0)
    check_updates(ending(4.05, 0, 0.05, 0, 0.05), loop, parameters, (), ())
    for train, words in (
        (ending(4, 0, 0, 0.1, 0.2), r"before update 3 of 4 differ .* by 1.0e-01; rounding explains 7.1e-02$"),
        (ending(6, 0, 0, 0, 0), r"^after 4 updates, weight differs .* by 5.0e-01 of its norm; .* explains 1.8e-02$"),
    ):
        with pytest.raises(WrongUpdatesError, match=words):
            check_updates(train, loop, parameters, (), ())


# From hardly any movement to chaos and saturation, and to NaN.
@pytest.mark.parametrize("learning_rate", [1e-3, 0.3, 3.0, 30.0, 300.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_rounds_in_another_order_is_trusted(learning_rate: float, dtype: torch.dtype) -> None:
    """The same updates of the mirrored network: its sums run the other way."""
    network, parameters, (images, labels), held = a_run(learning_rate, dtype)

    def mirrored(parameters: Parameters) -> Parameters:
        flips = {"layers.0.weight": (0, 1), "layers.0.bias": (0,), "layers.1.weight": (1,), "layers.1.bias": ()}
        return {name: value.flip(flips[name]) for name, value in parameters.items()}

    def train(parameters: Parameters, block: Block, held: Held) -> tuple[Parameters, Tensor]:
        updated, activations = right(mirrored(parameters), (block[0].flip(2), block[1]), held)
        return mirrored(updated), activations

    with torch.no_grad():
        check_updates(train, autograd_loop(network), parameters, (images, labels), held)


@pytest.mark.parametrize("start", [0.0, torch.nan])
def test_weights_of_nothing_and_no_numbers_are_no_fault(start: float) -> None:
    network, parameters, block, held = a_run(1e-30)
    parameters = {name: torch.full_like(value, start) for name, value in parameters.items()}
    with torch.no_grad():
        check_updates(autograd_loop(network), autograd_loop(network), parameters, block, held)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_shaken_is_off_by_so_many_roundings_up_or_down(dtype: torch.dtype) -> None:
    value = torch.tensor([2.0**-3, -1.0, 4.0, 0.0], dtype=dtype).repeat(50)
    change = _shaken(value, 6, torch.Generator().manual_seed(0)) - value
    moved = change[value != 0] / value[value != 0]
    assert set(moved.tolist()) == {3 * torch.finfo(dtype).eps, -3 * torch.finfo(dtype).eps}
    assert (change[value == 0] == 0).all()


def test_the_eager_loop_is_the_other_loop() -> None:
    network, parameters, block, held = a_run(dtype=torch.float64)
    with torch.no_grad():
        ours, activations = autograd_loop(network)(parameters, block, held)
        theirs, expected = right(parameters, block, held)
    torch.testing.assert_close(activations, expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
