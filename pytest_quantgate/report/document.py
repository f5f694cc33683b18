"""The report: one frozen, versioned JSON value that holds all a reporter sees.

Every process of a run (the controller, each xdist worker) contributes payloads: JSON objects with any of the
report's members. `build` merges them into one `Report`, which may be saved, read elsewhere and rendered anew.
The published schema is docs/report.schema.json; a member that is added or changes its meaning raises
`VERSION`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_quantgate.errors import UsageError
from pytest_quantgate.reading import require, texts
from pytest_quantgate.report.answers import Answers
from pytest_quantgate.report.capabilities import Capability
from pytest_quantgate.report.changes import Change
from pytest_quantgate.report.findings import Finding
from pytest_quantgate.report.rows import Problem, Result, Row, Status, StepRecord, together
from pytest_quantgate.report.selftest import Trial

if TYPE_CHECKING:
    from pytest_quantgate.spec import Json

__all__ = [
    "FORMAT",
    "VERSION",
    "Problem",
    "Report",
    "Result",
    "Row",
    "Status",
    "StepRecord",
    "build",
    "together",
]

FORMAT = "quantgate-report"
VERSION = 1
SCHEMA = f"{FORMAT}/{VERSION}"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Report:
    """All that a reporter sees.

    Attributes:
        created: ISO 8601 time of the run.
        environment: versions, machine, kind of device …, by name.
        baseline: the reference; None if no gate needed one.
        variants: one row per variant, in configured order.
        results: one per test item, in order.
        steps: the observations, each once.
        protocols: `Protocol.to_json()` of every distinct protocol.
        notes: what concerns the whole run.
        selftest: what each gate said to each kind of damage, if gates were tested.
        run: id of the run in the history; empty if it was not kept there.
        tag: the name that the run was given; may be empty.
        changes: figures against those of an earlier run, if one was asked for.
        capabilities: what became of each capability in each variant, if tasks were measured.
        answers: what each model said to each item of each task.
        findings: why a variant's gates may have failed, likeliest first; none for a variant whose gates hold.

    """

    created: str = ""
    environment: Mapping[str, Json] = field(default_factory=dict)
    baseline: Row | None = None
    variants: tuple[Row, ...] = ()
    results: tuple[Result, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    protocols: tuple[Mapping[str, Json], ...] = ()
    notes: tuple[str, ...] = ()
    selftest: tuple[Trial, ...] = ()
    run: str = ""
    tag: str = ""
    changes: tuple[Change, ...] = ()
    capabilities: tuple[Capability, ...] = ()
    answers: tuple[Answers, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """The baseline, if there is one, and the variants."""
        return (*((self.baseline,) if self.baseline else ()), *self.variants)

    @property
    def status(self) -> Status:
        """The standing of all results together."""
        return together(result.status for result in self.results)

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object of builtin types only: no NaN, no infinity."""
        return {
            "schema": SCHEMA,
            "created": self.created,
            "status": self.status,
            "environment": dict(self.environment),
            "baseline": self.baseline.to_json() if self.baseline else None,
            "variants": [row.to_json() for row in self.variants],
            "results": [result.to_json() for result in self.results],
            "steps": [step.to_json() for step in self.steps],
            "protocols": [dict(protocol) for protocol in self.protocols],
            "notes": list(self.notes),
            "selftest": [trial.to_json() for trial in self.selftest],
            "run": self.run,
            "tag": self.tag,
            "changes": [change.to_json() for change in self.changes],
            "capabilities": [one.to_json() for one in self.capabilities],
            "answers": [one.to_json() for one in self.answers],
            "findings": [one.to_json() for one in self.findings],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, place: str = "the report") -> Report:
        """Rebuild what `to_json` wrote; `place` is named in errors.

        Raises:
            UsageError: it is no report, was written by a newer version, or is damaged.

        """
        _check_schema(value, place)
        members = {name: item for name, item in value.items() if name not in {"schema", "status"}}
        try:
            return _parsed(members)
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"{place} is damaged ({error}); write it again with --quantgate-report"
            ) from error


def build(payloads: Iterable[Mapping[str, Any]]) -> Report:
    """Merge payloads, in order, into one report.

    Rows of one name become one row at the place of the first; a figure given twice keeps the later value. An
    item that ran twice (a rerun) counts by its last result, a step that one worker measured and another read
    from the store as measured. Estimates in verdicts are figures of their variant, too.
    """
    parts = [_parsed(payload) for payload in payloads]
    results = tuple({result.nodeid: result for part in parts for result in part.results}.values())
    rows = _merged_rows(row for part in parts for row in (*part.variants, *_judged_rows(part.results)))
    baseline = _merged_rows(part.baseline for part in parts if part.baseline)
    return Report(
        created=next((part.created for part in parts if part.created), ""),
        environment={name: value for part in reversed(parts) for name, value in part.environment.items()},
        baseline=baseline[0] if baseline else None,
        variants=tuple(replace(row, status=_standing(row.name, results)) for row in rows),
        results=results,
        steps=_merged_steps(step for part in parts for step in part.steps),
        protocols=_distinct(protocol for part in parts for protocol in part.protocols),
        notes=_distinct(note for part in parts for note in part.notes),
        selftest=tuple(
            {
                (trial.variant, trial.gate, trial.damage): trial for part in parts for trial in part.selftest
            }.values()
        ),
        run=next((part.run for part in parts if part.run), ""),
        tag=next((part.tag for part in parts if part.tag), ""),
        changes=_distinct(change for part in parts for change in part.changes),
        capabilities=tuple(
            {(one.variant, one.capability, one.metric): one for p in parts for one in p.capabilities}.values()
        ),
        answers=tuple({(one.model, one.metric): one for part in parts for one in part.answers}.values()),
        findings=_merged_findings(one for part in parts for one in part.findings),
    )


def _parsed(value: Mapping[str, Any]) -> Report:
    baseline = value.get("baseline")
    protocols = tuple(value.get("protocols", ()))
    for protocol in protocols:
        require(Mapping, protocol=protocol)
    require(str, created=value.get("created", ""))
    require(Mapping, environment=value.get("environment", {}))
    require(str, run=value.get("run", ""), tag=value.get("tag", ""))
    return Report(
        **{
            **value,
            "baseline": None if baseline is None else Row.from_json(baseline),
            "variants": tuple(Row.from_json(row) for row in value.get("variants", ())),
            "results": tuple(Result.from_json(result) for result in value.get("results", ())),
            "steps": tuple(StepRecord.from_json(step) for step in value.get("steps", ())),
            "protocols": protocols,
            "notes": texts(value.get("notes", ())),
            "selftest": tuple(Trial.from_json(trial) for trial in value.get("selftest", ())),
            "changes": tuple(Change.from_json(change) for change in value.get("changes", ())),
            "capabilities": tuple(Capability.from_json(one) for one in value.get("capabilities", ())),
            "answers": tuple(Answers.from_json(one) for one in value.get("answers", ())),
            "findings": tuple(Finding.from_json(one) for one in value.get("findings", ())),
        }
    )


def _check_schema(value: object, place: str) -> None:
    schema = value.get("schema") if isinstance(value, Mapping) else None
    name, _, version = str(schema).partition("/")
    if name != FORMAT or not version.isdecimal():
        raise UsageError(f"{place} is not a quantgate report: its schema is {schema!r}, not {SCHEMA!r}")
    if int(version) > VERSION:
        raise UsageError(
            f"{place} was written by a newer version ({schema}, this one reads {SCHEMA}); "
            "run pip install --upgrade pytest-quantgate"
        )


def _judged_rows(results: Sequence[Result]) -> list[Row]:
    return [
        Row(result.variant, figures={check.metric: check.estimate})
        for result in results
        for verdict in result.verdicts
        for check in verdict.checks
        if check.estimate is not None
    ]


def _merged_rows(rows: Iterable[Row]) -> tuple[Row, ...]:
    merged: dict[str, Row] = {}
    for row in rows:
        known = merged.get(row.name, row)
        merged[row.name] = replace(
            known,
            source=known.source or row.source,
            weights=known.weights or row.weights,
            dtype=known.dtype or row.dtype,
            recipe=known.recipe or row.recipe,
            engine=known.engine or row.engine,
            figures={**known.figures, **row.figures},
            problems=_distinct((*known.problems, *row.problems)),
            steps={**known.steps, **row.steps},
        )
    return tuple(merged.values())


def _merged_steps(steps: Iterable[StepRecord]) -> tuple[StepRecord, ...]:
    merged: dict[str, StepRecord] = {}
    for step in steps:
        if step.key not in merged or step.source == "measured":
            merged[step.key] = step
    return tuple(merged.values())


def _merged_findings(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings by falling weight within each variant: each cause once, as it was told last."""
    latest = {(one.variant, one.cause or one.text): one for one in found}
    names = _distinct(one.variant for one in latest.values())
    return tuple(sorted(latest.values(), key=lambda one: (names.index(one.variant), -one.weight)))


def _standing(variant: str, results: Sequence[Result]) -> Status:
    return together(result.status for result in results if result.variant == variant)


def _distinct(items: Iterable[_T]) -> tuple[_T, ...]:
    found: list[_T] = []
    for item in items:
        if item not in found:
            found.append(item)
    return tuple(found)
