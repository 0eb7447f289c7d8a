"""The product as those get it who never see the checkout: a wheel, installed, used from an empty folder."""

import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest
from conftest import ROOT
from PIL import Image

from torchdigits import __version__
from torchdigits.data.datasets import DigitSplits

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, target = tmp_path_factory.mktemp("source") / "torchdigits", tmp_path_factory.mktemp("wheel")
    names = ["pyproject.toml", "README.md", "LICENSE", "torchdigits", "checkpoints"]
    source.mkdir()
    for name in names:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    return next(target.glob("torchdigits-*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel, and borrows what that needs from this one, but not its checkout.

    What is named in a .pth file is searched, and the .pth files in there, such as an editable installation's, are not.
    """
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder)
    python = folder / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "-q", str(wheel)],
        check=True,
    )
    (own,) = folder.glob("lib/*/site-packages")
    (own / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return python


@pytest.fixture
def run(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Run the command in an empty folder."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("PATH", f"{python.parent}:/usr/bin:/bin")

    def run(*words: str) -> Done:
        return subprocess.run(["torchdigits", *words], cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def test_the_wheel_has_the_network_the_page_and_the_types_and_no_scripts(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for name in (
        "py.typed",
        "checkpoints/mnist-784-30-10.ckpt",
        "checkpoints/README.md",
        "web/page/main.js",
        "__main__.py",
    ):
        assert f"torchdigits/{name}" in names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"torchdigits", f"torchdigits-{__version__}.dist-info"}


@pytest.mark.slow
def test_a_digit_is_trained_on_recognised_and_counted_from_an_empty_folder(
    run: Callable[..., Done], tmp_path: Path, digits: DigitSplits
) -> None:
    done = run("train", "--dataset", "digits", "--epochs", "1", "--seed", "1")
    assert (done.returncode, done.stderr) == (0, "")
    command = done.stdout.splitlines()[-1].split()
    checkpoint = "checkpoints/digits-784-30-10-eta3-seed1-run1/best.ckpt"
    assert command == ["torchdigits", "predict", "--checkpoint", checkpoint, "PICTURE"]
    images, labels = digits.test
    Image.fromarray(images[0].numpy().reshape(28, 28)).save(tmp_path / "digit.png")
    done = run(*command[1:-1], "digit.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"digit\.png: (unsure, perhaps )?\d \(0\.\d{3}\), then \d", done.stdout)
    done = run("evaluate", "--dataset", "digits")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"/ {len(labels)} test images of digits recognised" in done.stdout


@pytest.mark.slow
def test_the_page_is_served_from_an_empty_folder(run: Callable[..., Done], python: Path, tmp_path: Path) -> None:
    command = [str(python.parent / "torchdigits"), "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        address = server.stdout.readline().split()[2]
        with urlopen(f"{address}network") as answer:
            assert b'"card":{' in answer.read()
        server.send_signal(signal.SIGINT)
        assert server.stderr.read() == ""


@pytest.mark.slow
def test_versions_and_mistakes_are_one_line(run: Callable[..., Done], python: Path, tmp_path: Path) -> None:
    assert run("--version").stdout == f"torchdigits {__version__}\n"
    module = [str(python), "-m", "torchdigits", "--version"]
    done = subprocess.run(module, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"torchdigits {__version__}\n"
    done = run("trian")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: trian: no such command; perhaps you meant train; there are train, ")
    assert done.stderr.count("\n") == 1
    assert "torchdigits COMMAND [OPTIONS]" in run("--help").stdout
    done = run("convert", "nothing.ckpt", "nothing.json")
    assert (done.returncode, done.stderr) == (2, "error: there is no checkpoint nothing.ckpt\n")
