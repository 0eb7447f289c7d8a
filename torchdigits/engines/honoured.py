"""What a Trainer and a subclass ask for that the compiled engine cannot honour: refused by name, before an update."""

from typing import TYPE_CHECKING

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging

from torchdigits.classifier import DigitClassifier
from torchdigits.errors import OptionError
from torchdigits.network import SigmoidMLP

if TYPE_CHECKING:
    from torchdigits.engines.compiled import CompiledDigitClassifier

# What nobody calls here: there is no backward pass, and no optimizer takes a step.
_HOOKS = (
    *("on_before_backward", "on_after_backward", "on_before_optimizer_step", "on_before_zero_grad"),
    *("backward", "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping", "lr_scheduler_step"),
)
# Where torch keeps the hooks that were registered with a parameter, a layer, or an optimizer.
_REGISTERED = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_post_accumulate_grad_hooks", "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"),
)


def check_honours(classifier: "CompiledDigitClassifier") -> None:
    """Check that the compiled engine does all that is asked of it.

    Raises:
        OptionError: another device than a CPU or CUDA's, several processes, mixed precision, a part of an epoch's
            batches or a validation amid them, another forward pass, or what is to happen in or after each update.
    """
    trainer = classifier.trainer
    if classifier.device.type not in {"cpu", "cuda"}:
        raise _refused(f"a device of type {classifier.device.type}")
    if trainer.world_size > 1:
        raise _refused(f"{trainer.world_size} processes")
    if trainer.precision not in {"32-true", "64-true"}:
        raise _refused(f"precision {trainer.precision}")
    if isinstance(trainer.limit_train_batches, float) and trainer.limit_train_batches != 1.0:
        raise _refused(f"limit_train_batches={trainer.limit_train_batches}", "a whole number, or ")
    interval = getattr(trainer, "val_check_interval", "a time")  # which Lightning keeps elsewhere
    if repr(interval) != "1.0":  # 1 is after each mini-batch
        raise _refused(f"val_check_interval={interval}", "check_val_every_n_epoch, or ")
    kind = type(classifier)
    if kind.forward is not DigitClassifier.forward or type(classifier.network) is not SigmoidMLP:
        raise _refused("another forward pass")
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for holder, base in ((classifier, DigitClassifier), *((callback, L.Callback) for callback in callbacks)):
        for name in _HOOKS:
            if name in vars(holder) or getattr(type(holder), name, None) is not getattr(base, name, None):
                raise _refused(f"{type(holder).__name__}.{name}, which would never be called")
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback._every_n_train_steps:  # noqa: SLF001
            raise _refused("ModelCheckpoint(every_n_train_steps=...)", "every_n_epochs, or ")
        if isinstance(callback, WeightAveraging):
            raise _refused(f"{type(callback).__name__}, which averages after each update")


def check_optimizer(classifier: "CompiledDigitClassifier") -> None:
    """Check that what is to be done with the gradients is plain descent, at the classifier's learning rate.

    Raises:
        OptionError: it is not.
    """
    trainer = classifier.trainer
    if trainer.lr_scheduler_configs:
        raise _refused(f"the scheduler {type(trainer.lr_scheduler_configs[0].scheduler).__name__}")
    kinds = [type(optimizer) for optimizer in trainer.optimizers]
    if kinds != [torch.optim.SGD]:
        raise _refused(f"the optimizer {kinds[0].__name__}" if len(kinds) == 1 else f"{len(kinds)} optimizers")
    groups = trainer.optimizers[0].param_groups
    if len(groups) > 1:
        raise _refused("several groups of parameters")
    for name in ("momentum", "dampening", "weight_decay", "nesterov", "maximize"):
        if groups[0][name]:
            raise _refused(f"SGD({name}={groups[0][name]})")
    if groups[0]["lr"] != classifier.learning_rate:
        raise _refused(f"SGD(lr={groups[0]['lr']}), as the classifier has learning rate {classifier.learning_rate}")
    trained = {id(parameter) for parameter in groups[0]["params"] if parameter.requires_grad}
    if trained != {id(parameter) for parameter in classifier.network.parameters()}:
        raise _refused("training some of the parameters alone")
    hooked = [*classifier.network.parameters(), *classifier.network.modules(), *trainer.optimizers]
    if any(getattr(thing, name, None) for thing in hooked for name in _REGISTERED):
        raise _refused("hooks of parameters, layers or the optimizer, which would never be called")


def _refused(what: str, instead: str = "") -> OptionError:
    return OptionError(f"CompiledDigitClassifier cannot honour {what}: use {instead}DigitClassifier")
