"""What scripts/benchmark.py times from the shell to the test accuracy: a plain program each, in a process of its own.

They train 784-30-10 on the same mini-batches, keep the network with the most validation images, and print how many
test images it recognises. Each imports what it needs, and reads the data as its users would.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

SIZES, LEARNING_RATE, BATCH_SIZE = (784, 30, 10), 3.0, 10
Part = tuple[Any, Any]  # images (N, 784), bytes, and labels (N,)


def read(dataset: str, folder: str) -> tuple[Part, Part, Part]:
    """Training, validation and test."""
    if dataset == "digits":
        from torchdigits.data.datasets import embedded_digits

        training, validation, test = ((part.images.numpy(), part.labels.numpy()) for part in embedded_digits())
        return training, validation, test
    raw = Path(folder, "MNIST", "raw")
    images, labels = (np.fromfile(raw / f"train-{name}-ubyte", np.uint8) for name in ("images-idx3", "labels-idx1"))
    images, labels = images[16:].reshape(-1, 784), labels[8:].astype(np.int64)
    tests = (np.fromfile(raw / f"t10k-{name}-ubyte", np.uint8) for name in ("images-idx3", "labels-idx1"))
    test_images, test_labels = tests
    test = test_images[16:].reshape(-1, 784), test_labels[8:].astype(np.int64)
    return (images[:50_000], labels[:50_000]), (images[50_000:], labels[50_000:]), test


def orders(count: int, epochs: int) -> Iterator[Any]:
    for epoch in range(epochs):
        yield np.random.default_rng((0, epoch)).permutation(count)


def first_weights() -> list[Any]:
    random = np.random.default_rng(0)
    shapes = [shape for size, outputs in pairwise(SIZES) for shape in ((outputs, size), (outputs,))]
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes]


def numpy_by_example(training: Part, validation: Part, test: Part, epochs: int) -> int:
    """As the original, an example at a time."""
    from torchdigits.proof.reference import Network, columns, one_hot

    network = Network(list(SIZES))
    x, y = columns(training[0]), one_hot(training[1])
    (held, held_labels), (tests, test_labels) = ((columns(images), labels) for images, labels in (validation, test))
    most, tested = -1, 0
    for order in orders(len(training[1]), epochs):
        for start in range(0, len(order), BATCH_SIZE):
            chosen = order[start : start + BATCH_SIZE]
            nablas = [network.backprop(x[:, i, None], y[:, i, None]) for i in chosen]
            for place in range(len(network.weights)):
                network.weights[place] -= LEARNING_RATE / len(chosen) * sum(nabla_w[place] for nabla_w, _ in nablas)
                network.biases[place] -= LEARNING_RATE / len(chosen) * sum(nabla_b[place] for _, nabla_b in nablas)
        if (correct := network.evaluate(held, held_labels)) > most:
            most, tested = correct, network.evaluate(tests, test_labels)
    return tested


def pytorch(training: Part, validation: Part, test: Part, epochs: int) -> int:
    """A loop of autograd and torch.optim.SGD on tensors in memory."""
    import torch
    from torch import nn

    torch.set_num_threads(1)  # more are slower here
    layers = [part for pair in pairwise(SIZES) for part in (nn.Linear(*pair), nn.Sigmoid())]
    network = nn.Sequential(*layers)
    for parameter, value in zip(network.parameters(), first_weights(), strict=True):
        parameter.data = torch.from_numpy(value)
    parts = [
        (torch.from_numpy(images) / 255, torch.from_numpy(labels)) for images, labels in (training, validation, test)
    ]
    (images, labels), *held_out = parts
    targets = nn.functional.one_hot(labels, SIZES[-1]).float()
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)
    most, tested = -1, 0
    for order in orders(len(labels), epochs):
        for chosen in torch.split(torch.from_numpy(order), BATCH_SIZE):
            optimizer.zero_grad()
            cost = (network(images[chosen]) - targets[chosen]).square().sum() / (2 * len(chosen))
            cost.backward()
            optimizer.step()
        with torch.no_grad():
            counts = [int((network(x).argmax(1) == truth).sum()) for x, truth in held_out]
        if counts[0] > most:
            most, tested = counts
    return tested


def lightning(training: Part, validation: Part, test: Part, epochs: int) -> int:
    """As Lightning's examples show it: torchvision's transform and a DataLoader, an image at a time."""
    import lightning as L
    import torch
    from lightning.pytorch.callbacks import ModelCheckpoint
    from torch import nn
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms.functional import to_tensor

    class Images(Dataset):  # type: ignore[type-arg]
        def __init__(self, part: Part) -> None:
            self.images, self.labels = part

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return to_tensor(self.images[index].reshape(28, 28, 1)), int(self.labels[index])

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 30), nn.Sigmoid(), nn.Linear(30, 10), nn.Sigmoid())
            for parameter, value in zip(self.layers.parameters(), first_weights(), strict=True):
                parameter.data = torch.from_numpy(value)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            images, labels = batch
            targets = nn.functional.one_hot(labels, SIZES[-1])
            cost = (self.layers(images) - targets).square().sum() / (2 * len(labels))
            self.log("training_cost", cost)
            return cost

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            images, labels = batch
            self.log("accuracy", (self.layers(images).argmax(1) == labels).float().mean())

        test_step = validation_step

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE)

    module, loader = Module(), partial(DataLoader[Any], batch_size=1000)
    best = ModelCheckpoint(monitor="accuracy", mode="max")
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, callbacks=[best], enable_model_summary=False
    )
    trainer.fit(module, DataLoader(Images(training), batch_size=BATCH_SIZE, shuffle=True), loader(Images(validation)))
    (found,) = trainer.test(module, loader(Images(test)), ckpt_path="best", verbose=False)
    return round(found["accuracy"] * len(test[1]))


def jax(training: Part, validation: Part, test: Part, epochs: int, networks: int = 0) -> int:
    """`jit` of a scan that gathers bytes; with several networks, of its vmap."""
    import jax
    import jax.numpy as jnp

    held, state = tuple(map(jnp.asarray, training)), [jnp.asarray(value) for value in first_weights()]

    def outputs(state: Any, images: Any) -> Any:
        activations = images.astype(jnp.float32) / 255
        for weights, biases in zip(state[0::2], state[1::2], strict=True):
            activations = jax.nn.sigmoid(activations @ weights.T + biases)
        return activations

    def cost(state: Any, images: Any, labels: Any) -> Any:
        return jnp.sum((outputs(state, images) - jax.nn.one_hot(labels, SIZES[-1])) ** 2) / (2 * len(images))

    def update(state: Any, chosen: Any, held: Any) -> Any:
        gradients = jax.grad(cost)(state, held[0][chosen], held[1][chosen])
        return jax.tree.map(lambda value, gradient: value - LEARNING_RATE * gradient, state, gradients)

    def recognised(state: Any, images: Any, labels: Any) -> Any:
        return (outputs(state, images).argmax(1) == labels).sum()

    updates, count = update, jax.jit(recognised)
    if networks:
        state = [jnp.stack([value] * networks) for value in state]
        updates = jax.vmap(update, in_axes=(0, 0, None))
        count = jax.jit(jax.vmap(recognised, in_axes=(0, None, None)))

    def scan(state: Any, held: Any, order: Any) -> Any:
        return jax.lax.scan(lambda state, chosen: (updates(state, chosen, held), None), state, order)[0]

    train, most, tested = jax.jit(scan), -1, 0
    full = len(training[1]) // BATCH_SIZE * BATCH_SIZE
    for order in orders(len(training[1]), epochs):
        parts = [order[:full].reshape(-1, BATCH_SIZE), *([order[None, full:]] if full < len(order) else [])]
        for part in parts:
            state = train(state, held, np.repeat(part[:, None], networks, 1) if networks else part)
        counts = [np.ravel(count(state, *part)) for part in (validation, test)]
        if counts[0][0] > most:
            most, tested = int(counts[0][0]), int(counts[1][0])
    return tested


PROGRAMS: dict[str, Callable[..., int]] = {
    "numpy-example": numpy_by_example,
    "lightning": lightning,
    "pytorch": pytorch,
    "jax": jax,
    "jax-vmap": partial(jax, networks=32),
}

if __name__ == "__main__":
    program, dataset, folder, epochs = sys.argv[1:]
    splits = read(dataset, folder)
    print(f"Test: {PROGRAMS[program](*splits, int(epochs))} / {len(splits[2][1])}")
