import numpy as np
import pytest

from torchdigits.proof.reference import Array, Network, one_hot
from torchdigits.proof.rounding import rounding_bounds, unit_roundoff

Tensors = dict[str, Array]
EPS = 2**-23  # of float32


def computed(network: Network, x: Array, y: Array, dtype: str) -> Tensors:
    """Everything that `rounding_bounds` bounds, computed by the reference in that type of number."""
    twin = Network([1, 1])
    twin.weights, twin.biases = ([a.astype(dtype) for a in arrays] for arrays in (network.weights, network.biases))
    x, y = x.astype(dtype), y.astype(dtype)
    zs, activations = twin.forward_pass(x)
    found: Tensors = {"cost": np.sum((activations[-1] - y) ** 2, keepdims=True)}
    for layer, (z, a, w, b) in enumerate(zip(zs, activations[1:], *twin.backprop(x, y), strict=True), 1):
        assert {array.dtype for array in (z, a, w, b)} == {np.dtype(dtype)}
        found |= {f"z({layer})": z, f"a({layer})": a, f"dC/dW({layer})": w, f"dC/db({layer})": b}
    return found


def shares_of_bounds(network: Network, x: Array, y: Array) -> dict[str, float]:
    """The relative errors of the reference in float32, as shares of their bounds."""
    exact, rounded = computed(network, x, y, "float64"), computed(network, x, y, "float32")
    bounds = rounding_bounds(network, x, y, EPS, 2**-100)
    assert bounds.keys() == exact.keys()
    return {
        name: float(np.linalg.norm(rounded[name] - exact[name]) / np.linalg.norm(exact[name]) / bound)
        for name, bound in bounds.items()
    }


def random_network(seed: int, scale: float) -> tuple[Network, Array, Array]:
    """A network of 1 to 20 neurons a layer, and a mini-batch, whose numbers float32 can hold."""
    rng = np.random.default_rng(seed)
    network = Network([*rng.integers(1, 21, 3), 4], seed)
    for arrays in (network.weights, network.biases):
        arrays[:] = [(scale * array).astype("float32").astype("float64") for array in arrays]
    examples = int(rng.integers(1, 9))
    x = rng.random((len(network.weights[0][0]), examples)).astype("float32").astype("float64")
    return network, x, one_hot(rng.integers(0, 4, examples), 4)


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0, 10.0])
def test_bounds_are_above_every_error_and_not_far_above_the_largest(scale: float) -> None:
    shares = [shares_of_bounds(*random_network(seed, scale)) for seed in range(100)]
    for name in shares[0]:
        # A bound is four times the expected error. Of these networks the largest errors were 0.03 to 0.17 of the bound.
        assert 0.02 < max(share[name] for share in shares) < 0.2, name


def test_both_programs_round_by_half_a_spacing() -> None:
    assert unit_roundoff(EPS) == 2**-24 + 2**-53
    assert unit_roundoff(2**-52) == 2 * 2**-53


def test_the_bounds_of_a_neuron_as_worked_out_by_hand() -> None:
    # w x = 1 and z = 2. The product of one term adds sqrt(2) u times the root of its square and its sum's: 2 u.
    network, u = Network([1, 1]), unit_roundoff(EPS)
    network.weights, network.biases = [np.array([[2.0]])], [np.array([[1.0]])]
    x, a = 0.5, 1 / (1 + np.exp(-2))
    slope = a * (1 - a)
    dz = 2 * u + u * 1
    da = slope * dz + 4 * u * a
    dslope = (2 * a - 1) * da + 2 * u * a
    error, derror = a, da + u * a  # as the wanted output is 0
    delta, ddelta = error * slope, error * dslope + slope * derror + 2 * u * error * slope
    wanted = {
        "z(1)": dz / 2,
        "a(1)": da / a,
        "cost": (error * derror + u * error**2) / (error**2 / 2),
        "dC/dW(1)": np.hypot(ddelta * x, 2 * u * delta * x) / (delta * x),
        "dC/db(1)": np.hypot(ddelta, 2 * u * delta) / delta,
    }
    bounds = rounding_bounds(network, np.array([[x]]), np.array([[0.0]]), EPS)
    assert bounds == pytest.approx({name: 4 * bound for name, bound in wanted.items()}, rel=1e-12)


def test_the_bounds_of_saturated_neurons_are_numbers() -> None:
    network = Network([2, 2, 2], seed=0)
    network.weights = [np.array([[1000.0, 0.0], [-1000.0, 0.0]]), np.eye(2)]
    with np.errstate(all="raise", under="ignore"):
        bounds = rounding_bounds(network, np.ones((2, 3)), np.ones((2, 3)), EPS)
    assert all(0 < bound < np.inf for bound in bounds.values())
