"""What each gate will be able to see, before anything is measured: power, false alarms, items, time.

From the paired spread of a pass that is in the store: the variant's own, or another variant's on the same windows,
or the noise floor's. With the baseline alone only an upper bound is known for perplexity, as if the two models were
scored on different texts; pairing makes the true spread many times smaller. A gate is blind where the change that it
finds with 80 % probability is larger than the room between its limit and an unchanged model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate import figures
from pytest_quantgate.stats import chance_beyond, detectable

if TYPE_CHECKING:
    from pytest_quantgate.gate import Comparison
    from pytest_quantgate.stats import Items

__all__ = ["POWER", "Basis", "Forecast", "foresee"]

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

    """

    items: Items
    unchanged: float
    source: str
    seconds: float = 0.0
    widening: float = 1.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one comparison of one variant can see.

    Attributes:
        variant: its name.
        comparison: text form.
        sees: the smallest change of the metric that it tells from none with 80 % probability; None if unknown.
        alarm: chance of failing an unchanged model, by the point estimate.
        items: how many windows it rests on.
        seconds: about how long the pass takes; 0 if unknown.
        source: whose spread was taken, or why nothing is known.
        blind: it cannot see its own margin.

    """

    variant: str
    comparison: str
    sees: float | None = None
    alarm: float = 0.0
    items: int = 0
    seconds: float = 0.0
    source: str = ""
    blind: bool = False

    def line(self) -> str:
        """Return it for people."""
        head = f"{self.variant}: {self.comparison}"
        if self.sees is None:
            return f"{head}: unknown ({self.source})"
        alarm = f"fails an unchanged model with {_chance(self.alarm)}"
        time = f", about {figures.duration(self.seconds)}" if self.seconds else ""
        blind = "; BLIND: more windows are needed, or a wider limit" if self.blind else ""
        return (
            f"{head}: sees a change of {figures.significant(self.sees, 2)} ({POWER:.0%} power), {alarm},"
            f" {self.items} windows{time} (spread of {self.source}){blind}"
        )


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
        blind=change > room and basis.widening == 1.0,  # an upper bound accuses nobody
    )


def _chance(probability: float) -> str:
    return "less than 0.01 %" if probability < RARE else figures.percent(probability)
