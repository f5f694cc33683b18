"""Tensors by the module that they belong to, and how each module is packed. Pure.

What makes a module packed are its tensors' names and dtypes, never the configuration: the two are compared later.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_quantgate.checkpoint.headers import TensorInfo

__all__ = ["FLOATS", "LAYER", "Module", "is_end", "modules_of"]

FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
LAYER = re.compile(r"^(?:.*\.)?(?:layers|h|blocks|block)\.(\d{1,6})\.(.+)$")
"""A name inside a decoder layer: its number, and the rest."""

_ENDS = frozenset(
    ("lm_head", "embed_out", "embed_tokens", "wte", "output", "tok_embeddings", "word_embeddings")
)


@dataclass(frozen=True)
class Module:
    """The tensors of one module.

    Attributes:
        name: its dotted name; empty for tensors without one.
        parts: its tensors by what follows the name ("weight", "qweight", "weight.absmax").

    """

    name: str
    parts: Mapping[str, TensorInfo] = field(repr=False)

    @cached_property
    def packing(self) -> str:
        """How it is packed: "gptq" (also AWQ), "compressed", "torchao", "quanto", "bnb4", "bnb8", "fp8", "int8", ..."""
        parts = self.parts
        if parts.keys() & {"qweight", "qzeros", "g_idx"}:
            return "gptq"
        if parts.keys() & {"weight_packed", "weight_shape"}:
            return "compressed"
        if "_weight_qdata" in parts:
            return "torchao"
        if "weight._data" in parts:
            return "quanto"
        weight = parts.get("weight")
        return "" if weight is None else _packing_of_weight(weight, parts)

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(info.nbytes for info in self.parts.values())

    @property
    def file(self) -> str:
        """The file of one of its tensors."""
        return next(iter(self.parts.values())).file

    @cached_property
    def place(self) -> tuple[int, str] | None:
        """The decoder layer that it is in, and its name there; None outside of layers."""
        found = LAYER.match(self.name)
        return (int(found[1]), found[2]) if found else None


def _packing_of_weight(weight: TensorInfo, parts: Mapping[str, TensorInfo]) -> str:
    if weight.dtype == "U8":
        if any(part.startswith("weight.") for part in parts):
            return "bnb4"
        return "fp4" if "weight_scale" in parts or weight.shape[-1:] != (1,) else "bnb4"
    if weight.dtype in ("I8", "I32"):
        return "bnb8" if "SCB" in parts else "int8"
    return "fp8" if weight.dtype.startswith("F8_E") else ""


def is_end(name: str) -> bool:
    """Return whether a module is an embedding or an output head."""
    return name.rpartition(".")[2] in _ENDS


def modules_of(tensors: Mapping[str, TensorInfo]) -> dict[str, Module]:
    """Return the modules by name."""
    found: dict[str, dict[str, TensorInfo]] = {}
    for name, info in tensors.items():
        inner = name.find(".weight.")
        cut = inner if inner >= 0 else name.rfind(".")
        found.setdefault(name[: max(cut, 0)], {})[name[cut + 1 :]] = info
    return {name: Module(name, parts) for name, parts in found.items()}
