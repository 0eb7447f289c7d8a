"""The mistakes that people make in back-propagation: what each computes, what it should be, and why it is wrong."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from torchdigits.proof.diagnosis.steps import Change, Steps
from torchdigits.proof.reference import Array, sigmoid, sigmoid_derivative

Equation = Literal["forward", "cost", "BP1", "BP2", "BP3", "BP4", "update"]
SHOULD: dict[Equation, str] = {
    "forward": "z(l) = W(l) a(l-1) + b(l), a(l) = sigmoid(z(l))",
    "cost": "C = 1/2 |a(L) - y|^2 for an example, the mean of that for a mini-batch; dC/da(L) = a(L) - y",
    "BP1": "delta(L) = (a(L) - y) * sigmoid'(z(L))",
    "BP2": "delta(l) = W(l+1)^T delta(l+1) * sigmoid'(z(l))",
    "BP3": "dC/db(l) = delta(l), summed over the examples",
    "BP4": "dC/dW(l) = delta(l) a(l-1)^T, summed over the examples",
    "update": "W <- W - eta/m sum(dC/dW), b <- b - eta/m sum(dC/db)",
}
# A set of layers that a mistake can be in, by its name: of a layer and the number of layers, whether it is one of them.
PLACES: dict[str, Callable[[int, int], bool]] = {
    "images": lambda layer, last: layer == 0,
    "every": lambda layer, last: layer > 0,
    "hidden": lambda layer, last: 0 < layer < last,
    "output": lambda layer, last: layer == last,
    "first": lambda layer, last: layer == 1 < last,
    "lowest": lambda layer, last: layer == 1,
}
WORDS = {
    "images": "the images",
    "every": "every layer",
    "hidden": "the hidden layers",
    "output": "the output layer",
    "first": "the first layer",
    "lowest": "the first layer",  # even if it is the output layer
}
_ANYWHERE, _OUTPUT, _HIDDEN = ("every", "hidden", "output", "first", "lowest"), ("output",), ("hidden", "first")


@dataclass(frozen=True)
class Mistake:
    """A mistake in the gradient, or in the update.

    Attributes:
        name: a word for it, as in the address of its page.
        equation: the one that it breaks. A slope breaks BP1 in the output layer, BP2 in a hidden one.
        says: what the program does.
        why: in three sentences, why it is wrong.
        ways: what is computed instead, by the name of a step; several, where people write it in several ways. Empty for
            what is found by other means than by its gradient.
        places: the layers that it can be in, the likeliest first.
        seen: the address of a page where somebody reports it; empty if we know of none.
    """

    name: str
    equation: Equation | Literal["slope"]
    says: str
    why: str
    ways: tuple[Mapping[str, Change], ...] = ()
    places: tuple[str, ...] = _ANYWHERE

    @property
    def seen(self) -> str:
        """The address of a page where somebody reports it; empty if we know of none."""
        return SEEN.get(self.name, "")


class Hypothesis(NamedTuple):
    """A mistake, in a way and a place."""

    mistake: Mistake
    way: Mapping[str, Change]
    place: str

    @property
    def equation(self) -> Equation:
        """The equation that it breaks there."""
        if self.mistake.equation != "slope":
            return self.mistake.equation
        return "BP2" if self.place in _HIDDEN or self.place.startswith("layer") else "BP1"


def hypotheses(layers: int = 0) -> Iterator[Hypothesis]:
    """All of them, the most general first; with a number of layers, also those of one layer in between."""
    between = [f"layer {layer}" for layer in range(2, layers)]
    for mistake in MISTAKES:
        for place in (*mistake.places, *(between if "hidden" in mistake.places else ())):
            for way in mistake.ways:
                yield Hypothesis(mistake, way, place)


def where(place: str) -> Callable[[int, int], bool]:
    """Whether a layer, of so many, is in a place of this name."""
    return PLACES.get(place, lambda layer, last: f"layer {layer}" == place)


def _activation(
    f: Callable[[Array], Array], slope: Callable[[Array, Array], Array]
) -> tuple[Mapping[str, Change], ...]:
    """Another activation: with its own slope, as autograd would have it; or with sigmoid', of z or by a (1 - a)."""
    a: Mapping[str, Change] = {"a": lambda s, layer, right: f(s.z(layer))}
    own: Mapping[str, Change] = {"slope": lambda s, layer, right: slope(s.z(layer), s.a(layer))}
    by_a: Mapping[str, Change] = {"slope": lambda s, layer, right: s.a(layer) * (1 - s.a(layer))}
    return ({**a, **own}, a, {**a, **by_a})


def _softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=0))
    value: Array = e / e.sum(axis=0)
    return value


def _softmax_delta(s: Steps, layer: int, right: Array) -> Array:
    a, error = s.a(layer), s.into(layer)
    value: Array = a * (error - (a * error).sum(axis=0))
    return value


def _updated_weights(s: Steps, layer: int, right: Array) -> Array:
    w = s.problem.weights[layer] - s.problem.eta * s.values[f"dC/dW({layer + 1})"]
    value: Array = w.T @ s.delta(layer + 1)
    return value


def _like(right: Array, value: Array | float) -> Array:
    return np.broadcast_to(value, right.shape).copy()


def _weights(s: Steps, layer: int) -> Array:
    return s.problem.weights[layer - 1]


def _labels(s: Steps) -> Array:
    labels: Array = s.problem.y.argmax(axis=0).astype(np.float64)
    return labels


def _inputs(change: Callable[[Steps, int], Array]) -> Mapping[str, Change]:
    """BP4 with something else than the activations before the layer; those of the first layer are the images."""

    def wrong(s: Steps, layer: int, right: Array) -> Array:
        if layer == 1:
            return right
        value: Array = s.scale * (s.delta(layer) @ change(s, layer).T)
        return value

    return {"nabla_w": wrong}


def _example(place: slice) -> Mapping[str, Change]:
    """The gradient of one example only."""

    def weights(s: Steps, layer: int, right: Array) -> Array:
        value: Array = s.scale * (s.delta(layer)[:, place] @ s.a(layer - 1)[:, place].T)
        return value

    return {"nabla_w": weights, "nabla_b": lambda s, layer, right: s.scale * s.delta(layer)[:, place]}


MISTAKES = (
    # The forward pass
    Mistake(
        "bytes",
        "forward",
        "the images are bytes, from 0 to 255, which are not divided by 255",
        "The weighted inputs become some hundred times too large, so that every neuron is saturated. There "
        "sigmoid'(z) is almost 0, and so is every gradient. A pixel has to be in [0, 1] in front of the network.",
        ({"a": lambda s, layer, right: 255 * right},),
        ("images",),
    ),
    Mistake(
        "divided-again",
        "forward",
        "the images are divided by 255, though they are in [0, 1] already",
        "All inputs become almost 0, and the first layer sees nothing but its biases. dC/dW(1) becomes 255 times "
        "too small, by BP4. Divide once, where the bytes are read.",
        ({"a": lambda s, layer, right: right / 255},),
        ("images",),
    ),
    Mistake(
        "whole-numbers",
        "forward",
        "the images are made whole numbers, so that every grey becomes 0",
        "A division of whole numbers, or a cast to uint8, cuts off what is behind the point. Of a picture in [0, "
        "1] only the blackest pixels are left. By BP4, weights of inputs that are 0 are never updated.",
        ({"a": lambda s, layer, right: np.floor(right)},),
        ("images",),
    ),
    Mistake(
        "inverted",
        "forward",
        "the images are inverted: 1 - x",
        "A pixel of MNIST is 0 for paper and 1 for ink. With ink and paper exchanged, most inputs are 1, and most "
        "weighted inputs are far from 0. The network can be trained so, but the gradient is that of other images.",
        ({"a": lambda s, layer, right: 1 - right},),
        ("images",),
    ),
    Mistake(
        "no-bias",
        "forward",
        "the bias is left out of the weighted input",
        "z(l) is W(l) a(l-1) + b(l). Without b the outputs do not depend on the biases, which are then trained to "
        "no effect. Every neuron's threshold stays at 0.",
        ({"z": lambda s, layer, right: right - s.problem.biases[layer - 1]},),
    ),
    Mistake(
        "minus-bias",
        "forward",
        "the bias is subtracted, as if it were a threshold",
        "A bias is minus a perceptron's threshold, so it is added. With -b in z, dC/db(l) is -delta(l), and BP3 "
        "has the other sign. Each update then moves the biases uphill.",
        ({"z": lambda s, layer, right: right - 2 * s.problem.biases[layer - 1]},),
    ),
    Mistake(
        "sigmoid-sign",
        "forward",
        "the sigmoid has exp(z) where exp(-z) should be",
        "1 / (1 + exp(z)) is sigmoid(-z): a neuron falls where it should rise. Its slope is -a (1 - a), so that "
        "sigmoid' has the wrong sign in BP1 and BP2. The gradient of the last layer, at least, then points the "
        "other way.",
        _activation(lambda z: sigmoid(-z), lambda z, a: -a * (1 - a)),
    ),
    Mistake(
        "no-sigmoid",
        "forward",
        "the sigmoid is left out: a = z",
        "Without it a layer is linear, and layers one after the other are only one. The outputs are no longer in "
        "[0, 1]. sigmoid'(z) in BP1 and BP2 belongs to a sigmoid that was not computed.",
        _activation(lambda z: z, lambda z, a: np.ones_like(z)),
    ),
    Mistake(
        "sigmoid-twice",
        "forward",
        "the sigmoid is taken twice",
        "sigmoid(sigmoid(z)) lies between 0.5 and 0.74, whatever z is. No output can be near 0 or 1. It happens "
        "where a layer returns activations, and the next step takes them for weighted inputs.",
        _activation(lambda z: sigmoid(sigmoid(z)), lambda z, a: sigmoid_derivative(sigmoid(z)) * sigmoid_derivative(z)),
    ),
    Mistake(
        "relu",
        "forward",
        "the activation is a ReLU, not a sigmoid",
        "max(z, 0) is another network. Its slope is 1 or 0, so that sigmoid'(z) in BP1 and BP2 does not fit it. "
        "With weights from N(0, 1) and a learning rate of 3 its activations grow without a bound.",
        _activation(lambda z: np.maximum(z, 0), lambda z, a: (z > 0).astype(float)),
    ),
    Mistake(
        "tanh",
        "forward",
        "the activation is tanh, not a sigmoid",
        "tanh goes from -1 to 1, a sigmoid from 0 to 1. Its slope is 1 - a^2, not a (1 - a). With wanted outputs "
        "of 0 and 1, half of its range is of no use.",
        _activation(np.tanh, lambda z, a: 1 - a**2),
    ),
    Mistake(
        "softmax",
        "forward",
        "the outputs go through a softmax, not a sigmoid",
        "In a softmax every output depends on all weighted inputs of its layer. So sigmoid'(z) in BP1 is not its "
        "derivative, which is a matrix. It belongs to the log-likelihood cost, of the book's chapter 3.",
        (
            {"a": lambda s, layer, right: _softmax(s.z(layer)), "delta": _softmax_delta},
            *_activation(_softmax, lambda z, a: a * (1 - a))[:2],
        ),
        ("output", "every"),
    ),
    # The cost
    Mistake(
        "no-half",
        "cost",
        "the cost has no 1/2, so that its derivative is 2 (a - y)",
        "With C = |a - y|^2 the 2 of the square stays in the derivative. Every gradient is twice as large, as if "
        "the learning rate were. Results with the book's eta = 3.0 cannot be compared.",
        ({"error": lambda s, layer, right: 2 * right},),
        _OUTPUT,
    ),
    Mistake(
        "mean-over-outputs",
        "cost",
        "the cost is the mean over the outputs, not their sum",
        "A mean squared error, as NumPy's mean() or torch's MSELoss gives it, divides by the number of outputs "
        "too. Every gradient is 10 times smaller, or 5 times without the 1/2. It is as if the learning rate were "
        "that much smaller.",
        (
            {"error": lambda s, layer, right: 2 * right / len(right)},
            {"error": lambda s, layer, right: right / len(right)},
        ),
        _OUTPUT,
    ),
    Mistake(
        "labels",
        "cost",
        "the label is taken as a number, not as a one-hot vector",
        "a - 7 compares every output with 7, which a sigmoid never reaches. The wanted output of a 7 is 1 in its "
        "place and 0 in the others. A label (m,) beside outputs (m, 10) is broadcast without a word.",
        (
            {"error": lambda s, layer, right: s.a(layer) - _labels(s)},
            {"error": lambda s, layer, right: s.a(layer) - _labels(s)[:, np.newaxis]},
        ),
        _OUTPUT,
    ),
    Mistake(
        "no-target",
        "cost",
        "the wanted output is left out: dC/da = a",
        "a alone is the derivative of 1/2 |a|^2, whose minimum is at 0. So all outputs go to 0, whatever the "
        "label. The quadratic cost has its minimum where a = y.",
        ({"error": lambda s, layer, right: s.a(layer)},),
        _OUTPUT,
    ),
    Mistake(
        "cross-entropy",
        "cost",
        "the cost is the cross-entropy of the outputs, not the quadratic cost",
        "The derivative of the cross-entropy cancels sigmoid'(z(L)), so that delta(L) is a - y. It learns faster where "
        "outputs are saturated, and is the better choice in the book's chapter 3. But it is another cost, with other "
        "gradients.",
    ),
    Mistake(
        "softmax-cost",
        "cost",
        "the cost is the cross-entropy of a softmax of the outputs, as torch's CrossEntropyLoss takes it",
        "CrossEntropyLoss takes weighted inputs and applies a softmax of its own. On activations in [0, 1] that "
        "softmax is almost flat. The quadratic cost has a - y.",
        ({"error": lambda s, layer, right: _softmax(s.a(layer)) - s.problem.y},),
        _OUTPUT,
    ),
    Mistake(
        "log-cost",
        "cost",
        "the cost is -ln a of the wanted output alone",
        "Its derivative is -y / a, which is 0 for every output that should be 0. Nothing pulls those down. It "
        "belongs to a softmax, where one output can only rise if others fall.",
        ({"error": lambda s, layer, right: -s.problem.y / s.a(layer)},),
        _OUTPUT,
    ),
    Mistake(
        "cost-for-derivative",
        "BP1",
        "(a - y)^2, the cost itself, stands where its derivative should be",
        "BP1 starts from dC/da, the slope of the cost, not from its value. A square has no sign, so that no output"
        " is ever pushed up. The derivative of 1/2 (a - y)^2 is a - y.",
        (
            {"error": lambda s, layer, right: right**2},
            {"error": lambda s, layer, right: right**2 / 2},
        ),
        _OUTPUT,
    ),
    Mistake(
        "absolute",
        "BP1",
        "|a - y| stands where a - y should be",
        "Without its sign the error says how far off an output is, but not in which direction. So every output is "
        "pushed down. The derivative of 1/2 (a - y)^2 is a - y.",
        ({"error": lambda s, layer, right: np.abs(right)},),
        _OUTPUT,
    ),
    Mistake(
        "one-error",
        "BP1",
        "all outputs have one error, the sum or the mean over them",
        "An output's error is its own: a(j) - y(j). Summed over the outputs, too much in one hides too little in "
        "another. Outputs that are right are changed with those that are wrong.",
        (
            {"error": lambda s, layer, right: _like(right, right.sum(axis=0))},
            {"error": lambda s, layer, right: _like(right, right.mean(axis=0))},
        ),
        _OUTPUT,
    ),
    Mistake(
        "sign",
        "BP1",
        "the error is y - a, with the wrong sign",
        "The derivative of 1/2 (a - y)^2 by a is a - y. With y - a every gradient points the other way, and W - "
        "eta dC/dW walks uphill. y - a is right only with a plus in the update.",
        ({"error": lambda s, layer, right: -right},),
        _OUTPUT,
    ),
    # sigmoid'(z)
    Mistake(
        "no-slope",
        "slope",
        "sigmoid'(z) is left out",
        "By the chain rule the error goes through the neuron's sigmoid, and is multiplied by its slope there. "
        "Without it, saturated neurons get too much of the blame, and delta is at least four times too large. In "
        "the output layer, a - y alone is the delta of the cross-entropy cost, of the book's chapter 3.",
        ({"slope": lambda s, layer, right: np.ones_like(right)},),
    ),
    Mistake(
        "slope-of-a",
        "slope",
        "sigmoid'(a) is computed, where it should be sigmoid'(z)",
        "sigmoid' is a function of the weighted input z; sigmoid'(a) is the sigmoid taken twice. It is between "
        "0.19 and 0.25, whatever z is, so that no neuron seems saturated. With the activation at hand, the slope "
        "is a (1 - a).",
        ({"slope": lambda s, layer, right: sigmoid_derivative(s.a(layer))},),
    ),
    Mistake(
        "slope-of-z",
        "slope",
        "the slope is z (1 - z): the formula a (1 - a) was given z",
        "sigmoid'(z) = a (1 - a) holds for a = sigmoid(z) only. z has no bounds, and z (1 - z) is negative for "
        "most z. Use sigmoid(z) (1 - sigmoid(z)).",
        ({"slope": lambda s, layer, right: s.z(layer) * (1 - s.z(layer))},),
    ),
    Mistake(
        "sigmoid-for-slope",
        "slope",
        "sigmoid(z) itself stands where its derivative should be",
        "The slope of the sigmoid is a (1 - a): largest at z = 0, and near 0 at both ends. a itself is largest "
        "where the neuron is saturated near 1. So neurons that should hardly move are moved most.",
        ({"slope": lambda s, layer, right: s.a(layer)},),
    ),
    Mistake(
        "half-slope",
        "slope",
        "the slope is 1 - a: the factor a is missing",
        "sigmoid'(z) is a product, a (1 - a). 1 - a alone is 1 for a neuron that is far off, where its slope "
        "should be 0. It comes of exp(-z) / (1 + exp(-z)) without the square.",
        ({"slope": lambda s, layer, right: 1 - s.a(layer)},),
    ),
    Mistake(
        "slope-sign",
        "slope",
        "the slope has the wrong sign, a (a - 1)",
        "The sigmoid rises everywhere, so its slope is never negative. The derivative of 1 / (1 + exp(-z)) has two"
        " minus signs, which cancel. One was lost.",
        ({"slope": lambda s, layer, right: -right},),
    ),
    Mistake(
        "tanh-slope",
        "slope",
        "the slope is that of tanh, 1 - a^2",
        "The neuron is a sigmoid, and the slope of a sigmoid is a (1 - a). 1 - a^2 is the slope of tanh. For a "
        "near 0, where the sigmoid is flat, it is near 1.",
        (
            {"slope": lambda s, layer, right: 1 - s.a(layer) ** 2},
            {"slope": lambda s, layer, right: 1 - np.tanh(s.z(layer)) ** 2},
        ),
    ),
    Mistake(
        "relu-slope",
        "slope",
        "the slope is that of a ReLU, 1 where z > 0",
        "The neuron is a sigmoid, and the slope of a sigmoid is a (1 - a). That of a ReLU is 0 or 1. It stops half"
        " of the error, and passes on the rest undiminished.",
        ({"slope": lambda s, layer, right: (s.z(layer) > 0).astype(float)},),
    ),
    Mistake(
        "slope-twice",
        "slope",
        "sigmoid'(z) is multiplied in twice",
        "The error goes through a neuron's sigmoid once, and so its slope is a factor once. It is at most 1/4, so "
        "that twice makes delta four times too small or more. Often one function has multiplied it in already, and"
        " its caller does again.",
        ({"slope": lambda s, layer, right: right**2},),
    ),
    Mistake(
        "slope-wrong-layer",
        "slope",
        "sigmoid' is that of another layer",
        "delta(l) is the error of layer l, and goes through the sigmoid of layer l. So BP1 has z(L), and BP2 has "
        "z(l), not z(l+1) or z(l-1). With layers of one size NumPy does not notice.",
        (
            {"slope": lambda s, layer, right: sigmoid_derivative(s.z(layer + 1)) if layer < s.layers else right},
            {"slope": lambda s, layer, right: sigmoid_derivative(s.z(layer - 1)) if layer > 1 else right},
        ),
        ("hidden", "output", "every"),
    ),
    # BP2
    Mistake(
        "not-transposed",
        "BP2",
        "the weights are not transposed as the error goes back",
        "W(l+1) takes activations from layer l to l+1; the error goes the other way, so by its transpose. With "
        "layers of different sizes the product cannot be formed. With equal sizes it can, and every neuron gets "
        "another one's blame.",
        ({"carried": lambda s, layer, right: _weights(s, layer + 1) @ s.delta(layer + 1)},),
        _HIDDEN,
    ),
    Mistake(
        "wrong-weights",
        "BP2",
        "the error goes back through the weights of another layer",
        "The error of layer l+1 came by the weights W(l+1), between l and l+1, and goes back by the same. Indices "
        "are easily off by one here, as the first matrix belongs to the second layer. With layers of one size "
        "NumPy does not notice.",
        (
            {"carried": lambda s, layer, right: _weights(s, layer).T @ s.delta(layer + 1)},
            {"carried": lambda s, layer, right: _weights(s, s.layers).T @ s.delta(layer + 1)},
            {"carried": lambda s, layer, right: _weights(s, layer) @ s.delta(layer + 1)},
        ),
        _HIDDEN,
    ),
    Mistake(
        "error-carried",
        "BP2",
        "what goes back is the error before sigmoid' is multiplied in, not delta",
        "BP2 carries delta(l+1), which has sigmoid'(z(l+1)) in it. a(L) - y is the derivative by the activation, "
        "and W(L) acts on the weighted input. One factor of the chain rule is missing in all layers before.",
        ({"carried": lambda s, layer, right: _weights(s, layer + 1).T @ s.into(layer + 1)},),
        _HIDDEN,
    ),
    Mistake(
        "updated-weights",
        "BP2",
        "the error goes back through weights that are updated already",
        "The gradient belongs to the weights that the forward pass used. If W(l+1) is updated before delta(l) is "
        "computed, BP2 has another matrix. Compute all deltas first, then update.",
        ({"carried": _updated_weights},),
        _HIDDEN,
    ),
    Mistake(
        "wrong-delta",
        "BP2",
        "the error that goes back is delta(L), in every layer",
        "BP2 goes a layer at a time: delta(l) comes of delta(l+1). The outputs' delta belongs to the last step "
        "back alone. A variable that is never overwritten in the loop does this.",
        ({"carried": lambda s, layer, right: _weights(s, layer + 1).T @ s.delta(s.layers)},),
        _HIDDEN,
    ),
    Mistake(
        "no-weights",
        "BP2",
        "the error goes back without the weights",
        "A hidden neuron's part in the error of the next layer is as large as the weight between them. Without "
        "W(l+1), all hidden neurons get the same. BP2 has W(l+1)^T delta(l+1).",
        (
            {"carried": lambda s, layer, right: _like(right, s.delta(layer + 1).sum(axis=0))},
            {"carried": lambda s, layer, right: s.delta(layer + 1)},
        ),
        _HIDDEN,
    ),
    Mistake(
        "examples-mixed",
        "BP2",
        "the examples' deltas are summed before they go back",
        "An example's error goes back through its own sigmoid'(z). So deltas are summed over a mini-batch only at "
        "the end, in BP3 and BP4. Summed before, every example gets the error of all.",
        (
            {"carried": lambda s, layer, right: _like(right, right.sum(axis=1, keepdims=True))},
            {"carried": lambda s, layer, right: _like(right, right.mean(axis=1, keepdims=True))},
        ),
        _HIDDEN,
    ),
    # BP3
    Mistake(
        "bias-forgotten",
        "BP3",
        "the gradient of the biases is 0",
        "The biases stay as they were drawn. dC/db(l) is delta(l), which is there already. A zero that is never "
        "overwritten does this.",
        ({"nabla_b": lambda s, layer, right: np.zeros_like(right)},),
    ),
    Mistake(
        "bias-wrong-axis",
        "BP3",
        "delta is summed over the neurons, not over the examples",
        "Every neuron has a bias of its own, and its gradient is its own delta, summed over the examples. Summed "
        "over the other axis, there is a number for each example instead. Examples are columns in the book, and "
        "rows in most libraries.",
        (
            {"nabla_b": lambda s, layer, right: s.scale * s.delta(layer).sum(axis=0)},
            {"nabla_b": lambda s, layer, right: s.delta(layer).mean(axis=0)},
        ),
    ),
    Mistake(
        "bias-not-summed",
        "BP3",
        "delta is not summed over the examples of a mini-batch",
        "Of one example, dC/db(l) is delta(l). Of a mini-batch it is their sum, which the matrix product does for "
        "the weights, but nothing does for the biases. A matrix of deltas, subtracted from a column, makes the "
        "biases a matrix.",
        (
            {"nabla_b": lambda s, layer, right: s.delta(layer)},
            {"nabla_b": lambda s, layer, right: s.scale * s.delta(layer)},
        ),
    ),
    Mistake(
        "bias-total",
        "BP3",
        "all biases of a layer get one number, the sum of all deltas",
        "Every neuron has a bias of its own, and its gradient is its own delta. sum() without an axis adds up the "
        "whole matrix. It has to run over the examples only, and keep the neurons.",
        (
            {"nabla_b": lambda s, layer, right: np.array(right.sum())},
            {"nabla_b": lambda s, layer, right: _like(right, right.sum())},
            {"nabla_b": lambda s, layer, right: _like(right, right.mean())},
        ),
    ),
    Mistake(
        "bias-of-error",
        "BP3",
        "the gradient of the biases is taken before sigmoid' is multiplied in",
        "A bias is a part of z, so that the error has to go through the sigmoid first. dC/db(l) is delta(l), which"
        " has sigmoid'(z(l)) in it. What comes before is the derivative by the activation.",
        ({"nabla_b": lambda s, layer, right: s.scale * s.into(layer).sum(axis=1, keepdims=True)},),
    ),
    Mistake(
        "bias-scale",
        "BP3",
        "the biases' gradient is a mean over the examples where the weights' is a sum, or the other way round",
        "Both belong to one cost, so both are sums or both are means. Otherwise the biases learn m times slower or"
        " faster than the weights. np.mean beside a matrix product does this.",
        (
            {"nabla_b": lambda s, layer, right: right / s.problem.m},
            {"nabla_b": lambda s, layer, right: right * s.problem.m},
        ),
        ("every",),
    ),
    # BP4
    Mistake(
        "z-for-a",
        "BP4",
        "z(l-1) stands where the activation a(l-1) should be",
        "What comes in by a weight is the activation of the neuron before it, so that dz/dW is a(l-1). z(l-1) has "
        "not gone through the sigmoid yet. The lists of z and of activations differ by one entry, which is easily "
        "confused.",
        (_inputs(lambda s, layer: s.z(layer - 1)),),
        ("every", "output"),
    ),
    Mistake(
        "slope-for-a",
        "BP4",
        "sigmoid'(z(l-1)) stands where the activation a(l-1) should be",
        "What comes in by a weight is the activation of the neuron before it, so that dz/dW is a(l-1). Its slope "
        "belongs into BP2. There it is multiplied into delta.",
        (_inputs(lambda s, layer: sigmoid_derivative(s.z(layer - 1))),),
        ("every", "output"),
    ),
    Mistake(
        "wrong-activation",
        "BP4",
        "the activations are those of another layer",
        "W(l) stands between a(l-1) and z(l), so that its gradient has a(l-1). The list of activations begins with"
        " the images, so its indices are one off from those of the weights. With layers of one size NumPy does not"
        " notice.",
        (
            {"nabla_w": lambda s, layer, right: s.scale * (s.delta(layer) @ s.a(layer).T)},
            _inputs(lambda s, layer: s.a(0)),
        ),
    ),
    Mistake(
        "transposed-gradient",
        "BP4",
        "the gradient of the weights comes out transposed",
        "dC/dW(l) has the shape of W(l): a row for each neuron of layer l, a column for each input. The outer "
        "product is delta(l) a(l-1)^T, in this order. With layers of one size NumPy subtracts the transposed one "
        "without a word.",
        ({"nabla_w": lambda s, layer, right: right.T},),
    ),
    Mistake(
        "no-activation",
        "BP4",
        "the activations are left out: all weights of a neuron get its delta",
        "A weight's part in the error is as large as what came in by it. Without a(l-1), the weight of a white "
        "pixel is changed as much as that of a black one. BP4 is an outer product, delta(l) a(l-1)^T.",
        ({"nabla_w": lambda s, layer, right: _like(right, s.scale * s.delta(layer).sum(axis=1, keepdims=True))},),
    ),
    Mistake(
        "weights-of-error",
        "BP4",
        "the gradient of the weights is taken before sigmoid' is multiplied in",
        "A weight acts on z, so that the error has to go through the sigmoid first. BP4 has delta(l), which has "
        "sigmoid'(z(l)) in it. What comes before is the derivative by the activation.",
        ({"nabla_w": lambda s, layer, right: s.scale * (s.into(layer) @ s.a(layer - 1).T)},),
    ),
    Mistake(
        "weights-forgotten",
        "BP4",
        "the gradient of the weights is 0",
        "The weights stay as they were drawn. BP4 gives delta(l) a(l-1)^T for every layer. A zero that is never "
        "overwritten does this.",
        ({"nabla_w": lambda s, layer, right: np.zeros_like(right)},),
    ),
    Mistake(
        "summed-before-product",
        "BP4",
        "delta and activations are summed over the examples first, and multiplied then",
        "A sum of products is not the product of sums. So every example's delta is combined with every other one's"
        " activations. The matrix product delta(l) a(l-1)^T pairs them, and sums.",
        (
            {
                "nabla_w": lambda s, layer, right: (
                    s.scale * (s.delta(layer).sum(axis=1, keepdims=True) @ s.a(layer - 1).sum(axis=1, keepdims=True).T)
                )
            },
            {
                "nabla_w": lambda s, layer, right: (
                    s.scale * (s.delta(layer).sum(axis=1, keepdims=True) @ s.a(layer - 1).mean(axis=1, keepdims=True).T)
                )
            },
        ),
    ),
    Mistake(
        "layer-forgotten",
        "BP4",
        "a layer has no gradient at all",
        "Its weights and biases stay as they were drawn. A loop over the layers ends one too early. BP3 and BP4 "
        "hold for every layer after the input.",
        (
            {
                "nabla_w": lambda s, layer, right: np.zeros_like(right),
                "nabla_b": lambda s, layer, right: np.zeros_like(right),
            },
        ),
        ("first", "lowest", "output", "hidden"),
    ),
    # The mini-batch and the update
    Mistake(
        "one-example",
        "update",
        "only one example of the mini-batch counts, the last or the first",
        "The gradient of a mini-batch is the sum over all its examples. An assignment where += should be keeps the"
        " last one only. A return inside the loop keeps the first.",
        (
            _example(slice(-1, None)),
            _example(slice(0, 1)),
        ),
        ("every",),
    ),
    Mistake(
        "divided-twice",
        "update",
        "the gradient is divided by the size of the mini-batch twice",
        "The update is eta/m times the sum over the examples, which is eta times their mean. Whoever takes the "
        "mean, and then eta/m, divides twice. The network learns m times slower.",
        (
            {
                "nabla_w": lambda s, layer, right: right / s.problem.m,
                "nabla_b": lambda s, layer, right: right / s.problem.m,
            },
        ),
        ("every",),
    ),
    Mistake(
        "not-divided",
        "update",
        "the gradient is not divided by the size of the mini-batch",
        "The cost of a mini-batch is the mean over its examples, so the update is eta/m times their sum. Without "
        "1/m the step is m times too large. With eta = 3.0 and mini-batches of 10 that saturates every neuron "
        "within some updates.",
    ),
    Mistake(
        "divided-by-all",
        "update",
        "the gradient is divided by the number of all training images, or of mini-batches, not by that of this "
        "mini-batch",
        "The cost of a mini-batch is the mean over its own m examples. N is the size of the training set, and "
        "belongs to the regularization of the book's chapter 3. With N = 50,000 and m = 10 the network learns "
        "5,000 times slower.",
    ),
    Mistake(
        "ascent",
        "update",
        "the gradient is added, not subtracted",
        "The gradient points to where the cost grows. Gradient descent goes the other way: W - eta dC/dW. A plus "
        "is right only where the error is y - a.",
    ),
    Mistake(
        "eta-twice",
        "update",
        "the learning rate is multiplied in twice",
        "The step is eta times the gradient. With eta = 3.0 it becomes 9 times, with eta = 0.1 a hundredth. One of"
        " two functions has done it already.",
    ),
    Mistake(
        "eta-forgotten",
        "update",
        "the learning rate is left out",
        "The step is eta times the gradient. Without it the step is as if eta were 1, whatever is asked for. The "
        "book's 3.0 has no effect.",
    ),
    Mistake(
        "not-updated",
        "update",
        "some parameters are not updated, though their gradient is there",
        "Every weight and every bias takes part in gradient descent. What is not updated stays as it was drawn. A "
        "loop or a comprehension over the other list was forgotten.",
    ),
    Mistake(
        "online",
        "update",
        "the weights are changed after each example of the mini-batch",
        "The gradient of a mini-batch belongs to one set of weights, those at its start. Changed in between, each "
        "example sees other weights, and their order matters. It learns too, but it is not the book's algorithm.",
    ),
    Mistake(
        "accumulated",
        "update",
        "gradients of an earlier call are added: the sums are not set to zero",
        "A mini-batch's gradient is the sum over its own examples. A sum that is never set to zero grows with "
        "every call, and old gradients never end. In torch it is zero_grad() that is missing.",
    ),
    Mistake(
        "shorter-dropped",
        "update",
        "the last, shorter mini-batch of an epoch is left out",
        "An epoch is one pass over all training examples. If m does not divide their number, the last mini-batch "
        "is shorter, and counts all the same. Its update is divided by its own number of examples.",
    ),
    Mistake(
        "shorter-divided",
        "update",
        "the last, shorter mini-batch is divided by the size of a full one",
        "The update is the mean over the mini-batch's own examples. A last one of 4 examples, divided by 10, "
        "counts less than half. Divide by len(mini_batch).",
    ),
    Mistake(
        "in-place",
        "update",
        "arrays that it was given are changed in place",
        "x, y and the weights are still needed after the gradient: by the next example, the next epoch, the cost. "
        "An operator as -= changes the caller's array, and so do views of it. Compute a new array, or copy first.",
    ),
    Mistake(
        "float16",
        "update",
        "it computes in float16",
        "A float16 has 11 bits, 3 decimal digits. Gradients below 6e-8 become 0, and an update that is a 2000th of"
        " its weight is lost. Keep weights and sums in float32 or float64.",
    ),
    Mistake(
        "reversed",
        "update",
        "the layers' gradients come from the last to the first, not in the order of the weights",
        "Back-propagation goes from the last layer to the first, and append() keeps that order. The update pairs "
        "them with the weights from the first on. Insert at the front, or reverse the list at the end.",
    ),
)
BY_NAME = {mistake.name: mistake for mistake in MISTAKES}
# Where somebody reports it.
SEEN: dict[str, str] = {
    "bytes": "https://github.com/michaelgptt/basic-neural-network",
    "sigmoid-sign": "https://github.com/pytorch/torcharrow/pull/523",
    "relu": "https://github.com/jeffheaton/encog-dotnet-core/issues/124",
    "tanh": "https://github.com/ttezel/nn/issues/8",
    "softmax": "https://github.com/KirillShmilovich/MLP-Neural-Network-From-Scratch/issues/4",
    "no-half": "https://github.com/mnielsen/neural-networks-and-deep-learning/pull/79",
    "mean-over-outputs": "https://github.com/pytorch/pytorch/issues/3924",
    "labels": "https://community.deeplearning.ai/t/getting-errors-in-backpropagation-when-creating-from-scratch/488307",
    "cost-for-derivative": "https://github.com/MatthieuHernandez/StraightforwardNeuralNetwork/pull/18",
    "sign": "https://github.com/pytorch/pytorch/issues/1871",
    "no-slope": "https://github.com/jiexunsee/Neural-Network-with-Python/issues/1",
    "slope-of-a": "https://github.com/jeffheaton/jeffheaton-book-code/issues/7",
    "slope-of-z": "https://github.com/BoltzmannEntropy/interviews.ai/issues/15",
    "slope-wrong-layer": "https://github.com/jeffheaton/encog-java-core/issues/243",
    "error-carried": "https://stackoverflow.com/questions/53287032/multi-layer-neural-network-back-propagation-formula-using-stochastic-gradient-d",
    "updated-weights": "https://github.com/kim-marcel/basic_neural_network/issues/7",
    "wrong-delta": "https://github.com/fanghao6666/neural-networks-and-deep-learning/pull/7",
    "bias-forgotten": "https://github.com/glouw/tinn/issues/30",
    "bias-wrong-axis": "https://pytroubles.com/en/posts/id1785-fixing-numpy-mnist-training-correct-gradient-axes-bias-reductions-and-stable-softmax",
    "bias-not-summed": "https://github.com/jimfleming/differentiation/issues/1",
    "z-for-a": "https://github.com/maziarraissi/backprop/issues/1",
    "transposed-gradient": "https://github.com/iamtrask/Grokking-Deep-Learning/issues/23",
    "layer-forgotten": "http://ufldl.stanford.edu/wiki/index.php?title=Gradient_checking_and_advanced_optimization&direction=prev&oldid=2264",
    "one-example": "https://github.com/jbarrow/LambdaNet/pull/5",
    "divided-twice": "https://github.com/d2l-ai/d2l-en/pull/1000",
    "not-divided": "https://github.com/haifengl/smile/issues/525",
    "divided-by-all": "https://github.com/ageron/handson-ml/issues/179",
    "online": "https://github.com/davidstutz/matlab-mnist-two-layer-perceptron/issues/3",
    "accumulated": "https://github.com/deepjavalibrary/d2l-java/pull/202",
    "shorter-dropped": "https://github.com/NervanaSystems/neon/issues/9",
    "in-place": "https://github.com/epfml/ML_course/pull/6",
    "float16": "https://pytorch.org/docs/1.5.1/_sources/amp.rst.txt",
}


def as_markdown() -> str:
    """The page docs/mistakes.md."""
    equations = "\n".join(f"- {name}: `{formula}`" for name, formula in SHOULD.items())
    parts = [
        "# Mistakes in back-propagation",
        f"What `check` knows by name ([check](check.md)): {len(MISTAKES)} mistakes. It finds them alone, and in pairs.",
        f"What each of them breaks:\n\n{equations}",
    ]
    for mistake in MISTAKES:
        breaks = "BP1 in the output layer, BP2 in a hidden one" if mistake.equation == "slope" else mistake.equation
        seen = f" [Seen here]({mistake.seen})." if mistake.seen else ""
        says = mistake.says[0].upper() + mistake.says[1:] if mistake.says.split()[0].isalpha() else mistake.says
        parts.append(f"## {mistake.name}\n\n*{breaks}.* {says}. {mistake.why}{seen}")
    return "\n\n".join(parts) + "\n"
