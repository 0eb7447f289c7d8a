import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from torchdigits import SigmoidMLP, load_network
from torchdigits.data.datasets import DigitSplits
from torchdigits.errors import CheckpointError, OptionError
from torchdigits.files.networks import save_network


def network_of(sizes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> SigmoidMLP:
    torch.manual_seed(6)
    return SigmoidMLP(sizes).to(dtype)


def answers(path: Path, images: torch.Tensor) -> np.ndarray:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["activations"], {"images": images.numpy()})[0])


@pytest.mark.slow
def test_onnx_answers_as_torch_does(tmp_path: Path, mnist: DigitSplits) -> None:
    pytest.importorskip("onnxscript")
    path = tmp_path / "x.onnx"
    save_network(load_network(), path)
    assert list(tmp_path.iterdir()) == [path]
    images = mnist.test.images / 255
    with torch.no_grad():
        expected = load_network()(images).numpy()
    for size in (10_000, 7, 1, 0):
        assert answers(path, images[:size]).shape == (size, 10)
    difference = answers(path, images) - expected
    assert np.linalg.norm(difference) < 1e-6 * np.linalg.norm(expected)
    # The weighted inputs go to 138, where floats are 1.5e-5 apart: torch's own activations are off by up to 4e-6.
    assert np.abs(difference).max() < 1e-5
    assert (answers(path, images).argmax(1) == expected.argmax(1)).all()


@pytest.mark.parametrize("sizes", [(784, 10), (6, 5, 4, 3)])
def test_onnx_of_doubles_and_of_other_sizes(
    tmp_path: Path, sizes: tuple[int, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    network = network_of(sizes, torch.float64)
    save_network(network, tmp_path / "x.onnx")
    assert capfd.readouterr() == ("", "")
    graph = onnx.load(tmp_path / "x.onnx").graph
    for (value,), name, width in ((graph.input, "images", sizes[0]), (graph.output, "activations", sizes[-1])):
        batch, last = value.type.tensor_type.shape.dim
        assert (value.name, batch.dim_param, last.dim_value) == (name, "batch", width)
    images = torch.rand(5, sizes[0], dtype=torch.float64)
    np.testing.assert_allclose(answers(tmp_path / "x.onnx", images), network(images).detach().numpy(), atol=1e-13)


def test_onnx_without_a_home_says_nothing(tmp_path: Path) -> None:
    """onnxruntime would warn that it cannot keep its telemetry's identifier."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    code = (
        "import sys, torchdigits; from torchdigits.files.networks import save_network;"
        "save_network(torchdigits.SigmoidMLP([4, 3]), sys.argv[1])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x.onnx")]
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    nowhere = {"HOME": os.devnull, "XDG_CACHE_HOME": os.devnull}
    done = subprocess.run(command, env=environment | nowhere, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert (tmp_path / "x.onnx").exists()


def test_large_weights_whose_floats_torch_rounds_as_much_are_written(tmp_path: Path) -> None:
    """Of weights like 100 times the first ones, float32 leaves torch's own activations off by 8e-6."""
    pytest.importorskip("onnxscript")
    network = network_of((784, 30, 10))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(100)
    save_network(network, tmp_path / "x.onnx")


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
def test_onnx_that_answers_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, error: float
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    right = onnxruntime.InferenceSession.run
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", lambda *asked: [right(*asked)[0] * (1 + error)])
    with pytest.raises(CheckpointError, match=r"no \.onnx written: .* relative error of 1\.0e"):
        save_network(load_network().to(dtype), tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_onnx_without_its_packages_says_how_to_install_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None if name == package else sys)
    with pytest.raises(OptionError, match=rf"{package}: pip install 'torchdigits\[export\]'"):
        save_network(network_of((4, 3)), tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []
