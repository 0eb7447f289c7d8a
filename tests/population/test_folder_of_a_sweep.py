"""What a sweep keeps of its networks, and how it goes on. Nothing is trained here: what networks reached is made up."""

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from crashes import Killed

from torchdigits import SigmoidMLP, load_network
from torchdigits.data.datasets import Digits, DigitSplits
from torchdigits.errors import DataError, OptionError
from torchdigits.files.networks import save_network
from torchdigits.files.writing import locked
from torchdigits.population.ensemble import Trained
from torchdigits.population.folder import SweepFolder, cells_of, opened, read_rows
from torchdigits.population.members import Member, Row, SweepOptions

OPTIONS = SweepOptions(seeds=3, epochs=1, dataset="digits")
HEADER = "hidden,learning_rate,seed,epoch,validation_correct,test_correct,lost_digits"
# Four networks of two epochs, the first of 784-4-10, and then of 784-3-2-10
FOUR = SweepOptions(seeds=1, learning_rates=(1.0, 3.0), hidden=("4", "3-2"), epochs=2, dataset="digits")


def trained(member: Member, *counts: int | None, lost: str = "") -> Trained:
    """What became of a network that recognised so many images of validation after each epoch, and one fewer of test."""
    rows = [
        Row(member, epoch, count, None if count is None else max(count - 1, 0), lost)
        for epoch, count in enumerate(counts, 1)
    ]
    network = SigmoidMLP(member.sizes)
    best = max((row for row in rows if row.validation_correct is not None), key=lambda row: row[2] or 0, default=None)
    return Trained(rows, [network], best, None if best is None else network)


def assert_kept(folder: Path, slice_: Trained) -> None:
    """best.ckpt has the network of this slice."""
    kept = load_network(folder / "best.ckpt")
    for ours, theirs in zip(kept.parameters(), slice_.networks[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_of_equally_good_networks_the_first_is_kept_whenever_it_was_finished(
    order: tuple[int, ...], tmp_path: Path
) -> None:
    members = OPTIONS.members()
    slices = [trained(member, correct) for member, correct in zip(members, (7, 9, 9), strict=True)]
    with opened(tmp_path / "sweep", OPTIONS, resume=False) as sweep:
        for place in order:
            sweep.add(slices[place])
        assert sweep.best is not None
        assert sweep.best.member == members[1]
    assert_kept(tmp_path / "sweep", slices[1])


def test_an_earlier_epoch_comes_before_an_earlier_network(tmp_path: Path) -> None:
    first, second, *_ = FOUR.members()
    slices = [trained(first, 3, 9), trained(second, 9, 3)]
    with opened(tmp_path / "sweep", FOUR, resume=False) as sweep:
        for slice_ in slices:
            sweep.add(slice_)
        assert sweep.best == slices[1].rows[0]
    assert_kept(tmp_path / "sweep", slices[1])


def test_one_image_is_better_than_none(tmp_path: Path) -> None:
    first, second, _ = OPTIONS.members()
    none, one = trained(first, 0), trained(second, 1)
    with opened(tmp_path / "sweep", OPTIONS, resume=False) as sweep:
        sweep.add(none)
        assert sweep.best == none.best
        sweep.add(one)
        assert sweep.best == one.best
    with opened(tmp_path / "sweep", OPTIONS, resume=True) as sweep:
        assert sweep.best == one.best


@pytest.fixture
def begun(tmp_path: Path) -> tuple[Path, list[Trained]]:
    """A sweep of four, the first and third of which are finished, the third first; the third is the best."""
    first, second, third, fourth = FOUR.members()
    slices = [
        trained(first, 3, 5, lost="3 8"),
        trained(second, 4, 6),
        trained(third, 9, 8),
        trained(fourth, None, None),
    ]
    with opened(tmp_path / "sweep", FOUR, resume=False) as sweep:
        assert (sweep.finished, sweep.rows, sweep.best) == (0, [], None)
        sweep.add(slices[2])
        sweep.add(slices[0])
        assert sweep.finished == 2
        sweep.parts.append({"networks": 2})
        sweep.record({"test": 3})
    return tmp_path / "sweep", slices


def test_a_folder_has_what_is_known_in_the_members_order(begun: tuple[Path, list[Trained]]) -> None:
    folder, slices = begun
    lines = ["4,1.0,0,1,3,2,3 8", "4,1.0,0,2,5,4,3 8", "3-2,1.0,0,1,9,8,", "3-2,1.0,0,2,8,7,"]
    assert (folder / "sweep.csv").read_bytes() == "".join(f"{line}\r\n" for line in (HEADER, *lines)).encode()
    options = {"seeds": 1, "learning_rates": [1.0, 3.0], "hidden": ["4", "3-2"], "epochs": 2, "dataset": "digits"}
    record = {"options": options, "parts": [{"networks": 2}], "test": 3}
    assert (folder / "sweep.json").read_text() == json.dumps(record, indent=2) + "\n"
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "sweep.csv", "sweep.json"]
    assert_kept(folder, slices[2])


def test_a_sweep_goes_on_where_it_was(begun: tuple[Path, list[Trained]]) -> None:
    folder, slices = begun
    first, second, third, fourth = FOUR.members()
    (folder / ".torchdigits-0123456789abcdef").write_text("of a process that was killed")
    with opened(folder, FOUR, resume=True) as sweep:
        assert sweep.rows == [*slices[0].rows, *slices[2].rows]
        assert sweep.best == slices[2].rows[0]
        assert sweep.parts == [{"networks": 2}]
        assert sweep.known == {first, third}
        sweep.add(slices[3])  # which diverged
        sweep.add(slices[1])  # which is no better
        assert sweep.known == {first, second, third, fourth}
        assert sweep.best == slices[2].rows[0]
    assert_kept(folder, slices[2])
    with opened(folder, FOUR, resume=True) as sweep:  # nothing is missing any more
        assert sweep.known == {first, second, third, fourth}
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "sweep.csv", "sweep.json"]
    assert [row.member for row in read_rows(folder / "sweep.csv")] == [
        member for member in (first, second, third, fourth) for _ in range(2)
    ]
    assert read_rows(folder / "sweep.csv")[-1] == Row(fourth, 2, None, None, "")


def test_networks_that_all_diverged_have_no_best(tmp_path: Path) -> None:
    with opened(tmp_path / "sweep", FOUR, resume=False) as sweep:
        sweep.add(trained(FOUR.members()[0], None, None))
    with opened(tmp_path / "sweep", FOUR, resume=True) as sweep:
        assert (sweep.finished, sweep.best) == (1, None)
        sweep.check_counts(DigitSplits(*[Digits(torch.zeros(0, 784), torch.zeros(0))] * 3))
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == ["sweep.csv", "sweep.json"]


@pytest.mark.parametrize("before", ["sweep.csv", "best.ckpt"])
def test_a_sweep_killed_between_its_files_has_the_best_network_of_its_rows(
    begun: tuple[Path, list[Trained]], before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, slices = begun
    better, move = trained(FOUR.members()[1], 10, 10), Path.replace

    def killed(path: Path, target: Path) -> Path:
        if target.name == before:
            raise Killed
        return move(path, target)

    with monkeypatch.context() as patch, opened(folder, FOUR, resume=True) as sweep:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(Killed):
            sweep.add(better)
        assert sweep.best == slices[2].rows[0]
    assert [path.name for path in folder.glob(".best*")] == [".best-1-1.ckpt"]
    with opened(folder, FOUR, resume=True) as sweep:
        assert sweep.finished == (3 if before == "best.ckpt" else 2)
        assert sweep.best == (better if before == "best.ckpt" else slices[2]).rows[0]
    assert_kept(folder, better if before == "best.ckpt" else slices[2])
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "sweep.csv", "sweep.json"]


def test_a_sweep_without_a_finished_slice_leaves_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "sweep", OPTIONS, resume=False):
        assert (tmp_path / "sweep" / "sweep.json").exists()
        (tmp_path / "sweep" / ".best-0-1.ckpt").touch()
    assert list((tmp_path / "sweep").iterdir()) == []
    with pytest.raises(Killed), opened(tmp_path / "sweep", OPTIONS, resume=False):
        raise Killed
    assert list((tmp_path / "sweep").iterdir()) == []
    with opened(tmp_path / "sweep", OPTIONS, resume=False):
        shutil.rmtree(tmp_path / "sweep")


def refused(folder: Path, options: SweepOptions = FOUR, resume: bool = True) -> str:
    """What is said of a folder that cannot be gone on with, or begun, in which nothing is changed."""
    before = {path: path.read_bytes() for path in folder.glob("*")} if folder.is_dir() else {}
    with pytest.raises((DataError, OptionError)) as caught, opened(folder, options, resume):
        pass
    assert {path: path.read_bytes() for path in folder.glob("*")} == before
    return str(caught.value)


def test_what_is_no_sweep_cannot_be_gone_on_with(begun: tuple[Path, list[Trained]], tmp_path: Path) -> None:
    folder, _ = begun
    assert refused(tmp_path / "x") == f"--resume: there is no sweep in {tmp_path / 'x'}"
    assert refused(folder / "best.ckpt") == f"--resume: there is no sweep in {folder / 'best.ckpt'}"
    way_out = "it is not empty, and nothing is overwritten; to go on with a sweep, use --resume"
    assert refused(folder, resume=False) == f"--output {folder}: {way_out}"
    assert f"the sweep in {folder} has 2" in refused(folder, replace(FOUR, epochs=3))
    with locked(folder), pytest.raises(OptionError, match="another process is writing there"):
        opened(folder, FOUR, resume=True).__enter__()
    (folder / "sweep.json").unlink()
    assert refused(folder) == f"--resume: there is no sweep in {folder}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("epochs", "epoch"),
        ("2,", '"2",'),
        ("1.0,", '"1",'),
        ('"dataset": "digits"', '"dataset": null'),
        ('"digits"', '"a\\nb"'),
        ('"parts": [', '"parts": 3, "x": ['),
        ('"4"', "4"),
    ],
)
def test_a_record_of_something_else_is_one_line(begun: tuple[Path, list[Trained]], old: str, new: str) -> None:
    folder, _ = begun
    text = (folder / "sweep.json").read_text()
    assert old in text
    (folder / "sweep.json").write_text(text.replace(old, new))
    assert refused(folder).startswith(f"{folder / 'sweep.json'} is not a record of a sweep: ")
    if old == "epochs":
        assert refused(folder).endswith(": its options are not a sweep's")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("4,1.0,0,2", "4,1.0,0,3"),  # another epoch
        ("4,1.0,0,2", "4,1.0,0,1"),
        ("4,1.0", "4,2.0"),  # another network
        ("4,1.0,0,2,5,4,3 8\r\n", ""),
    ],
)
def test_a_table_of_another_sweep_is_one_line(begun: tuple[Path, list[Trained]], old: str, new: str) -> None:
    folder, _ = begun
    text = (folder / "sweep.csv").read_bytes().decode()
    assert old in text
    (folder / "sweep.csv").write_bytes(text.replace(old, new).encode())
    wanted = "is not the table of this sweep: it has other networks or epochs"
    assert refused(folder) == f"{folder / 'sweep.csv'} {wanted}"


def test_a_table_has_no_more_rows_than_the_sweep(begun: tuple[Path, list[Trained]]) -> None:
    folder, _ = begun
    with (folder / "sweep.csv").open("a") as file:
        file.write("4,1.0,0,1,3,2,\n" * 4)
    assert "other networks or epochs" in refused(folder)
    with (folder / "sweep.csv").open("a") as file:
        file.write("4,1.0,0,1,3,2,\n")
    assert refused(folder).startswith(f"{folder / 'sweep.csv'} is not a table of a sweep: ")


def test_a_best_network_that_is_lost_or_of_other_layers_is_missed(begun: tuple[Path, list[Trained]]) -> None:
    folder, _ = begun
    best = folder / "best.ckpt"
    save_network(SigmoidMLP((784, 4, 10)), best, overwrite=True)
    assert refused(folder) == f"{best} is not the best network so far: it has other layers"
    best.unlink()
    assert refused(folder) == f"{best} is missing: it has the best network so far"


@pytest.mark.parametrize(("validation", "test", "fits"), [(9, 8, True), (8, 8, False), (9, 7, False)])
def test_counts_are_at_most_the_images(
    validation: int, test: int, fits: bool, begun: tuple[Path, list[Trained]]
) -> None:
    folder, _ = begun
    splits = DigitSplits(*(Digits(torch.zeros(count, 784), torch.zeros(count)) for count in (0, validation, test)))
    sweep = SweepFolder(folder, FOUR)
    sweep.read()
    if fits:
        sweep.check_counts(splits)
        return
    with pytest.raises(DataError) as caught:
        sweep.check_counts(splits)
    table = folder / "sweep.csv"
    assert str(caught.value) == f"{table} is not the table of this sweep: it counts more images than there are"


@pytest.mark.parametrize(
    "row", [Row(Member((30, 20), 0.1, 7), 3, 290, 0, "3 8"), Row(Member((4,), 1e39, 0), 1, None, None, "")]
)
def test_a_row_comes_back_from_a_table(row: Row, tmp_path: Path) -> None:
    writer = csv.DictWriter(text := io.StringIO(), HEADER.split(","))
    writer.writeheader()
    writer.writerow(cells_of(row))
    (tmp_path / "x.csv").write_text(text.getvalue())
    assert read_rows(tmp_path / "x.csv") == [row]


@pytest.mark.parametrize(
    "cells",
    ["30,1,0,1,5,,", "30,1,0,1,,5,", "30,1,0,1,-1,5,", f"30,1,0,1,5,{2**31},", "30,1,0,1,5,x,", "30,x,0,1,5,5,"],
)
def test_what_are_no_counts_is_one_line(cells: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"{HEADER}\n{cells}\n")
    said = "" if "x" in cells else "no counts of images$"
    with pytest.raises(DataError, match=rf"x\.csv is not a table of a sweep: {said}"):
        read_rows(tmp_path / "x.csv")


def test_counts_have_31_bits(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"{HEADER}\n30,1,0,1,{2**31 - 1},0,\n")
    assert read_rows(tmp_path / "x.csv")[0][2:4] == (2**31 - 1, 0)
