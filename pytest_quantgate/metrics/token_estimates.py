"""Token metrics from stored observations: definitions are in `tokens`, intervals over windows in `stats`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate.errors import NotMeasurableError, ObservationError
from pytest_quantgate.spec import Estimate
from pytest_quantgate.stats import Mean, clustered_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_quantgate.gate import Metric
    from pytest_quantgate.spec import Observation

__all__ = ["estimate"]

QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
LARGEST = math.log(1e300)


def estimate(metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate:
    """Return a token metric.

    Raises:
        NotMeasurableError: it compares with the baseline, of which there is no observation.
        ObservationError: the two observations are not of the same tokens.

    """
    if metric.name == "ppl":
        return _perplexity(variant) if not metric.relation else _compared(metric, variant, baseline)
    if "kld" not in variant.arrays:
        raise NotMeasurableError(
            f"{metric} compares a variant with the baseline; this model was measured alone"
        )
    if metric.name == "kld":
        return _divergence(metric.statistic, variant)
    if metric.name == "top1_agreement":
        return _plain(_mean(variant, variant.arrays["agree"]), variant)
    return _change(metric.statistic, variant)


def _mean(observation: Observation, values: NDArray[Any]) -> Mean:
    return clustered_mean(values, observation.arrays["window"])


def _plain(mean: Mean, observation: Observation) -> Estimate:
    low, high = mean.interval()
    return Estimate(mean.value, n=len(observation.arrays["window"]), low=low, high=high)


def _perplexity(observation: Observation) -> Estimate:
    mean = _mean(observation, -observation.arrays["logprob"])
    return _exponential(mean, len(observation.arrays["logprob"]))


def _exponential(mean: Mean, count: int) -> Estimate:
    low, high = mean.interval()
    ends = [None if end is None else math.exp(min(end, LARGEST)) for end in (low, high)]
    return Estimate(math.exp(min(mean.value, LARGEST)), n=count, low=ends[0], high=ends[1])


def _compared(metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate:
    """Compare perplexities token by token."""
    if baseline is None:
        raise NotMeasurableError(f"{metric} needs the baseline's observation; there is none")
    ours, theirs = (-o.arrays["logprob"].astype(np.float64) for o in (variant, baseline))
    if not np.array_equal(variant.arrays["window"], baseline.arrays["window"]):
        raise ObservationError(
            f"{metric}: the two models were not scored on the same tokens; measure both again"
        )
    log_ratio = _mean(variant, ours - theirs)
    if metric.relation == "ratio":
        return _exponential(log_ratio, len(ours))
    if metric.relation == "log_ratio":
        return _plain(log_ratio, variant)
    # delta method: d(e^a - e^b) = e^a da - e^b db, so the same combination of per-token terms has its error
    above, below = (math.exp(min(float(nll.mean()), LARGEST)) for nll in (ours, theirs))
    spread = _mean(variant, above * ours - below * theirs)
    low, high = Mean(above - below, spread.error, spread.clusters).interval()
    return Estimate(above - below, n=len(ours), low=low, high=high)


def _divergence(statistic: str, variant: Observation) -> Estimate:
    kld, excess = variant.arrays["kld"], variant.arrays["kld_excess"]
    top = variant.facts["top_k"]
    if statistic == "mean":
        plain = _plain(_mean(variant, kld), variant)
        missed = float(excess.mean(dtype=np.float64))
        low, high = plain.low, plain.high
    else:
        quantile = QUANTILES[statistic]
        value = float(np.quantile(kld.astype(np.float64), quantile))
        missed = float(np.quantile(kld.astype(np.float64) + excess, quantile)) - value
        plain, low, high = Estimate(value, n=len(kld)), None, None
    note = (
        f"from the baseline's top {top}: the exact value is at most {missed:.3g} nat higher" if missed else ""
    )
    return Estimate(plain.value, "nat", n=plain.n, low=low, high=high, note=note)


def _change(statistic: str, variant: Observation) -> Estimate:
    change = variant.arrays["delta_p"].astype(np.float64)
    if statistic == "mean":
        return _plain(_mean(variant, change), variant)
    squared = _plain(_mean(variant, change**2), variant)
    low, high = (None if end is None else math.sqrt(max(end, 0.0)) for end in (squared.low, squared.high))
    return Estimate(math.sqrt(squared.value), n=squared.n, low=low, high=high)
