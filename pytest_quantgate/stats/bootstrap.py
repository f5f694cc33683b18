"""The bias-corrected and accelerated bootstrap over clusters (Efron, 1987), from an explicit seed.

Whole clusters (windows) are drawn with replacement, since tokens of one window are not independent. What is resampled
are sums per cluster, so that a replicate costs a product of a matrix with a vector and not a pass over the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from pytest_quantgate.stats import inversion
from pytest_quantgate.stats.means import clustered_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Bootstrap", "bootstrap", "item_ratio", "quantile", "ratio"]

REPLICATES = 2000
RARE = 1e-9
BINS = 512
SPREAD = 8  # standard errors around a quantile within which replicates are resolved


@dataclass(frozen=True, slots=True, eq=False)
class Bootstrap:
    """An estimate and its replicates; a `spec.Sampling`.

    Attributes:
        value: the point estimate.
        replicates: (B,) sorted.
        bias: z of the share of replicates below the estimate.
        acceleration: skewness of the jackknife values over six.

    """

    value: float
    replicates: NDArray[np.float64]
    bias: float
    acceleration: float

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the two-sided BCa interval."""
        low, high = (self._level(0.5 + side * confidence / 2) for side in (-1, 1))
        ends = np.quantile(self.replicates, [low, high])
        return float(ends[0]), float(ends[1])

    def _level(self, probability: float) -> float:
        shifted = self.bias + float(special.ndtri(probability))
        return float(special.ndtr(self.bias + shifted / (1 - self.acceleration * shifted)))

    def tails(self, limit: float) -> tuple[float, float]:
        """Return the one-sided p-values of "at least `limit`" and "at most `limit`"."""
        return inversion.tails(self.interval, limit)


def bootstrap(
    sums: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    seed: int = 0,
    copies: NDArray[Any] | None = None,
) -> Bootstrap | None:
    """Return the bootstrap of a function of sums over clusters; None with fewer than two clusters.

    Args:
        sums: (G, D) what each cluster adds.
        statistic: from totals (B, D) to values (B,).
        seed: of the draws.
        copies: (G,) how many clusters add just that; one of each by default.

    """
    copies = np.ones(len(sums), dtype=np.int64) if copies is None else copies
    groups = int(copies.sum())
    if groups < 2:  # noqa: PLR2004 - a spread takes two
        return None
    draws = np.random.default_rng(seed).multinomial(groups, copies / groups, REPLICATES)
    values = np.sort(statistic(draws.astype(np.float64) @ sums))
    total = copies.astype(np.float64)[None] @ sums
    point = float(statistic(total)[0])
    left_out = statistic(total - sums)
    deviations = float(np.average(left_out, weights=copies)) - left_out
    power = float((copies * deviations**2).sum()) ** 1.5
    acceleration = float((copies * deviations**3).sum()) / (6 * power) if power else 0.0
    below = ((values < point).sum() + (values <= point).sum()) / (2 * REPLICATES)
    bias = float(special.ndtri(np.clip(below, 1 / (REPLICATES + 1), REPLICATES / (REPLICATES + 1))))
    return Bootstrap(point, values, bias, acceleration)


def ratio(
    above: NDArray[Any], below: NDArray[Any], clusters: NDArray[Any], seed: int = 0
) -> Bootstrap | None:
    """Return the bootstrap of Σ above / Σ below (N,), over the groups named by `clusters` (N,)."""
    _, group = np.unique(clusters, return_inverse=True)
    parts = [np.bincount(group, weights=part.astype(np.float64)) for part in (above, below)]
    sums: NDArray[np.float64] = np.stack(parts, 1).astype(np.float64)
    return bootstrap(sums, lambda totals: totals[:, 0] / totals[:, 1], seed)


def item_ratio(above: NDArray[Any], below: NDArray[Any], seed: int = 0) -> Bootstrap | None:
    """Return the bootstrap of Σ above / Σ below (N,), where every item is a cluster and many are alike.

    Pairs that occur often are drawn together: right and wrong make four kinds, however many items there are. None
    where a replicate could have nothing below.
    """
    kinds, copies = np.unique(np.stack([above, below], 1).astype(np.float64), axis=0, return_counts=True)
    if (1 - copies[kinds[:, 1] > 0].sum() / len(above)) ** len(above) > RARE:
        return None
    if len(np.unique(kinds[:, 0] - kinds[:, 1])) == 1:
        return None  # all items are alike: a sample knows no spread
    return bootstrap(kinds, lambda totals: totals[:, 0] / totals[:, 1], seed, copies)


def quantile(values: NDArray[Any], clusters: NDArray[Any], level: float, seed: int = 0) -> Bootstrap | None:
    """Return the bootstrap of the `level` quantile of `values` (N,), over the groups named by `clusters` (N,).

    Values are counted per cluster in bins between neighbouring ranks, fine within eight standard errors of the
    quantile, so that a replicate is found from counts alone.
    """
    numbers = values.astype(np.float64)
    point = float(np.quantile(numbers, level))
    error = clustered_mean((numbers <= point).astype(np.float64), clusters).error
    if not np.isfinite(error):
        return None
    reach = max(SPREAD * error, SPREAD / len(numbers))
    levels = np.clip(np.linspace(level - reach, level + reach, BINS), 0, 1)
    edges = np.unique(np.quantile(numbers, levels))
    _, group = np.unique(clusters, return_inverse=True)
    cell = np.searchsorted(edges, numbers, side="left")  # numbers[i] <= edges[cell[i]]
    shape = (int(group.max()) + 1, len(edges) + 1)
    counts = np.bincount(group * shape[1] + cell, minlength=shape[0] * shape[1]).reshape(shape)

    def found(totals: NDArray[np.float64]) -> NDArray[np.float64]:
        cumulated = totals.cumsum(1)
        place = (cumulated < level * cumulated[:, -1:]).sum(1)
        values: NDArray[np.float64] = edges[np.minimum(place, len(edges) - 1)]
        return values

    drawn = bootstrap(counts.astype(np.float64), found, seed)
    return None if drawn is None else Bootstrap(point, drawn.replicates, drawn.bias, drawn.acceleration)
