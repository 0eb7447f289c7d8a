"""What a learner should know about a network that did not turn out well."""

import torch
from torch import Tensor

from torchdigits.data.datasets import Digits
from torchdigits.network import SigmoidMLP

_LOST = 0.5  # recall under which a digit counts as lost
_STUCK = 0.01  # from 0 or 1, where sigmoid' and with it the gradient have all but vanished
# Of 30 hidden neurons, on scikit-learn's digits with six seeds each, 0 to 2 were stuck after learning rates 0.3 and 3,
# 3 to 8 after 10, and 9 to 21 after 30 and 100; of the ten outputs none, up to nine, and all.
_SATURATED = 1 / 5


@torch.inference_mode()
def advice(network: SigmoidMLP, test: Digits) -> list[str]:
    """Sentences about digits that were lost and neurons that are saturated; none if all is well.

    Args:
        network: of 784 inputs and 10 outputs, on the CPU.
        test: images `(N, 784)`, uint8, and labels `(N,)`.
    """
    images = test.images.to(next(network.parameters()).dtype) / 255
    *hidden, outputs = network.forward_pass(images)[1][1:]
    stuck_hidden, stuck_outputs = sum(_stuck(layer) for layer in hidden), _stuck(outputs)
    neurons = sum(layer.shape[1] for layer in hidden)
    if stuck_outputs > 1 or stuck_hidden > _SATURATED * neurons:
        which = [f"{stuck_hidden} of {neurons} hidden neurons"] * bool(hidden) + [f"{stuck_outputs} of 10 outputs"]
        where = f"{' and '.join(which)} are near 0, or near 1, for every image, and hardly learn"
        return [f"Weights saturated: {where}. A smaller --learning-rate helps."]
    sentences = []
    for digit, activations in enumerate(outputs.T):
        mine = test.labels == digit
        found, total = int((outputs[mine].argmax(1) == digit).sum()), int(mine.sum())
        if found < _LOST * total:
            how = f"Only {found} of {total} images of a {digit} were" if found else f"No {digit} was"
            height = "near 0" if activations[mine].median() < 10 * _STUCK else "too low"
            sentences.append(f"{how} recognised: output {digit} stays {height}. Another --seed helps.")
    return sentences


def _stuck(activations: Tensor) -> int:
    """How many neurons give nearly 0, or nearly 1, for every image."""
    return int(((activations.amax(0) < _STUCK) | (activations.amin(0) > 1 - _STUCK)).sum())
