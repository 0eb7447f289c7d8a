"""Where digits come from: MNIST in either of its usual forms, or the digits that come with scikit-learn."""

import hashlib
import io
import os
import pickle
import re
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from torchdigits.errors import DataError, OptionError, reason
from torchdigits.files.pickles import Call, read_pickle
from torchdigits.files.reading import open_regular, reading

IDX_FILES_MD5 = {  # of the files as unpacked
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
_MOST_IDX_BYTES = 16 + 60_000 * 784
IDX_FOLDER = Path("MNIST", "raw")
PICKLE_FILE = "mnist.pkl.gz"
PICKLE_LIMIT = 256 * 2**20  # bytes unpacked; the original's are 222 million
_MOST_PACKED = 24 * 2**20  # bytes; the original's are 17 million
_LONGEST_LINE = 1000  # bytes of an opcode's argument that ends with a line
_NUMPYS = (  # what a pickle of arrays names, by NumPy's version and Python's
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    *("numpy.ndarray", "numpy.dtype", "_codecs.encode"),
)
_TEXTS = (pickle.BINUNICODE, pickle.BINUNICODE8)
_NOT_LATIN = re.compile(rb"[\xc4-\xff]")  # begins a character after Latin-1's in UTF-8
MNIST_FINGERPRINT = "94d51b72971cee860660d41bd4f9c77de633ce3f9150991a301fa75b82e83237"


class Digits(NamedTuple):
    """Images `(N, 784)`, uint8, 0 paper and 255 ink, and their labels `(N,)`, int64."""

    images: Tensor
    labels: Tensor


class DigitSplits(NamedTuple):
    """A dataset in three parts: to learn from, to choose the best epoch by, and to test the result on once."""

    training: Digits
    validation: Digits
    test: Digits

    def fingerprint(self) -> str:
        """SHA-256 of all images and labels in their order, in hexadecimal."""
        digest = hashlib.sha256()
        for images, labels in self:
            digest.update(images.numpy().tobytes())
            digest.update(labels.numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def summary(self) -> dict[str, Any]:
        """The fingerprint as `sha256`, and the number of images in each part, for a record of what was trained on."""
        return {"sha256": self.fingerprint()} | {name: len(part.labels) for name, part in self._asdict().items()}


def load_splits(dataset: str, data_dir: Path | str | None = None) -> DigitSplits:
    """Read a dataset.

    Args:
        dataset: `mnist` (50,000 / 10,000 / 10,000 images, the original's split; downloaded if it is missing) or
            `digits` (1,217 / 290 / 290 images, which come with scikit-learn).
        data_dir: the folder of MNIST: torchvision's `MNIST/raw/` with the four IDX files, or the original's
            `mnist.pkl.gz`. Default: what TORCHDIGITS_DATA_DIR names, else `data`.

    Raises:
        OptionError: the dataset is unknown.
        DataError: MNIST is missing and cannot be downloaded, or its files are not MNIST's.
    """
    if dataset == "digits":
        return embedded_digits()
    if dataset != "mnist":
        raise OptionError(f"unknown dataset {dataset!r}: it must be mnist or digits")
    try:
        folder = fetch_mnist(data_dir)
        return _mnist_from_idx(folder) if _has_idx_files(folder) else _mnist_from_pickle(folder / PICKLE_FILE)
    except OSError as error:
        raise DataError(f"cannot read MNIST: {error}") from error


def fetch_mnist(data_dir: Path | str | None = None) -> Path:
    """Download MNIST's files, unless they are there; gives the folder that holds `MNIST/raw/` or `mnist.pkl.gz`.

    Args:
        data_dir: as for `load_splits`.

    Raises:
        DataError: they are missing and cannot be downloaded.
    """
    folder = _mnist_folder(data_dir)
    if has_mnist(folder):
        return folder
    from torchvision.datasets import MNIST  # here, because the import takes seconds

    mnist = MNIST.__new__(MNIST)  # not by its constructor, which would accept torchvision's old `MNIST/processed`
    mnist.root = str(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (lock := folder / "download.lock").is_symlink():
            raise ValueError(f"{lock} is a symbolic link; remove it")
        with FileLock(lock):  # of torchrun's processes one downloads, and the others find the files
            mnist.download()
    except (OSError, ValueError, RuntimeError, HTTPException) as error:  # ValueError: NUL in the name
        raise DataError(
            f"no MNIST in {folder}, and no download: {reason(error)}; put its four IDX files into"
            f" {folder / IDX_FOLDER} or {PICKLE_FILE} into {folder}, or use --dataset digits"
        ) from error
    return folder


def has_mnist(data_dir: Path | str | None = None) -> bool:
    """Whether MNIST's files are where `load_splits` looks for them, so that it downloads nothing."""
    folder = _mnist_folder(data_dir)
    return _has_idx_files(folder) or _is_there(folder / PICKLE_FILE)


def _mnist_folder(data_dir: Path | str | None) -> Path:
    return Path(os.environ.get("TORCHDIGITS_DATA_DIR") or "data") if data_dir is None else Path(data_dir)


def _has_idx_files(folder: Path) -> bool:
    return all(_is_there(folder / IDX_FOLDER / name) for name in IDX_FILES_MD5)


def _is_there(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110  # raises nothing, whatever the name


def _mnist_from_idx(folder: Path) -> DigitSplits:
    contents = []
    for name, md5 in IDX_FILES_MD5.items():
        path = folder / IDX_FOLDER / name
        with reading(path, "file of MNIST's", DataError), open_regular(path, _MOST_IDX_BYTES) as file:
            if hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() != md5:
                raise DataError(f"{path} is not MNIST's: truncated or altered; delete it, and it is downloaded again")
            file.seek(16 if "images" in name else 8)  # bytes; the rest is a byte for each pixel or label
            contents.append(torch.from_numpy(np.fromfile(file, np.uint8)))
    images, labels = (torch.cat(contents[kind::2]) for kind in (0, 1))
    # As in the original, the last 10,000 of the 60,000 training images are for validation.
    parts = (torch.split(part, [50_000, 10_000, 10_000]) for part in (images.view(-1, 784), labels.long()))
    return DigitSplits(*map(Digits, *parts))


def _mnist_from_pickle(path: Path) -> DigitSplits:
    with reading(path, "pickle of the original's MNIST", DataError):
        with open_regular(path, _MOST_PACKED) as packed:
            training, validation, test = read_pickle(cast(IO[bytes], _Limited(packed)), _NUMPYS)
        splits = DigitSplits(_digits(training), _digits(validation), _digits(test))
        if splits.fingerprint() != MNIST_FINGERPRINT:
            raise ValueError("other images or labels")
        return splits


class _Unpacked(io.RawIOBase):
    """The first member of a gzip file. Python's own reader goes on behind it, over any number of empty ones."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed, self._unpacker = packed, zlib.decompressobj(zlib.MAX_WBITS | 16)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = b""
        while not part and not self._unpacker.eof:
            if not (packed := self._unpacker.unconsumed_tail or self._packed.read(2**16)):
                raise EOFError("it is cut off")
            part = self._unpacker.decompress(packed, len(buffer))
        buffer[: len(part)] = part
        return len(part)


class _Limited:
    """A pickle that is packed by gzip, of which nothing is read that is larger than MNIST's."""

    def __init__(self, packed: IO[bytes]) -> None:
        self.file, self.left = io.BufferedReader(_Unpacked(packed), 2**16), PICKLE_LIMIT
        self._opcode = b""

    def read(self, size: int) -> bytes:
        self._take(size)
        content = self.file.read(size)
        if size == 1:
            self._opcode = content
        elif size > _LONGEST_LINE and self._opcode in _TEXTS and _NOT_LATIN.search(content):
            raise ValueError("a text that is no array's")  # one such character makes all four times as large
        return content

    def readline(self) -> bytes:
        line = self.file.readline(_LONGEST_LINE)
        self._take(len(line))
        if len(line) == _LONGEST_LINE:
            raise ValueError(f"a line of {_LONGEST_LINE:,} bytes")
        return line

    def _take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ValueError(f"more than {PICKLE_LIMIT:,} bytes when unpacked")


def _digits(part: Any) -> Digits:
    """A part of the original's MNIST, whose makers divided the pixels by 256."""
    pixels, labels = part
    with np.errstate(all="ignore"):  # the fingerprint tells whether they are pixels
        images = np.rint(_array(pixels, "f4") * 256).astype(np.uint8)
    return Digits(torch.from_numpy(images), torch.tensor(_array(labels, "i8")))


def _array(value: Any, dtype: str) -> np.ndarray:
    """The array that a pickle asks NumPy for, if it is of this type."""
    match value:
        case Call(function, _, (_, tuple(shape), Call("numpy.dtype", (str(name), *_)), fortran, numbers)) if (
            function.endswith("._reconstruct") and name == dtype
        ):
            if isinstance(numbers, Call):  # of _codecs.encode, which makes bytes of a text
                numbers = numbers.arguments[0]
            numbers = numbers.encode("latin1") if isinstance(numbers, str) else numbers
            return np.frombuffer(numbers, dtype).reshape(shape, order="F" if fortran else "C")
    raise ValueError(f"an array of {dtype} is missing")


def embedded_digits() -> DigitSplits:
    """The 1,797 digits by 13 people that come with scikit-learn, 8x8 pixels of 0 to 16, made like MNIST's.

    Each is enlarged to 20x20 pixels and centred in 28x28. In every class, in the file's order, the fifth of every six
    images is for validation and the sixth for test, until both have 29: 1,217 / 290 / 290 images.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((20, 20), Image.Resampling.BICUBIC)) for image in small]
    images = np.pad(np.stack(large), ((0, 0), (4, 4), (4, 4))).reshape(-1, 784)
    labels = bunch.target.astype(np.int64)
    place = np.eye(10, dtype=int)[labels].cumsum(axis=0)[range(len(labels)), labels] - 1  # of each in its class
    held_out = place < 6 * 29
    validation, test = held_out & (place % 6 == 4), held_out & (place % 6 == 5)
    parts = (~(validation | test), validation, test)
    return DigitSplits(*(Digits(torch.from_numpy(images[part]), torch.from_numpy(labels[part])) for part in parts))
