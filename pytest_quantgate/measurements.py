"""What is known of a study's models: plan, engine and estimates behind one object, free of pytest.

The pytest session asks it for verdicts, fixtures ask it for estimates, and a command line tool can use it as it is.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_quantgate import earlier, expected, floor, imported, network, plan, verdict
from pytest_quantgate.engine import Engine
from pytest_quantgate.errors import (
    CheckpointError,
    ConfigError,
    NotMeasurableError,
    ObservationError,
    QuantgateError,
)
from pytest_quantgate.expected import WITHIN_EXPECTED
from pytest_quantgate.floor import OVER_FLOOR, Floor, unchanged
from pytest_quantgate.gate import Metric
from pytest_quantgate.history import History, check_tag
from pytest_quantgate.imported import IMPORTED
from pytest_quantgate.models import Models
from pytest_quantgate.parse import parse_metric
from pytest_quantgate.recipe import archived
from pytest_quantgate.registry import load
from pytest_quantgate.report import Problem
from pytest_quantgate.scheme import scheme_of
from pytest_quantgate.stopping import Risk, Stopped, follow
from pytest_quantgate.store import Store
from pytest_quantgate.tasks.programs import ALLOW_UNSAFE
from pytest_quantgate.wants import Wants

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_quantgate.engine import Narrator
    from pytest_quantgate.gate import Comparison
    from pytest_quantgate.interfaces import Observer
    from pytest_quantgate.marks import Asked
    from pytest_quantgate.options import Options
    from pytest_quantgate.plan import Needs, Want
    from pytest_quantgate.registry import Registry
    from pytest_quantgate.spec import Estimate, ModelSpec, Observation, Step
    from pytest_quantgate.study import Study
    from pytest_quantgate.verdict import Lookup, Rule, Verdict

__all__ = ["ALWAYS", "SANITY", "Measurements", "problems_of"]

SANITY = "pytest_quantgate.metrics.sanity:SANITY"
ALWAYS = ("bits_per_weight", "disk", "weights_memory")


class Measurements:
    """Measures the models of one study and judges gates on them.

    Args:
        study: baseline, variants and settings.
        options: what may be loaded, reused or fetched.
        registry: the open sets.
        narrator: who is told what goes on.
        since: time (epoch) before which stored observations do not count when they are to be refreshed.

    Attributes:
        demands: the gates of each variant that is tested.
        stopped: passes that were stopped early, by the key of the whole.
        floors: the baseline's noise, by the key of its pass.
        remarks: by the name of a model, what a reader must know of how its observations were made, in order.
        behind: by the name of a model, the keys of the observations that its figures were computed from.

    Raises:
        StoreError: the store's folder cannot be used at all.
        ConfigError: settings of an observer that does not exist.

    """

    def __init__(
        self, study: Study, options: Options, registry: Registry, narrator: Narrator, since: float
    ) -> None:
        self.study = study
        network.LOCAL_ONLY.set(options.offline)
        ALLOW_UNSAFE.set(options.allow_unsafe_code)
        check_tag(options.tag)
        store = Store(options.store, writable=True)
        self._define_tasks(registry)
        self.earlier = earlier.Earlier(History(options.store), store, (Path(), study.root))
        self.wants = Wants(registry, study, self.earlier)
        self.wants.check_settings()
        self.remarks: dict[str, dict[str, None]] = {}
        self.behind: dict[str, dict[Metric, tuple[str, ...]]] = {}
        self._models = Models(study, options, registry, store=store, narrator=narrator, since=since)
        self.options = options
        self._specs: dict[str, ModelSpec | CheckpointError] = {}
        self.demands: dict[str, tuple[Asked, ...]] = {}
        self.stopped: dict[str, Stopped] = {}
        self.floors: dict[str, Floor] = {}
        self.plan = plan.Plan()
        self.engine = Engine(
            store, registry, options, narrator, partial(getattr, self._models, "baseline"), since
        )

    def _define_tasks(self, registry: Registry) -> None:
        """Make metrics of the tasks that the study describes."""
        if self.study.tasks:
            definitions = load("pytest_quantgate.metrics.own:definitions")
            for definition in definitions(self.study.tasks, registry.names("metrics"), self.study.file):
                registry.define(definition)

    # --- planning

    @property
    def baseline(self) -> ModelSpec | None:
        """The specification of the unquantized reference, if one is configured."""
        return self._models.baseline

    def spec(self, variant: str) -> ModelSpec:
        """Return the specification of a variant.

        Raises:
            CheckpointError: its checkpoint is missing, damaged or refused; the same each time.

        """
        if variant not in self._specs:
            try:
                made = self._specs[variant] = self._models.variant(variant)
                self._remark(variant, *archived(made.recipe))
            except CheckpointError as error:
                self._specs[variant] = error
        found = self._specs[variant]
        if isinstance(found, CheckpointError):
            raise found
        return found

    def prepare(self, demands: Mapping[str, Iterable[Asked]]) -> None:
        """Plan what the gates of each variant need.

        A variant whose checkpoint is damaged is left out: its gates fail when they are judged.

        Raises:
            UsageError: a gate that can never be judged.
            CheckpointError: the baseline is missing, damaged or refused.

        """
        self.demands = {name: tuple(dict.fromkeys(asked)) for name, asked in demands.items()}
        self._check_families()
        if self.options.against:
            self.earlier.run(self.options.against)
        wants: list[Want] = []
        for name, asked in self.demands.items():
            metrics = [metric for one in asked for metric in one.gate.metrics()]
            metrics += [parse_metric(text) for text in (*ALWAYS, *self.study.measure)]
            wants.extend(self._wants_of(name, metrics))
        self.plan = plan.make(wants, self.study.names)
        self.engine.planned = frozenset(step.key for step in self.plan.steps)

    def _check_families(self) -> None:
        for name, asked in self.demands.items():
            if self.options.family and len({c for one in asked for c in one.gate.comparisons()}) == 1:
                raise ConfigError(
                    f"--quantgate-family {self.options.family}: {name} has one comparison, and a family takes two;"
                    " leave the option out"
                )

    def _wants_of(self, name: str, metrics: Iterable[Metric]) -> Iterator[Want]:
        baseline = self.baseline
        try:
            spec = self.spec(name)
        except CheckpointError:
            return
        if spec.source != IMPORTED:
            yield self.wants.observed(SANITY, spec, baseline)
        for metric in dict.fromkeys(metrics):
            if self.imported(spec, metric) is not None or spec.source == IMPORTED:
                self.wants.definition(metric)
            elif self.wants.combining(metric) is None:
                yield self.wants.want(metric, spec, baseline)
            elif not self.tasks(name):
                raise ConfigError(
                    f"{metric}: {name} has no task; name one in a gate, or in measure of [tool.quantgate]"
                )

    def tasks(self, variant: str) -> tuple[Metric, ...]:
        """Return the task metrics of a variant that gates and `measure` name, without statistic and relation."""
        texts = (parse_metric(text) for text in self.study.measure)
        gates = (one.gate for one in self.demands.get(variant, ()))
        named = (*(metric for gate in gates for metric in gate.metrics()), *texts)
        return tuple(
            dict.fromkeys(self.wants.whole(metric) for metric in named if self.wants.is_task(metric))
        )

    # --- measuring

    def complete(self, variant: str) -> tuple[Problem, ...]:
        """Make every planned observation of the baseline and of one variant; return what sanity found.

        Errors are kept for whoever asks for an estimate. A variant that is not sane is not measured any further.
        """
        try:
            self.spec(variant)
        except CheckpointError:
            return ()  # its gates say so
        for step in self.plan.of("baseline"):
            self._attempt(step)
        self._measure_floors(variant)
        early = self._to_stop_early(variant)
        for step in self.plan.of(variant):
            if step.key in early:
                self._follow(variant, *early[step.key])
                continue
            observation = self._attempt(step)
            self._remark(variant, *(_remarks(observation) if observation else ()))
            if step.observe == SANITY and observation is not None and observation.facts["problems"]:
                return problems_of(observation)
        return ()

    def _measure_floors(self, variant: str) -> None:
        """Measure the noise of the baseline's passes while the baseline is at hand, if anything asks for it."""
        for one in self.demands.get(variant, ()):
            for metric in one.gate.metrics():
                if metric.relation == OVER_FLOOR or (self.options.floor and self._is_noisy(metric)):
                    with suppress(QuantgateError):
                        self._floor_of(self.spec(variant), metric)

    def _is_noisy(self, metric: Metric) -> bool:
        return unchanged(metric) is not None and self.wants.is_divisible(metric)

    def _floor_of(self, spec: ModelSpec, metric: Metric) -> Floor:
        """Return the noise floor of the pass that a metric is computed from."""
        needs = self.wants.want(metric, spec, self.baseline).needs()
        key = needs.baseline.key if needs.baseline else ""
        if key not in self.floors:
            observer = load(needs.variant.observe)
            self.floors[key] = floor.measure(self.engine, needs, observer, self.options.seed)
        return self.floors[key]

    def _refused(self, variant: str, asked: Iterable[Asked]) -> dict[Comparison, str]:
        """Return the comparisons whose limits lie below the noise, where the noise is to be shown."""
        if not self.options.floor:
            return {}
        found: dict[Comparison, str] = {}
        for comparison in (comparison for one in asked for comparison in one.gate.comparisons()):
            with suppress(QuantgateError):
                if self._is_noisy(comparison.metric):
                    found[comparison] = self._floor_of(self.spec(variant), comparison.metric).refusal(
                        comparison
                    )
        return {comparison: reason for comparison, reason in found.items() if reason}

    def _to_stop_early(self, variant: str) -> dict[str, tuple[Needs, tuple[Asked, ...]]]:
        """Return the passes of a variant that may stop early, by key, with the gates that then decide when.

        All gates on such a pass must want it, and all that they ask of it must be means of its items.
        """
        if self.spec(variant).source == IMPORTED:
            return {}
        wanted: dict[Needs, list[tuple[Metric, Asked]]] = {}
        for one in self.demands.get(variant, ()):
            for metric in one.gate.metrics():
                rests_on = (metric,) if self.wants.combining(metric) is None else self.tasks(variant)
                for part in rests_on:
                    if self.imported(self.spec(variant), part) is not None:
                        continue
                    needs = self.wants.want(part, self.spec(variant), self.baseline).needs()
                    wanted.setdefault(needs, []).append((metric, one))
        return {
            needs.variant.key: (needs, tuple(dict.fromkeys(one for _, one in pairs)))
            for needs, pairs in wanted.items()
            if all(self._stops(one) and self.wants.is_mean(metric) for metric, one in pairs)
        }

    def _stops(self, one: Asked) -> bool:
        return self.options.stop_early if one.stop_early is None else one.stop_early

    def _follow(self, variant: str, needs: Needs, asked: tuple[Asked, ...]) -> None:
        """Make a pass in parts until its gates are decided; errors are kept for whoever asks."""
        key = needs.variant.key
        if key in self.stopped or self.engine.has(needs.variant):
            return
        metrics = {metric for one in asked for metric in one.gate.metrics() if self.wants.is_mean(metric)}
        levels = [level for one in asked if (level := one.confidence or self.options.confidence)]
        risk = Risk(self.options.alpha, len(metrics), max(levels, default=None), self.options.seed)

        def certain(seen: Stopped) -> bool:
            self.stopped[key] = seen
            verdicts = self.decide(asked, partial(self._lookup, variant))
            return not any(check.inconclusive for one in verdicts if not one.decided for check in one.checks)

        try:
            seen = follow(self.engine, needs, load(needs.variant.observe), risk, certain)
        except QuantgateError as error:
            seen = None
            self.engine.refuse(needs.variant, error)
        if seen is None:
            self.stopped.pop(key, None)

    def _lookup(self, variant: str, metric: Metric) -> Estimate | QuantgateError:
        try:
            return self.estimate(variant, metric)
        except QuantgateError as error:
            return error

    def _attempt(self, step: Step) -> Observation | None:
        try:
            return self.engine.observation(step)
        except QuantgateError:
            return None

    def estimate(self, variant: str, metric: Metric) -> Estimate:
        """Return a metric of a variant, measuring what is missing.

        Raises:
            QuantgateError: why there is no such number; `NotMeasurableError` if this machine cannot give it.

        """
        return self.estimate_of(self.spec(variant), metric)

    def estimate_of(self, spec: ModelSpec, metric: Metric) -> Estimate:
        """Return a metric of any model that is compared with the baseline, measuring what is missing.

        Raises:
            QuantgateError: why there is no such number.

        """
        combining = self.wants.combining(metric)
        if combining is not None:
            tasks = [replace(task, relation=metric.relation) for task in self.tasks(spec.name)]
            return combining.combined({task: self.estimate_of(spec, task) for task in tasks})
        if metric.relation == OVER_FLOOR:
            found = self.estimate_of(spec, floor.raw(metric))
            return self._floor_of(spec, metric).excess(metric, found)
        if metric.relation == WITHIN_EXPECTED:
            found = self.estimate_of(spec, replace(metric, relation="ratio"))
            return expected.share(metric, found, scheme_of(spec))
        if (brought := self.imported(spec, metric)) is not None:
            return self._brought(spec, metric, brought)
        if spec.source == IMPORTED:
            raise NotMeasurableError(
                f"{metric}: {spec.name} is not here, and no result of it was imported: quantgate import FORMAT FILE"
                f" --variant {spec.name}"
            )
        want = self.wants.want(metric, spec, self.baseline)
        needs = want.needs()
        if (stopped := self.stopped.get(needs.variant.key)) is not None:
            return stopped.estimate(metric)
        reference = self.engine.observation(needs.baseline) if needs.baseline else None
        observed = self.engine.observation(needs.variant)
        self._rests_on(spec, metric, needs.variant, needs.baseline)
        self._remark(spec.name, *_remarks(observed))
        return self.earlier.figure(metric, needs.variant, (observed, reference))

    def imported(self, spec: ModelSpec, metric: Metric) -> Observation | None:
        """Return what was imported of a metric of a model."""
        if metric.since or self.wants.combining(metric) is not None:
            return None
        key = imported.step_of(spec.name, self.wants.whole(metric)).key
        return self.engine.store.get(key) if self.engine.store.written(key) else None

    def _brought(self, spec: ModelSpec, metric: Metric, observation: Observation) -> Estimate:
        """Return a metric of imported results; answers to items are judged as our own are."""
        reference = self.imported(self.baseline, metric) if self.baseline else None
        if reference is not None and (
            metric.relation or metric.statistic in self.wants.definition(metric).alone
        ):
            imported.check_alike(metric, observation, reference)
        observer: Observer = load(self.wants.definition(metric).observer)
        itemised = observation.arrays and (reference is None or reference.arrays)
        compute = observer.estimate if itemised else imported.figure
        found = compute(metric, observation, reference)
        self._remark(spec.name, imported.origin(observation))
        return replace(found, note="; ".join(filter(None, (found.note, imported.origin(observation)))))

    def baseline_estimate(self, metric: Metric) -> Estimate:
        """Return a metric of the baseline itself.

        Raises:
            ConfigError: no baseline is configured, or the metric compares with it.
            QuantgateError: why there is no such number.

        """
        if self.baseline is None:
            raise ConfigError('no baseline is configured; add baseline = "..." to [tool.quantgate]')
        if metric.relation:
            raise ConfigError(
                f"{metric} compares a variant with the baseline; ask the baseline for an absolute metric"
            )
        if (brought := self.imported(self.baseline, metric)) is not None:
            return self._brought(self.baseline, metric, brought)
        want = self.wants.want(metric, self.baseline, self.baseline)
        step = want.needs().baseline
        assert step is not None
        observer: Observer = load(want.observe)
        observation = self.engine.observation(step)
        self._rests_on(self.baseline, metric, step)
        self._remark(self.baseline.name, *_remarks(observation))
        return observer.estimate(metric, observation, observation)

    def _remark(self, model: str, *told: str) -> None:
        """Keep what a reader must know of how an observation was made."""
        known = self.remarks.setdefault(model, {})
        known.update(dict.fromkeys(f"{model}: {remark}" for remark in told))

    def reference_estimate(self, variant: str, metric: Metric) -> Estimate:
        """Return a metric of the baseline on the items that a variant answered: fewer, if its pass stopped early."""
        if self.imported(self.spec(variant), metric) is None:
            needs = self.wants.want(metric, self.spec(variant), self.baseline).needs()
            if (stopped := self.stopped.get(needs.variant.key)) is not None:
                aligned = stopped.observer.aligned(stopped.baseline, stopped.observation)
                observer: Observer = load(needs.variant.observe)
                return observer.estimate(metric, aligned, aligned)
        return self.baseline_estimate(metric)

    def _rests_on(self, spec: ModelSpec, metric: Metric, *steps: Step | None) -> None:
        """Note what a figure was computed from, so that it can be judged again and compared with later."""
        keys = tuple(step.key for step in steps if step)
        self.behind.setdefault(spec.name, {})[Metric(metric.name, metric.arguments)] = keys

    def judge(self, variant: str, asked: Iterable[Asked]) -> tuple[Verdict, ...]:
        """Judge gates on a variant. What cannot be estimated becomes part of the verdict, never an exception."""
        problems = self.complete(variant)
        insane = ObservationError("; ".join(map(_said, problems))) if problems else None

        @cache
        def lookup(metric: Metric) -> Estimate | QuantgateError:
            return insane or self._lookup(variant, metric)

        wanted = tuple(asked)
        rule = verdict.Rule(refuted=self._refuted(variant, lookup), refused=self._refused(variant, wanted))
        return self.decide(wanted, lookup, rule)

    def decide(self, asked: Iterable[Asked], lookup: Lookup, rule: Rule | None = None) -> tuple[Verdict, ...]:
        """Judge gates by the estimates that `lookup` gives, each at its own confidence or the session's."""
        common = rule or verdict.Rule()
        return tuple(
            verdict.judge(
                one.gate, lookup, replace(common, confidence=one.confidence or self.options.confidence)
            )
            for one in asked
        )

    def _refuted(self, variant: str, lookup: Lookup) -> frozenset[Comparison] | None:
        """Return what the variant's whole family of gates refutes, if families are wanted."""
        if not self.options.family:
            return None
        level = self.options.confidence
        assert level is not None
        return verdict.refuted((one.gate for one in self.demands.get(variant, ())), lookup, level)


def _remarks(observation: Observation) -> Sequence[str]:
    told: Any = observation.facts.get("remarks", ())
    return tuple(told)


def _said(problem: Problem) -> str:
    # where a test's message is all that a person sees, it must say what to look at
    return f"{problem.text}; likely causes: {', '.join(problem.causes)}" if problem.causes else problem.text


def problems_of(observation: Observation) -> tuple[Problem, ...]:
    """Return what a sanity observation found."""
    found: Any = observation.facts["problems"]
    return tuple(Problem(problem["what"], tuple(problem["causes"])) for problem in found)
