"""Candidates in torch: a module whose parameters are the layers' weights and biases, with or without Lightning."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchdigits.errors import CandidateError
from torchdigits.proof.diagnosis.candidates import MANY, SIZES, Observed, RaisedError, calling, file_of
from torchdigits.proof.diagnosis.steps import Problem


@dataclass
class ModuleForm:
    """A `torch.nn.Module` of layers of sigmoid neurons; a LightningModule with its own cost."""

    factory: Callable[..., Any]
    sizes: tuple[int, ...] | None
    construct: Callable[[list[int]], nn.Module]
    in_out: bool
    dtype: str
    says: str
    depth: int | None = None
    per_example: bool = False
    changed: set[str] = field(default_factory=set)
    reversed: bool = False

    def __post_init__(self) -> None:
        self.file = file_of(self.factory)

    def observe(self, problem: Problem) -> Observed:
        """The gradient of a problem's mean cost, by autograd, from a fresh instance."""
        return self._call(self.instance(problem), problem)

    def again(self, problem: Problem) -> tuple[Observed, Observed]:
        """The same twice, from one instance; what accumulates in `grad` is set to None in between."""
        module = self.instance(problem)
        return self._call(module, problem), self._call(module, problem)

    def instance(self, problem: Problem) -> nn.Module:
        """A module with the problem's weights."""
        module: nn.Module = calling(self.construct, problem.sizes, file=self.file)
        weights, biases = parameters(module)
        if len(weights) != len(problem.weights):
            sizes = "-".join(map(str, problem.sizes))
            raise CandidateError(f"{len(weights)} matrices for layers {sizes}; expected {len(problem.weights)}")
        with torch.no_grad():
            for own, array in zip(weights, problem.weights, strict=True):
                own.copy_(torch.from_numpy(array.T if self.in_out else array))
            for own, array in zip(biases, problem.biases, strict=True):
                own.copy_(torch.from_numpy(array).reshape(own.shape))
        return module

    def _call(self, module: nn.Module, problem: Problem) -> Observed:
        for parameter in module.parameters():
            parameter.grad = None
        dtype = getattr(torch, self.dtype)
        x, y = torch.from_numpy(problem.x.T.copy()).to(dtype), torch.from_numpy(problem.y.T.copy()).to(dtype)
        kept_x, kept_y = x.clone(), y.clone()

        def both() -> tuple[Tensor, Tensor]:
            outputs = _outputs(module, x, problem)
            cost = _own_cost(module, x, y)
            if cost is None:
                cost = (outputs - y).square().sum() / (2 * len(y))
            cost.backward()  # type: ignore[no-untyped-call]
            return outputs.detach(), cost.detach()

        outputs, cost = calling(both, file=self.file, problem=problem)
        self.changed |= {name for name, a, b in (("x", x, kept_x), ("y", y, kept_y)) if not torch.equal(a, b)}
        weights, biases = parameters(module)
        gradient = {}
        for layer, (w, b) in enumerate(zip(weights, biases, strict=True), 1):
            for name, parameter in ((f"dC/dW({layer})", w), (f"dC/db({layer})", b)):
                slope = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                array = slope.detach().double().cpu().numpy()
                if not np.isfinite(array).all():
                    raise CandidateError(f"the gradient {name} holds NaN or infinite numbers; expected finite ones")
                gradient[name] = array.ravel() if parameter is b else array.T if self.in_out else array
        return Observed(problem, gradient, torch.finfo(dtype).eps, outputs.double().cpu().numpy().T, float(cost))


def _outputs(module: nn.Module, x: Tensor, problem: Problem) -> Tensor:
    outputs = _first_that_works(module, [(x,), *([(x.reshape(-1, 1, 28, 28),)] if x.shape[1] == 784 else [])])
    expected = (problem.m, problem.sizes[-1])
    if not isinstance(outputs, Tensor) or outputs.shape != expected:
        got = f"a tensor {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise CandidateError(f"forward(x) returned {got} for x {tuple(x.shape)}; expected activations {expected}")
    return outputs


def _own_cost(module: nn.Module, x: Tensor, y: Tensor) -> Tensor | None:
    step = getattr(module, "training_step", None)
    if step is None:
        return None
    images = x.reshape(-1, 1, 28, 28) if x.shape[1] == 784 else x
    batches = [(x, y.argmax(1)), (images, y.argmax(1)), (x, y)]
    with contextlib.redirect_stderr(io.StringIO()):  # Lightning says that there is no Trainer
        found = _first_that_works(step, [(batch, 0) for batch in batches])
    found = found["loss"] if isinstance(found, dict) else found
    if not isinstance(found, Tensor):
        raise CandidateError(f"training_step returned a {type(found).__name__}; expected the cost, as a tensor")
    return found


def _first_that_works(function: Callable[..., Any], attempts: list[tuple[Any, ...]]) -> Any:
    """What it returns for the first arguments that it takes; if it takes none, what it raised for the first."""
    first: Exception | None = None
    for arguments in attempts:
        try:
            return function(*arguments)
        except (RuntimeError, ValueError, TypeError) as failed:
            first = first or failed
    assert first is not None
    raise first


def parameters(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """A module's weights and biases, layer by layer.

    Raises:
        CandidateError: they are not one matrix and one bias for each layer.
    """
    weights: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    every = [*module.parameters()]
    for parameter in every:
        (weights if parameter.ndim == 2 and min(parameter.shape) > 1 else biases).append(parameter)
    if len(weights) < len(biases):  # a layer of one neuron has a matrix of one row, as a bias may be
        half = len(every) // 2
        for ws, bs in ((every[::2], every[1::2]), (every[:half], every[half:]), (every[half:], every[:half])):
            if len(ws) == len(bs) and all(w.ndim == 2 and b.numel() in w.shape for w, b in zip(ws, bs, strict=True)):
                return ws, bs
    if not weights or len(weights) != len(biases):
        raise CandidateError(f"{len(weights)} matrices and {len(biases)} biases; expected one of each for each layer")
    return weights, biases


def module_form(factory: Callable[..., Any], rightness: Callable[[Observed], float]) -> ModuleForm:
    """Find out which layers a module can have, and how it holds their weights.

    Args:
        factory: a class, or a function that makes a module: of sizes, `Network([784, 30, 10])` or
            `Network(784, 30, 10)`, or of nothing, with layers of its own.
        rightness: of a gradient.

    Raises:
        CandidateError: its parameters are not those of layers.
    """
    file = file_of(factory)
    name = getattr(factory, "__name__", "the module")
    ways: list[Callable[[list[int]], nn.Module]] = [lambda s: factory(s), lambda s: factory(*s), lambda s: factory()]
    failures: list[CandidateError] = []
    for number, construct in enumerate(ways):
        try:
            form = _made(factory, construct, fixed=number == 2, name=name, file=file)
            if form.sizes is None:  # which its own code may not stand
                form.observe(Problem.random(SIZES, MANY, dtype=form.dtype))
            break
        except CandidateError as error:
            failures.append(error)
    else:  # what is said of a module that was made counts for more than that none could be made
        raise next((error for error in failures if not isinstance(error, RaisedError)), failures[0])
    sizes = form.sizes or SIZES
    problem = Problem.random(sizes, MANY, scale=_scale(sizes), dtype=form.dtype)
    if problem.sizes[0] == problem.sizes[-1] and len(problem.sizes) == 2:
        other = replace(form, in_out=not form.in_out)
        form = max((form, other), key=lambda f: rightness(f.observe(problem)))
    return form


def _made(
    factory: Callable[..., Any], construct: Callable[[list[int]], nn.Module], fixed: bool, name: str, file: str
) -> ModuleForm:
    module = calling(construct, list(SIZES), file=file)
    if not isinstance(module, nn.Module):
        raise CandidateError(f"{name} made a {type(module).__name__}; expected a torch.nn.Module")
    sides = _sides(name, module, None if fixed else list(SIZES))
    if sides is None:
        raise CandidateError(f"{name}({[*SIZES]}) has layers of other sizes")
    dtypes = {str(parameter.dtype).removeprefix("torch.") for parameter in module.parameters()}
    if odd := dtypes - {"float64", "float32", "float16"}:
        said = f"parameters of {min(odd)}, in which rounding may be as large as a mistake"
        raise CandidateError(f"{name}: {said}; expected float32 or float64")
    dtype = str(next(iter(module.parameters())).dtype).removeprefix("torch.")
    kind = "a LightningModule with its own cost" if hasattr(module, "training_step") else "a torch.nn.Module"
    return ModuleForm(factory, sides[0] if fixed else None, construct, sides[1], dtype, kind)


def _scale(sizes: tuple[int, ...]) -> float:
    return 1.0 if max(sizes) < 100 else max(sizes) ** -0.5


def _sides(name: str, module: nn.Module, asked: list[int] | None) -> tuple[tuple[int, ...], bool] | None:
    """A module's sizes, and whether its matrices are `(inputs, neurons)`; None if it did not heed the sizes."""
    weights, biases = parameters(module)
    for in_out in (False, True):
        shapes = [tuple(w.shape)[::-1] if in_out else tuple(w.shape) for w in weights]
        sizes = (shapes[0][1], *(neurons for neurons, _ in shapes))
        chained = all(shape[1] == size for shape, size in zip(shapes, sizes, strict=False))
        if chained and all(b.numel() == size for b, size in zip(biases, sizes[1:], strict=True)):
            return None if asked is not None and list(sizes) != asked else (sizes, in_out)
    said = ", ".join(str(tuple(p.shape)) for p in module.parameters())
    raise CandidateError(f"{name}: parameters of shapes {said}; expected a matrix and a bias for each layer")
