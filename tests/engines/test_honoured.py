"""What a user's own Trainer asks for is done as Lightning documents it, on both engines, or refused by name."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import lightning as L
import pytest
import torch
from conftest import Uncompiled, leave_uncompiled
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LambdaCallback,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from torch import Tensor

from torchdigits import CompiledDigitClassifier, DigitClassifier, DigitsDataModule
from torchdigits.data.datasets import DigitSplits
from torchdigits.engines.honoured import check_honours
from torchdigits.errors import OptionError

REGISTERED = "hooks of parameters, layers or the optimizer, which would never be called"
BLOCK = 50  # mini-batches; the embedded digits have 121 of 10 examples, and one of 7


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_uncompiled(monkeypatch)


def fit(digits: DigitSplits, classifier: DigitClassifier, *, batch_size: int = 10, **options: Any) -> L.Trainer:
    block_size = BLOCK if isinstance(classifier, CompiledDigitClassifier) else None
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = L.Trainer(**(defaults | options))
    trainer.fit(classifier, DigitsDataModule(digits, None, batch_size, 0, block_size))
    return trainer


class Adam(CompiledDigitClassifier):
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters())


class Momentum(CompiledDigitClassifier):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)


class WeightDecay(CompiledDigitClassifier):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, weight_decay=1e-4)


class AnotherRate(CompiledDigitClassifier):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class LastLayerAlone(CompiledDigitClassifier):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.network.layers[1].parameters(), lr=self.learning_rate)


class Scheduled(CompiledDigitClassifier):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.learning_rate)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


class Two(CompiledDigitClassifier):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(layer.parameters(), lr=self.learning_rate) for layer in self.network.layers]


class Grouped(CompiledDigitClassifier):
    def configure_optimizers(self) -> Any:
        groups = [{"params": layer.parameters()} for layer in self.network.layers]
        return torch.optim.SGD(groups, lr=self.learning_rate)


class Hooked(CompiledDigitClassifier):
    def on_after_backward(self) -> None:
        raise AssertionError


class AnotherPass(CompiledDigitClassifier):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) ** 2


class Frozen(CompiledDigitClassifier):
    def __init__(self) -> None:
        super().__init__()
        self.network.layers[0].requires_grad_(requires_grad=False)


class Watcher(L.Callback):
    def on_before_optimizer_step(self, *_: Any) -> None:
        raise AssertionError


class Careless(CompiledDigitClassifier):
    """Its hooks forget those of the class that it is of."""

    def on_fit_start(self) -> None:
        pass

    def on_train_epoch_start(self) -> None:
        self._outputs.clear()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters())


class HookedParameter(CompiledDigitClassifier):
    def __init__(self) -> None:
        super().__init__()
        weights = self.network.get_parameter("layers.0.weight")
        weights.register_post_accumulate_grad_hook(lambda parameter: None)  # type: ignore[no-untyped-call]


class HookedLayer(CompiledDigitClassifier):
    def __init__(self) -> None:
        super().__init__()
        self.network.layers[0].register_forward_hook(lambda layer, given, output: output * 0)


class HookedOptimizer(CompiledDigitClassifier):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        optimizer.register_step_post_hook(lambda *_: None)
        return optimizer


@pytest.mark.parametrize(
    ("classifier", "options", "words"),
    [
        (Adam, {}, "the optimizer Adam: use"),
        (Momentum, {}, r"SGD\(momentum=0.9\): use"),
        (WeightDecay, {}, r"SGD\(weight_decay=0.0001\): use"),
        (AnotherRate, {}, r"SGD\(lr=0.1\), as the classifier has learning rate 3.0: use"),
        (Grouped, {}, "several groups of parameters: use"),
        (LastLayerAlone, {}, "training some of the parameters alone: use"),
        (Frozen, {}, "training some of the parameters alone: use"),
        (Scheduled, {}, "the scheduler StepLR: use"),
        (Two, {}, "2 optimizers: use"),
        (Careless, {}, "the optimizer Adam: use"),
        (HookedParameter, {}, f"{REGISTERED}: use"),
        (HookedLayer, {}, f"{REGISTERED}: use"),
        (HookedOptimizer, {}, f"{REGISTERED}: use"),
        (
            CompiledDigitClassifier,
            {"callbacks": [EMAWeightAveraging()]},
            "EMAWeightAveraging, which averages after each",
        ),
        (Hooked, {}, "Hooked.on_after_backward, which would never be called: use"),
        (AnotherPass, {}, "another forward pass: use"),
        (CompiledDigitClassifier, {"callbacks": [Watcher()]}, "Watcher.on_before_optimizer_step, which would never"),
        (CompiledDigitClassifier, {"precision": "bf16-mixed"}, "precision bf16-mixed: use"),
        (CompiledDigitClassifier, {"limit_train_batches": 0.5}, "limit_train_batches=0.5: use a whole number, or"),
        (
            CompiledDigitClassifier,
            {"val_check_interval": 0.5},
            "val_check_interval=0.5: use check_val_every_n_epoch, or",
        ),
        (
            CompiledDigitClassifier,
            {"val_check_interval": {"seconds": 1}},
            "val_check_interval=a time: use check_val_every_n_epoch, or",
        ),
        (CompiledDigitClassifier, {"val_check_interval": 1}, "val_check_interval=1: use check_val_every_n_epoch, or"),
        (
            CompiledDigitClassifier,
            {"callbacks": [ModelCheckpoint(every_n_train_steps=7)], "enable_checkpointing": True},
            r"ModelCheckpoint\(every_n_train_steps=\.\.\.\): use every_n_epochs, or",
        ),
        *(
            (CompiledDigitClassifier, {"callbacks": [LambdaCallback(**{hook: print})]}, f"LambdaCallback.{hook}, which")
            for hook in ("on_before_backward", "on_after_backward", "on_before_optimizer_step", "on_before_zero_grad")
        ),
    ],
)
def test_what_the_compiled_engine_cannot_honour_is_refused_before_an_update(
    classifier: Callable[[], CompiledDigitClassifier], options: dict[str, Any], words: str, digits: DigitSplits
) -> None:
    made = classifier()
    before = [parameter.detach().clone() for parameter in made.parameters()]
    with pytest.raises(OptionError, match=rf"^CompiledDigitClassifier cannot honour {words}.* DigitClassifier$"):
        fit(digits, made, **options)
    for parameter, value in zip(made.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


@pytest.mark.parametrize(
    "name",
    ["backward", "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping", "lr_scheduler_step"],
)
def test_a_classifiers_own_steps_are_refused(name: str, digits: DigitSplits) -> None:
    for holder in (CompiledDigitClassifier(), type("Own", (CompiledDigitClassifier,), {name: print})()):
        if type(holder) is CompiledDigitClassifier:
            setattr(holder, name, print)
        with pytest.raises(OptionError, match=rf"cannot honour {type(holder).__name__}.{name}, which would never be"):
            fit(digits, holder)


@pytest.mark.parametrize(
    ("of", "register"),
    [
        ("layer", "register_forward_hook"),
        ("layer", "register_forward_pre_hook"),
        ("layer", "register_full_backward_hook"),
        ("layer", "register_full_backward_pre_hook"),
        ("parameter", "register_hook"),
        ("parameter", "register_post_accumulate_grad_hook"),
        ("optimizer", "register_step_pre_hook"),
        ("optimizer", "register_step_post_hook"),
    ],
)
def test_registered_hooks_are_refused(of: str, register: str, digits: DigitSplits) -> None:
    class WithHook(CompiledDigitClassifier):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            layer = self.network.layers[0]
            getattr({"layer": layer, "parameter": layer.weight, "optimizer": optimizer}[of], register)(print)
            return optimizer

    with pytest.raises(OptionError, match=f"cannot honour {REGISTERED}: use DigitClassifier"):
        fit(digits, WithHook())


def test_it_runs_on_a_cpu_or_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = CompiledDigitClassifier()
    classifier.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    for kind in ("cpu", "cuda"):
        monkeypatch.setattr(CompiledDigitClassifier, "device", torch.device(kind))
        check_honours(classifier)
    monkeypatch.setattr(CompiledDigitClassifier, "device", torch.device("mps"))
    with pytest.raises(OptionError, match=r"^CompiledDigitClassifier cannot honour a device of type mps: use Digit"):
        check_honours(classifier)


def test_a_classifier_may_be_trained_again_in_another_precision_with_another_rate_and_copied(
    digits: DigitSplits,
) -> None:
    trained = []
    for kind in (DigitClassifier, CompiledDigitClassifier):
        torch.manual_seed(1)
        classifier = kind()
        fit(digits, classifier)
        classifier = deepcopy(classifier)
        classifier.learning_rate = 0.5
        fit(digits, classifier, precision="64-true")
        trained.append(classifier)
    for ours, theirs in zip(trained[0].parameters(), trained[1].parameters(), strict=True):
        assert ours.dtype == theirs.dtype == torch.float64
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)  # the first epoch was in float32


def test_a_learning_rate_set_between_two_runs_is_the_next_ones(digits: DigitSplits) -> None:
    trained = []
    for kind in (DigitClassifier, CompiledDigitClassifier):
        torch.manual_seed(1)
        classifier = kind()
        for rate in (3.0, 0.1):
            classifier.learning_rate = rate
            fit(digits, classifier, precision="64-true")
        trained.append(classifier)
    for ours, theirs in zip(trained[0].parameters(), trained[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_rate_that_is_set_amid_an_epoch_is_refused(digits: DigitSplits) -> None:
    class Slower(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step:
                trainer.optimizers[0].param_groups[0]["lr"] = 0.1

    with pytest.raises(OptionError, match=r"SGD\(lr=0.1\), as the classifier has learning rate 3.0"):
        fit(digits, CompiledDigitClassifier(), callbacks=[Slower()])


@pytest.mark.slow
def test_what_is_compiled_is_the_first_whole_block_of_each_run(
    digits: DigitSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[tuple[int, ...]] = []
    trained: list[tuple[int, ...]] = []

    class Recorded(Uncompiled):
        def __init__(self, update: Any, parameters: Any, block: Any, held: Any, threads: int) -> None:
            super().__init__(update)
            assert [tuple(value.shape) for value in parameters.values()] == [(30, 784), (30,), (10, 30), (10,)]
            assert [*map(float, held)] == [3.0]
            assert threads == torch.get_num_threads()
            compiled.append(tuple(block[0].shape))

        def library(self) -> Any:
            train = super().library()

            def recorded(parameters: Any, block: Any, held: Any) -> Any:
                trained.append(tuple(block[0].shape))
                return train(parameters, block, held)

            return recorded

    monkeypatch.setattr("torchdigits.engines.compiled.Building", Recorded)
    classifier = CompiledDigitClassifier()
    fit(digits, classifier, max_steps=7, max_epochs=-1)  # less than a block: not worth it
    assert compiled == trained == []
    fit(digits, classifier, max_epochs=2)
    fit(digits, classifier)
    fit(digits, classifier, batch_size=50)
    assert compiled == [(40, 10, 784), (24, 50, 784)]
    # Two calls check it, then one is for each whole block: three in an epoch, or one.
    assert trained == [(40, 10, 784)] * (2 + 3 * 3) + [(24, 50, 784)] * (2 + 1)


def test_a_block_must_be_one(digits: DigitSplits) -> None:
    for images, labels in (
        (torch.zeros(5, 28, 28, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64)),
        (torch.zeros(5, 10, 784), torch.zeros(5, 10, dtype=torch.int64)),
        (torch.zeros(5, 784), torch.zeros(5, dtype=torch.int64)),
    ):
        with pytest.raises(OptionError, match=r"^CompiledDigitClassifier takes blocks of bytes: give DigitsDataModule"):
            CompiledDigitClassifier().training_step((images, labels), 0)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch, digits: DigitSplits) -> None:
    monkeypatch.setattr(L.Trainer, "world_size", 2)
    with pytest.raises(OptionError, match=r"^CompiledDigitClassifier cannot honour 2 processes: use DigitClassifier$"):
        fit(digits, CompiledDigitClassifier())


def test_a_scheduler_that_comes_later_is_refused_when_it_does(digits: DigitSplits) -> None:
    averaging = StochasticWeightAveraging(0.1, swa_epoch_start=1)
    with pytest.raises(OptionError, match="the scheduler SWALR"):
        fit(digits, CompiledDigitClassifier(), callbacks=[averaging], max_epochs=3)


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_clip_val": 1.0},
        {"accumulate_grad_batches": 2},
        {"callbacks": [GradientAccumulationScheduler({1: 2})]},
    ],
)
def test_what_lightning_refuses_for_manual_optimization_it_does(options: dict[str, Any], digits: DigitSplits) -> None:
    with pytest.raises((L.fabric.utilities.exceptions.MisconfigurationException, RuntimeError), match=r"[Aa]utomatic"):
        fit(digits, CompiledDigitClassifier(), **options)


# Mini-batches of an epoch, updates, and whether it is validated.
BOTH = pytest.mark.parametrize("kind", [DigitClassifier, CompiledDigitClassifier])
TRAINERS: list[tuple[dict[str, Any], int, bool]] = [
    ({"fast_dev_run": 3}, 3, True),
    ({"fast_dev_run": True}, 1, True),
    ({"max_steps": 57, "max_epochs": -1}, 57, False),
    ({"max_steps": 130, "max_epochs": -1}, 130, True),
    ({"max_steps": 122, "max_epochs": -1}, 122, True),
    ({"limit_train_batches": 55}, 55, True),
    ({"limit_train_batches": 55, "max_epochs": 2}, 110, True),
    ({"limit_train_batches": 500}, 122, True),
    ({"overfit_batches": 20, "max_epochs": 2}, 40, True),
    ({"limit_val_batches": 0}, 122, False),
    ({"check_val_every_n_epoch": 2, "max_epochs": 2}, 244, True),
    ({"max_epochs": 1, "profiler": "simple"}, 122, True),
]


@BOTH
@pytest.mark.parametrize(("options", "updates", "validated"), TRAINERS)
def test_a_trainers_options_mean_what_lightning_says(
    options: dict[str, Any], updates: int, validated: bool, kind: type[DigitClassifier], digits: DigitSplits
) -> None:
    torch.manual_seed(1)
    trainer = fit(digits, kind(), **options)
    assert trainer.global_step == updates
    assert ("validation_accuracy" in trainer.callback_metrics) is validated
    # whatever ended it, the training is measured too
    assert 0 < trainer.callback_metrics["training_accuracy"] <= 1
    assert torch.isfinite(trainer.callback_metrics["training_cost"])


@pytest.mark.parametrize(("options", "updates", "validated"), TRAINERS)
def test_both_engines_take_the_same_updates(
    options: dict[str, Any], updates: int, validated: bool, digits: DigitSplits
) -> None:
    trained, metrics = [], []
    for kind in (DigitClassifier, CompiledDigitClassifier):
        torch.manual_seed(1)
        classifier = kind()
        metrics.append(fit(digits, classifier, precision="64-true", **options).callback_metrics)
        trained.append(classifier)
    for ours, theirs in zip(trained[0].parameters(), trained[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert metrics[0].keys() == metrics[1].keys()
    for name, value in metrics[0].items():
        torch.testing.assert_close(value, metrics[1][name], rtol=1e-6, atol=1e-9)


@BOTH
def test_what_stops_a_run_stops_it(kind: type[DigitClassifier], digits: DigitSplits) -> None:
    stopping = EarlyStopping("validation_accuracy", mode="max", patience=1, min_delta=1.0)
    trainer = fit(digits, kind(), callbacks=[stopping], max_epochs=10)
    assert trainer.current_epoch == 2
    assert "training_cost" in trainer.callback_metrics


@BOTH
def test_a_run_that_is_stopped_amid_an_epoch_is_measured(kind: type[DigitClassifier], digits: DigitSplits) -> None:
    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            trainer.should_stop = True

    trainer = fit(digits, kind(), callbacks=[Stop()])
    assert trainer.global_step == (
        40 if kind is CompiledDigitClassifier else 1
    )  # of 121 mini-batches, the first of three blocks
    assert "training_accuracy" in trainer.callback_metrics
