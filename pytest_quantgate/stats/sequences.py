"""Stop when certain: intervals for the mean of a finite population, right at every look while it is being visited.

N numbers (windows, questions) are visited in a random order without replacement. After k of them their mean x̄_k is
compared with a limit; at k = N it is the answer. Were the numbers normal, with standard deviation s,
Z_k = (x̄_k - μ_N) / (s √τ_k) with τ_k = 1/k - 1/N would be a standard normal at every look, with correlation
√(τ_l / τ_k) between looks k < l: a Markov chain. `boundary` solves

    P(max over looks before N of |Z_k| > c) = alpha

for a constant c by numerical integration over the chain (Armitage, McPherson and Rowe, 1969, with Pocock's
boundary, 1977, and the finite population's correction). Looking at few, known places is what makes it narrower than
sequences that hold at every k (Waudby-Smith and Ramdas, 2020; Waudby-Smith et al., 2021).

The numbers are not normal, and s is estimated. So at each look c becomes the quantile of Student's t with the same
tail, and the end on the side of the longer tail moves out by the first term of the Cornish-Fisher expansion of the t
statistic, g (2c² + 1) / (6 √k) (Johnson, 1978), with six times the sample's skewness g, which a small sample
understates. Both ends move out by six times the largest deviation over k, as if what is unseen held a few of
those. Where all numbers so far are equal nothing is known of their spread, and the interval is infinite.

This is an approximation: it cannot see one giant number that has not been visited. How often it errs under heavy
tails, skewness and rare flips is simulated in the tests and in benchmarks/early_stopping.py; the factors are the
smallest found that keep it below alpha for lognormal numbers (sigma 1.5) and for a twentieth of them 8 sigma off.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from pytest_quantgate.stats.means import IDENTITY, Link, z_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Items", "boundary", "looks", "order", "sequence"]

FIRST = 24
GROWTH = 1.25
GRID = 101
SKEW_FACTOR = 6.0
SKEW_LEAST = 0.5
UNSEEN = 6.0


@dataclass(frozen=True, slots=True)
class Items:
    """Numbers of which a metric is an increasing function of the mean.

    Attributes:
        values: (k,) in the order in which they were visited.
        total: how many there are, N.
        link: from the mean of all N to the metric, and back.

    """

    values: NDArray[np.float64]
    total: int
    link: Link = IDENTITY

    def interval(self, alpha: float, confidence: float | None = None) -> tuple[float, float]:
        """Return the interval of the metric over all N, right at every look with probability 1 - alpha.

        With a `confidence`, of both ends of the interval that all N would have at that level.
        """
        low, high = sequence(self.values, self.total, alpha)
        if confidence is not None and len(self.values) > 1:
            whole = z_of(0.5 + confidence / 2) * float(self.values.std(ddof=1)) / math.sqrt(self.total)
            low, high = low - whole, high + whole
        return (
            self.link.forward(low) if math.isfinite(low) else -math.inf,
            self.link.forward(high) if math.isfinite(high) else math.inf,
        )


def order(total: int, seed: int) -> NDArray[np.int64]:
    """Return the order (total,) in which numbers are visited."""
    return np.random.default_rng(seed).permutation(total)


def looks(total: int, first: int = FIRST, growth: float = GROWTH) -> tuple[int, ...]:
    """Return after how many of `total` numbers one looks: `first`, then a quarter more each time, `total` at last."""
    places, place = list[int](), float(first)
    while place < total:
        places.append(round(place))
        place *= growth
    # a look that spares less than a tenth is not worth its share of alpha
    return (*(k for k in places if k <= 0.9 * total), total)


def sequence(values: NDArray[np.float64], total: int, alpha: float) -> tuple[float, float]:
    """Return the interval of the mean of all `total` numbers after the first k (k,) of them.

    Raises:
        ValueError: alpha outside (0, 1), fewer than two numbers in all, or more than there are.

    """
    count = len(values)
    if not 0 < alpha < 1 or not 1 <= count <= total or total < 2:  # noqa: PLR2004 - a spread takes two
        raise ValueError(f"alpha = {alpha}, {count} of {total} numbers: no sequence")
    mean = float(values.mean())
    if count == total:
        return mean, mean
    deviations = values - mean
    spread = float(deviations @ deviations)
    if count < 3 or not spread:  # noqa: PLR2004 - skewness takes three
        return -math.inf, math.inf
    variance = spread / (count - 1)
    skew = float((deviations**3).mean()) / (spread / count) ** 1.5 * SKEW_FACTOR
    tail = float(special.ndtr(-boundary(looks(total), alpha)))
    c = -float(special.stdtrit(count - 1, tail))
    error = math.sqrt(variance * (1 / count - 1 / total))
    stretch = (2 * c * c + 1) / (6 * math.sqrt(count)) * error
    half = c * error + UNSEEN * float(abs(deviations).max()) * (1 / count - 1 / total)
    return mean - half - max(-skew, SKEW_LEAST) * stretch, mean + half + max(skew, SKEW_LEAST) * stretch


@lru_cache(maxsize=64)
def boundary(places: tuple[int, ...], alpha: float) -> float:
    """Return c with P(max |Z| > c) = alpha over the looks before the last, which is the whole population."""
    total = places[-1]
    times = [1 / k - 1 / total for k in places[:-1]]
    if not times:
        return float(-special.ndtri(alpha / 2))
    low, high = float(-special.ndtri(alpha / 2)), float(-special.ndtri(alpha / (2 * len(times)))) + 1e-6
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if _crossing(times, middle) > alpha else (low, middle)
    return high


def _crossing(times: list[float], c: float) -> float:
    """Return the chance that the chain leaves [-c, c] at any of these times (falling)."""
    nodes, weights = _nodes(c)
    density = np.exp(-nodes * nodes / 2) / math.sqrt(2 * math.pi)
    for earlier, later in itertools.pairwise(times):
        rho = math.sqrt(later / earlier)
        scale = math.sqrt(1 - rho * rho)
        moves = (nodes[:, None] - rho * nodes[None, :]) / scale
        kernel = np.exp(-moves * moves / 2) / (scale * math.sqrt(2 * math.pi))
        density = kernel @ (weights * density)
    return 1.0 - float(weights @ density)


def _nodes(c: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = np.polynomial.legendre.leggauss(GRID)
    return nodes * c, weights * c
