"""The network that people learn back-propagation from: layers of sigmoid neurons, and the quadratic cost."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from torchdigits.errors import OptionError


class SigmoidMLP(nn.Module):
    """Fully connected layers of sigmoid neurons: `a(l) = sigmoid(W(l) a(l-1) + b(l))`.

    Every weight and bias starts from N(0, 1), drawn from torch's global generator. `parameters()` gives them layer by
    layer: the weights `(outputs, inputs)`, then the biases `(outputs,)`.

    Args:
        sizes: neurons in each layer, the inputs first; two layers or more.

    Raises:
        OptionError: there are fewer than two layers, a layer has no neurons, or memory cannot hold them all.
    """

    def __init__(self, sizes: Sequence[int] = (784, 30, 10)) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise OptionError(f"layer sizes {list(sizes)}: a network needs 2 or more layers, of 1 or more neurons each")
        self.sizes = tuple(sizes)
        try:
            self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(sizes))
        except (MemoryError, OverflowError, RuntimeError, TypeError) as error:
            raise OptionError(f"layer sizes {list(sizes)}: more neurons than memory can hold") from error
        for parameter in self.parameters():
            if not parameter.is_meta:  # a network on the meta device gets its weights from a file
                nn.init.normal_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Activations of the output layer `(N, 10)` for images `(N, 784)`, floats in [0, 1]."""
        activations = images
        for layer in self.layers:
            activations = torch.sigmoid(layer(activations))
        return activations

    def forward_pass(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Everything that the neurons compute on the way.

        Returns:
            The weighted inputs `z` of every layer after the input, and the activations `a` of every layer, which begin
            with the images; each `(N, neurons)`.
        """
        weighted_inputs, activations = [], [images]
        for layer in self.layers:
            weighted_inputs.append(layer(activations[-1]))
            activations.append(torch.sigmoid(weighted_inputs[-1]))
        return weighted_inputs, activations


def count_parameters(sizes: Sequence[int]) -> int:
    """Weights and biases of a network with these layers."""
    return sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes))


def quadratic_cost(activations: Tensor, targets: Tensor) -> Tensor:
    """The quadratic cost of a mini-batch: the mean over its m examples, `C = 1/m sum(1/2 |a(L) - y|^2)`.

    It is equation 6 of Nielsen's "Neural Networks and Deep Learning".

    Args:
        activations: outputs of the network `(m, 10)`.
        targets: labels `(m,)`, integers, or the desired outputs y themselves, `(m, 10)`, one-hot.

    Returns:
        The cost, a scalar of float32 or float64. An empty mini-batch, which one of several processes can get, costs 0.

    Raises:
        ValueError: the targets have another shape, and would broadcast.
    """
    if targets.dim() == 1 and not targets.is_floating_point():
        targets = nn.functional.one_hot(targets.long(), activations.shape[1])
    if targets.shape != activations.shape:
        raise ValueError(f"targets {tuple(targets.shape)} do not fit activations {tuple(activations.shape)}")
    errors = activations.to(torch.promote_types(activations.dtype, torch.float32)) - targets
    return errors.square().sum() / (2 * max(len(activations), 1))
