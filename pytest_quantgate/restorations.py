"""Models that are partly put back: to the baseline's weights, or out of the engine's hands. The names only.

A restored model is an ordinary `ModelSpec` whose options hold `RESTORED` and `BASELINE`, so that its observations have
keys of their own and every metric works on it; `damages` does the same for what is broken on purpose. How a backend
brings it about is its own matter; see `backends/restoring.py`.

`FOLDER` says where the baseline lies. It belongs to the identity like any option, which costs no more than measuring
again after the folder has moved; what counts is `BASELINE`, the identity of its weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_quantgate.spec import ModelSpec, Scalar

__all__ = ["BASELINE", "DEQUANTIZED", "FOLDER", "OPTIONS", "RESTORED", "dequantized", "restored"]

RESTORED: Final = "restored"
BASELINE: Final = "restored_from"
FOLDER: Final = "restored_folder"
DEQUANTIZED: Final = "dequantized"
OPTIONS: Final = (RESTORED, BASELINE, FOLDER, DEQUANTIZED)


def restored(spec: ModelSpec, modules: Iterable[str], baseline: ModelSpec) -> ModelSpec:
    """Return the specification of a variant with some modules, by their names, as the baseline has them.

    A name stands for everything under it: "model.layers.2" for a whole decoder layer.
    """
    names = ",".join(sorted(set(modules)))
    return _with(spec, names, {RESTORED: names, BASELINE: baseline.weights, FOLDER: baseline.path})


def dequantized(spec: ModelSpec) -> ModelSpec:
    """Return the specification of the weights that a variant's files state, in ordinary linear layers.

    The reference engine is transformers; whatever the variant's own engine was asked for (a kernel …) is dropped.
    """
    bare = replace(spec, backend="transformers", options=())
    return _with(bare, "dequantized", {DEQUANTIZED: True})


def _with(spec: ModelSpec, what: str, options: dict[str, Scalar]) -> ModelSpec:
    merged = {**dict(spec.options), **options}
    return replace(spec, name=f"{spec.name}+{what}", options=tuple(sorted(merged.items())))
