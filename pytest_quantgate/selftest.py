"""Gates that are tested: known damage in a copy of the variant, and what each gate says to it.

A damaged copy is a specification like any other (`damages.damaged`), so plan, engine, store and verdict work as for
a variant; its observations are kept, and a second self-test loads nothing. Baseline and limits are the gate's own.
Tried are gates that pass on the undamaged variant: one that fails anyway would catch everything and prove
nothing. Metrics of files and of speed cannot see damage: they keep the variant's own figures, and a gate
of such metrics alone is listed, but not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate import damages
from pytest_quantgate.errors import NotMeasurableError, QuantgateError, StoreError, UsageError
from pytest_quantgate.registry import load
from pytest_quantgate.report import Trial

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_quantgate.gate import Gate, Metric
    from pytest_quantgate.interfaces import Observer
    from pytest_quantgate.marks import Asked
    from pytest_quantgate.measurements import Measurements
    from pytest_quantgate.plan import Needs
    from pytest_quantgate.spec import Estimate, ModelSpec, Observation
    from pytest_quantgate.verdict import Outcome, Verdict

__all__ = ["Selftest", "explain", "undetected"]

_WITHOUT: Mapping[Outcome, str] = {"FAIL": "fails", "INCONCLUSIVE": "is undecided"}
_FILES = "footprint"
_BLIND = "size and speed cannot see damage"
_UNDONE = "the backend does not bring it about: nothing changed"


@dataclass(frozen=True, slots=True)
class Selftest:
    """Tries gates on damaged copies.

    Attributes:
        measurements: of the study.
        seed: decides what is random about the damage.
        refused: outcomes that would keep a model from its release: the gate has caught the damage.

    """

    measurements: Measurements
    seed: int = 0
    refused: frozenset[Outcome] = frozenset({"FAIL"})

    def run(self, variant: str, asked: Iterable[Asked]) -> tuple[Trial, ...]:
        """Try each gate of a variant on each kind of damage; nothing is raised for what cannot be tried."""
        wanted = tuple(dict.fromkeys(asked))
        verdicts = self.measurements.judge(variant, wanted)
        reasons = [
            self._untestable(asked.gate, verdict) for asked, verdict in zip(wanted, verdicts, strict=True)
        ]
        listed = [
            Trial(variant, str(asked.gate), "not tested", reason=reason)
            for asked, reason in zip(wanted, reasons, strict=True)
            if reason
        ]
        tested = [asked for asked, reason in zip(wanted, reasons, strict=True) if not reason]
        tried = (trial for kind in damages.DAMAGES if tested for trial in self._try(variant, tested, kind))
        return (*tried, *listed)

    def _untestable(self, gate: Gate, verdict: Verdict) -> str:
        if not any(self._sees(metric) for metric in gate.metrics()):
            return _BLIND
        if verdict.outcome == "UNMEASURED":
            return f"cannot be measured without damage ({verdict.reason})"
        return "" if verdict.passed else f"{_WITHOUT[verdict.outcome]} without damage"

    def _sees(self, metric: Metric) -> bool:
        observer: Observer = load(self.measurements.wants.definition(metric).observer)
        return not observer.device_bound and observer.kind != _FILES

    def _try(self, variant: str, gates: Sequence[Asked], kind: str) -> list[Trial]:
        severe = damages.DAMAGES[kind].severe
        copy = damages.damaged(self.measurements.spec(variant), kind, self.seed)
        seen = [metric for asked in gates for metric in asked.gate.metrics() if self._sees(metric)]
        if reason := self._obstacle(variant, copy, seen):
            return [
                Trial(variant, str(asked.gate), "not measurable", kind, severe, reason) for asked in gates
            ]

        def lookup(metric: Metric) -> Estimate | QuantgateError:
            spec = copy if self._sees(metric) else self.measurements.spec(variant)
            try:
                return self.measurements.estimate_of(spec, metric)
            except (UsageError, StoreError) as error:
                return NotMeasurableError(str(error))  # says nothing about the model: no gate has caught it
            except QuantgateError as error:
                return error

        verdicts = self.measurements.decide(gates, lookup)
        return [self._trial(variant, verdict, kind) for verdict in verdicts]

    def _trial(self, variant: str, verdict: Verdict, kind: str) -> Trial:
        severe = damages.DAMAGES[kind].severe
        if verdict.outcome == "UNMEASURED":
            return Trial(variant, verdict.gate, "not measurable", kind, severe, verdict.reason)
        if verdict.outcome in self.refused:
            return Trial(variant, verdict.gate, "caught", kind, severe)
        figures = ", ".join(check.measured() for check in verdict.decisive())
        return Trial(variant, verdict.gate, "missed", kind, severe, figures)

    def _obstacle(self, variant: str, copy: ModelSpec, metrics: Iterable[Metric]) -> str:
        """Make the observations of a damaged copy; return why that damage cannot be tried, if it cannot.

        A pass without usable numbers is no obstacle: gates fail for it.
        """
        measured = self.measurements
        changed, reason = False, _UNDONE
        pairs = {self._needs(copy, metric): self._needs(measured.spec(variant), metric) for metric in metrics}
        for ours, theirs in pairs.items():
            try:
                if ours.baseline is not None:
                    measured.engine.observation(ours.baseline)
                plain = measured.engine.observation(theirs.variant)
                changed |= not _same(measured.engine.observation(ours.variant), plain)
            except (NotMeasurableError, UsageError, StoreError) as error:
                reason = str(error)
            except QuantgateError:
                changed = True
        return "" if changed else reason

    def _needs(self, spec: ModelSpec, metric: Metric) -> Needs:
        return self.measurements.wants.want(metric, spec, self.measurements.baseline).needs()


def _same(one: Observation, other: Observation) -> bool:
    return one.arrays.keys() == other.arrays.keys() and all(
        np.array_equal(array, other.arrays[name]) for name, array in one.arrays.items()
    )


def undetected(trials: Sequence[Trial]) -> tuple[str, ...]:
    """Return the kinds of severe damage that were tried and that no gate of the variant caught."""
    tried = [trial for trial in trials if trial.severe and trial.found in ("caught", "missed")]
    caught = {trial.damage for trial in tried if trial.found == "caught"}
    return tuple(dict.fromkeys(trial.damage for trial in tried if trial.damage not in caught))


def explain(trials: Sequence[Trial]) -> str:
    """Return the failure message: what no gate caught, then each gate with what it missed."""
    kinds = undetected(trials)
    lines = [f"severe damage passes every gate: {', '.join(kinds)}"]
    lines += [f"  {kind}: {damages.DAMAGES[kind].what}" for kind in kinds if kind in damages.DAMAGES]
    missed: dict[str, list[str]] = {}
    for trial in trials:
        if trial.found == "missed":
            grade = "" if trial.severe else " (mild)"
            missed.setdefault(trial.gate, []).append(f"    {trial.damage}{grade}: {trial.reason}")
    for gate, damage in missed.items():
        lines += [f"  gate {gate} missed", *damage]
    return "\n".join(lines)
