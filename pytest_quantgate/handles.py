"""What the fixtures hand to a test: a variant, its model, the baseline, measuring. Making one loads nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_quantgate.gate import Gate, Metric
    from pytest_quantgate.interfaces import Model
    from pytest_quantgate.measurements import Measurements
    from pytest_quantgate.session import Session
    from pytest_quantgate.spec import Estimate, ModelSpec, Recipe

__all__ = ["Baseline", "QuantVariant", "Quantgate", "QuantizedModel"]


@dataclass(frozen=True, slots=True)
class QuantVariant:
    """A configured variant, nothing loaded."""

    name: str
    measurements: Measurements

    @property
    def spec(self) -> ModelSpec:
        """What it is: identity of the weights, type it computes in, engine.

        Raises:
            CheckpointError: its checkpoint is missing, damaged or refused.

        """
        return self.measurements.spec(self.name)

    @property
    def recipe(self) -> Recipe | None:
        """How it is made; None for a checkpoint that exists."""
        return self.spec.recipe

    def measure(self, metric: Metric) -> Estimate:
        """Return a metric of this variant, from the store where it is there.

        Raises:
            QuantgateError: why there is no such number.

        """
        return self.measurements.estimate(self.name, metric)


@dataclass(frozen=True, slots=True)
class QuantizedModel:
    """A variant whose model is loaded when it is first touched: a test whose body is empty loads nothing."""

    variant: QuantVariant

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.variant.name

    @property
    def recipe(self) -> Recipe | None:
        """How it is made; None for a checkpoint that exists."""
        return self.variant.recipe

    @property
    def path(self) -> Path:
        """The checkpoint's folder; a recipe is quantized first, unless the store has the result."""
        return Path(self.variant.measurements.engine.materialize(self.variant.spec).path)

    @property
    def loaded(self) -> Model:
        """The model as the backend gives it: `encode`, `score`, `generate`."""
        return self.variant.measurements.engine.model(self.variant.spec)

    @property
    def model(self) -> Any:
        """The engine's own model, e.g. a `transformers.PreTrainedModel`."""
        return self.loaded.native

    @property
    def tokenizer(self) -> Any:
        """The engine's own tokenizer."""
        return self.loaded.tokenizer


@dataclass(frozen=True, slots=True)
class Baseline:
    """Measurements of the unquantized model; with a warm store, nothing is loaded."""

    measurements: Measurements

    def measure(self, metric: Metric) -> Estimate:
        """Return an absolute metric of the baseline.

        Raises:
            QuantgateError: why there is no such number.

        """
        return self.measurements.baseline_estimate(metric)


@dataclass(frozen=True, slots=True)
class Quantgate:
    """Measures and judges the variant of the running test."""

    variant: QuantVariant
    session: Session

    def measure(self, metric: Metric) -> Estimate:
        """Return a metric of the variant.

        Raises:
            QuantgateError: why there is no such number.

        """
        return self.variant.measure(metric)

    def check(self, *gates: Gate | str, confidence: float | None = None) -> None:
        """Require gates: the test fails, or is skipped where they cannot be measured, with the reason.

        With a `confidence` the interval at that level decides; by default as `--quantgate-confidence` says.

        Raises:
            UsageError: an argument is no gate, or no confidence.

        """
        self.session.require(self.variant.name, gates, confidence)
