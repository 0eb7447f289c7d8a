"""The one way in for every foreign file: what it is and how large is asked before a byte of it is read."""

import csv
import io
import json
import os
import re
import stat
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from torchdigits.errors import CheckpointError, TorchDigitsError, reason

_MOST_ENTRIES = 10_000  # in an archive; each takes half a kilobyte, and a checkpoint of Lightning's has some ten
_MOST_EXTRA = 2**20  # bytes in its directory, beside the entries' names, which take zipfile long
_MOST_JSON, _MOST_PARTS = 2**26, 100_000  # bytes of a JSON text, and lists and objects in it: a list takes 60 bytes
_MOST_TEXTS, _MOST_WIDE = 10**6, 2**22  # texts in a JSON text; its bytes if they are more than ASCII
_MOST_RECORD = 2**24  # bytes of the record of a run or a sweep
_LONGEST_ROW = 500  # bytes of a table's


@contextmanager
def reading(path: Path, kind: str, failure: type[TorchDigitsError] = CheckpointError) -> Iterator[None]:
    """Turn whatever a file raises that is not a `kind`, as in "network in .json", into a `failure` of one line."""
    try:
        yield
    except failure:
        raise
    # A file that holds something else can raise nearly anything on its way through JSON, NumPy's formats and torch's.
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise failure(f"cannot read {path}: {error.strerror}") from error
        raise failure(f"{path} is not a {kind}: {reason(error)}") from error


def open_regular(path: Path | str, most: int) -> io.BufferedReader:
    """Open a regular file of at most `most` bytes to read it.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is something else, such as a pipe, which could keep its reader waiting, or larger.
    """
    _check_regular(Path(path).stat(), most)  # before it is opened, which can mean something to a device
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: PTH123, SIM115
    try:
        _check_regular(os.fstat(file.fileno()), most)  # it may be another one by now
    except ValueError:
        file.close()
        raise
    return file


def _check_regular(status: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"it is a {'folder' if stat.S_ISDIR(status.st_mode) else 'pipe or a device'}")
    if status.st_size > most:
        raise ValueError(f"it has {status.st_size:,} bytes, more than the {most:,} that are allowed")


def read_whole(path: Path | str, most: int) -> bytes:
    """The bytes of a file, at most `most`; raises as `open_regular` does."""
    with open_regular(path, most) as file:
        return file.read(most)


def check_json(length: int, parts: int = 0, quotes: int = 0) -> None:
    """Raise ValueError if `parse_json` refuses a text of so many bytes, lists and objects, and quotation marks."""
    if length > _MOST_JSON or parts > _MOST_PARTS or quotes > 2 * _MOST_TEXTS:
        raise ValueError(f"more than {_MOST_JSON:,} bytes, {_MOST_PARTS:,} lists and objects, or {_MOST_TEXTS:,} texts")


def parse_json(text: bytes | str) -> Any:
    """What a JSON text holds. Raises ValueError if it would take much more memory than a network or a record does."""
    text = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    check_json(len(text), text.count(b"[") + text.count(b"{"), text.count(b'"'))
    if len(text) > _MOST_WIDE and not text.isascii():  # one character can make all four times as large
        raise ValueError(f"more than {_MOST_WIDE:,} bytes, which are not all ASCII")
    return json.loads(text)


def read_json(path: Path) -> Any:
    """What the JSON file of a record holds; raises as `read_whole` and `parse_json` do."""
    return parse_json(read_whole(path, _MOST_RECORD))


def read_table(path: Path, columns: Sequence[str], most: int) -> list[dict[str, str]]:
    """The rows of a CSV file in UTF-8, by its columns.

    Raises:
        OSError: it cannot be read.
        ValueError, csv.Error: it is something else, has other columns, or more than `most` rows.
    """
    content = read_whole(path, _LONGEST_ROW * (most + 1)).decode()
    reader = csv.DictReader(_short_lines(content), strict=True)
    if tuple(reader.fieldnames or ()) != tuple(columns):
        raise ValueError("other columns")
    rows: list[dict[str, str]] = []
    for row in reader:
        if len(rows) == most:
            raise ValueError(f"more than {most:,} rows")
        rows.append(row)
    return rows


def _short_lines(content: str) -> Iterator[str]:
    for line in io.StringIO(content, newline=""):
        if len(line) > _LONGEST_ROW:
            raise ValueError(f"a row of more than {_LONGEST_ROW:,} characters")
        yield line


def open_archive(content: bytes) -> zipfile.ZipFile:
    """Open a zip archive, of an honest size: torch and `numpy.savez` do not compress.

    Raises:
        ValueError: it is none, may unpack to more than its size, or has many thousands of entries.
    """
    starts = islice(re.finditer(rb"PK\x01\x02", content), _MOST_ENTRIES + 1)  # before they are all made objects
    extras = [int.from_bytes(content[start.start() + 30 : start.start() + 32], "little") for start in starts]
    if len(extras) > _MOST_ENTRIES:
        raise ValueError(f"more than {_MOST_ENTRIES:,} entries")
    if sum(extras) > _MOST_EXTRA:
        raise ValueError(f"its directory has more than {_MOST_EXTRA:,} bytes beside the names")
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except zipfile.BadZipFile as error:
        raise ValueError("damaged, or of another kind") from error
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("it is compressed, and may unpack to far more")
    names = {entry.filename for entry in entries}
    if len(names) < len(entries) or sum(entry.file_size for entry in entries) > len(content):
        raise ValueError("its entries overlap")
    return archive
