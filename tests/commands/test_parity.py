import json
import math
import re
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Outcome, assert_one_line_error
from torch import Tensor

from torchdigits import SigmoidMLP, quadratic_cost
from torchdigits.commands.parity import Report, as_json
from torchdigits.data.batches import epoch_order
from torchdigits.data.datasets import Digits, DigitSplits
from torchdigits.engines.machine import PRECISIONS, Machine, find_machine
from torchdigits.proof.findings import Finding, Findings
from torchdigits.proof.free_run import Growth
from torchdigits.proof.gradients import TOLERANCES, check_gradients, deviation, parameters_of, relative_error
from torchdigits.proof.in_step import Progress

Run = Callable[..., Outcome]


@pytest.fixture
def wrong_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autograd's gradients are off by a thousandth, while all before them is right."""

    def wrong_cost(activations: Tensor, targets: Tensor) -> Tensor:
        # The last term is 0, and its slope 0.001.
        return quadratic_cost(activations + 0.001 * (activations - activations.detach()), targets)

    monkeypatch.setattr("torchdigits.proof.gradients.quadratic_cost", wrong_cost)
    monkeypatch.setattr("torchdigits.classifier.quadratic_cost", wrong_cost)


@pytest.fixture
def few(digits: DigitSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command gets a dataset whose epoch has 32 mini-batches."""
    images, labels = digits.training
    splits = digits._replace(training=Digits(images[:317], labels[:317]))
    monkeypatch.setattr("torchdigits.commands.parity.load_splits", lambda *_: splits)


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


@pytest.mark.parametrize("accelerator", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("sizes", [(784, 30, 10), (784, 100, 50, 20, 10), (784, 7, 1, 13, 10), (784, 10)])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_gradients_are_as_right_as_their_precision(
    digits: DigitSplits, accelerator: str, sizes: tuple[int, ...], precision: str
) -> None:
    torch.manual_seed(4)
    order, machine = epoch_order(len(digits.training.labels), 0, 0), Machine(accelerator, 1, precision)
    findings = check_gradients(SigmoidMLP(sizes), digits.training, torch.split(order, 23)[:10], machine)
    assert findings.comparisons == 10
    assert findings.broken == []
    assert len(findings.tensors) == 4 * (len(sizes) - 1) + 1
    assert {finding.allowed is None for finding in findings.tensors.values()} == {precision not in TOLERANCES}
    # As small as these bits make it, and no smaller. (A CPU has no TF32, and multiplies in full.)
    bits = "32" if (precision, accelerator) == ("tf32", "cpu") else precision
    eps = PRECISIONS[bits].eps
    assert eps / 100 < findings.tensors["z(1)"].relative < 10 * eps


@pytest.mark.usefixtures("wrong_gradients")
@pytest.mark.parametrize("precision", ["64", "32"])
@pytest.mark.parametrize("hidden", [(30,), (100, 50, 20), (1000,), (30,) * 10])
def test_wrong_gradients_are_found(digits: DigitSplits, precision: str, hidden: tuple[int, ...]) -> None:
    torch.manual_seed(4)
    network = SigmoidMLP((784, *hidden, 10))
    order = epoch_order(len(digits.training.labels), 0, 0)
    findings = check_gradients(network, digits.training, torch.split(order, 10)[:2], Machine("cpu", 1, precision))
    assert [finding.name for finding in findings.broken] == [f"dC/d{name}" for name in parameters_of(network)]


def test_a_slope_where_there_is_none_is_found() -> None:
    """Saturated neurons, whose gradients are 0 by hand, and not by torch."""
    torch.manual_seed(0)
    network = SigmoidMLP((784, 30, 10))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(100.0)
    digits = Digits(torch.full((4, 784), 255, dtype=torch.uint8), torch.tensor([1, 2, 3, 4]))
    assert check_gradients(network, digits, [torch.arange(4)], Machine("cpu", 1, "64")).broken == []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "sigmoid", lambda z: z.sigmoid() + 1e-3 * (z - z.detach()))
        broken = check_gradients(network, digits, [torch.arange(4)], Machine("cpu", 1, "64")).broken
    assert {finding.name for finding in broken} >= {"dC/dW(2)", "dC/db(2)"}


def test_the_command_shows_a_table_a_precision(run_script: Run) -> None:
    outcome = run_script("parity.py", "--dataset", "digits", "--accelerator", "cpu", "--hidden", 20, 15)
    assert (outcome.status, outcome.err) == (0, "")
    tables = outcome.out.split("Back-propagation by torch and by hand, of 100 mini-batches; ")
    assert [table.split(" on ")[0] for table in tables[1:]] == ["float64", "float32"]
    for table, allowed in zip(tables[1:], ("1.0e-12", "1.0e-05"), strict=True):
        names = re.findall(r"│ (\S+\(\d\)|cost) .*" + allowed, table)
        assert names == [f"{name}({layer})" for layer in (1, 2, 3) for name in ("z", "a", "dC/dW", "dC/db")] + ["cost"]


TABLE = """\
┏━━━━━━━━━━━┳━━━━━━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━━━┓
┃ tensor    ┃ largest error ┃    ulps ┃ relative error ┃ allowed ┃ mini-batch ┃
┡━━━━━━━━━━━╇━━━━━━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━━━┩
│ z(1)      │       1.0e-16 │     1.5 │        2.0e-16 │ 1.0e-12 │          2 │
├───────────┼───────────────┼─────────┼────────────────┼─────────┼────────────┤
│ z(2)      │       1.0e-16 │     1.5 │        2.0e-16 │ 1.0e-12 │          2 │
│ a(2)      │       4.0e-16 │ 1,234.6 │        5.0e-16 │         │          7 │
├───────────┼───────────────┼─────────┼────────────────┼─────────┼────────────┤
│ dC/dW(10) │       3.0e-03 │ 2.5e+06 │        1.0e-03 │ 1.0e-12 │      1,300 │
├───────────┼───────────────┼─────────┼────────────────┼─────────┼────────────┤
│ cost      │       0.0e+00 │     0.0 │        0.0e+00 │ 1.0e-12 │          1 │
└───────────┴───────────────┴─────────┴────────────────┴─────────┴────────────┘
"""


def test_a_table_is_shown_layer_by_layer_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    found = [
        Finding("cost", 0.0, 0.0, 0.0, 1e-12, 1),
        Finding("dC/dW(10)", 3e-3, 2.5e6, 1e-3, 1e-12, 1300),
        Finding("z(2)", 1e-16, 1.5, 2e-16, 1e-12, 2),
        Finding("a(2)", 4e-16, 1234.56, 5e-16, None, 7),
        Finding("z(1)", 1e-16, 1.5, 2e-16, 1e-12, 2),
    ]
    findings, report = Findings(1e-12, {finding.name: finding for finding in found}, 1300), Report(quiet=False)
    report.table("gradients", "float64 on cpu", findings, "mini-batch")
    assert capsys.readouterr().out == TABLE
    (result,) = report.results
    tensors = result.pop("tensors")
    assert result == {"kind": "gradients", "what": "float64 on cpu", "comparisons": 1300}
    assert tensors[3] == {
        "name": "a(2)", "absolute": 4e-16, "ulps": 1234.56, "relative": 5e-16, "allowed": None, "where": 7
    }  # fmt: skip
    assert [tensor["name"] for tensor in tensors] == [finding.name for finding in found]
    line = "float64 on cpu, mini-batch 1,300: dC/dW(10) has a relative error of 1.0e-03, 1.0e-12 allowed"
    assert report.broken == [line]


def test_an_error_that_is_only_reported_has_no_bound(capsys: pytest.CaptureFixture[str]) -> None:
    findings = Findings(None, {"b(1)": Finding("b(1)", 1e-3, 2.0, 4e-3, None, 5)}, 32)
    Report(quiet=False).progress(Progress(1250, 9500, 10_000, findings))
    assert capsys.readouterr().out == "1,250 updates: worst b(1) 4.0e-03; 9,500 / 10,000 test\n"


@pytest.mark.usefixtures("few")
def test_the_seed_is_that_of_weights_and_order(run_script: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[SigmoidMLP, list[Tensor]]] = []

    def kept(network: SigmoidMLP, digits: Digits, mini_batches: list[Tensor], machine: Machine) -> Findings:
        given.append((network, mini_batches))
        return Findings(None)

    monkeypatch.setattr("torchdigits.commands.parity.check_gradients", kept)
    run_script("parity.py", "--dataset", "digits", "--accelerator", "cpu", "--precision", 64, "--seed", 5)
    torch.manual_seed(5)
    network, mini_batches = given[0]
    assert torch.equal(next(network.parameters()), next(SigmoidMLP().parameters()))
    assert torch.equal(torch.cat(list(mini_batches)), epoch_order(317, 5, 0))


@pytest.mark.usefixtures("few")
def test_a_mini_batch_has_no_more_images_than_there_are(run_script: Run) -> None:
    options = ("--dataset", "digits", "--accelerator", "cpu", "--precision", 64, "--batch-size", 5000)
    outcome = run_script("parity.py", *options)
    assert (outcome.status, outcome.err) == (0, "")
    assert "mini-batches of 317," in outcome.out
    assert "of 1 mini-batches" in outcome.out


@pytest.mark.usefixtures("few")
def test_the_command_trains_beside_the_reference_and_in_step(run_script: Run, tmp_path: Path) -> None:
    options = ("--dataset", "digits", "--accelerator", "cpu", "--precision", 64, "--train", 2, "--in-step", 40)
    outcome = run_script("parity.py", *options, "--learning-rate", 3, 0.5, "--figure", tmp_path / "growth.png")
    assert (outcome.status, outcome.err) == (0, "")
    lines = re.findall(r"^ +(\d) +(\d+) +(\d+) +0 +\d\.\de-1\d +\d\.\de-1[12] +\d\.\de-1\d$", outcome.out, re.MULTILINE)
    assert [epoch for epoch, _, _ in lines] == ["1", "2", "1", "2"]
    assert all(by_hand == by_torch for _, by_hand, by_torch in lines)
    in_step = re.findall(r"^(\d+) updates: worst \S+ \d\.\de-1\d, \d\.\de-1\d allowed;", outcome.out, re.MULTILINE)
    assert in_step == ["32", "40"] * 2
    assert outcome.out.count(" allowed ┃ update ┃\n") == 2
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")

    found = json.loads(run_script("parity.py", *options, "--json").out)
    assert found["broken"] == []
    free, stepped = found["results"]
    assert (free["kind"], stepped["kind"]) == ("free run", "in step")
    assert [str(epoch["torch"]) for epoch in free["epochs"]] == [by_torch for _, _, by_torch in lines[:2]]
    assert free["curve"]["updates"][-1] == 64
    assert stepped["comparisons"] == 40


@pytest.mark.usefixtures("few")
def test_how_fast_two_programs_part_is_told(run_script: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Growth, "doubling", 163.4)  # here it takes a run of some epochs to be told
    options = ("--dataset", "digits", "--accelerator", "cpu", "--train", 1, "--precision")
    for bits, told in ((64, True), (32, False)):
        assert ("doubles every 163 updates" in run_script("parity.py", *options, bits).out) == told


@pytest.mark.usefixtures("few", "wrong_gradients")
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
        (["--precision"], ["error: --precision: name one or more"]),
        (["--learning-rate"], ["error: --learning-rate: name one or more"]),
        (["--precision", "tf32", "--accelerator", "cpu"], ["--precision tf32", "Ampere", "--precision 32"]),
        (["--learning-rate", "0"], ["learning rate 0"]),
        (["--learning-rate", "1", "nan"], ["learning rate nan"]),
        (["--hidden", "0"], ["layer sizes", "0"]),
        (["--hidden", "9" * 20], ["layer sizes", "more neurons than memory can hold"]),
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


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_is_no_broken_bound(
    run_script: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int
) -> None:
    monkeypatch.setattr(Report, "epoch", lambda self, epoch: signal.raise_signal(number))
    options = ("--dataset", "digits", "--accelerator", "cpu", "--precision", 64, "--train", 2)
    outcome = run_script("parity.py", *options)
    assert (outcome.status, outcome.err) == (status, "error: interrupted: nothing is kept\n")


def test_what_is_no_number_is_json_all_the_same() -> None:
    found = as_json({"curve": (1.0, math.nan), "worst": [-math.inf], "n": 3, "figure": Path("a.png")})
    assert found == '{"curve": [1.0, "nan"], "worst": ["-inf"], "n": 3, "figure": "a.png"}'


def test_a_gpu_without_doubles_is_left_to_floats(run_script: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a Mac."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_machine("auto", precision="64").accelerator == "cpu"
    assert find_machine("auto", precision="32").accelerator == "gpu"
    outcome = run_script("parity.py", "--dataset", "digits", "--accelerator", "gpu")
    assert_one_line_error(outcome, "--precision 64", "no 64-bit numbers", "--accelerator cpu")
    outcome = run_script("parity.py", "--dataset", "digits", "--accelerator", "gpu", "--precision", "tf32")
    assert_one_line_error(outcome, "--precision tf32")
