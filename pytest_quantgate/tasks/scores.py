"""Task metrics from stored answers: shares, their change on the same items, and what flipped.

``accuracy``     the share of items that are right; for pass@k the mean of each item's estimate.
`.macro`         the mean over subjects of their accuracy.
`.flips`         the share of items that are right in one model alone (Dutta et al., 2024); `.lost`, `.won` of them.
`pass_at`        pass@k, the unbiased estimator of Chen et al. (2021): of n programs of which c pass, the chance that k
                 drawn without replacement hold one that passes is 1 - C(n - c, k) / C(n, k).
`.delta`, `.drop`        the difference on the same items; `.ratio`, `.recovery` the quotient.

Intervals: Wilson's for a share, Newcombe's paired one for a difference of shares, BCa bootstrap over items for a
quotient, Student's t over items for numbers between 0 and 1, and stratified by subject for `.macro`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate import stats
from pytest_quantgate.errors import NotMeasurableError, ObservationError, UnknownNameError
from pytest_quantgate.spec import Estimate
from pytest_quantgate.stats import Mean, Paired, Proportion, clustered_mean
from pytest_quantgate.tasks.sheet import NUMBER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pytest_quantgate.gate import Metric
    from pytest_quantgate.spec import Observation, Sampling

__all__ = ["CHANGES", "MACRO", "estimate", "is_mean", "pass_at_k", "terms", "values"]

LEVEL = 0.95
MACRO = "macro"
CHANGES = ("flips", "lost", "won")
"""Statistics that compare with the baseline themselves."""

_MEANS = ("", "delta", "drop", "ratio", "recovery")


@dataclass(frozen=True, slots=True)
class _Sample:
    """Scores (N,) in [0, 1], and the subject (N,) of each."""

    values: NDArray[np.float64]
    groups: NDArray[Any]

    @property
    def is_binary(self) -> bool:
        return bool(np.isin(self.values, (0.0, 1.0)).all())


def estimate(metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate:
    """Return a task metric.

    Raises:
        NotMeasurableError: it compares with the baseline, of which there is no observation; or it is a quotient with 0.
        ObservationError: the two observations are not of the same items.

    """
    ours = _sample(metric, variant)
    if not metric.relation and metric.statistic not in CHANGES:
        return _plain(metric, ours)
    if baseline is None:
        raise NotMeasurableError(f"{metric} needs the baseline's answers; there are none")
    if not np.array_equal(variant.arrays[NUMBER], baseline.arrays[NUMBER]):
        raise ObservationError(f"{metric}: the two models did not answer the same items; measure both again")
    theirs = _sample(metric, baseline)
    if (
        metric.statistic != "form"
        and metric.relation not in ("ratio", "recovery")
        and not theirs.values.any()
    ):
        raise NotMeasurableError(f"{metric}: the baseline answers nothing right, so nothing can be lost")
    if metric.statistic in CHANGES:
        return _changed(metric.statistic, ours, theirs)
    sign = -1.0 if metric.relation == "drop" else 1.0
    if metric.relation in ("delta", "drop"):
        return _difference(metric, ours, theirs, sign)
    return _quotient(metric, ours, theirs)


def _sample(metric: Metric, observation: Observation) -> _Sample:
    """Return the scores that a metric is about."""
    k = int(dict(metric.arguments).get("pass_at", 1))
    column = "correct" if metric.statistic in ("", MACRO, *CHANGES) else metric.statistic
    if column not in observation.arrays:
        raise NotMeasurableError(f"{metric}: these answers hold no {column!r}")
    rows = _chosen(observation, str(dict(metric.arguments).get("of", "")))
    if not len(rows):
        raise NotMeasurableError(f"{metric}: no item of it has been answered")
    shares = observation.arrays[column].astype(np.float64)
    if k > 1 and column == "correct":
        samples: Any = observation.facts["samples"]
        shares = pass_at_k(observation.arrays["passed"].astype(np.int64), samples, k)
    return _Sample(shares[rows], observation.arrays["group"][rows])


def pass_at_k(passed: NDArray[np.int64], samples: int, k: int) -> NDArray[np.float64]:
    """Return the chance (N,) that one of `k` programs passes, of items of whose `samples` programs `passed` (N,) did.

    Raises:
        ValueError: `k` is not between 1 and `samples`.

    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} takes at least {k} samples, not {samples}")
    failed = samples - passed
    steps = np.arange(samples - k + 1, samples + 1)  # C(n - c, k) / C(n, k) as a product of k quotients
    chances = np.clip((steps[None, :] - passed[:, None]) / steps[None, :], 0.0, 1.0).prod(1)
    return np.where(failed < k, 1.0, 1.0 - chances)


def _chosen(observation: Observation, name: str) -> NDArray[np.intp]:
    """Return the rows of a subject, or of a category of subjects; of all where the task has no such."""
    facts: Mapping[str, Any] = observation.facts
    categories: Mapping[str, list[str]] = facts.get("categories", {})
    names: list[str] = facts["groups"]
    if name and name not in categories and name not in names:
        raise UnknownNameError("subject", name, [*categories, *names])
    wanted = categories.get(name, [name] if name else names)
    numbers = [number for number, group in enumerate(names) if group in wanted]
    return np.flatnonzero(np.isin(observation.arrays["group"], numbers))


def _estimate(value: float, count: int, sampling: Sampling | None) -> Estimate:
    return Estimate(value, n=count, items="items", clusters=count, sampling=sampling).at(LEVEL)


def _plain(metric: Metric, sample: _Sample) -> Estimate:
    count = len(sample.values)
    if metric.statistic == MACRO:
        mean = _stratified(sample.values, sample.groups)
        return _estimate(mean.value, count, _known(mean))
    value = float(sample.values.mean())
    if sample.is_binary:
        return _estimate(value, count, Proportion(value, count))
    return _estimate(value, count, _known(clustered_mean(sample.values, np.arange(count))))


def _known(mean: Mean) -> Sampling | None:
    """Return a mean's distribution; none where all items are alike, of which a sample knows no spread."""
    return mean.sampling() if mean.error else None


def _changed(statistic: str, ours: _Sample, theirs: _Sample) -> Estimate:
    lost, won = (ours.values < theirs.values), (ours.values > theirs.values)
    share = float({"flips": lost | won, "lost": lost, "won": won}[statistic].mean())
    count = len(ours.values)
    return _estimate(share, count, Proportion(share, count))


def _difference(metric: Metric, ours: _Sample, theirs: _Sample, sign: float) -> Estimate:
    change = sign * (ours.values - theirs.values)
    count = len(change)
    if metric.statistic == MACRO:
        mean = _stratified(change, ours.groups)
        return _estimate(mean.value, count, _known(mean))
    if not (ours.is_binary and theirs.is_binary):
        mean = clustered_mean(change, np.arange(count))
        return _estimate(mean.value, count, _known(mean))
    cells = _cells(ours, theirs)
    paired = cells if sign > 0 else Paired(cells.both, cells.won, cells.lost, cells.neither)
    found = _estimate(paired.difference, count, paired)
    return replace(found, unpaired=paired.unpaired(LEVEL))


def _cells(ours: _Sample, theirs: _Sample) -> Paired:
    right, was_right = ours.values == 1, theirs.values == 1
    return Paired(
        both=int((right & was_right).sum()),
        lost=int((~right & was_right).sum()),
        won=int((right & ~was_right).sum()),
        neither=int((~right & ~was_right).sum()),
    )


def _quotient(metric: Metric, ours: _Sample, theirs: _Sample) -> Estimate:
    count = len(ours.values)
    if metric.statistic == MACRO:
        above, below = (_stratified(sample.values, sample.groups).value for sample in (ours, theirs))
        _refuse_zero(metric, below)
        ratio = above / below
        # the linearised ratio: what is left of each item once the quotient is taken out
        spread = _stratified((ours.values - ratio * theirs.values) / below, ours.groups)
        return _estimate(ratio, count, _known(spread._replace(value=ratio)))
    _refuse_zero(metric, float(theirs.values.sum()))
    value = float(ours.values.sum() / theirs.values.sum())
    return _estimate(value, count, stats.item_ratio(ours.values, theirs.values))


def _refuse_zero(metric: Metric, below: float) -> None:
    if not below:
        raise NotMeasurableError(f"{metric}: the baseline answers nothing right, so there is no quotient")


def _stratified(values: NDArray[np.float64], groups: NDArray[Any]) -> Mean:
    """Return the mean over groups of their means, with a standard error within groups."""
    _, group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    means = np.bincount(group, weights=values) / counts
    freedom = len(values) - len(counts)
    if freedom < 1:
        return Mean(float(means.mean()), math.nan, len(values))
    # a subject of one item has no spread of its own: all subjects' is taken together
    pooled = float(((values - means[group]) ** 2).sum()) / freedom
    error = math.sqrt(float((pooled / counts).sum())) / len(counts)
    return Mean(float(means.mean()), error, freedom + 1)


def values(metric: Metric, observation: Observation) -> NDArray[np.float64]:
    """Return the scores (N,) that a metric is about."""
    return _sample(metric, observation).values


# --- as means over items, for early stopping and power


def is_mean(metric: Metric) -> bool:
    """Return whether a metric is a function of a mean over all items, in which it never falls."""
    return (
        not metric.since
        and metric.relation in _MEANS
        and metric.statistic != MACRO
        and not dict(metric.arguments).get("of")
    )


def terms(
    metric: Metric, variant: Observation, aligned: Observation, baseline: Observation
) -> tuple[NDArray[np.float64], stats.Link]:
    """Return the numbers (N,) of which a metric is a function of the mean, and that function.

    Args:
        metric: what is asked.
        variant: answers to some of the items, or to all.
        aligned: the baseline's answers to the same.
        baseline: its answers to all, whose accuracy is known.

    Raises:
        NotMeasurableError: a quotient with 0.

    """
    ours, theirs = _sample(metric, variant).values, _sample(metric, aligned).values
    if metric.statistic in CHANGES:
        changed = {"flips": ours != theirs, "lost": ours < theirs, "won": ours > theirs}[metric.statistic]
        return changed.astype(np.float64), stats.IDENTITY
    if metric.relation == "drop":
        return theirs - ours, stats.IDENTITY
    change = ours - theirs
    if metric.relation == "delta":
        return change, stats.IDENTITY
    known = float(_sample(metric, baseline).values.mean())
    if not metric.relation:
        return change, stats.Link(lambda mean: known + mean, lambda value: value - known)
    _refuse_zero(metric, known)
    return change, stats.Link(lambda mean: 1 + mean / known, lambda value: (value - 1) * known)
