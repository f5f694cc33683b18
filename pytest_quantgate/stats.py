"""Intervals from arrays: pure functions, nothing but numpy.

Tokens of one window share their context, so they are not independent: the mean's standard error counts
windows, not tokens. With x̄ = Σ x_i / n over all tokens and e_g = Σ_{i in g} (x_i - x̄) for window g, one of
G,

    se² = G / (G - 1) · Σ_g e_g² / n²        (the linearised ratio estimator; Cochran, Sampling Techniques,
    6.2)

and intervals use Student's t with G - 1 degrees of freedom. With fewer than two windows there is no interval.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Mean", "clustered_mean", "t_quantile"]

CONFIDENCE = 0.95
MANY = 400  # degrees of freedom above which the normal distribution serves


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

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float | None, float | None]:
        """Return the two-sided interval, or (None, None) where nothing is known."""
        if not math.isfinite(self.error):
            return None, None
        half = t_quantile(0.5 + confidence / 2, self.clusters - 1) * self.error
        return self.value - half, self.value + half


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


def t_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t with `freedom` >= 1 degrees, by bisection of its closed form."""
    if freedom > MANY:
        return NormalDist().inv_cdf(probability)
    low, high = -1.0, 1.0
    while _t_cdf(low, freedom) > probability:
        low *= 2
    while _t_cdf(high, freedom) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def _t_cdf(value: float, freedom: int) -> float:
    """Return P(T <= value): a finite sum in powers of cos² (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(value / math.sqrt(freedom))
    sine, squared = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term, total = 1.0, 0.0
    for k in range(freedom // 2):
        total += term
        term *= squared * (2 * k + 1 + odd) / (2 * k + 2 + odd)
    inside = 2 / math.pi * (angle + sine * math.cos(angle) * total) if odd else sine * total
    return 0.5 + inside / 2
