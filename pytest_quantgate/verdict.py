"""A gate and the estimates it asks for, judged: a value with its reasons. Pure.

Comparisons are made on the point estimate; under a `Rule` with a confidence the interval at that level decides: wholly
on one side of the limit, or the comparison is inconclusive. Under a family (`refuted`), a comparison fails only if
Holm's procedure over all comparisons of the variant refutes it at the same level, so that the chance of failing a
good model anywhere stays below that level however many gates there are. Passing needs no such care: all gates must
hold, and a bad model slips through only past the one gate that would catch it (intersection-union test; Berger, 1982).

`not` is first pushed down into the comparisons (`not a < 1` is
judged as `a >= 1`), so that the gate is monotone in its checks: a check that fails can then never make a gate
pass. That keeps a NaN from passing under any sign. What could not be measured is unknown (Kleene), and
unknown never passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pytest_quantgate import figures, reading, stats
from pytest_quantgate.errors import NotMeasurableError, QuantgateError
from pytest_quantgate.escaping import plain
from pytest_quantgate.gate import And, Comparison, Gate, Metric, Not, Or
from pytest_quantgate.reading import require, require_finite, require_one_of
from pytest_quantgate.spec import Estimate

if TYPE_CHECKING:
    from pytest_quantgate.spec import Json

__all__ = ["OUTCOMES", "Check", "Lookup", "Outcome", "Rule", "Verdict", "judge", "refuted"]

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE", "UNMEASURED"]
OUTCOMES: tuple[Outcome, ...] = ("PASS", "FAIL", "INCONCLUSIVE", "UNMEASURED")

Lookup: TypeAlias = Callable[[Metric], Estimate | QuantgateError]
"""Gives a metric's estimate, or the error that explains its absence: `NotMeasurableError` leaves the check
undecided, any other (an observation without usable numbers) makes it fail."""

_COMPLEMENT: Mapping[str, Literal["<", "<=", ">", ">="]] = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_OUTCOME_OF: Mapping[bool | None, Outcome] = {True: "PASS", False: "FAIL", None: "UNMEASURED"}
_CLUSTERS: Mapping[str, str] = {"tokens": "windows"}


@dataclass(frozen=True, slots=True)
class Rule:
    """What decides a comparison.

    Attributes:
        confidence: the level of the two-sided interval that decides; None: the point estimate does.
        refuted: the comparisons that may fail, where a family of them was tested together; None: each for itself.
        refused: why the limit of a comparison cannot be used; such a comparison never holds.

    """

    confidence: float | None = None
    refuted: frozenset[Comparison] | None = None
    refused: Mapping[Comparison, str] = field(default_factory=dict)


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
        holds: whether the comparison is true; None if it could not be measured, or is inconclusive (there is an
            estimate then).
        margin: signed distance to the limit in the base unit: positive if it holds, negative if it misses.
        relative: `margin` divided by the size of the limit; None for a limit of zero.
        close: the interval contains the limit: another sample could decide the other way.
        reason: why there is no estimate.
        n: how many items the estimate rests on.
        confidence: the level at which the interval decides; None where the point does.
        needed: about how many clusters (windows, runs, questions) would settle an inconclusive comparison.

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
    confidence: float | None = None
    needed: int | None = None

    @property
    def inconclusive(self) -> bool:
        """Whether there is a number, and it does not decide."""
        return self.holds is None and self.estimate is not None

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
            f"after {self.estimate.partial}" if self.estimate.partial else "",
        )
        return f"{self.metric} = {' '.join(filter(None, parts))}"

    def _basis(self) -> str:
        items = self.estimate.items if self.estimate else ""
        return f"(n = {' '.join(filter(None, (str(self.n), items)))})" if self.n > 1 else ""

    def decided(self) -> str:
        """Return "ppl.delta < 1 missed by 0.42 (42 %)": which side of the limit, and how far from it."""
        if self.inconclusive:
            return f"{self.text} is undecided{self._undecided()}"
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

    def _undecided(self) -> str:
        assert self.estimate is not None
        level = f" at {figures.percent(self.confidence)}" if self.confidence else ""
        if self.reason:
            return f"{level}: {self.reason}"
        noun = _CLUSTERS.get(self.estimate.items, self.estimate.items or "items")
        if self.needed is None:
            return level
        return f"{level}: about {self.needed:,} {noun} would settle it (there are {self.estimate.clusters:,})"

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
        require_finite(confidence=check.confidence)
        require(int, NoneType, needed=check.needed)
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
    def decided(self) -> bool:
        """Whether it passes or fails, whatever else could be measured."""
        return self.outcome in {"PASS", "FAIL"}

    @property
    def reason(self) -> str:
        """Why it could not be measured; empty when it could."""
        return "; ".join(dict.fromkeys(check.reason for check in self.checks if check.holds is None))

    def decisive(self) -> tuple[Check, ...]:
        """Return the checks that explain the outcome: those that hold for a pass, that do not for a miss."""
        if self.outcome == "INCONCLUSIVE":
            return tuple(check for check in self.checks if check.inconclusive) or self.checks
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


def judge(gate: Gate, lookup: Lookup, rule: Rule | None = None) -> Verdict:
    """Judge a gate by the estimates that `lookup` gives for its metrics; without a rule, by their points.

    A metric is looked up once, however often the gate names it. An estimate that is not finite makes its
    check fail.
    """
    positive = _without_not(gate, negated=False)
    found = {metric: lookup(metric) for metric in positive.metrics()}
    applied = rule or Rule()
    checks = {
        comparison: _check(comparison, found[comparison.metric], applied)
        for comparison in positive.comparisons()
    }
    holds = positive.evaluate(lambda comparison: checks[comparison].holds)
    firm = positive.evaluate(
        lambda comparison: None if checks[comparison].close else checks[comparison].holds
    )
    close = holds is not None and firm is None
    outcome = _OUTCOME_OF[holds]
    if holds is None and any(check.inconclusive for check in checks.values()):
        outcome = "INCONCLUSIVE"
    return Verdict(outcome, str(gate), tuple(checks.values()), close)


def refuted(gates: Iterable[Gate], lookup: Lookup, confidence: float) -> frozenset[Comparison]:
    """Return the comparisons that Holm's procedure over all of them refutes.

    The level is (1 - confidence) / 2, one-sided: that of a two-sided interval's end, so that a family of one decides
    as the interval does. What has no sampling distribution is never refuted, except by an exact count.
    """
    positive = (_without_not(gate, negated=False) for gate in gates)
    family = list(dict.fromkeys(found for gate in positive for found in gate.comparisons()))
    p_values = [_p_value(comparison, lookup(comparison.metric)) for comparison in family]
    level = (1 - confidence) / 2
    return frozenset(
        comparison for comparison, p in zip(family, stats.holm(p_values), strict=True) if p <= level
    )


def _p_value(comparison: Comparison, found: Estimate | QuantgateError) -> float:
    """Return how likely an estimate this bad is if the comparison holds."""
    if isinstance(found, QuantgateError):
        return 1.0
    if found.exact or found.sampling is None:
        missed = found.exact and not _holds(comparison.operator, found.value - comparison.limit.si)
        return 0.0 if missed else 1.0
    if comparison.operator in {"<", "<="}:
        return found.sampling.tails(comparison.limit.si)[1]
    if found.missed is None:
        return 1.0
    return found.sampling.tails(comparison.limit.si - found.missed)[0]


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


def _check(comparison: Comparison, found: Estimate | QuantgateError, rule: Rule) -> Check:
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
    if comparison in rule.refused:
        return replace(check, holds=False, reason=rule.refused[comparison], n=found.n)
    estimate = _builtin(found.at(rule.confidence) if rule.confidence else found)
    if not math.isfinite(estimate.value):
        reason = f"{estimate.value:g} is not a finite number"
        return replace(check, holds=False, reason=reason, n=estimate.n)
    compared = _compare(replace(check, estimate=estimate, n=estimate.n), estimate)
    if estimate.exact or (rule.confidence is None and not estimate.partial):
        return _as_far_as_seen(compared, estimate.value, estimate.missed)
    may_fail = rule.refuted is None or comparison in rule.refuted
    decided = _by_interval(
        replace(compared, confidence=rule.confidence, close=False), estimate, may_fail=may_fail
    )
    top = estimate.value if estimate.high is None else estimate.high
    return _as_far_as_seen(decided, top, estimate.missed)


def _compare(check: Check, estimate: Estimate) -> Check:
    above = estimate.value - check.limit_si
    margin = above if check.operator in {">", ">="} else -above
    relative = margin / abs(check.limit_si) if check.limit_si else math.inf
    low, high = estimate.low, estimate.high
    straddles = low is not None and high is not None and low <= check.limit_si <= high
    return replace(
        check,
        holds=_holds(check.operator, above),
        margin=_finite(margin),
        relative=_finite(relative),
        close=straddles and not estimate.exact,
    )


def _holds(operator: str, above: float) -> bool:
    """Return whether a value that lies `above` its limit by so much meets it."""
    margin = above if operator in {">", ">="} else -above
    return margin > 0 or (margin == 0 and operator in {"<=", ">="})


def _by_interval(check: Check, estimate: Estimate, *, may_fail: bool) -> Check:
    """Decide by the whole interval: it holds or misses only if both ends do."""
    low, high = estimate.low, estimate.high
    if low is None or high is None:
        return replace(check, holds=None, reason=f"{check.metric} has no interval ({_too_few(estimate)})")
    ends = {_holds(check.operator, end - check.limit_si) for end in (low, high)}
    if ends == {True} or (ends == {False} and may_fail):
        return replace(check, holds=ends.pop())
    distance = abs(estimate.value - check.limit_si)
    needed = stats.settling(estimate.clusters, (high - low) / 2, distance) if estimate.clusters else None
    return replace(check, holds=None, needed=needed)


def _as_far_as_seen(check: Check, top: float, missed: float | None) -> Check:
    """Leave undecided what would be decided otherwise if the value were higher than `top` by what was missed."""
    highest = math.inf if missed is None else top + missed
    if check.holds is None or _holds(check.operator, highest - check.limit_si) == check.holds:
        return check
    by = "nothing bounds by how much" if missed is None else f"by up to {missed:.3g}"
    return replace(check, holds=None, close=False, reason=f"the true {check.metric} may be higher, {by}")


def _too_few(estimate: Estimate) -> str:
    noun = _CLUSTERS.get(estimate.items, estimate.items)
    return f"from {estimate.clusters} {noun}" if estimate.clusters else "one measurement"


def _builtin(estimate: Estimate) -> Estimate:
    """Return the estimate with builtin numbers, and without an interval that is not finite on both sides."""
    plainly = Estimate.from_json(estimate.to_json())
    ends = (_finite(plainly.low), _finite(plainly.high))
    return plainly if None not in ends else replace(plainly, low=None, high=None)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
