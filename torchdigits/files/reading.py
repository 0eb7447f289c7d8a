"""What all readers of foreign files have in common."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchdigits.errors import CheckpointError, TorchDigitsError, reason


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


def check_archive(path: Path) -> None:
    """Raise CheckpointError if an archive may unpack to more than its size: torch and `numpy.savez` do not compress."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"cannot load {path}: it is compressed, and may unpack to far more")
    names = {entry.filename for entry in entries}
    if len(names) < len(entries) or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(f"cannot load {path}: its entries overlap")
