"""What is read from another tool's file."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_quantgate.spec import Estimate, Json, Observation

__all__ = ["LEVEL", "Imported", "Normal", "figure", "without"]

LEVEL = 0.95
_STANDARD = NormalDist()


@dataclass(frozen=True, slots=True)
class Imported:
    """One metric of one model, measured by another tool.

    Attributes:
        metric: its text without statistic and relation, as gates write it: "kld", "lm_eval('arc_easy', metric='acc')".
        figures: statistic -> value; "" for the plain number. With a relation: statistic, "|", relation ("|delta").
        observation: one answer per item, as `tasks.sheet` keeps them, where the file has them; judged like our own.
        made_by: the tool and its version as far as the file says, e.g. "lm-eval 0.4.13".
        protocol: what the file says of how it was measured; "skipped" names what was left out of it, and why.

    """

    metric: str
    figures: Mapping[str, Estimate]
    observation: Observation | None
    made_by: str
    protocol: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Normal:
    """A value with the standard error that a tool printed beside it; a `spec.Sampling`."""

    value: float
    error: float

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the two-sided interval: the value, more or less z standard errors."""
        half = _STANDARD.inv_cdf(0.5 + confidence / 2) * self.error
        return self.value - half, self.value + half

    def tails(self, limit: float) -> tuple[float, float]:
        """Return the one-sided p-values of "the true value is at least `limit`" and of "at most `limit`"."""
        distance = (self.value - limit) / self.error
        return _STANDARD.cdf(distance), _STANDARD.cdf(-distance)


def figure(estimate: Estimate, error: float | None) -> Estimate:
    """Return an estimate with the interval of a standard error, at 95 %.

    There is none where the tool gives no error, NaN or 0: 0 is what rounds to it, or what a share of 0 or 1 computes,
    and in neither case a certainty.
    """
    if error is None or not error > 0 or not math.isfinite(error):
        zero = "" if error is None else f"its standard error is given as {error:g}, which is none"
        return replace(estimate, note="; ".join(filter(None, (estimate.note, zero))))
    return replace(estimate, sampling=Normal(estimate.value, error)).at(LEVEL)


def without(found: Sequence[Imported], skipped: Sequence[str]) -> list[Imported]:
    """Return what was read from a file, each with the list of what was left out of it."""
    if not skipped:
        return list(found)
    return [replace(one, protocol={**one.protocol, "skipped": list(skipped)}) for one in found]
