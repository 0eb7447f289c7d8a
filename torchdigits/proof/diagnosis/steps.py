"""Back-propagation a step at a time, where any step can be replaced: what a program with a mistake computes."""

import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from torchdigits.proof.reference import Array, Network, columns, one_hot, sigmoid


@dataclass(frozen=True)
class Problem:
    """Weights and a mini-batch, for which somebody's program is asked for the gradient.

    Attributes:
        weights, biases: matrices `(neurons, inputs)` and columns `(neurons, 1)`, layer by layer.
        x, y: images `(inputs, m)` and their wanted outputs `(outputs, m)`.
        eta: the learning rate, for programs that show their gradient only in an update; 0 for the others.
    """

    weights: list[Array]
    biases: list[Array]
    x: Array
    y: Array
    eta: float = 0.0

    @classmethod
    def random(
        cls, sizes: Sequence[int], m: int, seed: int = 0, scale: float = 1.0, dtype: DTypeLike = np.float32
    ) -> "Problem":
        """Weights and biases from N(0, scale²), images of grey pixels, and labels that are not all the same.

        All numbers can be represented in `dtype`, so that a program which computes in it starts from the same.
        """
        rng = np.random.default_rng((seed, *sizes, m))
        network = Network(sizes)
        weights = [scale * rng.standard_normal(w.shape) for w in network.weights]
        biases = [scale * rng.standard_normal(b.shape) for b in network.biases]
        x = columns(rng.integers(0, 256, (m, sizes[0])).astype(np.uint8))
        labels = (1 + np.arange(m)) % sizes[-1]  # the first is 1, as 0 would hide a label that is taken as a number
        return cls(weights, biases, x, one_hot(labels, sizes[-1])).rounded(dtype)

    @classmethod
    def digits(cls, m: int = 8, scale: float = 1.0, dtype: DTypeLike = np.float32) -> "Problem":
        """A network 784-30-10 and handwritten digits of scikit-learn's, of 8 x 8 pixels, magnified to 28 x 28."""
        random = cls.random((784, 30, 10), m, scale=scale, dtype=dtype)
        package = find_spec("sklearn")  # which is not imported: that takes a second, and the table is a small text
        assert package is not None
        assert package.submodule_search_locations is not None
        table = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
        with gzip.open(table, "rt", encoding="utf-8") as lines:
            rows = np.loadtxt([next(lines) for _ in range(1 + m)][1:], delimiter=",")
        small = rows[:, :64].reshape(m, 8, 8) / 16
        images = np.pad(np.kron(small, np.ones((3, 3))), ((0, 0), (2, 2), (2, 2))).reshape(m, 784)
        y = one_hot(rows[:, 64].astype(np.int64))
        return cls(random.weights, random.biases, images.T, y).rounded(dtype)

    def rounded(self, dtype: DTypeLike) -> "Problem":
        """The same, of numbers that `dtype` has."""

        def near(array: Array) -> Array:
            return array.astype(dtype).astype(np.float64)

        return Problem([*map(near, self.weights)], [*map(near, self.biases)], near(self.x), self.y, self.eta)

    def examples(self) -> "list[Problem]":
        """A problem for each example."""
        places = [slice(i, i + 1) for i in range(self.m)]
        return [Problem(self.weights, self.biases, self.x[:, i], self.y[:, i], self.eta) for i in places]

    @property
    def m(self) -> int:
        """The number of examples."""
        return len(self.x.T)

    @property
    def sizes(self) -> list[int]:
        """Neurons in each layer, the inputs first."""
        return [self.weights[0].shape[1], *(len(w) for w in self.weights)]

    def network(self) -> Network:
        """The reference, with these weights."""
        twin = Network(self.sizes)
        twin.weights, twin.biases = self.weights, self.biases
        return twin


# What a step computes instead: of all that was computed before, the layer, and the right value, the value.
Change = Callable[["Steps", int, Array], Array]
Changes = Sequence[tuple[Mapping[str, Change], Callable[[int, int], bool]]]


class Steps:
    """One pass forward and one back, with some steps replaced.

    The steps, in order: for each layer `z`, the weighted inputs, and `a`, the activations (those of layer 0 are the
    images); `error`, a(L) - y; for each layer from the last, `slope`, sigmoid'(z), `carried`, W(l+1)^T delta(l+1), and
    `delta`; for each layer `nabla_b` and `nabla_w`. All are matrices with a column for each example, but for the last
    two, which are summed over the examples.

    Args:
        problem: weights and a mini-batch.
        changes: pairs of a mapping from a step's name to what is computed instead, and a function of a layer and the
            number of layers that says whether it is so in this layer.
        mean: whether the gradient is the mean over the examples, not the sum.
        wanted: asked for each gradient; once it says no, the rest is not computed.
        forward: has the same pass forward, which is then not computed again.

    Attributes:
        values: all that was computed, in order, by the step's name and layer: `z(1)`, `a(1)`, ..., `dC/dW(1)`.
        sigmoids: of the weighted inputs, layer by layer, whatever the activations are.
    """

    def __init__(
        self,
        problem: Problem,
        changes: Changes = (),
        mean: bool = False,
        wanted: Callable[[str, Array], bool] = lambda name, value: True,
        forward: "Steps | None" = None,
    ) -> None:
        self.problem, self.changes = problem, changes
        self.layers = last = len(problem.weights)
        self.scale = 1 / problem.m if mean else 1.0
        self.values: dict[str, Array] = {}
        with np.errstate(all="ignore"):
            if forward is None:
                self.sigmoids: list[Array] = []
                self._keep("a", 0, problem.x)
                for layer, (w, b) in enumerate(zip(problem.weights, problem.biases, strict=True), 1):
                    self.sigmoids.append(sigmoid(self._keep("z", layer, w @ self.a(layer - 1) + b)))
                    self._keep("a", layer, self.sigmoids[-1])
            else:
                self.sigmoids = forward.sigmoids
                self.values |= {name: value for name, value in forward.values.items() if name[0] in "az"}
            error = self._keep("error", last, self.a(last) - problem.y)
            for layer in range(last, 0, -1):  # so that what is next to the output is known first
                self._keep("slope", layer, self.sigmoids[layer - 1] * (1 - self.sigmoids[layer - 1]))
                if layer < last:
                    error = self._keep("carried", layer, problem.weights[layer].T @ self.delta(layer + 1))
                self._keep("delta", layer, error * self.slope(layer))
                b_sum = self.scale * self.delta(layer).sum(axis=1, keepdims=True)
                if not wanted(f"dC/db({layer})", self._keep("nabla_b", layer, b_sum, f"dC/db({layer})")):
                    return
                w_sum = self.scale * (self.delta(layer) @ self.a(layer - 1).T)
                if not wanted(f"dC/dW({layer})", self._keep("nabla_w", layer, w_sum, f"dC/dW({layer})")):
                    return

    def _keep(self, step: str, layer: int, right: Array, name: str = "") -> Array:
        for mapping, where in self.changes:
            if step in mapping and where(layer, self.layers):
                right = mapping[step](self, layer, right)
        self.values[name or f"{step}({layer})"] = right
        return right

    def z(self, layer: int) -> Array:
        """The weighted inputs of a layer."""
        return self.values[f"z({layer})"]

    def a(self, layer: int) -> Array:
        """The activations of a layer."""
        return self.values[f"a({layer})"]

    def slope(self, layer: int) -> Array:
        """sigmoid'(z), or what was computed instead."""
        return self.values[f"slope({layer})"]

    def delta(self, layer: int) -> Array:
        """The error of a layer."""
        return self.values[f"delta({layer})"]

    def into(self, layer: int) -> Array:
        """What the slope is multiplied by: the output's error, or what is carried back."""
        return self.values[f"error({layer})" if layer == self.layers else f"carried({layer})"]

    @property
    def gradient(self) -> dict[str, Array]:
        """dC/dW(l) and dC/db(l), by these names."""
        return {name: value for name, value in self.values.items() if name.startswith("dC/")}


def square(problem: Problem) -> bool:
    """Whether all layers are of one size, so that a matrix that is not transposed, or of another layer, fits."""
    return all(one == other for one, other in pairwise(problem.sizes))
