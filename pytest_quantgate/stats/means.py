"""Means of items that come in clusters, with Student's t.

Tokens of one window share their context, so they are not independent: the mean's standard error counts
windows, not tokens. With x̄ = Σ x_i / n over all tokens and e_g = Σ_{i in g} (x_i - x̄) for window g, one of
G,

    se² = G / (G - 1) · Σ_g e_g² / n²        (the linearised ratio estimator; Cochran, Sampling Techniques,
    6.2)

and intervals use Student's t with G - 1 degrees of freedom. With fewer than two windows there is no interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["EXP", "IDENTITY", "SQRT", "Link", "Mean", "Student", "clustered_mean", "z_of"]

CONFIDENCE = 0.95
LARGEST = math.log(1e300)


class Link(NamedTuple):
    """An increasing function from the scale of a mean to that of an estimate, and back."""

    forward: Callable[[float], float]
    back: Callable[[float], float]


IDENTITY = Link(float, float)
EXP = Link(
    lambda mean: math.exp(min(mean, LARGEST)), lambda value: math.log(value) if value > 0 else -math.inf
)
SQRT = Link(lambda mean: math.sqrt(max(mean, 0.0)), lambda value: value * value if value >= 0 else -math.inf)


@dataclass(frozen=True, slots=True)
class Student:
    """An estimate g(m) whose mean m has a standard error with `freedom` degrees; a `spec.Sampling`."""

    mean: float
    error: float
    freedom: int
    link: Link = IDENTITY

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the two-sided interval at a confidence."""
        half = t_of(0.5 + confidence / 2, self.freedom) * self.error
        return self.link.forward(self.mean - half), self.link.forward(self.mean + half)

    def tails(self, limit: float) -> tuple[float, float]:
        """Return the one-sided p-values of "the true value is at least `limit`" and of "at most `limit`"."""
        distance = self.mean - self.link.back(limit)
        if not self.error:
            return float(distance >= 0), float(distance <= 0)
        below = float(special.stdtr(self.freedom, distance / self.error))
        return below, 1.0 - below


class Mean(NamedTuple):
    """A mean, and how far it can be off.

    Attributes:
        value: the mean over all items.
        error: its standard error; NaN with fewer than two clusters.
        clusters: how many clusters there are.

    """

    value: float
    error: float
    clusters: int

    def sampling(self, link: Link = IDENTITY) -> Student | None:
        """Return the distribution of the estimate link(mean); None where nothing is known."""
        if not math.isfinite(self.error):
            return None
        return Student(self.value, self.error, self.clusters - 1, link)

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float | None, float | None]:
        """Return the two-sided interval, or (None, None) where nothing is known."""
        known = self.sampling()
        return known.interval(confidence) if known else (None, None)


def clustered_mean(values: NDArray[Any], clusters: NDArray[Any]) -> Mean:
    """Return the mean of `values` (N,) with a standard error over the groups named by `clusters` (N,).

    Raises:
        ValueError: the arrays are empty or of different lengths.

    """
    if len(values) == 0 or values.shape != clusters.shape:
        raise ValueError(f"{values.shape} values and {clusters.shape} clusters make no mean")
    numbers = values.astype(np.float64)
    mean = float(numbers.mean())
    _, group = np.unique(clusters, return_inverse=True)
    sums = np.bincount(group, weights=numbers - mean)  # (G,)
    count = len(sums)
    if count < 2:  # noqa: PLR2004 - a spread takes two
        return Mean(mean, math.nan, count)
    return Mean(mean, math.sqrt(count / (count - 1) * float(sums @ sums)) / len(numbers), count)


def t_of(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t with `freedom` >= 1 degrees."""
    return float(special.stdtrit(freedom, probability))


def z_of(probability: float) -> float:
    """Return the quantile of the normal distribution."""
    return float(special.ndtri(probability))
