"""What is in a run's folder, whenever its process was stopped."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from torchdigits import load_network
from torchdigits.errors import CheckpointError
from torchdigits.files import writing
from torchdigits.training import callbacks, folder
from torchdigits.training.folder import repair, resumed
from torchdigits.training.options import TrainOptions
from torchdigits.training.run import train

OPTIONS = TrainOptions(dataset="digits", hidden=(5,), epochs=2, accelerator="cpu", engine="eager")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, of which the second is the better one."""
    return train(replace(OPTIONS, output=tmp_path_factory.mktemp("whole"))).folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def weights(checkpoint: Path) -> list[torch.Tensor]:
    return list(load_network(checkpoint).parameters())


def test_a_best_network_of_an_earlier_epoch_is_replaced_as_last_ckpt_knows_better(run: Path) -> None:
    with resumed(run) as saved:
        checkpoint = dict(saved.checkpoint)
        earlier = {name: value + 1 for name, value in checkpoint["state_dict"].items()}
        torch.save(checkpoint | {"state_dict": earlier}, run / "best.ckpt")  # as a kill between two writes leaves it
        repair(saved)
    assert all(torch.equal(*pair) for pair in zip(weights(run / "best.ckpt"), weights(run / "last.ckpt"), strict=True))


def test_last_ckpt_is_written_before_best_ckpt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def full_after_one(path: Path, content: bytes) -> None:
        if written:
            raise OSError(28, "No space left on device", str(path))
        written.append(path.name)
        writing.write_whole(path, content)

    monkeypatch.setattr(callbacks, "write_whole", full_after_one)
    with pytest.raises(OSError, match="No space"):
        train(replace(OPTIONS, output=tmp_path))
    assert written == ["last.ckpt"]


def test_a_run_is_read_after_it_is_locked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = (run / "last.ckpt").read_bytes()
    (run / "last.ckpt").write_bytes(b"an epoch before, while another process still wrote")

    @contextmanager
    def locked_late(path: Path) -> Iterator[None]:
        (run / "last.ckpt").write_bytes(state)
        yield

    monkeypatch.setattr(folder, "locked", locked_late)
    with resumed(run) as saved:
        assert len(saved.rows) == 2


def test_an_older_options_record_that_lacks_one_is_refused_in_one_line(run: Path) -> None:
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    checkpoint["callbacks"]["EpochLog"].clear()
    torch.save(checkpoint, run / "last.ckpt")
    with pytest.raises(CheckpointError, match="an older version, without the run's options"), resumed(run):
        pass
