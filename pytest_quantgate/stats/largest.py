"""The largest of several quantities, each known by an estimate: which is worst is not known for sure either.

With each of m intervals at the level 1 - (1 - c) / m, all of them hold at once with probability c (Bonferroni). Then
the largest quantity lies between the largest lower and the largest upper end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_quantgate.stats import inversion

if TYPE_CHECKING:
    from pytest_quantgate.spec import Sampling

__all__ = ["Largest"]


@dataclass(frozen=True, slots=True)
class Largest:
    """The largest of what several samplings estimate; a `spec.Sampling`."""

    parts: tuple[Sampling, ...]

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the two-sided interval of the largest."""
        each = 1 - (1 - confidence) / len(self.parts)
        lows, highs = zip(*(part.interval(each) for part in self.parts), strict=True)
        return max(lows), max(highs)

    def tails(self, limit: float) -> tuple[float, float]:
        """Return the one-sided p-values of "at least `limit`" and "at most `limit`"."""
        return inversion.tails(self.interval, limit)
