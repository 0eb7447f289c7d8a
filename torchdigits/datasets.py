"""Where digits come from: MNIST in either of its usual forms, or the digits that come with scikit-learn."""

import gzip
import hashlib
import os
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from torchdigits.errors import DataError, OptionError, reason
from torchdigits.pickles import Call, read_pickle

IDX_FILES_MD5 = {  # of the files as unpacked
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
IDX_FOLDER = Path("MNIST", "raw")
PICKLE_FILE = "mnist.pkl.gz"
_PICKLE_LIMIT = 256 * 2**20  # bytes unpacked; the original's are 222 million
_NUMPYS = (  # what a pickle of arrays names, by NumPy's version and Python's
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    *("numpy.ndarray", "numpy.dtype", "_codecs.encode"),
)
MNIST_FINGERPRINT = "94d51b72971cee860660d41bd4f9c77de633ce3f9150991a301fa75b82e83237"


class Digits(NamedTuple):
    """Images `(N, 784)`, uint8, 0 paper and 255 ink, and their labels `(N,)`, int64."""

    images: Tensor
    labels: Tensor


class DigitSplits(NamedTuple):
    """A dataset in three parts: to learn from, to choose by, and to be judged by once."""

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


def check_seed(seed: int) -> None:
    """Refuse what cannot be a run's seed.

    Raises:
        OptionError: it is negative, or has more than 32 bits.
    """
    if not 0 <= seed < 2**32:
        raise OptionError(f"seed {seed}: it must be a whole number from 0 to {2**32 - 1}")


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order `(count,)` in which an epoch takes its examples: a permutation that depends on (seed, epoch) alone.

    Args:
        count: number of examples.
        seed: of the run, 0 or more.
        epoch: from 0.
    """
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(count))


def blocks_of(order: Tensor, batch_size: int, block_size: int) -> list[Tensor]:
    """An epoch's order `(count, ...)` cut into blocks of S mini-batches, `(S, m, ...)`, each.

    All blocks have the same number of mini-batches, but for those that are left over, and the last, shorter mini-batch,
    which come at the end.

    Args:
        order: places of the examples.
        batch_size: m, examples in a mini-batch.
        block_size: mini-batches in a block, at most.
    """
    batch_size = min(batch_size, len(order))
    full, rest = divmod(len(order), batch_size)
    blocks = -(-full // block_size)
    size, left_over = divmod(full, blocks)
    lengths = [*[size] * blocks, left_over]
    parts = torch.split(order, [*(length * batch_size for length in lengths), rest])
    return [part.view(-1, min(batch_size, len(part)), *part.shape[1:]) for part in parts if len(part)]


def load_splits(dataset: str, data_dir: Path | str | None = None) -> DigitSplits:
    """Read a dataset.

    Args:
        dataset: `mnist` (50,000 / 10,000 / 10,000 images, the original's split; downloaded to `data_dir` where it is
            missing) or `digits` (1,217 / 290 / 290, embedded in scikit-learn).
        data_dir: the folder of MNIST: torchvision's `MNIST/raw/` with the four IDX files, or the original's
            `mnist.pkl.gz`. Default: what TORCHDIGITS_DATA_DIR names, else `data`.

    Raises:
        OptionError: an unknown dataset.
        DataError: MNIST is neither there nor to be had, or is not MNIST's bytes.
    """
    if dataset == "digits":
        return _embedded_digits()
    if dataset != "mnist":
        raise OptionError(f"unknown dataset {dataset!r}: there are mnist and digits")
    try:
        folder = fetch_mnist(data_dir)
        return _mnist_from_idx(folder) if _has_idx_files(folder) else _mnist_from_pickle(folder / PICKLE_FILE)
    except OSError as error:
        raise DataError(f"cannot read MNIST: {error}") from error


def fetch_mnist(data_dir: Path | str | None = None) -> Path:
    """Make sure that MNIST's files are there, by a download if need be.

    Args:
        data_dir: as for `load_splits`.

    Returns:
        The folder that holds `MNIST/raw/` or `mnist.pkl.gz`.

    Raises:
        DataError: it is not there and cannot be downloaded.
    """
    folder = Path(os.environ.get("TORCHDIGITS_DATA_DIR") or "data") if data_dir is None else Path(data_dir)
    if not _has_idx_files(folder) and not (folder / PICKLE_FILE).exists():
        from torchvision.datasets import MNIST  # here, because the import takes seconds

        # Without its constructor, which would take torchvision's old format, `MNIST/processed`, for what is wanted.
        mnist = MNIST.__new__(MNIST)
        mnist.root = str(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Of several processes, as torchrun starts them, one downloads, and the others find what it brought.
            with FileLock(folder / "download.lock"):
                mnist.download()
        except (OSError, RuntimeError, HTTPException) as error:
            raise DataError(
                f"no MNIST in {folder}, and no download: {' '.join(str(error).split())}; put its four IDX files into"
                f" {folder / IDX_FOLDER} or {PICKLE_FILE} into {folder}, or use --dataset digits"
            ) from error
    return folder


def _has_idx_files(folder: Path) -> bool:
    return all((folder / IDX_FOLDER / name).exists() for name in IDX_FILES_MD5)


def _mnist_from_idx(folder: Path) -> DigitSplits:
    from torchvision.datasets.mnist import read_image_file, read_label_file
    from torchvision.datasets.utils import check_integrity

    for name, md5 in IDX_FILES_MD5.items():
        path = folder / IDX_FOLDER / name
        if not check_integrity(path, md5):
            raise DataError(f"{path} is not MNIST's: truncated or altered; delete it, and it is downloaded anew")
    (images, labels), test = (
        Digits(
            read_image_file(f"{start}-images-idx3-ubyte").view(-1, 784), read_label_file(f"{start}-labels-idx1-ubyte")
        )
        for start in (folder / IDX_FOLDER / "train", folder / IDX_FOLDER / "t10k")
    )
    # The original's split: of the 60,000, the last 10,000 are for validation.
    return DigitSplits(Digits(images[:50_000], labels[:50_000]), Digits(images[50_000:], labels[50_000:]), test)


def _mnist_from_pickle(path: Path) -> DigitSplits:
    try:
        with gzip.open(path) as file:
            content = read_pickle(cast(IO[bytes], _Limited(file, _PICKLE_LIMIT)), _NUMPYS)
        training, validation, test = content
        splits = DigitSplits(
            *(Digits(_bytes_of_pixels(pixels), _labels(labels)) for pixels, labels in (training, validation, test))
        )
        if splits.fingerprint() != MNIST_FINGERPRINT:
            raise ValueError("other images or labels")
    # A damaged or hostile pickle can raise anything, on its way through gzip, pickletools and NumPy.
    except Exception as error:
        raise DataError(f"{path} is not the original's MNIST pickle: {reason(error)}") from error
    return splits


class _Limited:
    """A file that is not read further than to a number of bytes, whatever is asked for."""

    def __init__(self, file: gzip.GzipFile, limit: int) -> None:
        self._file, self._limit, self._left = file, limit, limit

    def read(self, size: int) -> bytes:
        if size > self._left:
            raise ValueError(f"more than {self._limit:,} bytes when unpacked")
        self._left -= size
        return self._file.read(size)

    def readline(self) -> bytes:
        return self._file.readline(1000)  # a name or a number


def _bytes_of_pixels(pixels: Any) -> Tensor:
    """The bytes that the pickle's makers divided by 256."""
    with np.errstate(all="ignore"):  # of what are no pixels, the fingerprint tells
        return torch.from_numpy(np.rint(_array(pixels, "f4") * 256).astype(np.uint8))


def _labels(labels: Any) -> Tensor:
    return torch.tensor(_array(labels, "i8"))


def _array(value: Any, dtype: str) -> np.ndarray:
    """The array of this type that a pickle asks NumPy for."""
    match value:
        case Call(function, _, (_, tuple(shape), Call("numpy.dtype", (str(name), *_)), fortran, numbers)) if (
            function.endswith("._reconstruct") and name == dtype
        ):
            if isinstance(numbers, Call):  # of _codecs.encode, which makes them of a text
                numbers = numbers.arguments[0]
            numbers = numbers.encode("latin1") if isinstance(numbers, str) else numbers
            return np.frombuffer(numbers, dtype).reshape(shape, order="F" if fortran else "C")
    raise ValueError(f"there is no array of {dtype} where one should be")


def _embedded_digits() -> DigitSplits:
    """The 1,797 digits of 13 people that come with scikit-learn, 8x8 pixels of 0 to 16, made like MNIST's.

    Each is enlarged to 20x20 and centred in 28x28. Of each class, in the file's order, the fifth of every six is for
    validation and the sixth for test, until both have 29: 1,217 / 290 / 290 images.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((20, 20), Image.Resampling.BICUBIC)) for image in small]
    images = np.pad(np.stack(large), ((0, 0), (4, 4), (4, 4))).reshape(-1, 784)
    labels = bunch.target.astype(np.int64)
    place = np.empty(len(labels), dtype=np.int64)  # of an example within its class
    for digit in range(10):
        place[labels == digit] = np.arange(np.count_nonzero(labels == digit))
    held_out = place < 6 * 29
    validation, test = held_out & (place % 6 == 4), held_out & (place % 6 == 5)
    return DigitSplits(
        *(
            Digits(torch.from_numpy(images[part]), torch.from_numpy(labels[part]))
            for part in (~(validation | test), validation, test)
        )
    )
