"""Save, find and safely load trained networks, without Lightning."""

import io
import os
import re
import tempfile
import warnings
import zipfile
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from torchdigits.errors import CheckpointError, OptionError, printable
from torchdigits.interchange import read_json, read_npz, to_json, to_npz, to_onnx
from torchdigits.network import SigmoidMLP

_OTHER_PROGRAMS = {".json": read_json, ".npz": read_npz}  # what else than checkpoints is read


def shipped_checkpoint() -> Path:
    """The trained 784-30-10 network that comes with torchdigits, in a checkout or an installed package."""
    package, name = Path(__file__).parent, Path("checkpoints", "mnist-784-30-10.ckpt")
    return package / name if (package / name).exists() else package.parent / name


def load_network(path: Path | str | None = None) -> SigmoidMLP:
    """Load a trained network: a checkpoint of DigitClassifier, such as a run's `best.ckpt`, or another program's file.

    The file cannot run code: a checkpoint is read by torch's restricted unpickler, and of what it holds only the
    weights are used; a `.json` or `.npz` file is read without pickle, as `interchange.py` has it.

    Args:
        path: the file. Default: the shipped network.

    Returns:
        The network, on the CPU and in the precision that it was saved in.

    Raises:
        CheckpointError: the file is missing, damaged, hostile, or holds no such network.
    """
    path = shipped_checkpoint() if path is None else Path(path)
    other = _OTHER_PROGRAMS.get(path.suffix.lower())
    try:
        if not path.is_file():
            raise CheckpointError(f"there is no checkpoint {path}")
        _refuse_compression(path)
        return _network_of(_read_checkpoint(path) if other is None else other(path))
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    # A file that holds something else can raise nearly anything, on its way through JSON, NumPy's formats and torch's.
    except Exception as error:
        kind = "checkpoint of DigitClassifier" if other is None else f"network in {path.suffix}"
        raise CheckpointError(f"{path} is no {kind}: {_reason(error)}") from error


def save_network(network: SigmoidMLP, path: Path | str, overwrite: bool = False) -> None:
    """Save a network in the format that the suffix names. The file is written whole, or not at all.

    Args:
        network: in float32 or float64, which the file keeps.
        path: `.ckpt`, as `load_network` and Lightning's `DigitClassifier.load_from_checkpoint` read it; `.json`, `.npz`
            or `.onnx`, as `interchange.py` has them.
        overwrite: replace a file that exists; of a symbolic link, itself.

    Raises:
        OptionError: an unknown suffix, a file that exists or cannot be written, or packages that ONNX needs and lacks.
        CheckpointError: a weight is not finite, or in ONNX the network does not compute the same.
    """
    path = Path(path)
    write, dtypes = _WRITERS.get(path.suffix.lower()), {parameter.dtype for parameter in network.parameters()}
    if write is None:
        raise OptionError(f"{path}: what can be written ends in {', '.join(_WRITERS)}")
    if dtypes not in ({torch.float32}, {torch.float64}):
        raise CheckpointError(f"cannot save {path}: the network is neither of float32 nor of float64")
    if not all(parameter.isfinite().all() for parameter in network.parameters()):
        raise CheckpointError(f"cannot save {path}: the weights and biases are not all finite numbers")
    try:
        if os.path.lexists(path) and not overwrite:
            raise FileExistsError
        content = write(network)
        with tempfile.TemporaryDirectory(prefix=".torchdigits-", dir=path.parent) as folder:
            part = Path(folder, "part")
            part.write_bytes(content)
            if not overwrite:
                path.open("x").close()  # which fails if there is such a file by now
            part.replace(path)
    except FileExistsError as error:
        raise OptionError(f"{path} exists already; to replace it, use --overwrite") from error
    except OSError as error:
        raise OptionError(f"cannot write {path}: {error.strerror}") from error


def convert(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")],
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    *,
    overwrite: bool = False,
) -> None:
    """Convert a trained network to another format, which OUT's suffix names.

    Args:
        source: the network: .ckpt, .json or .npz.
        target: the file to write: .ckpt, .json, .npz or .onnx.
        overwrite: replace OUT if it exists.

    Raises:
        CheckpointError: IN holds no network.
        OptionError: OUT cannot be written.
    """
    if source.suffix.lower() not in (".ckpt", *_OTHER_PROGRAMS):
        raise CheckpointError(f"{source}: what can be read ends in {', '.join(('.ckpt', *_OTHER_PROGRAMS))}")
    network = load_network(source)
    save_network(network, target, overwrite)
    print(f"{target}: {'-'.join(map(str, network.sizes))}, {str(next(network.parameters()).dtype).split('.')[1]}")


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of files that it then refuses
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    # What a damaged file can raise is not documented; seen: RuntimeError, UnpicklingError, EOFError, KeyError.
    except Exception as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {asked[1]}, which was refused" if asked else "damaged, or no checkpoint at all"
        raise CheckpointError(f"cannot load {path}: {reason}") from error
    if not isinstance(checkpoint, dict):
        raise TypeError(f"it holds a {type(checkpoint).__name__}")
    return {name.removeprefix("network."): tensor for name, tensor in checkpoint["state_dict"].items()}


def _reason(error: Exception) -> str:
    """What a file is said to be refused for: one line, not too long, and nothing that a terminal would obey."""
    text = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
    return printable(text if len(text) <= 300 else f"{text[:300]}...") or type(error).__name__


def _to_checkpoint(network: SigmoidMLP) -> bytes:
    """As Lightning writes the weights of a DigitClassifier."""
    content = {
        "state_dict": {f"network.{name}": tensor for name, tensor in network.state_dict().items()},
        "hyper_parameters": {"sizes": list(network.sizes)},
        "pytorch-lightning_version": metadata.version("lightning"),
    }
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


_WRITERS = {".ckpt": _to_checkpoint, ".json": to_json, ".npz": to_npz, ".onnx": to_onnx}


def _refuse_compression(path: Path) -> None:
    """torch and `numpy.savez` write plain archives."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise CheckpointError(f"cannot load {path}: it is compressed, and may unpack to far more")


def _network_of(parameters: dict[str, Tensor]) -> SigmoidMLP:
    """The network that has these parameters: `layers.0.weight` and so on."""
    weights = [parameters[f"layers.{layer}.weight"] for layer in range(len(parameters) // 2)]
    for name, tensor in parameters.items():
        if tensor.dtype not in (torch.float32, torch.float64) or tensor.dtype != weights[0].dtype:
            raise ValueError(f"{name} is {tensor.dtype}")
        # A small file can claim a huge tensor by repeating its elements.
        if not tensor.is_contiguous() or not tensor.isfinite().all():
            raise ValueError(f"{name} is not made of plain finite numbers")
    if any(weight.shape[1] != before.shape[0] for before, weight in pairwise(weights)):
        raise ValueError("its weight matrices do not fit each other")
    with torch.device("meta"):  # so that there are no first weights, which would be thrown away
        network = SigmoidMLP([weights[0].shape[1], *(weight.shape[0] for weight in weights)])
    network.load_state_dict(parameters, assign=True)
    return network.eval()
