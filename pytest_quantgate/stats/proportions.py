"""Intervals of proportions, alone and paired, that stay right at 0 and at n.

`Proportion`  Wilson's score interval (1927). For items in clusters, n is the effective number of items
              p (1 - p) / se², between the number of clusters and that of items (Korn and Graubard, 1998).
`Paired`      the difference of two proportions on the same items: Newcombe's method 10 (1998), whose ends
              combine the Wilson intervals of both with the correlation of the pairs; its p-value against no
              difference is McNemar's exact test on the discordant pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import special

from pytest_quantgate.stats import inversion
from pytest_quantgate.stats.means import Mean, z_of

__all__ = ["Paired", "Proportion", "effective", "mcnemar", "wilson"]


def wilson(hits: float, count: float, confidence: float) -> tuple[float, float]:
    """Return Wilson's two-sided score interval of `hits` in `count`; neither need be whole.

    Raises:
        ValueError: no items, or more hits than items.

    """
    if count <= 0 or not 0 <= hits <= count:
        raise ValueError(f"{hits} of {count} is no proportion")
    z = z_of(0.5 + confidence / 2)
    share, squared = hits / count, z * z / count
    middle = (share + squared / 2) / (1 + squared)
    half = z * math.sqrt(share * (1 - share) / count + squared / (4 * count)) / (1 + squared)
    low = 0.0 if hits == 0 else max(0.0, middle - half)
    return low, 1.0 if hits == count else min(1.0, middle + half)


@dataclass(frozen=True, slots=True)
class Proportion:
    """A share of `count` items, which may be an effective number; a `spec.Sampling`."""

    share: float
    count: float

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return Wilson's interval."""
        return wilson(self.share * self.count, self.count, confidence)

    def tails(self, limit: float) -> tuple[float, float]:
        """Return the one-sided p-values of "at least `limit`" and "at most `limit`"."""
        return inversion.tails(self.interval, limit)


def effective(mean: Mean, items: int) -> Proportion:
    """Return the proportion that a clustered mean of zeros and ones over `items` items stands for."""
    variance = mean.value * (1 - mean.value)
    error = mean.error if math.isfinite(mean.error) else 0.0
    count = variance / error**2 if error else mean.clusters
    return Proportion(mean.value, min(max(count, mean.clusters), items))


def mcnemar(lost: int, won: int) -> float:
    """Return McNemar's exact two-sided p-value for the items that flipped either way; 1 if none did."""
    total = lost + won
    return min(1.0, 2 * float(special.bdtr(min(lost, won), total, 0.5))) if total else 1.0


@dataclass(frozen=True, slots=True)
class Paired:
    """The change of a proportion on the same items; a `spec.Sampling` of won - lost over all.

    Attributes:
        both: items that are right before and after.
        lost: right before, wrong after.
        won: wrong before, right after.
        neither: wrong before and after.

    """

    both: int
    lost: int
    won: int
    neither: int

    @property
    def count(self) -> int:
        """How many items there are."""
        return self.both + self.lost + self.won + self.neither

    @property
    def difference(self) -> float:
        """The share that is right after, less that before."""
        return (self.won - self.lost) / self.count

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return Newcombe's interval of the difference."""
        return self._interval(confidence, self._correlation())

    def unpaired(self, confidence: float) -> tuple[float, float]:
        """Return the interval that two independent samples of these sizes would have."""
        return self._interval(confidence, 0.0)

    def _interval(self, confidence: float, phi: float) -> tuple[float, float]:
        after, before = self.both + self.won, self.both + self.lost
        p, q = after / self.count, before / self.count
        p_low, p_high = wilson(after, self.count, confidence)
        q_low, q_high = wilson(before, self.count, confidence)
        below = _combined(p - p_low, q_high - q, phi)
        above = _combined(p_high - p, q - q_low, phi)
        return self.difference - below, self.difference + above

    def tails(self, limit: float) -> tuple[float, float]:
        """Return the one-sided p-values of "at least `limit`" and "at most `limit`"; for 0 McNemar's exact ones."""
        if limit:
            return inversion.tails(self.interval, limit)
        total = self.lost + self.won
        if not total:
            return 1.0, 1.0
        return float(special.bdtr(self.won, total, 0.5)), float(special.bdtr(self.lost, total, 0.5))

    def _correlation(self) -> float:
        """Return Newcombe's phi, with his correction for continuity where it is positive."""
        margins = (
            (self.both + self.won) * (self.lost + self.neither)
            * (self.both + self.lost) * (self.won + self.neither)
        )  # fmt: skip
        if not margins:
            return 0.0
        product = float(self.both * self.neither - self.lost * self.won)
        if product > 0:
            product = max(product - self.count / 2, 0.0)
        return product / math.sqrt(margins)


def _combined(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))
