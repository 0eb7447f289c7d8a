"""Find and safely load trained networks, without Lightning."""

import re
import warnings
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchdigits.errors import CheckpointError
from torchdigits.network import SigmoidMLP


def shipped_checkpoint() -> Path:
    """The trained 784-30-10 network that comes with torchdigits, in a checkout or an installed package."""
    package, name = Path(__file__).parent, Path("checkpoints", "mnist-784-30-10.ckpt")
    return package / name if (package / name).exists() else package.parent / name


def load_network(path: Path | str | None = None) -> SigmoidMLP:
    """Load a trained network from a checkpoint of DigitClassifier, such as a run's `best.ckpt`.

    The file cannot run code: torch's restricted unpickler reads it, and of what it holds only the weights are used.

    Args:
        path: the checkpoint. Default: the shipped network.

    Returns:
        The network, on the CPU and in the precision that it was saved in.

    Raises:
        CheckpointError: the file is missing, damaged, hostile, or holds no such network.
    """
    path = shipped_checkpoint() if path is None else Path(path)
    try:
        if not path.is_file():
            raise CheckpointError(f"there is no checkpoint {path}")
        _refuse_compression(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of files that it then refuses
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    # What a damaged file can raise is not documented; seen: RuntimeError, UnpicklingError, EOFError, KeyError.
    except Exception as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {asked[1]}, which was refused" if asked else "damaged, or no checkpoint at all"
        raise CheckpointError(f"cannot load {path}: {reason}") from error
    try:
        return _network_of(checkpoint["state_dict"])
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} is no checkpoint of DigitClassifier: {reason}") from error


def _refuse_compression(path: Path) -> None:
    """torch writes plain archives; a compressed one is not its own, and can unpack to far more than its size."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise CheckpointError(f"cannot load {path}: it is compressed, as no checkpoint is")


def _network_of(state: dict[str, Any]) -> SigmoidMLP:
    """The network whose parameters a DigitClassifier's state holds: `network.layers.0.weight` and so on."""
    parameters: dict[str, Tensor] = {name.removeprefix("network."): tensor for name, tensor in state.items()}
    weights = [parameters[f"layers.{layer}.weight"] for layer in range(len(parameters) // 2)]
    for name, tensor in parameters.items():
        if tensor.dtype not in (torch.float32, torch.float64) or tensor.dtype != weights[0].dtype:
            raise ValueError(f"{name} is {tensor.dtype}")
        # A small file can claim a huge tensor by repeating its elements.
        if not tensor.is_contiguous() or not tensor.isfinite().all():
            raise ValueError(f"{name} is not made of plain finite numbers")
    if any(weight.shape[1] != before.shape[0] for before, weight in pairwise(weights)):
        raise ValueError("its weight matrices do not fit each other")
    with torch.random.fork_rng(devices=[]):  # a caller's random numbers are not the worse for first weights thrown away
        network = SigmoidMLP([weights[0].shape[1], *(weight.shape[0] for weight in weights)])
    network.load_state_dict(parameters, assign=True)
    return network.eval()
