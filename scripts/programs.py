"""The same network, trained by other programs: plain, as their users would write them, with what they need and no more.

A program takes images `(N, 784)`, bytes, and labels `(N,)`, as arrays, first weights, and the orders of the epochs. It
yields what it has after each. `contenders.py` times their epochs. `whole_runs.py` runs them in processes of their own:

    python scripts/programs.py PROGRAM DATASET FOLDER EPOCHS
"""

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LEARNING_RATE, SEED = 3.0, 0
Part = tuple[Any, Any]  # images and labels


class Trained(NamedTuple):
    """What a program has after an epoch."""

    weights: Callable[[], list[Any]]  # arrays (outputs, inputs) and (outputs,), layer by layer
    recognised: Callable[[Part], int]  # images that it recognises


def numpy_by_example(training: Part, weights: list[Any], orders: Iterable[Any], batch_size: int) -> Iterator[Trained]:
    """As the original: float64, the gradient of one example after the other, summed."""
    from torchdigits.proof.reference import Network, columns, one_hot

    network = Network([*(layer.shape[1] for layer in weights[0::2]), len(weights[-1])])
    network.weights = [layer.astype(np.float64) for layer in weights[0::2]]
    network.biases = [layer.astype(np.float64)[:, None] for layer in weights[1::2]]
    x, y = columns(training[0]), one_hot(training[1])

    def arrays() -> list[Any]:
        return [array for w, b in zip(network.weights, network.biases, strict=True) for array in (w, b[:, 0])]

    for order in orders:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            nablas = [network.backprop(x[:, i, None], y[:, i, None]) for i in chosen.tolist()]
            step = LEARNING_RATE / len(chosen)
            for layer in range(len(network.weights)):
                network.weights[layer] -= step * sum(nabla_w[layer] for nabla_w, _ in nablas)
                network.biases[layer] -= step * sum(nabla_b[layer] for _, nabla_b in nablas)
        yield Trained(arrays, lambda part: network.evaluate(columns(part[0]), part[1]))


def pytorch(
    training: Part, weights: list[Any], orders: Iterable[Any], batch_size: int, device: str = "cpu"
) -> Iterator[Trained]:
    """Autograd and torch.optim.SGD in a loop, on tensors in memory."""
    import torch
    from torch import nn

    network = layers_of(weights).to(device)
    images, labels = torch.from_numpy(training[0]).to(device) / 255, torch.from_numpy(training[1]).to(device)
    targets = nn.functional.one_hot(labels).float()
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)

    def recognised(part: Part) -> int:
        with torch.no_grad():
            outputs = network(torch.from_numpy(part[0]).to(device) / 255)
        return int((outputs.argmax(1).cpu() == torch.from_numpy(part[1])).sum())

    for order in orders:
        for chosen in torch.split(torch.from_numpy(order).to(device), batch_size):
            optimizer.zero_grad()
            cost = (network(images[chosen]) - targets[chosen]).square().sum() / (2 * len(chosen))
            cost.backward()
            optimizer.step()
        yield Trained(lambda: [value.detach().cpu().numpy() for value in network.parameters()], recognised)


def jax(
    training: Part,
    weights: list[Any],
    orders: Iterable[Any],
    batch_size: int,
    gather: bool = True,
    networks: int | None = None,
) -> Iterator[Trained]:
    """`jit` of a `lax.scan` over an epoch's mini-batches.

    Either their bytes are gathered inside the scan, or the epoch is shuffled outside as floats. With a number of
    networks, its vmap: all are the same here, and the first is measured.
    """
    import jax
    import jax.numpy as jnp

    held, state = tuple(map(jnp.asarray, training)), [jnp.asarray(value, jnp.float32) for value in weights]
    floats = None if gather else training[0].astype(np.float32) / 255
    full = len(training[1]) // batch_size * batch_size

    def outputs(state: Any, images: Any) -> Any:
        for layer, biases in zip(state[0::2], state[1::2], strict=True):
            images = jax.nn.sigmoid(images @ layer.T + biases)
        return images

    def cost(state: Any, images: Any, labels: Any) -> Any:
        return jnp.sum((outputs(state, images) - jax.nn.one_hot(labels, len(weights[-1]))) ** 2) / (2 * len(images))

    def update(state: Any, images: Any, labels: Any) -> Any:
        gradients = jax.grad(cost)(state, images, labels)
        return jax.tree.map(lambda value, gradient: value - LEARNING_RATE * gradient, state, gradients)

    def gathering(state: Any, chosen: Any, held: Any) -> Any:
        return update(state, held[0][chosen].astype(jnp.float32) / 255, held[1][chosen])

    def correct(state: Any, images: Any, labels: Any) -> Any:
        return (outputs(state, images.astype(jnp.float32) / 255).argmax(1) == labels).sum()

    def arrays(state: Any) -> list[Any]:
        return [np.asarray(value) for value in state]

    def recognised(state: Any, part: Part) -> int:
        return int(count(state, *part))

    if networks is not None:
        state = [jnp.stack([value] * networks) for value in state]
        gathering = jax.vmap(gathering, in_axes=(0, 0, None))
    one = (lambda state: state) if networks is None else (lambda state: [value[0] for value in state])
    scan = jax.jit(
        lambda state, held, order: jax.lax.scan(lambda s, chosen: (gathering(s, chosen, held), None), state, order)[0]
    )
    scan_floats = jax.jit(
        lambda state, epoch: jax.lax.scan(lambda s, mini_batch: (update(s, *mini_batch), None), state, epoch)[0]
    )
    count = jax.jit(correct)
    for order in orders:
        for part in (order[:full].reshape(-1, batch_size), order[None, full:]):
            if not part.size:
                continue
            if floats is None:
                state = scan(state, held, part if networks is None else np.repeat(part[:, None], networks, 1))
            else:
                state = scan_floats(state, (floats[part.ravel()].reshape(*part.shape, -1), training[1][part]))
        jax.block_until_ready(state)  # type: ignore[no-untyped-call,unused-ignore]
        yield Trained(partial(arrays, one(state)), partial(recognised, one(state)))


def layers_of(weights: list[Any]) -> Any:
    """A torch module of these layers."""
    import torch
    from torch import nn

    network = nn.Sequential()
    for layer, biases in zip(weights[0::2], weights[1::2], strict=True):
        linear = nn.Linear(*reversed(layer.shape))
        linear.weight.data, linear.bias.data = torch.tensor(layer), torch.tensor(biases)
        network.extend((linear, nn.Sigmoid()))
    return network


def lightning_parts(weights: list[Any]) -> tuple[Any, Callable[[Part], Any]]:
    """A LightningModule as Lightning's examples show it, and what makes a dataset for it, an image at a time."""
    import lightning as L
    import torch
    from torch import nn
    from torchvision.datasets import VisionDataset
    from torchvision.transforms.functional import to_tensor

    class Images(VisionDataset):  # type: ignore[misc]
        """As torchvision's MNIST gives its images: from an array to a Pillow image to a tensor."""

        def __init__(self, part: Part) -> None:
            super().__init__("", transform=to_tensor)
            self.images, self.labels = part

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            from PIL import Image

            picture = Image.fromarray(self.images[index].reshape(28, 28))
            assert self.transform is not None
            return self.transform(picture), int(self.labels[index])

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Sequential(nn.Flatten(), *layers_of(weights))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            images, labels = batch
            targets = nn.functional.one_hot(labels, len(weights[-1]))
            cost = (self.network(images) - targets).square().sum() / (2 * len(labels))
            self.log("training_cost", cost)
            return cost

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            images, labels = batch
            self.log("accuracy", (self.network(images).argmax(1) == labels).float().mean())

        test_step = validation_step

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE)

    return Module(), Images


def lightning_run(training: Part, validation: Part, test: Part, weights: list[Any], epochs: int) -> int:
    """A whole run, with the checkpoint of the best epoch; the test images that it recognises."""
    import lightning as L
    from lightning.pytorch.callbacks import ModelCheckpoint
    from torch.utils.data import DataLoader

    module, images = lightning_parts(weights)
    best, loader = ModelCheckpoint(monitor="accuracy", mode="max"), partial(DataLoader[Any], batch_size=1000)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, callbacks=[best], default_root_dir=folder
        )
        trainer.fit(module, DataLoader(images(training), batch_size=10, shuffle=True), loader(images(validation)))
        (found,) = trainer.test(module, loader(images(test)), ckpt_path="best", verbose=False)
    return round(found["accuracy"] * len(test[1]))


def whole_run(program: Any, training: Part, validation: Part, test: Part, weights: list[Any], epochs: int) -> int:
    """A whole run, validated after each epoch; the test images that the best network recognises."""
    orders = (np.random.default_rng((SEED, epoch)).permutation(len(training[1])) for epoch in range(epochs))
    most, tested = -1, 0
    for trained in program(training, weights, orders, 10):
        if (correct := trained.recognised(validation)) > most:
            most, tested = correct, trained.recognised(test)
    return tested


def read(dataset: str, folder: str) -> tuple[Part, Part, Part]:
    """Training, validation and test, as the original splits MNIST."""
    if dataset == "digits":
        from torchdigits.data.datasets import embedded_digits

        training, validation, test = ((part.images.numpy(), part.labels.numpy()) for part in embedded_digits())
        return training, validation, test
    contents = []
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        content = np.fromfile(Path(folder, "MNIST", "raw", f"{name}-ubyte"), np.uint8)
        contents.append(content[16:].reshape(-1, 784) if "images" in name else content[8:].astype(np.int64))
    images, labels, *tests = contents
    return (images[:50_000], labels[:50_000]), (images[50_000:], labels[50_000:]), (tests[0], tests[1])


def first_weights(sizes: tuple[int, ...] = (784, 30, 10)) -> list[Any]:
    random = np.random.default_rng(SEED)
    shapes = [shape for inputs, outputs in pairwise(sizes) for shape in ((outputs, inputs), (outputs,))]
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes]


WHOLE_RUNS: dict[str, Callable[..., int]] = {
    "numpy-example": partial(whole_run, numpy_by_example),
    "lightning": lightning_run,
    "pytorch": partial(whole_run, pytorch),
    "jax": partial(whole_run, jax),
    "jax-vmap": partial(whole_run, partial(jax, networks=32)),
}

if __name__ == "__main__":
    name, dataset, folder, epochs = sys.argv[1:]
    splits = read(dataset, folder)
    print(f"Test: {WHOLE_RUNS[name](*splits, first_weights(), int(epochs))} / {len(splits[2][1])}")
