"""What a report's table says of the models: rows, changes and notes, from what has been measured already.

A report measures nothing: a figure whose observations are not there is left out.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from pytest_quantgate import earlier
from pytest_quantgate.errors import CheckpointError, NotMeasurableError, QuantgateError
from pytest_quantgate.gate import Metric
from pytest_quantgate.imported import IMPORTED
from pytest_quantgate.measurements import ALWAYS, SANITY, problems_of
from pytest_quantgate.parse import parse_metric
from pytest_quantgate.report import Capability, Problem, Row
from pytest_quantgate.report.capabilities import TEXT
from pytest_quantgate.tasks import sheet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pytest_quantgate.measurements import Measurements
    from pytest_quantgate.report import Answers, Change
    from pytest_quantgate.spec import Estimate, ModelSpec, Observation, Step

__all__ = ["Tabulation"]

_TABLE = (
    *ALWAYS, "vram", "ram", "tokens_per_second", "ttft", "ppl", "ppl.delta", "kld.mean", "top1_agreement",
)  # fmt: skip


FORM = "form"
PPL = Metric("ppl")
_FLOORED = ("ppl.delta", "kld.mean")


@dataclass(frozen=True, slots=True)
class Tabulation:
    """Rows for the report, from a study's measurements."""

    measured: Measurements

    def row(self, variant: str) -> Row:
        """Return what has been measured of a variant, for the report's table."""
        table = self.measured.study.variant(variant)
        try:
            spec = self.measured.spec(variant)
        except CheckpointError:
            return Row(variant, table.model)
        figures = self._figures(spec, partial(self.measured.estimate, variant))
        return Row(
            name=variant,
            source=table.model or " ".join(text for _, text in table.endpoint),
            weights=spec.weights,
            dtype=spec.dtype,
            engine=dict(spec.engine),
            recipe=spec.recipe.to_json() if spec.recipe else None,
            figures=figures,
            problems=self._known_problems(variant),
            steps=self._keys(variant),
        )

    def changes(self, variant: str) -> tuple[Change, ...]:
        """Return what has changed since the run that `--quantgate-against` names; measures nothing."""
        ref = self.measured.options.against
        if not ref:
            return ()
        known = tuple(self.measured.behind.get(variant, {}))
        return earlier.changes(
            variant, self.measured.earlier.run(ref), known, partial(self.measured.estimate, variant), ref
        )

    def capabilities(self, variant: str) -> tuple[Capability, ...]:
        """Return what became of each capability whose task has been measured."""
        estimate = partial(self.measured.estimate, variant)
        baseline = partial(self.measured.reference_estimate, variant)
        found: list[Capability] = []
        for metric in self.measured.tasks(variant):
            definition = self.measured.wants.definition(metric)
            with suppress(QuantgateError):
                if not self._is_measured(variant, metric):
                    continue
                found.append(_capability(variant, definition.capability, metric, estimate, baseline))
                if FORM in definition.statistics:
                    form = replace(metric, statistic=FORM)
                    found.append(_capability(variant, "instruction form", form, estimate, baseline))
        with suppress(QuantgateError):
            if found and self._is_measured(variant, PPL):
                text = (baseline(PPL), estimate(PPL), estimate(replace(PPL, relation="delta")))
                found.append(Capability(variant, TEXT, str(PPL), *text))
        return tuple(one for one in found if math.isfinite(one.loss))

    def _is_measured(self, variant: str, metric: Metric) -> bool:
        spec = self.measured.spec(variant)
        if self.measured.imported(spec, metric) is not None:
            return True
        steps = self._steps(metric, spec)
        return len(steps) == 2 and self._are_there(steps)  # noqa: PLR2004  the baseline's and its own

    def answers(self, variant: str, told: set[str]) -> Iterator[Answers]:
        """Yield what the baseline and a variant answered, unless that is in `told`, which grows."""
        for metric in self.measured.tasks(variant):
            with suppress(QuantgateError):
                if (brought := self.measured.imported(self.measured.spec(variant), metric)) is not None:
                    yield from self._imported_answers(variant, metric, brought, told)
                    continue
                needs = self.measured.wants.want(
                    metric, self.measured.spec(variant), self.measured.baseline
                ).needs()
                if needs.baseline is None or not self._are_there((needs.baseline, needs.variant)):
                    continue
                reference = self.measured.engine.observation(needs.baseline)
                stopped = self.measured.stopped.get(needs.variant.key)
                ours = stopped.observation if stopped else self.measured.engine.observation(needs.variant)
                if needs.baseline.key not in told:
                    told.add(needs.baseline.key)
                    yield sheet.answers("baseline", metric.key, reference)
                if needs.variant.key not in told:
                    told.add(needs.variant.key)
                    yield sheet.answers(variant, metric.key, ours, reference)

    def _imported_answers(
        self, variant: str, metric: Metric, brought: Observation, told: set[str]
    ) -> Iterator[Answers]:
        """Yield the answers that other tools' files hold."""
        baseline = self.measured.baseline
        reference = self.measured.imported(baseline, metric) if baseline else None
        base = f"baseline {metric.key}"
        if reference is not None and reference.arrays and base not in told:
            told.add(base)
            yield sheet.answers("baseline", metric.key, reference)
        own = f"{variant} {metric.key}"
        if brought.arrays and own not in told:
            told.add(own)
            paired = reference if reference is not None and reference.arrays else None
            yield sheet.answers(variant, metric.key, brought, paired)

    def notes(self, variant: str) -> tuple[str, ...]:
        """Return what the whole report must say of a variant's passes."""
        floors = [f"{key} {one.value:.3g} ({one.note})" for key, one in self._floor_figures().items()]
        told = (f"the baseline against itself: {', '.join(floors)}",) if floors else ()
        stopped = self.measured.stopped
        shares = [stopped[step.key].share for step in self.measured.plan.of(variant) if step.key in stopped]
        early = (
            f"{variant}: decided after {share}; figures in parentheses are of those alone" for share in shares
        )
        return (
            *told,
            *early,
            *self.measured.remarks.get(variant, ()),
            *self.measured.remarks.get("baseline", ()),
        )

    def _keys(self, model: str) -> dict[str, tuple[str, ...]]:
        return {metric.key: keys for metric, keys in self.measured.behind.get(model, {}).items()}

    def baseline_row(self) -> Row | None:
        """Return what has been measured of the baseline."""
        spec = self.measured.baseline
        if spec is None:
            return None
        dtypes = dict.fromkeys(step.model.dtype for step in self.measured.plan.of("baseline"))
        figures = self._figures(spec, self.measured.baseline_estimate) | self._floor_figures()
        steps = self._keys(spec.name)
        return Row(
            spec.name,
            spec.source,
            spec.weights,
            " ".join(dtypes),
            figures=figures,
            engine=dict(spec.engine),
            steps=steps,
        )

    def _floor_figures(self) -> dict[str, Estimate]:
        """Return how far the baseline is from itself: beside each change that the table shows."""
        metrics = [parse_metric(text) for text in _FLOORED]
        found = {
            metric.key: one.figure(metric) for one in self.measured.floors.values() for metric in metrics
        }
        return {key: figure for key, figure in found.items() if figure is not None}

    def _figures(self, spec: ModelSpec, estimate: Callable[[Metric], Estimate]) -> dict[str, Estimate]:
        """Return the figures whose observations are there already: a report measures nothing."""
        figures: dict[str, Estimate] = {}
        asked = [parse_metric(text) for text in (*_TABLE, *self.measured.study.measure)]
        for metric in dict.fromkeys((*asked, *self._of_tasks(spec))):
            try:
                if self.measured.imported(spec, metric) is not None:
                    figures[metric.key] = estimate(metric)
                    continue
                if spec.source == IMPORTED:
                    continue
                steps = self._steps(metric, spec)
                if steps and self._are_there(steps):
                    figures[metric.key] = estimate(metric)
            except QuantgateError:
                continue  # not measurable here: the gates that need it say why
        return figures

    def _of_tasks(self, spec: ModelSpec) -> Iterator[Metric]:
        """Yield what is told of each task: every way of reading its answers, and its drop."""
        named = self.measured.study.names if spec.is_baseline else (spec.name,)
        for task in dict.fromkeys(task for name in named for task in self.measured.tasks(name)):
            definition = self.measured.wants.definition(task)
            told = (word for word in definition.statistics or ("",) if word not in definition.alone)
            yield from (replace(task, statistic=word) for word in told)
            if not spec.is_baseline:
                yield replace(task, relation="drop")

    def _are_there(self, steps: Iterable[Step]) -> bool:
        return all(self.measured.engine.has(step) or step.key in self.measured.stopped for step in steps)

    def _steps(self, metric: Metric, spec: ModelSpec) -> tuple[Step, ...]:
        needs = self.measured.wants.want(metric, spec, self.measured.baseline).needs()
        if spec.is_baseline:
            return () if metric.relation or needs.baseline is None else (needs.baseline,)
        return tuple(step for step in (needs.baseline, needs.variant) if step)

    def _known_problems(self, variant: str) -> tuple[Problem, ...]:
        sanity = [
            step
            for step in self.measured.plan.of(variant)
            if step.observe == SANITY and self.measured.engine.has(step)
        ]
        return tuple(
            problem for step in sanity for problem in problems_of(self.measured.engine.observation(step))
        )


def _capability(
    variant: str,
    capability: str,
    metric: Metric,
    estimate: Callable[[Metric], Estimate],
    baseline: Callable[[Metric], Estimate],
) -> Capability:
    """Return one row: both values, their difference, and how many items flipped either way."""
    drop = estimate(replace(metric, relation="drop"))
    counts: dict[str, int] = {}
    if not metric.statistic:
        with suppress(NotMeasurableError):  # imported figures say nothing of single items
            shares = {name: estimate(replace(metric, statistic=name)) for name in ("lost", "won")}
            counts = {name: round(share.value * share.n) for name, share in shares.items()}
    return Capability(variant, capability, metric.key, baseline(metric), estimate(metric), drop, **counts)
