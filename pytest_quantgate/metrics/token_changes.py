"""Token metrics against an earlier run of the same variant, token by token: `since("v1.2").kld.mean.delta`.

x_t is a token's term now, y_t the same token's in the earlier run; m(x) is the mean over tokens. The interval of what
is written on the left is that of the clustered mean of the terms on the right (delta method; windows are the clusters):

    delta      m(x) - m(y)                  x_t - y_t
    log_ratio  log m(x) - log m(y)          x_t / m(x) - y_t / m(y)

`ratio` is the exponential of log_ratio, ends included; `drop` is -delta, `recovery` is ratio. ppl is the exponential of
a mean and is compared as with a baseline (see `token_estimates`). delta_p.rms is a root: its delta has the terms
x_t² / 2 rms(x) - y_t² / 2 rms(y). Of percentiles the difference is given without an interval.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.metrics import token_estimates
from pytest_quantgate.metrics.compared import compared
from pytest_quantgate.spec import Estimate
from pytest_quantgate.stats import EXP, IDENTITY, Link, Mean, clustered_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_quantgate.gate import Metric
    from pytest_quantgate.spec import Observation

    Pair: TypeAlias = tuple[Observation, Observation | None]

__all__ = ["change"]

LEVEL = 0.95
MEANS = {("kld", "mean"): "kld", ("top1_agreement", ""): "agree", ("delta_p", "mean"): "delta_p"}
"""The metrics that are means over tokens, and the array of their terms."""
ROOTS = {("delta_p", "rms"): "delta_p"}


def change(metric: Metric, now_pair: Pair, earlier_pair: Pair) -> Estimate:
    """Return the relation of a metric to its earlier value; a pair is a variant's observation and its reference.

    Raises:
        NotMeasurableError: the two runs did not score the same tokens (the first that differs is named), an
            observation does not hold the metric, or the earlier value of a ratio is zero.

    """
    now, earlier = now_pair[0], earlier_pair[0]
    _check_aligned(now, earlier, (_ids(now_pair), _ids(earlier_pair)))
    if metric.name == "ppl":
        return _perplexity(metric, now, earlier)
    _check_whole(metric, now, earlier)
    term = (metric.name, metric.statistic)
    name = MEANS.get(term) or ROOTS.get(term)
    if name is None or "kld" not in now.arrays or "kld" not in earlier.arrays:
        absolute = replace(metric, relation="", since="")
        ours, theirs = (token_estimates.estimate(absolute, one, None) for one in (now, earlier))
        return compared(metric, ours, theirs)
    x, y = (observation.arrays[name].astype(np.float64) for observation in (now, earlier))
    unit = "nat" if metric.name == "kld" else ""
    if term in ROOTS:
        return _root(metric, x, y, now.arrays["window"])
    return _mean(metric, x, y, now.arrays["window"], unit)


def _check_whole(metric: Metric, *pair: Observation) -> None:
    """Refuse figures of which an endpoint did not tell a part: what two lower bounds differ by says nothing.

    Raises:
        NotMeasurableError: one of them is such a figure.

    """
    column = {"kld": "outside", "top1_agreement": "unranked"}.get(metric.name, "")
    if any(column in observation.arrays and observation.arrays[column].any() for observation in pair):
        raise NotMeasurableError(
            f"{metric}: the server did not tell a part of it, so that it is a lower bound, now or then"
        )


def _ids(pair: Pair) -> NDArray[Any]:
    """Return the stream of tokens that a pair was scored on: the reference keeps it."""
    for observation in pair:
        if observation is not None and "ids" in observation.arrays:
            return observation.arrays["ids"]
    raise NotMeasurableError(
        "whether the tokens are the same cannot be told: the baseline's observation is not in the store any more"
    )


def _check_aligned(now: Observation, earlier: Observation, ids: tuple[NDArray[Any], NDArray[Any]]) -> None:
    """Refuse observations whose items are not the same tokens; `ids` are the two streams they were cut from.

    Raises:
        NotMeasurableError: names the first item that differs.

    """
    for what, ours, theirs in (
        ("token", *ids),
        ("scored token", now.arrays["window"], earlier.arrays["window"]),
    ):
        common = min(len(ours), len(theirs))
        differs = np.flatnonzero(ours[:common] != theirs[:common])
        if len(differs):
            at = int(differs[0])
            kind = "id" if what == "token" else "window"
            raise NotMeasurableError(
                f"items do not align: {what} {at} has the {kind} {int(ours[at])} now, {int(theirs[at])} then"
            )
        if len(ours) != len(theirs):
            raise NotMeasurableError(
                f"items do not align: {what} {common} is in one run only ({len(ours)} now, {len(theirs)} then)"
            )


def _perplexity(metric: Metric, now: Observation, earlier: Observation) -> Estimate:
    relation = {"drop": "delta", "recovery": "ratio"}.get(metric.relation, metric.relation)
    plain = replace(metric, relation=relation, since="")
    if metric.relation == "drop":
        # then - now is now - then with the runs exchanged
        return token_estimates.estimate(plain, earlier, now)
    return token_estimates.estimate(plain, now, earlier)


def _mean(
    metric: Metric, x: NDArray[np.float64], y: NDArray[np.float64], windows: NDArray[Any], unit: str
) -> Estimate:
    if metric.relation in ("delta", "drop"):
        sign = 1 if metric.relation == "delta" else -1
        paired = clustered_mean(sign * (x - y), windows)
        error = math.hypot(clustered_mean(x, windows).error, clustered_mean(y, windows).error)
        apart = paired._replace(error=error).sampling()
        unpaired = apart.interval(LEVEL) if apart else None
        return replace(_estimate(paired, len(x), unit), unpaired=unpaired)
    above, below = float(x.mean()), float(y.mean())
    if not above * below > 0:
        raise NotMeasurableError(
            f"{metric}: a mean of {above:g} and an earlier one of {below:g} have no ratio"
        )
    # on the logarithm: there the interval is symmetric, and stays above zero
    spread = clustered_mean(x / above - y / below, windows)
    link = IDENTITY if metric.relation == "log_ratio" else EXP
    return _estimate(spread._replace(value=math.log(above / below)), len(x), "", link)


def _root(metric: Metric, x: NDArray[np.float64], y: NDArray[np.float64], windows: NDArray[Any]) -> Estimate:
    above, below = (math.sqrt(float((part**2).mean())) for part in (x, y))
    if metric.relation in ("delta", "drop"):
        sign = 1 if metric.relation == "delta" else -1
        if not above * below:
            return Estimate(sign * (above - below), n=len(x), items="tokens")
        spread = clustered_mean(sign * (x**2 / (2 * above) - y**2 / (2 * below)), windows)
        return _estimate(spread._replace(value=sign * (above - below)), len(x))
    if not above * below:
        raise NotMeasurableError(f"{metric}: {above:g} and an earlier {below:g} have no ratio")
    spread = clustered_mean((x / above) ** 2 / 2 - (y / below) ** 2 / 2, windows)
    link = IDENTITY if metric.relation == "log_ratio" else EXP
    return _estimate(spread._replace(value=math.log(above / below)), len(x), "", link)


def _estimate(mean: Mean, count: int, unit: str = "", link: Link = IDENTITY) -> Estimate:
    made = Estimate(
        link.forward(mean.value),
        unit,
        n=count,
        items="tokens",
        clusters=mean.clusters,
        sampling=mean.sampling(link),
    )
    return made.at(LEVEL)
