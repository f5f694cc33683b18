"""The parts of a report: models with their figures, test items with their verdicts, observations.

All are frozen and travel as JSON objects; `from_json` raises TypeError, KeyError or ValueError on a damaged
one, which `Report.from_json` turns into one line for the user.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args

from pytest_quantgate import reading
from pytest_quantgate.reading import require, require_finite, require_one_of, texts
from pytest_quantgate.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_quantgate.spec import Estimate, Json

__all__ = ["Problem", "Result", "Row", "Status", "StepRecord", "together"]

Status = Literal["ERROR", "FAIL", "INCONCLUSIVE", "XFAIL", "UNMEASURED", "PARTIAL", "PASS", ""]
"""A test's or a variant's standing, worst first. ERROR: the test failed, though not by a gate (its body, a
fixture, a strict xfail that passed); XFAIL: it failed, as expected; UNMEASURED: no gate could be measured;
PARTIAL: what could be measured holds, but not all could; "": nothing was judged."""
_WORST_FIRST: tuple[Status, ...] = get_args(Status)
_FAILURES = ("ERROR", "FAIL", "INCONCLUSIVE")


@dataclass(frozen=True, slots=True)
class Problem:
    """A sanity finding: what is wrong with a variant, and what usually causes it."""

    text: str
    causes: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Problem:
        """Rebuild what `Report.to_json` wrote."""
        require(str, text=value["text"])
        return cls(value["text"], texts(value.get("causes", ())))


@dataclass(frozen=True, slots=True)
class Row:
    """A model and its figures: a variant, or the baseline.

    Attributes:
        name: as configured; "baseline" for the reference.
        source: local path or hub id; empty for a recipe.
        weights: identity of the checkpoint.
        dtype: the type it computes in.
        recipe: `Recipe.to_json()`, or None for a checkpoint that exists.
        figures: metric text -> estimate, in base units; a value that was not finite is NaN, in JSON null.
        status: the worst of its results; "" for the baseline, and where nothing was judged.
        problems: what the sanity check found.
        engine: name and version of the libraries that decide its numbers, where it runs.
        steps: metric without statistic and relation -> keys of the observations behind it: its own, then the
            baseline's where there is one.

    """

    name: str
    source: str = ""
    weights: str = ""
    dtype: str = ""
    recipe: Mapping[str, Json] | None = None
    figures: Mapping[str, Estimate] = field(default_factory=dict)
    status: Status = ""
    problems: tuple[Problem, ...] = ()
    engine: Mapping[str, str] = field(default_factory=dict)
    steps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object of builtin types only."""
        return {
            "name": self.name,
            "source": self.source,
            "weights": self.weights,
            "dtype": self.dtype,
            "recipe": self.recipe,
            "figures": {metric: _figure_json(figure) for metric, figure in self.figures.items()},
            "status": self.status,
            "problems": [{"text": problem.text, "causes": list(problem.causes)} for problem in self.problems],
            "engine": dict(self.engine),
            "steps": {metric: list(keys) for metric, keys in self.steps.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Row:
        """Rebuild what `to_json` wrote; every member but the name may be left out."""
        figures = {metric: _figure(figure) for metric, figure in value.get("figures", {}).items()}
        problems = tuple(Problem.from_json(problem) for problem in value.get("problems", ()))
        steps = {metric: texts(keys) for metric, keys in value.get("steps", {}).items()}
        row = cls(**{**value, "figures": figures, "problems": problems, "steps": steps})
        require(str, name=row.name, source=row.source, weights=row.weights, dtype=row.dtype)
        require(dict, NoneType, recipe=row.recipe)
        require_one_of(_WORST_FIRST, status=row.status)
        require(Mapping, engine=row.engine)
        require(str, **row.engine)
        return row


@dataclass(frozen=True, slots=True)
class Result:
    """One test item: its gates' verdicts for one variant.

    Attributes:
        nodeid: pytest's name of the item.
        variant: name of the variant.
        outcome: PASS, FAIL, INCONCLUSIVE or UNMEASURED as the gates say, or ERROR (see `Status`).
        verdicts: one per gate of the item.
        expected_failure: pytest counted its failure as expected (xfailed).
        reason: why it is expected, unmeasured or an error.

    """

    nodeid: str
    variant: str
    outcome: Status
    verdicts: tuple[Verdict, ...] = ()
    expected_failure: bool = False
    reason: str = ""

    @property
    def status(self) -> Status:
        """The outcome in the light of what was expected."""
        return "XFAIL" if self.expected_failure and self.outcome in _FAILURES else self.outcome

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object of builtin types only."""
        return {
            "nodeid": self.nodeid,
            "variant": self.variant,
            "outcome": self.outcome,
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
            "expected_failure": self.expected_failure,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        """Rebuild what `to_json` wrote."""
        verdicts = tuple(Verdict.from_json(verdict) for verdict in value.get("verdicts", ()))
        result = cls(**{**value, "verdicts": verdicts})
        require(str, nodeid=result.nodeid, variant=result.variant, reason=result.reason)
        require(bool, expected_failure=result.expected_failure)
        require_one_of(_WORST_FIRST, outcome=result.outcome)
        return result


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One observation that the run used.

    Attributes:
        label: `Step.label`.
        key: `Step.key`.
        source: "store" if it was there already, "measured" if this run made it.
        seconds: what it took.

    """

    label: str
    key: str
    source: Literal["store", "measured"]
    seconds: float = 0.0

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object of builtin types only."""
        return {
            "label": self.label,
            "key": self.key,
            "source": self.source,
            "seconds": float(self.seconds),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StepRecord:
        """Rebuild what `Report.to_json` wrote."""
        step = cls(**value)
        require(str, label=step.label, key=step.key)
        require_finite(seconds=step.seconds)
        require_one_of(("store", "measured"), source=step.source)
        return step


def together(statuses: Iterable[Status]) -> Status:
    """Return the standing of several together: the gravest, or PARTIAL if only some could be measured."""
    found = set(statuses)
    gravest: Status = min(found, key=_WORST_FIRST.index, default="")
    return "PARTIAL" if gravest == "UNMEASURED" and found & {"PARTIAL", "PASS"} else gravest


def _figure(value: Mapping[str, Any]) -> Estimate:
    figure = reading.estimate({**value, "value": math.nan if value["value"] is None else value["value"]})
    if math.isfinite(figure.value):
        ends = (figure.low, figure.high)
        finite = all(end is not None and math.isfinite(end) for end in ends)
        return figure if finite else replace(figure, low=None, high=None)
    return replace(figure, value=math.nan, low=None, high=None)


def _figure_json(figure: Estimate) -> dict[str, Json]:
    return figure.to_json() | ({} if math.isfinite(figure.value) else {"value": None})
