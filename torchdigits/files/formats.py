"""Networks in the formats of other programs: JSON as `network2.py` of Nielsen's book saves it, and NumPy's .npz.

The readers take a file's bytes and return what `SigmoidMLP.state_dict` would, not yet checked. To read a file, call
`load_network`.
"""

import io
import json
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from torchdigits.files.reading import open_archive, parse_json
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
        raise ValueError(f"its cost is {network['cost']!r}, neither QuadraticCost nor CrossEntropyCost")
    if (dtype := network.get("dtype", "float64")) not in ("float32", "float64"):
        raise ValueError(f"its dtype is {dtype!r}, neither float32 nor float64")
    layers = []
    for name in ("weights", "biases"):  # checked before NumPy sees them: a text would make all as long as itself
        numbers = [number for rows in network[name] for row in rows for number in (row if type(row) is list else [row])]
        if not all(type(n) is float or (type(n) is int and n.bit_length() <= 63) for n in numbers):
            raise ValueError(f"its {name} are not all numbers")
        with np.errstate(over="ignore"):  # what becomes infinite is refused later
            layers.append([np.array(rows, dtype) for rows in network[name]])
    sizes = [layers[0][0].shape[1], *(len(biases) for biases in layers[1])]
    if network["sizes"] != sizes:
        raise ValueError(f"its sizes are {network['sizes']}, but those of its matrices are {sizes}")
    return _state_dict(zip(*layers, strict=True))


def to_json(network: SigmoidMLP) -> bytes:
    """The network as `network2.py` loads it, without rounding."""
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
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
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
