"""How far rounding alone can carry back-propagation: first-order bounds, from the conditioning of each operation."""

import numpy as np
from numpy.typing import ArrayLike

from torchdigits.reference import Array, Network

_SAFETY = 4  # times the expected size of many roundings; over 400 odd networks, none had come to half of that size


def rounding_bounds(network: Network, x: Array, y: Array, u: float, tiny: float = 2**-960) -> dict[str, float]:
    """Bounds for what `torchdigits.parity.compare` measures between two correct programs.

    Every operation adds its own rounding and passes on the errors of its operands: a first-order forward error analysis
    (Higham, "Accuracy and Stability of Numerical Algorithms", chapter 3), in which errors add up as if they were
    independent, by their squares (section 2.8). A sum of n products is off by sqrt(n) u times its terms and itself,
    which is much where they cancel. `sigmoid' = a (1 - a)` is off by u times 1, not times itself: that is the
    cancellation in a saturated neuron.

    Args:
        network: the weights of both.
        x: images `(inputs, m)`.
        y: wanted outputs `(outputs, m)`.
        u: unit roundoff of the one program plus that of the other.
        tiny: norm below which a tensor counts as if it had that norm, as in `relative_error`.
    """

    def product(p: Array, dp: Array, q: Array, dq: Array) -> Array:
        """Error of the matrix product p @ q."""
        rounding = u**2 * (p.shape[1] + 1) * (p**2 @ q**2 + (p @ q) ** 2)
        error: Array = np.sqrt(p**2 @ dq**2 + dp**2 @ q**2 + rounding)
        return error

    def relative(error: ArrayLike, value: ArrayLike) -> float:
        return float(_SAFETY * np.linalg.norm(error) / max(float(np.linalg.norm(value)), tiny))

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
        np.linalg.norm(error * derror) + np.sqrt(error.size) * u * np.sum(error**2), np.sum(error**2) / 2
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
