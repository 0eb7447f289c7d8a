"""Many networks trained at once: their parameters stacked along a first axis, `sgd_step` mapped over it.

Every network draws its first weights and its epochs' orders from its own seed, as `train` does. So it is the network
that `train` trains, and networks of different seeds are independent draws of a whole run. Networks of one seed and
different learning rates begin with the same weights and take the same mini-batches, so comparisons contain less noise.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal, NamedTuple

from torchdigits.data.batches import check_seed
from torchdigits.errors import OptionError, check_count
from torchdigits.files.networks import check_can_be_kept
from torchdigits.sgd import check_learning_rate

_MOST_HIDDEN = 40  # layers, in a cell of a sweep's table
MOST_ROWS = 10**6  # of a sweep's table


class Member(NamedTuple):
    """A network of a population: neurons in each hidden layer, learning rate, and seed."""

    hidden: tuple[int, ...]
    learning_rate: float
    seed: int

    @property
    def sizes(self) -> tuple[int, ...]:
        return (784, *self.hidden, 10)


class Row(NamedTuple):
    """What a network had reached after an epoch, counted from 1.

    Attributes:
        validation_correct, test_correct: images recognised; None once a weight is NaN or infinite.
        lost_digits: those with under half of their test images recognised, as in "3 8".
    """

    member: Member
    epoch: int
    validation_correct: int | None
    test_correct: int | None
    lost_digits: str


def population(
    hidden: Sequence[tuple[int, ...]], learning_rates: Sequence[float], seeds: Sequence[int]
) -> list[Member]:
    """Every choice of hidden layers with every seed and learning rate; the same layers and seed stand side by side.

    Raises:
        OptionError: nothing is named, something is named twice, or a value is out of range.
    """
    words = [hyphenated(layers) for layers in hidden]
    for what, values in (("hidden layers", words), ("learning rate", learning_rates), ("seed", seeds)):
        if not values:
            raise OptionError(f"{what}: name one or more")
        if repeated := [value for value, times in Counter(values).items() if times > 1]:
            raise OptionError(f"{what} {repeated[0]}: it is named twice")
    for name, layers in zip(words, hidden, strict=True):
        if min(layers, default=1) < 1:
            raise OptionError(f"hidden layers {name}: a layer needs 1 neuron or more")
    for rate in learning_rates:
        check_learning_rate(rate)
    for seed in seeds:
        check_seed(seed)
    return [Member(layers, rate, seed) for layers, seed, rate in product(hidden, seeds, learning_rates)]


def in_words(hidden: tuple[int, ...]) -> str:
    """All layers of a network with these hidden ones, such as 784-30-10."""
    return hyphenated((784, *hidden, 10))


def hyphenated(layers: tuple[int, ...]) -> str:
    """Layers in words, such as 30-30; `layers_of` reads them."""
    return "-".join(map(str, layers))


def layers_of(text: str) -> tuple[int, ...]:
    """Hidden layers in words, such as 30-30.

    Raises:
        OptionError: they are no numbers.
    """
    try:
        return tuple(int(part) for part in text.split("-"))
    except ValueError:
        raise OptionError(f"hidden {text}: it must be a number, or several with hyphens, as 30-30") from None


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """The options of a sweep that decide what it trains.

    Attributes:
        seeds: how many; they are 0, 1, 2, ...
        learning_rates: eta, one or several.
        hidden: neurons in the hidden layer, one or several. 30-30 is two layers.
        epochs: passes over the training images.
        dataset: mnist, or scikit-learn's digits; those are 1,797 small ones.

    Raises:
        OptionError: a value out of range, or named twice.
    """

    seeds: int = 32
    learning_rates: tuple[float, ...] = (3.0,)
    hidden: tuple[str, ...] = ("30",)
    epochs: int = 30
    dataset: Literal["mnist", "digits"] = "mnist"

    def __post_init__(self) -> None:
        check_count("seeds", self.seeds)
        check_count("epochs", self.epochs)
        if self.seeds * len(self.learning_rates) * len(self.hidden) * self.epochs > MOST_ROWS:
            raise OptionError(f"networks times epochs: it must be at most {MOST_ROWS:,}")
        for hidden in {member.hidden for member in self.members()}:
            check_can_be_kept(hidden)
            if len(hidden) > _MOST_HIDDEN:
                raise OptionError(
                    f"hidden {hyphenated(hidden)[:100]}: a sweep takes {_MOST_HIDDEN} hidden layers at most"
                )

    def members(self) -> list[Member]:
        """The networks that the sweep trains."""
        return population([layers_of(text) for text in self.hidden], self.learning_rates, range(self.seeds))

    def to_plain(self) -> dict[str, Any]:
        """The options by their names, as JSON gives them back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
