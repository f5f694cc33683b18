"""The noise floor: the baseline against itself, under changes that should not matter.

What moves when nothing but the batch size, the attention implementation, the type or the hour has changed is no damage
of quantization. Each change is the baseline's own specification with another option, observed like any variant
against the whole baseline, on some windows of the corpus that a seed chooses; the observations are kept in the store
as the baseline's are. The floor of a metric is its largest distance from "nothing has changed" over these runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_quantgate.errors import NotMeasurableError, QuantgateError
from pytest_quantgate.spec import Estimate
from pytest_quantgate.stats import Shifted

if TYPE_CHECKING:
    from pytest_quantgate.engine import Engine
    from pytest_quantgate.gate import Comparison, Metric
    from pytest_quantgate.interfaces import Divisible, Observer
    from pytest_quantgate.plan import Needs
    from pytest_quantgate.spec import ModelSpec, Observation, Scalar, Step

__all__ = ["OVER_FLOOR", "Floor", "Known", "measure", "raw", "unchanged"]

OVER_FLOOR = "over_floor"
WINDOWS = 32


def _with(spec: ModelSpec, **options: Scalar) -> ModelSpec:
    return replace(spec, options=tuple(sorted({**dict(spec.options), **options}.items())))


CHANGES: Mapping[str, Callable[[ModelSpec], ModelSpec]] = {
    "a repeated run": lambda spec: _with(spec, repeat=1),
    "another batch size": lambda spec: _with(spec, tokens_at_once=1),
    "eager attention": lambda spec: _with(spec, attention="eager"),
    "another dtype": lambda spec: replace(spec, dtype="bfloat16" if spec.dtype == "float32" else "float32"),
}


def raw(metric: Metric) -> Metric:
    """Return the metric whose floor `metric.over_floor` takes off: the change of a perplexity, or the figure itself."""
    return replace(metric, relation="delta" if metric.name == "ppl" else "")


def unchanged(metric: Metric) -> float | None:
    """Return what a comparative metric is for a model that has not changed; None for an absolute one."""
    if metric.since:
        return None
    if metric.relation:
        still = {"delta": 0.0, "log_ratio": 0.0, "ratio": 1.0, "drop": 0.0, "recovery": 1.0}
        return still.get(metric.relation)
    if metric.statistic in {"flips", "lost", "won"}:
        return 0.0
    return {"kld": 0.0, "delta_p": 0.0, "top1_agreement": 1.0}.get(metric.name)


@dataclass(frozen=True, slots=True)
class Known:
    """A floor's height, and which change made it."""

    height: float
    change: str


@dataclass(frozen=True, slots=True)
class Floor:
    """What the changes did to one pass of the baseline."""

    observer: Divisible
    baseline: Observation
    runs: Mapping[str, Observation]
    left_out: Mapping[str, str]

    def of(self, metric: Metric) -> Known | None:
        """Return the floor of a comparative metric; None for an absolute one, or if nothing could be changed."""
        zero = unchanged(metric)
        if zero is None or not self.runs:
            return None
        plain: Observer = self.observer  # type: ignore[assignment]  # an observer that is divisible
        found = {
            change: abs(plain.estimate(metric, run, self.observer.aligned(self.baseline, run)).value - zero)
            for change, run in self.runs.items()
        }
        worst = max(found, key=found.__getitem__)
        return Known(found[worst], worst)

    def figure(self, metric: Metric) -> Estimate | None:
        """Return the floor as a figure of the baseline's row."""
        known = self.of(metric)
        unit = "nat" if metric.name == "kld" else ""
        note = f"noise floor: {known.change}" if known else ""
        return Estimate(known.height, unit, note=note) if known else None

    def excess(self, metric: Metric, found: Estimate) -> Estimate:
        """Return how far an estimate lies above the floor of its metric.

        Raises:
            NotMeasurableError: there is no floor.

        """
        known = self.of(raw(metric))
        if known is None:
            raise NotMeasurableError(f"{metric}: no noise floor could be measured ({self._why()})")
        by = known.height
        return replace(
            found,
            value=found.value - by,
            low=None if found.low is None else found.low - by,
            high=None if found.high is None else found.high - by,
            unpaired=None,
            sampling=None if found.sampling is None else Shifted(found.sampling, by),
            note="; ".join(filter(None, (f"above a floor of {by:.3g} ({known.change})", found.note))),
        )

    def refusal(self, comparison: Comparison) -> str:
        """Return why a limit is none: it lies below the floor; empty for one that does not."""
        zero, known = unchanged(comparison.metric), self.of(comparison.metric)
        if zero is None or known is None:
            return ""
        above = comparison.limit.si - zero
        room = above if comparison.operator in {"<", "<="} else -above
        if not 0 <= room < known.height:
            return ""
        return (
            f"its limit lies below the noise floor of {known.height:.3g}: the baseline itself misses it with"
            f" {known.change}; raise the limit"
        )

    def _why(self) -> str:
        return "; ".join(f"{change}: {reason}" for change, reason in self.left_out.items())


def measure(engine: Engine, needs: Needs, observer: Divisible, seed: int) -> Floor:
    """Observe the baseline under each change; one that this backend or machine cannot make is left out.

    Raises:
        QuantgateError: the baseline itself could not be observed.

    """
    reference: Step | None = needs.baseline
    if reference is None:
        raise NotMeasurableError("a noise floor is the baseline's; configure a baseline")
    whole = engine.observation(reference)
    windows = min(WINDOWS, observer.count(whole))
    protocol = observer.part(reference.protocol, seed, 0, windows)
    runs: dict[str, Observation] = {}
    left_out: dict[str, str] = {}
    for change, changed in CHANGES.items():
        model = replace(changed(reference.model), name=f"baseline with {change}")
        step = replace(reference, model=model, protocol=protocol, reference=reference.key)
        try:
            runs[change] = engine.observation(step)
        except QuantgateError as error:
            left_out[change] = str(error)
    return Floor(observer, whole, runs, left_out)
