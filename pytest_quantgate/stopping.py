"""Stop when certain: a pass made part by part, in a random order, until its gates are decided.

The baseline's observation is whole, so each part gives paired differences; the interval around their mean holds
however often one looks (`stats.sequences`). Parts are steps of their own: a later run with another limit goes on where
this one stopped, and a pass that was never stopped is kept as if it had been made at once.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_quantgate import figures
from pytest_quantgate.errors import NotMeasurableError, ObservationError
from pytest_quantgate.stats import looks, order

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_quantgate.engine import Engine
    from pytest_quantgate.gate import Metric
    from pytest_quantgate.interfaces import Divisible, Observer
    from pytest_quantgate.plan import Needs
    from pytest_quantgate.spec import Estimate, Observation

__all__ = ["Risk", "Stopped", "follow"]


@dataclass(frozen=True, slots=True)
class Risk:
    """How sure an early stop must be.

    Attributes:
        alpha: chance that any of the pass's verdicts is another than the whole pass would give.
        metrics: how many metrics share it.
        confidence: the level of the rule by which the whole pass would be judged; None: by its point.
        seed: of the order.

    """

    alpha: float
    metrics: int = 1
    confidence: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Stopped:
    """Some parts of a pass, and what they say of the whole."""

    observer: Divisible
    observation: Observation
    baseline: Observation
    risk: Risk

    @property
    def share(self) -> str:
        """How much was seen, e.g. "7 % of the windows"."""
        total = self.observer.count(self.baseline)
        return f"{figures.percent(self.observer.seen(self.observation) / total)} of the {self.observer.unit}"

    def estimate(self, metric: Metric) -> Estimate:
        """Return a metric with the interval that decides.

        Raises:
            NotMeasurableError: it is no mean of items.

        """
        total = self.observer.count(self.baseline)
        visits = order(total, self.risk.seed)
        items = self.observer.items(metric, self.observation, self.baseline, visits)
        if items is None:
            raise NotMeasurableError(
                f"{metric} is no mean of {self.observer.unit}: it is not known after {self.share};"
                " run without early stopping"
            )
        plain: Observer = self.observer  # type: ignore[assignment]  # an observer that is divisible
        found = plain.estimate(
            metric, self.observation, self.observer.aligned(self.baseline, self.observation)
        )
        low, high = items.interval(self.risk.alpha / self.risk.metrics, self.risk.confidence)
        known = math.isfinite(low) and math.isfinite(high)
        return replace(
            found,
            low=low if known else None,
            high=high if known else None,
            confidence=1 - self.risk.alpha / self.risk.metrics,
            unpaired=None,
            sampling=None,
            note="",
            partial=self.share,
        )


def follow(
    engine: Engine, needs: Needs, observer: Divisible, risk: Risk, certain: Callable[[Stopped], bool]
) -> Stopped | None:
    """Make a variant's pass in parts until `certain` says so; return what was seen.

    None if the whole pass is there in the end: it is kept under its own key, and judged as any other.

    Raises:
        QuantgateError: a part could not be observed.

    """
    if needs.baseline is None:
        raise ObservationError("early stopping compares with a baseline; configure one")
    baseline = engine.observation(needs.baseline)
    if engine.stored(needs.variant) is not None:
        return None
    parts: list[Observation] = []
    for begin, end in itertools.pairwise((0, *looks(observer.count(baseline)))):
        protocol = observer.part(needs.variant.protocol, risk.seed, begin, end)
        parts.append(engine.observation(replace(needs.variant, protocol=protocol)))
        seen = Stopped(observer, observer.joined(parts), baseline, risk)
        if end < observer.count(baseline) and certain(seen):
            return seen
    engine.keep(needs.variant, observer.joined(parts))
    return None
