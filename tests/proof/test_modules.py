"""How modules in torch are made and asked for their gradients; their layers are torch's own."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchdigits.errors import CandidateError
from torchdigits.proof.diagnosis.candidates import RaisedError
from torchdigits.proof.diagnosis.check import form_of
from torchdigits.proof.diagnosis.steps import Problem
from torchdigits.proof.diagnosis.torch_forms import ModuleForm, parameters


class Net(nn.Module):
    """A right one, of any sizes; `lying` is how its matrices do."""

    lying, dtype = "out, in", torch.float32

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        shapes = zip(sizes[1:], sizes[:-1], strict=True)
        turned = self.lying == "in, out"
        self.w = nn.ParameterList(torch.randn(s[::-1] if turned else s, dtype=self.dtype) for s in shapes)
        self.b = nn.ParameterList(torch.randn(size, dtype=self.dtype) for size in sizes[1:])

    def forward(self, x: Tensor) -> Any:
        self.seen.append(x)
        for w, b in zip(self.w, self.b, strict=True):
            x = torch.sigmoid(x @ (w if self.lying == "in, out" else w.T) + b)
        return x


def made(candidate: Any) -> ModuleForm:
    form = form_of(candidate)
    assert isinstance(form, ModuleForm)
    return form


def assert_right(form: ModuleForm, problem: Problem, rel: float = 1e-4) -> None:
    """Gradients of the mean cost, outputs and cost are the reference's."""
    seen, network = form.observe(problem), problem.network()
    for layer, (w, b) in enumerate(zip(*network.backprop(problem.x, problem.y), strict=True), 1):
        for name, array in ((f"dC/dW({layer})", w), (f"dC/db({layer})", b[:, 0])):
            assert seen.gradient[name].dtype == np.float64
            assert seen.gradient[name] == pytest.approx(array / problem.m, rel=rel, abs=rel / 100)
    assert seen.forward == pytest.approx(network.feedforward(problem.x), rel=rel)
    assert seen.cost == pytest.approx(network.cost(problem.x, problem.y), rel=rel)
    assert seen.problem is problem


PROBLEM = Problem.random((7, 5, 3), 4)


class Turned(Net):
    lying = "in, out"


class Double(Net):
    dtype = torch.float64


class Each(Net):
    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__([inputs, hidden, outputs])


class Fixed(Net):
    def __init__(self) -> None:
        super().__init__([6, 4, 2])


class Wide(Net):
    def __init__(self) -> None:
        super().__init__([784, 30, 10])


@pytest.mark.parametrize(
    ("candidate", "sizes", "in_out", "dtype"),
    [
        (Net, None, False, "float32"),
        (Turned, None, True, "float32"),
        (Double, None, False, "float64"),
        (Each, None, False, "float32"),
        (Fixed, (6, 4, 2), False, "float32"),
        (Fixed(), (6, 4, 2), False, "float32"),
        (lambda: Turned([5, 9]), (5, 9), True, "float32"),
        (lambda sizes: Turned(sizes), None, True, "float32"),
    ],
)
def test_how_a_module_is_made_and_holds_its_weights(
    candidate: Any, sizes: tuple[int, ...] | None, in_out: bool, dtype: str
) -> None:
    form = made(candidate)
    assert (form.sizes, form.in_out, form.dtype, form.says) == (sizes, in_out, dtype, "a torch.nn.Module")
    assert (form.depth, form.per_example, form.changed, form.reversed) == (None, False, set(), False)
    problem = PROBLEM if sizes is None else Problem.random(sizes, 4)
    assert_right(form, problem, 1e-9 if dtype == "float64" else 1e-4)
    assert form.observe(problem).eps == torch.finfo(getattr(torch, dtype)).eps


@pytest.mark.parametrize("kind", [Net, Turned])
def test_of_one_square_layer_it_is_told_by_its_gradient(kind: type[Net]) -> None:
    form = made(lambda: kind([5, 5]))
    assert form.in_out is (kind is Turned)
    assert_right(form, Problem.random((5, 5), 4))


def test_weights_and_biases_may_come_in_any_order() -> None:
    w, b = (
        [nn.Parameter(torch.ones(shape)) for shape in ((5, 7), (3, 5))],
        [nn.Parameter(torch.ones(n)) for n in (5, 3)],
    )
    rows = [nn.Parameter(torch.ones(1, n)) for n in (5, 3)]
    thin = [nn.Parameter(torch.ones(shape)) for shape in ((1, 4), (3, 1))]
    ones = [nn.Parameter(torch.ones(n)) for n in (1, 3)]
    for weights, biases in ((w, b), (w, rows), (thin, ones)):
        for order in ([*weights, *biases], [*biases, *weights], [weights[0], biases[0], weights[1], biases[1]]):
            module = nn.Module()
            module.all = nn.ParameterList(order)
            found = parameters(module)
            assert [[id(one) for one in several] for several in found] == [[*map(id, weights)], [*map(id, biases)]]
    for several, said in (
        ([*w, b[0]], "2 matrices and 1 biases"),
        ([w[0], *b], "1 matrices and 2 biases"),
        (b, "0 matrices and 2 biases"),
        ([thin[0], ones[1], thin[1], ones[0]], "0 matrices and 4 biases"),  # of no such sizes
        ([], "0 matrices and 0 biases"),
    ):
        module = nn.Module()
        module.all = nn.ParameterList(several)
        with pytest.raises(CandidateError) as raised:
            parameters(module)
        assert str(raised.value) == f"{said}; expected one of each for each layer"


def refused(candidate: Any, problem: Problem = PROBLEM) -> str:
    with pytest.raises(CandidateError) as raised:
        form_of(candidate).observe(problem)
    return str(raised.value)


def returning(value: Callable[[Tensor], Any], fixed: bool = True) -> Any:
    """A module that gives something else than activations."""

    class Other(Net):
        def __init__(self, sizes: list[int] | None = None) -> None:
            super().__init__([7, 5, 3] if sizes is None else sizes)

        def forward(self, x: Tensor) -> Any:
            return value(super().forward(x))

    return (lambda: Other()) if fixed else Other


def test_what_gives_no_activations_is_told() -> None:
    expected = "expected activations (4, 3)"
    assert refused(returning(lambda a: a.T)) == f"forward(x) returned a tensor (3, 4) for x (4, 7); {expected}"
    assert refused(returning(lambda a: [a])) == f"forward(x) returned a list for x (4, 7); {expected}"
    broken = returning(lambda a: a * float("nan"))
    assert refused(broken) == "the gradient dC/dW(1) holds NaN or infinite numbers; expected finite ones"


def test_what_a_module_cannot_have_is_told() -> None:
    class Odd(nn.Module):
        def __init__(self, *shapes: tuple[int, ...]) -> None:
            super().__init__()
            self.all = nn.ParameterList(torch.ones(shape) for shape in shapes)

    shapes = "Odd: parameters of shapes {}; expected a matrix and a bias for each layer"
    wrong = lambda: Odd((5, 7), (5,), (3, 4), (3,))  # noqa: E731
    wrong.__name__ = "Odd"
    assert refused(wrong) == shapes.format("(5, 7), (5,), (3, 4), (3,)")
    wrong = lambda: Odd((5, 7), (4,), (3, 5), (3,))  # noqa: E731
    wrong.__name__ = "Odd"
    assert refused(wrong) == shapes.format("(5, 7), (4,), (3, 5), (3,)")

    class Half(Net):
        dtype = torch.bfloat16

    said = "Half: parameters of bfloat16, in which rounding may be as large as a mistake; expected float32 or float64"
    assert refused(Half) == said

    class Careless(Net):
        def __init__(self, sizes: list[int]) -> None:
            super().__init__([6, 4, 2])

    assert refused(Careless) == "Careless([7, 5, 3]) has layers of other sizes"

    class Never(nn.Module):
        def __init__(self, sizes: list[int]) -> None:
            raise ValueError("no")

    assert refused(Never).startswith("it raises ValueError: no\n  line ")

    class Two(Net):
        def __init__(self, sizes: list[int]) -> None:
            super().__init__([*sizes][:3])

    said = refused(Two, Problem.random((9, 6, 5, 2), 4))
    assert said == "2 matrices for layers 9-6-5-2; expected 3"


def test_where_a_module_fails_is_told() -> None:
    class Failing(Net):
        def forward(self, x: Tensor) -> Any:
            raise ValueError("no")

    form = made(lambda: Failing([7, 5, 3]))
    with pytest.raises(RaisedError) as raised:
        form.observe(PROBLEM)
    assert form.file == __file__
    assert raised.value.line == Failing.forward.__code__.co_firstlineno + 1
    assert raised.value.problem is PROBLEM


def test_images_are_given_flat_or_as_a_module_wants_them() -> None:
    class Flat(Wide):
        def forward(self, x: Tensor) -> Any:
            assert x.shape[1:] == (1, 28, 28) or failing(x)
            return super().forward(x.flatten(1))

    def failing(x: Tensor) -> bool:
        raise RuntimeError(f"of shape {tuple(x.shape)}")

    problem = Problem.random((784, 30, 10), 4, scale=784**-0.5)
    assert_right(made(Wide), problem, 1e-3)
    assert_right(made(Flat), problem, 1e-3)

    class Fails(Net):  # at anything: what it says of flat images is told
        def forward(self, x: Tensor) -> Any:
            raise RuntimeError(f"of shape {tuple(x.shape)}")

    assert refused(lambda: Fails([784, 30, 10]), problem).startswith("it raises RuntimeError: of shape (4, 784)")


def stepping(step: Callable[..., Any], base: type[Net] = Net) -> Any:
    return type("Stepping", (base,), {"training_step": step})


def half_squares(self: Net, x: Tensor, y: Tensor) -> Any:
    return ((self(x) - y) ** 2).sum() / 2 / len(y)


def test_a_module_may_have_its_own_cost() -> None:
    def of_labels(self: Net, batch: Any, index: int) -> Any:
        x, y = batch
        assert (y.dtype, index) == (torch.int64, 0)
        return half_squares(self, x, nn.functional.one_hot(y, self.b[-1].numel()).float())

    def of_outputs(self: Net, batch: Any, index: int) -> Any:
        x, y = batch
        if y.ndim == 1:
            raise ValueError("labels")
        return {"loss": half_squares(self, x, y), "other": 3}

    def of_images(self: Net, batch: Any, index: int) -> Any:
        x, y = batch
        if x.ndim != 4:
            raise TypeError("flat")
        return half_squares(self, x.flatten(1), nn.functional.one_hot(y, 10).float())

    for step in (of_labels, of_outputs):
        form = made(stepping(step))
        assert form.says == "a LightningModule with its own cost"
        assert_right(form, PROBLEM)
    assert_right(made(stepping(of_images, Wide)), Problem.random((784, 30, 10), 4, scale=784**-0.5), 1e-3)
    said = "training_step returned a int; expected the cost, as a tensor"
    assert refused(lambda: stepping(lambda self, batch, index: 3)([7, 5, 3])) == said

    def failing(self: Net, batch: Any, index: int) -> Any:
        raise ValueError(f"{batch[1].ndim} sides")  # what it says of labels is told

    assert "it raises ValueError: 1 sides" in refused(lambda: stepping(failing)([7, 5, 3]))


def test_what_lightning_says_goes_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    def noisy(self: Net, batch: Any, index: int) -> Any:
        print("no Trainer", file=sys.stderr)
        return half_squares(self, batch[0], nn.functional.one_hot(batch[1], 3).float())

    made(lambda: stepping(noisy)([7, 5, 3])).observe(PROBLEM)
    assert capsys.readouterr() == ("", "")


def test_what_a_module_changes_in_place_is_noticed() -> None:
    class Changing(Net):
        def forward(self, x: Tensor) -> Any:
            with torch.no_grad():
                if len(x) == 4:
                    x += 1
            return super().forward(x)

    form = made(lambda: Changing([7, 5, 3]))
    form.observe(Problem.random((7, 5, 3), 3))
    assert form.changed == set()
    form.observe(PROBLEM)
    form.observe(Problem.random((7, 5, 3), 3))
    assert form.changed == {"x"}

    def changing(self: Net, batch: Any, index: int) -> Any:
        if batch[1].ndim == 1:
            raise ValueError
        cost = half_squares(self, batch[0], batch[1].clone())
        batch[1].zero_()
        return cost

    form = made(lambda: stepping(changing)([7, 5, 3]))
    form.observe(PROBLEM)
    assert form.changed == {"y"}


def test_twice_from_one_module() -> None:
    """Its own gradients are set to None in between; what is not reached by the cost is zero."""
    instances: set[int] = set()

    class Part(Net):
        def forward(self, x: Tensor) -> Any:
            instances.add(id(self))
            assert all(parameter.grad is None for parameter in self.parameters())
            for w, b in zip([self.w[0].detach(), self.w[1]], self.b, strict=True):
                x = torch.sigmoid(x @ w.T + b)
            return x

    form = made(lambda: Part([7, 5, 3]))
    instances.clear()
    first, second = form.again(PROBLEM)
    assert len(instances) == 1
    assert not first.gradient["dC/dW(1)"].any()
    assert first.gradient["dC/dW(1)"].shape == (5, 7)
    for name, array in first.gradient.items():
        assert np.array_equal(array, second.gradient[name])
    nabla_w, nabla_b = PROBLEM.network().backprop(PROBLEM.x, PROBLEM.y)
    assert first.gradient["dC/dW(2)"] == pytest.approx(nabla_w[1] / 4, rel=1e-4)
    assert first.gradient["dC/db(1)"] == pytest.approx(nabla_b[0][:, 0] / 4, rel=1e-4)
