from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import ClassVar

import lightning as L
import pytest
import torch
from conftest import Unbuilt

from torchdigits import DigitClassifier, DigitsDataModule, SigmoidMLP
from torchdigits.data.datasets import Digits, DigitSplits
from torchdigits.errors import OptionError
from torchdigits.population.ensemble import LOST, Ensemble, Trained
from torchdigits.population.members import Member, Row, population
from torchdigits.population.slices import memory_for_slices, slices_of, train_slices, why_not_compiled
from torchdigits.proof.gradients import relative_error

CPU = torch.device("cpu")
MEMBERS = [Member((30,), 3.0, 4), Member((30,), 1.7, 4), Member((30,), 3.0, 7)]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def ignore(*_: object) -> None:
    pass


def trained_by_lightning(member: Member, digits: DigitSplits, epochs: int) -> DigitClassifier:
    """As train.py does it with the eager engine, in float64."""
    torch.manual_seed(member.seed)
    classifier = DigitClassifier(member.sizes, member.learning_rate)
    trainer = L.Trainer(
        accelerator="cpu",
        precision="64-true",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(classifier, DigitsDataModule(digits, seed=member.seed))
    return classifier


def assert_same(network: SigmoidMLP, expected: SigmoidMLP, tolerance: float) -> None:
    for (name, value), wanted in zip(network.named_parameters(), expected.parameters(), strict=True):
        assert relative_error(value.detach(), wanted.detach()) < tolerance, name


# Of 1,217 images, the last mini-batch has 7: it is trained uncompiled in any case.
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_networks_of_a_population_are_those_that_lightning_trains(compiled: bool, digits: DigitSplits) -> None:
    ensemble = Ensemble((784, 30, 10), 4, digits, CPU, torch.float64)  # one more than there are members
    if compiled:
        assert ensemble.compile() == "compiled"
    trained = ensemble.train(MEMBERS, 2)
    assert [row[:2] for row in trained.rows] == [(member, epoch) for epoch in (1, 2) for member in MEMBERS]
    for network, member in zip(trained.networks, MEMBERS, strict=True):
        assert_same(network, trained_by_lightning(member, digits, 2).network, 1e-11)
        # of its own, and not a view of all networks
        assert all(parameter.untyped_storage().nbytes() == parameter.nbytes for parameter in network.parameters())


@pytest.mark.parametrize("at_once", [500, 100])
def test_rows_count_what_the_networks_recognise(
    digits: DigitSplits, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchdigits.population.ensemble.IMAGES_AT_ONCE", at_once)
    member = Member((12,), 3.0, 0)
    trained = Ensemble(member.sizes, 2, digits, CPU).train([member, Member((12,), 3.0, 1)], 2)
    for row, network in zip(trained.rows[-2:], trained.networks, strict=True):
        counts = {}
        for name, (images, labels) in digits._asdict().items():
            right = network(images.float() / 255).argmax(1) == labels
            counts[name] = int(right.sum())
            if name == "test":
                recall = [float(right[labels == digit].float().mean()) for digit in range(10)]
        assert (row.validation_correct, row.test_correct) == (counts["validation"], counts["test"])
        assert row.lost_digits == " ".join(str(digit) for digit in range(10) if recall[digit] < LOST)
    assert any(row.lost_digits for row in trained.rows)
    assert trained.best is not None
    assert trained.best_network is not None
    assert trained.best.validation_correct == max(row.validation_correct or 0 for row in trained.rows)
    images, labels = digits.validation
    right = trained.best_network(images.float() / 255).argmax(1) == labels
    assert int(right.sum()) == trained.best.validation_correct


def test_of_equally_good_networks_the_first_is_the_best_and_kept(digits: DigitSplits) -> None:
    # Steps so small that no answer changes: two networks of a seed, after each of two epochs, are equally good.
    members = [Member((4,), rate, 0) for rate in (1e-5, 2e-5)]
    ensemble = Ensemble((784, 4, 10), 2, digits, CPU, torch.float64)
    trained, first = ensemble.train(members, 2), ensemble.train(members, 1).networks[0]
    assert len({row.validation_correct for row in trained.rows}) == 1
    assert trained.best == trained.rows[0]
    assert trained.best_network is not None
    assert all(map(torch.equal, trained.best_network.parameters(), first.parameters()))


def pictures_of(shown: str, labels: str) -> Digits:
    """Pictures of digits, each a pixel of ink in its own place, and what they are said to be."""
    ink = 255 * torch.eye(10, 784, dtype=torch.uint8)
    return Digits(ink[[*map(int, shown)]], torch.tensor([*map(int, labels)]))


def test_a_digit_is_lost_if_under_half_of_its_test_images_are_recognised() -> None:
    splits = DigitSplits(
        training=pictures_of("0123456789", "0123456789"),
        validation=pictures_of("0111222222", "0111222222"),
        # Recognised are half of the 0, a third of the 1, and the only 2. For the three 1 and six 2 of the validation
        # images, the two 1 would be enough, and the single 2 would not.
        test=pictures_of("00991199992", "00001111112"),
    )
    trained = Ensemble((784, 10), 1, splits, CPU).train([Member((), 30.0, 0)], 50)
    assert trained.rows[-1].validation_correct == 10  # it has learned to read
    assert trained.rows[-1].lost_digits == "1"


def test_a_network_that_diverges_leaves_the_others_alone(digits: DigitSplits) -> None:
    # Sigmoid neurons saturate, and learn no more: only a rate that is no float32 itself makes their weights overflow.
    sound, wild = Member((30,), 3.0, 0), Member((30,), 1e39, 0)
    ensemble = Ensemble(sound.sizes, 2, digits, CPU)
    alone, together = ensemble.train([sound], 2), ensemble.train([wild, sound], 2)
    assert [row for row in together.rows if row.member == sound] == alone.rows
    assert [row for row in together.rows if row.member == wild] == [
        Row(wild, epoch, None, None, "") for epoch in (1, 2)
    ]
    assert together.best == alone.best
    assert ensemble.train([wild], 1).best is None


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
def test_slices_are_trained_side_by_side(digits: DigitSplits) -> None:
    members = population([(4,), (3, 5)], [1.0, 3.0], range(5))
    slices = slices_of(members, CPU, memory_for_slices(CPU))
    passed: list[float] = []
    results = {tuple(trained.rows) for trained in train_slices(slices, digits, 2, CPU, False, ignore, passed.append)}
    assert sum(passed) == pytest.approx(2 * len(members))
    torch.set_num_threads(1)  # as what trains slices has it: two threads are slower on so little, eight times so here
    expected = {tuple(Ensemble(part[0].sizes, 5, digits, CPU).train(part, 2).rows) for part in slices}
    assert results == expected


@pytest.mark.usefixtures("two_threads")
def test_what_stops_one_slice_stops_them_all(digits: DigitSplits) -> None:
    class StopError(Exception):
        pass

    def stop(_: float) -> None:
        raise StopError

    with pytest.raises(StopError):
        list(train_slices([[member] for member in MEMBERS], digits, 10**6, CPU, False, ignore, stop))


class Recorded:
    """Stands for an ensemble: keeps what it is asked, and trains nothing."""

    made: ClassVar[list["Recorded"]] = []

    def __init__(self, sizes: tuple[int, ...], count: int, splits: DigitSplits, device: torch.device) -> None:
        self.asked = sizes, count, splits, device
        self.trained: list[tuple[list[Member], int]] = []
        self.threads: set[int] = set()
        self.made.append(self)

    def compile(self, callers: int) -> str:
        self.callers = callers
        return f"compiled {len(self.made)}"

    def train(self, members: list[Member], epochs: int, after_block: Callable[[float], None]) -> Trained:
        self.trained.append((members, epochs))
        self.threads.add(torch.get_num_threads())
        after_block(0.5)
        after_block(2.0)
        return Trained([], [], None, None)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("kind", "workers"), [("cpu", 2), ("cuda", 1)])
def test_slices_of_the_same_layers_share_an_ensemble(
    kind: str, workers: int, digits: DigitSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[int] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, number: int) -> None:
            pools.append(number)
            super().__init__(number)

    monkeypatch.setattr("torchdigits.population.slices.ThreadPoolExecutor", Pool)
    monkeypatch.setattr("torchdigits.population.slices.Ensemble", Recorded)
    monkeypatch.setattr(Recorded, "made", [])
    clock = iter([10.0, 12.5, 20.0])
    monkeypatch.setattr("torchdigits.population.slices.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    words = "torchdigits.population.slices.why_not_compiled"
    monkeypatch.setattr(words, lambda alike, *_: "too few" if len(alike) == 1 else "")
    members, device = population([(4,), (3, 5)], [1.0], range(3)), torch.device(kind)
    parts = [members[:2], members[2:3], members[3:]]
    said: list[tuple[str, float]] = []
    passed: list[float] = []
    found = list(train_slices(parts, digits, 2, device, True, lambda *outcome: said.append(outcome), passed.append))
    assert len(found) == 3
    assert pools == [workers, workers]
    first, second = Recorded.made
    assert first.asked == ((784, 4, 10), 2, digits, device)
    assert second.asked == ((784, 3, 5, 10), 3, digits, device)
    assert sorted(first.trained, key=str) == sorted([(parts[0], 2), (parts[1], 2)], key=str)
    assert second.trained == [(parts[2], 2)]
    assert first.threads == second.threads == {1}
    assert said == [("compiled 1", 2.5), ("too few", 0)]
    assert sorted(passed) == sorted([0.5 * 2, 1.5 * 2, 0.5, 1.5, 0.5 * 3, 1.5 * 3])
    assert torch.get_num_threads() == 2


def test_a_population_goes_on_as_it_was_begun(digits: DigitSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is left of it: in ensembles of the same size, compiled or not as before."""
    monkeypatch.setattr("torchdigits.population.slices.Ensemble", Recorded)
    monkeypatch.setattr(Recorded, "made", [])
    members = population([(4,), (5,), (6,)], [1.0], range(5))
    parts = [members[:3], members[3:5], members[5:10], members[10:]]
    said: list[str] = []
    known = {*members[:4], *members[5:10]}
    # Of 122 updates an epoch, two slices take 10,004 in 41 epochs; what is left of them would take half.
    found = train_slices(parts, digits, 41, CPU, True, lambda outcome, _: said.append(outcome), lambda _: None, known)
    assert len(list(found)) == 2
    first, second = Recorded.made
    assert (first.asked[0], first.asked[1], first.trained) == ((784, 4, 10), 3, [([members[4]], 41)])
    assert (second.asked[0], second.asked[1], second.trained) == ((784, 6, 10), 5, [(members[10:], 41)])
    assert said == ["compiled 1", "not compiled, as 5,002 updates are too few to be worth compiling"]


def test_without_a_compiler_a_population_is_trained_all_the_same(
    digits: DigitSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchdigits.population.ensemble.Building", Unbuilt)
    monkeypatch.setattr("torchdigits.engines.choice.UPDATES_WORTH_COMPILING", 1)
    said: list[str] = []
    (trained,) = train_slices(
        [MEMBERS[:1]], digits, 1, CPU, True, lambda outcome, _: said.append(outcome), lambda _: None
    )
    assert len(trained.rows) == 1
    assert len(said) == 1
    assert said[0].startswith("not compiled, as torch could not: ")
    assert "No working C++ compiler" in said[0]


def test_compiling_a_population_pays_from_10_000_updates_on() -> None:
    splits = DigitSplits(*[pictures_of("0123", "0123")] * 3)  # of four images: an update an epoch
    assert why_not_compiled([MEMBERS[:1]], splits, epochs=10_000) == ""
    assert "9,999 updates are too few" in why_not_compiled([MEMBERS[:1]], splits, epochs=9_999)


def test_slices_are_alike_and_fit_memory() -> None:
    members = population([(30,), (2000,)], [1.0, 3.0], range(10))
    assert len(set(members)) == len(members) == 40
    slices = slices_of(members, CPU, 2**30)
    assert [member for part in slices for member in part] == members
    assert [len(part) for part in slices] == [7, 7, 6, 7, 7, 6]
    assert all(len({member.hidden for member in part}) == 1 for part in slices)
    # 2,000 hidden neurons have 1.6 million parameters, 6.4 MB: little memory holds few networks, but one always.
    for memory, most in ((2**30, 8), (10**8, 3), (10**6, 1)):
        assert max(len(part) for part in slices_of(members[20:], CPU, memory)) <= most


@pytest.mark.parametrize("hidden", [(30,), (5, 7)])
@pytest.mark.parametrize("batch_size", [10, 25])
def test_as_many_networks_are_in_a_slice_as_fit(hidden: tuple[int, ...], batch_size: int) -> None:
    members = population([hidden], [1.0], range(4))
    parameters = sum(parameter.numel() for parameter in SigmoidMLP((784, *hidden, 10)).parameters())
    mini_batch, measured = 2 * batch_size * 784, 2 * 500 * (sum(hidden) + 10)
    block = 250 * 2 * batch_size * 10 + 250 * 2 * batch_size * 2  # activations, and places of eight bytes
    network = 4 * (6 * parameters + mini_batch + measured + block)  # bytes
    for memory, sizes in ((4 * network, [4]), (4 * network - 1, [2, 2]), (2 * network, [2, 2]), (1, [1] * 4)):
        assert [len(part) for part in slices_of(members, CPU, memory, batch_size)] == sizes
        assert slices_of(members[:1], CPU, memory, batch_size) == [members[:1]]
        if batch_size == 10:  # as by default
            assert slices_of(members, CPU, memory) == slices_of(members, CPU, memory, 10)


def test_a_slice_has_8_networks_on_a_cpu_and_256_on_a_gpu() -> None:
    members = population([(4,)], [1.0], range(257))
    assert [len(part) for part in slices_of(members[:16], CPU, 2**40)] == [8, 8]
    for name in ("cuda", "mps"):
        assert [len(part) for part in slices_of(members[:256], torch.device(name), 2**40)] == [256]
        assert [len(part) for part in slices_of(members, torch.device(name), 2**40)] == [129, 128]


def test_a_slice_may_take_half_of_a_gpus_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: {cuda: (2**34 + 3, 2**36)}[device])
    found = memory_for_slices(cuda)
    assert (found, type(found)) == (2**33 + 1, int)
    assert memory_for_slices(CPU) == memory_for_slices(torch.device("mps")) == 2**30


@pytest.mark.parametrize(
    ("hidden", "rates", "seeds", "words"),
    [
        ([], [3.0], [0], "hidden layers: name one"),
        ([(30,)], [], [0], "learning rate: name one"),
        ([(30,)], [3.0], [], "seed: name one"),
        ([(30,)], [3.0, 1.0, 3.0], [0], r"learning rate 3\.0: it is named twice"),
        ([(30,)], [0.0], [0], "learning rate"),
        ([(30, 0)], [3.0], [0], "hidden layers 30-0"),
        ([(30,)], [3.0], [-1], "seed -1"),
    ],
)
def test_what_makes_no_population_is_refused(
    hidden: list[tuple[int, ...]], rates: list[float], seeds: list[int], words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        population(hidden, rates, seeds)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_trains_the_same_networks(compiled: bool, digits: DigitSplits) -> None:
    expected = Ensemble((784, 30, 10), 3, digits, CPU, torch.float64).train(MEMBERS, 3)
    ensemble = Ensemble((784, 30, 10), 3, digits, torch.device("cuda"), torch.float64)
    if compiled:
        assert ensemble.compile() == "compiled"
    for _ in range(2):
        trained = ensemble.train(MEMBERS, 3)
        assert trained.rows == expected.rows
        for network, wanted in zip(trained.networks, expected.networks, strict=True):
            assert_same(network, wanted, 1e-11)
