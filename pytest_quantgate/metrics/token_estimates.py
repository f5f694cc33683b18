"""Token metrics from stored observations: definitions are in `tokens`, intervals over windows in `stats`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate import stats
from pytest_quantgate.errors import NotMeasurableError, ObservationError
from pytest_quantgate.metrics.divergences import MOST_OUTSIDE
from pytest_quantgate.spec import Estimate
from pytest_quantgate.stats import EXP, IDENTITY, Link, Mean, clustered_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_quantgate.gate import Metric
    from pytest_quantgate.spec import Observation, Sampling

__all__ = ["estimate"]

QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
LEVEL = 0.95


def estimate(metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate:
    """Return a token metric.

    Raises:
        NotMeasurableError: it compares with the baseline, of which there is no observation.
        ObservationError: the two observations are not of the same tokens.

    """
    if metric.relation == "over_floor":
        raise NotMeasurableError(
            f"{metric} needs the baseline's noise floor, which this run has not measured"
        )
    if metric.relation == "within_expected":
        raise NotMeasurableError(f"{metric} needs the variant's format, which its observation does not hold")
    if metric.name == "ppl":
        return _perplexity(variant) if not metric.relation else _compared(metric, variant, baseline)
    if "kld" not in variant.arrays:
        raise NotMeasurableError(
            f"{metric} compares a variant with the baseline; this model was measured alone"
        )
    if metric.name == "kld":
        return _divergence(metric.statistic, variant)
    if metric.name == "top1_agreement":
        return _agreement(variant)
    return _change(metric.statistic, variant)


def _mean(observation: Observation, values: NDArray[Any]) -> Mean:
    return clustered_mean(values, observation.arrays["window"])


def _estimate(
    value: float, observation: Observation, clusters: int, sampling: Sampling | None, unit: str = ""
) -> Estimate:
    count = len(observation.arrays["window"])
    made = Estimate(value, unit, n=count, items="tokens", clusters=clusters, sampling=sampling)
    return made.at(LEVEL)


def _linked(mean: Mean, observation: Observation, link: Link = IDENTITY, unit: str = "") -> Estimate:
    return _estimate(link.forward(mean.value), observation, mean.clusters, mean.sampling(link), unit)


def _perplexity(observation: Observation) -> Estimate:
    return _linked(_mean(observation, -observation.arrays["logprob"]), observation, EXP)


def _agreement(variant: Observation) -> Estimate:
    """Return a share, with an interval that stays right when every token agrees.

    Raises:
        NotMeasurableError: of too many tokens the server did not tell which is the most probable.

    """
    unknown = _share(variant, "unranked")
    if unknown > MOST_OUTSIDE:
        raise NotMeasurableError(
            f"top1_agreement: the server does not tell the most probable token of {unknown:.0%} of all (allowed:"
            f" {MOST_OUTSIDE:.0%})"
        )
    mean = _mean(variant, variant.arrays["agree"])
    sampling = stats.effective(mean, len(variant.arrays["agree"])) if mean.sampling() else None
    found = _estimate(mean.value, variant, mean.clusters, sampling)
    note = f"the server does not tell the most probable token of {unknown:.2g} of all" if unknown else ""
    return replace(found, note=note, missed=unknown)


def _compared(metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate:
    """Compare perplexities token by token."""
    if baseline is None:
        raise NotMeasurableError(f"{metric} needs the baseline's observation; there is none")
    if not np.array_equal(variant.arrays["window"], baseline.arrays["window"]):
        raise ObservationError(
            f"{metric}: the two models were not scored on the same tokens; measure both again"
        )
    ours, theirs = (-o.arrays["logprob"].astype(np.float64) for o in (variant, baseline))
    one, other = _mean(variant, ours), _mean(baseline, theirs)
    if metric.relation == "delta":
        # delta method: d(e^a - e^b) = e^a da - e^b db, so the same combination of per-token terms has its error
        above, below = EXP.forward(one.value), EXP.forward(other.value)
        spread = _mean(variant, above * ours - below * theirs)
        paired = spread._replace(value=above - below)
        apart = math.hypot(above * one.error, below * other.error)
        return _with_unpaired(_linked(paired, variant), paired._replace(error=apart), IDENTITY)
    link = EXP if metric.relation == "ratio" else IDENTITY
    paired = _mean(variant, ours - theirs)
    apart = math.hypot(one.error, other.error)
    return _with_unpaired(_linked(paired, variant, link), paired._replace(error=apart), link)


def _with_unpaired(estimate: Estimate, apart: Mean, link: Link) -> Estimate:
    known = apart.sampling(link)
    return replace(estimate, unpaired=known.interval(LEVEL)) if known else estimate


def _divergence(statistic: str, variant: Observation) -> Estimate:
    kld, excess = variant.arrays["kld"], variant.arrays["kld_excess"]
    outside = _outside(variant)
    if statistic == "mean":
        found = _linked(_mean(variant, kld), variant, unit="nat")
        missed = float(excess.mean(dtype=np.float64))
    else:
        level = QUANTILES[statistic]
        numbers = kld.astype(np.float64)
        value = float(np.quantile(numbers, level))
        missed = float(np.quantile(numbers + excess, level)) - value
        windows = variant.arrays["window"]
        sampling = stats.quantile(kld, windows, level) if level < 1 else None
        found = _estimate(value, variant, len(np.unique(windows)), sampling, "nat")
    top = variant.facts["top_k"]
    note = (
        f"from the baseline's top {top}: the exact value is at most {missed:.3g} nat higher" if missed else ""
    )
    if outside:
        return replace(found, note=_unbounded_note(outside), missed=None)
    return replace(found, note=note)


def _outside(variant: Observation) -> float:
    """Return the share of the baseline's mass on tokens of which the variant told nothing; 0 unless it is an endpoint.

    Raises:
        NotMeasurableError: that is too much for a divergence.

    """
    share = _share(variant, "outside")
    if share > MOST_OUTSIDE:
        raise NotMeasurableError(
            f"kld: the server tells nothing of the tokens with {share:.0%} of the baseline's probability (allowed:"
            f" {MOST_OUTSIDE:.0%}); let it tell more (vLLM: --max-logprobs {variant.facts['top_k']})"
        )
    return share


def _share(variant: Observation, name: str) -> float:
    """Return the mean of a column that only endpoints have."""
    return float(variant.arrays[name].mean(dtype=np.float64)) if name in variant.arrays else 0.0


def _unbounded_note(outside: float) -> str:
    return (
        f"a lower bound: of the tokens with {outside:.2g} of the baseline's probability the server tells nothing, and"
        " what they add has no bound"
    )


def _change(statistic: str, variant: Observation) -> Estimate:
    change = variant.arrays["delta_p"].astype(np.float64)
    if statistic == "mean":
        return _linked(_mean(variant, change), variant)
    return _linked(_mean(variant, change**2), variant, stats.SQRT)
