"""Files made to harm whoever opens them, or merely broken, and what every command makes of them.

TORCHDIGITS_FUZZ=10000 pytest tests/files/test_hostile.py -k fuzzed   tries that many inputs for each reader, and others
each time; without it, the same few.
"""

import faulthandler
import gzip
import io
import json
import os
import pickle
import pickletools
import random
import re
import signal
import struct
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import Outcome, assert_one_line_error
from hostile import (
    BIASES,
    DOUBLING,
    SOUND,
    WEIGHTS,
    Named,
    broken_checkpoints,
    broken_json,
    broken_npz,
    broken_pictures,
    code_in_checkpoints,
    code_in_pickles,
    damaged_checkpoints,
    drawn,
    endless_pictures,
    fields_of,
    mnist_pickles,
    npy,
    npz,
    number,
    of_layer,
    saved,
    spare_fields,
    text,
    with_checksums,
    zipped,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from torchdigits import SigmoidMLP, load_network
from torchdigits.commands.evaluate import _read_curves
from torchdigits.data import datasets
from torchdigits.data.datasets import IDX_FILES_MD5, IDX_FOLDER, PICKLE_FILE, DigitSplits, load_splits
from torchdigits.errors import CheckpointError, ImageError, TorchDigitsError
from torchdigits.files.formats import to_json, to_npz
from torchdigits.files.networks import save_network
from torchdigits.population.folder import SweepFolder
from torchdigits.population.members import SweepOptions
from torchdigits.recognition import workers
from torchdigits.recognition.pictures import FORMATS
from torchdigits.recognition.preparation import prepare

Run = Callable[..., Outcome]

_FUZZ = os.environ.get("TORCHDIGITS_FUZZ")
fuzzed = settings(
    max_examples=int(_FUZZ or 40), deadline=None, database=None, derandomize=_FUZZ is None, report_multiple_bugs=False
)


@contextmanager
def bounded(megabytes: int = 1500) -> Iterator[None]:
    """10 s of a processor for what is within, and under 2 GB: 1.5 more than before, as a command begins with 0.4."""

    def late(*_: object) -> None:
        pytest.fail("it takes more than 10 s")

    status, before = Path("/proc/self/status"), signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, 10)
    # Where it does nothing, or no Python that could hear of the time
    faulthandler.dump_traceback_later(120, exit=True, file=sys.__stderr__ or sys.stderr)
    if status.exists():
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
        start = _kilobytes(status, "VmRSS")
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        faulthandler.cancel_dump_traceback_later()
    if status.exists():
        assert _kilobytes(status, "VmHWM") - start < 1024 * megabytes


def _kilobytes(status: Path, name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+)", status.read_text())[1])  # type: ignore[index]


def assert_refused(outcome: Outcome, name: str) -> None:
    try:
        assert_one_line_error(outcome)
        assert outcome.err[:-1].isprintable()
        assert len(outcome.err) < 2000
    except AssertionError as error:
        raise AssertionError(name) from error


# The commands


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("seven") / "seven.png"
    path.write_bytes(drawn("PNG"))
    return path


Command = Callable[[Path], Outcome]


@pytest.fixture
def commands(
    run_script: Run, digits: DigitSplits, seven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Command]:
    """All that read a network."""
    monkeypatch.setattr(datasets, "embedded_digits", lambda: digits)  # making them takes most of the time
    monkeypatch.setattr(pytest.importorskip("uvicorn").Server, "run", lambda *_: None)
    (tmp_path / "converted").mkdir()
    return [
        lambda path: run_script("predict.py", seven, "--checkpoint", path),
        lambda path: run_script("convert.py", path, tmp_path / "converted" / "x.npz", "--overwrite"),
        lambda path: run_script("serve.py", "--port", 0, "--checkpoint", path),
        lambda path: run_script("evaluate.py", "--dataset", "digits", "--checkpoint", path),
    ]


def not_refused(files: Named, path: Path, *commands: Command) -> set[str]:
    """Gives each file to each command; the names of those that are not refused by all."""
    sound, before = set(), {*path.parent.rglob("*")} | {path}
    for name, content in files:
        path.write_bytes(content)
        for command in commands:
            with bounded():
                outcome = command(path)
            if outcome.status == 0:
                assert outcome.err == "", name
                sound.add(name)
            else:
                assert_refused(outcome, name)
        assert {*path.parent.rglob("*")} - {path.parent / "converted" / "x.npz"} <= before, name  # as a canary
    return sound


def test_the_canary_would_appear(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "x.ckpt"
    for _, value in code_in_pickles(canary):
        pickle.loads(b"\x80\x04" + value + b".")
        canary.rmdir()
    for name, content in code_in_checkpoints(canary):
        if name.endswith("in hyper_parameters") or name == "torch's old format":
            path.write_bytes(content)
            torch.load(path, weights_only=False)
            canary.rmdir()
    for name, content in broken_npz(canary):
        if name.endswith("as objects"):
            path.write_bytes(content)
            with np.load(path, allow_pickle=True) as arrays, suppress(ValueError):
                arrays["weights_1"]
            canary.rmdir()


def not_refused_in_turn(files: Named, path: Path, commands: list[Command]) -> set[str]:
    """Gives each file to one of the commands, in turn; the names of those that are not refused."""
    turns = enumerate(files)
    return set().union(*(not_refused(iter([file]), path, commands[turn % len(commands)]) for turn, file in turns))


def test_checkpoints_run_no_code(commands: list[Command], tmp_path: Path) -> None:
    assert not not_refused_in_turn(code_in_checkpoints(tmp_path / "canary"), tmp_path / "x.ckpt", commands)


def test_broken_checkpoints_are_one_line(commands: list[Command], tmp_path: Path) -> None:
    sound = not_refused_in_turn(broken_checkpoints(), tmp_path / "x.ckpt", commands)
    assert sound == {"a memo of 4 billion"}


def test_damaged_checkpoints_are_one_line(commands: list[Command], tmp_path: Path) -> None:
    sound = not_refused_in_turn(damaged_checkpoints(), tmp_path / "x.ckpt", commands)
    assert not any(name.startswith("cut off") for name in sound)
    assert len(sound) < 20, sound


def test_what_is_no_run_is_not_resumed(run_script: Run, tmp_path: Path) -> None:
    files = chain(code_in_checkpoints(tmp_path / "canary"), broken_checkpoints(), islice(damaged_checkpoints(), 20))
    path = tmp_path / "last.ckpt"
    assert not not_refused(files, path, lambda path: run_script("train.py", "--resume", path.parent))


def test_hyper_parameters_of_lightning_run_no_code(commands: list[Command], tmp_path: Path) -> None:
    """Lightning's issue 21822: it calls what the hyper-parameter `_instantiator` names, as `_class_path` says."""
    state = {f"network.{name}": value for name, value in SigmoidMLP().state_dict().items()}
    path = str(tmp_path / "canary")
    for instantiator in ("os.mkdir", "lightning.pytorch.cli.instantiate_module", ["os.mkdir"]):
        parameters = {"_instantiator": instantiator, "_class_path": "antigravity", "sizes": path, "path": path}
        content = saved({"state_dict": state, "hyper_parameters": parameters, "hparams_name": "kwargs"})
        assert not_refused(iter([("x", content)]), tmp_path / "x.ckpt", *commands) == {"x"}


def test_broken_json_is_one_line(commands: list[Command], tmp_path: Path) -> None:
    assert not_refused_in_turn(broken_json(), tmp_path / "x.json", commands) == set()


def test_broken_npz_are_one_line(commands: list[Command], tmp_path: Path) -> None:
    assert not not_refused_in_turn(broken_npz(tmp_path / "canary"), tmp_path / "x.npz", commands)


@pytest.mark.slow
def test_broken_pictures_are_one_line_each(run_script: Run, tmp_path: Path) -> None:
    names = [name for name, _ in broken_pictures()]
    for place, (name, content) in enumerate(broken_pictures()):
        (tmp_path / f"{place:03}{Path(name).suffix}").write_bytes(content)
    outcome = run_script("predict.py", tmp_path)
    assert outcome.status == 2
    refused = [int(place) for place in re.findall(rf"^error: {tmp_path}/(\d+)\.\w+: .+$", outcome.err, re.MULTILINE)]
    assert len(refused) == outcome.err.count("\n")
    sound = {name for place, name in enumerate(names) if place not in refused}
    assert sound == {"a directory that is its own next.tif"}  # of which the first picture is read
    assert outcome.out.count("\n") == 1
    assert all(line.isprintable() and len(line) < 2000 for line in outcome.err.splitlines())


@pytest.mark.slow
def test_pictures_that_would_take_all_time_or_memory_end_with_their_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SECONDS", 1)
    monkeypatch.setattr(workers, "MEMORY", 200 * 2**20)

    def answer(picture: tuple[str, bytes]) -> str:
        try:
            some.work(io.BytesIO(picture[1]), "look")
        except ImageError as error:
            return str(error)
        return "read"  # as a fast processor does with some in time

    with bounded(), workers.Workers(2) as some, ThreadPoolExecutor(2) as pool:
        answers = [*pool.map(answer, endless_pictures())]
        refused = [line for line in answers if line != "read"]
        assert all(re.search("would take more than|cannot be read|broke down", line) for line in refused)
        assert len(refused) > len(answers) // 2
        assert some.work(io.BytesIO(drawn("PNG")), "look")["pixels"].any()


def odd_files(folder: Path) -> Iterator[Path]:
    """What is no file of some bytes: a pipe that nobody writes to, a device without end, gigabytes of a hole."""
    os.mkfifo(folder / "pipe")
    yield folder / "pipe"
    (folder / "device").symlink_to("/dev/zero")
    yield folder / "device"
    with (folder / "hole").open("wb") as file:
        file.truncate(3 * 2**30)
    yield folder / "hole"
    yield folder


@pytest.mark.parametrize(
    "name",
    ["x.ckpt", "x.json", "x.npz", "x.png", "sweep.json", "sweep.csv", "run.json", "metrics.csv", PICKLE_FILE, "raw"],
)
def test_what_is_no_regular_file_of_a_usual_size_is_refused_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / "there" / name
    path.parent.mkdir()
    if name == "raw":
        path = tmp_path / "there" / IDX_FOLDER / [*IDX_FILES_MD5][-1]
        path.parent.mkdir(parents=True)
        for other in IDX_FILES_MD5:
            (path.parent / other).touch()
        path = path.parent / next(iter(IDX_FILES_MD5))
        path.unlink()
    read: Callable[[Path], object] = {
        "x.png": picture_in, PICKLE_FILE: mnist_in, "raw": mnist_in, "sweep.json": sweep_in, "sweep.csv": sweep_in,
        "run.json": curves_in, "metrics.csv": curves_in,
    }.get(name, load_network)  # fmt: skip
    for odd in odd_files(tmp_path):
        path.symlink_to(odd)
        with bounded(megabytes=100), pytest.raises(TorchDigitsError, match=r"it is a |it has 3,221,225,472 bytes"):
            read(path)
        path.unlink()


def test_texts_of_many_small_parts_are_refused_before_they_are_objects(tmp_path: Path) -> None:
    for name, content in {
        "x.json": b"[" + b"[0]," * 4_000_000 + b"0]",
        "x.npz": npz({}) + b"PK\x01\x02" + bytes(42) * 3 + b"PK\x01\x02" * 10_000,
        "x.ckpt": zipped(SOUND, {f"data/{key}": b"" for key in range(10_001)}),
    }.items():
        (tmp_path / name).write_bytes(content)
        with bounded(megabytes=200), pytest.raises(CheckpointError, match=r"more than .* (lists|entries)"):
            load_network(tmp_path / name)


def test_keys_of_one_hash_are_refused(tmp_path: Path) -> None:
    """A dictionary of integers k * (2**61 - 1), whose hashes are all 0, takes a time that grows with their square."""
    keys = [number(k * (2**61 - 1)) for k in range(1, 40_000)]
    path = tmp_path / "x.ckpt"
    for value in (
        b"}(" + b"".join(key + b"N" for key in keys) + b"u",
        b"N" + b"".join(b"p%d\n" % (k * (2**61 - 1)) for k in range(1, 40_000)),
    ):
        path.write_bytes(zipped(of_layer(WEIGHTS, BIASES, hyper_parameters=value)))
        with bounded(), pytest.raises(CheckpointError, match="neither text nor a usual number"):
            load_network(path)


def test_pickles_of_mnist_run_no_code(run_script: Run, tmp_path: Path) -> None:
    packed = ((name, gzip.compress(content, 1)) for name, content in mnist_pickles(tmp_path / "canary"))
    path = tmp_path / PICKLE_FILE
    assert not not_refused(packed, path, lambda path: run_script("evaluate.py", "--data-dir", path.parent))


def test_packed_pickles_that_are_broken_are_one_line(run_script: Run, tmp_path: Path) -> None:
    part = (np.zeros((2, 784), np.float32), np.zeros(2, np.int64))
    good = gzip.compress(pickle.dumps([part] * 3, 2))
    chance = random.Random(7)
    files = {f"cut off after {length}": good[:length] for length in range(0, len(good), 64)}
    files["300 MB"] = gzip.compress(b"\x80\x02" + text("x" * 10**6)) + gzip.compress(text("x" * 10**6)) * 300
    files["a text of 250 MB"] = gzip.compress(b"X" + struct.pack("<I", 25 * 10**7)) + gzip.compress(b"x" * 10**6) * 250
    for place in (chance.randrange(len(good)) for _ in range(20)):
        files[f"altered at {place}"] = (
            good[:place] + bytes([good[place] ^ 1 << chance.randrange(8)]) + good[place + 1 :]
        )
    path = tmp_path / PICKLE_FILE
    assert not not_refused(iter(files.items()), path, lambda path: run_script("evaluate.py", "--data-dir", path.parent))


def test_lying_idx_files_are_one_line_before_anything_is_allocated(
    run_script: Run, mnist_dir: Path, tmp_path: Path
) -> None:
    raw = tmp_path / IDX_FOLDER
    raw.mkdir(parents=True)
    for name in IDX_FILES_MD5:
        (raw / name).symlink_to(mnist_dir / IDX_FOLDER / name)
    labels = (mnist_dir / IDX_FOLDER / "train-labels-idx1-ubyte").read_bytes()
    for name, content in {
        "train-images-idx3-ubyte": struct.pack(">4I", 0x803, 2**32 - 1, 28, 28) + bytes(784),
        "t10k-images-idx3-ubyte": struct.pack(">4I", 0x803, 2**31, 2**31, 2**31),
        "train-labels-idx1-ubyte": labels[:8] + b"\x0a" + labels[9:],
        "t10k-labels-idx1-ubyte": struct.pack(">2I", 0x801, 2**32 - 1),
    }.items():
        (raw / name).unlink()
        (raw / name).write_bytes(content)
        with bounded(megabytes=100):
            outcome = run_script("evaluate.py", "--data-dir", tmp_path)
        assert_one_line_error(outcome, f"{name} is not MNIST's")
        (raw / name).unlink()
        (raw / name).symlink_to(mnist_dir / IDX_FOLDER / name)


# The records of runs and sweeps

_OPTIONS = SweepOptions(dataset="digits", seeds=2, epochs=2)
_SWEEP = json.dumps({"options": _OPTIONS.to_plain(), "parts": []})
_ROWS = "hidden,learning_rate,seed,epoch,validation_correct,test_correct,lost_digits\n" + "".join(
    f"30,3.0,{seed},{epoch},200,190,35\n" for seed in (0, 1) for epoch in (1, 2)
)
_RUN = json.dumps(
    {
        "options": {"dataset": "digits", "hidden": [30], "learning_rate": 3.0, "batch_size": 10, "seed": 7},
        "engine": "eager, as it is short",
        "hardware": {"devices": 1},
    }
)
_METRICS = """epoch,training_cost,training_accuracy,validation_cost,validation_accuracy,seconds
1,0.4,0.5,0.3,0.6,1.5
2,0.3,0.6,0.2,0.7,1.5
"""


def broken_tables(good: str, count: str) -> Named:
    for value in ("9" * 30, "9" * 5000, "-1", "1e999", "nan", "", "x" * 200_000, "\x1b[31m", "\0"):
        yield f"{value[:20]!r} for a count", good.replace(count, value, 1).encode()
    yield "no rows", b"\xef\xbb\xbf" + good.partition("\n")[0].encode()
    yield "no text", b"\xff\xfe" + good.encode()
    yield "quoted to the end", good.replace("0.", '"0.', 1).replace("3.0", '"3.0', 1).encode()
    yield "a row twice", (good + good.splitlines()[-1]).encode()
    yield "other epochs", good.replace("2,", "99,").encode()
    yield "many columns", b"," * 10**6


def broken_records(good: str) -> Named:
    yield "nothing", b""
    yield "nested", b"[" * 10**6
    yield "a dataset nested", good.replace('"digits"', "[" * 800 + "]" * 800).encode()
    yield "integers of many digits", re.sub(r"\d+", "9" * 10**5, good).encode()
    yield "no text", b"\xff" + good.encode()
    yield "a dataset that commands the terminal", good.replace("digits", r"\u001b[31m\n").encode()
    yield "a dataset of 1 MB", good.replace("digits", r"x\n" * 10**6).encode()
    yield "half a surrogate", good.replace("digits", r"\ud800").encode()
    for value in ("null", "[]", '"x"', "-1", '{"dataset": "digits"}', '["ab", "cd"]'):
        yield f"options of {value}", re.sub(r'(?<="options": )\{.*?\}', value, good).encode()


@pytest.mark.parametrize("name", ["sweep.json", "sweep.csv"])
def test_broken_records_of_sweeps_are_one_line(
    run_script: Run, digits: DigitSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(datasets, "embedded_digits", lambda: digits)  # making them takes most of the time
    again = ("sweep.py", "--dataset", "digits", "--seeds", 2, "--epochs", 2, "--output", tmp_path, "--resume")
    (tmp_path / "sweep.json").write_text(_SWEEP)
    (tmp_path / "sweep.csv").write_text(_ROWS)
    (tmp_path / "best.ckpt").touch()
    files = broken_records(_SWEEP) if name == "sweep.json" else broken_tables(_ROWS, "200")
    assert not not_refused(files, tmp_path / name, lambda _: run_script(*again))


@pytest.mark.parametrize("name", ["run.json", "metrics.csv"])
def test_broken_records_of_runs_are_one_line(run_script: Run, tmp_path: Path, name: str) -> None:
    save_network(SigmoidMLP([784, 10]), tmp_path / "x.ckpt")
    figures = ("--checkpoint", tmp_path / "x.ckpt", "--dataset", "digits", "--figures", tmp_path / "report")
    (tmp_path / "metrics.csv").write_text(_METRICS)
    (tmp_path / "run.json").write_text(_RUN)
    files = broken_records(_RUN) if name == "run.json" else broken_tables(_METRICS, "0.4")
    assert not not_refused(files, tmp_path / name, lambda _: run_script("evaluate.py", *figures))


# Mutations of sound files


class Reader(NamedTuple):
    """A file, the pieces that it is made of, others to put in between, what makes a file of them, and what reads it."""

    name: str
    pieces: list[bytes]
    spare: list[bytes]
    read: Callable[[Path], object]
    pack: Callable[[bytes], bytes] = bytes


def network_in(path: Path) -> None:
    network = load_network(path)
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    assert network(torch.zeros(2, network.sizes[0], dtype=next(network.parameters()).dtype)).isfinite().all()


def picture_in(path: Path) -> None:
    pixels = prepare(path)
    assert pixels.shape == (784,)
    assert pixels.dtype == np.uint8


def sweep_in(path: Path) -> None:
    for name, sound in (("sweep.json", _SWEEP), ("sweep.csv", _ROWS), ("best.ckpt", "")):
        if name != path.name:
            (path.parent / name).write_text(sound)
    sweep = SweepFolder(path.parent, _OPTIONS)
    sweep.read()
    assert sweep.known <= set(_OPTIONS.members())
    assert len(sweep.rows) == 2 * sweep.finished


def curves_in(path: Path) -> None:
    for name, sound in (("metrics.csv", _METRICS), ("run.json", _RUN)):
        if name != path.name:
            (path.parent / name).write_text(sound)
    rows, title = _read_curves(path.parent) or ([], "")
    assert title.isprintable()
    assert [row["epoch"] for row in rows] == [*range(1, len(rows) + 1)]


def mnist_in(path: Path) -> None:
    load_splits("mnist", path.parents[2] if path.parent.name == "raw" else path.parent)


def chunks(content: bytes, size: int = 16) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


def opcodes(pickled: bytes) -> list[bytes]:
    places = [place for _, _, place in pickletools.genops(pickled) if place is not None]
    return [pickled[start:end] for start, end in pairwise([*places, len(pickled)])]


def tokens(content: str) -> list[bytes]:
    return [token.encode() for token in re.findall(r'[-+.\w]+|".*?"|\s+|.', content)]


_BYTES = [b"", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"PK\x01\x02", bytes(range(256))]
_WORDS = [
    b"1e999",
    b"-1",
    b"0",
    b"NaN",
    b"null",
    b"true",
    b'"x"',
    b"[]",
    b"{}",
    b"[",
    b"9" * 30,
    b"\0",
    b"\xff",
    b'"\n',
]
_OPCODES = [
    *(number(value) for value in (-1, 0, 2**31, 2**62, 2**100)),
    *(text("x"), *(bytes([opcode]) for opcode in b"N]})(tRbQusaelo02.")),
    *(DOUBLING, b"h\0", b"cos\nmkdir\n", b"cbuiltins\nbytearray\n", b"r\xff\xff\xff\xff", b"X\xff\xff\xff\x7f"),
]


def readers() -> Iterator[Reader]:
    network = SigmoidMLP([5, 3, 2])
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    content = saved({"state_dict": state, "hyper_parameters": {"sizes": [5, 3, 2]}, "epoch": 3, "loops": {"x": [1.5]}})
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        records = {f"data/{key}": file.read(f"archive/data/{key}") for key in range(4)}
        pickled = opcodes(file.read("archive/data.pkl"))
    yield Reader("x.ckpt", chunks(content), _BYTES, network_in)
    yield Reader("pickled.ckpt", pickled, _OPCODES, network_in, lambda pickled: zipped(pickled, records))
    yield Reader("x.json", tokens(to_json(network).decode()), _WORDS, network_in)
    yield Reader("x.npz", chunks(to_npz(network)), _BYTES, network_in)
    content = np.ones((10, 784), np.float32).tobytes()
    header = tokens(npy((10, 784))[10:].decode())
    yield Reader(
        "array.npz", header, _WORDS, network_in,
        lambda header: npz({"weights_1": b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + content}),
    )  # fmt: skip
    part = np.zeros((2, 784), np.float32), np.zeros(2, np.int64)
    pickled = opcodes(pickle.dumps([part] * 3, 2))
    yield Reader(PICKLE_FILE, pickled, _OPCODES, mnist_in, lambda pickled: gzip.compress(pickled, 1))
    yield Reader(f"packed/{PICKLE_FILE}", chunks(gzip.compress(b"".join(pickled))), _BYTES, mnist_in)
    images = struct.pack(">4I", 0x803, 3, 28, 28) + bytes(3 * 784)
    yield Reader(str(IDX_FOLDER / next(iter(IDX_FILES_MD5))), chunks(images, 4), _BYTES, mnist_in)
    for form in FORMATS:
        pack = with_checksums if form == "PNG" else bytes
        yield Reader(f"x.{form}", fields_of(form), spare_fields(), picture_in, pack)
    yield Reader("sweep.json", tokens(_SWEEP), _WORDS, sweep_in)
    yield Reader("sweep.csv", tokens(_ROWS), _WORDS, sweep_in)
    yield Reader("run.json", tokens(_RUN), _WORDS, curves_in)
    yield Reader("metrics.csv", tokens(_METRICS), _WORDS, curves_in)


def mutated(reader: Reader, chance: random.Random) -> bytes:
    """The file with some of its pieces altered, left out, doubled, exchanged, or replaced by others."""
    pieces = list(reader.pieces)
    for _ in range(chance.randrange(1, 5)):
        at, other = chance.randrange(len(pieces)), chance.randrange(len(pieces))
        match chance.choice(["alter", "alter", "replace", "replace", "drop", "double", "exchange", "cut"]):
            case "alter":
                altered = bytearray(pieces[at] or b"\0")
                altered[chance.randrange(len(altered))] = chance.randrange(256)
                pieces[at] = bytes(altered)
            case "replace":
                pieces[at] = chance.choice(reader.spare)
            case "drop":
                pieces[at] = b""
            case "double":
                pieces[at] += pieces[other]
            case "exchange":
                pieces[at], pieces[other] = pieces[other], pieces[at]
            case "cut":
                pieces[at:] = [b""]
    return reader.pack(b"".join(pieces))


@pytest.mark.parametrize("reader", [*readers()], ids=lambda reader: reader.name)
def test_whatever_is_fuzzed_is_read_or_refused(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / reader.name
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in IDX_FILES_MD5:
        if path.parent.name == "raw":
            (path.parent / name).touch()
    tried = Counter[str]()

    @fuzzed
    @given(st.integers(0, 2**64 - 1))
    def read(seed: int) -> None:
        path.write_bytes(mutated(reader, random.Random(seed)))
        with bounded():
            try:
                reader.read(path)
            except TorchDigitsError as error:
                message = str(error)
            else:
                message = ""
        assert message == "" or message.isprintable()
        assert len(message) < 2000
        tried["refused" if message else "read"] += 1

    read()
    print(f"{reader.name}: {dict(tried)}")
