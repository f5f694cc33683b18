"""Early stopping errs at most as often as it says, however often it looks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pytest_quantgate import stats
from pytest_quantgate.stats.sequences import boundary

TOTAL, ORDERS, ALPHA = 784, 300, 0.01
TOLERANCE = 3 * math.sqrt(ALPHA * (1 - ALPHA) / ORDERS)  # three binomial standard errors


def correlated(rng: np.random.Generator) -> np.ndarray:
    noise = rng.normal(size=TOTAL)
    values = np.zeros(TOTAL)
    for index in range(1, TOTAL):
        values[index] = 0.9 * values[index - 1] + noise[index]
    return values


POPULATIONS = {
    "normal": lambda rng: rng.normal(size=TOTAL),
    "t with 3 degrees": lambda rng: rng.standard_t(3, size=TOTAL),
    "lognormal": lambda rng: rng.lognormal(0, 1.5, size=TOTAL),
    "rare flips": lambda _: (np.arange(TOTAL) < TOTAL // 50).astype(float),
    "correlated": correlated,
    "two regimes": lambda rng: np.where(np.arange(TOTAL) < TOTAL // 20, 8.0, 0.0) + rng.normal(size=TOTAL),
}


@pytest.mark.parametrize("name", POPULATIONS)
def test_it_errs_at_most_as_often_as_it_says(name):
    """The share of random orders in which any look leaves the true mean out: the worst case over all limits."""
    rng = np.random.default_rng(0)
    values = POPULATIONS[name](rng)
    truth, places = values.mean(), stats.looks(TOTAL)[:-1]
    wrong = 0
    for _ in range(ORDERS):
        visited = rng.permutation(values)
        ends = (stats.sequence(visited[:count], TOTAL, ALPHA) for count in places)
        wrong += any(not low <= truth <= high for low, high in ends)
    assert wrong / ORDERS <= ALPHA + TOLERANCE


def test_a_rule_that_peeks_does_not():
    """An ordinary 99 % interval at every look leaves the truth out several times as often as it says."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=TOTAL)
    wrong = 0
    for _ in range(ORDERS):
        visited = rng.permutation(values)
        for count in stats.looks(TOTAL)[:-1]:
            mean = stats.clustered_mean(visited[:count], np.arange(count))
            low, high = mean.interval(1 - ALPHA)
            if not low <= values.mean() <= high:
                wrong += 1
                break
    assert wrong / ORDERS > 2 * ALPHA


def test_the_boundary_is_that_of_simulated_walks():
    """The chance that a Gaussian walk leaves it at any look is alpha (20,000 walks: +- 0.2 %)."""
    places = stats.looks(TOTAL)
    times = np.array([1 / count - 1 / TOTAL for count in places[:-1]])
    rng = np.random.default_rng(1)
    steps = np.sqrt(np.append(-np.diff(times), times[-1]))  # from the last look backwards
    walks = np.cumsum((rng.normal(size=(20_000, len(times))) * steps)[:, ::-1], axis=1)[:, ::-1]
    largest = np.abs(walks / np.sqrt(times)).max(1)
    assert np.mean(largest > boundary(places, ALPHA)) == pytest.approx(ALPHA, abs=0.0025)


def test_it_is_exact_in_the_end():
    """When all have been visited nothing is left to be uncertain of."""
    values = np.random.default_rng(2).normal(size=50)
    assert stats.sequence(values, 50, ALPHA) == (values.mean(), values.mean())


def test_equal_numbers_say_nothing_of_what_is_unseen():
    """Twenty-four windows without a flip are no proof that there is none."""
    assert stats.sequence(np.zeros(24), 100, ALPHA) == (-math.inf, math.inf)


def test_less_risk_is_wider():
    """And more data narrower."""
    values = np.random.default_rng(3).normal(size=200)
    widths = [high - low for low, high in (stats.sequence(values[:90], 400, a) for a in (0.1, 0.01, 0.001))]
    assert widths == sorted(widths)
    later = stats.sequence(values, 400, 0.01)
    assert later[1] - later[0] < widths[1]


def test_the_order_belongs_to_the_seed():
    """The same seed visits the same windows."""
    assert stats.order(100, 7).tolist() == stats.order(100, 7).tolist()
    assert stats.order(100, 7).tolist() != stats.order(100, 8).tolist()
    assert sorted(stats.order(100, 7).tolist()) == list(range(100))


@pytest.mark.parametrize("total", [2, 10, 24, 25, 100, 784])
def test_looks_end_with_everything(total):
    """They rise, and the last is the whole."""
    places = stats.looks(total)
    assert places[-1] == total
    assert list(places) == sorted(set(places))


@pytest.mark.parametrize(
    ("count", "total", "alpha"), [(5, 10, 0.0), (5, 10, 1.0), (11, 10, 0.01), (1, 1, 0.01)]
)
def test_what_is_no_sequence(count, total, alpha):
    """An alpha of 0, more than there are, fewer than two."""
    with pytest.raises(ValueError, match="no sequence"):
        stats.sequence(np.zeros(count), total, alpha)
