"""What is said of a candidate, to the letter."""

from pathlib import Path

import pytest

from torchdigits.proof.diagnosis.mistakes import BY_NAME, hypotheses
from torchdigits.proof.diagnosis.report import Compared, Diagnosis, Fault, fault_of

LARGEST = Compared("dC/dW(1)", 1.23e-15, 4.5e-13, 2.25)


def test_of_a_right_candidate_the_largest_deviation_is_told() -> None:
    diagnosis = Diagnosis("Net", "a class", [], LARGEST, 7, note="And a note.")
    assert str(diagnosis).splitlines() == [
        "Net: a class.",
        "Right: all gradients of 7 mini-batches agree with back-propagation by hand.",
        "Largest relative error: 1.2e-15, of dC/dW(1) (2.2 ulps); rounding explains 4.5e-13.",
        "And a note.",
    ]
    assert diagnosis.as_dict() == {
        "right": True,
        "form": "a class",
        "relative_error": 1.23e-15,
        "bound": 4.5e-13,
        "ulps": 2.25,
        "findings": [],
    }


def test_of_a_wrong_candidate_each_mistake_is_told_and_each_gradient_of_a_problem(tmp_path: Path) -> None:
    (source := tmp_path / "mine.py").write_text("one = 1\n    delta = y - a  # twice\n")
    words = "a " * 49 + "b c"  # with b the line would have 101 letters
    known = Fault("BP1", "output", "sign", words, 2)
    parts = [Compared("dC/db(2)", 2.0, 1e-14, 9.0), Compared("dC/dW(2)", 1e-15, 1e-15, 9.0)]
    other = Fault(None, None, "unknown", "It cannot be told.", 99)
    diagnosis = Diagnosis("Net", "a class", [known, other], LARGEST, 7, parts, "4-3 and 8 examples", "", str(source))
    assert str(diagnosis).splitlines() == [
        "Net: a class.",
        "",
        "Wrong: BP1, the output layer, line 2",
        "    delta = y - a  # twice",
        "  " + "a " * 48 + "a",
        "  b c",
        "  It should be: delta(L) = (a(L) - y) * sigmoid'(z(L))",
        f"  It has happened to others: {BY_NAME['sign'].seen}",
        "",
        "Wrong: somewhere, line 99",
        "  It cannot be told.",
        "",
        "From the output back, of 4-3 and 8 examples:",
        "  dC/db(2)  wrong: relative error 2.0e+00, rounding explains 1.0e-14",
        "  dC/dW(2)  right",
    ]
    first = {"equation": "BP1", "layer": "output", "mistake": "sign", "explanation": words, "line": 2}
    second = {"equation": None, "layer": None, "mistake": "unknown", "explanation": "It cannot be told.", "line": 99}
    assert diagnosis.as_dict() == {"right": False, "form": "a class", "findings": [first, second]}


def test_a_mistake_becomes_a_fault() -> None:
    sign = BY_NAME["sign"]
    hypothesis = next(one for one in hypotheses() if one.mistake is sign)
    said = sign.says[0].upper() + sign.says[1:] if sign.says.split()[0].isalpha() else sign.says
    assert fault_of("sign", hypothesis=hypothesis, line=3) == Fault("BP1", "output", "sign", f"{said}. {sign.why}", 3)
    assert fault_of("sign", "Look", hypothesis, 3, "Of one size").explanation == f"Of one size Look. {sign.why}"
    ascent = BY_NAME["ascent"]
    assert fault_of("ascent", "b(1): added", line=4) == Fault("update", None, "ascent", f"b(1): added. {ascent.why}", 4)
    unknown = fault_of("unknown", "it differs", line=5, equation="update")
    assert unknown == Fault("update", None, "unknown", "It differs.", 5)


def test_a_mistake_of_the_slope_needs_its_place() -> None:
    with pytest.raises(AssertionError):
        fault_of("no-slope")
    places = {
        one.place: fault_of("no-slope", hypothesis=one).equation
        for one in hypotheses()
        if one.mistake.name == "no-slope"
    }
    assert places["output"] == "BP1"
    assert places["hidden"] == "BP2"
