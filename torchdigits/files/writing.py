"""Files that are written whole or not at all, and folders that one process writes to at a time."""

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from torchdigits.errors import OptionError

LOCK = ".lock"  # the file in a run's or a sweep's folder that its process holds
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}  # of a file system
_PART = ".torchdigits-"  # begins the name of a file until it is whole


def write_whole(path: Path, content: bytes, overwrite: bool = True) -> None:
    """Write a file so that it is whole, or as it was, whenever the process or the machine stops.

    A killed process can leave a part of it, for `remove_parts`. Raises OSError if the file cannot be written,
    FileExistsError if it exists and `overwrite` is false.
    """
    part = path.with_name(f"{_PART}{secrets.token_hex(8)}")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            part.replace(path)
        else:
            _name_new(part, path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        with suppress(OSError):  # the folder may be gone, and the first error says so
            part.unlink(missing_ok=True)


def _name_new(part: Path, path: Path) -> None:
    """Give a file a second name, which must be new; raise FileExistsError if it is not."""
    try:
        path.hardlink_to(part)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        path.open("xb").close()
        part.replace(path)


def remove_parts(folder: Path) -> None:
    """Remove the unfinished files of killed processes, where no other process writes, as the caller holds the lock."""
    for part in folder.glob(f"{_PART}*"):
        if re.fullmatch(f"{_PART}[0-9a-f]{{16}}", part.name) and stat.S_ISREG(part.lstat().st_mode):
            part.unlink(missing_ok=True)


def check_new_file(option: str, file: Path, suffixes: tuple[str, ...]) -> None:
    """Raise OptionError, which begins with `option`, if a file exists, has another suffix, or cannot be written."""
    if file.suffix not in suffixes:
        raise OptionError(f"{option} {file}: its name must end in {' or '.join(suffixes)}")
    part = file.with_name(f"{_PART}{secrets.token_hex(8)}")  # and not the file, which would bar a name if killed here
    try:
        with suppress(FileNotFoundError):
            file.lstat()
            raise OptionError(f"{option} {file}: it exists already; choose another name")
        part.open("xb").close()
        part.unlink()
    except OSError as error:
        raise OptionError(f"{option} {file}: it cannot be written: {error.strerror}") from None


@contextmanager
def becoming(option: str, file: Path) -> Iterator[Path]:
    """Another name for what is to be a new file: what was written there when the block ends becomes the file.

    Raises OptionError, which begins with `option`, if the file has appeared meanwhile.
    """
    part = file.with_name(f"{_PART}{secrets.token_hex(8)}{file.suffix}")
    try:
        try:
            yield part
        except OSError as error:
            error.filename = str(file) if error.filename == str(part) else error.filename
            raise
        if part.exists():
            try:
                write_whole(file, part.read_bytes(), overwrite=False)
            except FileExistsError:
                raise OptionError(f"{option} {file}: it exists already; choose another name") from None
    finally:
        with suppress(OSError):  # the folder may be gone, and the first error says so
            part.unlink(missing_ok=True)


@contextmanager
def empty_folder(option: str, folder: Path, way_out: str = "") -> Iterator[None]:
    """Make a folder, and those above it; no other process can write there until the block ends.

    Raises OptionError, which begins with `option`, if it is not empty (and ends with `way_out`) or cannot be made; also
    if another process is writing there, or nothing can be written.
    """
    not_empty = OptionError(f"{option} {folder}: it is not empty, and nothing is overwritten{way_out}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(path.name != LOCK for path in folder.iterdir()):
            raise not_empty
    except OSError as error:
        raise OptionError(f"{option} {folder}: no folder can be made there: {error.strerror}") from None
    with locked(folder):
        if any(path.name != LOCK for path in folder.iterdir()):  # another process has finished in between
            raise not_empty
        yield


def new_folder(output: Path, name: str) -> Path:
    """Make the first of `name-run1`, `name-run2`, ... that is not in `output` yet; raise OptionError if none can be."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = output / f"{name}-run{number}"
            with suppress(FileExistsError):
                folder.mkdir()
                break
    except OSError as error:
        raise OptionError(f"--output {output}: no folder can be made there: {error.strerror}") from error
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a run's or a sweep's folder.

    Raises OptionError if there is no such folder, another process is writing there, nothing can be written, or the
    lock's name is that of something else, which is left alone.
    """
    if not folder.is_dir():  # FileLock would make it
        raise OptionError(f"{folder}: there is no such folder")
    lock = FileLock(folder / LOCK)
    try:
        if not _may_be_lock(folder / LOCK):
            raise OptionError(f"{folder / LOCK}: it is not an empty file, as a lock would be; move it away")
        (folder / LOCK).touch()  # which says why, where FileLock would only wait
        lock.acquire(timeout=0)
    except Timeout:
        raise OptionError(f"{folder}: another process is writing there") from None
    except OSError as error:
        raise OptionError(f"{folder}: it cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        with suppress(OSError):  # the folder may be gone, or read-only by now
            if _may_be_lock(folder / LOCK):  # another program can have written into it meanwhile
                (folder / LOCK).unlink(missing_ok=True)
        lock.release()


def _may_be_lock(path: Path) -> bool:
    """Whether it is an empty regular file, as every lock is, or nothing yet."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return True
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


def remove_if_empty(folder: Path) -> None:
    """Remove a folder, unless something is in it."""
    with suppress(OSError):
        folder.rmdir()
