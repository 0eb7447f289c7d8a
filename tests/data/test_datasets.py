import gzip
import hashlib
import http.server
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from conftest import Hostile
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils import Bunch
from torchvision.datasets import MNIST

from torchdigits.data import datasets
from torchdigits.data.datasets import (
    IDX_FILES_MD5,
    IDX_FOLDER,
    PICKLE_FILE,
    Digits,
    DigitSplits,
    fetch_mnist,
    load_splits,
)
from torchdigits.errors import DataError, OptionError


def test_mnist_comes_in_the_originals_split_and_order(mnist: DigitSplits, mnist_dir: Path) -> None:
    assert [len(labels) for _, labels in mnist] == [50_000, 10_000, 10_000]
    for images, labels in mnist:
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert images.shape == (len(labels), 784)
    # read by another program: the bytes of the files
    bytes_of = {name: np.fromfile(mnist_dir / IDX_FOLDER / name, np.uint8) for name in IDX_FILES_MD5}
    learning = bytes_of["train-images-idx3-ubyte"][16:].reshape(60_000, 784)
    np.testing.assert_array_equal(mnist.training.images, learning[:50_000])
    np.testing.assert_array_equal(mnist.validation.images, learning[50_000:])
    np.testing.assert_array_equal(mnist.training.labels, bytes_of["train-labels-idx1-ubyte"][8:][:50_000])
    np.testing.assert_array_equal(mnist.validation.labels, bytes_of["train-labels-idx1-ubyte"][8:][50_000:])
    np.testing.assert_array_equal(mnist.test.images.ravel(), bytes_of["t10k-images-idx3-ubyte"][16:])
    np.testing.assert_array_equal(mnist.test.labels, bytes_of["t10k-labels-idx1-ubyte"][8:])


@pytest.mark.slow
def test_the_originals_pickle_gives_the_same_bytes(mnist: DigitSplits, mnist_pickle: Path, tmp_path: Path) -> None:
    (tmp_path / PICKLE_FILE).symlink_to(mnist_pickle)
    for ours, theirs in zip(load_splits("mnist", tmp_path), mnist, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)


def test_the_folder_can_come_from_the_environment(
    mnist: DigitSplits, mnist_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHDIGITS_DATA_DIR", str(mnist_dir))
    assert load_splits("mnist").fingerprint() == mnist.fingerprint()


@pytest.mark.slow
def test_mnist_is_read_without_torchvision(mnist_dir: Path) -> None:
    code = "import sys; from torchdigits.data.datasets import load_splits; load_splits('mnist'); print(*sys.modules)"
    imported = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TORCHDIGITS_DATA_DIR": str(mnist_dir)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert not {"lightning", "torchvision", "sklearn"} & {name.partition(".")[0] for name in imported.split()}


def test_embedded_digits_are_split_without_loss_and_in_balance(digits: DigitSplits) -> None:
    from sklearn.datasets import load_digits

    assert [len(labels) for _, labels in digits] == [1217, 290, 290]
    assert digits.validation.labels.bincount().tolist() == digits.test.labels.bincount().tolist() == [29] * 10
    everything = torch.cat([labels for _, labels in digits]).bincount()
    assert everything.tolist() == np.bincount(load_digits().target).tolist()
    as_rows = {image.numpy().tobytes() for images, _ in digits for image in images}
    assert len(as_rows) == len({image.tobytes() for image in load_digits().images})


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 12))
@settings(deadline=None, max_examples=50)
def test_digits_of_any_labels_are_split_without_loss(labels: list[int], times: int) -> None:
    """No image is in two parts or in none; each keeps its label; a class gives both held-out parts 29 at most."""
    labels *= times
    numbers = np.arange(len(labels))[:, np.newaxis] // 16 ** np.arange(3) % 16  # each image's own, as three pixels
    pictures = np.pad(numbers, ((0, 0), (0, 61))).reshape(-1, 8, 8).repeat(2, axis=2)[:, :, :8].astype(float)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sklearn.datasets.load_digits", lambda: Bunch(images=pictures, target=np.array(labels)))
        parts = datasets.embedded_digits()
    rows = [(image.numpy().tobytes(), int(label)) for part in parts for image, label in zip(*part, strict=True)]
    assert len({image for image, _ in rows}) == len(rows) == len(labels)
    assert sorted(label for _, label in rows) == sorted(labels)
    for digit in range(10):
        of_digit = labels.count(digit)
        held_out = [int((part.labels == digit).sum()) for part in parts[1:]]
        assert held_out == [min(29, (of_digit + 1) // 6), min(29, of_digit // 6)]


def test_embedded_digits_are_made_like_mnists(digits: DigitSplits) -> None:
    images = digits.training.images.view(-1, 28, 28)
    assert images.dtype == torch.uint8
    border = torch.ones(28, 28, dtype=torch.bool)
    border[4:24, 4:24] = False
    assert not images[:, border].any()
    assert images.amax() == 255
    # Enlarging keeps the mean grey of the picture: 20x20 pixels for 8x8.
    from sklearn.datasets import load_digits

    first = load_digits().images[0] * 255 / 16
    assert images[0, 4:24, 4:24].float().mean().item() == pytest.approx(first.mean(), rel=0.05)


def test_the_embedded_digits_stay_the_same(digits: DigitSplits) -> None:
    expected = "51dc45eb52b21ed4fb2d698d0ff68d8485130f54bab6959c9d4ec627dc249923"
    assert digits.fingerprint() == expected


def test_a_summary_has_the_fingerprint_and_the_number_of_images(digits: DigitSplits) -> None:
    digest = hashlib.sha256()
    for images, labels in digits:
        digest.update(bytes(images.flatten().tolist()))
        digest.update(b"".join(label.to_bytes(8, "little") for label in labels.tolist()))
    expected = {"sha256": digest.hexdigest(), "training": 1217, "validation": 290, "test": 290}
    assert digits.summary() == expected


def test_an_unknown_dataset_is_refused() -> None:
    with pytest.raises(OptionError, match="unknown dataset 'cifar'"):
        load_splits("cifar")


@pytest.mark.parametrize("name", IDX_FILES_MD5)
@pytest.mark.parametrize("damage", ["truncated", "altered", "empty"])
def test_a_damaged_idx_file_is_named(mnist_dir: Path, tmp_path: Path, name: str, damage: str) -> None:
    raw = tmp_path / IDX_FOLDER
    raw.mkdir(parents=True)
    for other in IDX_FILES_MD5:
        (raw / other).symlink_to(mnist_dir / IDX_FOLDER / other)
    content = bytearray((raw / name).read_bytes())
    content[-5000] ^= 1
    (raw / name).unlink()
    (raw / name).write_bytes({"truncated": content[:-1], "altered": content, "empty": bytearray()}[damage])
    with pytest.raises(DataError, match=f"{name} is not MNIST's"):
        load_splits("mnist", tmp_path)


def test_torchvisions_old_format_is_not_taken_for_mnist(
    mnist: DigitSplits, mnist_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processed = tmp_path / "MNIST" / "processed"
    processed.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(60_000, 28, 28, dtype=torch.uint8), torch.zeros(60_000)), processed / name)
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(DataError, match="no download"):
        load_splits("mnist", tmp_path)
    (tmp_path / IDX_FOLDER).rmdir()
    (tmp_path / IDX_FOLDER).symlink_to(mnist_dir / IDX_FOLDER)
    assert load_splits("mnist", tmp_path).fingerprint() == mnist.fingerprint()


def write_pickle(folder: Path, content: object) -> None:
    with gzip.open(folder / PICKLE_FILE, "wb") as file:
        file.write(content if isinstance(content, bytes) else pickle.dumps(content, protocol=2))


def arrays(count: int, fill: float) -> tuple[np.ndarray, np.ndarray]:
    return np.full((count, 784), fill, np.float32), np.zeros(count, np.int64)


@pytest.mark.parametrize("place", ["alone", "in the triple"])
def test_a_pickle_cannot_run_code(tmp_path: Path, place: str) -> None:
    canary = tmp_path / "canary"
    hostile = Hostile(canary)
    write_pickle(tmp_path, hostile if place == "alone" else (arrays(2, 0), arrays(1, 0), (hostile, arrays(1, 0)[1])))
    with pytest.raises(DataError, match=r"it asks for posix\.mkdir, which was refused"):
        load_splits("mnist", tmp_path)
    assert not canary.exists()
    with gzip.open(tmp_path / PICKLE_FILE) as file:
        pickle.load(file)  # the proof that it would have
    assert canary.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps([arrays(2, 0)] * 3, protocol=2)[:-20],
        [arrays(2, 0)] * 3,  # other images
        [arrays(2, 0)] * 2,
        [(np.zeros(3), np.zeros(3))] * 3,
        {"training": 1},
        [arrays(2, np.nan)] * 3,
    ],
    ids=["empty", "text", "truncated", "others", "two", "doubles", "dict", "nan"],
)
def test_a_pickle_of_anything_else_is_refused(tmp_path: Path, content: object, request: pytest.FixtureRequest) -> None:
    write_pickle(tmp_path, content)
    kind = request.node.callspec.id
    said = {"others": "other images or labels", "nan": "other images or labels", "doubles": "an array of f4 is missing"}
    with pytest.raises(DataError, match=f"{PICKLE_FILE} is not a pickle of the original's MNIST: {said.get(kind, '')}"):
        load_splits("mnist", tmp_path)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [1, 2, 3, 4])
def test_a_pickle_of_arrays_in_either_order_is_read(
    protocol: int, order: Literal["C", "F"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(protocol)
    bytes_of = [rng.integers(0, 256, (count, 784), np.uint8) for count in (3, 1, 2)]
    labels = [rng.integers(0, 10, len(images)) for images in bytes_of]
    expected = DigitSplits(
        *(Digits(torch.from_numpy(part), torch.from_numpy(truth)) for part, truth in zip(bytes_of, labels, strict=True))
    )
    monkeypatch.setattr(datasets, "MNIST_FINGERPRINT", expected.fingerprint())
    pixels = [np.asarray(images / np.float32(256), np.float32, order=order) for images in bytes_of]
    write_pickle(tmp_path, pickle.dumps([*zip(pixels, labels, strict=True)], protocol=protocol))
    for (images, truth), part in zip(load_splits("mnist", tmp_path), expected, strict=True):
        assert torch.equal(images, part.images)
        assert torch.equal(truth, part.labels)


def test_an_idx_file_that_is_a_folder_says_so(tmp_path: Path) -> None:
    for name in IDX_FILES_MD5:
        (tmp_path / IDX_FOLDER / name).mkdir(parents=True)
    path = tmp_path / IDX_FOLDER / "train-images-idx3-ubyte"
    with pytest.raises(DataError) as caught:
        load_splits("mnist", tmp_path)
    assert str(caught.value) == f"{path} is not a file of MNIST's: it is a folder"


def test_the_folder_is_data_if_nothing_else_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TORCHDIGITS_DATA_DIR", raising=False)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / PICKLE_FILE).touch()
    assert fetch_mnist() == Path("data")


def test_a_truncated_or_altered_download_of_the_pickle_is_refused(mnist_pickle: Path, tmp_path: Path) -> None:
    content = bytearray(mnist_pickle.read_bytes())
    (tmp_path / PICKLE_FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=PICKLE_FILE):
        load_splits("mnist", tmp_path)
    content[len(content) // 2] ^= 255
    (tmp_path / PICKLE_FILE).write_bytes(content)
    with pytest.raises(DataError, match=PICKLE_FILE):
        load_splits("mnist", tmp_path)


def test_a_pickle_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "PICKLE_LIMIT", 10**6)
    write_pickle(tmp_path, "x" * 10**6)
    with pytest.raises(DataError, match="more than 1,000,000 bytes"):
        load_splits("mnist", tmp_path)


def test_only_the_first_member_of_a_packed_file_is_read(tmp_path: Path) -> None:
    """Python's own reader takes a minute for the zeros that can follow it, and for thousands of empty members."""
    whole = pickle.dumps([arrays(2, 0)] * 3, protocol=2)
    (tmp_path / PICKLE_FILE).write_bytes(gzip.compress(whole) + bytes(10**6))
    with pytest.raises(DataError, match="other images or labels"):
        load_splits("mnist", tmp_path)
    (tmp_path / PICKLE_FILE).write_bytes(gzip.compress(whole[:-1]) + gzip.compress(whole[-1:]))
    with pytest.raises(DataError, match="pickle exhausted before seeing STOP"):
        load_splits("mnist", tmp_path)
    (tmp_path / PICKLE_FILE).write_bytes(gzip.compress(whole)[:-30])
    with pytest.raises(DataError, match="it is cut off"):
        load_splits("mnist", tmp_path)
    with (tmp_path / PICKLE_FILE).open("r+b") as file:
        file.truncate(24 * 2**20 + 1)
    with pytest.raises(DataError, match="it has 25,165,825 bytes, more than the 25,165,824 that are allowed"):
        load_splits("mnist", tmp_path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_text_that_takes_four_times_its_bytes_is_refused(protocol: int, tmp_path: Path) -> None:
    latin = "".join(map(chr, range(256))) * 10
    for text, said in ((latin, "values to unpack"), (latin + "Ā", "a text that is no array's"), ("😀", "values to")):
        content = pickle.dumps((text,), protocol=protocol)
        write_pickle(tmp_path, content)
        with pytest.raises(DataError, match=said):
            load_splits("mnist", tmp_path)


def test_lines_count_as_what_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = b"(" + b"".join(b"V" + b"x" * 990 + b"\n" for _ in range(100)) + b"t."
    write_pickle(tmp_path, lines)
    for limit, said in ((len(lines), "too many values to unpack"), (len(lines) - 1, "more than .* when unpacked")):
        monkeypatch.setattr(datasets, "PICKLE_LIMIT", limit)
        with pytest.raises(DataError, match=said):
            load_splits("mnist", tmp_path)
    write_pickle(tmp_path, b"V" + b"x" * 1000 + b"\n.")
    with pytest.raises(DataError, match="a line of 1,000 bytes"):
        load_splits("mnist", tmp_path)


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The address of a server of the files in a folder."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_mnist_is_downloaded_where_it_is_missing(
    mnist: DigitSplits, mnist_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, data = tmp_path / "mirror", tmp_path / "some" / "data"
    mirror.mkdir()
    resources = []
    for name in IDX_FILES_MD5:
        packed = gzip.compress((mnist_dir / IDX_FOLDER / name).read_bytes(), compresslevel=1)
        (mirror / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    with serve(mirror) as address:
        monkeypatch.setattr(MNIST, "mirrors", [address])
        monkeypatch.setattr(MNIST, "resources", resources)
        assert load_splits("mnist", data).fingerprint() == mnist.fingerprint()
    shutil.rmtree(mirror)
    assert load_splits("mnist", data).fingerprint() == mnist.fingerprint()  # without a server: it is there


def test_of_several_processes_one_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = []

    def download(mnist: MNIST) -> None:
        """As torchvision's: nothing, if the files are there."""
        folder = Path(mnist.root) / IDX_FOLDER
        if not folder.exists():
            downloads.append(folder)
            time.sleep(0.2)
            folder.mkdir(parents=True)

    monkeypatch.setattr(MNIST, "download", download)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fetch_mnist, [tmp_path / "data"] * 4)) == [tmp_path / "data"] * 4
    assert len(downloads) == 1


def test_a_download_that_does_not_match_its_checksum_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for name in IDX_FILES_MD5:
        (mirror / f"{name}.gz").write_bytes(gzip.compress(b"something else"))
    with serve(mirror) as address:
        monkeypatch.setattr(MNIST, "mirrors", [address])
        with pytest.raises(DataError, match="File not found or corrupted"):
            load_splits("mnist", tmp_path / "data")


def test_without_mnist_and_network_the_error_says_where_why_and_what_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])  # the discard port: nobody listens
    with pytest.raises(DataError) as caught:
        load_splits("mnist", tmp_path / "nowhere")
    message = str(caught.value)
    assert str(tmp_path / "nowhere") in message
    assert "Connection refused" in message
    assert "--dataset digits" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_folder_whose_name_cannot_be_one_is_an_error_of_the_data(name: str) -> None:
    with pytest.raises(DataError, match="and no download: "):
        load_splits("mnist", name)
