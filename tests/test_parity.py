import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Outcome, assert_one_line_error
from torch import Tensor

from torchdigits import SigmoidMLP, quadratic_cost
from torchdigits.datasets import Digits, DigitSplits, epoch_order
from torchdigits.parity import PRECISIONS, check_gradients, deviation, parameter_names, relative_error
from torchdigits.parity_report import _plain

Run = Callable[..., Outcome]


@pytest.fixture
def wrong_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autograd's gradients are off by a thousandth, while all before them is right."""

    def wrong_cost(activations: Tensor, targets: Tensor) -> Tensor:
        # The last term is 0, and its slope 0.001.
        return quadratic_cost(activations + 0.001 * (activations - activations.detach()), targets)

    monkeypatch.setattr("torchdigits.parity.quadratic_cost", wrong_cost)
    monkeypatch.setattr("torchdigits.classifier.quadratic_cost", wrong_cost)


def test_a_deviation_is_absolute_relative_and_in_ulps() -> None:
    truth = np.array([[6.0, 0.5], [-2.0, 0.0]])
    found = deviation("z", truth + np.array([[0, 2**-50], [0, 2**-49]]), truth, PRECISIONS["64"])
    # The largest element, 6, lies between 4 and 8, where doubles are 2^-50 apart.
    norm = math.sqrt(36 + 0.25 + 4)
    assert (found.name, found.absolute, found.ulps) == ("z", 2**-49, 2.0)
    assert found.relative == pytest.approx(math.sqrt(2**-100 + 2**-98) / norm)
    assert deviation("z", truth, truth, PRECISIONS["64"])[1:] == (0.0, 0.0, 0.0)
    assert deviation("z", np.float64(8.0), 8.0 + 2**-20, PRECISIONS["32"]).ulps == 1.0


def test_what_has_all_but_vanished_is_measured_against_the_smallest_numbers() -> None:
    assert relative_error([0.0, 0.0], [0.0, 0.0]) == 0
    assert relative_error([0.0, 1e-3], [0.0, 0.0]) > 1e280
    assert math.isnan(relative_error([math.nan], [1.0]))
    # A float32 gradient of 5e-72 is 0, and no mistake.
    assert deviation("dC/dW(1)", np.zeros(1), np.array([5e-72]), PRECISIONS["32"]).relative < 1e-40
    assert deviation("dC/dW(1)", np.zeros(1), np.array([5e-72]), PRECISIONS["64"]).relative == 1
    assert deviation("dC/dW(1)", np.array([1e-310]), np.array([1e-310]), PRECISIONS["64"])[1:] == (0, 0, 0)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("sizes", [(784, 30, 10), (784, 100, 50, 20, 10), (784, 7, 1, 13, 10), (784, 10)])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_gradients_are_as_right_as_their_precision(
    digits: DigitSplits, device: str, sizes: tuple[int, ...], precision: str
) -> None:
    torch.manual_seed(4)
    order = epoch_order(len(digits.training.labels), 0, 0)
    findings = check_gradients(SigmoidMLP(sizes), digits.training, torch.split(order, 23)[:10], precision, device)
    assert findings.comparisons == 10
    assert findings.broken == []
    assert len(findings.tensors) == 4 * (len(sizes) - 1) + 1
    assert {finding.allowed is None for finding in findings.tensors.values()} == {
        PRECISIONS[precision].tolerance is None
    }
    # As small as these bits make it, and no smaller. (A CPU has no TF32, and multiplies in full.)
    bits = "32" if (precision, device) == ("tf32", "cpu") else precision
    eps = PRECISIONS[bits].eps
    assert eps / 100 < findings.tensors["z(1)"].relative < 10 * eps


@pytest.mark.usefixtures("wrong_gradients")
@pytest.mark.parametrize("precision", ["64", "32"])
@pytest.mark.parametrize("hidden", [(30,), (100, 50, 20), (1000,), (30,) * 10])
def test_wrong_gradients_are_found(digits: DigitSplits, precision: str, hidden: tuple[int, ...]) -> None:
    torch.manual_seed(4)
    network = SigmoidMLP((784, *hidden, 10))
    order = epoch_order(len(digits.training.labels), 0, 0)
    findings = check_gradients(network, digits.training, torch.split(order, 10)[:2], precision)
    assert [finding.name for finding in findings.broken] == parameter_names("dC/d", network.sizes)


def test_a_slope_where_there_is_none_is_found() -> None:
    """Saturated neurons, whose gradients are 0 by hand, and not by torch."""
    torch.manual_seed(0)
    network = SigmoidMLP((784, 30, 10))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(100.0)
    digits = Digits(torch.full((4, 784), 255, dtype=torch.uint8), torch.tensor([1, 2, 3, 4]))
    assert check_gradients(network, digits, [torch.arange(4)], "64").broken == []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "sigmoid", lambda z: z.sigmoid() + 1e-3 * (z - z.detach()))
        broken = check_gradients(network, digits, [torch.arange(4)], "64").broken
    assert {finding.name for finding in broken} >= {"dC/dW(2)", "dC/db(2)"}


def test_the_command_shows_a_table_a_precision(run_script: Run) -> None:
    outcome = run_script("parity.py", "--dataset", "digits", "--accelerator", "cpu", "--hidden", 20, 15)
    assert (outcome.status, outcome.err) == (0, "")
    tables = outcome.out.split("Back-propagation by torch and by hand, of 100 mini-batches; ")
    assert [table.split(" on ")[0] for table in tables[1:]] == ["float64", "float32"]
    for table, allowed in zip(tables[1:], ("1.0e-12", "1.0e-05"), strict=True):
        names = re.findall(r"│ (\S+\(\d\)|cost) .*" + allowed, table)
        assert names == [f"{name}({layer})" for layer in (1, 2, 3) for name in ("z", "a", "dC/dW", "dC/db")] + ["cost"]


def test_the_command_trains_beside_the_reference_and_in_step(run_script: Run, tmp_path: Path) -> None:
    options = ("--dataset", "digits", "--accelerator", "cpu", "--precision", 64, "--train", 2, "--in-step", 130)
    outcome = run_script("parity.py", *options, "--learning-rate", 3, 0.5, "--figure", tmp_path / "growth.png")
    assert (outcome.status, outcome.err) == (0, "")
    lines = re.findall(r"^ +(\d) +(\d+) +(\d+) +0 +\d\.\de-1\d +\d\.\de-1[12] +\d\.\de-1\d$", outcome.out, re.MULTILINE)
    assert [epoch for epoch, _, _ in lines] == ["1", "2", "1", "2"]
    assert all(by_hand == by_torch for _, by_hand, by_torch in lines)
    in_step = re.findall(r"^(\d+) updates: worst \S+ \d\.\de-1\d, \d\.\de-1\d allowed;", outcome.out, re.MULTILINE)
    assert in_step == ["122", "130"] * 2
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")

    found = json.loads(run_script("parity.py", *options, "--json").out)
    assert found["broken"] == []
    free, stepped = found["results"]
    assert [str(epoch["torch"]) for epoch in free["epochs"]] == [by_torch for _, _, by_torch in lines[:2]]
    assert free["curve"]["updates"][-1] == 244
    assert stepped["comparisons"] == 130


def test_how_fast_two_programs_part_is_told(run_script: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchdigits.whole_runs.doubling", lambda *_: 163.4)  # which here takes a run of some epochs
    options = ("--dataset", "digits", "--accelerator", "cpu", "--train", 1, "--precision")
    for bits, told in ((64, True), (32, False)):
        assert ("doubles every 163 updates" in run_script("parity.py", *options, bits).out) == told


@pytest.mark.usefixtures("wrong_gradients")
def test_a_broken_bound_is_told_with_its_numbers(run_script: Run) -> None:
    outcome = run_script("parity.py", "--dataset", "digits", "--accelerator", "cpu", "--precision", 32)
    assert outcome.status == 1
    line = (
        r"broken: float32 .* mini-batch \d+: dC/d[Wb]\([12]\) has a relative error of 1\.0e-03, \d\.\de-0\d allowed\n"
    )
    assert re.fullmatch(f"({line}){{4}}", outcome.err)
    options = ("--dataset", "digits", "--accelerator", "cpu", "--precision", 64, "--train", 2, "--in-step", 5, "--json")
    outcome = run_script("parity.py", *options)
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1 + 8
    assert re.match(
        r"broken: float64 .* epoch 1: [Wb]\([12]\) differs by \d\.\de-0\d at update 1, 1\.0e-12 allowed\n", outcome.err
    )
    broken = json.loads(outcome.out)["broken"]
    assert [f"broken: {line}" for line in broken] == outcome.err.splitlines()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--train", "0"], ["--train 0", "1 or more"]),
        (["--in-step", "many"], ["--in-step", "many"]),
        (["--in-step", "-3"], ["--in-step -3", "1 or more"]),
        (["--batch-size", "0"], ["--batch-size 0", "1 or more"]),
        (["--precision", "16"], ["--precision", "16"]),
        (["--precision"], ["--precision"]),
        (["--precision", "tf32", "--accelerator", "cpu"], ["--precision tf32", "Ampere", "--precision 32"]),
        (["--learning-rate", "0"], ["learning rate 0"]),
        (["--learning-rate", "1", "nan"], ["learning rate nan"]),
        (["--hidden", "0"], ["layer sizes", "0"]),
        (["--hidden", "9" * 20], ["layer sizes", "more neurons than memory holds"]),
        (["--seed", "-1"], ["seed -1"]),
        (["--dataset", "cifar"], ["--dataset", "cifar"]),
        (["--figure", "growth.png"], ["--figure growth.png", "--train"]),
        (["--figure", "growth.png", "--train", "1", "--precision", "32"], ["--figure growth.png", "--precision 64"]),
        (["--figure", "growth.doc", "--train", "1"], ["--figure growth.doc", ".png"]),
        (["--figure", "nowhere/growth.png", "--train", "1"], ["--figure nowhere/growth.png", "cannot be written"]),
        (["--figure", "/proc/growth.png", "--train", "1"], ["--figure /proc/growth.png", "cannot be written"]),
        (["--engine", "compiled"], ["--engine compiled", "--train and --in-step"]),
        (["--figure", "kept.png", "--train", "1"], ["--figure kept.png", "exists already"]),
        (["--engine", "compiled", "--precision", "bf16", "--train", "1"], ["--engine compiled", "bf16", "32 or 64"]),
    ],
)
def test_bad_options_are_one_line(
    run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept.png").write_text("precious")
    assert_one_line_error(run_script("parity.py", "--dataset", "digits", *options), *words)


def test_an_interruption_is_told_in_one_line(run_script: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("torchdigits.parity_report.check_gradients", interrupt)
    outcome = run_script("parity.py", "--dataset", "digits", "--accelerator", "cpu")
    assert (outcome.status, outcome.err) == (130, "error: interrupted\n")


def test_what_is_no_number_is_json_all_the_same() -> None:
    found = _plain({"curve": (1.0, math.nan), "worst": [math.inf], "n": 3})
    assert json.dumps(found, allow_nan=False) == '{"curve": [1.0, "nan"], "worst": ["inf"], "n": 3}'


def test_a_gpu_without_doubles_is_left_to_floats(run_script: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a Mac."""
    from torchdigits.training import choose_hardware

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_hardware("auto", 1, "64")["accelerator"] == "cpu"
    assert choose_hardware("auto", 1, "32")["accelerator"] == "gpu"
    outcome = run_script("parity.py", "--dataset", "digits", "--accelerator", "gpu")
    assert_one_line_error(outcome, "--precision 64", "no 64-bit numbers", "--accelerator cpu")
    outcome = run_script("parity.py", "--dataset", "digits", "--accelerator", "gpu", "--precision", "tf32")
    assert_one_line_error(outcome, "--precision tf32")
