import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit

from torchdigits import SigmoidMLP, quadratic_cost
from torchdigits.errors import OptionError


def test_parameters_come_layer_by_layer_weights_before_biases() -> None:
    shapes = [tuple(parameter.shape) for parameter in SigmoidMLP([784, 30, 20, 10]).parameters()]
    assert shapes == [(30, 784), (30,), (20, 30), (20,), (10, 20), (10,)]


def test_weights_and_biases_start_from_the_standard_normal_distribution() -> None:
    torch.manual_seed(0)
    network = SigmoidMLP([784, 30, 500])
    for parameter in network.parameters():
        assert stats.kstest(parameter.detach().numpy().ravel(), "norm").pvalue > 0.001


def test_a_network_computes_what_its_formula_says() -> None:
    network = SigmoidMLP([5, 4, 3]).double()
    images = torch.rand(7, 5, dtype=torch.float64)
    w1, b1, w2, b2 = (parameter.detach().numpy() for parameter in network.parameters())
    hidden = expit(images.numpy() @ w1.T + b1)
    output = expit(hidden @ w2.T + b2)
    np.testing.assert_allclose(network(images).detach().numpy(), output, rtol=1e-13)

    weighted_inputs, activations = network.forward_pass(images)
    assert [tuple(z.shape) for z in weighted_inputs] == [(7, 4), (7, 3)]
    assert activations[0] is images
    np.testing.assert_allclose(activations[1].detach().numpy(), hidden, rtol=1e-13)
    assert torch.equal(activations[2], network(images))


@pytest.mark.parametrize("sizes", [[], [784], [784, 0, 10], [784, -3, 10]])
def test_sizes_that_make_no_network_are_refused(sizes: list[int]) -> None:
    with pytest.raises(OptionError, match="layer sizes"):
        SigmoidMLP(sizes)


def test_layers_of_one_neuron_make_a_network() -> None:
    network = SigmoidMLP([1, 1])
    assert network.sizes == (1, 1)
    assert network(torch.zeros(3, 1)).shape == (3, 1)


@pytest.mark.parametrize("neurons", [2**50, 2**62, 2**64])
def test_more_neurons_than_memory_can_hold_are_one_line(neurons: int) -> None:
    sizes = [neurons, neurons]
    with pytest.raises(
        OptionError, match=rf"^layer sizes \[{neurons}, {neurons}\]: more neurons than memory can hold$"
    ):
        SigmoidMLP(sizes)


def test_quadratic_cost_is_half_the_squared_distance_averaged_over_examples() -> None:
    activations = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    targets = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    # by hand: (0.25 + 0.25) / 2 = 0.25 and (1 + 1) / 2 = 1, so their mean is 0.625
    assert quadratic_cost(activations, targets).item() == 0.625
    assert quadratic_cost(activations, torch.tensor([1, 1])).item() == 0.625
    assert quadratic_cost(activations[1:], targets[1:]).item() == 1


def test_targets_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        quadratic_cost(torch.rand(10, 10), torch.rand(10))
    with pytest.raises(ValueError, match="do not fit"):
        quadratic_cost(torch.rand(10, 10), torch.rand(10, 1))


def test_the_cost_of_half_precision_activations_is_not_rounded_to_half_precision() -> None:
    activations = torch.full((1000, 10), 0.1).bfloat16()
    targets = torch.zeros(1000, 10)
    wanted = 10 * float(activations[0, 0]) ** 2 / 2
    assert quadratic_cost(activations, targets).item() == pytest.approx(wanted, rel=1e-5)
    labels = torch.zeros(1000, dtype=torch.int64)
    wanted += (1 - 2 * float(activations[0, 0])) / 2
    assert quadratic_cost(activations, labels).item() == pytest.approx(wanted, rel=1e-5)


def test_an_empty_mini_batch_costs_nothing_and_has_no_gradient() -> None:
    network = SigmoidMLP([4, 2])
    cost = quadratic_cost(network(torch.empty(0, 4)), torch.empty(0, dtype=torch.int64))
    cost.backward()  # type: ignore[no-untyped-call]
    assert cost.item() == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in network.parameters())
