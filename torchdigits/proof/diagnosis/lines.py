"""Which line of a program computes a number: the program is watched as it runs."""

import ast
import linecache
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Literal, NamedTuple

import numpy as np

from torchdigits.proof.reference import Array


class Target(NamedTuple):
    """A wrong value, and what tells whose line it is.

    Attributes:
        z: the weighted inputs that belong to it.
        helper: whether it comes of a function of z. A helper that returns it, and was given something else than z, did
            what it was asked to do: the line is its caller's.
        twin: where a right step before it has the same value, as in `a = z`, which line it is: the second that has it
            in the function where it is first computed; or the last that gives it to a variable; or the last that gives
            it to a variable or a list. Empty where no right step has it: then it is the first.
        innocent: whether a line that has it beside z is that of the right step.
    """

    value: Array
    z: Array | None = None
    helper: bool = False
    twin: Literal["", "second", "last", "last or list"] = ""
    innocent: bool = False


class _Hit(NamedTuple):
    line: int
    frame: FrameType
    listed: bool
    beside_z: bool


def line_of(targets: Sequence[Target], file: str, run: Callable[[], Any], tolerance: float) -> int | None:
    """The line of a file that computes the first of some values that any line computes; None if none does.

    Args:
        targets: the values, the likeliest first.
        file: the program's.
        run: calls the program.
        tolerance: the relative difference that makes no difference.
    """
    hits: list[list[_Hit]] = [[] for _ in targets]
    at_line: dict[FrameType, int] = {}
    seen: dict[FrameType, set[tuple[int, str, int]]] = {}

    def look(frame: FrameType, line: int, returned: Any = None) -> None:
        there = [(name, i, leaf) for name, value in [*frame.f_locals.items()] for i, leaf in enumerate(_arrays(value))]
        for number, target in enumerate(targets):
            beside_z = target.z is not None and any(
                same(leaf, target.z, tolerance) for name, _, leaf in there if _is_array(frame.f_locals[name])
            )
            for name, i, leaf in there:
                if (number, name, i) not in seen[frame] and same(leaf, target.value, tolerance):
                    seen[frame].add((number, name, i))
                    if line != frame.f_code.co_firstlineno:  # an argument comes of a line before
                        hits[number].append(_Hit(line, frame, not _is_array(frame.f_locals[name]), beside_z))
            if not _is_array(returned) or not any(same(leaf, target.value, tolerance) for leaf in _arrays(returned)):
                continue
            at, caller = frame, frame.f_back
            if target.helper and not target.twin and not beside_z and caller is not None:
                at = caller if caller.f_code.co_filename == file else frame
            hits[number].append(_Hit(at.f_lineno, frame, False, beside_z))

    def follow(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != file:
            return None
        if event == "call":
            seen[frame], at_line[frame] = set(), frame.f_code.co_firstlineno
        elif event == "line":
            look(frame, at_line[frame])
            at_line[frame] = frame.f_lineno
        elif event == "return":
            look(frame, at_line[frame], argument)
        return follow

    before = sys.gettrace()
    sys.settrace(follow)
    try:
        run()
    finally:
        sys.settrace(before)
    passing = _passing("".join(linecache.getlines(file)))
    for target, found in zip(targets, hits, strict=True):
        if found and not target.twin:
            return found[0].line
        if target.twin:
            return _chosen(target, [hit for hit in found if hit.line not in passing])
    return None


def _chosen(target: Target, hits: Sequence[_Hit]) -> int | None:
    """Of the lines that have a value which a right step has too, the one that gives it where it is wrong."""
    if target.twin == "second":
        there = [hit for hit in hits if hit.frame is hits[0].frame]
        arrays = list(dict.fromkeys(hit.line for hit in there if not hit.listed))
        lines = arrays if len(arrays) > 1 else list(dict.fromkeys(hit.line for hit in there))
        return lines[1] if len(lines) > 1 else None
    hits = [hit for hit in hits if not hit.listed or target.twin == "last or list"]
    lines = [hit.line for hit in hits if not (hit.beside_z and target.innocent)]
    return lines[-1] if lines else None


def _passing(source: str) -> set[int]:
    """The lines that only hand on what is there: the heads of loops, and what is unpacked."""
    lines = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.For):
            lines.add(node.lineno)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            lines |= set() if isinstance(node.value, ast.Tuple) else {node.lineno}
    return lines


def same(one: Array, other: Array, tolerance: float) -> bool:
    """Whether two arrays hold the same numbers, whichever of them is transposed or a column."""
    one, other = np.squeeze(one), np.squeeze(other)
    if one.shape != other.shape:
        one = one.T
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=tolerance, atol=tolerance * 1e-3))


def _is_array(value: Any) -> bool:
    return hasattr(value, "ndim")


def _arrays(value: Any, depth: int = 2) -> list[Array]:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return [value]
    if isinstance(value, (list, tuple)) and depth:
        return [leaf for item in value for leaf in _arrays(item, depth - 1)]
    return []
