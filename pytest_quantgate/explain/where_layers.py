"""The observation behind "where": the output of every decoder layer against the baseline's, on a few windows.

The baseline's hidden states h are kept at some positions of the first windows, so that only one model is in memory at a
time. For layer l and positions t, the variant's g:

    relative_l = sqrt(sum_t |g - h|^2 / sum_t |h|^2)        cosine_l = mean_t g.h / (|g| |h|)

Errors accumulate from layer to layer: what a layer adds is `added` = relative_l^2 - relative_(l-1)^2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pytest_quantgate.errors import NotMeasurableError, ObservationError
from pytest_quantgate.metrics.corpus import Corpus, digest_of
from pytest_quantgate.metrics.windows import cut, stream
from pytest_quantgate.registry import load
from pytest_quantgate.spec import Observation, Protocol, Step

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pytest_quantgate.gate import Metric
    from pytest_quantgate.interfaces import Progress, Subject
    from pytest_quantgate.spec import Estimate, IntArray, Json, ModelSpec, Scalar

__all__ = ["LAYERS", "Layers", "steps"]

OBSERVER = "pytest_quantgate.explain.where_layers:LAYERS"
VERSION: Final = 1
WINDOWS: Final = 4
ROWS: Final = 256
"""Positions in all: 33 layers of width 4,096 make 138 MB of them."""


class Layers:
    """Observes the outputs of decoder layers."""

    kind = "layers"
    device_bound = False
    paired = True
    order = 2
    settings: tuple[str, ...] = ()

    def protocol(self, arguments: Mapping[str, Scalar], settings: Mapping[str, Any], root: Path) -> Protocol:
        """Raise: it follows from a protocol of tokens; see `steps`."""
        del arguments, settings, root
        raise NotMeasurableError("the outputs of layers are looked at by quantgate explain only")

    def observe(
        self, subject: Subject, protocol: Protocol, reference: Observation | None, progress: Progress
    ) -> Observation:
        """Keep hidden (L, R, width) float32 and ids (N,) of the baseline; relative and cosine (L,) of a variant."""
        windows = _windows(subject, protocol)
        hidden, names = load("pytest_quantgate.backends.layers:states")(
            subject.model, windows, protocol["rows"]
        )
        progress(1, 1)
        listed: list[Json] = list(names)
        ids = np.concatenate(windows).astype(np.int64)
        if reference is None:
            return Observation({"hidden": hidden, "ids": ids}, {"layers": listed})
        if not np.array_equal(ids, reference.arrays["ids"]):
            raise ObservationError(f"the tokenizer of {subject.spec.name} differs from the baseline's")
        return Observation(_errors(hidden, reference.arrays["hidden"]), {"layers": listed})

    def estimate(self, metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate:
        """Raise: a table is no number."""
        del variant, baseline
        raise NotMeasurableError(f"{metric}: the comparison of layers gives a table, not a number")


LAYERS = Layers()


def steps(tokens: Protocol, variant: ModelSpec, baseline: ModelSpec) -> tuple[Step, Step]:
    """Return the baseline's step and the variant's, on the first windows of a protocol of tokens."""
    parameters: dict[str, Json] = {
        **dict(tokens.parameters),
        "limit": WINDOWS,
        "rows": ROWS,
        "version": VERSION,
    }
    protocol = Protocol(LAYERS.kind, tuple(sorted(parameters.items())), places=tokens.places)
    reference = Step(OBSERVER, baseline, protocol)
    return reference, Step(OBSERVER, variant, protocol, reference=reference.key)


def _windows(subject: Subject, protocol: Protocol) -> list[IntArray]:
    model, places = subject.model, dict(protocol.places)
    corpus: Any = places["corpus"]
    text = Corpus(**corpus).read()
    if digest_of(text) != protocol["corpus"]:
        raise ObservationError(f"{Corpus(**corpus)} has changed since this run was planned; start it again")
    ids = stream(model.encode(text), protocol["bos"], model.bos_id)
    windows, _ = cut(ids, dict(protocol.parameters), model.bos_id)
    if not windows:
        raise ObservationError(f"{Corpus(**corpus)} is shorter than one window; set window or give more text")
    return [window.ids for window in windows]


def _errors(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    if ours.shape != theirs.shape:
        raise ObservationError(
            f"its layers give {ours.shape} (layers, positions, width), the baseline's {theirs.shape}:"
            " another architecture, or another tokenizer"
        )
    one, other = ours.astype(np.float64), theirs.astype(np.float64)
    relative = np.sqrt(((one - other) ** 2).sum((1, 2)) / np.maximum((other**2).sum((1, 2)), 1e-300))
    sizes = np.linalg.norm(one, axis=2) * np.linalg.norm(other, axis=2)
    cosine = ((one * other).sum(2) / np.maximum(sizes, 1e-300)).mean(1)
    return {"relative": relative, "cosine": cosine}
