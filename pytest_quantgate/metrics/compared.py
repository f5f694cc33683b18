"""One number of a variant set against the baseline's: delta, ratio, log_ratio, drop, recovery."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_quantgate.errors import NotMeasurableError

if TYPE_CHECKING:
    from pytest_quantgate.gate import Metric
    from pytest_quantgate.spec import Estimate

__all__ = ["compared"]


def compared(metric: Metric, variant: Estimate, baseline: Estimate | None) -> Estimate:
    """Return `variant` itself, or its relation to `baseline` without an interval, as `metric` asks.

    Raises:
        NotMeasurableError: there is no baseline, or a ratio to zero is asked for.

    """
    if not metric.relation:
        return variant
    if baseline is None:
        raise NotMeasurableError(f"{metric} needs the baseline's observation; there is none")
    if metric.relation in ("delta", "drop"):
        difference = variant.value - baseline.value
        sign = 1 if metric.relation == "delta" else -1
        return replace(variant, value=sign * difference, low=None, high=None)
    if not baseline.value:
        raise NotMeasurableError(f"{metric}: the baseline's value is zero")
    ratio = variant.value / baseline.value
    value = math.log(ratio) if metric.relation == "log_ratio" else ratio
    return replace(variant, value=value, unit="", low=None, high=None)
