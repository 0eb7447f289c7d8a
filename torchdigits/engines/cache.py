"""The user's cache folder for compiled code: what is kept is loaded again only if nobody else can have written it."""

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

from torchdigits.errors import root_cause
from torchdigits.files.writing import write_whole

MOST_KEPT = 64  # files, of 2 MB or less each; the one that was used longest ago goes first
_SUFFIX = ".so"
_DIGEST = 32  # bytes of a SHA-256, at the end of a kept file


class Cache:
    """The folder, which is made if it is missing.

    Attributes:
        folder: it, which this user alone can write to; None if there is no such place.
        problem: why there is none, or why something could not be kept, in words; may be empty.
    """

    def __init__(self) -> None:
        self.folder, self.problem = _folder()

    def find(self, key: str) -> Path | None:
        """A file that was kept whole under this key, by this user; it now counts as used."""
        if self.folder is None:
            return None
        path = self.folder / f"{key}{_SUFFIX}"
        with suppress(OSError), path.open("rb") as file:
            content = file.read()
            if _only_mine(os.fstat(file.fileno())) and content[-_DIGEST:] == _digest(key, content[:-_DIGEST]):
                os.utime(path)
                return path
        return None

    def keep(self, key: str, content: bytes) -> None:
        """Keep a file, whole or not at all. If it cannot be kept, `problem` says why."""
        if self.folder is None:
            return
        try:
            path = self.folder / f"{key}{_SUFFIX}"
            write_whole(path, content + _digest(key, content))
            path.chmod(0o600)  # whatever the umask
            self._prune()
        except OSError as error:
            self.problem = words(error)

    def _prune(self) -> None:
        """Remove the files that were used longest ago, if there are too many."""
        assert self.folder is not None
        ages = []
        for path in self.folder.glob(f"{'[0-9a-f]' * 2 * _DIGEST}{_SUFFIX}"):
            with suppress(OSError):  # another process may have removed it
                ages.append((path.stat().st_mtime, path))
        for _, path in sorted(ages)[:-MOST_KEPT]:
            with suppress(OSError):
                path.unlink()


def words(error: Exception) -> str:
    """What the system refused, and about which file; or the root cause of another exception."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return root_cause(error)


def _folder() -> tuple[Path | None, str]:
    try:
        folder = user_cache_path("torchdigits")
        if not folder.is_absolute():
            return None, f"{folder} is not an absolute path"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Path(os.path.realpath(folder))
        if not _only_mine(folder.stat()):
            return None, f"{folder} can be written to by others"
        for parent in folder.parents:  # whoever may rename a folder can put another in its place
            status = parent.stat()
            if status.st_uid not in {0, os.geteuid()} or (status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX):
                return None, f"{parent} can be written to by others"
    except (OSError, RuntimeError, ValueError) as error:
        return None, words(error)
    return folder, ""


def _only_mine(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _digest(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + content).digest()
