"""Intervals cover as often as they say, and agree with independent implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from pytest_quantgate import stats
from pytest_quantgate.spec import Estimate
from pytest_quantgate.stats.bootstrap import bootstrap
from pytest_quantgate.stats.inversion import tails

RUNS = 400
TOLERANCE = 3 * math.sqrt(0.95 * 0.05 / RUNS)  # three binomial standard errors of a coverage of 95 %


def clustered(rng: np.random.Generator, groups: int = 40, size: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens of true mean 0 that share their window's level, and the windows."""
    values = rng.normal(0, 1, (groups, 1)) + rng.normal(0, 1, (groups, size))
    return values.ravel(), np.repeat(np.arange(groups), size)


def covered(draw, truth: float) -> float:
    rng = np.random.default_rng(0)
    ends = [draw(rng) for _ in range(RUNS)]
    return float(np.mean([low <= truth <= high for low, high in ends]))


def test_means_of_clustered_tokens_are_covered():
    """Where tokens share a window's level, the interval counts windows; one that counted tokens would fail."""

    def honest(rng):
        return stats.clustered_mean(*clustered(rng)).interval()

    def naive(rng):
        values, _ = clustered(rng)
        return stats.clustered_mean(values, np.arange(len(values))).interval()

    assert covered(honest, 0.0) == pytest.approx(0.95, abs=TOLERANCE)
    assert covered(naive, 0.0) < 0.5


def test_ratios_are_covered_by_the_bootstrap():
    """Σ a / Σ b over clusters of unequal size."""

    def draw(rng):
        below = rng.gamma(4.0, 1.0, 60)
        above = 2.0 * below + rng.normal(0, 1, 60)
        return stats.ratio(above, below, np.arange(60)).interval(0.95)

    assert covered(draw, 2.0) == pytest.approx(0.95, abs=TOLERANCE + 0.01)


def test_quantiles_of_clustered_tokens_are_covered():
    """The 90 % quantile of tokens that share their window's level (total variance 2)."""
    truth = math.sqrt(2) * float(scipy_stats.norm.ppf(0.9))

    def draw(rng):
        return stats.quantile(*clustered(rng), 0.9).interval(0.95)

    assert covered(draw, truth) == pytest.approx(0.95, abs=TOLERANCE + 0.02)


def test_proportions_are_covered():
    """Wilson's interval at a share near 1, where Wald's would be far too short."""

    def draw(rng):
        return stats.wilson(int(rng.binomial(60, 0.97)), 60, 0.95)

    assert covered(draw, 0.97) > 0.95 - TOLERANCE - 0.01


def test_medians_are_covered_whatever_the_distribution():
    """Order statistics cover at least at their level."""

    def draw(rng):
        return stats.ranks(rng.lognormal(0, 2, 10)).interval(0.95)

    assert covered(draw, 1.0) > 0.95 - TOLERANCE


def test_six_runs_are_the_fewest_with_an_interval():
    """Five runs miss the median with probability 1/16."""
    assert stats.ranks(np.arange(5.0)).interval(0.95) == (-np.inf, np.inf)
    assert stats.ranks(np.arange(6.0)).interval(0.95) == (0.0, 5.0)


def test_the_bootstrap_is_scipys():
    """BCa of a mean of skewed numbers, within what two sets of 2,000 draws differ."""
    values = np.random.default_rng(1).lognormal(0, 1, 80)
    ours = bootstrap(np.stack([values, np.ones(80)], 1), lambda t: t[:, 0] / t[:, 1]).interval(0.95)
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=4000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), rel=0.04)


@given(st.integers(0, 80), st.integers(0, 80))
@settings(max_examples=60, deadline=None)
def test_mcnemar_is_statsmodels(lost, won):
    """The exact two-sided p-value of the items that flipped."""
    theirs = statsmodels_mcnemar([[5, lost], [won, 7]], exact=True).pvalue if lost + won else 1.0
    assert stats.mcnemar(lost, won) == pytest.approx(theirs)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=60, deadline=None)
def test_wilson_is_statsmodels(counts):
    """The score interval of k in n, 0 and n included."""
    assert stats.wilson(*counts, 0.95) == pytest.approx(
        proportion_confint(*counts, method="wilson"), abs=1e-12
    )


def test_paired_proportions_are_newcombes():
    """Method 10 on the paired table that Newcombe (1998) takes from Ward and others (e, f, g, h = 20, 12, 2, 16)."""
    paired = stats.Paired(both=20, lost=2, won=12, neither=16)
    assert paired.difference == pytest.approx(0.2)
    assert paired.interval(0.95) == pytest.approx((0.0562, 0.3292), abs=2e-4)


@pytest.mark.parametrize("paired", [stats.Paired(50, 0, 0, 0), stats.Paired(0, 0, 0, 50)])
def test_no_flip_at_all_still_has_an_interval(paired):
    """Nothing seen to flip does not mean that nothing can."""
    low, high = paired.interval(0.95)
    assert low < 0 < high
    assert paired.tails(0.0) == (1.0, 1.0)


def test_every_item_flips():
    """All lost: the interval ends at -1 and leaves 0 far out."""
    low, high = stats.Paired(0, 50, 0, 0).interval(0.95)
    assert low == pytest.approx(-1.0)
    assert high < -0.8


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(deadline=None)
def test_holm_is_statsmodels(p_values):
    """Adjusted p-values."""
    assert stats.holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


@given(st.floats(-3, 3), st.floats(0.1, 2), st.integers(2, 50), st.floats(-4, 4))
@settings(deadline=None)
def test_tails_are_the_inverse_of_intervals(mean, error, freedom, limit):
    """Student's closed form and the inversion of its interval give one p-value below one half."""
    known = stats.Student(mean, error, freedom)
    for closed, inverted in zip(known.tails(limit), tails(known.interval, limit), strict=True):
        assert inverted == pytest.approx(closed, abs=1e-6) or (closed >= 0.5 - 1e-6 and inverted == 1.0)


def test_detectable_changes_are_detected():
    """80 % of simulated estimates at the detectable change leave their interval above 0 (4,000 draws: +- 2 %)."""
    change = stats.detectable(1.0, 0.95, 0.8)
    estimates = np.random.default_rng(3).normal(change, 1.0, 4000)
    assert np.mean(estimates > 1.95996) == pytest.approx(0.8, abs=0.02)


def test_items_that_settle():
    """Half the distance takes four times the items; at the limit no number does."""
    assert stats.settling(40, half_width=0.2, distance=0.1) == 160
    assert stats.settling(40, half_width=0.2, distance=0.0) is None
    assert stats.settling(40, half_width=0.2, distance=1e-9) is None


def test_an_estimate_at_another_level():
    """More confidence is wider; what has one interval only has none at another level; what is counted stays."""
    known = stats.Student(1.0, 0.1, 30)
    sampled = Estimate(1.0, sampling=known).at(0.95)
    assert sampled.at(0.99).low < sampled.low
    assert Estimate(1.0, low=0.5, high=1.5).at(0.99).low is None
    assert Estimate(1.0, exact=True).at(0.99) == Estimate(1.0, exact=True)


def test_medians_set_against_each_other():
    """The interval of a ratio of medians holds both orders of extremes."""
    ours, theirs = stats.ranks(np.arange(11.0) + 10), stats.ranks(np.arange(11.0) + 20)
    low, high = stats.MedianRatio(ours, theirs, "ratio").interval(0.95)
    assert low < 15 / 25 < high < 1
    drop = stats.MedianRatio(ours, theirs, "drop").interval(0.95)
    assert drop[0] < 10 < drop[1]


def test_llama_cpps_table_has_our_form():
    """Its paired +- 0.0046 is a standard error of mean differences; unpaired error bars would be 12 times as wide.

    Llama-3-8B, WikiText-2, context 512 (llama.cpp's README): PPL 6.2332 +- 0.0378, q4_K_M +0.1755 +- 0.0046, q8_0
    +0.00265 +- 0.00101.
    """
    windows, error, factor = 564, 0.0378, {"q4_K_M": (0.1755, 0.0046), "q8_0": (0.00265, 0.00101)}
    rng = np.random.default_rng(4)
    for delta, paired in factor.values():
        baseline = rng.normal(6.2332, error * math.sqrt(windows), windows)
        difference = rng.normal(0, paired * math.sqrt(windows), windows)
        difference += delta - difference.mean()
        mean = stats.clustered_mean(difference, np.arange(windows))
        assert mean.value == pytest.approx(delta)
        assert mean.error == pytest.approx(paired, rel=0.1)
        apart = math.hypot(
            stats.clustered_mean(baseline, np.arange(windows)).error,
            stats.clustered_mean(baseline + difference, np.arange(windows)).error,
        )
        assert apart / mean.error == pytest.approx(error * math.sqrt(2) / paired, rel=0.15)
