"""The original, in NumPy: sigmoid neurons, quadratic cost, and back-propagation written by hand.

Read it first; torch is checked against it. As in Nielsen's "Neural Networks and Deep Learning", chapter 2, an example
is a column. A mini-batch is a matrix whose columns are its examples, so one example is a matrix of one column.

The book's names are `SGD` for `gradient_descent`, `sigmoid_prime` for `sigmoid_derivative`, and `cost_derivative` for
the `a(L) - y` of BP1; `feedforward`, `backprop`, `update_mini_batch` and `evaluate` are the same in both.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Network:
    """Layers of sigmoid neurons, in float64.

    Args:
        sizes: neurons in each layer, the inputs first, such as (784, 30, 10).
        seed: of the first weights and of the shuffling.

    Attributes:
        weights: a matrix `(neurons, inputs)` for each layer after the input. They start from N(0, 1).
        biases: a column `(neurons, 1)` for each layer after the input. They start from N(0, 1) too.
    """

    def __init__(self, sizes: Sequence[int] = (784, 30, 10), seed: int | None = None) -> None:
        self.rng = np.random.default_rng(seed)
        self.weights = [self.rng.standard_normal((neurons, inputs)) for inputs, neurons in pairwise(sizes)]
        self.biases = [self.rng.standard_normal((neurons, 1)) for neurons in sizes[1:]]

    def feedforward(self, x: Array) -> Array:
        """Activations of the output layer `(10, m)` for images `(784, m)`."""
        return self.forward_pass(x)[1][-1]

    def forward_pass(self, x: Array) -> tuple[list[Array], list[Array]]:
        """The weighted inputs z of the layers after the input, and the activations of all: `(neurons, m)` each."""
        zs, activations = [], [x]
        for w, b in zip(self.weights, self.biases, strict=True):
            zs.append(w @ activations[-1] + b)
            activations.append(sigmoid(zs[-1]))
        return zs, activations

    def cost(self, x: Array, y: Array) -> float:
        """Quadratic cost of a mini-batch, `1/m sum(1/2 |a(L) - y|^2)`; x is `(784, m)`, y `(10, m)`."""
        return float(np.sum((self.feedforward(x) - y) ** 2) / (2 * x.shape[1]))

    def backprop(self, x: Array, y: Array) -> tuple[list[Array], list[Array]]:
        """The gradient of the cost, by the four equations of back-propagation, summed over a mini-batch's examples.

        Args:
            x, y: images `(784, m)` and their wanted outputs `(10, m)`.

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
        # BP3: dC/db(l) = delta(l), summed over the examples
        nabla_b = [delta.sum(axis=1, keepdims=True) for delta in deltas]
        # BP4: dC/dW(l) = delta(l) a(l-1)^T, summed over the examples by the matrix product
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
        after_epoch: Callable[[int], object] = lambda epoch: None,
    ) -> None:
        """Train by mini-batch stochastic gradient descent; the last mini-batch of an epoch may be shorter.

        Args:
            x, y: training images `(784, N)` and their wanted outputs `(10, N)`.
            epochs: passes over the images, each in a new order.
            mini_batch_size: examples in a mini-batch.
            eta: learning rate.
            after_epoch: called with the number of each epoch, from 0, as it ends. The original prints what `evaluate`
                counts.
        """
        for epoch in range(epochs):
            order = self.rng.permutation(x.shape[1])
            for start in range(0, len(order), mini_batch_size):
                chosen = order[start : start + mini_batch_size]
                self.update_mini_batch(x[:, chosen], y[:, chosen], eta)
            after_epoch(epoch)

    def evaluate(self, x: Array, labels: NDArray[np.int64]) -> int:
        """How many of the images `(784, N)` have their largest output at their label; labels are `(N,)`."""
        return int(np.sum(self.feedforward(x).argmax(axis=0) == labels))


def sigmoid(z: Array) -> Array:
    """`1 / (1 + exp(-z))`, written so that no exponential overflows."""
    e = np.exp(-np.abs(z))
    a: Array = np.where(z >= 0, 1, e) / (1 + e)
    return a


def sigmoid_derivative(z: Array) -> Array:
    """`sigmoid'(z) = sigmoid(z) (1 - sigmoid(z))`."""
    a = sigmoid(z)
    return a * (1 - a)


def columns(images: NDArray[np.uint8]) -> Array:
    """Images `(N, 784)` of bytes, as columns `(784, N)` of floats in [0, 1]."""
    return (images / 255).T


def one_hot(labels: NDArray[np.int64], classes: int = 10) -> Array:
    """Labels `(N,)` as wanted outputs `(classes, N)`: 1 at the label, 0 elsewhere."""
    y: Array = np.eye(classes)[labels].T
    return y
