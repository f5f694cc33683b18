"""p-values of estimates that know only their intervals.

A limit is refuted at level a by the one-sided interval of confidence 1 - a that leaves it out; the two-sided
one of confidence 1 - 2 a has the same end. The p-value is the smallest such a.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_quantgate.spec import Sampling

__all__ = ["Scaled", "Shifted", "tails"]

HALVINGS = 40


def tails(interval: Callable[[float], tuple[float, float]], limit: float) -> tuple[float, float]:
    """Return the one-sided p-values of "the true value is at least `limit`" and of "at most `limit`"."""
    return (
        _smallest(lambda level: interval(1 - 2 * level)[1] < limit),
        _smallest(lambda level: interval(1 - 2 * level)[0] > limit),
    )


def _smallest(refuted: Callable[[float], bool]) -> float:
    """Return the smallest level below 1/2 at which the limit is refuted; 1 if it is at none."""
    low, high = 0.0, 0.5 - 1e-9
    if not refuted(high):
        return 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if refuted(middle) else (middle, high)
    return high


@dataclass(frozen=True, slots=True)
class Shifted:
    """An estimate less a constant; a `spec.Sampling`."""

    sampling: Sampling
    by: float

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the interval, moved."""
        low, high = self.sampling.interval(confidence)
        return low - self.by, high - self.by

    def tails(self, limit: float) -> tuple[float, float]:
        """Return the p-values at the limit, moved back."""
        return self.sampling.tails(limit + self.by)


@dataclass(frozen=True, slots=True)
class Scaled:
    """An estimate less `zero`, in units of `by` > 0; a `spec.Sampling`."""

    sampling: Sampling
    zero: float
    by: float

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the interval on the new scale."""
        low, high = self.sampling.interval(confidence)
        return (low - self.zero) / self.by, (high - self.zero) / self.by

    def tails(self, limit: float) -> tuple[float, float]:
        """Return the p-values at the limit, on the old scale."""
        return self.sampling.tails(self.zero + limit * self.by)
