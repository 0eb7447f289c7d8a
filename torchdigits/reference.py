"""The original, in NumPy: sigmoid neurons, quadratic cost, and back-propagation written by hand.

It is here to be read, and to check torch against. As in Nielsen's "Neural Networks and Deep Learning", chapter 2, an
example is a column, and a mini-batch is a matrix whose columns are its examples: one example is the case of one column.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Network:
    """Layers of sigmoid neurons. All numbers are float64.

    Args:
        sizes: neurons in each layer, the inputs first, such as (784, 30, 10).
        seed: of the first weights, and of the shuffling.

    Attributes:
        weights: a matrix `(neurons, inputs)` for each layer after the input, at first drawn from N(0, 1).
        biases: a column `(neurons, 1)` for each, likewise.
    """

    def __init__(self, sizes: Sequence[int] = (784, 30, 10), seed: int | None = None) -> None:
        self.rng = np.random.default_rng(seed)
        self.weights = [self.rng.standard_normal((neurons, inputs)) for inputs, neurons in pairwise(sizes)]
        self.biases = [self.rng.standard_normal((neurons, 1)) for neurons in sizes[1:]]

    def feedforward(self, x: Array) -> Array:
        """Activations of the output layer `(10, m)` for images `(784, m)`."""
        return self.forward_pass(x)[1][-1]

    def forward_pass(self, x: Array) -> tuple[list[Array], list[Array]]:
        """Weighted inputs z of the layers after the input, and activations of all, the input first: `(neurons, m)`."""
        zs, activations = [], [x]
        for w, b in zip(self.weights, self.biases, strict=True):
            zs.append(w @ activations[-1] + b)
            activations.append(sigmoid(zs[-1]))
        return zs, activations

    def cost(self, x: Array, y: Array) -> float:
        """Quadratic cost of a mini-batch, `1/m sum(1/2 |a(L) - y|^2)`; x is `(784, m)`, y `(10, m)`."""
        return float(np.sum((self.feedforward(x) - y) ** 2) / (2 * x.shape[1]))

    def backprop(self, x: Array, y: Array) -> tuple[list[Array], list[Array]]:
        """The gradient of the cost by the four equations of back-propagation, summed over a mini-batch's examples.

        Args:
            x: images `(784, m)`.
            y: wanted outputs `(10, m)`.

        Returns:
            `dC/dW` and `dC/db`, layer by layer, of the shapes of `weights` and `biases`.
        """
        zs, activations = self.forward_pass(x)
        # BP1, the error of the output layer: delta(L) = dC/da(L) * sigmoid'(z(L)), and dC/da(L) = a(L) - y
        delta = (activations[-1] - y) * sigmoid_derivative(zs[-1])
        deltas = [delta]
        # BP2, the error of a layer from that of the next: delta(l) = (W(l+1)^T delta(l+1)) * sigmoid'(z(l))
        for w, z in zip(self.weights[:0:-1], zs[-2::-1], strict=True):
            delta = (w.T @ delta) * sigmoid_derivative(z)
            deltas.insert(0, delta)
        # BP3: dC/db(l) = delta(l), of each example
        nabla_b = [delta.sum(axis=1, keepdims=True) for delta in deltas]
        # BP4: dC/dW(l) = delta(l) a(l-1)^T; the matrix product sums over the examples
        nabla_w = [delta @ a.T for delta, a in zip(deltas, activations[:-1], strict=True)]
        return nabla_w, nabla_b

    def update_mini_batch(self, x: Array, y: Array, eta: float) -> None:
        """One step of gradient descent, `W <- W - eta/m sum(dC/dW)`; x is `(784, m)`, y `(10, m)`."""
        nabla_w, nabla_b = self.backprop(x, y)
        step = eta / x.shape[1]
        self.weights = [w - step * nabla for w, nabla in zip(self.weights, nabla_w, strict=True)]
        self.biases = [b - step * nabla for b, nabla in zip(self.biases, nabla_b, strict=True)]

    def gradient_descent(
        self,
        x: Array,
        y: Array,
        epochs: int,
        mini_batch_size: int,
        eta: float,
        test: tuple[Array, NDArray[np.int64]] | None = None,
    ) -> None:
        """Train by mini-batch stochastic gradient descent; the last mini-batch of an epoch may be shorter.

        Prints a line an epoch: the count of test images recognised, if there are any.

        Args:
            x: training images `(784, N)`.
            y: their wanted outputs `(10, N)`.
            epochs: passes over them, each in a new order.
            mini_batch_size: examples an update.
            eta: learning rate.
            test: images `(784, M)` and labels `(M,)`.
        """
        for epoch in range(epochs):
            order = self.rng.permutation(x.shape[1])
            for start in range(0, len(order), mini_batch_size):
                chosen = order[start : start + mini_batch_size]
                self.update_mini_batch(x[:, chosen], y[:, chosen], eta)
            if test is None:
                print(f"Epoch {epoch} complete")
            else:
                print(f"Epoch {epoch}: {self.evaluate(*test)} / {len(test[1])}")

    def evaluate(self, x: Array, labels: NDArray[np.int64]) -> int:
        """How many of the images `(784, M)` have their largest output at their label, of `(M,)`."""
        return int(np.sum(self.feedforward(x).argmax(axis=0) == labels))


def sigmoid(z: Array) -> Array:
    """`1 / (1 + exp(-z))`, which never takes the exponential of a large positive number."""
    e = np.exp(-np.abs(z))
    a: Array = np.where(z >= 0, 1, e) / (1 + e)
    return a


def sigmoid_derivative(z: Array) -> Array:
    """`sigmoid'(z) = sigmoid(z) (1 - sigmoid(z))`."""
    a = sigmoid(z)
    return a * (1 - a)


def columns(images: NDArray[np.uint8]) -> Array:
    """Images `(N, 784)` of bytes as columns `(784, N)` of floats in [0, 1]."""
    return (images / 255).T


def one_hot(labels: NDArray[np.int64], classes: int = 10) -> Array:
    """Labels `(N,)` as wanted outputs `(classes, N)`: 1 at the label, 0 elsewhere."""
    y: Array = np.eye(classes)[labels].T
    return y
