"""What a run is told: checked once, saved with the run, and compared when it goes on."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torchdigits.data.batches import check_seed
from torchdigits.errors import OptionError, check_count, check_same_options, reason
from torchdigits.files.networks import check_can_be_kept
from torchdigits.sgd import check_learning_rate

MOST_EPOCHS = 90_000  # of which last.ckpt can keep the record
# These may differ when a run goes on: the rest would make another run of it.
FREE = ("data_dir", "epochs", "accelerator", "engine")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The options of a training run; the defaults are those of the original.

    Attributes:
        dataset: mnist, or scikit-learn's digits; those are 1,797 small ones.
        data_dir: where MNIST is, or is downloaded to. Default: $TORCHDIGITS_DATA_DIR, or data.
        hidden: neurons in each hidden layer.
        epochs: passes over the training images.
        batch_size: images in a mini-batch; on each device.
        learning_rate: eta, the step against the gradient; that of a mini-batch's mean cost.
        seed: of first weights and epochs' orders.
        accelerator: where to train; auto takes a GPU if there is one.
        devices: GPUs, or processes on the CPU; under torchrun, as many as it starts.
        precision: bits of a number; bf16 is mixed precision.
        engine: how to take updates; eager is plain Lightning, compiled many times as fast, auto compiles if it pays.
        output: where the run's own folder is made.

    Raises:
        OptionError: a value out of range.
    """

    dataset: Literal["mnist", "digits"] = "mnist"
    data_dir: Path | None = None
    hidden: tuple[int, ...] = (30,)
    epochs: int = 30
    batch_size: int = 10
    learning_rate: float = 3.0
    seed: int = 0
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    precision: Literal["32", "64", "bf16"] = "32"
    engine: Literal["auto", "eager", "compiled"] = "auto"
    output: Path = Path("checkpoints")

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        object.__setattr__(self, "output", Path(self.output))
        _resolved("--output", self.output)
        object.__setattr__(self, "data_dir", self.data_dir and _resolved("--data-dir", Path(self.data_dir)))
        check_count("epochs", self.epochs, MOST_EPOCHS)
        for name, count in (("batch size", self.batch_size), ("devices", self.devices)):
            check_count(name, count)
        if min(self.hidden, default=1) < 1:
            raise OptionError(f"hidden {' '.join(map(str, self.hidden))}: a layer needs 1 neuron or more")
        check_can_be_kept(self.hidden, 8 if self.precision == "64" else 4)
        check_learning_rate(self.learning_rate)
        check_seed(self.seed)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Neurons in each layer, the inputs first."""
        return (784, *self.hidden, 10)

    @property
    def name(self) -> str:
        """What the run's folder is called, but for its number."""
        layers = "-".join(map(str, self.sizes))
        return f"{self.dataset}-{layers}-eta{self.learning_rate:g}-seed{self.seed}"

    def to_plain(self) -> dict[str, Any]:
        """The options by their names, as JSON can hold them."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}

    @classmethod
    def from_plain(cls, saved: Mapping[str, Any]) -> "TrainOptions":
        """The options that `to_plain` gave, after a way through JSON.

        Raises:
            KeyError, ValueError: one is missing, of another type, or out of range.
        """
        types = get_type_hints(cls)
        return cls(**{field.name: _typed(field.name, saved[field.name], types[field.name]) for field in fields(cls)})

    def check_goes_on_from(self, saved: "TrainOptions", folder: Path, finished: int) -> None:
        """Check that a run which goes on with these options is still the run that was begun.

        Args:
            saved: the options that it was begun with.
            folder: the run's.
            finished: number of epochs that it has.

        Raises:
            OptionError: it would be another run, or has more epochs already.
        """
        same = {name: getattr(saved, name) for name in FREE}
        # The folder may have been moved. Path.resolve would raise RuntimeError if links lead round in a circle.
        if Path(os.path.realpath(folder)).parent == Path(os.path.realpath(self.output)):
            same["output"] = saved.output
        check_same_options(replace(self, **same).to_plain(), saved.to_plain(), f"the run in {folder}")
        if self.epochs < finished:
            raise OptionError(f"--epochs {self.epochs}: the run in {folder} has {finished} already")

    def changed_from(self, saved: "TrainOptions") -> dict[str, Any]:
        """The options that may differ when a run goes on, and do, as JSON can hold them."""
        theirs = saved.to_plain()
        return {name: value for name, value in self.to_plain().items() if name in FREE and value != theirs[name]}


def _resolved(option: str, path: Path) -> Path:
    """The absolute path. Raises OptionError if the system can have none of this name."""
    try:
        os.fsencode(path)
        return path.resolve()
    except (ValueError, RuntimeError, OSError) as error:  # NUL or half a character; until Python 3.13, a loop of links
        raise OptionError(f"{option} {str(path)[:300]!r}: there can be no such folder: {reason(error)}") from error


def _typed(name: str, value: Any, kind: Any) -> Any:
    """A saved option as TrainOptions takes it."""
    choices = get_args(kind)
    if Path in (kind, *choices) and type(value) is str:
        return Path(value)
    if get_origin(kind) is Literal:
        sound = type(value) is str and value in choices
    elif get_origin(kind) is tuple:
        sound = type(value) is list and all(type(number) is choices[0] for number in value)
    else:
        sound = type(value) in (kind, *choices) or (kind is float and type(value) is int)
    if not sound:
        raise ValueError(f"its option {name} is damaged")
    return value
