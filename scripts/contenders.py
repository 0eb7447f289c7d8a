"""What scripts/benchmark.py lets compete: the same network, trained in several programs, a function each."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, cast

from programs import LEARNING_RATE, SEED, Trained, lightning_parts


class Run(NamedTuple):
    """A contender, compiled and ready."""

    epoch: Callable[[int], float | None]  # train the epoch of this number; seconds, where it measures them itself
    weights: Callable[[], list[Any]]  # as they are now: arrays (outputs, inputs) and (outputs,), layer by layer
    compile_seconds: float | None = None


class Setting(NamedTuple):
    """What all contenders have in common: the data, the first weights, and where to train."""

    splits: Any
    network: Any
    batch_size: int
    device: str
    folder: Path

    def order(self, epoch: int) -> Any:  # of the epoch's images, (N,)
        from torchdigits.data.batches import epoch_order

        return epoch_order(len(self.splits.training.labels), SEED, epoch)

    def mini_batches(self, epoch: int) -> Any:
        return self.order(epoch).split(self.batch_size)


def plain(program: Callable[..., Iterator[Trained]], setting: Setting) -> Run:
    """One of `programs.py`, an epoch at a time."""
    training = setting.splits.training
    orders = (setting.order(number).numpy() for number in count())
    runs = program(
        (training.images.numpy(), training.labels.numpy()), arrays(setting.network), orders, setting.batch_size
    )
    trained: list[Trained] = []

    def epoch(number: int) -> None:
        trained[:] = [next(runs)]

    return Run(epoch, lambda: trained[0].weights())


def lightning_example(setting: Setting) -> Run:
    """A torchvision dataset, transformed and collated an image at a time; a metric logged in every step."""
    import torch

    training = setting.splits.training
    module, images = lightning_parts(arrays(setting.network))
    part = images((training.images.numpy(), training.labels.numpy()))
    generator = torch.Generator().manual_seed(SEED)
    loader: Any = torch.utils.data.DataLoader(part, setting.batch_size, shuffle=True, generator=generator)
    fit = trainer(setting, [])
    return Run(partial(fit, module, loader), lambda: arrays(module.network))


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


def engine(setting: Setting, *, compiled: bool) -> Run:
    """An engine of torchdigits in Lightning's Trainer, with validation and two checkpoints an epoch, as in train.py."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    from torchdigits import CompiledDigitClassifier, DigitClassifier, DigitsDataModule
    from torchdigits.data.batches import Blocks
    from torchdigits.engines.choice import BLOCK_SIZE

    kind = CompiledDigitClassifier if compiled else DigitClassifier
    classifier = kind(setting.network.sizes, LEARNING_RATE)
    classifier.network.load_state_dict(setting.network.state_dict())
    module = DigitsDataModule(setting.splits, None, setting.batch_size, SEED, BLOCK_SIZE if compiled else None)
    compile_seconds = None
    if isinstance(classifier, CompiledDigitClassifier):
        classifier.to(setting.device)
        first = Blocks(setting.splits.training, setting.batch_size, SEED, setting.device, BLOCK_SIZE).first()
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
    blocks = Blocks(setting.splits.training, setting.batch_size, SEED, setting.device, BLOCK_SIZE)
    parameters = parameters_of(classifier.network)

    @torch.no_grad()
    def epoch(number: int) -> None:
        nonlocal parameters
        blocks.set_epoch(number)
        for block in blocks:
            parameters, _ = classifier.train_block(parameters, block)

    compile_seconds = seconds(setting, single(lambda: classifier.compile_for(blocks.first())))
    return Run(single(epoch), lambda: [value.cpu().numpy() for value in parameters.values()], compile_seconds)


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
