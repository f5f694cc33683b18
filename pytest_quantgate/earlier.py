"""The same variant in an earlier run: its observations found in the store again, and what has changed since.

What an earlier run observed is compared only where it was made by the same protocol, on the same kind of device where
that matters, and is still in the store; else the figure is not measurable, and the reason says what differs. The
variant's weights, its engine and its dtype may differ: they are what is compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, runtime_checkable
from typing import Protocol as Interface

from pytest_quantgate import damages
from pytest_quantgate.differences import differences
from pytest_quantgate.errors import GateError, NotMeasurableError, QuantgateError, StoreError, UsageError
from pytest_quantgate.files import MalformedError, opened, read_all, strict_json
from pytest_quantgate.metrics.compared import compared
from pytest_quantgate.parse import parse_metric
from pytest_quantgate.registry import load
from pytest_quantgate.report import Change, Report
from pytest_quantgate.spec import Observation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_quantgate.gate import Metric
    from pytest_quantgate.history import History
    from pytest_quantgate.interfaces import Observer
    from pytest_quantgate.spec import Estimate, ModelSpec, Step
    from pytest_quantgate.store import Store

__all__ = ["ComparesRuns", "Earlier", "Pair", "Past", "changes", "read_report"]

_AGAINST = tuple(parse_metric(text) for text in ("ppl", "kld.mean", "top1_agreement"))
"""What is set against an earlier run without a gate that asks for it."""

Pair: TypeAlias = tuple[Observation, Observation | None]
"""A variant's observation, and the baseline's that belongs to it."""


@runtime_checkable
class ComparesRuns(Interface):
    """An `Observer` that pairs the items of two runs. Others are compared by their values."""

    def change(self, metric: Metric, now: Pair, earlier: Pair) -> Estimate:
        """Return the relation of a metric to its earlier value.

        Raises:
            NotMeasurableError: the items of the two runs are not the same.

        """


@dataclass(frozen=True, slots=True)
class Past:
    """An earlier run.

    Attributes:
        label: what people call it: its tag, its id, or the path of its report.
        steps: of each variant, by name: what its figures rested on.
        lost: of each variant: keys of observations that are not in the store any more.

    """

    label: str
    steps: Mapping[str, tuple[Step, ...]]
    lost: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Earlier:
    """Earlier runs, by what users call them.

    Args:
        history: the runs of the store.
        store: where their observations are.
        folders: where the path of a report is looked for.

    """

    def __init__(self, history: History, store: Store, folders: Iterable[Path] = (Path(),)) -> None:
        self._history = history
        self._store = store
        self._folders = tuple(folders)
        self._runs: dict[str, Past] = {}

    def run(self, ref: str) -> Past:
        """Return a run by its id, its tag, a unique beginning of its id, or the path of its report.json.

        Raises:
            UsageError: there is none; the message lists what there is. Or the history or the report cannot be read.

        """
        if ref not in self._runs:
            self._runs[ref] = self._found(ref)
        return self._runs[ref]

    def _found(self, ref: str) -> Past:
        for folder in self._folders:
            if ref.endswith(".json") and (folder / ref).is_file():
                return self._of_report(ref, read_report(folder / ref))
        try:
            run = self._history.find(ref)
            return Past(run.label, self._history.steps(run))
        except StoreError as error:
            raise UsageError(str(error)) from error

    def _of_report(self, ref: str, report: Report) -> Past:
        steps: dict[str, tuple[Step, ...]] = {}
        lost: dict[str, tuple[str, ...]] = {}
        for row in report.variants:
            keys = dict.fromkeys(known[0] for known in row.steps.values() if known)
            found = {key: self._store.step(key) for key in keys}
            steps[row.name] = tuple(_named(step, row.name) for step in found.values() if step)
            lost[row.name] = tuple(key for key, step in found.items() if step is None)
        return Past(report.tag or report.run or ref, steps, lost)

    def figure(self, metric: Metric, step: Step, now: Pair) -> Estimate:
        """Return a metric of observations that are there, against an earlier run if the metric names one.

        Raises:
            QuantgateError: why there is no such number.

        """
        if metric.since:
            return self.estimate(metric, step, now)
        observer: Observer = load(step.observe)
        return observer.estimate(metric, *now)

    def estimate(self, metric: Metric, step: Step, now: Pair) -> Estimate:
        """Return the relation of a metric to its value in the run that `metric.since` names.

        Args:
            metric: what is asked, with a relation.
            step: what is compared, as it is made now.
            now: its observation, and the baseline's.

        Raises:
            UsageError: there is no such run, or the metric has no relation.
            NotMeasurableError: that run's observation is not there, or cannot be compared; the reason says why.

        """
        if not metric.relation:
            raise GateError(
                f"{metric} is set against an earlier run; say how: write {metric}.delta or .ratio"
            )
        past = self.run(metric.since)
        then = self._step(past, step)
        before = self._pair(past, then, step, now)
        observer: Observer = load(step.observe)
        if isinstance(observer, ComparesRuns):
            found = observer.change(metric, now, before)
        else:
            absolute = replace(metric, relation="", since="")
            # one baseline for both, where it is no part of the observation: else its change would look like theirs
            ours = observer.estimate(absolute, *now)
            theirs = observer.estimate(absolute, before[0], before[1] or now[1])
            found = compared(metric, ours, theirs)
        if then.reference == step.reference:
            return found
        other = f"the baseline is another than in {past.label}"
        return replace(found, note="; ".join(filter(None, (found.note, other))))

    def _step(self, past: Past, step: Step) -> Step:
        name, kind = _variant(step.model), step.protocol.kind
        if name not in past.steps:
            judged = ", ".join(past.steps) or "none"
            raise NotMeasurableError(f"{past.label} judged no variant {name!r}; it judged: {judged}")
        alike = [known for known in past.steps[name] if known.observe == step.observe]
        for candidate in alike:
            if candidate.protocol == step.protocol and candidate.device == step.device:
                return candidate
        if past.lost.get(name):
            raise NotMeasurableError(_gone(past, past.lost[name][0]))
        if not alike:
            raise NotMeasurableError(f"{past.label} has no observation of {name} {kind} to compare with")
        changed = [text for text in differences(alike[-1], step) if text.startswith(("protocol.", "device"))]
        raise NotMeasurableError(
            f"{name} {kind} was measured otherwise in {past.label}: {'; '.join(changed)}"
        )

    def _pair(self, past: Past, then: Step, step: Step, now: Pair) -> Pair:
        observation = self._store.get(then.key)
        if observation is None:
            raise NotMeasurableError(_gone(past, then.key))
        if not then.reference:
            return observation, None
        reference = now[1] if then.reference == step.reference else self._store.get(then.reference)
        return observation, reference


def _variant(spec: ModelSpec) -> str:
    """Return the variant's name, also of a copy that a self-test has damaged."""
    damaged = damages.OPTION in dict(spec.options)
    return spec.name.rpartition("+")[0] if damaged else spec.name


def _gone(past: Past, key: str) -> str:
    return f"the observation of {past.label} is not in the store any more (key {key[:12]}): pruned, or another store"


def _named(step: Step, name: str) -> Step:
    """Return the same step under the name that a variant has in a run: names are no part of its key."""
    return replace(step, model=replace(step.model, name=name))


def changes(
    variant: str, past: Past, known: Sequence[Metric], estimate: Callable[[Metric], Estimate], ref: str
) -> tuple[Change, ...]:
    """Return what a run says about an earlier one without being asked by a gate: what both have, with any arguments.

    Args:
        variant: whose.
        past: the earlier run.
        known: metrics of the variant that this run has.
        estimate: gives a metric of the variant.
        ref: how gates name the earlier run.

    """
    had = {(metric.name, metric.arguments) for metric in known}
    asked = [
        replace(metric, arguments=arguments, relation="delta", since=ref)
        for arguments in dict.fromkeys(metric.arguments for metric in known)
        for metric in _AGAINST
        if (metric.name, arguments) in had
    ]
    return tuple(_change(variant, past.label, metric, estimate) for metric in asked)


def _change(variant: str, label: str, metric: Metric, estimate: Callable[[Metric], Estimate]) -> Change:
    text = replace(metric, relation="", since="").key
    try:
        found = estimate(metric)
    except QuantgateError as error:
        return Change(variant, label, text, reason=str(error))
    if not math.isfinite(found.value):
        return Change(variant, label, text, reason="the difference is not a finite number")
    return Change(variant, label, text, found)


def read_report(file: Path) -> Report:
    """Read a report.json.

    Raises:
        UsageError: it cannot be read, is damaged, or was written by a newer version.

    """
    try:
        with opened(file.resolve()) as (descriptor, status):
            value = strict_json(read_all(descriptor, status.st_size))
    except OSError as error:
        raise UsageError(f"{file}: the report cannot be read ({error.strerror})") from error
    except MalformedError as error:
        raise UsageError(f"{file} is no report: {error}") from error
    return Report.from_json(value, place=str(file))
