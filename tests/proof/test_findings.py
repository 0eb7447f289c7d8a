from math import inf, isnan, nan

import numpy as np
import pytest
import torch

from torchdigits import SigmoidMLP
from torchdigits.engines.machine import PRECISIONS
from torchdigits.proof.findings import Deviation, Findings
from torchdigits.proof.gradients import deviation, parameters_of, reference_of, set_parameters
from torchdigits.proof.reference import Network


def test_a_deviation_as_worked_out_by_hand() -> None:
    # 10 lies between 8 and 16, where floats are 8 eps apart.
    found = deviation("a(1)", [3.0, 4.5, -10.25], [3.0, 4.0, -10.0], PRECISIONS["32"])
    assert found.name == "a(1)"
    assert found.absolute == 0.5
    assert found.relative == pytest.approx(np.sqrt(0.25 + 0.0625) / np.sqrt(9 + 16 + 100))
    assert found.ulps == 0.5 / (8 * 2**-23)


@pytest.mark.parametrize("precision", ["32", "64"])
def test_a_deviation_from_zeros_is_measured_by_the_smallest_numbers(precision: str) -> None:
    found = deviation("x", [2.0**-50, 0.0], [0.0, 0.0], PRECISIONS[precision])
    assert found.relative == 2.0**-50 / PRECISIONS[precision].tiny


def test_parameters_go_there_and_back_between_torch_and_the_reference() -> None:
    network = SigmoidMLP([4, 3, 2]).double()
    twin, other = reference_of(network), Network([4, 3, 2])
    set_parameters(other, parameters_of(twin))
    names = list(parameters_of(network))
    assert names == list(parameters_of(twin)) == ["W(1)", "b(1)", "W(2)", "b(2)"]
    for name, parameter in zip(names, network.parameters(), strict=True):
        for place in (network, twin, other):
            np.testing.assert_array_equal(parameters_of(place)[name], parameter.detach().numpy(), strict=True)
    with torch.no_grad():
        next(network.parameters()).zero_()
    parameters_of(twin)["W(1)"][:] = 0
    assert twin.weights[0].all()  # a copy's copy was changed


def bounded(**bounds: float) -> dict[str, float]:
    return bounds


def test_findings_keep_the_largest_errors_and_where_the_worst_was() -> None:
    findings = Findings(tolerance=None)
    for one, other in ((1.0, 5.0), (3.0, 4.0), (2.0, 6.0)):
        findings.add([Deviation("a", 10 - one, one, one), Deviation("b", other, other, 10 - other)], bounded)
    assert findings.comparisons == 3
    a, b = findings.tensors["a"], findings.tensors["b"]
    assert (a.relative, a.where, a.absolute, a.ulps, a.allowed) == (3.0, 2, 9.0, 3.0, None)
    assert (b.relative, b.where, b.absolute, b.ulps, b.allowed) == (6.0, 3, 6.0, 6.0, None)
    assert findings.worst is b
    assert findings.broken == []


def test_of_equal_errors_the_first_is_kept() -> None:
    findings = Findings(tolerance=1.0)
    for _ in range(2):
        findings.add([Deviation("a", 0.5, 0.5, 0.5)], bounded)
    assert findings.tensors["a"].where == 1


def test_an_error_is_broken_if_neither_tolerance_nor_rounding_allows_it() -> None:
    findings, asked = Findings(tolerance=0.1), []

    def bounds() -> dict[str, float]:
        asked.append(True)
        return {"by rounding": 0.4, "tight": 0.01}

    def add(**errors: float) -> None:
        findings.add(
            [Deviation(name.replace("_", " "), 0, error, 0) for name, error in errors.items()], bounds, {"own": 0.3}
        )

    add(within=0.1, own=0.3)
    assert asked == []
    add(by_rounding=0.2, tight=0.11, unknown=0.2)
    assert asked == [True]  # once a comparison, as it takes long
    assert {name: finding.allowed for name, finding in findings.tensors.items()} == {
        "within": 0.1,
        "own": 0.3,
        "by rounding": 0.4,
        "tight": 0.1,
        "unknown": 0.1,
    }
    assert [finding.name for finding in findings.broken] == ["tight", "unknown"]
    assert findings.worst.name == "unknown"
    add(own=0.45, by_rounding=0.39)
    assert [finding.name for finding in findings.broken] == ["own", "tight", "unknown"]
    assert findings.worst.name == "unknown"  # twice what is allowed, where 0.45 is one and a half times
    add(by_rounding=0.3)
    assert findings.tensors["by rounding"].where == 3


def test_nan_is_worse_than_any_number() -> None:
    findings = Findings(tolerance=0.1)
    for error in (5.0, nan, inf):
        findings.add([Deviation("a", error, error, error), Deviation("b", 5.0, 5.0, 5.0)], bounded)
    worst = findings.worst
    assert (worst.name, worst.where, worst.broken) == ("a", 2, True)
    assert isnan(worst.absolute)
    assert isnan(worst.ulps)
