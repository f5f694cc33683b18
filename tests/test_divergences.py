"""KL divergence from what a server tells: a lower bound always, and not measurable where too little is told."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.gate import Metric
from pytest_quantgate.interfaces import TokenScores
from pytest_quantgate.metrics import token_changes, token_estimates
from pytest_quantgate.metrics.divergences import MOST_OUTSIDE, against, divergence
from pytest_quantgate.spec import Observation

SIZE, TOP = 60, 16
KLD = Metric("kld", statistic="mean")


def distributions(seed: int, rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Return two distributions (S, V), one a disturbed other."""
    rng = np.random.default_rng(seed)
    p = rng.normal(size=(rows, SIZE)) * 3
    q = p + rng.normal(size=p.shape)
    return tuple(part - np.logaddexp.reduce(part, axis=1, keepdims=True) for part in (p, q))  # type: ignore[return-value]


def told(q: np.ndarray, ids: np.ndarray, depth: int) -> np.ndarray:
    """Return q at ids, as far as they are among its own `depth` most probable."""
    least = np.sort(q, axis=1)[:, -depth, None]
    at = np.take_along_axis(q, ids, 1)
    return np.where(at >= least, at, np.nan)


@pytest.mark.parametrize("depth", [1, 5, 16, 40, SIZE])
def test_a_lower_bound_that_grows_with_what_is_told(depth: int) -> None:
    """Never above the exact divergence; and never below that of fewer tokens told."""
    p, q = distributions(1)
    exact = (np.exp(p) * (p - q)).sum(-1)
    ids = np.argsort(-p)[:, :TOP]
    p_at = np.take_along_axis(p, ids, 1)
    unknown = np.full(len(p), np.nan)
    low, excess = divergence(p_at, told(q, ids, depth), unknown, SIZE)
    assert (low <= exact + 1e-9).all()
    assert (low >= -1e-9).all()
    assert np.isnan(excess).all()
    fewer, _ = divergence(p_at, told(q, ids, max(1, depth // 2)), unknown, SIZE)
    assert (fewer <= low + 1e-9).all()


@pytest.mark.parametrize("depth", [5, 16])
def test_a_floor_bounds_what_is_missed(depth: int) -> None:
    """With the smallest log-probability known, low plus excess is above the exact divergence, whatever is missing."""
    p, q = distributions(2)
    exact = (np.exp(p) * (p - q)).sum(-1)
    ids = np.argsort(-p)[:, :TOP]
    low, excess = divergence(np.take_along_axis(p, ids, 1), told(q, ids, depth), q.min(-1), SIZE)
    assert (low + excess >= exact - 1e-9).all()


def test_the_whole_vocabulary_with_holes_is_not_exact() -> None:
    """K = vocabulary says nothing of what the server left out."""
    p, q = distributions(3)
    ids = np.argsort(-p)
    p_at, q_at = (np.take_along_axis(part, ids, 1) for part in (p, q))
    exact, none = divergence(p_at, q_at, q.min(-1), SIZE)
    np.testing.assert_allclose(exact, (np.exp(p) * (p - q)).sum(-1), atol=1e-9)
    assert not none.any()
    q_at[:, 3] = np.nan
    _, excess = divergence(p_at, q_at, q.min(-1), SIZE)
    assert (excess > 0).any()


def observed(depth: int, *, floor: bool = False) -> Observation:
    """Return what is kept of a variant of which a server told `depth` tokens each."""
    p, q = distributions(4)
    ids = np.argsort(-p)[:, :TOP]
    known = q.min(-1) if floor else np.full(len(q), np.nan)
    at = told(q, ids, depth) if not floor else np.take_along_axis(q, ids, 1)
    scores = TokenScores(q[:, 0], q.argmax(-1), ids, at, known)
    columns: dict[str, Any] = dict(against(np.take_along_axis(p, ids, 1), scores, SIZE))
    return Observation({"window": np.repeat(np.arange(8), 50), **columns}, {"top_k": TOP})


def test_what_is_not_told_stands_beside_the_number() -> None:
    """The note gives the baseline's share on what was not told; nothing that is stored is NaN."""
    found = observed(TOP)
    assert all(np.isfinite(array).all() for array in found.arrays.values())
    estimate = token_estimates.estimate(KLD, found, None)
    share = found.arrays["outside"].mean()
    assert 0 < share < MOST_OUTSIDE
    assert f"a lower bound: of the tokens with {share:.2g} of the baseline's probability" in estimate.note
    assert estimate.missed is None  # a "<" gate is not passed by it
    assert token_estimates.estimate(KLD, observed(TOP, floor=True), None).missed == 0
    assert "outside" in observed(TOP).arrays
    assert not observed(TOP, floor=True).arrays["outside"].any()


def test_too_little_is_no_measurement() -> None:
    """Above a quarter of the baseline's mass the divergence is not measurable; no statistic of it passes a gate."""
    for statistic in ("mean", "median", "p99", "max"):
        with pytest.raises(
            NotMeasurableError, match=r"tells nothing of the tokens with \d\d% .*--max-logprobs 16"
        ):
            token_estimates.estimate(Metric("kld", statistic=statistic), observed(1), None)


def agreeing(unranked: float) -> Observation:
    """Return what is kept of a variant that agrees wherever its most probable token was told."""
    found = observed(TOP, floor=True)
    unknown = np.zeros(400, np.uint8)
    unknown[: int(400 * unranked)] = 1
    return Observation({**found.arrays, "agree": 1 - unknown, "unranked": unknown}, found.facts)


def test_agreement_with_what_was_not_told() -> None:
    """It is a lower bound by the share that was not told, and of too many tokens no measurement: never 0 %."""
    agreement = Metric("top1_agreement")
    found = token_estimates.estimate(agreement, agreeing(0.1), None)
    assert (found.value, found.missed) == (pytest.approx(0.9), pytest.approx(0.1))
    assert "of 0.1 of all" in found.note
    assert token_estimates.estimate(agreement, agreeing(0), None).missed == 0
    with pytest.raises(NotMeasurableError, match="does not tell the most probable token of 100%"):
        token_estimates.estimate(agreement, agreeing(1), None)


@pytest.mark.parametrize("metric", [KLD, Metric("kld", statistic="p99"), Metric("top1_agreement")])
def test_two_lower_bounds_have_no_difference(metric: Metric) -> None:
    """Against an earlier run nothing is said where a part was not told, now or then."""
    reference = Observation({"ids": np.arange(500)})
    part = agreeing(0.1) if metric.name == "top1_agreement" else observed(TOP)
    whole = agreeing(0)
    delta = dataclasses.replace(metric, relation="delta")
    for now, then in ((part, whole), (whole, part)):
        with pytest.raises(NotMeasurableError, match="a lower bound, now or then"):
            token_changes.change(delta, (now, reference), (then, reference))
    assert token_changes.change(delta, (whole, reference), (whole, reference)).value == 0
