"""Other programs' files of a network: JSON as the original's second edition saves it, NumPy's .npz, and ONNX.

Read is what `SigmoidMLP.state_dict` holds, not yet checked; `load_network` does that, and is the way in.
"""

import io
import json
import warnings
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torchdigits.errors import CheckpointError, OptionError
from torchdigits.network import SigmoidMLP

# Relative error of onnxruntime's activations that is allowed in any case.
_ONNX_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


def read_json(path: Path) -> dict[str, Tensor]:
    """The parameters in a file of `network2.py`, of Nielsen's "Neural Networks and Deep Learning" or a port of it.

    An object with `sizes`; `weights`, a matrix (neurons by inputs) for each layer; `biases`, a column for each; and
    `cost`, which makes no difference to what the network computes. They are doubles, or what our own `dtype` says.

    Raises:
        ValueError, and others: it is no such file.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["cost"] not in ("QuadraticCost", "CrossEntropyCost"):
        raise ValueError(f"its cost is {content['cost']!r}, neither QuadraticCost nor CrossEntropyCost")
    if content.get("dtype", "float64") not in ("float32", "float64"):
        raise ValueError(f"its dtype is {content['dtype']!r}, neither float32 nor float64")
    layers = []
    for name in ("weights", "biases"):
        numbers = [number for rows in content[name] for row in rows for number in (row if type(row) is list else [row])]
        if not {*map(type, numbers)} <= {int, float}:  # in an array of texts, the shortest takes as much as the longest
            raise ValueError(f"its {name} are not all numbers")
        arrays = [np.array(rows) for rows in content[name]]
        if any(array.dtype.kind not in "fiu" for array in arrays):  # but an integer beyond 64 bits
            raise ValueError(f"its {name} are not all numbers")
        with np.errstate(over="ignore"):  # what becomes infinite is refused with what is
            layers.append([array.astype(content.get("dtype", "float64")) for array in arrays])
    sizes = [layers[0][0].shape[1], *(len(biases) for biases in layers[1])]
    if content["sizes"] != sizes:
        raise ValueError(f"its sizes are {content['sizes']}, and those of its matrices {sizes}")
    return _state_dict(zip(*layers, strict=True))


def to_json(network: SigmoidMLP) -> bytes:
    """The network as `network2.py` loads it, to the last bit; its cost is called QuadraticCost, as ours is."""
    parameters = [parameter.detach().cpu().double().numpy() for parameter in network.parameters()]
    content = {
        "sizes": list(network.sizes),
        "weights": [weights.tolist() for weights in parameters[0::2]],
        "biases": [biases[:, np.newaxis].tolist() for biases in parameters[1::2]],
        "cost": "QuadraticCost",
        "dtype": _dtype(network),
    }
    return json.dumps(content).encode()


def read_npz(path: Path) -> dict[str, Tensor]:
    """The parameters in an archive of plain arrays: `weights_1` `(neurons, inputs)`, `biases_1` `(neurons,)`, ...

    Raises:
        ValueError, and others: it is no such file.
    """
    with np.load(path, allow_pickle=False) as archive:
        count = len(archive.files) // 2
        layers = [(archive[f"weights_{layer}"], archive[f"biases_{layer}"]) for layer in range(1, count + 1)]
        if len(archive.files) != 2 * count or not count:
            raise ValueError(f"it holds {len(archive.files)} arrays: wanted are weights and biases of each layer")
    return _state_dict(layers)


def to_npz(network: SigmoidMLP) -> bytes:
    """The network as `read_npz` takes it."""
    arrays = [parameter.detach().cpu().numpy() for parameter in network.parameters()]
    file = io.BytesIO()
    names = (f"{kind}_{layer}" for layer in range(1, len(network.sizes)) for kind in ("weights", "biases"))
    np.savez(file, **dict(zip(names, arrays, strict=True)))  # type: ignore[arg-type]
    return file.getvalue()


def to_onnx(network: SigmoidMLP) -> bytes:
    """The network as ONNX: from `images` `(batch, 784)` to `activations` `(batch, 10)`, for batches of any size.

    It is checked before it is given: onnxruntime has to answer as torch does, on the 290 test images of scikit-learn's
    digits or, if they do not fit, on random ones. The activations' relative error (norm of the difference over norm of
    torch's) may be 1e-6 in float32 and 1e-12 in float64, or four times that of torch's from the reference's.

    Raises:
        OptionError: the packages of the extra `export` are missing.
        CheckpointError: onnxruntime answers otherwise.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter asks for it
    except ImportError as error:
        raise OptionError(f"ONNX: {error.name} is missing; pip install 'torchdigits[export]'") from error
    from torchdigits.datasets import load_splits
    from torchdigits.parity import reference_of, relative_error

    network = deepcopy(network).cpu().eval()
    dtype = next(network.parameters()).dtype
    images = torch.from_numpy(np.random.default_rng(0).random((290, network.sizes[0]))).to(dtype)
    if network.sizes[0] == 784:
        images = load_splits("digits").test.images.to(dtype) / 255
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        program = torch.onnx.export(
            network,
            (images,),
            input_names=["images"],
            output_names=["activations"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    onnx.checker.check_model(content, full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = network(images).numpy()
    exact = reference_of(network).feedforward(images.double().numpy().T).T
    allowed = max(_ONNX_TOLERANCE[dtype], 4 * relative_error(expected, exact))
    for size in (len(images), 1):
        parts = [part.numpy() for part in torch.split(images, size)]
        deviation = relative_error(np.concatenate([session.run(None, {"images": part})[0] for part in parts]), expected)
        if not deviation <= allowed:
            raise CheckpointError(
                f"onnxruntime's activations have a relative error of {deviation:.1e}: nothing written"
            )
    return content


def _state_dict(layers: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for number, (weights, biases) in enumerate(layers):
        state[f"layers.{number}.weight"] = torch.from_numpy(np.ascontiguousarray(weights))
        column = biases.squeeze(1) if biases.ndim == 2 else biases
        state[f"layers.{number}.bias"] = torch.from_numpy(np.ascontiguousarray(column))
    return state


def _dtype(network: SigmoidMLP) -> str:
    return str(next(network.parameters()).dtype).removeprefix("torch.")
