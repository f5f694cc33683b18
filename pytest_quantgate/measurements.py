"""What is known of a study's models: plan, engine and estimates behind one object, free of pytest.

The pytest session asks it for verdicts, fixtures ask it for estimates, and a command line tool can use it as it is.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_quantgate import earlier, floor, network, plan, stats, verdict
from pytest_quantgate.engine import Engine
from pytest_quantgate.errors import (
    CheckpointError,
    ConfigError,
    ObservationError,
    QuantgateError,
    StoreError,
)
from pytest_quantgate.floor import OVER_FLOOR, Floor, unchanged
from pytest_quantgate.foresight import Basis, Forecast, foresee
from pytest_quantgate.gate import Metric
from pytest_quantgate.history import History, check_tag
from pytest_quantgate.models import Models
from pytest_quantgate.parse import parse_metric
from pytest_quantgate.registry import load
from pytest_quantgate.report import Problem, Row
from pytest_quantgate.stopping import Risk, Stopped, follow
from pytest_quantgate.store import Store
from pytest_quantgate.wants import Wants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pytest_quantgate.engine import Narrator
    from pytest_quantgate.gate import Comparison
    from pytest_quantgate.marks import Asked
    from pytest_quantgate.options import Options
    from pytest_quantgate.plan import Needs, Want
    from pytest_quantgate.registry import Registry
    from pytest_quantgate.report import Change
    from pytest_quantgate.spec import Divisible, Estimate, ModelSpec, Observation, Observer, Step
    from pytest_quantgate.study import Study
    from pytest_quantgate.verdict import Lookup, Rule, Verdict

__all__ = ["Measurements"]

_SANITY = "pytest_quantgate.metrics.sanity:SANITY"
_ALWAYS = ("bits_per_weight", "disk", "weights_memory")
_TABLE = (
    *_ALWAYS, "vram", "ram", "tokens_per_second", "ttft", "ppl", "ppl.delta", "kld.mean", "top1_agreement",
)  # fmt: skip


_FLOORED = ("ppl.delta", "kld.mean")


class Measurements:
    """Measures the models of one study and judges gates on them.

    Args:
        study: baseline, variants and settings.
        options: what may be loaded, reused or fetched.
        registry: the open sets.
        narrator: who is told what goes on.
        since: time (epoch) before which stored observations do not count when they are to be refreshed.

    Raises:
        StoreError: the store's folder cannot be used at all.
        ConfigError: settings of an observer that does not exist.

    """

    def __init__(
        self, study: Study, options: Options, registry: Registry, narrator: Narrator, since: float
    ) -> None:
        self.study = study
        network.LOCAL_ONLY.set(options.offline)
        check_tag(options.tag)
        store = Store(options.store, writable=True)
        self.earlier = earlier.Earlier(History(options.store), store, (Path(), study.root))
        self.wants = Wants(registry, study, self.earlier)
        self.wants.check_settings()
        self._behind: dict[str, dict[Metric, tuple[str, ...]]] = {}
        self._models = Models(study, options, store, registry)
        self._options = options
        self._specs: dict[str, ModelSpec | CheckpointError] = {}
        self._demands: dict[str, tuple[Asked, ...]] = {}
        self._stopped: dict[str, Stopped] = {}
        self._floors: dict[str, Floor] = {}
        self.plan = plan.Plan()
        self.engine = Engine(
            store, registry, options, narrator, partial(getattr, self._models, "baseline"), since
        )

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
                self._specs[variant] = self._models.variant(variant)
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
        self._demands = {name: tuple(dict.fromkeys(asked)) for name, asked in demands.items()}
        self._check_families()
        if self._options.against:
            self.earlier.run(self._options.against)
        wants: list[Want] = []
        for name, asked in self._demands.items():
            metrics = [metric for one in asked for metric in one.gate.metrics()]
            metrics += [parse_metric(text) for text in (*_ALWAYS, *self.study.measure)]
            wants.extend(self._wants_of(name, metrics))
        self.plan = plan.make(wants, self.study.names)
        self.engine.planned = frozenset(step.key for step in self.plan.steps)

    def _check_families(self) -> None:
        for name, asked in self._demands.items():
            if self._options.family and len({c for one in asked for c in one.gate.comparisons()}) == 1:
                raise ConfigError(
                    f"--quantgate-family {self._options.family}: {name} has one comparison, and a family takes two;"
                    " leave the option out"
                )

    def _wants_of(self, name: str, metrics: Iterable[Metric]) -> Iterator[Want]:
        baseline = self.baseline
        try:
            spec = self.spec(name)
        except CheckpointError:
            return
        yield self.wants.observed(_SANITY, spec, baseline)
        for metric in dict.fromkeys(metrics):
            yield self.wants.want(metric, spec, baseline)

    # --- measuring

    def complete(self, variant: str) -> tuple[Problem, ...]:
        """Make every planned observation of the baseline and of one variant; return what sanity found.

        Errors are kept for whoever asks for an estimate. A variant that is not sane is not measured any further.
        """
        for step in self.plan.of("baseline"):
            self._attempt(step)
        self._measure_floors(variant)
        early = self._to_stop_early(variant)
        for step in self.plan.of(variant):
            if step.key in early:
                self._follow(variant, *early[step.key])
                continue
            observation = self._attempt(step)
            if step.observe == _SANITY and observation is not None and observation.facts["problems"]:
                return _problems(observation)
        return ()

    def _measure_floors(self, variant: str) -> None:
        """Measure the noise of the baseline's passes while the baseline is at hand, if anything asks for it."""
        for one in self._demands.get(variant, ()):
            for metric in one.gate.metrics():
                if metric.relation == OVER_FLOOR or (self._options.floor and self._is_noisy(metric)):
                    with suppress(QuantgateError):
                        self._floor_of(self.spec(variant), metric)

    def _is_noisy(self, metric: Metric) -> bool:
        return unchanged(metric) is not None and self.wants.is_divisible(metric)

    def _floor_of(self, spec: ModelSpec, metric: Metric) -> Floor:
        """Return the noise floor of the pass that a metric is computed from."""
        needs = self.wants.want(metric, spec, self.baseline).needs()
        key = needs.baseline.key if needs.baseline else ""
        if key not in self._floors:
            observer = load(needs.variant.observe)
            self._floors[key] = floor.measure(self.engine, needs, observer, self._options.seed)
        return self._floors[key]

    def _refused(self, variant: str, asked: Iterable[Asked]) -> dict[Comparison, str]:
        """Return the comparisons whose limits lie below the noise, where the noise is to be shown."""
        if not self._options.floor:
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
        wanted: dict[Needs, list[tuple[Metric, Asked]]] = {}
        for one in self._demands.get(variant, ()):
            for metric in one.gate.metrics():
                needs = self.wants.want(metric, self.spec(variant), self.baseline).needs()
                wanted.setdefault(needs, []).append((metric, one))
        return {
            needs.variant.key: (needs, tuple(dict.fromkeys(one for _, one in pairs)))
            for needs, pairs in wanted.items()
            if all(self._stops(one) and self.wants.is_mean(metric) for metric, one in pairs)
        }

    def _stops(self, one: Asked) -> bool:
        return self._options.stop_early if one.stop_early is None else one.stop_early

    def _follow(self, variant: str, needs: Needs, asked: tuple[Asked, ...]) -> None:
        """Make a pass in parts until its gates are decided; errors are kept for whoever asks."""
        key = needs.variant.key
        if key in self._stopped or self.engine.has(needs.variant):
            return
        metrics = {metric for one in asked for metric in one.gate.metrics() if self.wants.is_mean(metric)}
        levels = [level for one in asked if (level := one.confidence or self._options.confidence)]
        risk = Risk(self._options.alpha, len(metrics), max(levels, default=None), self._options.seed)

        def certain(seen: Stopped) -> bool:
            self._stopped[key] = seen
            verdicts = self.decide(asked, partial(self._lookup, variant))
            return not any(check.inconclusive for one in verdicts if not one.decided for check in one.checks)

        try:
            seen = follow(self.engine, needs, load(needs.variant.observe), risk, certain)
        except QuantgateError as error:
            seen = None
            self.engine.refuse(needs.variant, error)
        if seen is None:
            self._stopped.pop(key, None)

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
        if metric.relation == OVER_FLOOR:
            found = self.estimate_of(spec, floor.raw(metric))
            return self._floor_of(spec, metric).excess(metric, found)
        want = self.wants.want(metric, spec, self.baseline)
        needs = want.needs()
        if (stopped := self._stopped.get(needs.variant.key)) is not None:
            return stopped.estimate(metric)
        reference = self.engine.observation(needs.baseline) if needs.baseline else None
        observed = self.engine.observation(needs.variant)
        self._rests_on(spec, metric, needs.variant, needs.baseline)
        return self.earlier.figure(metric, needs.variant, (observed, reference))

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
        want = self.wants.want(metric, self.baseline, self.baseline)
        step = want.needs().baseline
        assert step is not None
        observer: Observer = load(want.observe)
        observation = self.engine.observation(step)
        self._rests_on(self.baseline, metric, step)
        return observer.estimate(metric, observation, observation)

    def _rests_on(self, spec: ModelSpec, metric: Metric, *steps: Step | None) -> None:
        """Note what a figure was computed from, so that it can be judged again and compared with later."""
        keys = tuple(step.key for step in steps if step)
        self._behind.setdefault(spec.name, {})[Metric(metric.name, metric.arguments)] = keys

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
                one.gate, lookup, replace(common, confidence=one.confidence or self._options.confidence)
            )
            for one in asked
        )

    def _refuted(self, variant: str, lookup: Lookup) -> frozenset[Comparison] | None:
        """Return what the variant's whole family of gates refutes, if families are wanted."""
        if not self._options.family:
            return None
        level = self._options.confidence
        assert level is not None
        return verdict.refuted((one.gate for one in self._demands.get(variant, ())), lookup, level)

    # --- foresight

    def forecasts(self) -> Iterator[Forecast]:
        """Yield what each comparison on a mean of items will be able to see, from the store alone."""
        for variant, asked in self._demands.items():
            wanted = {comparison: one for one in asked for comparison in one.gate.comparisons()}
            for comparison, how in wanted.items():
                if self.wants.is_mean(comparison.metric):
                    try:
                        basis = self._basis(variant, comparison.metric)
                    except QuantgateError as error:
                        yield Forecast(variant, str(comparison), source=str(error))
                    else:
                        yield foresee(variant, comparison, basis, how.confidence or self._options.confidence)

    def _basis(self, variant: str, metric: Metric) -> Basis:
        """Return the best that is known of a metric's spread: the variant's, another's, the baseline's alone.

        Raises:
            StoreError: nothing is known.

        """
        needs = self.wants.want(metric, self.spec(variant), self.baseline).needs()
        baseline = self.engine.stored(needs.baseline) if needs.baseline else None
        if baseline is None:
            raise StoreError("the baseline's pass is not in the store; run the gates once")
        observer: Divisible = load(needs.variant.observe)
        visits = stats.order(observer.count(baseline), self._options.seed)
        zero = unchanged(metric)
        for name in (variant, *(other for other in self.study.names if other != variant)):
            observed = self._stored_pass(name, metric)
            items = observer.items(metric, observed, baseline, visits) if observed else None
            if observed is not None and items is not None:
                start = items.link.forward(0.0) if zero is None else zero
                seconds = float(str(observed.facts.get("seconds", 0)))
                return Basis(items, start, f"{name}'s stored pass", seconds)
        items = observer.alone(metric, baseline, visits)
        if items is None:
            raise StoreError("no variant's pass is in the store, and the baseline alone does not tell")
        start = items.link.forward(0.0) if zero is None else zero
        seconds = float(str(baseline.facts.get("seconds", 0)))
        return Basis(
            items, start, "the baseline alone, unpaired: an upper bound", seconds, widening=math.sqrt(2)
        )

    def _stored_pass(self, variant: str, metric: Metric) -> Observation | None:
        with suppress(QuantgateError):
            return self.engine.stored(
                self.wants.want(metric, self.spec(variant), self.baseline).needs().variant
            )
        return None

    # --- reporting

    def row(self, variant: str) -> Row:
        """Return what has been measured of a variant, for the report's table."""
        table = self.study.variant(variant)
        try:
            spec = self.spec(variant)
        except CheckpointError:
            return Row(variant, table.model)
        figures = self._figures(spec, partial(self.estimate, variant))
        return Row(
            name=variant,
            source=table.model,
            weights=spec.weights,
            dtype=spec.dtype,
            recipe=spec.recipe.to_json() if spec.recipe else None,
            figures=figures,
            problems=self._known_problems(variant),
            steps=self._keys(variant),
        )

    def changes(self, variant: str) -> tuple[Change, ...]:
        """Return what has changed since the run that `--quantgate-against` names; measures nothing."""
        ref = self._options.against
        if not ref:
            return ()
        known = tuple(self._behind.get(variant, {}))
        return earlier.changes(variant, self.earlier.run(ref), known, partial(self.estimate, variant), ref)

    def notes(self, variant: str) -> tuple[str, ...]:
        """Return what the whole report must say of a variant's passes."""
        floors = [f"{key} {one.value:.3g} ({one.note})" for key, one in self._floor_figures().items()]
        told = (f"the baseline against itself: {', '.join(floors)}",) if floors else ()
        return told + tuple(
            f"{variant}: decided after {self._stopped[step.key].share}; figures marked ~ are of those windows alone"
            for step in self.plan.of(variant)
            if step.key in self._stopped
        )

    def _keys(self, model: str) -> dict[str, tuple[str, ...]]:
        return {metric.key: keys for metric, keys in self._behind.get(model, {}).items()}

    def baseline_row(self) -> Row | None:
        """Return what has been measured of the baseline."""
        spec = self.baseline
        if spec is None:
            return None
        dtypes = dict.fromkeys(step.model.dtype for step in self.plan.of("baseline"))
        figures = self._figures(spec, self.baseline_estimate) | self._floor_figures()
        steps = self._keys(spec.name)
        return Row(spec.name, spec.source, spec.weights, " ".join(dtypes), figures=figures, steps=steps)

    def _floor_figures(self) -> dict[str, Estimate]:
        """Return how far the baseline is from itself: beside each change that the table shows."""
        metrics = [parse_metric(text) for text in _FLOORED]
        found = {metric.key: one.figure(metric) for one in self._floors.values() for metric in metrics}
        return {key: figure for key, figure in found.items() if figure is not None}

    def _figures(self, spec: ModelSpec, estimate: Callable[[Metric], Estimate]) -> dict[str, Estimate]:
        """Return the figures whose observations are there already: a report measures nothing."""
        figures: dict[str, Estimate] = {}
        for metric in dict.fromkeys(parse_metric(text) for text in (*_TABLE, *self.study.measure)):
            try:
                steps = self._steps(metric, spec)
                if steps and all(self.engine.has(step) or step.key in self._stopped for step in steps):
                    figures[metric.key] = estimate(metric)
            except QuantgateError:
                continue  # not measurable here: the gates that need it say why
        return figures

    def _steps(self, metric: Metric, spec: ModelSpec) -> tuple[Step, ...]:
        needs = self.wants.want(metric, spec, self.baseline).needs()
        if spec.is_baseline:
            return () if metric.relation or needs.baseline is None else (needs.baseline,)
        return tuple(step for step in (needs.baseline, needs.variant) if step)

    def _known_problems(self, variant: str) -> tuple[Problem, ...]:
        sanity = [step for step in self.plan.of(variant) if step.observe == _SANITY and self.engine.has(step)]
        return tuple(problem for step in sanity for problem in _problems(self.engine.observation(step)))


def _said(problem: Problem) -> str:
    # where a test's message is all that a person sees, it must say what to look at
    return f"{problem.text}; likely causes: {', '.join(problem.causes)}" if problem.causes else problem.text


def _problems(observation: Observation) -> tuple[Problem, ...]:
    found: Any = observation.facts["problems"]
    return tuple(Problem(problem["what"], tuple(problem["causes"])) for problem in found)
