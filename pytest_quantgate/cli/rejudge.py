"""`quantgate rejudge`: other gates on the observations behind a report, without any model.

Each row of a report names the observations behind its figures by their keys in the store. Estimates and verdicts are
the session's own code (`Earlier.figure`, `verdict.judge`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate import expected
from pytest_quantgate.cli.folders import existing_store
from pytest_quantgate.earlier import Earlier, Pair, read_report
from pytest_quantgate.errors import NotMeasurableError, QuantgateError, UnknownNameError, UsageError
from pytest_quantgate.escaping import plain
from pytest_quantgate.expected import WITHIN_EXPECTED
from pytest_quantgate.history import History
from pytest_quantgate.marks import as_confidence
from pytest_quantgate.parse import parse, parse_metric
from pytest_quantgate.registry import Registry, load
from pytest_quantgate.scheme import scheme_of
from pytest_quantgate.store import Store
from pytest_quantgate.study import Study
from pytest_quantgate.verdict import Rule, judge
from pytest_quantgate.wants import Wants

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from pytest_quantgate.gate import Gate, Metric
    from pytest_quantgate.report import Report, Row
    from pytest_quantgate.spec import Estimate, Step

__all__ = ["run"]


def run(chosen: Namespace) -> int:
    """Judge, print a line per gate and variant, and return 0 if every gate holds everywhere."""
    gates = [parse(text) for text in chosen.gate]
    rule = Rule(as_confidence(chosen.confidence))
    report = read_report(Path(chosen.report))
    stored = _stored(existing_store(chosen.store), report)
    for gate in gates:
        stored.check(gate)
    verdicts = [
        (row.name, judge(gate, stored.lookup(row), rule))
        for row in _rows(report, chosen.variant)
        for gate in gates
    ]
    for name, verdict in verdicts:
        print(f"{verdict.outcome:<12}  {plain(name)}: {verdict.explain()}")
    return 0 if all(verdict.passed for _, verdict in verdicts) else 1


def _rows(report: Report, names: Sequence[str]) -> list[Row]:
    known = {row.name: row for row in report.variants}
    for name in names:
        if name not in known:
            raise UnknownNameError("variant", name, known, "the report's variants")
    if not known:
        raise UsageError("the report has no variant to judge")
    return [known[name] for name in names or known]


def _stored(folder: Path, report: Report) -> _Stored:
    store = Store(folder, writable=False)
    earlier = Earlier(History(folder), store)
    registry = Registry()
    _define_tasks(registry, store, report)
    return _Stored(store, earlier, Wants(registry, Study(Path())))


def _define_tasks(registry: Registry, store: Store, report: Report) -> None:
    """Make metrics of the run's own tasks: their observations say what they were."""
    for row in report.variants:
        for text, keys in row.steps.items():
            name = parse_metric(text).name
            step = store.step(keys[0]) if keys and name not in registry.names("metrics") else None
            found = load("pytest_quantgate.metrics.own:known")(name, step.observe) if step else None
            if found is not None:
                registry.define(found)


@dataclass(frozen=True, slots=True)
class _Stored:
    """Figures of a report's rows from the store alone."""

    store: Store
    earlier: Earlier
    wants: Wants

    def check(self, gate: Gate) -> None:
        """Refuse a gate that can never be judged, or that names a run that is not there."""
        for comparison in gate.comparisons():
            self.wants.check_terms(comparison)
            if comparison.metric.since:
                self.earlier.run(comparison.metric.since)

    def lookup(self, row: Row) -> _Lookup:
        return _Lookup(self, row)

    def figure(self, row: Row, metric: Metric) -> Estimate:
        """Return a metric of a row.

        Raises:
            NotMeasurableError: the report names no observation for it, or the store has it no more.

        """
        keys = self._keys(row, metric)
        step = self.store.step(keys[0])
        if metric.relation == WITHIN_EXPECTED and step is not None:
            ratio = self.figure(row, replace(metric, relation="ratio"))
            return expected.share(metric, ratio, scheme_of(step.model))
        observed = [self.store.get(key) for key in keys]
        if step is None or None in observed:
            raise NotMeasurableError(
                f"{row.name}: its observation for {metric.name} is not in the store {self.store.root} any more"
            )
        now: Pair = (observed[0], observed[1] if len(observed) > 1 else None)  # type: ignore[assignment]
        return self.earlier.figure(metric, _named(step, row), now)

    def _keys(self, row: Row, metric: Metric) -> tuple[str, ...]:
        """Return the keys of the observation that holds a metric: that of any metric of the same pass."""
        definition = self.wants.definition(metric)
        plainly = self.wants.whole(metric)
        for text, keys in row.steps.items():
            known = parse_metric(text)
            if not keys or self._observer_of(known) != definition.observer:
                continue
            # tasks of one kind have one observer: only metrics of a pass over a corpus share it by name
            alike = self.wants.whole(known)
            if (alike if definition.capability else replace(alike, name=plainly.name)) == plainly:
                return keys
        raise NotMeasurableError(
            f"{row.name}: the report names no observation that {plainly} is computed from"
        )

    def _observer_of(self, known: Metric) -> str:
        try:
            return str(self.wants.registry.get("metrics", known.name).observer)
        except UsageError:
            return ""  # of a plugin or conftest that is not here


@dataclass(frozen=True, slots=True)
class _Lookup:
    """`verdict.Lookup` for one row."""

    stored: _Stored
    row: Row

    def __call__(self, metric: Metric) -> Estimate | QuantgateError:
        try:
            return self.stored.figure(self.row, metric)
        except QuantgateError as error:
            return error


def _named(step: Step, row: Row) -> Step:
    return replace(step, model=replace(step.model, name=row.name))
