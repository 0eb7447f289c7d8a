"""What scripts/benchmark.py lets compete: the same network, trained in several programs, a function each."""

import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

LEARNING_RATE, BATCH_SIZE, SEED = 3.0, 10, 0


class Run(NamedTuple):
    """A contender, compiled and ready."""

    epoch: Callable[[int], float | None]  # train the epoch of this number; seconds, where it measures them itself
    weights: Callable[[], list[Any]]  # as they are now: arrays (outputs, inputs) and (outputs,), layer by layer
    compile_seconds: float | None = None


class Setting(NamedTuple):
    """What all contenders have in common: the data, the first weights, and where to train."""

    splits: Any
    network: Any
    device: str
    folder: Path

    def order(self, epoch: int) -> Any:  # of the epoch's images, (N,)
        from torchdigits.data.batches import epoch_order

        return epoch_order(len(self.splits.training.labels), SEED, epoch)

    def mini_batches(self, epoch: int) -> Any:
        return self.order(epoch).split(BATCH_SIZE)


def lightning_example(setting: Setting) -> Run:
    """A torchvision dataset, transformed and collated an image at a time; a metric logged in every step."""
    import lightning as L
    import torch
    from torchvision.datasets import VisionDataset
    from torchvision.transforms.functional import to_tensor

    from torchdigits.network import quadratic_cost

    class Images(VisionDataset):  # type: ignore[misc]
        """As torchvision's MNIST gives its images: from an array to a Pillow image to a tensor."""

        def __init__(self) -> None:
            super().__init__("", transform=to_tensor)

        def __len__(self) -> int:
            return len(setting.splits.training.labels)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            from PIL import Image

            images, labels = setting.splits.training
            picture = Image.fromarray(images[index].view(28, 28).numpy())
            assert self.transform is not None
            return self.transform(picture), int(labels[index])

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = deepcopy(setting.network)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            images, labels = batch
            cost = quadratic_cost(self.network(images.flatten(1)), labels)
            self.log("training_cost", cost)
            return cost

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE)

    module = Module()
    generator = torch.Generator().manual_seed(SEED)
    loader: Any = torch.utils.data.DataLoader(Images(), batch_size=BATCH_SIZE, shuffle=True, generator=generator)
    fit = trainer(setting, [])
    return Run(partial(fit, module, loader), lambda: arrays(module.network))


def numpy_by_example(setting: Setting) -> Run:
    """As the original: float64, the gradient of one example after the other, summed."""
    from torchdigits.proof import gradients, reference

    twin = gradients.reference_of(setting.network)
    x = reference.columns(setting.splits.training.images.numpy())
    y = reference.one_hot(setting.splits.training.labels.numpy())

    def epoch(number: int) -> None:
        for chosen in setting.mini_batches(number):
            nabla_w, nabla_b = zip(*(twin.backprop(x[:, i, None], y[:, i, None]) for i in chosen.tolist()), strict=True)
            step = LEARNING_RATE / len(chosen)
            sums_w, sums_b = ([sum(layer) for layer in zip(*nablas, strict=True)] for nablas in (nabla_w, nabla_b))
            twin.weights = [w - step * nabla for w, nabla in zip(twin.weights, sums_w, strict=True)]
            twin.biases = [b - step * nabla for b, nabla in zip(twin.biases, sums_b, strict=True)]

    return Run(epoch, lambda: [*gradients.parameters_of(twin).values()])


def numpy_by_mini_batch(setting: Setting) -> Run:
    """The reference in float32, its matrix products over a mini-batch."""
    import numpy as np

    from torchdigits.proof import gradients, reference

    twin = gradients.reference_of(setting.network)
    weights, biases = ([a.astype(np.float32) for a in values] for values in (twin.weights, twin.biases))
    twin.weights, twin.biases = cast("list[reference.Array]", weights), cast("list[reference.Array]", biases)
    images = reference.columns(setting.splits.training.images.numpy()).T.astype(np.float32)
    targets = reference.one_hot(setting.splits.training.labels.numpy()).T.astype(np.float32)

    def epoch(number: int) -> None:
        for chosen in setting.mini_batches(number):
            twin.update_mini_batch(images[chosen.numpy()].T, targets[chosen.numpy()].T, LEARNING_RATE)

    return Run(epoch, lambda: [*gradients.parameters_of(twin).values()])


def pytorch_loop(setting: Setting) -> Run:
    """Autograd and torch.optim.SGD in a loop, on tensors in memory."""
    import torch

    from torchdigits.network import quadratic_cost

    network = deepcopy(setting.network).to(setting.device)
    images = setting.splits.training.images.to(setting.device).float() / 255
    labels = setting.splits.training.labels.to(setting.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)

    def epoch(number: int) -> None:
        order = setting.order(number).to(setting.device)
        for chosen in order.split(BATCH_SIZE):
            optimizer.zero_grad()
            cost: Any = quadratic_cost(network(images[chosen]), labels[chosen])
            cost.backward()
            optimizer.step()

    return Run(epoch, lambda: arrays(network))


def engine(setting: Setting, *, compiled: bool) -> Run:
    """An engine of torchdigits in Lightning's Trainer, with validation and two checkpoints an epoch, as in train.py."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    from torchdigits import CompiledDigitClassifier, DigitClassifier, DigitsDataModule
    from torchdigits.data.batches import Blocks
    from torchdigits.engines.choice import BLOCK_SIZE

    kind = CompiledDigitClassifier if compiled else DigitClassifier
    classifier = kind(setting.network.sizes, LEARNING_RATE)
    classifier.network.load_state_dict(setting.network.state_dict())
    module = DigitsDataModule(setting.splits, None, BATCH_SIZE, SEED, BLOCK_SIZE if compiled else None)
    compile_seconds = None
    if isinstance(classifier, CompiledDigitClassifier):
        classifier.to(setting.device)
        first = Blocks(setting.splits.training, BATCH_SIZE, SEED, setting.device, BLOCK_SIZE).first()
        compile_seconds = seconds(setting, single(lambda: classifier.compile_for(first)))
    best = ModelCheckpoint(setting.folder, f"{kind.__name__}-best", monitor="validation_accuracy", mode="max")
    last = ModelCheckpoint(setting.folder, f"{kind.__name__}-last", enable_version_counter=False)
    fit = trainer(setting, [best, last])
    return Run(single(partial(fit, classifier, module)), lambda: arrays(classifier.network), compile_seconds)


def compiled_loop(setting: Setting) -> Run:
    """The compiled engine's blocks without the Trainer: nothing but the updates."""
    import torch

    from torchdigits import CompiledDigitClassifier
    from torchdigits.data.batches import Blocks
    from torchdigits.engines.choice import BLOCK_SIZE

    classifier = CompiledDigitClassifier(setting.network.sizes, LEARNING_RATE)
    classifier.network.load_state_dict(setting.network.state_dict())
    classifier.to(setting.device)
    blocks = Blocks(setting.splits.training, BATCH_SIZE, SEED, setting.device, BLOCK_SIZE)
    parameters = parameters_of(classifier.network)

    @torch.no_grad()
    def epoch(number: int) -> None:
        nonlocal parameters
        blocks.set_epoch(number)
        for block in blocks:
            parameters, _ = classifier.train_block(parameters, block)

    compile_seconds = seconds(setting, single(lambda: classifier.compile_for(blocks.first())))
    return Run(single(epoch), lambda: [value.cpu().numpy() for value in parameters.values()], compile_seconds)


def jax_scan(setting: Setting, *, gather: bool) -> Run:
    """`jit` of a `lax.scan` over an epoch's mini-batches.

    Either of floats shuffled outside, the usual way, or with the bytes of a mini-batch gathered inside the scan.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    training = setting.splits.training
    full = len(training.labels) // BATCH_SIZE * BATCH_SIZE
    pixels, labels = training.images.numpy(), training.labels.numpy().astype(np.int32)
    images = pixels.astype(np.float32) / 255
    state = [jnp.asarray(value) for value in arrays(setting.network)]

    def cost(state: Any, images: Any, labels: Any) -> Any:
        for weights, biases in zip(state[0::2], state[1::2], strict=True):
            images = jax.nn.sigmoid(images @ weights.T + biases)
        return jnp.sum((images - jax.nn.one_hot(labels, images.shape[1])) ** 2) / (2 * len(images))

    def update(state: Any, mini_batch: Any) -> tuple[Any, None]:
        gradients = jax.grad(cost)(state, *mini_batch)
        return jax.tree.map(lambda value, gradient: value - LEARNING_RATE * gradient, state, gradients), None

    held = jnp.asarray(pixels), jnp.asarray(labels)

    def gathered(held: Any, chosen: Any) -> Any:
        return held[0][chosen].astype(jnp.float32) / 255, held[1][chosen]

    scan = jax.jit(lambda state, mini_batches: jax.lax.scan(update, state, mini_batches)[0])
    gathering_scan = jax.jit(
        lambda state, held, order: jax.lax.scan(lambda s, chosen: update(s, gathered(held, chosen)), state, order)[0]
    )

    def epoch(number: int) -> None:
        nonlocal state
        order = setting.order(number).numpy()
        chosen, rest = order[:full].reshape(-1, BATCH_SIZE), order[full:]
        if gather:
            state = gathering_scan(state, held, chosen)
        else:
            state = scan(state, (images[chosen.ravel()].reshape(*chosen.shape, -1), labels[chosen]))
        if len(rest):
            state, _ = update(state, (images[rest], labels[rest]))
        jax.block_until_ready(state)  # type: ignore[no-untyped-call,unused-ignore]

    start = time.perf_counter()
    order = setting.order(0).numpy()[:full].reshape(-1, BATCH_SIZE)
    if gather:
        gathering_scan.lower(state, held, order).compile()
    else:
        scan.lower(state, (np.zeros((*order.shape, images.shape[1]), np.float32), labels[order])).compile()
    return Run(epoch, lambda: [np.asarray(value) for value in state], time.perf_counter() - start)


def single(work: Callable[..., Any]) -> Callable[..., Any]:
    """The same, with torch's settings of a run: one thread, for one."""

    def alone(*arguments: Any) -> Any:
        import torch

        from torchdigits.engines.machine import torch_settings

        with torch_settings(0, torch.float32):
            return work(*arguments)

    return alone


def seconds(setting: Setting, work: Callable[[], Any]) -> float:
    """How long it takes; or what it says itself, if that is a number."""
    import torch

    began = time.perf_counter()
    answer = work()
    if setting.device == "cuda":
        torch.cuda.synchronize()
    return answer if isinstance(answer, float) else time.perf_counter() - began


def trainer(setting: Setting, callbacks: list[Any]) -> Callable[[Any, Any, int], float]:
    """A function that trains a module for the epoch of a number, and gives the seconds from its start to its end."""
    import lightning as L

    class Clock(L.Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            self.began = time.perf_counter()

        def on_train_end(self, *_: Any) -> None:
            self.ended = time.perf_counter()

    clock = Clock()
    trainer = L.Trainer(
        accelerator="gpu" if setting.device == "cuda" else "cpu",
        devices=1,
        callbacks=[clock, *callbacks],
        logger=False,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )

    def fit(module: Any, data: Any, number: int) -> float:
        trainer.fit_loop.max_epochs = number + 1
        trainer.fit(module, data)
        return clock.ended - clock.began

    return fit


def arrays(network: Any) -> list[Any]:
    return [parameter.detach().cpu().numpy().copy() for parameter in network.parameters()]


def parameters_of(network: Any) -> dict[str, Any]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
