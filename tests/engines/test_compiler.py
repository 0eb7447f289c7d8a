from functools import partial

import numpy as np
import pytest
import torch

from torchdigits import SigmoidMLP, sgd
from torchdigits.engines import compiler
from torchdigits.engines.library import Building
from torchdigits.proof.gradients import reference_of, relative_error
from torchdigits.proof.reference import columns, one_hot


def random_block(sizes: tuple[int, ...], mini_batches: int, m: int, device: str = "cpu") -> compiler.Block:
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(256, (mini_batches, m, sizes[0]), generator=generator, dtype=torch.uint8)
    return images.to(device), torch.randint(sizes[-1], (mini_batches, m), generator=generator).to(device)


def rate(learning_rate: float, dtype: torch.dtype = torch.float32, device: str = "cpu") -> compiler.Held:
    return (torch.tensor(learning_rate, dtype=dtype, device=device),)


def parameters_of(network: SigmoidMLP) -> sgd.Parameters:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("sizes", [(784, 30, 10), (20, 10), (20, 7, 9, 4)])
def test_an_update_is_the_references(sizes: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    network = SigmoidMLP(sizes).double()
    twin = reference_of(network)
    (images,), (labels,) = random_block(sizes, 1, 10)
    activations_before = network(images / torch.tensor(255.0).double())
    updated, activations = sgd.sgd_step(
        network, 3.0, parameters_of(network), (images.double() / 255, torch.eye(sizes[-1]).double()[labels])
    )
    twin.update_mini_batch(columns(images.numpy()), one_hot(labels.numpy(), sizes[-1]), 3.0)
    for layer, (weights, biases) in enumerate(zip(twin.weights, twin.biases, strict=True)):
        assert relative_error(updated[f"layers.{layer}.weight"], weights) < 1e-13
        assert relative_error(updated[f"layers.{layer}.bias"], biases[:, 0]) < 1e-13
    torch.testing.assert_close(activations, activations_before, rtol=1e-13, atol=0)


# Mini-batches and layers on both sides of the sizes at which products are written out.
@pytest.mark.parametrize(
    ("sizes", "mini_batches", "m", "dtype", "tolerance"),
    [
        pytest.param((80, 17, 16, 4), 12, 17, torch.float64, 1e-13, marks=pytest.mark.slow),
        ((784, 30, 10), 121, 10, torch.float32, 2e-5),  # as for the embedded digits: other tests compile that too
    ],
)
def test_a_compiled_block_is_its_updates(
    sizes: tuple[int, ...], mini_batches: int, m: int, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(3)
    network = SigmoidMLP(sizes).to(dtype)
    block, update = random_block(sizes, mini_batches, m), compiler.NetworkUpdate(sizes)
    train = Building(update, parameters_of(network), block, rate(1.0, dtype)).library()
    with torch.no_grad():
        for learning_rate in (0.3, 1.0):  # at 3, differences in rounding grow a hundredfold on these images
            held = rate(learning_rate, dtype)
            expected, expected_activations = compiler.sgd_loop(update, parameters_of(network), block, held)
            for _ in range(2):
                updated, activations = train(parameters_of(network), block, held)
                assert activations.shape == (mini_batches, m, sizes[-1])
                assert relative_error(activations, expected_activations) < tolerance
                for name, value in expected.items():
                    assert relative_error(updated[name], value) < tolerance, name


@pytest.mark.parametrize("networks", [(), (3,)])
@pytest.mark.parametrize("m", [1, 2, 16, 17])
@pytest.mark.parametrize("k", [1, 16, 17, 64, 65])
@pytest.mark.parametrize("n", [1, 30])
def test_products_written_out_are_products(networks: tuple[int, ...], m: int, k: int, n: int) -> None:
    generator = np.random.default_rng(5)
    left, right = generator.standard_normal((*networks, m, k)), generator.standard_normal((*networks, k, n))
    bias = generator.standard_normal((*networks, 1, n))
    tensors = [torch.from_numpy(array) for array in (bias, left, right)]
    product = compiler._product(*tensors[1:])
    if m > 16 and k > 16:
        assert product is NotImplemented
        assert compiler._product_and_sum(*tensors) is NotImplemented
    else:
        np.testing.assert_allclose(product, left @ right, rtol=0, atol=1e-13)
        np.testing.assert_allclose(compiler._product_and_sum(*tensors), left @ right + bias, rtol=0, atol=1e-13)


@pytest.mark.slow
def test_more_than_eight_updates_can_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight is how often torch compiles the same code anew."""
    compiled = []

    def uncompiled(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        compiled.append(graph)
        return graph

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", partial(torch_compile, backend=uncompiled))
    for neurons in range(1, 10):
        network = SigmoidMLP((5, neurons, 3))
        captured = compiler.CapturedBlock(compiler.NetworkUpdate((5, neurons, 3)))
        first = tuple(tensor[0] for tensor in random_block((5, 3), 2, 2))
        captured._update(parameters_of(network), first, rate(1.0))
    assert len(compiled) == 9


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_a_captured_block_is_its_updates(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(3)
    network = SigmoidMLP().to("cuda", dtype)
    block = random_block((784, 30, 10), 50, 10, "cuda")
    update, held = compiler.NetworkUpdate((784, 30, 10)), rate(3.0, dtype, "cuda")
    train = compiler.CapturedBlock(update)
    expected, loop = parameters_of(network), partial(compiler.sgd_loop, update)
    updated = parameters_of(network)
    with torch.no_grad():
        for _ in range(2):
            expected, expected_activations = loop(expected, block, held)
            updated, activations = train(updated, block, held)
            assert relative_error(activations.cpu(), expected_activations.cpu()) < tolerance
            for name, value in expected.items():
                assert relative_error(updated[name].cpu(), value.cpu()) < tolerance, name
