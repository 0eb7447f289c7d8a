"""Right programs in the forms that people write, and mistakes to plant in them: a text, and what stands there instead.

Each mistake has the name that `torchdigits.proof.diagnosis.mistakes` has for it. Nothing else is taken from there.
"""

from textwrap import dedent

BOOK = """
    import random
    import numpy as np

    class Network:
        def __init__(self, sizes):
            self.num_layers = len(sizes)
            self.sizes = sizes
            self.biases = [np.random.randn(y, 1) for y in sizes[1:]]
            self.weights = [np.random.randn(y, x) for x, y in zip(sizes[:-1], sizes[1:])]

        def feedforward(self, a):
            for b, w in zip(self.biases, self.weights):
                a = sigmoid(np.dot(w, a) + b)
            return a

        def SGD(self, training_data, epochs, mini_batch_size, eta, test_data=None):
            n = len(training_data)
            for j in range(epochs):
                random.shuffle(training_data)
                mini_batches = [training_data[k:k + mini_batch_size] for k in range(0, n, mini_batch_size)]
                for mini_batch in mini_batches:
                    self.update_mini_batch(mini_batch, eta)
                print("Epoch {0} complete".format(j))

        def update_mini_batch(self, mini_batch, eta):
            nabla_b = [np.zeros(b.shape) for b in self.biases]
            nabla_w = [np.zeros(w.shape) for w in self.weights]
            for x, y in mini_batch:
                delta_nabla_b, delta_nabla_w = self.backprop(x, y)
                nabla_b = [nb + dnb for nb, dnb in zip(nabla_b, delta_nabla_b)]
                nabla_w = [nw + dnw for nw, dnw in zip(nabla_w, delta_nabla_w)]
            self.weights = [w - (eta / len(mini_batch)) * nw for w, nw in zip(self.weights, nabla_w)]
            self.biases = [b - (eta / len(mini_batch)) * nb for b, nb in zip(self.biases, nabla_b)]

        def backprop(self, x, y):
            nabla_b = [np.zeros(b.shape) for b in self.biases]
            nabla_w = [np.zeros(w.shape) for w in self.weights]
            activation = x
            activations = [x]
            zs = []
            for b, w in zip(self.biases, self.weights):
                z = np.dot(w, activation) + b
                zs.append(z)
                activation = sigmoid(z)
                activations.append(activation)
            delta = self.cost_derivative(activations[-1], y) * sigmoid_prime(zs[-1])
            nabla_b[-1] = delta
            nabla_w[-1] = np.dot(delta, activations[-2].transpose())
            for l in range(2, self.num_layers):
                z = zs[-l]
                sp = sigmoid_prime(z)
                delta = np.dot(self.weights[-l + 1].transpose(), delta) * sp
                nabla_b[-l] = delta
                nabla_w[-l] = np.dot(delta, activations[-l - 1].transpose())
            return (nabla_b, nabla_w)

        def cost_derivative(self, output_activations, y):
            return output_activations - y

    def sigmoid(z):
        return 1.0 / (1.0 + np.exp(-z))

    def sigmoid_prime(z):
        return sigmoid(z) * (1 - sigmoid(z))
"""

_Z = "z = np.dot(w, activation) + b\n"
_A = "activation = sigmoid(z)\n"
_DELTA = "delta = self.cost_derivative(activations[-1], y) * sigmoid_prime(zs[-1])"
_SP = "sp = sigmoid_prime(z)"
_PRIME = "return sigmoid(z) * (1 - sigmoid(z))"
_BACK = "np.dot(self.weights[-l + 1].transpose(), delta)"
_COST = "return output_activations - y"
_WSTEP = "[w - (eta / len(mini_batch)) * nw for w, nw in zip(self.weights, nabla_w)]"
_BSTEP = "[b - (eta / len(mini_batch)) * nb for b, nb in zip(self.biases, nabla_b)]"

# name, equation, then pairs of a text and what stands there instead
Plant = tuple[str, str, tuple[tuple[str, str], ...]]
IN_BOOK: list[Plant] = [
    ("bytes", "forward", (("activation = x\n", "activation = x = x * 255\n"),)),
    ("divided-again", "forward", (("activation = x\n", "activation = x = x / 255.0\n"),)),
    ("whole-numbers", "forward", (("activation = x\n", "activation = x = x.astype(np.uint8)\n"),)),
    ("inverted", "forward", (("activation = x\n", "activation = x = 1 - x\n"),)),
    ("no-bias", "forward", ((_Z, "z = np.dot(w, activation)\n"),)),
    ("minus-bias", "forward", ((_Z, "z = np.dot(w, activation) - b\n"),)),
    ("sigmoid-sign", "forward", (("np.exp(-z)", "np.exp(z)"),)),
    ("no-sigmoid", "forward", ((_A, "activation = z\n"),)),
    ("sigmoid-twice", "forward", ((_A, "activation = sigmoid(sigmoid(z))\n"),)),
    ("relu", "forward", ((_A, "activation = np.maximum(0, z)\n"),)),
    ("tanh", "forward", ((_A, "activation = np.tanh(z)\n"),)),
    ("no-half", "cost", ((_COST, "return 2 * (output_activations - y)"),)),
    ("mean-over-outputs", "cost", ((_COST, "return 2 * (output_activations - y) / y.size"),)),
    ("labels", "cost", ((_COST, "return output_activations - np.argmax(y)"),)),
    ("no-target", "cost", ((_COST, "return output_activations"),)),
    ("log-cost", "cost", ((_COST, "return -y / output_activations"),)),
    ("cost-for-derivative", "BP1", ((_COST, "return (output_activations - y) ** 2"),)),
    ("cost-for-derivative", "BP1", ((_COST, "return 0.5 * (output_activations - y) ** 2"),)),
    ("absolute", "BP1", ((_COST, "return np.abs(output_activations - y)"),)),
    ("one-error", "BP1", ((_COST, "return np.sum(output_activations - y) * np.ones_like(y)"),)),
    ("sign", "BP1", ((_COST, "return y - output_activations"),)),
    ("no-slope", "BP1", ((_DELTA, "delta = self.cost_derivative(activations[-1], y)"),)),
    ("no-slope", "BP2", ((f"{_BACK} * sp", _BACK),)),
    ("slope-of-a", "BP1", (("sigmoid_prime(zs[-1])", "sigmoid_prime(activations[-1])"),)),
    ("slope-of-a", "BP2", ((_SP, "sp = sigmoid_prime(activations[-l])"),)),
    ("slope-of-z", "BP1", ((_PRIME, "return z * (1 - z)"),)),
    ("sigmoid-for-slope", "BP1", ((_PRIME, "return sigmoid(z)"),)),
    ("sigmoid-for-slope", "BP2", ((_SP, "sp = sigmoid(z)"),)),
    ("half-slope", "BP1", ((_PRIME, "return np.exp(-z) / (1 + np.exp(-z))"),)),
    ("slope-sign", "BP1", ((_PRIME, "return -sigmoid(z) * (1 - sigmoid(z))"),)),
    ("tanh-slope", "BP1", ((_PRIME, "return 1 - sigmoid(z) ** 2"),)),
    ("tanh-slope", "BP1", ((_PRIME, "return 1 - np.tanh(z) ** 2"),)),
    ("relu-slope", "BP1", ((_PRIME, "return (z > 0) * 1.0"),)),
    ("slope-twice", "BP2", ((f"{_BACK} * sp", f"{_BACK} * sp * sp"),)),
    ("slope-wrong-layer", "BP2", ((_SP, "sp = sigmoid_prime(zs[-l + 1])"),)),
    ("not-transposed", "BP2", (("self.weights[-l + 1].transpose()", "self.weights[-l + 1]"),)),
    ("wrong-weights", "BP2", (("self.weights[-l + 1].transpose()", "self.weights[-l].transpose()"),)),
    ("wrong-weights", "BP2", (("self.weights[-l + 1].transpose()", "self.weights[-1].transpose()"),)),
    (
        "error-carried",
        "BP2",
        (
            ("for l in range(2", "error = self.cost_derivative(activations[-1], y)\n            for l in range(2"),
            (f"delta = {_BACK} * sp", "error = np.dot(self.weights[-l + 1].transpose(), error); delta = error * sp"),
        ),
    ),
    ("no-weights", "BP2", ((_BACK, "np.sum(delta)"),)),
    ("bias-forgotten", "BP3", (("nabla_b[-l] = delta\n", "\n"), ("nabla_b[-1] = delta\n", "\n"))),
    ("bias-forgotten", "BP3", (("nabla_b[-l] = delta\n", "\n"),)),
    ("bias-forgotten", "BP3", (("nabla_b[-1] = delta\n", "\n"),)),
    ("bias-total", "BP3", (("nabla_b[-l] = delta\n", "nabla_b[-l] = np.sum(delta) * np.ones_like(delta)\n"),)),
    (
        "z-for-a",
        "BP4",
        (("np.dot(delta, activations[-2].transpose())", "np.dot(delta, (zs[-2] if len(zs) > 1 else x).transpose())"),),
    ),
    (
        "slope-for-a",
        "BP4",
        (("activations[-2].transpose()", "(sigmoid_prime(zs[-2]) if len(zs) > 1 else x).transpose()"),),
    ),
    ("wrong-activation", "BP4", (("activations[-l - 1].transpose()", "activations[-l].transpose()"),)),
    ("wrong-activation", "BP4", (("activations[-2].transpose()", "x.transpose()"),)),
    (
        "transposed-gradient",
        "BP4",
        (("np.dot(delta, activations[-l - 1].transpose())", "np.dot(activations[-l - 1], delta.transpose())"),),
    ),
    (
        "no-activation",
        "BP4",
        (("np.dot(delta, activations[-l - 1].transpose())", "delta * np.ones_like(self.weights[-l])"),),
    ),
    ("weights-forgotten", "BP4", (("nabla_w[-1] = np.dot(delta, activations[-2].transpose())\n", "\n"),)),
    ("layer-forgotten", "BP4", (("range(2, self.num_layers)", "range(2, self.num_layers - 1)"),)),
    ("one-example", "update", (("nb + dnb for", "dnb for"), ("nw + dnw for", "dnw for"))),
    ("not-divided", "update", ((_WSTEP, _WSTEP.replace(" / len(mini_batch)", "")), (_BSTEP, _BSTEP.replace(" / len(mini_batch)", "")))),
    ("divided-twice", "update", (("(eta / len(mini_batch)) *", "(eta / len(mini_batch) ** 2) *"),)),
    ("ascent", "update", (("w - (eta", "w + (eta"), ("b - (eta", "b + (eta"))),
    ("eta-twice", "update", (("(eta / len(mini_batch)) *", "eta * (eta / len(mini_batch)) *"),)),
    ("eta-forgotten", "update", (("(eta / len(mini_batch)) *", "(1 / len(mini_batch)) *"),)),
    ("not-updated", "update", ((f"            self.biases = {_BSTEP}\n", "\n"),)),
    (
        "online",
        "update",
        (
            ("                delta_nabla_b,", ("                nabla_b = [np.zeros(b.shape) for b in self.biases]\n"
             "                nabla_w = [np.zeros(w.shape) for w in self.weights]\n                delta_nabla_b,")),
            (f"            self.weights = {_WSTEP}", f"                self.weights = {_WSTEP}"),
            (f"            self.biases = {_BSTEP}", f"                self.biases = {_BSTEP}"),
        ),
    ),
    (
        "accumulated",
        "update",
        (
            ("self.sizes = sizes\n", "self.sizes = sizes\n            self.nabla_b = self.nabla_w = 0\n"),
            ("            self.weights = [w -", ("            self.nabla_b = nabla_b = [nb + old for nb, old in zip(nabla_b, self.nabla_b or [0] * 9)]\n"
             "            self.nabla_w = nabla_w = [nw + old for nw, old in zip(nabla_w, self.nabla_w or [0] * 9)]\n"
             "            self.weights = [w -")),
        ),
    ),
    ("shorter-dropped", "update", (("for k in range(0, n, mini_batch_size)]", "for k in range(0, n - mini_batch_size + 1, mini_batch_size)]"),)),
    (
        "divided-by-all",
        "update",
        (("self.update_mini_batch(mini_batch, eta)", "self.update_mini_batch(mini_batch, eta * len(mini_batch) / n)"),),
    ),
    ("shorter-divided", "update", (("self.update_mini_batch(mini_batch, eta)", "self.update_mini_batch(mini_batch, eta * len(mini_batch) / mini_batch_size)"),)),
    ("in-place", "update", ((_A, "activation = sigmoid(z)\n                w *= 0.5\n"),)),
    ("in-place", "update", (("activation = x\n", "activation = x\n            x -= 0.5\n"),)),
    ("float16", "update", ((_Z, "z = (np.dot(w, activation) + b).astype(np.float16)\n"),)),
]  # fmt: skip

# A mini-batch at once, examples in columns, with its own update.
MATRIX = """
    import numpy as np

    class Network:
        def __init__(self, sizes):
            rng = np.random.default_rng(0)
            self.weights = [rng.standard_normal((n, k)) for k, n in zip(sizes[:-1], sizes[1:])]
            self.biases = [rng.standard_normal((n, 1)) for n in sizes[1:]]

        def forward(self, x):
            return self.forward_pass(x)[1][-1]

        def forward_pass(self, x):
            zs, activations = [], [x]
            for w, b in zip(self.weights, self.biases):
                zs.append(w @ activations[-1] + b)
                activations.append(self.sigmoid(zs[-1]))
            return zs, activations

        def backprop(self, x, y):
            zs, activations = self.forward_pass(x)
            error = activations[-1] - y
            delta = error * self.slope(zs[-1])
            deltas = [delta]
            for w, z in zip(self.weights[:0:-1], zs[-2::-1]):
                carried = w.T @ delta
                delta = carried * self.slope(z)
                deltas.insert(0, delta)
            nabla_b = [delta.sum(axis=1, keepdims=True) for delta in deltas]
            nabla_w = [delta @ a.T for delta, a in zip(deltas, activations[:-1])]
            return nabla_w, nabla_b

        def update_mini_batch(self, x, y, eta):
            nabla_w, nabla_b = self.backprop(x, y)
            step = eta / x.shape[1]
            self.weights = [w - step * nabla for w, nabla in zip(self.weights, nabla_w)]
            self.biases = [b - step * nabla for b, nabla in zip(self.biases, nabla_b)]

        def sigmoid(self, z):
            return 1 / (1 + np.exp(-z))

        def slope(self, z):
            a = self.sigmoid(z)
            return a * (1 - a)
"""
_SUM = "delta.sum(axis=1, keepdims=True)"
_PRODUCT = "delta @ a.T for"
IN_MATRIX: list[Plant] = [
    ("bytes", "forward", (("zs, activations = [], [x]", "zs, activations = [], [255 * x]"),)),
    ("divided-again", "forward", (("zs, activations = [], [x]", "zs, activations = [], [x / 255]"),)),
    ("whole-numbers", "forward", (("zs, activations = [], [x]", "zs, activations = [], [x // 1]"),)),
    ("no-bias", "forward", (("w @ activations[-1] + b", "w @ activations[-1]"),)),
    ("minus-bias", "forward", (("w @ activations[-1] + b", "w @ activations[-1] - b"),)),
    ("sigmoid-sign", "forward", (("np.exp(-z)", "np.exp(z)"),)),
    ("no-sigmoid", "forward", (("activations.append(self.sigmoid(zs[-1]))", "activations.append(zs[-1])"),)),
    ("relu", "forward", (("activations.append(self.sigmoid(zs[-1]))", "activations.append(zs[-1].clip(0))"),)),
    ("tanh", "forward", (("activations.append(self.sigmoid(zs[-1]))", "activations.append(np.tanh(zs[-1]))"),)),
    (
        "softmax",
        "forward",
        (("            return zs, activations", "            activations[-1] = np.exp(zs[-1]) / np.exp(zs[-1]).sum(axis=0)\n            return zs, activations"),),
    ),
    ("no-half", "cost", (("error = activations[-1] - y", "error = 2 * (activations[-1] - y)"),)),
    ("mean-over-outputs", "cost", (("error = activations[-1] - y", "error = (activations[-1] - y) / len(y)"),)),
    ("labels", "cost", (("error = activations[-1] - y", "error = activations[-1] - y.argmax(axis=0)"),)),
    ("no-target", "cost", (("error = activations[-1] - y", "error = activations[-1]"),)),
    ("cost-for-derivative", "BP1", (("error = activations[-1] - y", "error = np.square(activations[-1] - y)"),)),
    ("absolute", "BP1", (("error = activations[-1] - y", "error = abs(activations[-1] - y)"),)),
    ("softmax", "forward", (("activations.append(self.sigmoid(zs[-1]))", "activations.append(np.exp(zs[-1]) / np.exp(zs[-1]).sum(axis=0))"), ("            a = self.sigmoid(z)\n", "            a = np.exp(z) / np.exp(z).sum(axis=0)\n"))),
    ("one-error", "BP1", (("error = activations[-1] - y", "error = (activations[-1] - y).mean(axis=0)"),)),
    ("sign", "BP1", (("error = activations[-1] - y", "error = y - activations[-1]"),)),
    ("no-slope", "BP1", (("delta = error * self.slope(zs[-1])", "delta = error"),)),
    ("no-slope", "BP1", (("return a * (1 - a)", "return 1"),)),
    ("no-slope", "BP2", (("delta = carried * self.slope(z)", "delta = carried"),)),
    ("slope-of-a", "BP1", (("a = self.sigmoid(z)\n", "a = self.sigmoid(self.sigmoid(z))\n"),)),
    ("slope-of-z", "BP1", (("return a * (1 - a)", "return z * (1 - z)"),)),
    ("sigmoid-for-slope", "BP1", (("return a * (1 - a)", "return a"),)),
    ("half-slope", "BP1", (("return a * (1 - a)", "return 1 - a"),)),
    ("slope-sign", "BP1", (("return a * (1 - a)", "return a * (a - 1)"),)),
    ("tanh-slope", "BP1", (("return a * (1 - a)", "return 1 - a * a"),)),
    ("relu-slope", "BP2", (("carried * self.slope(z)", "carried * (z > 0)"),)),
    ("slope-twice", "BP1", (("return a * (1 - a)", "return (a * (1 - a)) ** 2"),)),
    ("slope-wrong-layer", "BP2", (("zip(self.weights[:0:-1], zs[-2::-1])", "zip(self.weights[:0:-1], zs[:0:-1])"),)),
    ("slope-wrong-layer", "BP2", (("zip(self.weights[:0:-1], zs[-2::-1])", "zip(self.weights[:0:-1], [*zs[-3::-1], zs[0]])"),)),
    ("not-transposed", "BP2", (("w.T @ delta", "w @ delta"),)),
    ("wrong-weights", "BP2", (("zip(self.weights[:0:-1], zs", "zip(self.weights[-2::-1], zs"),)),
    ("error-carried", "BP2", (("carried = w.T @ delta", "carried = error = w.T @ error"),)),
    ("wrong-delta", "BP2", (("carried = w.T @ delta", "carried = w.T @ deltas[-1]"),)),
    ("no-weights", "BP2", (("w.T @ delta", "delta.sum(axis=0)"),)),
    ("examples-mixed", "BP2", (("w.T @ delta", "w.T @ delta.sum(axis=1, keepdims=True)"),)),
    ("bias-forgotten", "BP3", ((_SUM, "0 * delta.sum(axis=1, keepdims=True)"),)),
    ("bias-wrong-axis", "BP3", ((_SUM, "delta.sum(axis=0)"),)),
    ("bias-not-summed", "BP3", ((_SUM, "delta"),)),
    ("bias-total", "BP3", ((_SUM, "delta.sum()"),)),
    ("bias-scale", "BP3", ((_SUM, "delta.mean(axis=1, keepdims=True)"),)),
    ("bias-of-error", "BP3", (("deltas.insert(0, delta)", "deltas.insert(0, delta); biased.insert(0, carried)"), ("deltas = [delta]", "deltas = [delta]; biased = [error]"), (f"{_SUM} for delta in deltas", f"{_SUM} for delta in biased"))),
    ("z-for-a", "BP4", (("zip(deltas, activations[:-1])", "zip(deltas, [x, *zs[:-1]])"),)),
    ("slope-for-a", "BP4", (("zip(deltas, activations[:-1])", "zip(deltas, [x, *map(self.slope, zs[:-1])])"),)),
    ("wrong-activation", "BP4", (("zip(deltas, activations[:-1])", "zip(deltas, activations[1:])"),)),
    ("transposed-gradient", "BP4", ((_PRODUCT, "a @ delta.T for"),)),
    ("no-activation", "BP4", ((_PRODUCT, "delta @ np.ones_like(a.T) for"),)),
    ("weights-of-error", "BP4", (("deltas.insert(0, delta)", "deltas.insert(0, delta); raw.insert(0, carried)"), ("deltas = [delta]", "deltas = [delta]; raw = [error]"), ("zip(deltas, activations[:-1])", "zip(raw, activations[:-1])"))),
    ("weights-forgotten", "BP4", ((_PRODUCT, "0 * delta @ a.T for"),)),
    ("summed-before-product", "BP4", ((_PRODUCT, "delta.sum(1, keepdims=True) @ a.mean(1, keepdims=True).T for"),)),
    ("layer-forgotten", "BP4", (("return nabla_w, nabla_b", "nabla_w[0] = 0 * nabla_w[0]; nabla_b[0] = 0 * nabla_b[0]\n            return nabla_w, nabla_b"),)),
    ("layer-forgotten", "BP4", (("return nabla_w, nabla_b", "nabla_w[-1] = 0 * nabla_w[-1]; nabla_b[-1] = 0 * nabla_b[-1]\n            return nabla_w, nabla_b"),)),
    ("layer-forgotten", "BP4", (("return nabla_w, nabla_b", "nabla_w[:-1] = [0 * n for n in nabla_w[:-1]]; nabla_b[:-1] = [0 * n for n in nabla_b[:-1]]\n            return nabla_w, nabla_b"),)),
    ("no-slope", "BP2", (("delta = carried * self.slope(z)", "delta = carried if z is zs[0] else carried * self.slope(z)"),)),
    ("one-example", "update", (("nabla_b = [delta", "deltas = [d[:, -1:] for d in deltas]; activations = [a[:, -1:] for a in activations]\n            nabla_b = [delta"),)),
    ("reversed", "update", (("return nabla_w, nabla_b", "return nabla_w[::-1], nabla_b[::-1]"),)),
    ("not-divided", "update", (("step = eta / x.shape[1]", "step = eta"),)),
    ("divided-twice", "update", (("step = eta / x.shape[1]", "step = eta / x.shape[1] / x.shape[1]"),)),
    ("ascent", "update", (("w - step", "w + step"), ("b - step", "b + step"))),
    ("eta-twice", "update", (("step = eta / x", "step = eta * eta / x"),)),
    ("eta-forgotten", "update", (("step = eta / x", "step = 1 / x"),)),
    ("not-updated", "update", (("self.weights = [w - step * nabla for w, nabla in zip(self.weights, nabla_w)]", "pass"),)),
    ("accumulated", "update", (("return nabla_w, nabla_b", "self.kept = [n + o for n, o in zip(nabla_w + nabla_b, getattr(self, 'kept', [0] * 9))]\n            return self.kept[:len(nabla_w)], self.kept[len(nabla_w):]"),)),
    ("in-place", "update", (("            zs, activations = self.forward_pass(x)\n            error", "            y -= 0.1\n            zs, activations = self.forward_pass(x)\n            error"),)),
]  # fmt: skip

# A function, its examples in rows, weights (in, out), the mean over a mini-batch.
ROWS = """
    import numpy as np

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    def gradients(weights, biases, x, y):
        activations = [x]
        for w, b in zip(weights, biases):
            activations.append(sigmoid(activations[-1] @ w + b))
        delta = (activations[-1] - y) * activations[-1] * (1 - activations[-1])
        grads = []
        for layer in reversed(range(len(weights))):
            dw = activations[layer].T @ delta / len(x)
            db = delta.mean(axis=0)
            grads.insert(0, (dw, db))
            if layer:
                delta = delta @ weights[layer].T * activations[layer] * (1 - activations[layer])
        return grads
"""
_DW, _DB = "dw = activations[layer].T @ delta / len(x)", "db = delta.mean(axis=0)"
_OUT = "delta = (activations[-1] - y) * "
IN_ROWS: list[Plant] = [
    ("mean-over-outputs", "cost", ((_OUT, "delta = 2 * (activations[-1] - y) / y.shape[1] * "),)),
    ("labels", "cost", ((_OUT, "delta = (activations[-1] - y.argmax(axis=1)[:, None]) * "),)),
    ("examples-mixed", "BP2", (("delta = delta @ weights", "delta = delta.mean(axis=0, keepdims=True) @ weights"),)),
    ("not-transposed", "BP2", (("weights[layer].T *", "weights[layer] *"),)),
    ("wrong-weights", "BP2", (("weights[layer].T *", "weights[layer - 1] *"),)),
    ("no-weights", "BP2", (("delta @ weights[layer].T *", "delta *"),)),
    ("bias-wrong-axis", "BP3", ((_DB, "db = delta.mean(axis=1)"),)),
    ("bias-wrong-axis", "BP3", ((_DB, "db = delta.sum(axis=1) / len(x)"),)),
    ("bias-not-summed", "BP3", ((_DB, "db = delta"),)),
    ("bias-not-summed", "BP3", ((_DB, "db = delta / len(x)"),)),
    ("bias-total", "BP3", ((_DB, "db = delta.sum() / len(x)"),)),
    ("bias-total", "BP3", ((_DB, "db = np.full_like(biases[layer], delta.mean())"),)),
    ("bias-scale", "BP3", ((_DB, "db = delta.sum(axis=0)"),)),
    ("weights-of-error", "BP4", ((_DW, "dw = activations[layer].T @ error / len(x)"), (_OUT, "error = activations[-1] - y; delta = error * "), ("delta = delta @ weights[layer].T *", "error = delta @ weights[layer].T; delta = error *"))),
    ("one-example", "update", ((_DW, "dw = activations[layer][-1:].T @ delta[-1:] / len(x)"), (_DB, "db = delta[-1] / len(x)"))),
    ("one-example", "update", ((_DW, "dw = activations[layer][-1:].T @ delta[-1:]"), (_DB, "db = delta[-1]"))),
    ("one-example", "update", ((_DW, "dw = activations[layer][:1].T @ delta[:1] / len(x)"), (_DB, "db = delta[0] / len(x)"))),
    ("one-example", "update", ((_DW, "dw = activations[layer][:1].T @ delta[:1]"), (_DB, "db = delta[0]"))),
    ("divided-twice", "update", ((_DW, _DW + " / len(x)"), (_DB, _DB + " / len(x)"))),
]  # fmt: skip
EINSUM = """
    import numpy as np

    def backprop(x, y, weights, biases):
        a = [x]
        for w, b in zip(weights, biases):
            a.append(1 / (1 + np.exp(-np.einsum("ij,jm->im", w, a[-1]) - b)))
        s = [v * (1 - v) for v in a]
        d = {len(weights): (a[-1] - y) * s[-1]}
        for l in range(len(weights) - 1, 0, -1):
            d[l] = np.einsum("ij,im,jm->jm", weights[l], d[l + 1], s[l])
        dW = {f"dW{l}": np.einsum("im,jm->ij", d[l], a[l - 1]) for l in d}
        return {**dW, **{f"db{l}": d[l].sum(1) for l in d}}
"""
FLAT = '''
    import numpy as np

    class Net:
        """An example is a vector, as in many ports."""

        def __init__(self, *sizes):
            self.W = [np.random.randn(n, k).astype(np.float32) for k, n in zip(sizes, sizes[1:])]
            self.b = [np.random.randn(n).astype(np.float32) for n in sizes[1:]]

        def backward(self, x, y):
            a, zs = [x], []
            for w, b in zip(self.W, self.b):
                zs.append(w @ a[-1] + b)
                a.append(1 / (1 + np.exp(-zs[-1])))
            d = (a[-1] - y) * a[-1] * (1 - a[-1])
            dW, db = [np.outer(d, a[-2])], [d]
            for l in range(len(self.W) - 1, 0, -1):
                d = (self.W[l].T @ d) * a[l] * (1 - a[l])
                dW.insert(0, np.outer(d, a[l - 1]))
                db.insert(0, d)
            return dW, db
'''
ORIGINAL = """
    import numpy as np

    class Network:
        def __init__(self, sizes):
            self.weights = np.empty(len(sizes) - 1, dtype=object)
            self.biases = np.empty(len(sizes) - 1, dtype=object)
            self.weights[:] = [np.random.randn(n, k) for k, n in zip(sizes[:-1], sizes[1:])]
            self.biases[:] = [np.random.randn(n, 1) for n in sizes[1:]]

        def forwardprop(self, x):
            activations, zs = [x], []
            for w, b in zip(self.weights, self.biases):
                zs.append(np.dot(w, activations[-1]) + b)
                activations.append(sigmoid(zs[-1]))
            return activations, zs

        def cost_deviation(self, output, z, y):
            return (output - y) * sigmoid_derivative(z)

        def backprop(self, activations, zs, delta):
            nabla_w, nabla_b = [np.dot(delta, activations[-2].T)], [delta]
            for layer in range(2, len(self.weights) + 1):
                delta = np.dot(self.weights[-layer + 1].T, delta) * sigmoid_derivative(zs[-layer])
                nabla_w.insert(0, np.dot(delta, activations[-layer - 1].T))
                nabla_b.insert(0, delta)
            return nabla_w, nabla_b

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    def sigmoid_derivative(z):
        return sigmoid(z) * (1 - sigmoid(z))
"""
AUTOGRAD = """
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self, sizes):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(k, n) for k, n in zip(sizes[:-1], sizes[1:]))

        def forward(self, x):
            for layer in self.layers:
                x = torch.sigmoid(layer(x))
            return x
"""
_LAYER = "torch.sigmoid(layer(x))"
IN_AUTOGRAD: list[Plant] = [  # each with its own slope
    ("sigmoid-sign", "forward", ((_LAYER, "torch.sigmoid(-layer(x))"),)),
    ("no-sigmoid", "forward", ((_LAYER, "layer(x)"),)),
    ("sigmoid-twice", "forward", ((_LAYER, "torch.sigmoid(torch.sigmoid(layer(x)))"),)),
    ("relu", "forward", ((_LAYER, "torch.relu(layer(x))"),)),
    ("tanh", "forward", ((_LAYER, "torch.tanh(layer(x))"),)),
    ("softmax", "forward", ((_LAYER, "torch.softmax(layer(x), dim=-1)"),)),
    ("softmax", "forward", ((_LAYER, "torch.softmax(layer(x), dim=-1) if layer is self.layers[-1] else torch.sigmoid(layer(x))"),)),
]  # fmt: skip
TENSORS = """
    import torch

    def backward(weights, biases, x, y):
        a = [x]
        for w, b in zip(weights, biases):
            a.append(torch.sigmoid(a[-1] @ w.T + b))
        delta = (a[-1] - y) * a[-1] * (1 - a[-1])
        grads = []
        for l in reversed(range(len(weights))):
            grads = [torch.matmul(delta.T, a[l]), torch.sum(delta, dim=0)] + grads
            delta = torch.matmul(delta, weights[l]) * a[l] * (1 - a[l])
        return grads
"""
FUNCTION = """
    import torch
    from torch import nn

    class Sigmoids(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w, b):
            z = x @ w.T + b
            a = 1 / (1 + torch.exp(-z))
            ctx.save_for_backward(x, w, z, a)
            return a

        @staticmethod
        def backward(ctx, error):
            x, w, z, a = ctx.saved_tensors
            slope = a * (1 - a)
            delta = error * slope
            dx = delta @ w
            dw = delta.T @ x
            db = delta.sum(0)
            return dx, dw, db

    class Network(nn.Module):
        def __init__(self, sizes):
            super().__init__()
            self.w = nn.ParameterList(torch.randn(n, k, dtype=torch.float64) for k, n in zip(sizes[:-1], sizes[1:]))
            self.b = nn.ParameterList(torch.randn(n, dtype=torch.float64) for n in sizes[1:])

        def forward(self, x):
            for w, b in zip(self.w, self.b):
                x = Sigmoids.apply(x, w, b)
            return x
"""
IN_FUNCTION: list[Plant] = [
    ("no-bias", "forward", (("z = x @ w.T + b", "z = x @ w.T"),)),
    ("minus-bias", "forward", (("z = x @ w.T + b", "z = x @ w.T - b"),)),
    ("sigmoid-sign", "forward", (("torch.exp(-z)", "torch.exp(z)"),)),
    ("no-sigmoid", "forward", (("a = 1 / (1 + torch.exp(-z))", "a = z"),)),
    ("tanh", "forward", (("a = 1 / (1 + torch.exp(-z))", "a = torch.tanh(z)"),)),
    ("relu", "forward", (("a = 1 / (1 + torch.exp(-z))", "a = torch.relu(z)"),)),
    ("sigmoid-twice", "forward", (("a = 1 / (1 + torch.exp(-z))", "a = torch.sigmoid(torch.sigmoid(z))"),)),
    ("no-slope", "BP1", (("slope = a * (1 - a)", "slope = 1"),)),
    ("slope-of-a", "BP1", (("slope = a * (1 - a)", "slope = torch.sigmoid(a) * (1 - torch.sigmoid(a))"),)),
    ("slope-of-z", "BP1", (("slope = a * (1 - a)", "slope = z * (1 - z)"),)),
    ("sigmoid-for-slope", "BP1", (("slope = a * (1 - a)", "slope = a"),)),
    ("half-slope", "BP1", (("slope = a * (1 - a)", "slope = 1 - a"),)),
    ("slope-sign", "BP1", (("slope = a * (1 - a)", "slope = a * (a - 1)"),)),
    ("tanh-slope", "BP1", (("slope = a * (1 - a)", "slope = 1 - a ** 2"),)),
    ("relu-slope", "BP1", (("slope = a * (1 - a)", "slope = (z > 0).double()"),)),
    ("slope-twice", "BP1", (("delta = error * slope", "delta = error * slope * slope"),)),
    ("error-carried", "BP2", (("dx = delta @ w", "dx = error @ w"),)),
    ("no-weights", "BP2", (("dx = delta @ w", "dx = delta.sum(1, keepdim=True).expand_as(x)"),)),
    ("examples-mixed", "BP2", (("dx = delta @ w", "dx = (delta.sum(0) @ w).expand_as(x)"),)),
    ("bias-forgotten", "BP3", (("db = delta.sum(0)", "db = None"),)),
    ("bias-total", "BP3", (("db = delta.sum(0)", "db = delta.sum().expand(w.shape[0])"),)),
    ("bias-scale", "BP3", (("db = delta.sum(0)", "db = delta.mean(0)"),)),
    ("bias-of-error", "BP3", (("db = delta.sum(0)", "db = error.sum(0)"),)),
    ("no-activation", "BP4", (("dw = delta.T @ x", "dw = delta.T @ torch.ones_like(x)"),)),
    ("weights-of-error", "BP4", (("dw = delta.T @ x", "dw = error.T @ x"),)),
    ("weights-forgotten", "BP4", (("dw = delta.T @ x", "dw = None"),)),
    ("summed-before-product", "BP4", (("dw = delta.T @ x", "dw = torch.outer(delta.sum(0), x.sum(0))"),)),
    ("one-example", "update", (("dw = delta.T @ x", "delta, x = delta[:1], x[:1]; dw = delta.T @ x"),)),
]  # fmt: skip


def planted(source: str, *changes: tuple[str, str]) -> str:
    """A program with mistakes."""
    for old, new in changes:
        assert old in source, old
        source = source.replace(old, new)
    return dedent(source)


# A class without backprop: its update goes back through the layers, and changes each at the end.
ONE_STEP = """
    import numpy as np

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    class Network:
        def __init__(self, sizes):
            self.W = [np.random.randn(n, k) for k, n in zip(sizes[:-1], sizes[1:])]
            self.b = [np.random.randn(n) for n in sizes[1:]]

        def train_batch(self, x, y, lr):
            a = [x]
            for w, b in zip(self.W, self.b):
                a.append(sigmoid(a[-1] @ w.T + b))
            delta = (a[-1] - y) * a[-1] * (1 - a[-1])
            steps = []
            for l in reversed(range(len(self.W))):
                steps.append((l, delta.T @ a[l] / len(x), delta.mean(axis=0)))
                if l:
                    carried = delta @ self.W[l]
                    delta = carried * a[l] * (1 - a[l])
            for l, dw, db in steps:
                self.W[l] -= lr * dw
                self.b[l] -= lr * db
"""
_STEP = "                steps.append((l, delta.T @ a[l] / len(x), delta.mean(axis=0)))\n"
IN_ONE_STEP: list[Plant] = [
    ("updated-weights", "BP2", ((_STEP, _STEP + "                self.W[l] -= lr * steps[-1][1]\n"), ("                self.W[l] -= lr * dw\n                self.b", "                self.b"))),
    ("no-slope", "BP1", (("(a[-1] - y) * a[-1] * (1 - a[-1])", "a[-1] - y"),)),
    ("not-divided", "update", ((" / len(x), delta.mean", ", delta.sum"),)),
]  # fmt: skip


# Two layers, each with attributes of its own; a learning rate for the constructor; and backward, which updates.
TWO_LAYERS = """
    import numpy as np

    class NeuralNetwork:
        def __init__(self, input_size, hidden_size, output_size, learning_rate):
            self.W1 = np.random.randn(input_size, hidden_size)
            self.b1 = np.zeros((1, hidden_size))
            self.W2 = np.random.randn(hidden_size, output_size)
            self.b2 = np.zeros((1, output_size))

        def sigmoid(self, z):
            return 1 / (1 + np.exp(-z))

        def forward(self, X):
            self.a1 = self.sigmoid(X @ self.W1 + self.b1)
            self.a2 = self.sigmoid(self.a1 @ self.W2 + self.b2)
            return self.a2

        def backward(self, X, y, learning_rate):
            m = X.shape[0]
            d2 = (self.a2 - y) * self.a2 * (1 - self.a2)
            dW2 = self.a1.T @ d2 / m
            db2 = np.sum(d2, axis=0, keepdims=True) / m
            d1 = d2 @ self.W2.T * self.a1 * (1 - self.a1)
            dW1 = X.T @ d1 / m
            db1 = np.sum(d1, axis=0, keepdims=True) / m
            self.W2 -= learning_rate * dW2
            self.b2 -= learning_rate * db2
            self.W1 -= learning_rate * dW1
            self.b1 -= learning_rate * db1
"""
IN_TWO_LAYERS: list[Plant] = [
    ("updated-weights", "BP2", (("            self.W2 -= learning_rate * dW2\n", ""), ("            d1 = ", "            self.W2 -= learning_rate * dW2\n            d1 = "))),
    ("no-slope", "BP1", (("(self.a2 - y) * self.a2 * (1 - self.a2)", "self.a2 - y"),)),
    ("no-slope", "BP2", (("d2 @ self.W2.T * self.a1 * (1 - self.a1)", "d2 @ self.W2.T"),)),
    ("slope-of-a", "BP1", (("* self.a2 * (1 - self.a2)", "* self.sigmoid(self.a2) * (1 - self.sigmoid(self.a2))"),)),
    ("bias-total", "BP3", (("np.sum(d2, axis=0, keepdims=True)", "np.sum(d2)"), ("np.sum(d1, axis=0, keepdims=True)", "np.sum(d1)"))),
    ("not-transposed", "BP2", (("self.W2.T", "self.W2"),)),
    ("layer-forgotten", "BP4", (("self.W1 -= learning_rate * dW1", "pass"), ("self.b1 -= learning_rate * db1", "pass"))),
    ("not-divided", "update", ((" / m", ""),)),
]  # fmt: skip

# Functions of a dictionary, and of the layers' arrays one by one.
DICTIONARY = """
    import numpy as np

    def backward(params, X, Y):
        A, L, grads = [X], len(params) // 2, {}
        for l in range(1, L + 1):
            A.append(1 / (1 + np.exp(-(params[f"W{l}"] @ A[-1] + params[f"b{l}"]))))
        dZ = (A[-1] - Y) * A[-1] * (1 - A[-1])
        for l in range(L, 0, -1):
            grads[f"dW{l}"] = dZ @ A[l - 1].T / X.shape[1]
            grads[f"db{l}"] = dZ.sum(axis=1, keepdims=True) / X.shape[1]
            if l > 1:
                dZ = params[f"W{l}"].T @ dZ * A[l - 1] * (1 - A[l - 1])
        return grads
"""
ONE_BY_ONE = """
    import numpy as np

    def backprop(W1, b1, W2, b2, x, y):
        a1 = 1 / (1 + np.exp(-(W1 @ x + b1)))
        a2 = 1 / (1 + np.exp(-(W2 @ a1 + b2)))
        d2 = (a2 - y) * a2 * (1 - a2)
        d1 = W2.T @ d2 * a1 * (1 - a1)
        return d1 @ x.T, d1, d2 @ a1.T, d2
"""

PAIRS = """
    import numpy as np

    def gradients(params, inputs, targets):
        a = [inputs]
        for w, b in params:
            a.append(1 / (1 + np.exp(-(a[-1] @ w + b))))
        delta, grads = (a[-1] - targets) * a[-1] * (1 - a[-1]), []
        for (w, _), before in zip(params[::-1], a[-2::-1]):
            grads.insert(0, (before.T @ delta / len(inputs), delta.mean(axis=0)))
            delta = delta @ w.T * before * (1 - before)
        return grads
"""
