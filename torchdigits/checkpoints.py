"""Save, find and safely load trained networks, without Lightning."""

import io
import os
import secrets
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor

from torchdigits.errors import CheckpointError, OptionError, reason
from torchdigits.interchange import read_json, read_npz, to_json, to_npz, to_onnx
from torchdigits.network import SigmoidMLP
from torchdigits.pickles import Call, read_pickle

PART = ".torchdigits-"  # begins the names of files until they are whole
# What a checkpoint's pickle may name, beside plain values
_STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_ADMITTED = {
    *("collections.OrderedDict", "collections.Counter", "torch.Size"),
    *("torch._utils._rebuild_parameter", "torch._utils._rebuild_tensor_v2"),
    *_STORAGES,
}
_MOST_LAYERS = 1000
_MOST_VALUES = 100_000  # in a checkpoint: one of Lightning's has some 300
_OTHER_PROGRAMS = {".json": read_json, ".npz": read_npz}  # what else than checkpoints is read


def shipped_checkpoint() -> Path:
    """The trained 784-30-10 network that comes with torchdigits, in a checkout or an installed package."""
    package, name = Path(__file__).parent, Path("checkpoints", "mnist-784-30-10.ckpt")
    return package / name if (package / name).exists() else package.parent / name


def load_network(path: Path | str | None = None) -> SigmoidMLP:
    """Load a trained network: a checkpoint of DigitClassifier, such as a run's `best.ckpt`, or another program's file.

    The file cannot run code: nothing that a checkpoint names is called or imported, as `pickles.py` has it, and of what
    it holds only the weights are used; a `.json` or `.npz` file is read without pickle, as `interchange.py` has it.

    Args:
        path: the file. Default: the shipped network.

    Returns:
        The network, on the CPU and in the precision that it was saved in.

    Raises:
        CheckpointError: the file is missing, damaged, hostile, or holds no such network.
    """
    path = shipped_checkpoint() if path is None else Path(path)
    other = _OTHER_PROGRAMS.get(path.suffix.lower())
    with refused(path, "checkpoint of DigitClassifier" if other is None else f"network in {path.suffix}"):
        if not path.is_file():
            raise CheckpointError(f"there is no checkpoint {path}")
        if other is None:
            return network_of(parameters_of(read_checkpoint(path)))
        _refuse_compression(path)
        return network_of(other(path))


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
        write_whole(path, write(network), overwrite)
    except FileExistsError as error:
        raise OptionError(f"{path} exists already; to replace it, use --overwrite") from error
    except OSError as error:
        raise OptionError(f"cannot write {path}: {error.strerror}") from error


def write_whole(path: Path, content: bytes, overwrite: bool = True) -> None:
    """Write a file so that it is there whole, or as it was, whenever the process or the machine stops.

    What a killed process leaves is a file `.torchdigits-*` beside it.

    Raises:
        OSError: it cannot be written; FileExistsError: it is there, and not to be overwritten.
    """
    part = path.with_name(f"{PART}{secrets.token_hex(8)}")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if not overwrite:
            path.open("xb").close()  # which fails if there is such a file by now
        part.replace(path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """All that a checkpoint holds: plain values and tensors on the CPU, unchecked, but no code.

    They are a tree, of moderate size but for the tensors, which all together are no larger than the file.

    Raises:
        CheckpointError: it is damaged, hostile or something else.
    """
    with refused(path, "checkpoint of DigitClassifier"):
        _refuse_compression(path)
        try:
            with zipfile.ZipFile(path) as archive:
                folder = archive.namelist()[0].partition("/")[0]
                pickled = io.BytesIO(archive.read(f"{folder}/data.pkl"))
                storages = {
                    name.removeprefix(f"{folder}/data/"): torch.tensor(np.frombuffer(archive.read(name), np.uint8))
                    for name in archive.namelist()
                    if name.startswith(f"{folder}/data/")
                }
                if archive.read(f"{folder}/byteorder") != sys.byteorder.encode():
                    raise ValueError("it is from a machine of another byte order")
        except (zipfile.BadZipFile, EOFError, IndexError, KeyError) as error:
            raise CheckpointError(f"cannot load {path}: damaged, or no checkpoint at all") from error
        checkpoint = _with_tensors(read_pickle(pickled, _ADMITTED), storages, iter(range(_MOST_VALUES)))
        if not isinstance(checkpoint, dict):
            raise TypeError(f"it holds a {type(checkpoint).__name__}")
        return checkpoint


def _with_tensors(value: Any, storages: Mapping[str, Tensor], left: Iterator[int]) -> Any:
    """What a checkpoint's pickle means, without anything shared but storages, and nothing inside itself."""
    if next(left, None) is None:
        raise ValueError(f"more than {_MOST_VALUES:,} values")
    match value:
        case dict():
            return {key: _with_tensors(item, storages, left) for key, item in value.items()}
        case list() | tuple():
            return type(value)(_with_tensors(item, storages, left) for item in value)
        case Call("collections.Counter" | "torch.Size", ((dict() | tuple()) as items,)):
            return _with_tensors(items, storages, left)
        case Call("torch._utils._rebuild_parameter", (Call() as tensor, *_)):
            return _with_tensors(tensor, storages, left)
        case Call(
            "torch._utils._rebuild_tensor_v2",
            (Call("", ("storage", str(kind), str(key), _, int(count))), int(offset), tuple(size), tuple(stride), *_),
        ):
            storage = storages[key].view(_STORAGES[kind])
            if len(storage) != count:
                raise ValueError(f"its storage {key} is not as large as it claims")
            return storage.as_strided(size, stride, offset)
        case Call(function):
            raise ValueError(f"it calls {function or 'for an object'} as torch does not")
    return value


def parameters_of(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Those of the network, by their names in it."""
    return {name.removeprefix("network."): tensor for name, tensor in checkpoint["state_dict"].items()}


@contextmanager
def refused(path: Path, kind: str) -> Iterator[None]:
    """Whatever a file raises that is not what it should be is a CheckpointError of one line."""
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    # A file that holds something else can raise nearly anything, on its way through JSON, NumPy's formats and torch's.
    except Exception as error:
        raise CheckpointError(f"{path} is no {kind}: {reason(error)}") from error


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
            names = archive.namelist()
            if (
                len(set(names)) < len(names)
                or sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size
            ):
                raise CheckpointError(f"cannot load {path}: its entries overlap")


def network_of(parameters: dict[str, Tensor]) -> SigmoidMLP:
    """The network that has these parameters: `layers.0.weight` and so on."""
    if len(parameters) > 2 * _MOST_LAYERS:
        raise ValueError(f"it has {len(parameters) // 2:,} layers")
    weights = [parameters[f"layers.{layer}.weight"] for layer in range(len(parameters) // 2)]
    storages = [tensor.untyped_storage() for tensor in parameters.values()]
    available = {storage.data_ptr(): storage.nbytes() for storage in storages}
    if sum(tensor.nbytes for tensor in parameters.values()) > sum(available.values()):
        raise ValueError("its tensors share their elements")  # so that a small file can claim a huge network
    for name, tensor in parameters.items():
        if tensor.dtype not in (torch.float32, torch.float64) or tensor.dtype != weights[0].dtype:
            raise ValueError(f"{name} is {tensor.dtype}")
        if not tensor.is_contiguous() or not tensor.isfinite().all():
            raise ValueError(f"{name} is not made of plain finite numbers")
    if any(weight.shape[1] != before.shape[0] for before, weight in pairwise(weights)):
        raise ValueError("its weight matrices do not fit each other")
    with torch.device("meta"):  # so that there are no first weights, which would be thrown away
        network = SigmoidMLP([weights[0].shape[1], *(weight.shape[0] for weight in weights)])
    network.load_state_dict(parameters, assign=True)
    return network.eval()
