import errno
import io
import json
import tracemalloc
import warnings
import zipfile
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from conftest import Hostile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from torchdigits import SigmoidMLP, load_network
from torchdigits.data.datasets import DigitSplits
from torchdigits.errors import CheckpointError, OptionError
from torchdigits.files import networks
from torchdigits.files.formats import to_npz
from torchdigits.files.networks import save_network

SIZES = (784, 30, 30, 30, 10)


def network_of(sizes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> SigmoidMLP:
    torch.manual_seed(6)
    return SigmoidMLP(sizes).to(dtype)


def assert_same_bits(ours: SigmoidMLP, theirs: SigmoidMLP) -> None:
    assert ours.sizes == theirs.sizes
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.detach().numpy().tobytes() == other.detach().numpy().tobytes()


def network2(rng: np.random.Generator, sizes: tuple[int, ...] = SIZES, **changed: Any) -> dict[str, Any]:
    """What `Network.save` of network2.py writes."""
    content = {
        "sizes": list(sizes),
        "weights": [rng.standard_normal((y, x)).tolist() for x, y in pairwise(sizes)],
        "biases": [rng.standard_normal((y, 1)).tolist() for y in sizes[1:]],
        "cost": "CrossEntropyCost",
    }
    return content | changed


def feedforward(content: dict[str, Any], a: np.ndarray) -> np.ndarray:
    """As network2.py loads its file and computes, on columns."""
    weights = [np.array(w) for w in content["weights"]]
    biases = [np.array(b) for b in content["biases"]]
    for b, w in zip(biases, weights, strict=True):
        a = 1.0 / (1.0 + np.exp(-(np.dot(w, a) + b)))
    return a


@pytest.mark.parametrize("cost", ["QuadraticCost", "CrossEntropyCost"])
@pytest.mark.parametrize("sizes", [SIZES, (784, 10), (5, 4)])
def test_json_of_network2_is_read(tmp_path: Path, cost: str, sizes: tuple[int, ...]) -> None:
    content = network2(np.random.default_rng(1), sizes, cost=cost)
    (tmp_path / "x.json").write_text(json.dumps(content))
    network = load_network(tmp_path / "x.json")
    assert network.sizes == sizes
    parameters = [parameter.detach().numpy() for parameter in network.parameters()]
    for weights, expected in zip(parameters[0::2], content["weights"], strict=True):
        np.testing.assert_array_equal(weights, np.array(expected), strict=True)
    images = np.random.default_rng(2).random((7, sizes[0]))
    expected = feedforward(content, images.T).T
    np.testing.assert_allclose(network(torch.from_numpy(images)).detach().numpy(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_network2_reads_our_json(tmp_path: Path, digits: DigitSplits, dtype: torch.dtype, tolerance: float) -> None:
    network = network_of(SIZES, dtype)
    save_network(network, tmp_path / "x.json")
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["sizes"] == list(SIZES)
    assert content["cost"] == "QuadraticCost"
    images = digits.test.images.to(dtype) / 255
    expected = feedforward(content, images.double().numpy().T).T
    difference = network(images).detach().numpy() - expected
    assert np.linalg.norm(difference) < tolerance * np.linalg.norm(expected)


PRECISIONS: list[tuple[torch.dtype, Literal[32, 64]]] = [(torch.float32, 32), (torch.float64, 64)]


@st.composite
def networks_of(draw: st.DrawFn) -> SigmoidMLP:
    """Any network: any layers, in either precision, of any finite numbers, subnormal ones and -0.0 among them."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=2, max_size=5))
    dtype, width = draw(st.sampled_from(PRECISIONS))
    most = float(torch.finfo(dtype).max) / 8  # of seven at most, the sums are finite
    some = draw(st.lists(st.floats(-most, most, width=width), min_size=1, max_size=30))
    network, numbers = SigmoidMLP(sizes).to(dtype), cycle([*some, -0.0])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.tensor(list(islice(numbers, parameter.numel())), dtype=dtype).view_as(parameter))
    return network


@given(networks_of(), st.permutations([".json", ".npz", ".ckpt", ".JSON"]))
@settings(deadline=None, max_examples=30)
@example(network_of((784, 30, 10)), [".json", ".npz", ".ckpt"])
def test_every_way_round_gives_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, network: SigmoidMLP, ways: list[str]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    again = network
    for way in ways:
        save_network(again, folder / f"x{way}", overwrite=True)
        again = load_network(folder / f"x{way}")
    assert_same_bits(again, network)


@pytest.mark.parametrize("way", [".json", ".npz", ".ckpt", ".onnx"])
def test_a_network_that_is_not_finite_is_not_saved(tmp_path: Path, way: str) -> None:
    network = network_of((4, 3))
    with torch.no_grad():
        next(network.parameters())[0, 0] = torch.inf
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        save_network(network, tmp_path / f"x{way}")
    assert list(tmp_path.iterdir()) == []


def test_npz_is_plain_arrays_and_columns_are_taken_too(tmp_path: Path) -> None:
    network = network_of((784, 30, 10))
    save_network(network, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as archive:
        arrays = dict(archive)
    shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes == {"weights_1": (30, 784), "biases_1": (30,), "weights_2": (10, 30), "biases_2": (10,)}
    # As who has trained the original would save it.
    columns = {name: array[:, np.newaxis] if array.ndim == 1 else array.copy("F") for name, array in arrays.items()}
    np.savez(tmp_path / "y.npz", **columns)
    assert_same_bits(load_network(tmp_path / "y.npz"), network)


@pytest.mark.slow
def test_saving_leaves_the_network_and_the_random_numbers_alone(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    network = network_of((4, 3)).train()
    before = torch.random.get_rng_state()
    for way in (".json", ".npz", ".ckpt", ".onnx"):
        save_network(network, tmp_path / f"x{way}")
    assert network.training
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_network_of_few_bits_is_not_saved(tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        for way in (".json", ".npz", ".ckpt", ".onnx"):
            with pytest.raises(CheckpointError, match="neither of float32 nor of float64"):
                save_network(network_of((4, 3)).to(dtype), tmp_path / f"x{way}")
    assert list(tmp_path.iterdir()) == []


def test_json_may_have_flat_biases_and_whole_numbers(tmp_path: Path) -> None:
    content = {
        "sizes": [2, 2],
        "weights": [[[1, -2.5], [2**63 - 1, 0]]],
        "biases": [[3, 0.5]],
        "cost": "QuadraticCost",
    }
    (tmp_path / "x.json").write_text(json.dumps(content))
    weights, biases = (parameter.tolist() for parameter in load_network(tmp_path / "x.json").parameters())
    assert weights == [[1.0, -2.5], [2.0**63, 0.0]]
    assert biases == [3.0, 0.5]
    content["weights"] = [[[1, -2.5], [2**63, 0]]]
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert_one_line(tmp_path / "x.json", "its weights are not all numbers")


def assert_one_line(path: Path, words: str = "") -> None:
    """Loading the file raises CheckpointError with one short line, which has the words."""
    with pytest.raises(CheckpointError) as caught:
        load_network(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is not a network in {path.suffix}: ")
    assert message.isprintable()
    assert len(message) < 400
    assert words in message


def no_networks() -> dict[str, object]:
    """What is no network, though it is JSON."""
    rng = np.random.default_rng(1)
    sizes = (4, 3, 2)
    good = network2(rng, sizes)
    weights, biases = good["weights"], good["biases"]
    return {
        "a list": [1, 2],
        "a number": 3,
        "nothing": None,
        "no weights": {key: value for key, value in good.items() if key != "weights"},
        "no cost": {key: value for key, value in good.items() if key != "cost"},
        "another cost": good | {"cost": "LogLoss"},
        "another dtype": good | {"dtype": "int8"},
        **{f"a long list as {name}": good | {name: [3] * 1000} for name in ("cost", "dtype", "sizes")},
        "sizes of another network": good | {"sizes": [4, 3, 3]},
        "sizes of fewer layers": good | {"sizes": [4, 2]},
        "sizes that are text": good | {"sizes": "4-3-2"},
        "a matrix too many": good | {"weights": [*weights, weights[1]]},
        "a bias too many": good | {"biases": [*biases, [[1.0]]]},
        "a bias that does not fit": good | {"biases": [biases[0], [[1.0]]]},
        "biases in rows": good | {"biases": [np.array(b).T.tolist() for b in biases]},
        "matrices that do not fit": network2(rng, sizes, weights=[weights[0], [[1.0] * 5] * 2]),
        "transposed matrices": good | {"weights": [np.array(w).T.tolist() for w in weights]},
        "ragged rows": good | {"weights": [[[1.0, 2.0], [1.0]], weights[1]]},
        "text": good | {"weights": [[["0.5"] * 4] * 3, weights[1]]},
        "a text among rows": good | {"weights": [[*weights[0], "0.5"], weights[1]]},
        "an object of numbers": good | {"biases": [{"1": 1.0}, biases[1]]},
        "truths": good | {"weights": [[[True] * 4] * 3, weights[1]]},
        "holes": good | {"weights": [[[None] * 4] * 3, weights[1]]},
        "no layers": {"sizes": [4], "weights": [], "biases": [], "cost": "QuadraticCost"},
        "an empty layer": network2(rng, (4, 0, 2)),
        "not a number": good | {"weights": [[[float("nan")] * 4] * 3, weights[1]]},
        "infinity": good | {"biases": [[[float("-inf")]] * 3, biases[1]]},
        "a number too large": good | {"biases": [[[10**400]] * 3, biases[1]]},
        "too large for its dtype": good | {"biases": [[[1e39]] * 3, biases[1]], "dtype": "float32"},
    }


SAID = {
    "another cost": "its cost is 'LogLoss', neither QuadraticCost nor CrossEntropyCost",
    "another dtype": "its dtype is 'int8', neither float32 nor float64",
    "a long list as cost": "its cost is [3, 3, 3, 3, 3, 3, ...], neither QuadraticCost nor CrossEntropyCost",
    "a long list as dtype": "its dtype is [3, 3, 3, 3, 3, 3, ...], neither float32 nor float64",
    "a long list as sizes": "its sizes are [3, 3, 3, 3, 3, 3, ...], but those of its matrices are [4, 3, 2]",
    "sizes of another network": "its sizes are [4, 3, 3], but those of its matrices are [4, 3, 2]",
    "text": "its weights are not all numbers",
    "a number too large": "its biases are not all numbers",
    "too large for its dtype": "layers.0.bias is not made of plain finite numbers",
}


@pytest.mark.parametrize("kind", no_networks())
def test_json_that_is_no_network_is_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(no_networks()[kind]))
    assert_one_line(path, SAID.get(kind, ""))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe{}", b'{"sizes": 1e999', b"[" * 100_000, b'{"sizes": [NaN, 1]}', b"PK\x03\x04"]
)
def test_a_file_that_is_no_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    assert_one_line(tmp_path / "x.json")


def other_archives() -> dict[str, dict[str, np.ndarray]]:
    weights, biases = np.ones((2, 3)), np.ones(2)
    return {
        "no arrays": {},
        "a bias missing": {"weights_1": weights},
        "one too many": {"weights_1": weights, "biases_1": biases, "more": biases},
        "other names": {"W1": weights, "b1": biases},
        "integers": {"weights_1": weights.astype(int), "biases_1": biases.astype(int)},
        "halves": {"weights_1": weights.astype(np.float16), "biases_1": biases.astype(np.float16)},
        "two precisions": {"weights_1": weights, "biases_1": biases.astype(np.float32)},
        "a bias that does not fit": {"weights_1": weights, "biases_1": np.ones(3)},
        "a bias in a row": {"weights_1": weights, "biases_1": np.ones((1, 2))},
        "no matrix": {"weights_1": biases, "biases_1": biases},
        "not a number": {"weights_1": weights * np.nan, "biases_1": biases},
        "infinity": {"weights_1": weights, "biases_1": biases * np.inf},
        "big endian": {"weights_1": weights.astype(">f8"), "biases_1": biases},
        "objects": {"weights_1": weights.astype(object), "biases_1": biases},
    }


@pytest.mark.parametrize("kind", other_archives())
def test_npz_that_is_no_network_is_one_line(tmp_path: Path, kind: str) -> None:
    np.savez(tmp_path / "x.npz", **other_archives()[kind])  # type: ignore[arg-type]
    said = {
        "one too many": "it holds 3 arrays, not weights and biases for each layer",
        "no arrays": "it holds 0 arrays",
    }
    assert_one_line(tmp_path / "x.npz", said.get(kind, ""))


def test_what_numpy_says_of_an_arrays_header_goes_no_further(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    np.savez(tmp_path / "x.npz", weights_1=np.ones((2, 2)), biases_1=np.ones(2))
    content = (tmp_path / "x.npz").read_bytes()
    for name, old, new in (
        ("python2", b"(2, 2), } ", b"(2L, 2L),}"),
        ("odd", b"(2, 2), }       ", b"2if 1is 1else 2}"),
    ):
        with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(tmp_path / f"{name}.npz", "w") as other:
            for entry in archive.namelist():
                other.writestr(entry, archive.read(entry).replace(old, new))
    warnings.simplefilter("always")
    assert_same_bits(load_network(tmp_path / "python2.npz"), load_network(tmp_path / "x.npz"))
    assert_one_line(tmp_path / "odd.npz", "malformed node")
    assert not recwarn


def test_a_hostile_npz_runs_no_code(tmp_path: Path) -> None:
    hostile = np.array([Hostile(tmp_path / "canary")])
    np.savez(tmp_path / "x.npz", weights_1=hostile, biases_1=hostile)
    assert_one_line(tmp_path / "x.npz")
    assert not (tmp_path / "canary").exists()
    with np.load(tmp_path / "x.npz", allow_pickle=True) as archive:
        assert archive["weights_1"].shape == (1,)
    assert (tmp_path / "canary").exists()  # the proof that it would have


@pytest.mark.slow
def test_a_network_may_have_1000_layers(tmp_path: Path) -> None:
    save_network(network_of((1,) * 1001), tmp_path / "1000.npz")
    with pytest.raises(CheckpointError, match=r"1001\.npz: it could not be read again: it has 1,001 layers, more than"):
        save_network(network_of((1,) * 1002), tmp_path / "1001.npz")
    (tmp_path / "1001.npz").write_bytes(to_npz(network_of((1,) * 1002)))
    assert len(load_network(tmp_path / "1000.npz").sizes) == 1001
    assert_one_line(tmp_path / "1001.npz", "it has 1,001 layers, more than 1,000")


def test_the_shipped_network_is_in_the_package_or_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As installed, and in a checkout."""
    monkeypatch.setattr(networks, "__file__", str(tmp_path / "torchdigits" / "files" / "networks.py"))
    name = Path("checkpoints", "mnist-784-30-10.ckpt")
    assert networks.shipped_checkpoint() == tmp_path / name
    (tmp_path / "torchdigits" / "checkpoints").mkdir(parents=True)
    (tmp_path / "torchdigits" / name).touch()
    assert networks.shipped_checkpoint() == tmp_path / "torchdigits" / name


def test_what_could_not_be_read_again_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of((40, 30, 10))
    size = len(to_npz(network))
    monkeypatch.setattr(networks, "MOST_BYTES", size)
    save_network(network, tmp_path / "x.npz")
    assert_same_bits(load_network(tmp_path / "x.npz"), network)
    monkeypatch.setattr(networks, "MOST_BYTES", size - 1)
    with pytest.raises(CheckpointError, match=rf"y\.npz: it could not be read again: .* more than {size - 1:,} bytes"):
        save_network(network, tmp_path / "y.npz")
    monkeypatch.undo()
    monkeypatch.setattr("torchdigits.files.reading._MOST_JSON", 1000)
    with pytest.raises(CheckpointError, match=r"y\.json: it could not be read again: more than 1,000 bytes"):
        save_network(network, tmp_path / "y.json")
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_a_text_that_could_not_be_read_again_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of((784, 500, 10))
    save_network(network, tmp_path / "x.json")
    size = (tmp_path / "x.json").stat().st_size
    monkeypatch.setattr("torchdigits.files.reading._MOST_JSON", size)
    save_network(network, tmp_path / "y.json")
    for most in (size - 1, size - 10_000, size // 2, 10**6):
        monkeypatch.setattr("torchdigits.files.reading._MOST_JSON", most)
        tracemalloc.start()
        with pytest.raises(CheckpointError, match=rf"z\.json: it could not be read again: more than {most:,} bytes"):
            save_network(network, tmp_path / "z.json")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most > size - 10_000 or peak < size  # for tens of thousands of numbers, not for all
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "y.json"]


def test_what_cannot_be_saved_says_why(tmp_path: Path) -> None:
    network = network_of((4, 3))
    with pytest.raises(OptionError, match=r"x\.h5: its name must end in \.ckpt or \.json or \.npz or \.onnx$"):
        save_network(network, tmp_path / "x.h5")
    network.layers[0].double()
    network.layers.append(torch.nn.Linear(3, 2))
    with pytest.raises(CheckpointError, match=r"cannot save .*x\.npz: the network is neither of float32"):
        save_network(network, tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == []


def test_many_names_of_one_tensor_do_not_fill_the_memory(tmp_path: Path) -> None:
    huge = torch.zeros(300, 300)
    state = {f"network.layers.{layer}.weight": huge for layer in range(200)}
    state |= {f"network.layers.{layer}.bias": huge[0] for layer in range(200)}
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")  # 0.4 MB, for 72 MB of parameters
    with pytest.raises(CheckpointError, match="share their elements"):
        load_network(tmp_path / "x.ckpt")


def test_a_small_npz_cannot_fill_the_memory(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", weights_1=np.zeros((10, 10**6)), biases_1=np.zeros(10))
    with pytest.raises(CheckpointError, match="compressed"):
        load_network(tmp_path / "x.npz")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**7, 10**8)})
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as archive:
        archive.writestr("weights_1.npy", header.getvalue() + b"\0" * 80)
        archive.writestr("biases_1.npy", header.getvalue() + b"\0" * 80)
    with pytest.raises(CheckpointError, match=r"y\.npz"):
        load_network(tmp_path / "y.npz")


def test_a_file_that_comes_meanwhile_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.npz"

    def slow(network: SigmoidMLP) -> bytes:
        target.write_text("precious")
        return to_npz(network)

    monkeypatch.setitem(networks.WRITERS, ".npz", slow)
    with pytest.raises(OptionError, match="exists already"):
        save_network(network_of((4, 3)), target)
    assert target.read_text() == "precious"
    (tmp_path / "link.json").symlink_to(tmp_path / "unplugged" / "disk")
    with pytest.raises(OptionError, match="exists already"):
        save_network(network_of((4, 3)), tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "x.npz"]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.json"
    save_network(network_of((4, 3)), target)
    before = target.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torchdigits.files.writing.os.fsync", full)
    for path, overwrite in ((target, True), (tmp_path / "y.json", False)):
        with pytest.raises(OptionError, match="No space left on device"):
            save_network(network_of((784, 30, 10)), path, overwrite)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]
