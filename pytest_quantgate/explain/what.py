"""What is to blame: the checkpoint, the engine, or a stored figure that is out of date.

Each suspect is told apart by measuring one thing anew, on the first windows of the corpus:

    engine      the weights that the files state, in ordinary linear layers of the reference engine. If these are good
                and the variant is bad, the engine computes with other weights than it was given.
    baseline    the baseline's pass made again and compared with what the store holds, number by number.
    variant     the variant's own pass, likewise.
    checkpoint  what is left when none of them differs: the weights in the files are as bad as what was measured.

What was made anew is not kept: a person decides by `--quantgate-refresh`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pytest_quantgate.errors import ObservationError, QuantgateError
from pytest_quantgate.explain import what_files, where
from pytest_quantgate.gate import Metric
from pytest_quantgate.registry import load
from pytest_quantgate.report.findings import Finding
from pytest_quantgate.restorations import dequantized

if TYPE_CHECKING:
    from pytest_quantgate.interfaces import Model, Observer
    from pytest_quantgate.measurements import Measurements
    from pytest_quantgate.plan import Needs
    from pytest_quantgate.spec import Json, ModelSpec, Observation, Protocol, Step

__all__ = ["What", "look"]

TOLERANCE: Final = {"float32": 1e-3}
HALF_TOLERANCE: Final = 2e-2
"""Mean difference of log-probabilities in nats that another batching or thread count explains, in half precision."""

WORSE: Final = 2.0
NOISE: Final = 1e-3
TOKENIZER: Final = "the tokenizer of"


@dataclass(frozen=True, slots=True)
class What:
    """What was found of one variant.

    Attributes:
        variant: its name.
        blame: "checkpoint", "engine", "stale baseline", "stale variant"; empty where it could not be told.
        findings: likeliest first.
        checks: what was compared, and with which figures, a line each.

    """

    variant: str
    blame: str = ""
    findings: tuple[Finding, ...] = ()
    checks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object of builtin types only; findings are told elsewhere."""
        return {"blame": self.blame, "checks": list(self.checks)}


def look(measured: Measurements, variant: str, windows: int) -> What:
    """Measure the suspects anew; nothing is raised for what cannot be measured."""
    try:
        spec, baseline = where.models(measured, variant)
        folder = Path(measured.engine.materialize(spec).path)
        needs = _needs(measured, spec)
    except QuantgateError as error:
        return What(variant, checks=(str(error),))
    suspects = _Suspects(measured, spec, needs, windows)
    beside = list(what_files.differing(variant, folder, Path(baseline.path)))
    found = [*suspects.baseline(), *suspects.variant(), *suspects.engine()]
    named = {finding.cause: finding for finding in found}
    blame = next((said for cause, said in _BLAME.items() if cause in named), "")
    if not blame and suspects.compared:
        blame = "checkpoint"
    if suspects.other_tokenizer:
        blame = blame or "checkpoint"
    # files that differ and give the same ids on the whole corpus are no cause
    weight = 0.98 if suspects.other_tokenizer else 0.3
    beside = [replace(one, weight=weight) if one.cause == "tokenizer" else one for one in beside]
    findings = sorted((*found, *beside), key=lambda finding: -finding.weight)
    return What(variant, blame, tuple(findings), tuple(suspects.checks))


_BLAME = {"stale_baseline": "stale baseline", "stale_variant": "stale variant", "engine": "engine"}


def _needs(measured: Measurements, spec: ModelSpec) -> Needs:
    return measured.wants.want(Metric("kld", (), "mean"), spec, measured.baseline).needs()


class _Suspects:
    """Each method measures one suspect anew, and says what that gave."""

    def __init__(self, measured: Measurements, spec: ModelSpec, needs: Needs, windows: int) -> None:
        self._measured, self._spec, self._needs, self._windows = measured, spec, needs, windows
        self._fresh: Observation | None = None
        self.checks: list[str] = []
        self.compared = False
        self.other_tokenizer = False

    def baseline(self) -> list[Finding]:
        """Compare the baseline's stored pass with a new one."""
        step = self._needs.baseline
        assert step is not None
        stored = self._measured.engine.store.get(step.key)
        try:
            self._fresh = self._anew(step, None)
        except QuantgateError as error:
            self.checks.append(f"baseline: {error}")
            return []
        if stored is None:
            self.checks.append("baseline: the store held no pass of it that could be out of date")
            return []
        gap = _gap(stored, self._fresh)
        said = _said(gap)
        self.checks.append(f"baseline measured anew: {said}")
        if gap <= self._tolerance():
            return []
        text = "the stored observation of the baseline is not what the baseline gives now"
        advice = (
            "run pytest --quantgate --quantgate-refresh: what was compared with it is out of date as well"
        )
        return [Finding(self._spec.name, "what", text, said, advice, 0.98, "stale_baseline")]

    def variant(self) -> list[Finding]:
        """Compare the variant's stored pass with a new one, against the same reference."""
        step, reference = self._needs.variant, self._needs.baseline
        assert reference is not None
        engine = self._measured.engine
        stored, kept = engine.store.get(step.key), engine.store.get(reference.key)
        if stored is None or kept is None:
            self.checks.append("variant: the store held no pass of it that could be out of date")
            return []
        try:
            fresh = self._anew(step, kept if self._fresh is None else _beginning(kept, self._fresh))
        except QuantgateError as error:
            self._refused("variant", error)
            return []
        gap = _gap(stored, fresh)
        self.checks.append(f"variant measured anew: {_said(gap)}")
        if gap <= self._tolerance():
            return []
        text = "the stored observation of the variant is not what it gives now"
        advice = "run pytest --quantgate --quantgate-refresh, and judge again"
        return [Finding(self._spec.name, "what", text, _said(gap), advice, 0.97, "stale_variant")]

    def engine(self) -> list[Finding]:
        """Compare the variant with the weights of its files in ordinary layers, against the new baseline."""
        if self._fresh is None:
            return []
        try:
            if not load("pytest_quantgate.backends.dequantizing:readable")(self._folder()):
                self.checks.append("engine: the files of this format cannot be read apart from their engine")
                return []
            ours = self._divergence(self._spec)
            stated = self._divergence(dequantized(self._spec))
        except QuantgateError as error:
            self._refused("engine", error)
            return []
        self.compared = True
        said = f"KLD {ours:.3g} nats in its own engine, {stated:.3g} with the weights of its files in ordinary layers"
        self.checks.append(f"engine: {said}")
        if ours <= WORSE * stated + NOISE:
            return []
        text = "the engine does not compute what the files of the checkpoint say"
        advice = "try another kernel, or another version of the engine; the checkpoint is sound"
        return [Finding(self._spec.name, "what", text, said, advice, 0.97, "engine")]

    def _folder(self) -> Path:
        return Path(self._measured.engine.materialize(self._spec).path)

    def _divergence(self, spec: ModelSpec) -> float:
        step = replace(self._needs.variant, model=spec)
        observed = self._anew(step, self._fresh)
        return float(np.mean(observed.arrays["kld"]))

    def _refused(self, what: str, error: QuantgateError) -> None:
        if isinstance(error, ObservationError) and str(error).startswith(TOKENIZER):
            self.other_tokenizer = True
        self.checks.append(f"{what}: {error}")

    def _anew(self, step: Step, reference: Observation | None) -> Observation:
        """Make an observation of the first windows without asking the store, and without keeping it."""
        engine = self._measured.engine
        observer: Observer = load(step.observe)
        subject = _Subject(replace(engine.materialize(step.model), isolated=False), self._measured)
        with engine.narrator.working(f"{step.label} anew") as progress:
            return observer.observe(subject, _first(step.protocol, self._windows), reference, progress)

    def _tolerance(self) -> float:
        return TOLERANCE.get(self._spec.dtype, HALF_TOLERANCE)


@dataclass(frozen=True, slots=True)
class _Subject:
    spec: ModelSpec
    measured: Measurements

    @property
    def model(self) -> Model:
        return self.measured.engine.model(self.spec)


def _first(protocol: Protocol, windows: int) -> Protocol:
    """Return a protocol of tokens for its first windows."""
    limit = dict(protocol.parameters)["limit"]
    assert isinstance(limit, int)
    few = min(limit, windows) if limit else windows
    return replace(protocol, parameters=tuple(sorted({**dict(protocol.parameters), "limit": few}.items())))


def _beginning(stored: Observation, fresh: Observation) -> Observation:
    """Return of a stored pass of the baseline what a shorter one has."""
    arrays = {name: array[: len(fresh.arrays[name])] for name, array in stored.arrays.items()}
    return replace(stored, arrays=arrays)


def _gap(stored: Observation, fresh: Observation) -> float:
    """Return the mean difference of log-probabilities on the windows that both have, in nats; inf: other tokens."""
    ours, theirs = fresh.arrays["logprob"], stored.arrays["logprob"]
    if "ids" in fresh.arrays and not _same_ids(stored.arrays["ids"], fresh.arrays["ids"]):
        return float("inf")
    if len(theirs) < len(ours):
        return float("inf")
    return float(np.abs(theirs[: len(ours)].astype(np.float64) - ours).mean())


def _same_ids(stored: Any, fresh: Any) -> bool:
    return bool(len(stored) >= len(fresh) and np.array_equal(stored[: len(fresh)], fresh))


def _said(gap: float) -> str:
    if gap == float("inf"):
        return "other tokens than in the store"
    return f"log-probabilities differ from the stored ones by {gap:.2g} nats in the mean"
