"""One update of plain stochastic gradient descent, as a pure function: `W <- W - eta dC/dW`."""

import torch
from torch import Tensor
from torch.func import functional_call, grad

from torchdigits.errors import OptionError
from torchdigits.network import SigmoidMLP, quadratic_cost

Parameters = dict[str, Tensor]


def check_learning_rate(learning_rate: float) -> None:
    """Check that a learning rate is a positive float32.

    Raises:
        OptionError: it is not.
    """
    if not 0 < learning_rate <= torch.finfo(torch.float32).max:
        raise OptionError(f"learning rate {learning_rate}: it must be more than 0, and at most 3.4e38")


def sgd_step(
    network: SigmoidMLP, learning_rate: float | Tensor, parameters: Parameters, batch: tuple[Tensor, Tensor]
) -> tuple[Parameters, Tensor]:
    """One update, `W <- W - eta dC/dW`, where C is the mean quadratic cost of a mini-batch.

    Args:
        network: whose layers they are; its own parameters are not used.
        learning_rate: eta.
        parameters: by the names of `network.named_parameters()`.
        batch: images `(m, 784)`, floats in [0, 1], and targets as `quadratic_cost` takes them.

    Returns:
        The new parameters, and the activations `(m, 10)` that the update was computed from.
    """
    images, targets = batch

    def cost(parameters: Parameters) -> tuple[Tensor, Tensor]:
        activations = functional_call(network, parameters, (images,))
        return quadratic_cost(activations, targets), activations

    gradients, activations = grad(cost, has_aux=True)(parameters)
    return {name: value - learning_rate * gradients[name] for name, value in parameters.items()}, activations
