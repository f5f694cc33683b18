"""Which parts carry the KL divergence: each is put back to full precision, and the variant is measured again.

The share that a part carries is 1 - KLD(variant with the part restored) / KLD(variant). Shares do not add up to one:
errors of several layers amplify or cancel each other. The search is greedy and bounded: decoder layers one at a time
(the ones that add most error first, where there are many), then the linear modules of the worst layer, then layers
together in the order of their shares until the gates hold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from pytest_quantgate.errors import NotMeasurableError, QuantgateError
from pytest_quantgate.gate import Metric
from pytest_quantgate.registry import load
from pytest_quantgate.restorations import restored

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_quantgate.interfaces import Observer
    from pytest_quantgate.marks import Asked
    from pytest_quantgate.measurements import Measurements
    from pytest_quantgate.spec import Estimate, Json, ModelSpec

__all__ = ["Restored", "Search"]

LAYERS: Final = 8
TOGETHER: Final = 4
LITTLE: Final = 1e-4
"""A KL divergence in nats below which there is nothing to carry."""


@dataclass(frozen=True, slots=True)
class Restored:
    """One trial: some parts at full precision.

    Attributes:
        names: the parts: "model.layers.2", "model.layers.2.mlp.down_proj".
        kld: the mean KL divergence that is left, in nats.
        share: of the variant's own that it carried; negative where it got worse.
        holds: whether the failing gates then hold; None where they were not judged again.

    """

    names: tuple[str, ...]
    kld: float
    share: float
    holds: bool | None = None

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object of builtin types only."""
        return {"names": list(self.names), "kld": self.kld, "share": self.share, "holds": self.holds}


@dataclass(frozen=True, slots=True)
class Search:
    """Puts parts of one variant back.

    Attributes:
        measured: the study's measurements.
        spec: the variant, in this process.
        windows: how many windows of the corpus the search looks at; the gates are judged on all of them.

    """

    measured: Measurements
    spec: ModelSpec
    windows: int

    def run(self, layers: Sequence[str], modules: Sequence[str], failing: Sequence[Asked]) -> list[Restored]:
        """Return the trials, the layers first.

        Args:
            layers: names of decoder layers, those that add most error first.
            modules: names of all linear modules.
            failing: the gates that do not hold.

        Raises:
            QuantgateError: the variant's own KL divergence cannot be measured.

        """
        whole = self._kld(self.spec)
        if whole < LITTLE:
            raise NotMeasurableError(f"its KL divergence of {whole:.2g} nats leaves nothing to carry")
        found = [self._tried((layer,), whole) for layer in layers[:LAYERS]]
        ranked = sorted(found, key=lambda trial: -trial.share)
        if not ranked:
            return []
        worst = ranked[0]
        inside = [name for name in modules if name.startswith(f"{worst.names[0]}.")]
        found += [self._tried((name,), whole) for name in inside]
        gates = [asked for asked in failing if self.sees(asked)]
        if gates:
            self._judge(found, ranked, whole, gates)
        return found

    def _judge(
        self, found: list[Restored], ranked: Sequence[Restored], whole: float, gates: Sequence[Asked]
    ) -> None:
        """Judge the best module and the best layer; then layers together until the gates hold."""
        modules = [trial for trial in found if trial not in ranked]
        best = [max(modules, key=lambda trial: trial.share)] if modules else []
        for trial in (*best, ranked[0]):
            held = self.holds(trial.names, gates)
            found[found.index(trial)] = replace(trial, holds=held)
            if held:
                return
        # never all of them: that a model without quantized layers passes is no news
        for count in range(2, min(TOGETHER, len(ranked) - 1) + 1):
            names = tuple(sorted(name for trial in ranked[:count] for name in trial.names))
            held = self.holds(names, gates)
            found.append(replace(self._tried(names, whole), holds=held))
            if held:
                return

    def sees(self, asked: Asked) -> bool:
        """Return whether a gate rests on a pass over the corpus alone, which is cheap to make again."""
        definitions = (self.measured.wants.definition(metric) for metric in asked.gate.metrics())
        observers: Iterable[Observer] = (load(definition.observer) for definition in definitions)
        return all(observer.kind == "tokens" for observer in observers)

    def holds(self, names: Iterable[str], gates: Sequence[Asked]) -> bool:
        """Return whether gates hold with some parts at full precision."""
        spec = self._restored(names)
        spec = replace(
            spec, name=f"{spec.name} (gates)"
        )  # a name of its own: not the search's pass made again

        def lookup(metric: Metric) -> Estimate | QuantgateError:
            try:
                return self.measured.estimate_of(spec, metric)
            except QuantgateError as error:
                return error

        return all(verdict.passed for verdict in self.measured.decide(gates, lookup))

    def _tried(self, names: tuple[str, ...], whole: float) -> Restored:
        left = self._kld(self._restored(names))
        return Restored(names, left, 1 - left / whole)

    def _restored(self, names: Iterable[str]) -> ModelSpec:
        baseline = self.measured.baseline
        assert baseline is not None
        return restored(self.spec, names, baseline)

    def _kld(self, spec: ModelSpec) -> float:
        metric = Metric("kld", (("limit", self.windows),), "mean")
        named = replace(spec, name=f"{spec.name} ({self.windows} windows)")
        return float(self.measured.estimate_of(named, metric).value)
