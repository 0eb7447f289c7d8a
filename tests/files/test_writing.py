import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from crashes import Killed, failing_at, failures
from hypothesis import given, settings
from hypothesis import strategies as st

from torchdigits.errors import OptionError
from torchdigits.files.writing import (
    LOCK,
    check_new_file,
    empty_folder,
    locked,
    new_folder,
    remove_if_empty,
    remove_parts,
    write_whole,
)

Make = Callable[[Path], object]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_leaves_is_a_part_that_can_be_removed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from torchdigits.files import writing;"
        "writing.os.fsync = lambda _: os._exit(9);"
        "writing.write_whole(Path(sys.argv[1]), b'new')"
    )
    path = tmp_path / "x.json"
    path.write_bytes(b"old")
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == 9
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    remove_parts(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_overwritten_only_if_that_is_asked_for(tmp_path: Path) -> None:
    write_whole(tmp_path / "x", b"old")
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "x", b"new", overwrite=False)
    assert (tmp_path / "x").read_bytes() == b"old"
    write_whole(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert names(tmp_path) == ["x"]


def test_a_failed_write_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere" / "x", tmp_path):
        with pytest.raises(OSError, match="directory") as failed:
            write_whole(path, b"new")
        assert failed.value.filename == str(path)
    assert names(tmp_path) == []


def test_a_lock_keeps_other_processes_out_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from torchdigits.files.writing import locked\n"
        "try:\n    with locked(Path(sys.argv[1])): print('in')\nexcept ValueError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with locked(tmp_path):
        assert names(tmp_path) == [LOCK]
        other = subprocess.run(command, check=True, capture_output=True, text=True)
        assert other.stdout == f"{tmp_path}: another process is writing there\n"
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "in\n"
    assert list(tmp_path.iterdir()) == []


def test_a_lock_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="there is no such folder"), locked(tmp_path / "nowhere"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_new_folders_are_numbered(tmp_path: Path) -> None:
    folders = [new_folder(tmp_path / "runs", "digits") for _ in range(3)]
    assert new_folder(tmp_path / "deep" / "down", "digits").is_dir()
    assert [folder.name for folder in folders] == ["digits-run1", "digits-run2", "digits-run3"]
    (folders[0] / "x").touch()
    for folder in folders[:2]:
        remove_if_empty(folder)
    assert names(tmp_path / "runs") == ["digits-run1", "digits-run3"]
    assert new_folder(tmp_path / "runs", "digits").name == "digits-run2"


def test_a_folder_with_a_killed_processs_lock_alone_is_empty(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    with empty_folder("--output", tmp_path), pytest.raises(OptionError, match=r"another process is writing there$"):
        empty_folder("--output", tmp_path).__enter__()
    assert names(tmp_path) == []


def test_a_folder_with_something_in_it_is_not_empty(tmp_path: Path) -> None:
    for _ in range(2):
        with empty_folder("--output", tmp_path / "a" / "b"):
            pass
    with pytest.raises(OptionError, match=r"^--output .*a: it is not empty, and nothing is overwritten; use another$"):
        empty_folder("--output", tmp_path / "a", "; use another").__enter__()
    with pytest.raises(OptionError, match=r"and nothing is overwritten$"):
        empty_folder("--output", tmp_path / "a").__enter__()


def test_where_no_folder_can_be_made_the_error_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for make in (lambda path: empty_folder("--output", path).__enter__(), lambda path: new_folder(path, "x")):
        with pytest.raises(OptionError, match=r"^--output .*file.x: no folder can be made there: Not a directory$"):
            make(tmp_path / "file" / "x")


def test_a_new_file_must_be_new_of_a_known_kind_and_in_a_folder(tmp_path: Path) -> None:
    check_new_file("--figure", tmp_path / "x.png", (".png", ".svg"))
    (tmp_path / "old.png").write_bytes(b"old")
    for name, words in (
        ("x.txt", "its name must end in .png or .svg"),
        ("old.png", "it exists already"),
        ("nowhere/x.png", "it cannot be written: No such file or directory"),
    ):
        with pytest.raises(OptionError, match=rf"^--figure .*{name}: {words}"):
            check_new_file("--figure", tmp_path / name, (".png", ".svg"))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@settings(deadline=None)
@given(
    old=st.none() | st.binary(),
    overwrite=st.booleans(),
    moment=st.integers(1, 8),
    after=st.booleans(),
    failure=failures,
)
def test_wherever_writing_stops_a_file_is_whole_and_can_be_written_again(
    old: bytes | None, overwrite: bool, moment: int, after: bool, failure: BaseException
) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "x")
        if old is not None:
            path.write_bytes(old)
        try:
            with failing_at(moment, after, failure):
                write_whole(path, b"new", overwrite)
        except FileExistsError:
            assert old is not None
            assert not overwrite
        except (OSError, Killed) as error:
            assert error is failure  # noqa: PT017  # which call fails is drawn
        allowed = [old] if old is not None and not overwrite else [old, b"new"]
        assert (path.read_bytes() if path.exists() else None) in allowed
        remove_parts(Path(name))
        write_whole(path, b"newer")
        assert path.read_bytes() == b"newer"
        assert names(Path(name)) == ["x"]


@settings(deadline=None)
@given(st.integers(1, 2), st.booleans())
def test_wherever_the_check_of_a_new_file_stops_its_name_is_still_free(moment: int, after: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        with pytest.raises(Killed), failing_at(moment, after, Killed()):
            check_new_file("--show", Path(name, "x.png"), (".png",))
        check_new_file("--show", Path(name, "x.png"), (".png",))


def test_a_new_file_can_be_written_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    write_whole(tmp_path / "x", b"new", overwrite=False)
    assert (tmp_path / "x").read_bytes() == b"new"
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "x", b"newer", overwrite=False)
    assert names(tmp_path) == ["x"]


def test_what_only_has_a_locks_name_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    (tmp_path / "empty").touch()
    makers: dict[str, Make] = {
        "link": lambda path: path.symlink_to(tmp_path / "letter"),
        "link to nothing in it": lambda path: path.symlink_to(tmp_path / "empty"),
        "data": lambda path: path.write_text("dear"),
        "pipe": os.mkfifo,
        "folder": Path.mkdir,
    }
    for name, make in makers.items():
        (folder := tmp_path / name).mkdir()
        make(folder / LOCK)
        before = (folder / LOCK).lstat()
        for lock in (locked(folder), empty_folder("--output", folder)):
            with pytest.raises(
                OptionError, match=r"\.lock: it is not an empty file, as a lock would be; move it away$"
            ):
                lock.__enter__()
        assert (folder / LOCK).lstat()[:7] == before[:7], name
    assert (tmp_path / "data" / LOCK).read_text() == (tmp_path / "letter").read_text() == "dear"


def test_what_is_written_into_a_lock_is_kept(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / LOCK).write_text("dear")
    assert (tmp_path / LOCK).read_text() == "dear"


def test_only_what_is_named_as_parts_are_is_removed(tmp_path: Path) -> None:
    part = f".torchdigits-{16 * '0'}"
    kept = [".torchdigits-notes", f"{part}0", f"{part}.txt", f".torchdigits-{16 * 'x'}", f"{part[:-1]}1"]
    for name in (part, *kept[:-1]):
        (tmp_path / name).touch()
    (tmp_path / kept[-1]).mkdir()
    remove_parts(tmp_path)
    assert names(tmp_path) == sorted(kept)


def test_a_folder_that_is_replaced_while_it_is_locked_hides_no_other_error(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(NotADirectoryError) as caught, locked(folder):  # noqa: PT012
        folder.rename(tmp_path / "aside")
        folder.touch()
        write_whole(folder / "x", b"")
    assert caught.value.filename == str(folder / "x")
