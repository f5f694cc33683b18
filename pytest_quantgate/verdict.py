"""A gate and the estimates it asks for, judged: a value with its reasons. Pure.

Comparisons are made on the point estimate. `not` is first pushed down into the comparisons (`not a < 1` is
judged as `a >= 1`), so that the gate is monotone in its checks: a check that fails can then never make a gate
pass. That keeps a NaN from passing under any sign. What could not be measured is unknown (Kleene), and
unknown never passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pytest_quantgate import figures, reading
from pytest_quantgate.errors import NotMeasurableError, QuantgateError
from pytest_quantgate.escaping import plain
from pytest_quantgate.gate import And, Comparison, Gate, Metric, Not, Or
from pytest_quantgate.reading import require, require_finite, require_one_of
from pytest_quantgate.spec import Estimate

if TYPE_CHECKING:
    from pytest_quantgate.spec import Json

__all__ = ["OUTCOMES", "Check", "Lookup", "Outcome", "Verdict", "judge"]

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE", "UNMEASURED"]
OUTCOMES: tuple[Outcome, ...] = ("PASS", "FAIL", "INCONCLUSIVE", "UNMEASURED")

Lookup: TypeAlias = Callable[[Metric], Estimate | QuantgateError]
"""Gives a metric's estimate, or the error that explains its absence: `NotMeasurableError` leaves the check
undecided, any other (an observation without usable numbers) makes it fail."""

_COMPLEMENT: Mapping[str, Literal["<", "<=", ">", ">="]] = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_OUTCOME_OF: Mapping[bool | None, Outcome] = {True: "PASS", False: "FAIL", None: "UNMEASURED"}


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison, decided or not.

    Attributes:
        metric: text form of the metric, e.g. "ppl.delta".
        operator: "<", "<=", ">" or ">="; already inverted where the gate says `not`.
        limit: the limit as the user wrote it, e.g. "2GiB".
        limit_si: the limit in the metric's base unit.
        unit: the unit that the user wrote, in which the figures are shown; "" for a plain number.
        estimate: what was measured; None where `reason` says why not.
        holds: whether the comparison is true; None if it could not be decided.
        margin: signed distance to the limit in the base unit: positive if it holds, negative if it misses.
        relative: `margin` divided by the size of the limit; None for a limit of zero.
        close: the interval contains the limit: another sample could decide the other way.
        reason: why there is no estimate.
        n: how many items the estimate rests on.

    """

    metric: str
    operator: str
    limit: str
    limit_si: float
    unit: str = ""
    estimate: Estimate | None = None
    holds: bool | None = None
    margin: float | None = None
    relative: float | None = None
    close: bool = False
    reason: str = ""
    n: int = 0

    @property
    def text(self) -> str:
        """The comparison as gates write it: "vram < 2GiB"."""
        return f"{self.metric} {self.operator} {self.limit}"

    def measured(self) -> str:
        """Return "ppl.delta = 1.42 [1.31, 1.53] (n = 512 tokens)", or why there is no such figure."""
        if self.estimate is None:
            verb = "could not be measured" if self.holds is None else "has no usable value"
            return f"{self.metric} {verb} ({self.reason})"
        value = figures.distinct(self.estimate.value, self.limit_si, self.estimate.unit, shown=self.unit)
        parts = (
            value,
            figures.interval(self.estimate, shown=self.unit),
            self._basis(),
        )
        return f"{self.metric} = {' '.join(filter(None, parts))}"

    def _basis(self) -> str:
        items = self.estimate.items if self.estimate else ""
        return f"(n = {' '.join(filter(None, (str(self.n), items)))})" if self.n > 1 else ""

    def decided(self) -> str:
        """Return "ppl.delta < 1 missed by 0.42 (42 %)": which side of the limit, and how far from it."""
        if self.holds is None:
            return f"{self.text} is undecided"
        verb = "holds" if self.holds else "missed"
        if self.estimate is None or self.margin is None:
            return f"{self.text} {verb}"
        if self.margin == 0:
            return f"{self.text} {verb}: exactly at the limit"
        distance = figures.quantity(abs(self.margin), self.estimate.unit, shown=self.unit)
        share = "" if self.relative is None else f" ({figures.percent(abs(self.relative))})"
        return f"{self.text} {verb} by {distance}{share}"

    def remarks(self) -> str:
        """Return what a reader must know beside the figures, each remark led by "; "."""
        close = "; too close to call: the interval contains the limit" if self.close else ""
        note = self.estimate.note if self.estimate else ""
        return close + (f"; {note}" if note else "")

    def sentence(self, subject: str = "gate ") -> str:
        """Return the whole check as one printable line."""
        return plain(f"{self.measured()}: {subject}{self.decided()}{self.remarks()}")

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object of builtin types only."""
        return asdict(self) | {"estimate": self.estimate.to_json() if self.estimate else None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Check:
        """Rebuild what `to_json` wrote."""
        found = value["estimate"]
        check = cls(**{**value, "estimate": None if found is None else reading.estimate(found)})
        require(str, metric=check.metric, limit=check.limit, unit=check.unit, reason=check.reason)
        require_one_of(_COMPLEMENT, operator=check.operator)
        require_finite(limit_si=check.limit_si, margin=check.margin, relative=check.relative)
        require(bool, NoneType, holds=check.holds)
        require(bool, close=check.close)
        require(int, n=check.n)
        return check


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate says about a variant.

    Attributes:
        outcome: PASS, FAIL, INCONCLUSIVE (the data do not decide it) or UNMEASURED (no data here).
        gate: the gate's text.
        checks: its comparisons, in order.
        close: the outcome hangs on checks whose interval contains the limit: too close to call.

    """

    outcome: Outcome
    gate: str
    checks: tuple[Check, ...]
    close: bool = False

    @property
    def passed(self) -> bool:
        """Whether the gate holds."""
        return self.outcome == "PASS"

    @property
    def reason(self) -> str:
        """Why it is undecided; empty when it is decided."""
        return "; ".join(dict.fromkeys(check.reason for check in self.checks if check.holds is None))

    def decisive(self) -> tuple[Check, ...]:
        """Return the checks that explain the outcome: those that hold for a pass, that do not for a miss."""
        if self.outcome == "INCONCLUSIVE":
            return self.checks
        wanted = {"PASS": True, "FAIL": False, "UNMEASURED": None}[self.outcome]
        return tuple(check for check in self.checks if check.holds is wanted)

    def explain(self) -> str:
        """Return the failure message: one line for one comparison, else the gate and a line for each."""
        if len(self.checks) == 1:
            return self.checks[0].sentence()
        label = {True: "ok  ", False: "FAIL", None: "?   "}
        lines = [f"{label[check.holds]}  {check.sentence('')}" for check in self.checks]
        return "\n".join([f"{self.outcome}: gate {plain(self.gate)}", *(f"  {line}" for line in lines)])

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object of builtin types only, fit for execnet."""
        return {
            "outcome": self.outcome,
            "gate": self.gate,
            "checks": [check.to_json() for check in self.checks],
            "close": self.close,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Verdict:
        """Rebuild what `to_json` wrote.

        Raises:
            KeyError: a member is missing.
            TypeError: a member is of another type.
            ValueError: a word or a number that cannot be.

        """
        verdict = cls(**{**value, "checks": tuple(Check.from_json(check) for check in value["checks"])})
        require_one_of(OUTCOMES, outcome=verdict.outcome)
        require(str, gate=verdict.gate)
        require(bool, close=verdict.close)
        return verdict


def judge(gate: Gate, lookup: Lookup) -> Verdict:
    """Judge a gate by the point estimates that `lookup` gives for its metrics.

    A metric is looked up once, however often the gate names it. An estimate that is not finite makes its
    check fail.
    """
    positive = _without_not(gate, negated=False)
    found = {metric: lookup(metric) for metric in positive.metrics()}
    checks = {
        comparison: _check(comparison, found[comparison.metric]) for comparison in positive.comparisons()
    }
    holds = positive.evaluate(lambda comparison: checks[comparison].holds)
    firm = positive.evaluate(
        lambda comparison: None if checks[comparison].close else checks[comparison].holds
    )
    close = holds is not None and firm is None
    return Verdict(_OUTCOME_OF[holds], str(gate), tuple(checks.values()), close)


def _without_not(gate: Gate, *, negated: bool) -> Gate:
    """Return the equivalent gate without `Not` (De Morgan, complemented operators)."""
    match gate:
        case Not(part):
            return _without_not(part, negated=not negated)
        case Comparison():
            return replace(gate, operator=_COMPLEMENT[gate.operator]) if negated else gate
        case And(parts) | Or(parts):
            join = type(gate) if not negated else (Or if isinstance(gate, And) else And)
            return join(tuple(_without_not(part, negated=negated) for part in parts))
    raise TypeError(f"not a gate: {gate!r}")


def _check(comparison: Comparison, found: Estimate | QuantgateError) -> Check:
    check = Check(
        metric=str(comparison.metric),
        operator=comparison.operator,
        limit=str(comparison.limit),
        limit_si=float(comparison.limit.si),
        unit=comparison.limit.unit,
    )
    if isinstance(found, QuantgateError):
        undecided = isinstance(found, NotMeasurableError)
        return replace(check, holds=None if undecided else False, reason=str(found))
    estimate = _builtin(found)
    if not math.isfinite(estimate.value):
        reason = f"{estimate.value:g} is not a finite number"
        return replace(check, holds=False, reason=reason, n=estimate.n)
    return _compare(replace(check, estimate=estimate, n=estimate.n), estimate)


def _compare(check: Check, estimate: Estimate) -> Check:
    above = estimate.value - check.limit_si
    margin = above if check.operator in {">", ">="} else -above
    holds = margin > 0 or (margin == 0 and check.operator in {"<=", ">="})
    relative = margin / abs(check.limit_si) if check.limit_si else math.inf
    low, high = estimate.low, estimate.high
    straddles = low is not None and high is not None and low <= check.limit_si <= high
    return replace(check, holds=holds, margin=_finite(margin), relative=_finite(relative), close=straddles)


def _builtin(estimate: Estimate) -> Estimate:
    """Return the estimate with builtin numbers, and without an interval that is not finite on both sides."""
    plainly = Estimate.from_json(estimate.to_json())
    ends = (_finite(plainly.low), _finite(plainly.high))
    return plainly if None not in ends else replace(plainly, low=None, high=None)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
