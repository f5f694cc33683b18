"""Medians of a few runs, with intervals that assume no distribution.

The interval of a median reaches from the k-th smallest to the k-th largest of n values; it misses with
probability 2 P(B(n, 1/2) < k), whatever the distribution (David and Nagaraja, Order Statistics, 7.1). Six runs
are needed for 95 %; with fewer there is no such interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from pytest_quantgate.stats import inversion

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MedianRatio", "Ranks", "ranks"]


@dataclass(frozen=True, slots=True)
class Ranks:
    """A median of sorted values; a `spec.Sampling`."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The point estimate."""
        return float(np.median(self.values))

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the narrowest symmetric pair of order statistics at this confidence.

        It reaches to infinity on both sides where there are too few values.
        """
        count = len(self.values)
        k = 0
        while k < count // 2 and 2 * float(special.bdtr(k, count, 0.5)) <= 1 - confidence:
            k += 1
        return (self.values[k - 1], self.values[count - k]) if k else (-np.inf, np.inf)

    def tails(self, limit: float) -> tuple[float, float]:
        """Return the one-sided p-values of "at least `limit`" and "at most `limit`": the sign test's."""
        return inversion.tails(self.interval, limit)


def ranks(values: NDArray[Any]) -> Ranks:
    """Return the median of `values` (N,)."""
    return Ranks(tuple(float(value) for value in np.sort(values)))


@dataclass(frozen=True, slots=True)
class MedianRatio:
    """Two medians set against each other; a `spec.Sampling`.

    Each side gets half of the error, so that both intervals hold together (Bonferroni): runs of two models are not
    paired, and nothing is assumed of their distributions.

    Attributes:
        ours: the variant's runs.
        theirs: the baseline's.
        relation: "delta", "drop", "ratio" or "log_ratio".

    """

    ours: Ranks
    theirs: Ranks
    relation: str

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the extremes that both intervals admit."""
        each = 1 - (1 - confidence) / 2
        low, high = self.ours.interval(each)
        under, over = self.theirs.interval(each)
        if self.relation in ("delta", "drop"):
            ends = (low - over, high - under)
            return ends if self.relation == "delta" else (-ends[1], -ends[0])
        if not np.isfinite([low, high, under, over]).all() or under <= 0:
            return -np.inf, np.inf
        ratio = (low / over, high / under)
        return (float(np.log(ratio[0])), float(np.log(ratio[1]))) if self.relation == "log_ratio" else ratio

    def tails(self, limit: float) -> tuple[float, float]:
        """Return the one-sided p-values of "at least `limit`" and "at most `limit`"."""
        return inversion.tails(self.interval, limit)
