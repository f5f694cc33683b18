"""What Evalution measured: `evalution("gsm8k", metric="em")`, from a file of its results.

It is never measured here: `quantgate import evalution FILE --variant NAME` brings the figures, see `imports.evalution`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.spec import MetricDefinition, Protocol
from pytest_quantgate.tasks import scores
from pytest_quantgate.tasks.task import RELATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_quantgate.gate import Metric
    from pytest_quantgate.interfaces import Progress, Subject
    from pytest_quantgate.spec import Estimate, Observation, Scalar

__all__ = ["EVALUTION", "OBSERVER", "Evalution"]

EVALUTION = MetricDefinition(
    name="evalution",
    summary="a test of Evalution, from an imported file of its results",
    unit="",
    better="higher",
    observer="pytest_quantgate.metrics.evalution:OBSERVER",
    statistics=("", *scores.CHANGES),
    relations=RELATIONS,
    arguments=("of", "metric", "filter"),
    alone=scores.CHANGES,
    capability="other",
)


class Evalution:
    """Stands where an observer would: there is nothing that it could run."""

    kind = "evalution"
    device_bound = False
    paired = False
    order = 9
    settings: tuple[str, ...] = ()

    def protocol(self, arguments: Mapping[str, Scalar], settings: Mapping[str, Any], root: Path) -> Protocol:
        """Return what was asked for."""
        del settings, root
        return Protocol.of(self.kind, **arguments)

    def observe(
        self, subject: Subject, protocol: Protocol, reference: Observation | None, progress: Progress
    ) -> Observation:
        """Say how to get it.

        Raises:
            NotMeasurableError: always.

        """
        del protocol, reference, progress
        name = subject.spec.name
        raise NotMeasurableError(
            f"Evalution's figures are imported: quantgate import evalution FILE --variant {name}"
        )

    def estimate(self, metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate:
        """Compute it from imported answers; see `tasks.scores`."""
        plain = replace(metric, arguments=())  # the test's name is no subject
        return scores.estimate(plain, variant, baseline)


OBSERVER = Evalution()
