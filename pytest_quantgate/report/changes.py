"""What a run says about an earlier one: each variant's figures set against the same variant's, and how they read."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any

from pytest_quantgate import figures, reading
from pytest_quantgate.reading import require

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_quantgate.spec import Estimate, Json

__all__ = ["Change", "lines"]


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of a variant against the same figure of an earlier run, or why there is none.

    Attributes:
        variant: name of the variant in both runs.
        since: what the earlier run is called: its tag or id.
        metric: what is compared, e.g. "kld.mean"; empty where nothing of the variant can be.
        estimate: now less then, on the same tokens; None where `reason` says why not.
        reason: why there is no figure.

    """

    variant: str
    since: str
    metric: str = ""
    estimate: Estimate | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object of builtin types only."""
        return {
            "variant": self.variant,
            "since": self.since,
            "metric": self.metric,
            "estimate": self.estimate.to_json() if self.estimate else None,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Change:
        """Rebuild what `to_json` wrote."""
        found = value.get("estimate")
        change = cls(**{**value, "estimate": None if found is None else reading.estimate(found)})
        require(str, variant=change.variant, since=change.since, metric=change.metric, reason=change.reason)
        require(NoneType, float, value=None if change.estimate is None else float(change.estimate.value))
        return change


def lines(changes: Iterable[Change]) -> tuple[tuple[str, str, str], ...]:
    """Return one (run, variant, "ppl +0.013 [+0.009, +0.017], kld.mean ...") per variant and earlier run."""
    told: dict[tuple[str, str], list[str]] = {}
    for change in changes:
        text = change.reason if change.estimate is None else f"{change.metric} {_signed(change.estimate)}"
        texts = told.setdefault((change.since, change.variant), [])
        if text not in texts:
            texts.append(text)
    return tuple((since, variant, ", ".join(texts)) for (since, variant), texts in told.items())


def _signed(estimate: Estimate) -> str:
    unit = figures.suited(estimate.value, estimate.unit)
    numbers = [estimate.value]
    if estimate.low is not None and estimate.high is not None:
        numbers += [estimate.low, estimate.high]
    texts = [_number(figures.converted(number, unit)) for number in numbers]
    interval = f" [{texts[1]}, {texts[2]}]" if texts[1:] else ""
    return f"{texts[0]}{f' {unit}' if unit else ''}{interval}"


def _number(value: float) -> str:
    text = figures.significant(value, 3)
    return f"+{text}" if value > 0 else text
