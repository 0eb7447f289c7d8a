"""What is said of a candidate: in words, and as one object."""

import linecache
import textwrap
from dataclasses import dataclass, field
from typing import Any

from torchdigits.proof.diagnosis.mistakes import BY_NAME, SHOULD, WORDS, Equation, Hypothesis


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with a candidate.

    Attributes:
        equation: the one that is broken; None if that cannot be told.
        layer: "every", "hidden", "output" or "first" layer, or "images"; None if it belongs to no layer.
        mistake: its name, as in docs/mistakes.md; "unknown" if it is none of those.
        explanation: what the candidate does, and why it is wrong.
        line: of the candidate's file; None if that cannot be told.
    """

    equation: Equation | None
    layer: str | None
    mistake: str
    explanation: str
    line: int | None = None


@dataclass(frozen=True)
class Compared:
    """The largest deviation of one thing from back-propagation by hand: of a gradient, the outputs, or the cost.

    Attributes:
        relative: norm of the difference over norm of what is right.
        bound: how large that may be by rounding alone.
        ulps: the largest difference of an element, in units in the last place of the largest element.
    """

    name: str
    relative: float
    bound: float
    ulps: float

    @property
    def right(self) -> bool:
        """Whether rounding explains it."""
        return self.relative <= self.bound


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        form: what the candidate is taken for.
        faults: what is wrong; empty if nothing is.
        largest: of a right candidate, the deviation that comes nearest to its bound.
        problems: how many it was compared on.
        parts: of a wrong one, each gradient of one problem, from the output back.
        shown: which problem that is, in words.
        note: what else there is to say.
    """

    name: str
    form: str
    faults: list[Fault]
    largest: Compared
    problems: int
    parts: list[Compared] = field(default_factory=list)
    shown: str = ""
    note: str = ""
    source: str = ""

    @property
    def right(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        numbers = {"relative_error": self.largest.relative, "bound": self.largest.bound, "ulps": self.largest.ulps}
        findings = [
            {key: getattr(fault, key) for key in ("equation", "layer", "mistake", "explanation", "line")}
            for fault in self.faults
        ]
        return {"right": self.right, "form": self.form, **(numbers if self.right else {}), "findings": findings}

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.form}."]
        if self.right:
            worst = self.largest
            lines.append(f"Right: all gradients of {self.problems} mini-batches agree with back-propagation by hand.")
            lines.append(
                f"Largest relative error: {worst.relative:.1e}, of {worst.name} ({worst.ulps:.1f} ulps); rounding "
                f"explains {worst.bound:.1e}."
            )
        for fault in self.faults:
            place = f", {WORDS.get(fault.layer, fault.layer)}" if fault.layer else ""
            at = f", line {fault.line}" if fault.line else ""
            lines += ["", f"Wrong: {fault.equation or 'somewhere'}{place}{at}"]
            if fault.line and (text := self._line(fault.line)):
                lines.append(f"    {text}")
            lines += textwrap.wrap(fault.explanation, 100, initial_indent="  ", subsequent_indent="  ")
            if fault.equation:
                lines.append(f"  It should be: {SHOULD[fault.equation]}")
            if fault.mistake in BY_NAME:
                lines += [f"  It has happened to others: {seen}"] if (seen := BY_NAME[fault.mistake].seen) else []
        if self.parts:
            lines += ["", f"From the output back, of {self.shown}:"]
            for part in self.parts:
                error = f"relative error {part.relative:.1e}, rounding explains {part.bound:.1e}"
                lines.append(f"  {part.name:<10}{'right' if part.right else f'wrong: {error}'}")
        return "\n".join([*lines, *([self.note] if self.note else [])])

    def _line(self, number: int) -> str:
        return linecache.getline(self.source, number).strip()


def fault_of(
    name: str,
    says: str = "",
    hypothesis: Hypothesis | None = None,
    line: int | None = None,
    before: str = "",
    equation: Equation | None = None,
) -> Fault:
    """A mistake of the catalogue, or one that is not in it."""
    if name == "unknown":
        return Fault(equation, None, name, f"{_capital(says)}.", line)
    mistake = BY_NAME[name]
    said = says or mistake.says
    text = f"{before} {said}. {mistake.why}" if before else f"{_capital(said)}. {mistake.why}"
    if hypothesis is None:
        assert mistake.equation != "slope"
        return Fault(mistake.equation, None, name, text, line)
    place = None if mistake.equation == "update" else hypothesis.place
    return Fault(hypothesis.equation, place, name, text, line)


def _capital(text: str) -> str:
    """With a capital, unless it begins with a formula."""
    return text[0].upper() + text[1:] if text.split(maxsplit=1)[0].isalpha() else text
