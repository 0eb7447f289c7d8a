"""Which line of a program computes a number: the program is watched as it runs."""

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

from torchdigits.proof.reference import Array


class Target(NamedTuple):
    """A wrong value, and what tells whose line it is."""

    value: Array
    given: Array | None = (
        None  #: what the step should be given: a helper that returns the value and was given something
    )
    # else did what it was asked to do, so that the line is its caller's
    last: bool = False  #: whether to take the last line that has the value, as a right step before has it too


def line_of(targets: Sequence[Target], file: str, run: Callable[[], Any], tolerance: float) -> int | None:
    """The line of a file that computes the first of some values that any line computes; None if none does.

    Args:
        targets: the values, the likeliest first.
        file: the program's.
        run: calls the program.
        tolerance: the relative difference that makes no difference.
    """
    hits: list[list[int]] = [[] for _ in targets]
    lines: dict[FrameType, int] = {}
    seen: dict[FrameType, set[tuple[int, str, int]]] = {}

    def look(frame: FrameType, line: int, returned: Any = None) -> None:
        there = [(name, i, leaf) for name, value in [*frame.f_locals.items()] for i, leaf in enumerate(_arrays(value))]
        for number, target in enumerate(targets):
            for name, i, leaf in there:
                if (number, name, i) not in seen[frame] and same(leaf, target.value, tolerance):
                    seen[frame].add((number, name, i))
                    if line != frame.f_code.co_firstlineno:  # an argument comes of a line before
                        hits[number].append(line)
            if returned is None or not any(same(leaf, target.value, tolerance) for leaf in _arrays(returned)):
                continue
            caller = frame.f_back
            own = target.given is None or any(same(leaf, target.given, tolerance) for _, _, leaf in there)
            if own or caller is None or caller.f_code.co_filename != file:
                hits[number].append(frame.f_lineno)
            else:
                hits[number].append(caller.f_lineno)

    def follow(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != file:
            return None
        if event == "call":
            seen[frame], lines[frame] = set(), frame.f_code.co_firstlineno
        elif event == "line":
            look(frame, lines[frame])
            lines[frame] = frame.f_lineno
        elif event == "return":
            look(frame, lines[frame], argument)
        return follow

    before = sys.gettrace()
    sys.settrace(follow)
    try:
        run()
    finally:
        sys.settrace(before)
    for target, found in zip(targets, hits, strict=True):
        if found:
            return found[-1 if target.last else 0]
    return None


def same(one: Array, other: Array, tolerance: float) -> bool:
    """Whether two arrays hold the same numbers, whichever of them is transposed or a column."""
    one, other = np.squeeze(one), np.squeeze(other)
    if one.shape != other.shape:
        one = one.T
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=tolerance, atol=tolerance * 1e-3))


def _arrays(value: Any, depth: int = 2) -> list[Array]:
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        return [value]
    if isinstance(value, (list, tuple)) and depth:
        return [leaf for item in value for leaf in _arrays(item, depth - 1)]
    return []
