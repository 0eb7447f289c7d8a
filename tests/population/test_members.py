"""Which networks a sweep has, and how their results spread; nothing is trained."""

import json
import statistics

import pytest

from torchdigits.errors import OptionError
from torchdigits.population.members import Member, Row, SweepOptions, hyphenated, in_words, layers_of, population
from torchdigits.population.statistics import summarise


def test_a_population_is_every_choice_with_networks_of_the_same_first_weights_side_by_side() -> None:
    assert population([(30,), (1, 2)], [3.0, 0.5], [7, 4]) == [
        *(Member((30,), 3.0, 7), Member((30,), 0.5, 7), Member((30,), 3.0, 4), Member((30,), 0.5, 4)),
        *(Member((1, 2), 3.0, 7), Member((1, 2), 0.5, 7), Member((1, 2), 3.0, 4), Member((1, 2), 0.5, 4)),
    ]
    assert population([()], [3.0], [0]) == [Member((), 3.0, 0)]  # a network without hidden layers


@pytest.mark.parametrize(
    ("hidden", "rates", "seeds", "words"),
    [
        ([], [3.0], [0], "hidden layers: name one or more"),
        ([(30,)], [], [0], "learning rate: name one or more"),
        ([(30,)], [3.0], [], "seed: name one or more"),
        ([(30,), (30, 1), (30,)], [3.0], [0], "hidden layers 30: it is named twice"),
        ([(30,)], [1.0, 3.0, 3.0], [0], "learning rate 3.0: it is named twice"),
        ([(30,)], [3.0], [5, 5], "seed 5: it is named twice"),
        ([(30, 0)], [3.0], [0], "hidden layers 30-0: a layer needs 1 neuron or more"),
        ([(30,)], [3.0, 0.0], [0], "learning rate 0.0: it must be more than 0, and at most 3.4e38"),
        ([(30,)], [3.0], [0, -1], "seed -1: it must be a whole number from 0 to 4294967295"),
    ],
)
def test_what_makes_no_population_is_named(
    hidden: list[tuple[int, ...]], rates: list[float], seeds: list[int], words: str
) -> None:
    with pytest.raises(OptionError) as refused:
        population(hidden, rates, seeds)
    assert str(refused.value) == words


def test_layers_are_words_and_numbers_again() -> None:
    assert hyphenated((30, 5)) == "30-5"
    assert layers_of("30-5") == (30, 5)
    assert in_words((30, 5)) == "784-30-5-10"
    with pytest.raises(OptionError, match=r"^hidden 30,5: it must be a number, or several with hyphens, as 30-30$"):
        layers_of("30,5")


def test_the_options_of_a_sweep_are_checked_and_come_back_from_json() -> None:
    options = SweepOptions(seeds=2, learning_rates=(3.0, 0.5), hidden=("30", "30-30"), epochs=4, dataset="digits")
    assert options.members() == population([(30,), (30, 30)], [3.0, 0.5], [0, 1])
    plain = options.to_plain()
    assert json.loads(json.dumps(plain)) == plain
    assert plain == {
        "seeds": 2,
        "epochs": 4,
        "dataset": "digits",
        "learning_rates": [3.0, 0.5],
        "hidden": ["30", "30-30"],
    }
    for name in ("seeds", "epochs"):
        with pytest.raises(OptionError, match=rf"^{name} 0: "):
            SweepOptions(**{name: 0})  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"^hidden x: "):
        SweepOptions(hidden=("x",))


def rows(member: Member, *counts: int | None, epoch: int = 1, lost: str = "") -> list[Row]:
    return [Row(member._replace(seed=seed), epoch, count, count, lost) for seed, count in enumerate(counts)]


def test_a_summary_is_of_the_networks_that_differ_by_their_seeds_alone() -> None:
    one, other = Member((30,), 3.0, 0), Member((12,), 3.0, 0)
    counts = [200, 260, 230, 250, 190, 210]
    all_rows = [
        *rows(one, *counts[:3]),
        *rows(one, *counts[3:], None, lost="8"),
        *rows(one, 99, epoch=2),
        *rows(one._replace(learning_rate=0.5), None),
        *rows(other, 100, 101, lost="3 8"),
    ]
    small, diverged, ordinary, late = summarise(all_rows)
    assert ordinary[:4] == ((30,), 3.0, 1, 6)
    assert ordinary.mean == pytest.approx(statistics.mean(counts))
    assert ordinary.deviation == pytest.approx(statistics.stdev(counts))
    assert ordinary.quartiles == pytest.approx(statistics.quantiles(counts, method="inclusive"))
    assert (ordinary.lowest, ordinary.highest, ordinary.lost, ordinary.diverged) == (190, 260, 3, 1)
    assert small[:4] == ((12,), 3.0, 1, 2)
    assert small.deviation == pytest.approx(statistics.stdev([100, 101]))
    assert (small.lost, small.diverged) == (2, 0)
    assert diverged == ((30,), 0.5, 1, 0, None, None, None, None, None, 0, 1)
    assert late == ((30,), 3.0, 2, 1, 99, None, 99, [99, 99, 99], 99, 0, 0)
