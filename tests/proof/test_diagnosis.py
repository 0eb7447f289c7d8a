"""Diagnoses of programs with mistakes that are planted in them, as texts; see planted.py."""

import difflib
import importlib.util
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import planted
import pytest

from torchdigits.errors import CandidateError
from torchdigits.proof import assert_gradients_agree, check
from torchdigits.proof.diagnosis.mistakes import BY_NAME, PLACES, WORDS, as_markdown, hypotheses, where
from torchdigits.proof.diagnosis.report import Diagnosis
from torchdigits.proof.diagnosis.steps import Problem, Steps

ANY_DEPTH = ("BOOK", "MATRIX", "ROWS", "EINSUM", "FLAT", "ORIGINAL", "AUTOGRAD", "TENSORS", "FUNCTION", "ONE_STEP")
RIGHT = (*ANY_DEPTH, "DICTIONARY", "PAIRS", "TWO_LAYERS", "ONE_BY_ONE")
IN_TORCH = {"AUTOGRAD", "TENSORS", "FUNCTION"}
FORMS = {
    "BOOK": planted.IN_BOOK,
    "MATRIX": planted.IN_MATRIX,
    "ROWS": planted.IN_ROWS,
    "AUTOGRAD": planted.IN_AUTOGRAD,
    "FUNCTION": planted.IN_FUNCTION,
    "ONE_STEP": planted.IN_ONE_STEP,
    "TWO_LAYERS": planted.IN_TWO_LAYERS,
}
SINGLE = [(form, number) for form, plants in FORMS.items() for number in range(len(plants))]
NAMES = ("Network", "NeuralNetwork", "Net", "gradients", "backward", "backprop")

Load = Callable[[str], Any]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """The candidate in a program's text."""
    counter = itertools.count()

    def loaded(source: str) -> Any:
        file = tmp_path / f"candidate_{next(counter)}.py"
        file.write_text(source)
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, file.stem, module)
        spec.loader.exec_module(module)
        return next(getattr(module, name) for name in NAMES if hasattr(module, name))

    return loaded


def source_of(form: str, *changes: tuple[str, str]) -> str:
    return planted.planted(getattr(planted, form), *changes)


def named(diagnosis: Diagnosis) -> list[tuple[str, str | None]]:
    return [(fault.mistake, fault.equation) for fault in diagnosis.faults]


@pytest.mark.parametrize("form", RIGHT)
def test_a_right_program_is_right(load: Load, form: str) -> None:
    diagnosis = check(load(source_of(form)))
    assert diagnosis.right, str(diagnosis)
    assert diagnosis.as_dict()["right"] is True
    assert 0 < diagnosis.largest.relative <= diagnosis.largest.bound < (1e-4 if form == "FLAT" else 1e-3)
    assert "Right: all gradients" in str(diagnosis)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("form", RIGHT)
def test_no_right_program_is_called_wrong(load: Load, form: str, dtype: Any) -> None:
    """Sixty random networks and mini-batches for each form and precision, most of them with saturated neurons."""
    candidate, draw = load(source_of(form)), random.Random(f"{form} {dtype}")
    problems = []
    for seed in range(60):
        sizes = [draw.randint(2, 40) for _ in range(draw.randint(2, 5) if form in ANY_DEPTH else 3)]
        scale = draw.choice([0.1, 1.0, 3.0, 10.0])
        problems.append(Problem.random(sizes, draw.randint(1, 12), seed, scale))
    diagnosis = check(candidate, dtype=None if form in IN_TORCH else dtype, problems=problems)
    assert diagnosis.right, str(diagnosis)
    assert diagnosis.problems == 60


@pytest.mark.parametrize("form", RIGHT)
def test_layers_of_one_neuron_are_right_too(load: Load, form: str) -> None:
    """Whose matrix is a row or a column, as a bias may be."""
    problems = [Problem.random(sizes, m) for sizes in ((4, 1, 3), (1, 4, 2), (4, 3, 1)) for m in (5, 1)]
    diagnosis = check(load(source_of(form)), problems=problems)
    assert diagnosis.right, str(diagnosis)


@pytest.mark.parametrize(("form", "number"), SINGLE)
def test_a_planted_mistake_is_named(load: Load, form: str, number: int) -> None:
    name, equation, changes = FORMS[form][number]
    source = source_of(form, *changes)
    diagnosis = check(load(source))
    assert named(diagnosis) == [(name, equation)], str(diagnosis)
    (fault,) = diagnosis.faults
    assert BY_NAME[name].why in fault.explanation
    if fault.equation == "update":
        return
    if fault.line is None:
        assert name in WITHOUT_LINE or (form, name) == ("AUTOGRAD", "no-sigmoid")  # where z and a are one value
        return
    before = source_of(form).splitlines()
    blocks = difflib.SequenceMatcher(None, before, source.splitlines()).get_opcodes()
    changed = {line + 1 for tag, _, _, start, end in blocks if tag != "equal" for line in range(start, end)}
    assert fault.line in changed or (form, name) in ELSEWHERE, source.splitlines()[fault.line - 1]


# A zero, or one number, may stand in many lines.
WITHOUT_LINE = {"bias-forgotten", "weights-forgotten", "layer-forgotten", "bias-total"}
# The line that is named is the next that shows the mistake in a variable: the one that uses the wrong value.
ELSEWHERE = {
    ("BOOK", "no-weights"),
    ("FUNCTION", "no-slope"),
    ("ONE_STEP", "updated-weights"),
    ("TWO_LAYERS", "updated-weights"),
    ("ROWS", "bias-not-summed"),
    ("ROWS", "no-weights"),
    ("MATRIX", "slope-wrong-layer"),
    ("MATRIX", "wrong-weights"),
    ("MATRIX", "one-error"),
    ("MATRIX", "no-slope"),
    ("MATRIX", "slope-of-a"),
    ("MATRIX", "no-weights"),
    ("MATRIX", "examples-mixed"),
    ("MATRIX", "weights-of-error"),
}


@pytest.mark.slow
def test_pairs_of_mistakes_are_named_or_located(load: Load) -> None:
    """No diagnosis is wrong; nine of ten name both mistakes, or one and the equation of the other, or its equation."""
    count, draw = int(os.environ.get("TORCHDIGITS_PAIRS", "24")), random.Random(0)
    both = located = 0
    tried: list[tuple[str, str, str]] = []
    several = {form: plants for form, plants in FORMS.items() if form != "AUTOGRAD"}  # whose all change one text
    for form, plants in several.items():
        pairs = list(itertools.combinations([plant for plant in plants if plant[0] not in {"in-place", "float16"}], 2))
        draw.shuffle(pairs)
        taken = 0
        for one, other in pairs:
            try:
                source = source_of(form, *one[2], *other[2])
            except AssertionError:
                continue  # both change the same text
            taken += 1
            tried.append((form, one[0], other[0]))
            try:
                diagnosis = check(load(source))
            except CandidateError as error:
                # It raises, or gives shapes that fit nothing, for layers of any size.
                assert "  line " in str(error) or "has the shape" in str(error)  # noqa: PT017
                located += 1
                continue
            mistakes, equations = ({item[i] for item in named(diagnosis)} for i in (0, 1))
            assert not diagnosis.right, (form, one, other)
            planted_equations = {one[1], other[1]}
            if mistakes == {one[0], other[0]}:
                both += 1
            elif "unknown" in mistakes:
                # A mistake in the forward pass or the cost shows in every equation.
                located += bool(equations & planted_equations or planted_equations & {"forward", "cost"})
            elif mistakes <= {one[0], other[0]}:
                located += 1
            else:  # other mistakes that give the same numbers, in the same equations
                assert equations & planted_equations, (tried[-1], str(diagnosis))
            if taken == count // len(several):
                break
    assert both + located >= 0.9 * len(tried), (both, located, len(tried))
    print(f"{both} of {len(tried)} pairs named, {located} located")


def test_every_mistake_has_a_text_in_three_sentences() -> None:
    assert len(BY_NAME) >= 60
    for mistake in BY_NAME.values():
        ends = mistake.why.count(". ") + mistake.why.endswith(".")
        assert ends in {2, 3, 4}, (mistake.name, mistake.why)
        assert mistake.seen == "" or mistake.seen.startswith("http")
    assert sum(bool(mistake.seen) for mistake in BY_NAME.values()) >= 30


def test_the_page_of_the_mistakes_is_that_of_the_program() -> None:
    """`python -c "from torchdigits.proof.diagnosis.mistakes import *; print(as_markdown(), end='')"` writes it."""
    page = Path(__file__).parents[2] / "docs" / "mistakes.md"
    assert page.read_text() == as_markdown()


def test_every_hypothesis_gives_another_gradient_somewhere() -> None:
    """None is the right gradient in disguise: then it could never be told."""
    problems = [Problem.random(sizes, m) for sizes in ((7, 5, 3), (5, 5, 5, 5), (4, 3)) for m in (5, 1)]
    problems = [Problem(p.weights, p.biases, p.x, p.y, eta=0.5) for p in problems]
    found: dict[tuple[str, int], bool] = {}
    for hypothesis in hypotheses():
        differs = found.get(way := (hypothesis.mistake.name, id(hypothesis.way)), False)
        for problem in problems:
            try:
                steps = Steps(problem, [(hypothesis.way, where(hypothesis.place))])
            except ValueError:
                continue
            right = Steps(problem).gradient
            differs |= any(
                value.shape != right[name].shape or not np.allclose(value, right[name])
                for name, value in steps.gradient.items()
            )
        found[way] = differs
    assert all(found.values()), found


def test_places_between_are_those_of_hidden_layers() -> None:
    def between(layers: int) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for hypothesis in hypotheses(layers):
            if hypothesis.place.startswith("layer"):
                assert hypothesis.equation != "BP1"
                found.setdefault(hypothesis.mistake.name, []).append(hypothesis.place)
        return found

    assert between(0) == between(2) == {}
    assert {*between(4)} == {name for name, mistake in BY_NAME.items() if mistake.ways and "hidden" in mistake.places}
    assert {*between(4)["no-slope"]} == {"layer 2", "layer 3"}
    assert {*WORDS} == {*PLACES}
    assert [where("layer 2")(layer, 4) for layer in range(5)] == [False, False, True, False, False]


def test_a_mistake_in_a_layer_between_is_named(load: Load) -> None:
    """Of a network that can have but these sizes."""
    source = dedent("""
        import torch
        from torch import nn

        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.ModuleList(nn.Linear(k, n) for k, n in zip((9, 7, 6, 5), (7, 6, 5, 4)))

            def forward(self, x):
                for number, layer in enumerate(self.layers):
                    x = torch.tanh(layer(x)) if number == 2 else torch.sigmoid(layer(x))
                return x
    """)
    (fault,) = check(load(source)).faults
    assert (fault.mistake, fault.equation, fault.layer) == ("tanh", "forward", "layer 3")


def test_steps_are_the_reference() -> None:
    problem = Problem.random((7, 5, 3), 4)
    nabla_w, nabla_b = problem.network().backprop(problem.x, problem.y)
    for layer, (w, b) in enumerate(zip(nabla_w, nabla_b, strict=True), 1):
        assert Steps(problem).gradient[f"dC/dW({layer})"] == pytest.approx(w, rel=1e-13)
        assert Steps(problem, mean=True).gradient[f"dC/db({layer})"] == pytest.approx(b / 4, rel=1e-13)


# What is none of the known mistakes


def test_what_is_off_by_a_factor_is_told(load: Load) -> None:
    source = source_of("BOOK", ("return output_activations - y", "return 0.3 * (output_activations - y)"))
    (fault,) = check(load(source)).faults
    assert (fault.mistake, fault.equation) == ("unknown", "cost")
    assert "0.3 times" in fault.explanation


def test_it_is_told_up_to_which_layer_all_is_right(load: Load) -> None:
    source = source_of("MATRIX", ("carried = w.T @ delta", "carried = np.sin(w.T @ delta)"))
    diagnosis = check(load(source))
    (fault,) = diagnosis.faults
    assert (fault.mistake, fault.equation, fault.layer) == ("unknown", "BP2", "first")
    assert "right up to layer 2" in fault.explanation
    parts = {part.name: part.right for part in diagnosis.parts}
    assert parts == {"outputs": True, "dC/db(2)": True, "dC/dW(2)": True, "dC/db(1)": False, "dC/dW(1)": False}


def test_what_is_right_for_one_example_alone_is_told(load: Load) -> None:
    source = source_of("MATRIX", ("error = activations[-1] - y", "error = np.sort(activations[-1] - y, axis=1)"))
    (fault,) = check(load(source)).faults
    assert fault.mistake == "unknown"
    assert "right for one example, but not for a mini-batch" in fault.explanation


def test_noise_is_told(load: Load) -> None:
    source = source_of("BOOK", ("nabla_b[-1] = delta\n", "nabla_b[-1] = delta * np.random.rand()\n"))
    diagnosis = check(load(source))
    assert "called twice with the same arguments" in str(diagnosis).lower()


def test_a_factor_of_one_gradient_is_told(load: Load) -> None:
    source = source_of("ROWS", ("db = delta.mean(axis=0)", "db = 0.7 * delta.mean(axis=0)"))
    (fault,) = check(load(source)).faults
    assert (fault.mistake, fault.equation, fault.layer) == ("unknown", "BP3", "output")
    assert "0.7 times" in fault.explanation


@pytest.mark.parametrize(
    ("instead", "name"),
    [
        ("a = np.maximum(0, np.dot(w, a) + b)", "relu"),
        ("a = sigmoid(np.dot(w, a))", "no-bias"),
        ("a = np.sin(np.dot(w, a) + b)", "unknown"),
    ],
)
def test_a_wrong_forward_pass_beside_a_right_gradient_is_told(load: Load, instead: str, name: str) -> None:
    diagnosis = check(load(source_of("BOOK", ("a = sigmoid(np.dot(w, a) + b)", instead))))
    assert named(diagnosis) == [(name, "forward")]


@pytest.mark.parametrize(
    ("cost", "says"),
    [
        ("((self.forward(x) - y) ** 2).sum()", "is twice the quadratic cost"),
        ("((self.forward(x) - y) ** 2).mean()", "is twice the mean over the outputs"),
        ("abs(self.forward(x) - y).sum()", "is not the quadratic cost"),
        ("((self.forward(x) - y) ** 2).sum() / 2", None),
        ("((self.forward(x) - y) ** 2).sum() / 2 / x.shape[1]", None),
    ],
)
def test_another_cost_beside_a_right_gradient_is_told(load: Load, cost: str, says: str | None) -> None:
    method = f"        def cost(self, x, y):\n            return {cost}\n\n        def forward_pass"
    diagnosis = check(load(source_of("MATRIX", ("        def forward_pass", method))))
    assert diagnosis.right
    assert ("The cost that it shows" in str(diagnosis)) == (says is not None)
    assert says is None or says in str(diagnosis)


def test_two_wrong_signs_are_right_together(load: Load) -> None:
    changes = (("error = activations[-1] - y", "error = y - activations[-1]"), ("w - step", "w + step"))
    diagnosis = check(load(source_of("MATRIX", *changes, ("b - step", "b + step"))))
    assert diagnosis.right, str(diagnosis)
    assert "together they are right" in str(diagnosis)
    half = check(load(source_of("MATRIX", *changes)))
    assert ("sign", "BP1") in named(half)


def test_gradients_that_are_all_zero_are_told(load: Load) -> None:
    source = source_of("BOOK", ("sigmoid(z) * (1 - sigmoid(z))", "sigmoid(z) * 1 - sigmoid(z)"))
    (fault,) = check(load(source)).faults
    assert (fault.equation, fault.layer, fault.mistake) == ("BP1", "output", "unknown")
    assert "Every gradient is 0" in fault.explanation


def test_what_one_update_leaves_out_is_told_by_name(load: Load) -> None:
    changes = (("self.biases = [b - step", "self.biases = [b + step"),)
    (fault,) = check(load(source_of("MATRIX", *changes))).faults
    assert fault.mistake == "ascent"
    assert "b(1), b(2): the gradient is added" in fault.explanation


def test_a_mean_of_biases_is_no_mistake_of_the_epoch(load: Load) -> None:
    changes = (("nabla_b[-1] = delta\n", "nabla_b[-1] = delta / 2\n"),)
    assert {fault.equation for fault in check(load(source_of("BOOK", *changes))).faults} == {"BP3"}


def test_the_two_gradients_in_the_other_order_than_the_update_takes_them(load: Load) -> None:
    (fault,) = check(load(source_of("BOOK", ("return (nabla_b, nabla_w)", "return (nabla_w, nabla_b)")))).faults
    assert (fault.mistake, fault.equation) == ("unknown", "update")
    assert "has become" in fault.explanation


# Forms


def test_a_class_of_two_layers_alone(load: Load) -> None:
    """Lists of weights, but sizes that are named: it cannot have one layer, or three."""
    two = "def __init__(self, inputs, hidden, outputs):\n            sizes = (inputs, hidden, outputs)"
    source = source_of("MATRIX", ("def __init__(self, sizes):", two))
    diagnosis = check(load(source))
    assert diagnosis.right, str(diagnosis)
    wrong = source_of("MATRIX", ("def __init__(self, sizes):", two), ("w.T @ delta", "w @ delta"))
    assert named(check(load(wrong))) == [("not-transposed", "BP2")]


def test_a_function_of_two_layers_alone(load: Load) -> None:
    source = """
    import numpy as np

    def backprop(weights, biases, x, y):
        a1 = 1 / (1 + np.exp(-(weights[0] @ x + biases[0])))
        a2 = 1 / (1 + np.exp(-(weights[1] @ a1 + biases[1])))
        d2 = (a2 - y) * a2 * (1 - a2)
        d1 = weights[1].T @ d2 * a1 * (1 - a1)
        return [d1 @ x.T, d2 @ a1.T], [d1.sum(1), d2.sum(1)]
    """
    diagnosis = check(load(dedent(source)))
    assert diagnosis.right, str(diagnosis)
    assert named(check(load(dedent(source.replace("a2 - y", "y - a2"))))) == [("sign", "BP1")]


def test_a_module_whose_sizes_have_defaults(load: Load) -> None:
    source = dedent("""
        import torch
        from torch import nn

        class Network(nn.Module):
            def __init__(self, n_in=784, n_hidden=30, n_out=10):
                super().__init__()
                self.hidden, self.out = nn.Linear(n_in, n_hidden), nn.Linear(n_hidden, n_out)

            def forward(self, x):
                return torch.sigmoid(self.out(torch.sigmoid(self.hidden(x))))
    """)
    assert check(load(source)).right
    wrong = check(load(source.replace("torch.sigmoid(self.hidden(x))", "torch.tanh(self.hidden(x))")))
    assert named(wrong) == [("tanh", "forward")]


@pytest.mark.parametrize("update", ["def train_step(self, x, y, eta):", "def train(self, x, y, eta):"])
def test_an_update_of_one_example(load: Load, update: str) -> None:
    """The book's backprop, of one example, and an update of one example beside it."""
    body = "\n            nb, nw = self.backprop(x, y)"
    body += "\n            self.weights = [w - eta * n for w, n in zip(self.weights, nw)]"
    body += "\n            self.biases = [b - eta * n for b, n in zip(self.biases, nb)]"
    body += "\n\n        def other(self, mini_batch, eta):"
    changes = (
        ("self.update_mini_batch", "self.other"),
        ("def update_mini_batch(self, mini_batch, eta):", update + body),
    )
    diagnosis = check(load(source_of("BOOK", *changes)))
    assert diagnosis.right, str(diagnosis)
    wrong = ("self.weights[-l + 1].transpose()", "self.weights[-l + 1]")  # which raises, but for layers of one size
    assert ("not-transposed", "BP2") in named(check(load(source_of("BOOK", *changes, wrong))))


def test_tensors_in_a_plain_class(load: Load) -> None:
    source = source_of("MATRIX").replace("import numpy as np", "import numpy as np\nimport torch")
    source = source.replace("rng.standard_normal((n, k)) for", "torch.randn(n, k, dtype=torch.float64) for")
    source = source.replace("rng.standard_normal((n, 1)) for", "torch.randn(n, 1, dtype=torch.float64) for")
    source = source.replace("np.exp(-z)", "torch.exp(-z)").replace(
        "sum(axis=1, keepdims=True)", "sum(dim=1, keepdim=True)"
    )
    diagnosis = check(load(source))
    assert diagnosis.right, str(diagnosis)


def test_methods_of_other_arguments_are_left_alone(load: Load) -> None:
    """An update of gradients, a cost of activations: they are not what their names stand for elsewhere."""
    methods = """        def update_weights(self, nabla_w, nabla_b, eta):
            raise AssertionError("it is not called")

        def update(self, gradients, eta):
            raise AssertionError("it is not called")

        def cost(self, activations, y):
            raise AssertionError("it is not called")

        def forward_pass"""
    source = source_of(
        "MATRIX", ("        def update_mini_batch", "        def other"), ("        def forward_pass", methods)
    )
    diagnosis = check(load(source))
    assert diagnosis.right, str(diagnosis)


def test_an_instance_of_a_module_is_as_good_as_its_class() -> None:
    from torch import nn

    model = nn.Sequential(nn.Linear(6, 4), nn.Sigmoid(), nn.Linear(4, 3), nn.Sigmoid())
    before = [parameter.clone() for parameter in model.parameters()]
    assert check(model).right
    model[3] = nn.Tanh()
    assert named(check(model)) == [("tanh", "forward")]
    assert all(bool((one == other).all()) for one, other in zip(before, model.parameters(), strict=True))


def test_a_numerical_gradient_is_as_exact_as_float32(load: Load) -> None:
    source = dedent("""
        import numpy as np

        def backprop(weights, biases, x, y):
            def cost():
                a = x
                for w, b in zip(weights, biases):
                    a = 1 / (1 + np.exp(-(w @ a + b)))
                return ((a - y) ** 2).sum() / 2

            def slope(array):
                found = np.zeros_like(array)
                for place in np.ndindex(array.shape):
                    kept = array[place]
                    array[place] = kept + 1e-5
                    above = cost()
                    array[place] = kept - 1e-5
                    found[place] = (above - cost()) / 2e-5
                    array[place] = kept
                return found

            return [slope(w) for w in weights], [slope(b) for b in biases]
    """)
    problems = [Problem.random((7, 5, 3), m) for m in (1, 3)]
    diagnosis = check(load(source), problems=problems)
    assert diagnosis.right, str(diagnosis)
    assert "as exact as float32's" in str(diagnosis)


def test_one_example_at_a_time_may_be_asked_for(load: Load) -> None:
    """The book's backprop as a function is right for one example; of a mini-batch it does not sum the biases."""
    source = dedent("""
        import numpy as np

        def backprop(weights, biases, x, y):
            a = [x]
            for w, b in zip(weights, biases):
                a.append(1 / (1 + np.exp(-(w @ a[-1] + b))))
            delta = (a[-1] - y) * a[-1] * (1 - a[-1])
            nabla_b, nabla_w = [delta], [delta @ a[-2].T]
            for l in range(len(weights) - 1, 0, -1):
                delta = (weights[l].T @ delta) * a[l] * (1 - a[l])
                nabla_b.insert(0, delta)
                nabla_w.insert(0, delta @ a[l - 1].T)
            return nabla_b, nabla_w
    """)
    candidate = load(source)
    assert check(candidate).right
    assert check(candidate, examples="one").right
    assert named(check(candidate, examples="mini-batch")) == [("bias-not-summed", "BP3")]


def test_a_function_whose_weights_get_right_means_takes_mini_batches(load: Load) -> None:
    """Its biases' deltas are not summed, though as a function of one example it would be right."""
    db = "db = delta.mean(axis=0)"
    assert named(check(load(source_of("ROWS", (db, "db = delta"))))) == [("bias-not-summed", "BP3")]
    mixed = ("delta = delta @ weights", "delta = delta.mean(axis=0, keepdims=True) @ weights")
    both = check(load(source_of("ROWS", mixed, (db, "db = delta"))))
    assert {*named(both)} == {("bias-not-summed", "BP3"), ("examples-mixed", "BP2")}
    summed = (("@ delta / len(x)", "@ delta"), (db, "db = delta"))
    assert check(load(source_of("ROWS", *summed))).right
    first = ("dw = activations[layer].T @ delta / len(x)", "dw = np.outer(activations[layer][0], delta[0])")
    assert check(load(source_of("ROWS", first, (db, "db = delta")))).right
    half = (*summed, ("dw = ", "delta = delta / y.size; dw = "))  # the mean over outputs, in each layer
    assert {fault.mistake for fault in check(load(source_of("ROWS", *half))).faults} != {"bias-not-summed"}
    for constant in ("0 * dw", "np.ones_like(dw)"):  # in the first layer, however many examples there are
        wrong = (summed[0], (db, f"db = delta; dw = dw if layer else {constant}"))
        assert check(load(source_of("ROWS", *wrong))).form.startswith("a function of an example")


def test_our_own_programs_are_right() -> None:
    from torchdigits import DigitClassifier, SigmoidMLP
    from torchdigits.proof.reference import Network

    for candidate in (Network, SigmoidMLP, DigitClassifier):
        diagnosis = check(candidate)
        assert diagnosis.right, str(diagnosis)
        assert_gradients_agree(candidate)


@pytest.mark.parametrize(
    ("cost", "mistakes"),
    [
        ("nn.functional.mse_loss(self(x), one_hot)", {"mean-over-outputs"}),
        ("((self(x) - one_hot) ** 2).sum()", {"no-half"}),
        ("((self(x) - one_hot) ** 2).sum() / 2 / len(x)", set()),
        ("((self(x) - one_hot) ** 2).sum() / 2", set()),
        ("nn.functional.cross_entropy(self(x), y)", {"softmax-cost"}),
        ("nn.functional.binary_cross_entropy(self(x), one_hot, reduction='sum')", {"cross-entropy"}),
        ("nn.functional.binary_cross_entropy(self(x), one_hot)", {"cross-entropy", "mean-over-outputs"}),
    ],
)
@pytest.mark.parametrize("fixed", [False, True])
def test_the_cost_of_a_lightning_module(load: Load, cost: str, mistakes: set[str], fixed: bool) -> None:
    source = dedent(f"""
        import lightning as L
        import torch
        from torch import nn

        class Network(L.LightningModule):
            def __init__(self{"" if fixed else ", sizes"}):
                super().__init__()
                sizes = {"(784, 30, 10)" if fixed else "sizes"}
                self.layers = nn.Sequential(nn.Flatten())
                for k, n in zip(sizes[:-1], sizes[1:]):
                    self.layers.extend([nn.Linear(k, n), nn.Sigmoid()])

            def forward(self, x):
                return self.layers(x)

            def training_step(self, batch, batch_idx):
                x, y = batch
                one_hot = nn.functional.one_hot(y, self.layers[-2].out_features).float()
                loss = {cost}
                self.log("loss", loss)
                return loss
    """)
    diagnosis = check(load(source))
    assert {fault.mistake for fault in diagnosis.faults} == mistakes, str(diagnosis)


def test_weights_that_are_updated_already_are_told(load: Load) -> None:
    """A class without backprop, whose step goes backwards and updates as it goes."""
    problem = Problem.random((7, 5, 3), 1)
    step = Problem(problem.weights, problem.biases, problem.x, problem.y, eta=0.5)
    (hypothesis,) = [h for h in hypotheses() if h.mistake.name == "updated-weights" and h.place == "hidden"]
    wrong = Steps(step, [(hypothesis.way, lambda layer, last: layer < last)])
    updated = problem.weights[1] - 0.5 * wrong.values["dC/dW(2)"]
    assert wrong.values["carried(1)"] == pytest.approx(updated.T @ wrong.delta(2), rel=1e-12)


# Candidates that are none


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return None", "None where an array was expected"),
        ("return (w for w in weights)", "a generator where an array was expected"),
        ("return [w * np.nan for w in weights] + biases", "NaN numbers in an array (5, 7)"),
        ("return weights[:1], biases", "3 arrays for 7-5-3; expected 2 of weights and 2 of biases"),
        ("return [w[:, :2] for w in weights], biases", "dC/dW(1) has the shape (5, 2)"),
        ("return [[1.0, 2.0], [3.0]], biases", "has the shape (2,)"),
        ("return 'gradients'", "a str where an array was expected"),
        ("return [BUFFER[: v.size].reshape(v.shape) for v in [*weights, *biases]]", "views of one buffer"),
        ("return fill([v * x.sum() for v in [*weights, *biases]])", "written again by its next call"),
        ("return undefined", "line 12, in backprop: return undefined"),
        ("raise SystemExit(0)", "SystemExit"),
    ],
)
def test_what_gives_no_gradients_is_told(load: Load, body: str, expected: str) -> None:
    source = dedent(f"""
        import numpy as np
        BUFFER, KEPT = np.zeros(1000), {{}}

        def fill(arrays):
            for place, array in enumerate(arrays):
                kept = KEPT.setdefault((place, array.shape), np.zeros_like(array))
                kept[:] = array
            return [KEPT[place, array.shape] for place, array in enumerate(arrays)]

        def backprop(weights, biases, x, y):
            {body}
    """)
    with pytest.raises(CandidateError) as raised:
        check(load(source))
    assert expected in str(raised.value)


def test_lists_are_as_good_as_arrays(load: Load) -> None:
    source = source_of("MATRIX", ("return nabla_w, nabla_b", "return [n.tolist() for n in nabla_w + nabla_b]"))
    source = source.replace("nabla_w, nabla_b = self.backprop(x, y)", "pass").replace("nabla_w)]", "[])]")
    diagnosis = check(load(source.replace("def update_mini_batch", "def unused")))
    assert diagnosis.right, str(diagnosis)


@pytest.mark.parametrize(
    ("init", "expected"),
    [
        ("self.weights = [np.zeros((2, 2))]; self.biases = []", "weights of shapes (2, 2); expected (5, 7), (3, 5)"),
        ("self.layers = []", "it has no attribute `weights`"),
        ("raise ValueError('no')", "raises ValueError: no"),
    ],
)
def test_a_class_that_is_no_network_is_told(load: Load, init: str, expected: str) -> None:
    source = f"import numpy as np\nclass Network:\n    def __init__(self, sizes):\n        {init}\n"
    with pytest.raises(CandidateError) as raised:
        check(load(f"{source}    def backprop(self, x, y): ...\n"))
    assert expected in str(raised.value)


def test_a_class_without_a_file_is_checked_too() -> None:
    source = source_of("BOOK", ("return output_activations - y", "return y - output_activations"))
    there: dict[str, Any] = {"__name__": "nowhere"}
    exec(compile(source, "<typed>", "exec"), there)
    assert named(check(there["Network"])) == [("sign", "BP1")]
    source = source_of("BOOK", ("(eta / len(mini_batch)) *", "eta *"))
    exec(compile(source, "<typed>", "exec"), there)
    diagnosis = check(there["Network"])
    assert named(diagnosis) == [("not-divided", "update")]
    assert diagnosis.faults[0].line is None


def test_something_else_is_no_candidate() -> None:
    for candidate in (None, 3, "Network"):
        with pytest.raises(CandidateError, match="is no candidate"):
            check(candidate)
    with pytest.raises(CandidateError, match="expected to take weights, biases, x and y"):
        check(lambda a, b: None)


def test_a_wrong_program_fails_an_assertion(load: Load) -> None:
    candidate = load(source_of("BOOK", ("return output_activations - y", "return y - output_activations")))
    with pytest.raises(AssertionError, match="Wrong: BP1, the output layer, line"):
        assert_gradients_agree(candidate)


def test_what_is_printed_goes_nowhere(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    check(load(source_of("BOOK")))
    assert capsys.readouterr() == ("", "")


def test_numpy_alone_is_imported() -> None:
    code = "import sys, torchdigits.proof.diagnosis.file; print({'torch', 'scipy', 'sklearn', 'cv2'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
