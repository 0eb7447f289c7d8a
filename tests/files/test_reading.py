import csv
import io
import os
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from torchdigits.errors import CheckpointError, DataError, reason
from torchdigits.files import reading as module
from torchdigits.files.reading import (
    open_archive,
    open_regular,
    parse_json,
    read_json,
    read_table,
    read_whole,
    reading,
)


def test_what_a_file_raises_becomes_one_line_of_the_wanted_kind(tmp_path: Path) -> None:
    path, missing = tmp_path / "x", tmp_path / "missing"
    for failure in (CheckpointError, DataError):
        with (
            pytest.raises(failure, match=f"^cannot read {missing}: No such file or directory$") as caught,
            reading(path := missing, "network", failure),
        ):
            missing.read_bytes()
        assert isinstance(caught.value.__cause__, FileNotFoundError)
        for error in (ValueError("odd\nfile"), OSError("odd file"), RecursionError("odd file")):
            words = f"^{path} is not a network: odd file$"
            with pytest.raises(failure, match=words) as caught, reading(path, "network", failure):
                raise error
            assert caught.value.__cause__ is error
        with pytest.raises(failure, match=r"^as it is$"), reading(path, "network", failure):
            raise failure("as it is")
    with pytest.raises(CheckpointError), reading(path, "network"):
        raise ValueError
    with pytest.raises(CheckpointError, match=rf"network: {300 * 'x'}\.\.\.$"), reading(path, "network"):
        raise ValueError("\n" + 301 * "x")


def test_a_long_reason_takes_no_more_memory_than_its_beginning() -> None:
    text = "x " * 10**6
    tracemalloc.start()
    assert reason(ValueError(text)) == f"{text[:300]}..."
    assert tracemalloc.get_traced_memory()[1] < 2**21 + 10**6  # the exception's text may be copied once
    tracemalloc.stop()


def test_a_file_of_so_many_bytes_is_opened_and_no_larger_one(tmp_path: Path) -> None:
    (path := tmp_path / "x").write_bytes(b"1234567890" * 100)
    with open_regular(path, 1000) as file:
        assert file.read() == path.read_bytes()
        assert not os.get_inheritable(file.fileno())
    assert read_whole(str(path), 1000) == path.read_bytes()
    with pytest.raises(ValueError, match=r"^it has 1,000 bytes, more than the 999 that are allowed$"):
        open_regular(path, 999)
    with pytest.raises(ValueError, match=r"^it is a folder$"):
        open_regular(tmp_path, 1000)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"^it is a pipe or a device$"):
        open_regular(tmp_path / "pipe", 1000)


def test_a_file_is_asked_again_once_it_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one may have its name by then: a pipe that nobody writes to, or a larger one. None is left open."""
    (path := tmp_path / "x").write_bytes(b"12345")
    (tmp_path / "large").write_bytes(b"123456")
    os.mkfifo(tmp_path / "pipe")
    opened: list[int] = []
    os_open = os.open
    for other, words in (("pipe", "it is a pipe or a device"), ("large", "it has 6 bytes, more than the 5")):

        def exchanged(_: object, flags: int, other: str = other) -> int:
            opened.append(os_open(tmp_path / other, flags))
            return opened[-1]

        monkeypatch.setattr(os, "open", exchanged)
        with pytest.raises(ValueError, match=words):
            open_regular(path, 5)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(opened[-1])


def test_what_is_read_is_no_more_than_allowed_if_the_file_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path := tmp_path / "x").write_bytes(b"12345678")
    monkeypatch.setattr(module, "_check_regular", lambda status, most: None)
    assert read_whole(path, 5) == b"12345"


def test_json_of_so_many_bytes_and_parts_is_read_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_JSON", 2000)
    monkeypatch.setattr(module, "_MOST_PARTS", 4)
    monkeypatch.setattr(module, "_MOST_TEXTS", 3)
    assert parse_json('{"a": 1, "b": 2, "c": 3}') == {"a": 1, "b": 2, "c": 3}
    assert parse_json('[{"é": [1]}, {}]') == parse_json('[{"é": [1]}, {}]'.encode()) == [{"é": [1]}, {}]
    assert parse_json('"' + "x" * 1998 + '"') == "x" * 1998
    assert parse_json('"\ud800"') == "\ud800"  # half a character
    for text in (
        "[[[[[]]]]]",
        '{"a":[{"b":{"c":[]}}]}',
        "[{},{},{},{}]",
        '"' + "x" * 1999 + '"',
        '"' + "é" * 1000 + '"',
        '{"a":1,"b":2,"c":3,"d":4}',
    ):
        with pytest.raises(ValueError, match=r"^more than 2,000 bytes, 4 lists and objects, or 3 texts$"):
            parse_json(text)
    (tmp_path / "x.json").write_text('{"a": [1.5, null]}')
    assert read_json(tmp_path / "x.json") == {"a": [1.5, None]}
    monkeypatch.setattr(module, "_MOST_WIDE", 10)
    assert parse_json('"éabcdef"') == "éabcdef"
    with pytest.raises(ValueError, match=r"^more than 10 bytes, which are not all ASCII$"):
        parse_json('"éabcdefg"')
    monkeypatch.setattr(module, "_MOST_RECORD", 20)
    (tmp_path / "x.json").write_text('{"a": 1}'.ljust(20))
    assert read_json(tmp_path / "x.json") == {"a": 1}
    (tmp_path / "x.json").write_text('{"a": 1}'.ljust(21))
    with pytest.raises(ValueError, match="it has 21 bytes, more than the 20 that are allowed"):
        read_json(tmp_path / "x.json")


def test_a_table_is_in_utf_8_and_of_so_many_rows_columns_and_characters(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes('a,b\r\n"1,\n""2",é\r\n'.encode())
    assert read_table(path, ["a", "b"], 1) == [{"a": '1,\n"2', "b": "é"}]
    for rows, value in ((b'1,"2\r\n3"\r\n', "2\r\n3"), (b"1,2\r", "2")):  # ends of lines are as they are in the file
        path.write_bytes(b"a,b\r" + rows)
        assert read_table(path, ("a", "b"), 1) == [{"a": "1", "b": value}]
    path.write_bytes(b"a,b\n" + b"1," + b"2" * 497 + b"\n")
    assert read_table(path, ("a", "b"), 1) == [{"a": "1", "b": "2" * 497}]
    for content, words in {
        b"": "other columns",
        b"a\n": "other columns",
        b"a,b\n1," + b"2" * 498 + b"\n": "a row of more than 500 characters",
        b"a,b\n1,2\n3,4\n": "more than 1 rows",
        b"a,b\n" + b"\n" * 1000: "it has 1,004 bytes, more than the 1,000 that are allowed",
        b'a,b\n"1"2,3\n': "expected",
        b"a,b\n\xff,2\n": "utf-8",
    }.items():
        path.write_bytes(content)
        with pytest.raises((ValueError, csv.Error), match=words):
            read_table(path, ("a", "b"), 1)


def zip_of(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def test_an_archives_directory_has_little_beside_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_EXTRA", 100)

    def archive(*extras: int) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as written:
            for number, extra in enumerate(extras):
                info = zipfile.ZipInfo(f"{number}")
                info.extra = b"\xff\xff" + (extra - 4).to_bytes(2, "little") + bytes(extra - 4)
                written.writestr(info, b"x")
        return file.getvalue()

    assert len(open_archive(archive(60, 40)).infolist()) == 2
    with pytest.raises(ValueError, match=r"^its directory has more than 100 bytes beside the names$"):
        open_archive(archive(60, 41))


def test_an_archive_is_opened_if_it_is_of_an_honest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_ENTRIES", 3)
    entries = {"a": b"1" * 100, "b": b"2", "c": b""}
    with open_archive(zip_of(entries)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == entries
    # the sum of the sizes may be all that there is
    lying = bytearray(zip_of({"a": b"1" * 100}))
    at = lying.rindex(b"PK\x01\x02") + 24
    lying[at : at + 4] = len(lying).to_bytes(4, "little")
    open_archive(bytes(lying)).close()
    lying[at : at + 4] = (len(lying) + 1).to_bytes(4, "little")
    twice = zip_of({"a": b"", "b": b""}).replace(b"b", b"a")
    for content, words in (
        (bytes(lying), "its entries overlap"),
        (twice, "its entries overlap"),
        (zip_of(entries | {"d": b""}), "more than 3 entries"),
        (zip_of({"a": b"1"}, zipfile.ZIP_DEFLATED), "it is compressed, and may unpack to far more"),
        (b"PK\x03\x04", "damaged, or of another kind"),
    ):
        with pytest.raises(ValueError, match=f"^{words}$"):
            open_archive(content)
