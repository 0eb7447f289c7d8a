"""Networks in the formats of other programs: JSON as `network2.py` of Nielsen's book saves it, and NumPy's .npz.

The readers take a file's bytes and return what `SigmoidMLP.state_dict` would, not yet checked. To read a file, call
`load_network`.
"""

import io
import json
import reprlib
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchdigits.files.reading import check_json, open_archive, parse_json
from torchdigits.network import SigmoidMLP


def read_json(content: bytes) -> dict[str, Tensor]:
    """The parameters in a file of `network2.py`, of Nielsen's "Neural Networks and Deep Learning" or a port of it.

    It has `sizes`; `weights`, a matrix (neurons, inputs) for each layer; `biases`, a column for each layer; and `cost`,
    which changes no activation. The numbers are float64, unless `dtype`, which only `to_json` writes, says float32.

    Raises:
        ValueError, and others: the file is something else.
    """
    network = parse_json(content)
    if network["cost"] not in ("QuadraticCost", "CrossEntropyCost"):
        raise ValueError(f"its cost is {reprlib.repr(network['cost'])}, neither QuadraticCost nor CrossEntropyCost")
    if (dtype := network.get("dtype", "float64")) not in ("float32", "float64"):
        raise ValueError(f"its dtype is {reprlib.repr(dtype)}, neither float32 nor float64")
    layers = []
    for name in ("weights", "biases"):  # checked before NumPy sees them: a text would make all as long as itself
        if not all(map(_are_numbers, network[name])):
            raise ValueError(f"its {name} are not all numbers")
        with np.errstate(over="ignore"):  # what becomes infinite is refused later
            layers.append([np.array(rows, dtype) for rows in network[name]])
    sizes = [layers[0][0].shape[1], *(len(biases) for biases in layers[1])]
    if network["sizes"] != sizes:
        raise ValueError(f"its sizes are {reprlib.repr(network['sizes'])}, but those of its matrices are {sizes}")
    return _state_dict(zip(*layers, strict=True))


def _are_numbers(rows: Any) -> bool:
    """Whether it is a list of numbers, or of such lists; of millions, in little time and memory."""
    for row in rows if {*map(type, rows)} == {list} else [rows]:
        types = {*map(type, row)}
        integers = row if types == {int} else (number for number in row if type(number) is int)
        if not types <= {int, float} or (int in types and max(map(int.bit_length, integers)) > 63):
            return False
    return True


def to_json(network: SigmoidMLP) -> bytes:
    """The network as `network2.py` loads it, without rounding.

    Raises:
        ValueError: the text would be too long for `read_json`.
    """
    length = 5 * sum(parameter.numel() for parameter in network.parameters())  # as if every number were 0.0
    for parameter in network.parameters():  # before there is a text, which takes twenty times the weights' memory
        for numbers in torch.split(parameter.detach().cpu().flatten(), 2**16):
            check_json(length)
            length += len(json.dumps(numbers.double().tolist())) - 5 * len(numbers)
    check_json(length)
    parameters = [parameter.detach().cpu().double().numpy() for parameter in network.parameters()]
    content = {
        "sizes": list(network.sizes),
        "weights": [weights.tolist() for weights in parameters[0::2]],
        "biases": [biases[:, np.newaxis].tolist() for biases in parameters[1::2]],
        "cost": "QuadraticCost",
        "dtype": str(next(network.parameters()).dtype).removeprefix("torch."),
    }
    return json.dumps(content).encode()


def read_npz(content: bytes) -> dict[str, Tensor]:
    """The parameters in an archive of plain arrays: `weights_1` `(neurons, inputs)`, `biases_1` `(neurons,)`, ...

    Raises:
        ValueError, and others: the file is something else.
    """
    open_archive(content).close()
    with warnings.catch_warnings(), np.load(io.BytesIO(content), allow_pickle=False) as archive:
        warnings.simplefilter("ignore")  # NumPy's, about headers of Python 2 or of something else
        count = len(archive.files) // 2
        layers = [(archive[f"weights_{layer}"], archive[f"biases_{layer}"]) for layer in range(1, count + 1)]
        if len(archive.files) != 2 * count or not count:
            raise ValueError(f"it holds {len(archive.files)} arrays, not weights and biases for each layer")
    return _state_dict(layers)


def to_npz(network: SigmoidMLP) -> bytes:
    """The network as `read_npz` reads it."""
    file, arrays = io.BytesIO(), [parameter.detach().cpu().numpy() for parameter in network.parameters()]
    names = (f"{kind}_{layer}" for layer in range(1, len(network.sizes)) for kind in ("weights", "biases"))
    np.savez(file, **dict(zip(names, arrays, strict=True)))  # type: ignore[arg-type]
    return file.getvalue()


def _state_dict(layers: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for number, (weights, biases) in enumerate(layers):
        state[f"layers.{number}.weight"] = torch.from_numpy(np.ascontiguousarray(weights))
        column = biases.squeeze(1) if biases.ndim == 2 else biases
        state[f"layers.{number}.bias"] = torch.from_numpy(np.ascontiguousarray(column))
    return state
