"""Metrics that gates name, resolved: their definitions, their observers, and the observations they want.

Every name, statistic, relation, argument and unit is checked here, at collection, so that a gate that can never be
judged is a usage error before anything is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from pytest_quantgate import machine
from pytest_quantgate.errors import ConfigError, GateError, UnknownNameError
from pytest_quantgate.gate import Metric
from pytest_quantgate.interfaces import Combining, Divisible
from pytest_quantgate.plan import Want
from pytest_quantgate.registry import load
from pytest_quantgate.units import UNITS

if TYPE_CHECKING:
    from pytest_quantgate.earlier import Earlier
    from pytest_quantgate.gate import Comparison, Gate
    from pytest_quantgate.interfaces import Observer
    from pytest_quantgate.registry import Registry
    from pytest_quantgate.spec import MetricDefinition, ModelSpec, Protocol, Scalar
    from pytest_quantgate.study import Study

    Arguments: TypeAlias = tuple[tuple[str, Scalar], ...]

__all__ = ["Wants"]

_PURE_RELATIONS = frozenset({"ratio", "log_ratio", "recovery"})
_SINCE_RELATIONS = ("delta", "ratio", "log_ratio", "drop", "recovery")
"""What any metric can be asked against its own value in an earlier run."""


@dataclass(frozen=True, slots=True)
class Wants:
    """Resolves metrics against the registry and the study's settings."""

    registry: Registry
    study: Study
    earlier: Earlier | None = None
    _protocols: dict[tuple[str, Arguments, str], Protocol] = field(default_factory=dict)

    def definition(self, metric: Metric) -> MetricDefinition:
        """Return the definition of a metric, after checking that what is asked of it exists.

        Raises:
            UnknownNameError: no such metric, statistic or argument.
            GateError: the relation makes no sense for it.

        """
        definition: MetricDefinition = self.registry.get("metrics", metric.name)
        if metric.statistic not in (definition.statistics or ("",)):
            if not metric.statistic:
                example = f"{definition.name}.{definition.statistics[0]}"
                raise GateError(f"{definition.name} is not one number; write for example {example}")
            known = (*definition.statistics, *definition.relations)
            raise UnknownNameError(f"quantity of {definition.name}", metric.statistic, filter(None, known))
        if metric.relation and metric.statistic in definition.alone:
            raise GateError(
                f"{metric}: .{metric.statistic} compares with the baseline itself; leave the rest out"
            )
        relations = _SINCE_RELATIONS if metric.since else definition.relations
        if metric.relation and metric.relation not in relations:
            possible = ", ".join(relations) or "none"
            raise GateError(f"{definition.name} has no .{metric.relation}; its relations: {possible}")
        if not metric.relation and self._combines(definition):
            raise GateError(
                f"{definition.name} is no number by itself; write {definition.name}.{relations[0]}"
            )
        for name, _ in metric.arguments:
            if name not in definition.arguments:
                raise UnknownNameError(f"argument of {definition.name}", name, definition.arguments)
        return definition

    @staticmethod
    def _combines(definition: MetricDefinition) -> bool:
        return isinstance(load(definition.observer), Combining)

    def check(self, gate: Gate) -> None:
        """Check every comparison of a gate.

        Raises:
            UsageError: one of them can never be judged; the message says what to write.

        """
        for comparison in gate.comparisons():
            definition = self.check_terms(comparison)
            # what is only imported takes no data and no settings
            if not self.study.variants or not all(table.imported for table in self.study.variants):
                self._protocol(definition.observer, comparison.metric.arguments, definition.table)
            if comparison.metric.since:
                if self.earlier is not None:
                    self.earlier.run(comparison.metric.since)
            elif self.study.baseline is None and (
                comparison.metric.relation or comparison.metric.statistic in definition.alone
            ):
                raise ConfigError(
                    f'{comparison.metric} compares with a baseline; add baseline = "..." to [tool.quantgate]'
                )

    def combining(self, metric: Metric) -> Combining | None:
        """Return what computes a metric from those of all tasks; None for one that has an observation of its own."""
        observer: object = load(self.definition(metric).observer)
        return observer if isinstance(observer, Combining) else None

    def whole(self, metric: Metric) -> Metric:
        """Return a metric without statistic and relation, and without the subject: all subjects come from one pass."""
        selects = self.registry.get("metrics", metric.name).selects
        return Metric(metric.name, tuple(pair for pair in metric.arguments if pair[0] != selects))

    def is_task(self, metric: Metric) -> bool:
        """Return whether a metric is one of a task."""
        return bool(self.definition(metric).capability)

    def is_divisible(self, metric: Metric) -> bool:
        """Return whether the pass behind a metric can be made in parts."""
        return isinstance(load(self.definition(metric).observer), Divisible)

    def is_mean(self, metric: Metric) -> bool:
        """Return whether a metric is a mean of items, so that a pass may stop as soon as it is certain."""
        observer: object = load(self.definition(metric).observer)
        return isinstance(observer, Divisible) and observer.is_mean(metric)

    def check_stop(self, gate: Gate) -> None:
        """Check that a gate can be decided early.

        Raises:
            GateError: a metric of it is no mean of items.

        """
        for metric in gate.metrics():
            if not self.is_mean(metric):
                raise GateError(
                    f"{metric} is no mean of items, so that a pass cannot stop early for it; leave stop_early out"
                )

    def check_terms(self, comparison: Comparison) -> MetricDefinition:
        """Check the words and the unit of a comparison, without the study; return what the metric is.

        Raises:
            UsageError: it can never be judged.

        """
        definition = self.definition(comparison.metric)
        self._check_unit(comparison, definition)
        return definition

    def _check_unit(self, comparison: Comparison, definition: MetricDefinition) -> None:
        unit = "" if comparison.metric.relation in _PURE_RELATIONS else definition.unit
        wanted = UNITS[unit][0] if unit in UNITS else ""
        given = comparison.limit.dimension
        if given == wanted or (wanted == "tok/s" and not given):
            return
        what = f"{comparison}: {comparison.metric} "
        if not wanted:
            raise GateError(f"{what}is a pure number, {comparison.limit} is not; leave the unit out")
        example = {"B": "2GiB (in Python: 2 * GiB)", "s": "70ms (in Python: 70 * ms)"}.get(
            wanted, f"20 {wanted}"
        )
        problem = f"is measured in {wanted}" if given else "needs a unit"
        raise GateError(f"{what}{problem}; write a limit such as {example}")

    def want(self, metric: Metric, variant: ModelSpec, baseline: ModelSpec | None) -> Want:
        """Return the observation that a metric of a variant is computed from.

        Raises:
            UsageError: the metric, its arguments or the observer's settings cannot be used.

        """
        definition = self.definition(metric)
        return self.observed(
            definition.observer, variant, baseline, arguments=metric.arguments, table=definition.table
        )

    def observed(
        self,
        reference: str,
        variant: ModelSpec,
        baseline: ModelSpec | None,
        *,
        arguments: Arguments = (),
        table: str = "",
    ) -> Want:
        """Return the observation that the observer "module:attribute" makes of a variant."""
        observer: Observer = load(reference)
        return Want(
            observe=reference,
            protocol=self._protocol(reference, arguments, table),
            variant=variant,
            order=observer.order,
            baseline=baseline,
            paired=observer.paired,
            device=machine.device_kind(variant.device) if observer.device_bound else "",
        )

    def _protocol(self, reference: str, arguments: Arguments, table: str = "") -> Protocol:
        """Return the complete protocol, resolved once: to digest a corpus is to read it."""
        key = (reference, arguments, table)
        if key not in self._protocols:
            observer: Observer = load(reference)
            settings = self.study.settings(table or observer.kind)
            self._protocols[key] = observer.protocol(dict(arguments), settings, self.study.root)
        return self._protocols[key]

    def check_settings(self) -> None:
        """Refuse settings of observers that do not exist, and unknown keys in those of observers that do.

        Raises:
            ConfigError: with a suggestion.

        """
        found = (self.registry.get("metrics", name) for name in self.registry.names("metrics"))
        observers = {load(definition.observer) for definition in found if not definition.table}
        known = {observer.kind: observer.settings for observer in observers}
        for kind, settings in self.study.observers.items():
            place = f"{self.study.file}: [tool.quantgate.{kind}]"
            if kind not in known:
                raise ConfigError(f"{place}: {UnknownNameError('table', kind, known)}")
            for key in settings:
                if key not in known[kind]:
                    raise ConfigError(f"{place}: {UnknownNameError('key', key, known[kind])}")
