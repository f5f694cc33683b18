"""Bytes against bits: does the checkpoint take what its bits say? Pure.

Bits per weight are 8 x bytes of a module's tensors / (outs x ins), so scales, zero points and order count as what they
cost. Of dense modules every element of a matrix is a weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_quantgate.lint.finding import Finding
from pytest_quantgate.lint.modules import is_end

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_quantgate.lint.folder import Folder
    from pytest_quantgate.lint.packing import Packed

__all__ = ["Facts", "check_sizes", "facts_of"]

_DENSE = 16


@dataclass(frozen=True, slots=True)
class Facts:
    """What a checkpoint takes.

    Attributes:
        quantization: the section in words; empty for a dense model.
        nbytes: bytes of all tensors.
        weights: elements of all matrices; packed ones count unpacked, where their size is known.
        packed: how many modules are packed.
        packed_bits: bits per weight of the packed modules, everything they need included; None without any.
        bits: bits per weight of all matrices; None if there are none.
        inner_bits: the same without embedding and output head.

    """

    quantization: str
    nbytes: int
    weights: int
    packed: int
    packed_bits: float | None
    bits: float | None
    inner_bits: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object of builtin types only."""
        return {
            "quantization": self.quantization,
            "bytes": self.nbytes,
            "weights": self.weights,
            "packed_modules": self.packed,
            "bits_per_packed_weight": self.packed_bits,
            "bits_per_weight": self.bits,
        }

    def sentence(self) -> str:
        """Return it as one line."""
        words = [self.quantization or "dense", f"{self.nbytes / 1e9:.3g} GB"]
        words += [f"{self.bits:.2f} bits per weight"] if self.bits else []
        words += [f"{self.packed_bits:.2f} in {self.packed} packed modules"] if self.packed_bits else []
        return ", ".join(words)


def facts_of(folder: Folder, packed: Mapping[str, Packed]) -> Facts:
    """Count bytes and weights."""
    sums = {"packed": [0, 0], "all": [0, 0], "inner": [0, 0]}
    for name, module in folder.modules.items():
        count, nbytes = _weights_of(folder, name, packed), module.nbytes
        if not count:
            continue
        kinds = ["all"] + ["packed"] * (name in packed) + ["inner"] * (not is_end(name))
        for kind in kinds:
            sums[kind][0] += nbytes
            sums[kind][1] += count
    rates = {kind: round(8 * nbytes / count, 4) if count else None for kind, (nbytes, count) in sums.items()}
    return Facts(
        quantization=folder.section.sentence() if folder.section else "",
        nbytes=sum(info.nbytes for info in folder.tensors.values()),
        weights=sums["all"][1],
        packed=sum(bool(module.packing) for module in folder.modules.values()),
        packed_bits=rates["packed"],
        bits=rates["all"],
        inner_bits=rates["inner"],
    )


def _weights_of(folder: Folder, name: str, packed: Mapping[str, Packed]) -> int:
    found = packed.get(name)
    if found is not None:
        return found.outs * found.ins if found.outs and found.ins else 0
    info = folder.modules[name].parts.get("weight")
    return math.prod(info.shape) if info is not None and len(info.shape) > 1 else 0


def check_sizes(folder: Folder, facts: Facts) -> Iterator[Finding]:
    """Compare the bits that are taken with those that are said."""
    said = folder.section.bits if folder.section else None
    if said is None or facts.inner_bits is None or not facts.packed or not folder.weights.complete:
        return
    # half way to dense: more than half of what the layers hold was left as it was
    limit = (said + _DENSE) / 2
    if facts.inner_bits > limit:
        text = (
            f"takes {facts.inner_bits:.1f} bits per weight in its layers (it says {said}; allowed: {limit:g})"
        )
        yield Finding("QG501", "", text, "quantize the modules that were left dense")
