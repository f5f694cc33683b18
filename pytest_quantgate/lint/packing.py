"""The tensors of a packed module against each other and against the section: GPTQ and AWQ here. Pure.

A format stores a matrix of `outs` x `ins` as integers of 32 bits (in brackets the shape):

- GPTQ: qweight [ins * bits / 32, outs], scales [groups, outs], qzeros [groups, outs * bits / 32], g_idx [ins]
- AWQ "gemm": qweight [ins, outs * bits / 32], scales [groups, outs], qzeros [groups, outs * bits / 32]

with groups = ceil(ins / group_size), or 1 for group_size -1. So bits and group size can be read back from shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_quantgate.lint.finding import Finding
from pytest_quantgate.lint.modules import FLOATS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_quantgate.checkpoint.headers import TensorInfo
    from pytest_quantgate.lint.modules import Module
    from pytest_quantgate.lint.section import Section

__all__ = ["Packed", "Unpacking", "is_awq", "unpack_integers"]

WORD = {"I64": 64, "I32": 32, "U32": 32, "I16": 16, "I8": 8, "U8": 8}
_MOST_BITS = 16
_AGAIN = "quantize the model again, or correct the configuration"


@dataclass(frozen=True, slots=True)
class Packed:
    """What a packed module holds, as far as its tensors say it.

    Attributes:
        module: its name.
        outs: rows of the matrix, or None.
        ins: columns, or None.
        bits: per weight, or None.
        group: input widths that share a scale, -1 for all, or None.

    """

    module: str
    outs: int | None = None
    ins: int | None = None
    bits: int | None = None
    group: int | None = None


@dataclass(slots=True)
class Unpacking:
    """One module under examination: what is known of it, and the findings so far."""

    module: Module
    section: Section | None
    expected: tuple[int, int] | None
    findings: list[Finding] = field(default_factory=list)

    @property
    def parts(self) -> Mapping[str, TensorInfo]:
        """The module's tensors."""
        return self.module.parts

    def say(self, rule: str, part: str, text: str) -> None:
        """Report what is wrong with one of its tensors."""
        info = self.parts.get(part)
        name = f"{self.module.name}.{part}" if part else self.module.name
        self.findings.append(Finding(rule, info.file if info else self.module.file, text, _AGAIN, name))

    def need(self, *parts: str) -> bool:
        """Return whether tensors are there; report those that are not."""
        missing = [part for part in parts if part not in self.parts]
        for part in missing:
            self.say("QG113", part, "is missing")
        return not missing

    def shaped(self, part: str, *expected: Any) -> bool:
        """Return whether a tensor has a shape (None fits all); report it otherwise."""
        shape = self.parts[part].shape
        if len(shape) == len(expected) and all(e in (None, s) for s, e in zip(shape, expected, strict=True)):
            return True
        wanted = "x".join("any" if size is None else str(size) for size in expected)
        self.say("QG112", part, f"has the shape {list(shape)[:4]} (expected {wanted})")
        return False

    def typed(self, part: str, allowed: frozenset[str] | tuple[str, ...]) -> None:
        """Report a tensor whose dtype its format does not use."""
        dtype = self.parts[part].dtype
        if dtype not in allowed:
            self.say("QG114", part, f"is {dtype} (allowed: {', '.join(sorted(allowed))})")

    def compare_bits(self, part: str, implied: float) -> int | None:
        """Return the bits that shapes imply; report them if the section says others."""
        said = self.section.bits_of(self.module.name) if self.section else None
        if implied != int(implied) or not 1 <= implied <= _MOST_BITS:
            self.say("QG112", part, f"implies {implied:g} bits per weight, which no format has")
            return None
        if said is not None and said != implied:
            self.say("QG115", part, f"implies {implied:g} bits (the configuration says {said})")
        return int(implied)

    def compare_groups(self, part: str, groups: int, ins: int) -> int | None:
        """Return the group size that a count of groups implies; report it if the section says another."""
        said = self.section.group if self.section and not self.section.mixed else None
        if said is not None and not self._has_own_group():
            wanted = 1 if said == -1 else math.ceil(ins / said)
            if groups != wanted:
                text = f"has {groups} groups for {ins} inputs (expected {wanted}: group_size is {said})"
                self.say("QG116", part, text)
                return None
            return said
        return -1 if groups == 1 else math.ceil(ins / groups) if groups else None

    def _has_own_group(self) -> bool:
        section = self.section
        return section is not None and any(
            names.has(self.module.name) is not False for names, _, _ in section.dynamic
        )


def is_awq(module: Module, section: Section | None) -> bool:
    """Return whether a module with a qweight has AWQ's layout."""
    if section is not None and section.method in ("gptq", "awq"):
        return section.method == "awq"
    if section is not None and section.layout in ("gemm", "awq", "gemv"):
        return True
    qweight, scales = module.parts.get("qweight"), module.parts.get("scales")
    return qweight is not None and scales is not None and qweight.shape[-1:] != scales.shape[-1:]


def unpack_integers(at: Unpacking) -> Packed:
    """Return what a GPTQ or AWQ module holds."""
    awq = is_awq(at.module, at.section)
    needed = ["qweight", "scales", "qzeros"]
    if not awq and at.section is not None and at.section.desc_act:
        needed.append("g_idx")
    if not at.need(*needed):
        return Packed(at.module.name)
    at.typed("qweight", tuple(WORD))
    at.typed("scales", FLOATS)
    if not (at.shaped("qweight", None, None) and at.shaped("scales", None, None)):
        return Packed(at.module.name)
    if awq and at.section is not None and at.section.layout not in ("", "gemm", "awq"):
        return Packed(at.module.name)  # "gemv", "marlin": packed for one kernel, and differently
    return _awq(at) if awq else _gptq(at)


def _gptq(at: Unpacking) -> Packed:
    rows, outs = at.parts["qweight"].shape
    groups = at.parts["scales"].shape[0]
    ins = _inputs(at, rows)
    word = WORD.get(at.parts["qweight"].dtype, 32)
    at.shaped("scales", None, outs)
    if not ins:
        return Packed(at.module.name, outs)
    bits = at.compare_bits("qweight", rows * word / ins)
    if bits is not None:
        at.shaped("qzeros", groups, math.ceil(outs * bits / WORD.get(at.parts["qzeros"].dtype, 32)))
    return Packed(at.module.name, outs, ins, bits, at.compare_groups("scales", groups, ins))


def _inputs(at: Unpacking, rows: int) -> int | None:
    index = at.parts.get("g_idx")
    if index is not None and at.shaped("g_idx", None):
        return index.shape[0]
    if at.expected is not None:
        return at.expected[1]
    said = at.section.bits_of(at.module.name) if at.section else None
    return rows * WORD.get(at.parts["qweight"].dtype, 32) // said if said else None


def _awq(at: Unpacking) -> Packed:
    ins, columns = at.parts["qweight"].shape
    groups, outs = at.parts["scales"].shape
    word = WORD.get(at.parts["qweight"].dtype, 32)
    if not outs or not ins:
        return Packed(at.module.name)
    bits = at.compare_bits("qweight", columns * word / outs)
    at.shaped("qzeros", groups, columns)
    return Packed(at.module.name, outs, ins, bits, at.compare_groups("scales", groups, ins))
