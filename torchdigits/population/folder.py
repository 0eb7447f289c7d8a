"""A sweep's folder: after each slice, all that is known is there."""

import csv
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torchdigits.data.datasets import DigitSplits
from torchdigits.errors import DataError, OptionError, check_same_options
from torchdigits.files.checkpoints import to_checkpoint
from torchdigits.files.networks import load_network
from torchdigits.files.reading import read_json, read_table, reading
from torchdigits.files.writing import empty_folder, locked, remove_parts, write_whole
from torchdigits.population.ensemble import Trained
from torchdigits.population.members import MOST_ROWS, Member, Row, SweepOptions, hyphenated, layers_of

TABLE, RECORD, BEST = "sweep.csv", "sweep.json", "best.ckpt"
_COLUMNS = ("hidden", "learning_rate", "seed", "epoch", "validation_correct", "test_correct", "lost_digits")
_CANDIDATE = ".best-"  # begins the name of a network that sweep.csv does not have yet


class SweepFolder:
    """What is known of a sweep.

    Attributes:
        rows: of the finished networks, in the order of the members and epochs.
        best: the row with the most validation images recognised.
        parts: which process trained how many networks, and on what.
    """

    def __init__(self, folder: Path, options: SweepOptions) -> None:
        self.folder, self.options = folder, options
        self._order = {member: place for place, member in enumerate(options.members())}
        self.rows: list[Row] = []
        self.best: Row | None = None
        self.parts: list[dict[str, Any]] = []

    @property
    def known(self) -> set[Member]:
        """The networks that are finished."""
        return {row.member for row in self.rows}

    @property
    def finished(self) -> int:
        return len(self.known)

    def read(self) -> None:
        """Read what an earlier process has left.

        Raises:
            OptionError: there is no sweep, or one with other options.
            DataError: it is damaged.
        """
        path, options = self.folder / RECORD, self.options.to_plain()
        if not path.exists():
            raise OptionError(f"--resume: there is no sweep in {self.folder}")
        with reading(path, "record of a sweep", DataError):
            record = read_json(path)
            saved, self.parts = dict(record["options"]), list(record["parts"])
            if any(not _alike(saved.get(name), value) for name, value in options.items()):
                raise ValueError("its options are not a sweep's")
        check_same_options(options, saved, f"the sweep in {self.folder}")
        remove_parts(self.folder)
        if not (table := self.folder / TABLE).exists():
            return
        self.rows = read_rows(table, len(self._order) * self.options.epochs)
        epochs: dict[Member, list[int]] = {}
        for row in self.rows:
            epochs.setdefault(row.member, []).append(row.epoch)
        wanted = list(range(1, self.options.epochs + 1))
        if not epochs.keys() <= self._order.keys() or any(found != wanted for found in epochs.values()):
            raise DataError(f"{table} is not the table of this sweep: it has other networks or epochs")
        self.best = self._best(self.rows)
        self._settle_best()

    def _settle_best(self) -> None:
        """Make best.ckpt the network of the best row, also if a process was killed before the last line of add."""
        if self.best is not None and self._candidate(self.best).exists():
            self._candidate(self.best).replace(self.folder / BEST)
        for candidate in self.folder.glob(f"{_CANDIDATE}*.ckpt"):
            candidate.unlink()
        if self.best is not None and not (self.folder / BEST).exists():
            raise DataError(f"{self.folder / BEST} is missing: it has the best network so far")
        if self.best is not None and load_network(self.folder / BEST).sizes != self.best.member.sizes:
            raise DataError(f"{self.folder / BEST} is not the best network so far: it has other layers")

    def check_counts(self, splits: DigitSplits) -> None:
        """Raise DataError if a network has recognised more images than the dataset has."""
        counts = ((row.validation_correct or 0, row.test_correct or 0) for row in self.rows)
        most = len(splits.validation.labels), len(splits.test.labels)
        if any(validation > most[0] or test > most[1] for validation, test in counts):
            raise DataError(
                f"{self.folder / TABLE} is not the table of this sweep: it counts more images than there are"
            )

    def add(self, trained: Trained) -> None:
        """Keep what became of a slice: sweep.csv says which network is best, and then best.ckpt becomes that one."""
        rows = sorted([*self.rows, *trained.rows], key=lambda row: (self._order[row.member], row.epoch))
        best = self._best(rows)
        candidate = None
        if best is not None and best != self.best and trained.best_network is not None:
            candidate = self._candidate(best)
            write_whole(candidate, to_checkpoint(trained.best_network))
        file = io.StringIO()
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(map(cells_of, rows))
        self._write(TABLE, file.getvalue())
        if candidate is not None:
            candidate.replace(self.folder / BEST)
        self.rows, self.best = rows, best

    def _candidate(self, row: Row) -> Path:
        """The file that has a network until sweep.csv has its rows."""
        return self.folder / f"{_CANDIDATE}{self._order[row.member]}-{row.epoch}.ckpt"

    def record(self, results: dict[str, Any]) -> None:
        """Write sweep.json, with these results."""
        content = {"options": self.options.to_plain(), "parts": self.parts, **results}
        self._write(RECORD, json.dumps(content, indent=2) + "\n")

    def _best(self, rows: list[Row]) -> Row | None:
        """The most validation images; of several, the earliest epoch, and then the first network."""
        sound = [row for row in rows if row.validation_correct is not None]
        return min(
            sound, key=lambda row: (-(row.validation_correct or 0), row.epoch, self._order[row.member]), default=None
        )

    def _write(self, name: str, content: str) -> None:
        write_whole(self.folder / name, content.encode())


@contextmanager
def opened(folder: Path, options: SweepOptions, resume: bool) -> Iterator[SweepFolder]:
    """The sweep in a folder, to which no other process can write meanwhile. If no slice was finished, it is emptied.

    Raises:
        OptionError, DataError: the folder is not empty, or in use, or there is nothing in it to go on with.
    """
    sweep = SweepFolder(folder, options)
    if resume and not os.path.isdir(folder):  # noqa: PTH112  # raises nothing, whatever the name
        raise OptionError(f"--resume: there is no sweep in {folder}")
    way_out = "; to go on with a sweep, use --resume"
    with locked(folder) if resume else empty_folder("--output", folder, way_out):
        if resume:
            sweep.read()
        try:
            if not resume:
                sweep.record({})
            yield sweep
        finally:
            if not (folder / TABLE).exists():  # nothing to go on with, so nothing in the way of a new one
                for path in (folder / RECORD, *folder.glob(f"{_CANDIDATE}*.ckpt")):
                    with suppress(OSError):  # the folder may be gone, or read-only by now
                        path.unlink(missing_ok=True)


def read_rows(table: Path, most: int = MOST_ROWS) -> list[Row]:
    """The rows of a sweep.csv. Raises DataError if it is not one, or has more than `most`."""
    with reading(table, "table of a sweep", DataError):
        return [_row(cells) for cells in read_table(table, _COLUMNS, most)]


def _alike(one: Any, other: Any) -> bool:
    """Whether it is of the same type, and can be shown."""
    if isinstance(other, list):
        return isinstance(one, list) and all(_alike(item, other[0]) for item in one)
    return type(one) is type(other) and str(one).isprintable()


def cells_of(row: Row) -> dict[str, Any]:
    """As in sweep.csv; of a network that has diverged, there are no counts."""
    member, *results = row
    return dict(zip(_COLUMNS, (hyphenated(member.hidden), *member[1:], *results), strict=True))


def _row(cells: dict[str, str]) -> Row:
    member = Member(layers_of(cells["hidden"]), float(cells["learning_rate"]), int(cells["seed"]))
    validation, test = (
        int(cells[f"{split}_correct"]) if cells[f"{split}_correct"] else None for split in ("validation", "test")
    )
    counts = [count for count in (validation, test) if count is not None]
    if len(counts) == 1 or not all(0 <= count < 2**31 for count in counts):
        raise ValueError("no counts of images")
    return Row(member, int(cells["epoch"]), validation, test, cells["lost_digits"])
