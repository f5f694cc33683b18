"""Steps run in this process, one loaded model at a time; the model itself may lie in another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from pytest_quantgate.errors import WorkerError
from pytest_quantgate.interfaces import Model, Observer, Progress
from pytest_quantgate.spec import ModelSpec, Observation, Step

__all__ = ["Local"]

Load: TypeAlias = Callable[[ModelSpec], Model]


class Local:
    """Holds at most one loaded model: asking for another closes the first, before the next one is loaded."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._held: Model | None = None
        self._lost: dict[ModelSpec, WorkerError] = {}

    def run(
        self, observer: Observer, step: Step, reference: Observation | None, progress: Progress
    ) -> Observation:
        """Make one observation; the model is loaded only if the observer asks for it.

        If its process dies the next step gets a new one.
        """
        try:
            return observer.observe(_Subject(step.model, self.model), step.protocol, reference, progress)
        except WorkerError:
            self.close()
            raise

    def model(self, spec: ModelSpec) -> Model:
        """Return the loaded model, loading it unless it is the one that is held.

        Raises:
            WorkerError: its process died as it loaded, now or before: it is not tried twice.

        """
        if self._held is None or self._held.spec != spec or getattr(self._held, "ended", False):
            self.close()
            if spec in self._lost:
                raise self._lost[spec]
            try:
                self._held = self._load(spec)
            except WorkerError as error:
                self._lost[spec] = error
                raise
        return self._held

    def close(self) -> None:
        """Free the model that is held, if any."""
        held, self._held = self._held, None
        if held is not None:
            held.close()


@dataclass(frozen=True, slots=True)
class _Subject:
    spec: ModelSpec
    load: Load

    @property
    def model(self) -> Model:
        return self.load(self.spec)
