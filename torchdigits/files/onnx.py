"""Networks as ONNX, checked with onnxruntime before they are written."""

import os
import warnings
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from torchdigits.errors import CheckpointError, OptionError
from torchdigits.network import SigmoidMLP

_TOLERANCES = {torch.float32: 1e-6, torch.float64: 1e-12}  # relative errors that are always allowed


def to_onnx(network: SigmoidMLP) -> bytes:
    """The network as ONNX: from `images` `(batch, 784)` to `activations` `(batch, 10)`, for batches of any size.

    onnxruntime must first compute what torch does, on 290 random images. The relative error (norm of the difference
    over norm of torch's activations) may be 1e-12 in float64, and in float32 1e-6 or four times torch's own error.

    Raises:
        OptionError: a package of the extra `export` is missing.
        CheckpointError: onnxruntime computes something else.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else onnxruntime may report, and warns without a home
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise OptionError(f".onnx needs the package {error.name}: pip install 'torchdigits[export]'") from error

    network = deepcopy(network).cpu().eval()
    dtype = next(network.parameters()).dtype
    images = torch.rand(290, network.sizes[0], dtype=dtype, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        options: dict[str, Any] = {"input_names": ["images"], "output_names": ["activations"], "verbose": False}
        shapes = {"images": {0: torch.export.Dim("batch")}}
        program = torch.onnx.export(network, (images,), dynamic_shapes=shapes, **options)
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    onnx.checker.check_model(content, full_check=True)
    _check(onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]), network, images)
    return content


@torch.no_grad()
def _check(session: Any, network: SigmoidMLP, images: Tensor) -> None:
    """Compare onnxruntime's activations with torch's, for all images at once and one at a time."""
    expected, exact = network(images), deepcopy(network).double()(images.double())
    allowed = max(_TOLERANCES[images.dtype], 4 * _relative_error(expected, exact))
    for size in (len(images), 1):
        parts = [session.run(None, {"images": part.numpy()})[0] for part in torch.split(images, size)]
        error = _relative_error(torch.cat([torch.from_numpy(part) for part in parts]), expected)
        if not error <= allowed:
            raise CheckpointError(f"no .onnx written: onnxruntime's activations have a relative error of {error:.1e}")


def _relative_error(value: Tensor, truth: Tensor) -> float:
    truth = truth.double()
    return float(vector_norm(value.double() - truth) / vector_norm(truth).clamp(min=torch.finfo(torch.float64).tiny))
