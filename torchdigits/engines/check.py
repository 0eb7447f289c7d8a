"""Whether compiled updates are the updates: a block of them, held against the uncompiled loop."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from torchdigits.engines.compiler import Block, Held, Train
from torchdigits.errors import TorchDigitsError
from torchdigits.network import quadratic_cost
from torchdigits.sgd import Parameters

# Bound over what rounding was seen to do. Of 343 runs of mirrored networks, whose sums run the other way (learning
# rates from 0.01 to 1,000, one to three layers, both precisions), one came to a sixth of it, the rest to a tenth.
_SAFETY = 16


class WrongUpdatesError(TorchDigitsError):
    """Compiled updates are not those of the uncompiled loop. The text has the numbers."""


def check_updates(train: Train, loop: Train, parameters: Parameters, block: Block, held: Held) -> None:
    """Train a block twice, compiled and uncompiled, and compare every update.

    Every activation that an update was computed from is compared, and so is every parameter after the last one. What
    two right programs may differ by is measured: the compiled updates are taken once more, from weights that differ by
    as many roundings of their own as there are updates (`proof/rounding.py`: each rounds the weights to half of eps).
    An error made on the way has fewer updates left to grow in than one made at the start.

    Args:
        train: the compiled updates.
        loop: the uncompiled ones.
        parameters: to start from.
        block: the mini-batches.
        held: see `compiler.Held`.

    Raises:
        WrongUpdatesError: they differ by more.
    """
    before = {name: value.clone() for name, value in parameters.items()}
    updated, activations = train(parameters, block, held)
    if any(not torch.equal(value.nan_to_num(), before[name].nan_to_num()) for name, value in parameters.items()):
        raise WrongUpdatesError("the compiled updates write over the weights that they are given")
    expected, truth = loop(before, block, held)
    generator = torch.Generator().manual_seed(0)
    shaken = {name: _shaken(value, len(truth), generator) for name, value in before.items()}
    shaken_updated, shaken_activations = train(shaken, block, held)
    # So far, as weights that differ may show it only in some activations.
    allowed = _distances(shaken_activations, activations).nan_to_num(torch.inf).cummax(0).values
    # Where the loop is at its end, as NaN or infinite, there is nothing to compare.
    sound = truth.flatten(1).isfinite().all(1)
    floor = len(truth) ** 0.5 * torch.finfo(truth.dtype).eps * _SAFETY
    wrong = ~(_distances(activations, truth) <= _SAFETY * allowed + floor) & sound
    if wrong.any():
        first = int(wrong.nonzero()[0, 0])
        distance = float((activations[first] - truth[first]).abs().max())
        raise WrongUpdatesError(
            f"the activations before update {first + 1} of {len(truth)} differ from those of the uncompiled loop by"
            f" {distance:.1e}; rounding explains {float(_SAFETY * allowed[first] + floor):.1e}"
        )
    for name, value in expected.items():
        if not value.isfinite().all():
            continue
        norm = max(_norm(value), torch.finfo(value.dtype).tiny)
        distance = _norm(updated[name] - value) / norm
        bound = _SAFETY * _norm(shaken_updated[name] - updated[name]) / norm + floor
        if not distance <= bound:
            raise WrongUpdatesError(
                f"after {len(truth)} updates, {name} differs from that of the uncompiled loop by {distance:.1e} of its"
                f" norm; rounding explains {bound:.1e}"
            )


def autograd_loop(network: nn.Module) -> Train:
    """The updates of a network as the eager engine takes them: by autograd, one after the other."""

    def loop(parameters: Parameters, block: Block, held: Held) -> tuple[Parameters, Tensor]:
        (learning_rate,) = held
        values = {name: value.clone().requires_grad_() for name, value in parameters.items()}
        leaves, outputs = [*values.values()], []
        for images, labels in zip(*block, strict=True):
            with torch.enable_grad():
                activations = functional_call(network, values, (images.to(leaves[0].dtype).div_(255),))
                gradients = torch.autograd.grad(quadratic_cost(activations, labels), leaves)
            outputs.append(activations.detach())
            with torch.no_grad():
                torch._foreach_add_(leaves, gradients, alpha=-learning_rate.item())
        return {name: value.detach() for name, value in values.items()}, torch.stack(outputs)

    return loop


def _shaken(value: Tensor, roundings: int, generator: torch.Generator) -> Tensor:
    """The value, each number off by so many halves of eps, up or down."""
    signs = torch.randint(0, 2, value.shape, generator=generator).mul_(2).sub_(1).to(value)
    return value + value * signs * (roundings * torch.finfo(value.dtype).eps / 2)


def _norm(value: Tensor) -> float:
    return float(value.double().norm())


def _distances(some: Tensor, others: Tensor) -> Tensor:
    """The largest difference in each of the S mini-batches, `(S,)`."""
    return (some - others).abs().flatten(1).amax(1)
