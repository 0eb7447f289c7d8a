import subprocess
import sys

import numpy as np
import pytest
from scipy.special import expit

from torchdigits.data.datasets import DigitSplits
from torchdigits.proof.reference import Network, columns, one_hot, sigmoid, sigmoid_derivative


def test_sigmoid_neither_overflows_nor_warns_far_from_zero() -> None:
    z = np.array([-1000.0, -700.0, -40.0, -1.0, 0.0, 1.0, 40.0, 700.0, 1000.0])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        a = sigmoid(z)
        slope = sigmoid_derivative(z)
    np.testing.assert_allclose(a, expit(z), rtol=1e-15)
    assert a[0] == 0
    assert a[-1] == 1
    assert slope[4] == 0.25
    assert slope[0] == slope[-1] == 0


def test_importing_the_reference_does_not_import_torch() -> None:
    code = "import sys, torchdigits.proof.reference; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_network_starts_from_the_standard_normal_distribution_in_columns() -> None:
    network = Network([784, 30, 10], seed=0)
    assert [w.shape for w in network.weights] == [(30, 784), (10, 30)]
    assert [b.shape for b in network.biases] == [(30, 1), (10, 1)]
    assert abs(network.weights[0].mean()) < 4 / np.sqrt(30 * 784)
    assert abs(network.weights[0].std() - 1) < 4 / np.sqrt(2 * 30 * 784)


def test_a_byte_of_ink_is_a_number_up_to_1() -> None:
    np.testing.assert_array_equal(columns(np.array([[0, 51, 255], [255, 0, 0]], np.uint8)), [[0, 1], [0.2, 0], [1, 0]])


def test_back_propagation_of_a_mini_batch_is_the_sum_over_its_examples() -> None:
    network, rng = Network([6, 5, 4, 3], seed=1), np.random.default_rng(2)
    x, y = rng.random((6, 7)), one_hot(rng.integers(0, 3, 7), 3)
    together = network.backprop(x, y)
    alone = [network.backprop(x[:, [example]], y[:, [example]]) for example in range(7)]
    for kind in (0, 1):
        for layer in range(3):
            total = np.sum([gradients[kind][layer] for gradients in alone], axis=0)
            np.testing.assert_allclose(together[kind][layer], total, rtol=1e-12)


def test_a_neuron_learns_as_worked_out_by_hand() -> None:
    # One neuron, w = 2, b = -1, x = 1, y = 0: z = 1, a = sigmoid(1), dC/dw = dC/db = a * a (1 - a).
    network = Network([1, 1])
    network.weights, network.biases = [np.array([[2.0]])], [np.array([[-1.0]])]
    network.update_mini_batch(np.array([[1.0]]), np.array([[0.0]]), eta=3.0)
    a = 1 / (1 + np.exp(-1))
    assert network.weights[0][0, 0] == pytest.approx(2 - 3 * a * a * (1 - a), rel=1e-14)
    assert network.biases[0][0, 0] == pytest.approx(-1 - 3 * a * a * (1 - a), rel=1e-14)


def test_last_short_mini_batch_is_averaged_over_its_own_size() -> None:
    x, y = np.array([[0.3], [0.9]]), np.array([[1.0]])
    whole, short = Network([2, 1], seed=3), Network([2, 1], seed=3)
    whole.gradient_descent(x, y, epochs=1, mini_batch_size=1, eta=3.0)
    short.gradient_descent(x, y, epochs=1, mini_batch_size=10, eta=3.0)
    np.testing.assert_array_equal(whole.weights[0], short.weights[0])


def test_an_epoch_takes_every_example_once_in_a_new_order(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[np.ndarray] = []
    monkeypatch.setattr(Network, "update_mini_batch", lambda self, x, y, eta: taken.append(x[0]))
    Network([1, 1], seed=0).gradient_descent(
        np.arange(25.0)[np.newaxis], np.zeros((1, 25)), epochs=2, mini_batch_size=10, eta=1.0
    )
    assert [len(batch) for batch in taken] == [10, 10, 5] * 2
    first, second = np.concatenate(taken[:3]), np.concatenate(taken[3:])
    assert sorted(first) == sorted(second) == list(range(25))
    assert list(first) != list(second) != list(range(25))


def test_it_learns_to_read_digits_and_tells_after_each_epoch(digits: DigitSplits) -> None:
    training, _, test = digits
    network, told = Network(seed=0), []
    x, labels = columns(test.images.numpy()), test.labels.numpy()
    network.gradient_descent(
        columns(training.images.numpy()),
        one_hot(training.labels.numpy()),
        epochs=5,
        mini_batch_size=10,
        eta=3.0,
        after_epoch=lambda epoch: told.append((epoch, network.evaluate(x, labels))),
    )
    assert [epoch for epoch, _ in told] == [0, 1, 2, 3, 4]
    assert told[4] == (4, network.evaluate(x, labels))
    assert told[4][1] > 200
