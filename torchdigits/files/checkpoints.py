"""Checkpoints of Lightning, read without running code and without Lightning."""

import io
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchdigits.files.pickles import Call, read_pickle
from torchdigits.files.reading import open_archive, read_whole, reading
from torchdigits.network import SigmoidMLP

_FLOATS = {"Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16}
_INTEGERS = {"Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8}
_STORAGES = {f"torch.{name}Storage": dtype for name, dtype in (_FLOATS | _INTEGERS | {"Bool": torch.bool}).items()}
_ADMITTED = {  # what a checkpoint's pickle may name, beside plain values
    *("collections.OrderedDict", "collections.Counter", "torch.Size"),
    *("torch._utils._rebuild_parameter", "torch._utils._rebuild_tensor_v2"),
    *_STORAGES,
}
_MOST_VALUES = 100_000  # a checkpoint of Lightning's has some 300
MOST_PICKLED = 2**24  # bytes beside the tensors: of a network, some thousand; of a run, 150 for each epoch
MOST_BYTES = 2**28  # of a file: 30 million weights in float64


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Everything in a checkpoint, as `parse_checkpoint` gives it.

    Raises:
        CheckpointError: it is damaged, hostile or something else.
    """
    with reading(path, "checkpoint of DigitClassifier"):
        return parse_checkpoint(read_whole(path, MOST_BYTES))


def parse_checkpoint(content: bytes) -> dict[str, Any]:
    """Everything in the bytes of a checkpoint: plain values and tensors on the CPU, not yet checked, and no code.

    They form a tree of at most 100,000 values. All tensors together take no more memory than the file has bytes.

    Raises:
        ValueError, and others: they are damaged, hostile or something else.
    """
    with open_archive(content) as archive:  # its entries are all in one folder
        parts = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    pickled, byte_order = parts.pop("data.pkl"), parts.pop("byteorder")
    if byte_order != sys.byteorder.encode():
        raise ValueError("it is from a machine of another byte order")
    if len(pickled) > MOST_PICKLED:
        raise ValueError(f"it holds {len(pickled):,} bytes beside its tensors")
    storages = {name: torch.tensor(np.frombuffer(part, np.uint8)) for name, part in parts.items()}
    checkpoint = _with_tensors(read_pickle(io.BytesIO(pickled), _ADMITTED), storages, iter(range(_MOST_VALUES)))
    if not isinstance(checkpoint, dict):
        raise TypeError(f"it holds a {type(checkpoint).__name__}")
    return checkpoint


def _with_tensors(value: Any, storages: Mapping[str, Tensor], left: Iterator[int]) -> Any:
    """The values that a checkpoint's pickle stands for: nothing contains itself, and only storages are shared."""
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
            storage = storages[f"data/{key}"].view(_STORAGES[kind])
            if len(storage) != count:
                raise ValueError(f"its storage {key} is not as large as it claims")
            return storage.as_strided(size, stride, offset)
        case Call(function):
            raise ValueError(f"it calls {function or 'a persistent object'} in another way than torch")
    return value


def parameters_of(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The parameters of the network in a checkpoint, by their names in `SigmoidMLP`."""
    return {name.removeprefix("network."): tensor for name, tensor in checkpoint["state_dict"].items()}


def to_checkpoint(network: SigmoidMLP) -> bytes:
    """The network as Lightning saves the weights of a DigitClassifier."""
    content = {
        "state_dict": {f"network.{name}": tensor for name, tensor in network.state_dict().items()},
        "hyper_parameters": {"sizes": list(network.sizes)},
        "pytorch-lightning_version": metadata.version("lightning"),
    }
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()
