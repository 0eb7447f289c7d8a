"""Plain stochastic gradient descent as pure functions: one update, and a compiled run of many.

No derivative is written here by hand: the update's gradient is `torch.func.grad` of the network and the cost that the
eager engine trains. What this module adds is a loop that does not go back to Python after every update: on a CPU a scan
over the mini-batches of a block, compiled by Inductor; on a GPU a CUDA graph of the block's updates. The loop takes any
update: that of a network, or of many at once (`population.py`).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from torchdigits.network import SigmoidMLP
from torchdigits.sgd import Parameters, sgd_step

# S mini-batches along the tensors' first axis. For one network, images (S, m, 784), bytes, and labels (S, m), int64.
Block = tuple[Tensor, ...]
Update = Callable[[Parameters, Block], tuple[Parameters, Tensor]]  # of one mini-batch; gives the activations besides
Train = Callable[[Parameters, Block], tuple[Parameters, Tensor]]  # the updates of a block
# A matrix product over this many examples or neurons, or fewer, is written out: see _product.
_FEW = 16
_INDUCTOR = {
    # From 2.13 on the loop around the updates can be C++ too; with 2.11 a block takes 1.6 times as long.
    "cpp_wrapper": TorchVersion(torch.__version__) >= "2.13",
    # What is used more than once is kept, not computed again: a mini-batch as floats is used 30 times over.
    "realize_reads_threshold": 0,
    # These two halve the time of a first compilation: no test programs are compiled to see what this processor can do
    # (torch has found out already), and no header is prepared for further compilations, of which there are none.
    "cpp.vec_isa_ok": True,
    "cpp_cache_precompile_headers": False,
}


def sgd_update(
    network: SigmoidMLP, learning_rate: float, parameters: Parameters, mini_batch: Block
) -> tuple[Parameters, Tensor]:
    """`sgd_step` on a mini-batch as it is stored: images `(m, 784)`, bytes, and labels `(m,)`."""
    images, labels = mini_batch
    dtype = next(iter(parameters.values())).dtype
    targets = (labels[:, None] == torch.arange(network.sizes[-1], device=labels.device)).to(dtype)
    parameters, activations = sgd_step(network, learning_rate, parameters, (images.to(dtype) / 255, targets))
    return parameters, activations.clone()  # for scan, whose results must not be views of one another


def sgd_loop(update: Update, parameters: Parameters, block: Block) -> tuple[Parameters, Tensor]:
    """The updates of a block, one after the other, uncompiled.

    Returns:
        The new parameters, and the activations `(S, ...)` that the updates were computed from.
    """
    activations = []
    for mini_batch in zip(*block, strict=True):
        parameters, outputs = update(parameters, mini_batch)
        activations.append(outputs)
    return parameters, torch.stack(activations)


def compiled_sgd(update: Update, device: torch.device) -> Train:
    """`sgd_loop` for this update, compiled by its first call, for blocks of that call's shape.

    Raises:
        Exception: here or in the first call, whatever keeps torch from compiling: no compiler, no scan in torch, ...
    """
    if device.type == "cuda":
        return _CapturedBlock(update)

    from torch._higher_order_ops import scan

    def train(parameters: Parameters, block: Block) -> tuple[Parameters, Tensor]:
        result: tuple[Parameters, Tensor] = scan(update, parameters, block)
        return result

    compiled: Train = _compile(train, backend=_inductor)
    return compiled


class _CapturedBlock:
    """A block on a GPU: its updates, compiled one by one, captured once as a CUDA graph, and replayed."""

    def __init__(self, update: Update) -> None:
        self._update = _compile(lambda parameters, mini_batch: update(parameters, mini_batch))
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, parameters: Parameters, block: Block) -> tuple[Parameters, Tensor]:
        if self._graph is None:
            self._capture(parameters, block)
            assert self._graph is not None
        for held, value in zip(self._inputs, (*parameters.values(), *block), strict=True):
            held.copy_(value)
        self._graph.replay()
        # The next replay writes over what this one gave.
        return {name: value.clone() for name, value in self._parameters.items()}, self._activations.clone()

    def _capture(self, parameters: Parameters, block: Block) -> None:
        held = {name: value.clone() for name, value in parameters.items()}
        held_block = tuple(tensor.clone() for tensor in block)
        self._inputs = (*held.values(), *held_block)
        # What happens only once, such as compiling, must not be captured: torch asks for a rehearsal on a side stream.
        rehearsal = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        rehearsal.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(rehearsal):
            sgd_loop(self._update, held, tuple(tensor[:3] for tensor in held_block))
        torch.cuda.current_stream().wait_stream(rehearsal)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._parameters, self._activations = sgd_loop(self._update, held, held_block)
        self._graph = graph


def _compile(function: Any, **options: Any) -> Any:
    # torch counts what it compiled by code object, and stops at eight: so each function gets one of its own.
    function.__code__ = function.__code__.replace()
    return torch.compile(function, fullgraph=True, dynamic=False, **options)


def _inductor(graph: torch.fx.GraphModule, inputs: Any) -> Any:
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.decomposition import select_decomp_table

    aten = torch.ops.aten
    products: dict[Any, Any] = {
        **dict.fromkeys((aten.mm.default, aten.bmm.default), _product),
        **dict.fromkeys((aten.addmm.default, aten.baddbmm.default), _product_and_sum),
    }
    table = {**select_decomp_table(), **products}
    return compile_fx(graph, inputs, config_patches=dict(_INDUCTOR), decompositions=table)


def _product(left: Tensor, right: Tensor) -> Any:
    """A matrix product `(m, k) (k, n)`, or one for each network `(K, m, k) (K, k, n)`, written out where it is small.

    A library made for large products is slow there. Inductor fuses what is written out with its neighbours: the
    weights' gradient, a sum over k examples, with their update; the weighted inputs of m examples with each other, so
    that the weights are read once.
    """
    m, k = left.shape[-2:]
    columns = right.mT
    if k <= _FEW:
        total = left[..., :1] * right[..., :1, :]
        for i in range(1, k):
            total = total + left[..., i : i + 1] * right[..., i : i + 1, :]
        return total
    if m <= _FEW and k <= 64:
        return (left[..., None, :] * columns[..., None, :, :]).sum(-1)
    if m <= _FEW:
        return torch.stack([(left[..., i : i + 1, :] * columns).sum(-1) for i in range(m)], -2)
    return NotImplemented


def _product_and_sum(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    product = _product(left, right) if beta == alpha == 1 else NotImplemented
    return product if product is NotImplemented else product + bias
