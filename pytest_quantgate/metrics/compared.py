"""One number of a variant set against the baseline's: delta, ratio, log_ratio, drop, recovery."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.stats import MedianRatio, Ranks

if TYPE_CHECKING:
    from pytest_quantgate.gate import Metric
    from pytest_quantgate.spec import Estimate

__all__ = ["compared"]


def compared(metric: Metric, variant: Estimate, baseline: Estimate | None) -> Estimate:
    """Return `variant` itself, or its relation to `baseline`, as `metric` asks.

    Medians of runs keep a distribution-free interval (see `stats.MedianRatio`); what is counted stays exact.

    Raises:
        NotMeasurableError: there is no baseline, or a ratio to zero is asked for.

    """
    if not metric.relation:
        return variant
    if baseline is None:
        raise NotMeasurableError(f"{metric} needs the baseline's observation; there is none")
    value, unit = _related(metric, variant, baseline)
    related = replace(
        variant,
        value=value,
        unit=unit,
        low=None,
        high=None,
        sampling=None,
        exact=variant.exact and baseline.exact,
    )
    if isinstance(variant.sampling, Ranks) and isinstance(baseline.sampling, Ranks):
        relation = "ratio" if metric.relation == "recovery" else metric.relation
        sampling = MedianRatio(variant.sampling, baseline.sampling, relation)
        return replace(related, sampling=sampling).at(variant.confidence)
    return related


def _related(metric: Metric, variant: Estimate, baseline: Estimate) -> tuple[float, str]:
    if metric.relation in ("delta", "drop"):
        difference = variant.value - baseline.value
        return (difference if metric.relation == "delta" else -difference), variant.unit
    if not baseline.value:
        raise NotMeasurableError(f"{metric}: the baseline's value is zero")
    ratio = variant.value / baseline.value
    return (math.log(ratio) if metric.relation == "log_ratio" else ratio), ""
