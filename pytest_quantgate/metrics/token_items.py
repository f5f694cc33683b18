"""Token metrics as means over windows: what early stopping follows, and what power is planned with.

With N tokens in G windows, window w stands for y_w = (G / N) Σ_{t in w} x_t, so that the mean of y over all windows
is the mean of x over all tokens, also where windows have unequal numbers of tokens. Perplexities are written with the
paired change of the log-likelihood, since the baseline's own is known for every token: with m_p the baseline's mean,

    ppl            exp(m_p + mean x)              x_t = log p(x_t | c) - log q(x_t | c)
    ppl.delta      exp(m_p) (exp(mean x) - 1)     ppl.ratio  exp(mean x)     ppl.log_ratio  mean x
    kld.mean, top1_agreement, delta_p.mean        the mean itself             delta_p.rms    √ mean (q - p)²
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.metrics.parts import aligned
from pytest_quantgate.stats import EXP, IDENTITY, SQRT, Items, Link

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_quantgate.gate import Metric
    from pytest_quantgate.spec import IntArray, Observation

__all__ = ["alone", "is_mean", "items"]

MEANS = {("kld", "mean"): "kld", ("top1_agreement", ""): "agree", ("delta_p", "mean"): "delta_p"}


def is_mean(metric: Metric) -> bool:
    """Return whether a metric is an increasing function of a mean over tokens, paired with the baseline."""
    if metric.since or metric.relation in {"over_floor", "within_expected"}:
        return False
    term = (metric.name, metric.statistic)
    return metric.name == "ppl" or (not metric.relation and (term in MEANS or term == ("delta_p", "rms")))


def items(metric: Metric, part: Observation, baseline: Observation, order: IntArray) -> Items | None:
    """Return a metric as a mean over windows, the visited ones in the order given; None for a percentile."""
    if not is_mean(metric):
        return None
    terms, link = _terms(metric, part, baseline)
    return _over_windows(terms, link, part, baseline, order)


def alone(metric: Metric, baseline: Observation, order: IntArray) -> Items | None:
    """Return what is known of a perplexity's spread before any variant was scored: the baseline's own log-likelihood.

    None for what compares distributions: the baseline alone says nothing of it.
    """
    if metric.name != "ppl" or not is_mean(metric):
        return None
    terms = -baseline.arrays["logprob"].astype(np.float64)
    mean = float(terms.mean())
    return _over_windows(terms - mean, _perplexity(metric.relation, mean), baseline, baseline, order)


def _over_windows(
    terms: NDArray[np.float64], link: Link, part: Observation, baseline: Observation, order: IntArray
) -> Items:
    windows, total = part.arrays["window"], len(order)
    sums: NDArray[np.float64] = np.bincount(windows, weights=terms, minlength=total).astype(
        np.float64
    )  # (G,)
    scale = total / len(baseline.arrays["window"])
    visited = order[np.isin(order, np.unique(windows))]
    return Items(sums[visited] * scale, total, link)


def _terms(metric: Metric, part: Observation, baseline: Observation) -> tuple[NDArray[np.float64], Link]:
    if metric.name == "ppl":
        theirs = aligned(baseline, part).arrays["logprob"].astype(np.float64)
        change = theirs - part.arrays["logprob"].astype(np.float64)
        return change, _perplexity(metric.relation, -float(baseline.arrays["logprob"].mean(dtype=np.float64)))
    if metric.name == "delta_p" and metric.statistic == "rms":
        return part.arrays["delta_p"].astype(np.float64) ** 2, SQRT
    return part.arrays[MEANS[metric.name, metric.statistic]].astype(np.float64), IDENTITY


def _perplexity(relation: str, known: float) -> Link:
    """Return the way from the mean change of the log-likelihood to a perplexity; `known` is the baseline's mean."""
    if relation == "log_ratio":
        return IDENTITY
    if relation == "ratio":
        return EXP
    reference = math.exp(known)
    if relation == "delta":
        return Link(
            lambda mean: reference * (EXP.forward(mean) - 1), lambda value: EXP.back(1 + value / reference)
        )
    return Link(lambda mean: EXP.forward(known + mean), lambda value: EXP.back(value) - known)
