"""The observation behind "where": every linear module's weights against the baseline's.

The baseline's weights are read from its files, tensor by tensor; only the variant is loaded. Each row of the fact
`modules` is one module; its fields are said in `backends.weighing.weigh`. Signal to quantization noise, in dB:

    sqnr = 10 log10(sum w^2 / sum (w - q)^2)

with w the baseline's weights and q what the variant's files or, where those cannot be read apart, its engine make of
them. Round-to-nearest at b bits gives about 6 b - 5 dB for weights that are normally distributed in groups of 128.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.registry import load
from pytest_quantgate.spec import Observation, Protocol, Step

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_quantgate.gate import Metric
    from pytest_quantgate.interfaces import Progress, Subject
    from pytest_quantgate.spec import Estimate, ModelSpec, Scalar

__all__ = ["WEIGHTS", "Weights", "step"]

OBSERVER = "pytest_quantgate.explain.where_weights:WEIGHTS"
VERSION = 1
EQUAL_DB = 100.0
"""Above this two matrices are the same."""


class Weights:
    """Observes the weights of a variant beside those of the baseline."""

    kind = "weights"
    device_bound = False
    paired = False
    order = 1
    settings: tuple[str, ...] = ()

    def protocol(self, arguments: Mapping[str, Scalar], settings: Mapping[str, Any], root: Path) -> Protocol:
        """Return the protocol without a baseline, which `step` adds."""
        del arguments, settings, root
        return Protocol.of(self.kind, version=VERSION)

    def observe(
        self, subject: Subject, protocol: Protocol, reference: Observation | None, progress: Progress
    ) -> Observation:
        """Compare every linear module; see `backends.weighing.weigh`."""
        del reference
        folder = str(dict(protocol.places)["baseline"])
        weigh = load("pytest_quantgate.backends.weighing:weigh")
        return Observation({}, {"modules": weigh(subject.model, folder, progress)})

    def estimate(self, metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate:
        """Raise: a table is no number."""
        del variant, baseline
        raise NotMeasurableError(f"{metric}: the comparison of weights gives a table, not a number")


WEIGHTS = Weights()


def step(variant: ModelSpec, baseline: ModelSpec) -> Step:
    """Return the step that compares a variant's weights with the baseline's."""
    protocol = Protocol(
        WEIGHTS.kind,
        (("baseline", baseline.weights), ("version", VERSION)),
        places=(("baseline", baseline.path),),
    )
    return Step(OBSERVER, variant, protocol)
