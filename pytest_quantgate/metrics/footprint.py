"""How much room a checkpoint takes. Read from file sizes and safetensors headers; no model is loaded.

disk             bytes of the weight files; lower is better.
weights_memory   bytes of all tensors as stored, parameters and buffers, tied weights once. What the weights
                 take in memory; activations and key-value cache come on top (see `vram`).
bits_per_weight  8 · weights_memory / (parameters of the baseline): scales, zero points and layers that were
                 left alone all count, so a "4-bit" model of 1.5 B parameters with a 16-bit head is well above
                 4. The parameters are the baseline's since a packed tensor does not say how many it holds.
                 exllamav3's qbench counts the decoder and the head apart; this is one number for the file.

Each has `.delta`, `.ratio` and `.drop` to the baseline.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_quantgate.checkpoint import preflight
from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.metrics.compared import compared
from pytest_quantgate.recipe import is_on_load
from pytest_quantgate.spec import Estimate, MetricDefinition, Observation, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_quantgate.checkpoint import Checkpoint
    from pytest_quantgate.gate import Metric
    from pytest_quantgate.interfaces import Progress, Subject
    from pytest_quantgate.spec import Scalar

__all__ = ["BITS_PER_WEIGHT", "DISK", "FOOTPRINT", "WEIGHTS_MEMORY", "Footprint"]

OBSERVER = "pytest_quantgate.metrics.footprint:FOOTPRINT"
RELATIONS = ("delta", "ratio", "drop")
HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"

DISK = MetricDefinition(
    name="disk",
    summary="size of the weight files",
    unit="B",
    better="lower",
    observer=OBSERVER,
    relations=RELATIONS,
)
WEIGHTS_MEMORY = MetricDefinition(
    name="weights_memory",
    summary="size of all tensors as stored",
    unit="B",
    better="lower",
    observer=OBSERVER,
    relations=RELATIONS,
)
BITS_PER_WEIGHT = MetricDefinition(
    name="bits_per_weight",
    summary="stored bits per parameter of the baseline, scales and unquantized layers included",
    unit="bit",
    better="lower",
    observer=OBSERVER,
    relations=RELATIONS,
)


class Footprint:
    """Observes what lies on the disk."""

    kind = "footprint"
    device_bound = False
    paired = False
    order = 1
    settings: tuple[str, ...] = ()

    def protocol(self, arguments: Mapping[str, Scalar], settings: Mapping[str, Any], root: Path) -> Protocol:  # noqa: ARG002
        """Return the one protocol there is."""
        return Protocol.of(self.kind)

    def observe(
        self, subject: Subject, protocol: Protocol, reference: Observation | None, progress: Progress
    ) -> Observation:
        """Read the headers. Facts: disk, weights_memory (bytes), parameters (of floating type), tensors, in_memory.

        What is quantized whenever it is loaded has the baseline's files: its weights are counted in memory.
        """
        del protocol, reference
        if subject.spec.backend == "server":  # its folder is the tokenizer's
            raise NotMeasurableError(
                "an endpoint shows no files: give the checkpoint as a variant of its own"
            )
        # whether pickles and code are wanted was decided when the model was configured; headers are harmless
        checkpoint = preflight(Path(subject.spec.path), allow_pickle=True, allow_code=True)
        progress(1, 1)
        tensors = _once(checkpoint)
        on_load = subject.spec.recipe is not None and is_on_load(subject.spec.recipe)
        weights = subject.model.findings().get("weight_bytes", 0) if on_load else None
        return Observation(
            facts={
                "disk": sum(checkpoint.weight_files.values()),
                "weights_memory": sum(info.nbytes for info in tensors.values())
                if weights is None
                else weights,
                "parameters": sum(
                    math.prod(info.shape) for info in tensors.values() if info.dtype.startswith(("F", "BF"))
                ),
                "tensors": len(tensors),
                "in_memory": subject.spec.dtype if on_load else "",
            }
        )

    def estimate(self, metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate:
        """Compute a footprint; see `interfaces.Observer.estimate`."""
        ours = _value(metric, variant, baseline)
        return compared(metric, ours, _value(metric, baseline, baseline) if baseline else None)


FOOTPRINT = Footprint()


def _once(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the tensors, without the copy of the embedding that some tools store for a tied head."""
    tensors = dict(checkpoint.tensors)
    tied = bool(checkpoint.config.get("tie_word_embeddings"))
    if tied and HEAD in tensors and any(name.endswith(EMBEDDING) for name in tensors):
        del tensors[HEAD]
    return tensors


def _value(metric: Metric, observation: Observation, baseline: Observation | None) -> Estimate:
    facts: Mapping[str, Any] = observation.facts
    if metric.name == "disk":
        return Estimate(float(facts["disk"]), "B", exact=True)
    note = f"in memory, what is not quantized as {facts['in_memory']}" if facts.get("in_memory") else ""
    if not facts["tensors"]:
        raise NotMeasurableError(
            f"{metric}: the weights are not safetensors, so their headers cannot be read"
        )
    if metric.name == "weights_memory":
        return Estimate(float(facts["weights_memory"]), "B", exact=True, note=note)
    parameters: Any = baseline.facts["parameters"] if baseline else 0
    if not parameters:
        raise NotMeasurableError(f"{metric} needs the baseline's number of parameters; configure a baseline")
    return Estimate(8 * float(facts["weights_memory"]) / parameters, "bit", exact=True, note=note)
