"""What comparisons of two programs have found: the largest errors, and whether rounding can cause them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf, isnan
from typing import NamedTuple

import numpy as np


class Deviation(NamedTuple):
    """How far a tensor of torch's is from the reference's."""

    name: str
    absolute: float  #: the largest difference of an element
    relative: float  #: norm of the difference over norm of the reference's tensor; see `relative_error`
    #: `absolute` in units in the last place, in the precision that is checked, of the reference's largest element. (An
    #: element that is a sum which cancels can be off by millions of its own units.)
    ulps: float


@dataclass
class Finding:
    """The largest deviations of a tensor in many comparisons."""

    name: str
    absolute: float
    ulps: float
    relative: float  #: if any is more than allowed, the one that exceeds it most
    allowed: float | None  #: how large `relative` may be in that comparison; None if errors are only reported
    where: int  #: the number of that comparison, from 1

    @property
    def broken(self) -> bool:
        """Whether the error is larger than allowed."""
        return self.allowed is not None and not self.relative <= self.allowed

    @property
    def rank(self) -> tuple[bool, float]:
        """The worst finding has the highest rank; NaN is worse than any number."""
        relative = inf if isnan(self.relative) else self.relative
        return self.broken, relative / self.allowed if self.allowed and self.broken else relative


@dataclass
class Findings:
    """What many comparisons have found, tensor by tensor."""

    tolerance: float | None  #: relative error that is allowed in any case; None if errors are only reported
    tensors: dict[str, Finding] = field(default_factory=dict)
    comparisons: int = 0

    def add(
        self,
        deviations: Iterable[Deviation],
        bounds: Callable[[], dict[str, float]],
        tolerances: Mapping[str, float] | None = None,
    ) -> None:
        """Add a comparison.

        Args:
            deviations: of its tensors.
            bounds: gives the largest relative errors that rounding can cause. As this takes longer than the comparison,
                it is only called if a tolerance is exceeded.
            tolerances: of tensors that have one of their own.
        """
        self.comparisons += 1
        rounding: dict[str, float] | None = None
        for name, absolute, relative, ulps in deviations:
            allowed = None if self.tolerance is None else (tolerances or {}).get(name, self.tolerance)
            if allowed is not None and not relative <= allowed:
                rounding = bounds() if rounding is None else rounding
                allowed = max(allowed, rounding.get(name, 0.0))
            here = Finding(name, absolute, ulps, relative, allowed, self.comparisons)
            found = self.tensors.get(name, here)
            self.tensors[name] = worse = here if here.rank > found.rank else found
            # NumPy's maximum, unlike Python's, of NaN and a number is NaN.
            worse.absolute = float(np.maximum(found.absolute, absolute))
            worse.ulps = float(np.maximum(found.ulps, ulps))

    @property
    def worst(self) -> Finding:
        """The tensor that exceeds most what is allowed or, if none does, the one with the largest relative error."""
        return max(self.tensors.values(), key=lambda finding: finding.rank)

    @property
    def broken(self) -> list[Finding]:
        """The tensors whose error is larger than allowed."""
        return [finding for finding in self.tensors.values() if finding.broken]
