"""Which capability suffers most: one row per task and variant, the worst named first.

Losses of different kinds are set side by side by the share of the baseline's score that is gone: for a task that is
1 - accuracy / accuracy of the baseline; for text 1 - perplexity of the baseline / perplexity, which is the loss of the
geometric mean probability of a token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_quantgate import figures, reading
from pytest_quantgate.reading import require

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_quantgate.spec import Estimate, Json

__all__ = ["TEXT", "TITLES", "Capability", "Line", "lines"]

TEXT = "text"
TITLES = ("what broke", "task", "baseline", "variant", "drop", "95 %", "lost", "won")
_POINTS = 100.0


@dataclass(frozen=True, slots=True)
class Capability:
    """What became of one capability in one variant.

    Attributes:
        variant: name of the variant.
        capability: "text", "knowledge", "mathematics" …
        metric: the metric that stands for it, e.g. "gsm8k".
        baseline: the baseline's value.
        value: the variant's.
        drop: baseline less variant, on the same items; for text the perplexity's rise.
        lost: items that only the baseline has right; None where items are not right or wrong.
        won: items that only the variant has right.

    """

    variant: str
    capability: str
    metric: str
    baseline: Estimate
    value: Estimate
    drop: Estimate
    lost: int | None = None
    won: int | None = None

    @property
    def loss(self) -> float:
        """The share of the baseline's score that is gone; negative for a gain."""
        before, after = self.baseline.value, self.value.value
        if self.capability == TEXT:
            before, after = after, before
        return 1 - after / before if before else 0.0

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object of builtin types only."""
        return {
            "variant": self.variant,
            "capability": self.capability,
            "metric": self.metric,
            "baseline": self.baseline.to_json(),
            "value": self.value.to_json(),
            "drop": self.drop.to_json(),
            "lost": self.lost,
            "won": self.won,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Capability:
        """Rebuild what `to_json` wrote."""
        estimates = {name: reading.estimate(value[name]) for name in ("baseline", "value", "drop")}
        found = cls(**{**value, **estimates})
        require(str, variant=found.variant, capability=found.capability, metric=found.metric)
        require(int, NoneType, lost=found.lost, won=found.won)
        if not all(math.isfinite(one.value) for one in estimates.values()):
            raise ValueError(f"a figure of {found.metric} is not finite")
        return found


class Line(NamedTuple):
    """A row of the table, as text; `loss` tells how grave it is."""

    cells: tuple[str, ...]
    loss: float


def lines(found: Sequence[Capability], variants: Iterable[str]) -> list[Line]:
    """Return the table's rows: variant by variant in the order given, in each the worst first."""
    place = {name: number for number, name in enumerate(variants)}
    ordered = sorted(found, key=lambda one: (place.get(one.variant, len(place)), -one.loss))
    return [Line(_cells(one), one.loss) for one in ordered]


def _cells(one: Capability) -> tuple[str, ...]:
    scale, sign = (1.0, "") if one.capability == TEXT else (_POINTS, " %")
    ends = [figures.significant(scale * end, 3) for end in (one.drop.low, one.drop.high) if end is not None]
    return (
        f"{one.variant}: {one.capability}",
        one.metric,
        f"{figures.significant(scale * one.baseline.value, 3)}{sign}",
        f"{figures.significant(scale * one.value.value, 3)}{sign}",
        figures.significant(scale * one.drop.value, 3),
        f"[{', '.join(ends)}]" if ends else "-",
        "-" if one.lost is None else str(one.lost),
        "-" if one.won is None else str(one.won),
    )
