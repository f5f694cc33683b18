"""What each gate will be able to see, before anything is measured: power, false alarms, items, time.

From the paired spread of a pass that is in the store: the variant's own, or another variant's on the same windows,
or the noise floor's. With the baseline alone only an upper bound is known for perplexity, as if the two models were
scored on different texts; pairing makes the true spread many times smaller. A gate is blind where the change that it
finds with 80 % probability is larger than the room between its limit and an unchanged model.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate import figures, stats
from pytest_quantgate.errors import QuantgateError, StoreError
from pytest_quantgate.floor import unchanged
from pytest_quantgate.registry import load
from pytest_quantgate.stats import chance_beyond, detectable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_quantgate.gate import Comparison, Metric
    from pytest_quantgate.interfaces import Divisible
    from pytest_quantgate.measurements import Measurements
    from pytest_quantgate.spec import Observation
    from pytest_quantgate.stats import Items

__all__ = ["POWER", "Basis", "Forecast", "Foresight", "foresee"]

POWER = 0.8
CONFIDENCE = 0.95
RARE = 1e-4


@dataclass(frozen=True, slots=True)
class Basis:
    """What a forecast rests on.

    Attributes:
        items: the metric as a mean over items.
        unchanged: the metric of a model that has not changed.
        source: whose spread it is, for people.
        seconds: what the pass took then; 0 where that is not known.
        widening: what the spread is multiplied by: the root of 2 for two unpaired texts.
        unit: what the items are called.

    """

    items: Items
    unchanged: float
    source: str
    seconds: float = 0.0
    widening: float = 1.0
    unit: str = "windows"


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one comparison of one variant can see.

    Attributes:
        variant: its name.
        comparison: text form.
        sees: the smallest change of the metric that it tells from none with 80 % probability; None if unknown.
        alarm: chance of failing an unchanged model, by the point estimate.
        items: how many items it rests on.
        seconds: about how long the pass takes; 0 if unknown.
        source: whose spread was taken, or why nothing is known.
        blind: it cannot see its own margin.
        unit: what the items are called.

    """

    variant: str
    comparison: str
    sees: float | None = None
    alarm: float = 0.0
    items: int = 0
    seconds: float = 0.0
    source: str = ""
    blind: bool = False
    unit: str = "windows"

    def line(self) -> str:
        """Return it for people."""
        head = f"{self.variant}: {self.comparison}"
        if self.sees is None:
            return f"{head}: unknown ({self.source})"
        alarm = f"fails an unchanged model with {_chance(self.alarm)}"
        time = f", about {figures.duration(self.seconds)}" if self.seconds else ""
        blind = f"; BLIND: more {self.unit} are needed, or a wider limit" if self.blind else ""
        return (
            f"{head}: sees a change of {figures.significant(self.sees, 2)} ({POWER:.0%} power), {alarm},"
            f" {self.items} {self.unit}{time} (spread of {self.source}){blind}"
        )


@dataclass(frozen=True, slots=True)
class Foresight:
    """Forecasts for the gates of a study, from its store alone."""

    measured: Measurements

    def forecasts(self) -> Iterator[Forecast]:
        """Yield what each comparison on a mean of items will be able to see, from the store alone."""
        for variant, asked in self.measured.demands.items():
            wanted = {comparison: one for one in asked for comparison in one.gate.comparisons()}
            for comparison, how in wanted.items():
                if self.measured.wants.is_mean(comparison.metric):
                    try:
                        basis = self._basis(variant, comparison.metric)
                    except QuantgateError as error:
                        yield Forecast(variant, str(comparison), source=str(error))
                    else:
                        yield foresee(
                            variant, comparison, basis, how.confidence or self.measured.options.confidence
                        )

    def _basis(self, variant: str, metric: Metric) -> Basis:
        """Return the best that is known of a metric's spread: the variant's, another's, the baseline's alone.

        Raises:
            StoreError: nothing is known.

        """
        needs = self.measured.wants.want(metric, self.measured.spec(variant), self.measured.baseline).needs()
        baseline = self.measured.engine.stored(needs.baseline) if needs.baseline else None
        if baseline is None:
            raise StoreError("the baseline's pass is not in the store; run the gates once")
        observer: Divisible = load(needs.variant.observe)
        visits = stats.order(observer.count(baseline), self.measured.options.seed)
        zero = unchanged(metric)
        for name in (variant, *(other for other in self.measured.study.names if other != variant)):
            observed = self._stored_pass(name, metric)
            items = observer.items(metric, observed, baseline, visits) if observed else None
            if observed is not None and items is not None:
                start = items.link.forward(0.0) if zero is None else zero
                seconds = float(str(observed.facts.get("seconds", 0)))
                return Basis(items, start, f"{name}'s stored pass", seconds, unit=observer.unit)
        items = observer.alone(metric, baseline, visits)
        if items is None:
            raise StoreError("no variant's pass is in the store, and the baseline alone does not tell")
        start = items.link.forward(0.0) if zero is None else zero
        seconds = float(str(baseline.facts.get("seconds", 0)))
        return Basis(
            items,
            start,
            "the baseline alone, unpaired: an upper bound",
            seconds,
            widening=math.sqrt(2),
            unit=observer.unit,
        )

    def _stored_pass(self, variant: str, metric: Metric) -> Observation | None:
        with suppress(QuantgateError):
            return self.measured.engine.stored(
                self.measured.wants.want(metric, self.measured.spec(variant), self.measured.baseline)
                .needs()
                .variant
            )
        return None


def foresee(variant: str, comparison: Comparison, basis: Basis, confidence: float | None = None) -> Forecast:
    """Return what a comparison will see; `confidence` is the level of the rule it will be judged by, if any."""
    items, level = basis.items, confidence or CONFIDENCE
    error = basis.widening * float(np.std(items.values, ddof=1)) / math.sqrt(items.total)
    zero, limit = items.link.back(basis.unchanged), items.link.back(comparison.limit.si)
    upward = comparison.operator in {"<", "<="}
    room = limit - zero if upward else zero - limit
    change = detectable(error, level, POWER)
    changed = items.link.forward(zero + change if upward else zero - change)
    return Forecast(
        variant,
        str(comparison),
        sees=abs(changed - basis.unchanged),
        alarm=chance_beyond(room, error),
        items=items.total,
        seconds=basis.seconds,
        source=basis.source,
        unit=basis.unit,
        blind=change > room and basis.widening == 1.0,  # an upper bound accuses nobody
    )


def _chance(probability: float) -> str:
    return "less than 0.01 %" if probability < RARE else figures.percent(probability)
