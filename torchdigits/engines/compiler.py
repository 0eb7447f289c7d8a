"""A block of updates of plain stochastic gradient descent as a pure function: uncompiled, and compiled.

No derivative is written here by hand: the update's gradient is `torch.func.grad` of the network and the cost that the
eager engine trains. What this module adds is a loop that does not go back to Python after every update: on a CPU a scan
over the mini-batches of a block, compiled by Inductor to a library (`library.py`); on a GPU a CUDA graph of the block's
updates. The loop takes any update: that of a network, or of many at once (`population/ensemble.py`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from torchdigits.network import SigmoidMLP
from torchdigits.sgd import Parameters, sgd_step

# S mini-batches along the tensors' first axis. For one network, images (S, m, 784), bytes, and labels (S, m), int64.
Block = tuple[Tensor, ...]
Held = tuple[Tensor, ...]  # what every update reads and none changes: for one network, the learning rate, a scalar
Train = Callable[[Parameters, Block, Held], tuple[Parameters, Tensor]]  # the updates of a block; gives activations too
# A matrix product over this many examples or neurons, or fewer, is written out: see _product.
_FEW = 16
_INDUCTOR = {
    # What is used more than once is kept, not computed again: a mini-batch as floats is used 30 times over.
    "realize_reads_threshold": 0,
    # These shorten a compilation: no test programs are compiled to see what this processor can do (torch has found out
    # already), and no headers are prepared for further compilations, of which there are none.
    "cpp.vec_isa_ok": True,
    "cpp_cache_precompile_headers": False,
    "aot_inductor.precompile_headers": False,
}


class Update(Protocol):
    """The update of one mini-batch. It depends on its class, its sizes, and the arguments, and on nothing else."""

    sizes: tuple[int, ...]

    def __call__(self, parameters: Parameters, mini_batch: Block, held: Held) -> tuple[Parameters, Tensor]: ...


class NetworkUpdate:
    """`sgd_step` of a network on a mini-batch as it is stored: images `(m, 784)`, bytes, and labels `(m,)`.

    Held is the learning rate. It is not for several threads at once: `functional_call` changes the network for a
    moment.

    Args:
        sizes: neurons in each layer, the inputs first.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes, self._network = sizes, layers_without_numbers(sizes)

    def parameters(self, dtype: torch.dtype) -> Parameters:
        """Parameters of the network on a CPU, with any values."""
        return {name: torch.empty(value.shape, dtype=dtype) for name, value in self._network.named_parameters()}

    def __call__(self, parameters: Parameters, mini_batch: Block, held: Held) -> tuple[Parameters, Tensor]:
        (images, labels), (learning_rate,) = mini_batch, held
        dtype = next(iter(parameters.values())).dtype
        targets = (labels[:, None] == torch.arange(self.sizes[-1], device=labels.device)).to(dtype)
        batch = images.to(dtype) / 255, targets
        parameters, activations = sgd_step(self._network, learning_rate, parameters, batch)
        return parameters, activations.clone()  # for scan, whose results must not be views of one another


def layers_without_numbers(sizes: tuple[int, ...]) -> SigmoidMLP:
    """The layers, for parameters that come from elsewhere."""
    with torch.device("meta"):
        return SigmoidMLP(sizes)


def sgd_loop(update: Update, parameters: Parameters, block: Block, held: Held) -> tuple[Parameters, Tensor]:
    """The updates of a block, one after the other, uncompiled.

    Returns:
        The new parameters, and the activations `(S, ...)` that the updates were computed from.
    """
    activations = []
    for mini_batch in zip(*block, strict=True):
        parameters, outputs = update(parameters, mini_batch, held)
        activations.append(outputs)
    return parameters, torch.stack(activations)


def compile_library(update: Update, parameters: Parameters, block: Block, held: Held, folder: Path) -> Path:
    """`sgd_loop` for this update on a CPU, compiled for arguments of these shapes and types, whatever their values.

    Args:
        update, parameters, block, held: as for `sgd_loop`.
        folder: where the compiler may write.

    Returns:
        A shared library with AOTInductor's C interface. It takes the values of the parameters, the block and what is
        held, in this order, and returns the new parameters and the activations.

    Raises:
        Exception: whatever keeps torch from compiling: no compiler, no scan in torch, ...
    """
    from torch._higher_order_ops import scan
    from torch._inductor import aot_compile, config
    from torch._inductor.decomposition import select_decomp_table
    from torch.fx.experimental.proxy_tensor import make_fx

    aten, names = torch.ops.aten, list(parameters)
    products: dict[Any, Any] = {
        **dict.fromkeys((aten.mm.default, aten.bmm.default), _product),
        **dict.fromkeys((aten.addmm.default, aten.baddbmm.default), _product_and_sum),
    }
    table = {**select_decomp_table(), **products}

    def step(values: tuple[Tensor, ...], mini_batch: Block, held: Held) -> tuple[list[Tensor], Tensor]:
        updated, activations = update(dict(zip(names, values, strict=True)), mini_batch, held)
        return [*updated.values()], activations

    # Traced first, as torch.export cannot see through torch.func.grad inside a scan.
    values, first = tuple(parameters.values()), tuple(tensor[0] for tensor in block)
    graph = make_fx(step, decomposition_table=table, tracing_mode="fake")(values, first, held)

    class Loop(torch.nn.Module):
        def forward(self, values: tuple[Tensor, ...], block: Block, held: Held) -> Any:
            def turn(values: list[Tensor], mini_batch: Block) -> Any:
                return graph(tuple(values), mini_batch, held)

            return scan(turn, [*values], block)

    arguments = values, block, held
    exported = torch.export.export(Loop(), arguments, strict=True)
    # An option that another version of torch does not have is left out.
    options: dict[str, Any] = {name: value for name, value in _INDUCTOR.items() if name in config.get_config_copy()}
    options["aot_inductor.output_path"] = str(folder / "library.so")
    return Path(str(aot_compile(exported.module(), arguments, options=options)))


class CapturedBlock:
    """A block on a GPU: its updates, compiled one by one, captured once as a CUDA graph, and replayed.

    It takes blocks of the first one's shape. What is held is read where it was when it was captured; other tensors are
    copied there.
    """

    def __init__(self, update: Update) -> None:
        # torch counts what it compiled by code object, and stops at eight: so each update gets one of its own.
        def one(parameters: Parameters, mini_batch: Block, held: Held) -> tuple[Parameters, Tensor]:
            return update(parameters, mini_batch, held)

        one.__code__ = one.__code__.replace()
        self._update: Any = torch.compile(one, fullgraph=True, dynamic=False)
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, parameters: Parameters, block: Block, held: Held) -> tuple[Parameters, Tensor]:
        if self._graph is None:
            self._capture(parameters, block, held)
            assert self._graph is not None
        for tensor, captured in zip(held, self._held, strict=True):
            if tensor is not captured:
                captured.copy_(tensor)
        for inside, value in zip(self._inputs, (*parameters.values(), *block), strict=True):
            inside.copy_(value)
        self._graph.replay()
        # The next replay writes over what this one gave.
        return {name: value.clone() for name, value in self._parameters.items()}, self._activations.clone()

    def _capture(self, parameters: Parameters, block: Block, held: Held) -> None:
        inside = {name: value.clone() for name, value in parameters.items()}
        inside_block = tuple(tensor.clone() for tensor in block)
        self._inputs, self._held = (*inside.values(), *inside_block), held
        # What happens only once, such as compiling, must not be captured: torch asks for a rehearsal on a side stream.
        rehearsal = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        rehearsal.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(rehearsal):
            sgd_loop(self._update, inside, tuple(tensor[:3] for tensor in inside_block), held)
        torch.cuda.current_stream().wait_stream(rehearsal)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._parameters, self._activations = sgd_loop(self._update, inside, inside_block, held)
        self._graph = graph


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
