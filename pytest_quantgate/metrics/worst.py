"""The capability that suffers most: `worst_capability.drop < 0.05` bounds the drop of every task that is measured.

It is computed from the tasks' own observations, so it observes nothing: which tasks there are is known to the run, by
its gates and by `measure`. The interval is one for the largest of several drops (`stats.Largest`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_quantgate import figures
from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.spec import Estimate, MetricDefinition, Observation, Protocol
from pytest_quantgate.stats import Largest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_quantgate.gate import Metric
    from pytest_quantgate.interfaces import Progress, Subject
    from pytest_quantgate.spec import Scalar

__all__ = ["OBSERVER", "WORST_CAPABILITY", "Worst"]

LEVEL = 0.95

WORST_CAPABILITY = MetricDefinition(
    name="worst_capability",
    summary="the largest loss among all tasks that are measured",
    unit="",
    better="lower",
    observer="pytest_quantgate.metrics.worst:OBSERVER",
    relations=("drop",),
)


class Worst:
    """An `interfaces.Combining` observer."""

    kind = "worst"
    device_bound = False
    paired = False
    order = 9
    settings: tuple[str, ...] = ()

    def protocol(self, arguments: Mapping[str, Scalar], settings: Mapping[str, Any], root: Path) -> Protocol:
        """Return an empty one: there is nothing to set."""
        del arguments, settings, root
        return Protocol.of(self.kind)

    def observe(
        self, subject: Subject, protocol: Protocol, reference: Observation | None, progress: Progress
    ) -> Observation:
        """Observe nothing."""
        del subject, protocol, reference, progress
        return Observation()

    def estimate(self, metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate:
        """Refuse: the tasks' estimates are what it is computed from.

        Raises:
            NotMeasurableError: always.

        """
        del variant, baseline
        raise NotMeasurableError(f"{metric} needs the tasks that were measured")

    def combined(self, found: Mapping[Metric, Estimate]) -> Estimate:
        """Return the largest of several drops, and which it is."""
        metric = max(found, key=lambda one: found[one].value)
        worst = found[metric]
        samplings = [one.sampling for one in found.values()]
        known = [sampling for sampling in samplings if sampling is not None]
        sampling = Largest(tuple(known)) if len(known) == len(samplings) else None
        others = f"the largest of {len(found)} drops" if len(found) > 1 else "the only task"
        note = f"{metric}: {figures.significant(worst.value)}, {others}"
        return replace(worst, sampling=sampling, note=note, unpaired=None, low=None, high=None).at(LEVEL)


OBSERVER = Worst()
