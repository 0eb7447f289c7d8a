"""How far rounding alone can carry two right programs apart: bounds from the conditioning of each operation."""

import numpy as np
from numpy.typing import ArrayLike

from torchdigits.proof.reference import Array, Network

_SAFETY = 4  # bound over the expected size of many roundings: of 400 odd networks, none came to half of that size


def unit_roundoff(eps: float) -> float:
    """The relative error of rounding a number in torch, where eps is the spacing at 1, plus that in the reference."""
    return (eps + 2**-52) / 2


def rounding_bounds(network: Network, x: Array, y: Array, eps: float, tiny: float = 2**-960) -> dict[str, float]:
    """The largest relative errors that rounding can cause in what `gradients.compare` compares, by its names.

    Every operation adds its own rounding error and passes on those of its operands. This is a first-order forward error
    analysis (Higham, "Accuracy and Stability of Numerical Algorithms", chapter 3). Errors are added as if they were
    independent, by their squares (section 2.8). A sum of n products has an error of sqrt(n) u times its terms, which is
    large next to the sum if they cancel. `sigmoid' = a (1 - a)` has an error of u times 1, not times itself: 1 - a
    cancels in a saturated neuron.

    Args:
        network: has the weights of both programs.
        x, y: images `(inputs, m)` and their wanted outputs `(outputs, m)`.
        eps: spacing, at 1, of the numbers that torch multiplies.
        tiny: a tensor with a smaller norm counts as if it had this one, as in `relative_error`.
    """
    u = unit_roundoff(eps)

    def product(p: Array, dp: Array, q: Array, dq: Array) -> Array:
        """The error of the matrix product p @ q, of factors with errors dp and dq."""
        rounding = u**2 * (p.shape[1] + 1) * (p**2 @ q**2 + (p @ q) ** 2)
        error: Array = np.sqrt(p**2 @ dq**2 + dp**2 @ q**2 + rounding)
        return error

    def relative(error: ArrayLike, value: ArrayLike) -> float:
        return float(_SAFETY * np.linalg.norm(error) / max(float(np.linalg.norm(value)), tiny))

    bounds: dict[str, float] = {}
    zs, activations = network.forward_pass(x)
    das, slopes, dslopes = [np.zeros_like(x)], [], []
    for layer, (w, b, z, a) in enumerate(zip(network.weights, network.biases, zs, activations[1:], strict=True), 1):
        dz = product(w, 0 * w, activations[layer - 1], das[-1]) + u * abs(b)
        e = np.exp(-abs(z))
        slopes.append(e / (1 + e) ** 2)  # sigmoid'(z), without the cancellation
        das.append(slopes[-1] * dz + 4 * u * a)  # an exponential is right to a few units in the last place
        dslopes.append(abs(1 - 2 * a) * das[-1] + 2 * u * a)
        bounds |= {f"z({layer})": relative(dz, z), f"a({layer})": relative(das[-1], a)}

    error = activations[-1] - y
    derror, squares = das[-1] + u * abs(error), np.sum(error**2)
    bounds["cost"] = relative(np.linalg.norm(error * derror) + np.sqrt(error.size) * u * squares, squares / 2)
    nabla_w, nabla_b = network.backprop(x, y)
    ones = np.ones((x.shape[1], 1))
    for layer in range(len(zs), 0, -1):
        w, a, da = network.weights[layer - 1], activations[layer - 1], das[layer - 1]
        delta = error * slopes[layer - 1]
        ddelta = abs(error) * dslopes[layer - 1] + slopes[layer - 1] * derror + 2 * u * abs(delta)
        bounds[f"dC/dW({layer})"] = relative(product(delta, ddelta, a.T, da.T), nabla_w[layer - 1])
        bounds[f"dC/db({layer})"] = relative(product(delta, ddelta, ones, 0 * ones), nabla_b[layer - 1])
        error, derror = w.T @ delta, product(w.T, 0 * w.T, delta, ddelta)
    return bounds
