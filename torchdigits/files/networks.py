"""Load and save trained networks in any of their formats."""

import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from torchdigits.errors import CheckpointError, OptionError
from torchdigits.files.checkpoints import MOST_BYTES, MOST_PICKLED, parameters_of, parse_checkpoint, to_checkpoint
from torchdigits.files.formats import read_json, read_npz, to_json, to_npz
from torchdigits.files.onnx import to_onnx
from torchdigits.files.reading import read_whole, reading
from torchdigits.files.writing import write_whole
from torchdigits.network import SigmoidMLP, count_parameters

_MOST_LAYERS = 1000
# Formats by their suffixes
READERS: dict[str, Callable[[bytes], dict[str, Tensor]]] = {
    ".ckpt": lambda content: parameters_of(parse_checkpoint(content)),
    ".json": read_json,
    ".npz": read_npz,
}
WRITERS = {".ckpt": to_checkpoint, ".json": to_json, ".npz": to_npz, ".onnx": to_onnx}


def shipped_checkpoint() -> Path:
    """The trained 784-30-10 network that comes with torchdigits, in a checkout or an installed package."""
    package, name = Path(__file__).parents[1], Path("checkpoints", "mnist-784-30-10.ckpt")
    return package / name if (package / name).exists() else package.parent / name


def load_network(path: Path | str | None = None) -> SigmoidMLP:
    """Load a trained network, onto the CPU, in the precision that it was saved in. No file can run code.

    Args:
        path: a checkpoint of DigitClassifier, such as a run's `best.ckpt`, or a .json or .npz file. Default: the
            shipped network.

    Raises:
        CheckpointError: the file is missing, damaged, hostile, or holds no such network.
    """
    path = shipped_checkpoint() if path is None else Path(path)
    suffix = path.suffix.lower()
    kind = f"network in {suffix if suffix in READERS else ' or '.join(READERS)}"
    with reading(path, "checkpoint of DigitClassifier" if suffix == ".ckpt" else kind):
        if not path.exists():
            raise CheckpointError(f"there is no checkpoint {path}")
        return network_of(READERS.get(suffix, READERS[".ckpt"])(read_whole(path, MOST_BYTES)))


def save_network(network: SigmoidMLP, path: Path | str, overwrite: bool = False) -> None:
    """Save a network in the format that the suffix names. The file is written whole, or not at all.

    Args:
        network: in float32 or float64, which the file keeps.
        path: `.ckpt`, which Lightning's `DigitClassifier.load_from_checkpoint` reads too, `.json`, `.npz` or `.onnx`.
        overwrite: replace the file if it exists. A symbolic link is replaced itself.

    Raises:
        OptionError: the suffix is unknown, the file exists or cannot be written, or ONNX's packages are missing.
        CheckpointError: a weight is not finite, the precision is another one, the file would be larger than
            `load_network` allows, or ONNX does not compute the same.
    """
    path = Path(path)
    write, dtypes = WRITERS.get(path.suffix.lower()), {parameter.dtype for parameter in network.parameters()}
    if write is None:
        raise OptionError(f"{path}: its name must end in {' or '.join(WRITERS)}")
    if dtypes not in ({torch.float32}, {torch.float64}):
        raise CheckpointError(f"cannot save {path}: the network is neither of float32 nor of float64")
    if not all(parameter.isfinite().all() for parameter in network.parameters()):
        raise CheckpointError(f"cannot save {path}: some weights or biases are NaN or infinite")
    try:
        if os.path.lexists(path) and not overwrite:
            raise FileExistsError
        write_whole(path, _readable(path, write, network), overwrite)
    except FileExistsError as error:
        raise OptionError(f"{path} exists already; to replace it, use --overwrite") from error
    except OSError as error:
        raise OptionError(f"cannot write {path}: {error.strerror}") from error


def _readable(path: Path, write: Callable[[SigmoidMLP], bytes], network: SigmoidMLP) -> bytes:
    """The content of a file, once it is certain that it can be read again."""
    try:
        content = write(network)
        if len(content) > MOST_BYTES:
            raise ValueError(f"it would have more than {MOST_BYTES:,} bytes")
        if (read := READERS.get(path.suffix.lower())) is not None:
            network_of(read(content))
    except OptionError:  # a missing package
        raise
    except ValueError as error:
        raise CheckpointError(f"cannot save {path}: it could not be read again: {error}") from error
    return content


def check_can_be_kept(hidden: Sequence[int], bytes_each: int = 4) -> None:
    """Raise OptionError if a checkpoint of a network with these hidden layers could not be read again.

    Args:
        hidden: neurons in each hidden layer, between 784 inputs and 10 outputs.
        bytes_each: of a weight or bias.
    """
    most = (MOST_BYTES - MOST_PICKLED) // bytes_each
    parameters = count_parameters((784, *hidden, 10))
    if parameters > most or len(hidden) >= _MOST_LAYERS:
        words = " ".join(map(str, hidden))
        raise OptionError(
            f"hidden {words if len(words) <= 100 else f'{words[:100]}...'}: a network may have {most:,} weights and"
            f" biases, in {_MOST_LAYERS:,} layers"
        )


def network_of(parameters: dict[str, Tensor]) -> SigmoidMLP:
    """The network with these parameters, by their names in it. Others raise many exceptions: see `reading`."""
    if len(parameters) > 2 * _MOST_LAYERS:
        raise ValueError(f"it has {len(parameters) // 2:,} layers, more than {_MOST_LAYERS:,}")
    weights = [parameters[f"layers.{layer}.weight"] for layer in range(len(parameters) // 2)]
    storages = [tensor.untyped_storage() for tensor in parameters.values()]
    available = {storage.data_ptr(): storage.nbytes() for storage in storages}
    if sum(tensor.nbytes for tensor in parameters.values()) > sum(available.values()):
        raise ValueError("its tensors share their elements")  # else a small file could claim a huge network
    for name, tensor in parameters.items():
        if tensor.dtype not in (torch.float32, torch.float64) or tensor.dtype != weights[0].dtype:
            raise ValueError(f"{name} is {tensor.dtype}")
        if not tensor.is_contiguous() or not tensor.isfinite().all():
            raise ValueError(f"{name} is not made of plain finite numbers")
    if any(weight.shape[1] != before.shape[0] for before, weight in pairwise(weights)):
        raise ValueError("its weight matrices do not fit each other")
    with torch.device("meta"):  # without drawing first weights, which would be thrown away
        network = SigmoidMLP([weights[0].shape[1], *(weight.shape[0] for weight in weights)])
    network.load_state_dict(parameters, assign=True)
    return network.eval()
