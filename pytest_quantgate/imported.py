"""Results that other tools measured, in the place of observations of our own.

`quantgate import` keeps them in the store under the name of a model: a results file does not say which weights it is
of, so whoever imports it does. A metric that was imported for a variant is not measured, and its figure says where it
is from.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.gate import Metric
from pytest_quantgate.imports.values import LEVEL, Normal
from pytest_quantgate.metrics.compared import compared
from pytest_quantgate.spec import Estimate, ModelSpec, Observation, Protocol, Step

if TYPE_CHECKING:
    from pytest_quantgate.imports.values import Imported
    from pytest_quantgate.spec import Json

__all__ = ["IMPORTED", "check_alike", "figure", "observation_of", "origin", "step_of"]

IMPORTED = "imported"
_Z = 1.959963984540054
_COMPARED = (
    "items",
    "shots",
    "limit",
    "version",
    "task_hash",
    "chat_template_sha",
    "dataset_name",
    "n_ctx",
    "chunks",
)
_USUAL = {("metric", "acc"), ("filter", "none")}
"""Arguments that lm_eval takes by default: with or without them it is the same metric."""


def step_of(model: str, metric: Metric) -> Step:
    """Return the step under which a metric of a model is kept; `metric` without subject, statistic and relation."""
    arguments = tuple(pair for pair in metric.arguments if pair not in _USUAL)
    key = Metric(metric.name, arguments).key
    spec = ModelSpec(model, IMPORTED, f"{IMPORTED}:{model}")
    return Step("pytest_quantgate.imported:figure", spec, Protocol.of(IMPORTED, metric=key))


def observation_of(found: Imported, file: str, digest: str) -> Observation:
    """Return what is kept of an imported metric."""
    about: dict[str, Json] = {
        "file": file,
        "sha256": digest,
        "made_by": found.made_by,
        "protocol": dict(found.protocol),
    }
    figures: dict[str, Json] = {key: value.to_json() for key, value in found.figures.items()}
    own = found.observation or Observation()
    return Observation(own.arrays, {**own.facts, "figures": figures, IMPORTED: about})


def origin(observation: Observation) -> str:
    """Return where an imported observation is from, for people."""
    about: Any = observation.facts[IMPORTED]
    return f"imported from {about['file']} ({about['made_by']})"


def check_alike(metric: Metric, variant: Observation, baseline: Observation) -> None:
    """Refuse two results that were not measured alike.

    Raises:
        NotMeasurableError: names what differs.

    """
    ours, theirs = ({**one.facts, **_protocol(one)} for one in (variant, baseline))
    for name in _COMPARED:
        if name in ours and name in theirs and ours[name] != theirs[name]:
            what = (
                "the two files are not of the same items"
                if name == "items"
                else (f"{name} is {ours[name]} in one file and {theirs[name]} in the other")
            )
            raise NotMeasurableError(f"{metric}: {what}; {origin(variant)} and {origin(baseline)}")


def _protocol(observation: Observation) -> dict[str, Any]:
    about: Any = observation.facts[IMPORTED]
    return dict(about["protocol"])


def figure(metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate:
    """Return a metric from figures that another tool computed.

    Raises:
        NotMeasurableError: the file does not hold it, or it takes a result of the baseline that was not imported.

    """
    stated = _stated(metric.statistic, metric.relation, variant)
    if stated is None and metric.relation:
        stated = _related(metric, variant, baseline)
    if stated is None:
        held: Any = variant.facts["figures"]
        known = ", ".join(key.replace("|", ".") or metric.name for key in held)
        raise NotMeasurableError(f"{metric}: {origin(variant)}, which holds only {known}")
    return stated


def _stated(statistic: str, relation: str, observation: Observation) -> Estimate | None:
    figures: Any = observation.facts["figures"]
    found = figures.get(f"{statistic}|{relation}" if relation else statistic)
    if found is None:
        return None
    estimate = Estimate.from_json(found)
    if estimate.low is None or estimate.high is None or estimate.confidence != LEVEL:
        return estimate
    error = (estimate.high - estimate.low) / (2 * _Z)
    return replace(estimate, sampling=Normal(estimate.value, error)) if error > 0 else estimate


def _related(metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate | None:
    """Return a relation of two results: unpaired, since neither file says what happened to each item."""
    if baseline is None:
        raise NotMeasurableError(
            f"{metric}: the baseline's result was not imported; quantgate import FORMAT FILE --variant baseline"
        )
    ours, theirs = (_stated(metric.statistic, "", one) for one in (variant, baseline))
    if ours is None or theirs is None:
        return None
    found = replace(compared(metric, ours, theirs), note="from two separate results: unpaired")
    if metric.relation in ("delta", "drop") and all(
        isinstance(one.sampling, Normal) for one in (ours, theirs)
    ):
        error = math.hypot(*(one.sampling.error for one in (ours, theirs)))  # type: ignore[union-attr]
        return replace(found, sampling=Normal(found.value, error)).at(LEVEL)
    return found
