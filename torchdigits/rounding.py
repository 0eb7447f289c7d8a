"""How far rounding alone can carry back-propagation: first-order bounds, from the conditioning of each operation."""

from math import inf

import numpy as np
from numpy.typing import ArrayLike

from torchdigits.reference import Array, Network


def rounding_bounds(network: Network, x: Array, y: Array, u: float) -> dict[str, float]:
    """Bounds for what `torchdigits.parity.compare` measures between two correct programs.

    Every operation adds its own rounding and passes on the errors of its operands: a first-order forward error analysis
    (Higham, "Accuracy and Stability of Numerical Algorithms", chapter 3). A sum of n products is off by sqrt(n) u times
    the sum of their magnitudes (the statistical size of n roundings, section 2.8), which is much where they cancel.
    `sigmoid' = a (1 - a)` is off by u times 1, not times itself: that is the cancellation in a saturated neuron.

    Args:
        network: the weights of both.
        x: images `(inputs, m)`.
        y: wanted outputs `(outputs, m)`.
        u: unit roundoff of the one program plus that of the other.
    """

    def product(p: Array, dp: Array, q: Array, dq: Array) -> Array:
        """Error of the matrix product p @ q."""
        p, q = abs(p), abs(q)
        error: Array = p @ dq + dp @ q + np.sqrt(p.shape[1] + 1) * u * (p @ q)
        return error

    def relative(error: ArrayLike, value: ArrayLike) -> float:
        norm = np.linalg.norm(value)
        return float(np.linalg.norm(error) / norm) if norm else inf

    bounds: dict[str, float] = {}
    m = x.shape[1]
    zs, activations = network.forward_pass(x)
    da = np.zeros_like(x)
    das, slopes, dslopes = [da], [], []
    for layer, (w, b, z, a) in enumerate(zip(network.weights, network.biases, zs, activations[1:], strict=True), 1):
        dz = product(w, 0 * w, activations[layer - 1], das[-1]) + u * abs(b)
        e = np.exp(-abs(z))
        slopes.append(e / (1 + e) ** 2)  # sigmoid'(z), without the cancellation
        das.append(slopes[-1] * dz + 4 * u * a)  # an exponential is good to some units in the last place
        dslopes.append(abs(1 - 2 * a) * das[-1] + 2 * u * a)
        bounds |= {f"z({layer})": relative(dz, z), f"a({layer})": relative(das[-1], a)}

    error = activations[-1] - y
    derror = das[-1] + u * abs(error)
    bounds["cost"] = relative(
        np.sum(abs(error) * derror) + np.sqrt(error.size) * u * np.sum(error**2), np.sum(error**2) / 2
    )
    nabla_w, nabla_b = network.backprop(x, y)
    for layer in range(len(zs), 0, -1):
        slope, dslope, a, da = slopes[layer - 1], dslopes[layer - 1], activations[layer - 1], das[layer - 1]
        delta = error * slope
        ddelta = abs(error) * dslope + slope * derror + 2 * u * abs(delta)
        ones, w = np.ones((m, 1)), network.weights[layer - 1]
        bounds[f"dC/dW({layer})"] = relative(product(delta, ddelta, a.T, da.T), nabla_w[layer - 1])
        bounds[f"dC/db({layer})"] = relative(product(delta, ddelta, ones, 0 * ones), nabla_b[layer - 1])
        error, derror = w.T @ delta, product(w.T, 0 * w.T, delta, ddelta)
    return bounds
