"""Where in the model it fails: weights by module, outputs by layer, and what carries the KL divergence.

Everything is an observation of its own in the store, so that a second look loads nothing. Only a checkpoint that the
transformers backend runs in this process can be looked into; of any other the reason is said.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_quantgate.errors import NotMeasurableError, QuantgateError
from pytest_quantgate.explain import where_layers, where_weights
from pytest_quantgate.explain.where_search import Restored, Search
from pytest_quantgate.explain.where_signs import signs
from pytest_quantgate.gate import Metric
from pytest_quantgate.report.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_quantgate.marks import Asked
    from pytest_quantgate.measurements import Measurements
    from pytest_quantgate.spec import Json, ModelSpec

__all__ = ["Where", "look", "models"]

HALF = 0.5
WORTH_NAMING = 0.25


@dataclass(frozen=True, slots=True)
class Where:
    """What was found in one variant.

    Attributes:
        variant: its name.
        findings: likeliest first.
        modules: a row per linear module; see `backends.weighing.weigh`.
        layers: a row per decoder layer: name, relative, added, cosine.
        restored: what was put back, and what that did.
        notes: what could not be looked at, and why.

    """

    variant: str
    findings: tuple[Finding, ...] = ()
    modules: tuple[Mapping[str, Any], ...] = ()
    layers: tuple[Mapping[str, Any], ...] = ()
    restored: tuple[Restored, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object of builtin types only, ready to be plotted; findings are told elsewhere."""
        return {
            "modules": [dict(row) for row in self.modules],
            "layers": [dict(row) for row in self.layers],
            "restored": [trial.to_json() for trial in self.restored],
            "notes": list(self.notes),
        }


def models(measured: Measurements, variant: str) -> tuple[ModelSpec, ModelSpec]:
    """Return a variant as it can be looked into, and the baseline in the type that the variant computes in.

    Raises:
        NotMeasurableError: one of them is not a checkpoint that lies here and runs in this process.

    """
    spec, baseline = measured.spec(variant), measured.baseline
    if baseline is None or not baseline.path:
        raise NotMeasurableError("there is no baseline here to compare with")
    if spec.python:
        raise NotMeasurableError(
            f"{variant}: it runs under {spec.python}, and layers are looked at in this process"
        )
    if spec.recipe is None and not spec.path:
        raise NotMeasurableError(f"{variant}: its weights are not here")
    like = replace(baseline, isolated=False, dtype=spec.dtype, device=spec.device)
    return replace(spec, isolated=False), like


def look(measured: Measurements, variant: str, failing: Sequence[Asked], windows: int) -> Where:
    """Look into a variant; nothing is raised for what cannot be looked at.

    Args:
        measured: the study's measurements.
        variant: its name.
        failing: the gates that do not hold.
        windows: of the corpus, for the search.

    """
    try:
        spec, baseline = models(measured, variant)
    except QuantgateError as error:
        return Where(variant, notes=(str(error),))
    notes: list[str] = []
    modules = _modules(measured, spec, baseline, notes)
    layers = _layers(measured, spec, baseline, notes)
    trials: list[Restored] = []
    if modules and layers:
        found = signs(variant, modules)
        names = [str(row["name"]) for row in sorted(layers, key=lambda row: -float(row["added"]))]
        packed = [str(row["name"]) for row in modules if row["sqnr"] < where_weights.EQUAL_DB]
        try:
            trials = Search(measured, spec, windows).run(names, packed, failing)
        except QuantgateError as error:
            notes.append(f"nothing was put back: {error}")
    else:
        found = signs(variant, modules)
    carried = _carried(variant, trials)
    findings = sorted((*found, *carried), key=lambda finding: -finding.weight)
    return Where(variant, tuple(findings), tuple(modules), tuple(layers), tuple(trials), tuple(notes))


def _modules(
    measured: Measurements, spec: ModelSpec, baseline: ModelSpec, notes: list[str]
) -> list[Mapping[str, Any]]:
    try:
        observed = measured.engine.observation(where_weights.step(spec, baseline))
    except QuantgateError as error:
        notes.append(f"weights: {error}")
        return []
    rows: Any = observed.facts["modules"]
    return list(rows)


def _layers(
    measured: Measurements, spec: ModelSpec, baseline: ModelSpec, notes: list[str]
) -> list[Mapping[str, Any]]:
    try:
        tokens = measured.wants.want(Metric("kld", (), "mean"), spec, baseline).protocol
        reference, ours = where_layers.steps(tokens, spec, baseline)
        measured.engine.observation(reference)
        observed = measured.engine.observation(ours)
    except QuantgateError as error:
        notes.append(f"outputs of layers: {error}")
        return []
    names: Any = observed.facts["layers"]
    relative = [float(value) for value in observed.arrays["relative"]]
    cosine = [float(value) for value in observed.arrays["cosine"]]
    before = [0.0, *relative]
    return [
        {
            "name": name,
            "relative": relative[place],
            "added": relative[place] ** 2 - before[place] ** 2,
            "cosine": cosine[place],
        }
        for place, name in enumerate(names)
    ]


def _carried(variant: str, trials: Sequence[Restored]) -> list[Finding]:
    """Return what the search says: the smallest part that carries most, or the parts with which the gates hold."""
    single = [trial for trial in trials if len(trial.names) == 1]
    if not single:
        return []
    largest = max(single, key=lambda trial: trial.share)
    inner = [trial for trial in single if trial.names[0].startswith(f"{largest.names[0]}.")]
    chosen = largest
    with suppress(ValueError):
        deepest = max(inner, key=lambda trial: trial.share)
        if deepest.share > HALF * largest.share:
            chosen = deepest
    if any(trial.holds for trial in single):
        chosen = next(trial for trial in single if trial.holds)
    together = [trial for trial in trials if len(trial.names) > 1 and trial.holds]
    if chosen.share < WORTH_NAMING and not chosen.holds and not together:
        return []
    return [_finding(variant, chosen, together)]


def _finding(variant: str, chosen: Restored, together: Sequence[Restored]) -> Finding:
    text = f"{_said(chosen.names)} carries {chosen.share:.0%} of the KL divergence"
    if chosen.holds:
        text += "; with it at full precision the gates hold"
    elif together:
        text += f"; with {_said(together[0].names)} at full precision the gates hold"
    elif chosen.holds is False:
        text += "; the gates fail even with it at full precision"
    evidence = f"KLD {chosen.kld:.3g} nats with it put back to the baseline's weights"
    advice = "give it more bits or a finer group_size, or leave it out of the quantization"
    weight = 0.3 + 0.3 * max(0.0, chosen.share) if chosen.share > HALF else 0.3
    return Finding(variant, "where", text, evidence, advice, weight, "sensitive_layer")


def _said(names: Sequence[str]) -> str:
    """Return parts for people: "layer 2 mlp.down_proj", "layers 0 and 2"."""
    short = [name.rpartition(".layers.")[2].split(".", 1) for name in names]
    if all(len(parts) == 1 for parts in short) and len(short) > 1:
        numbers = [parts[0] for parts in short]
        return f"layers {', '.join(numbers[:-1])} and {numbers[-1]}"
    return " and ".join(" ".join(["layer", *parts]) for parts in short)
