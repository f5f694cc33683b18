"""Which kernels can run a checkpoint, from bits, group size, symmetry and widths. Pure.

Sources, read in 2026-11: the limits that GPTQModel 7.6.0 declares in nn_modules/qlinear/{marlin,machete,exllamav2,
tritonv2,gemm_awq}.py; vLLM's marlin_utils.py (group sizes -1, 32, 64, 128; output widths divisible by 64, input widths
by 128); "Supported hardware" of vLLM's documentation, v0.15 (AWQ and INT8 from compute capability 7.5, Marlin from
8.0, FP8 arithmetic from 8.9), for bits 2 and 3 its GPTQ kernel. A kernel of a later version may do more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_quantgate.lint.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_quantgate.lint.folder import Folder
    from pytest_quantgate.lint.packing import Packed
    from pytest_quantgate.lint.section import Section

__all__ = ["KERNELS", "Kernel", "check_kernels", "kernels_for"]

_GROUPS = (-1, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel and what it can run.

    Attributes:
        name: as engines call it.
        methods: quantization methods; of compressed-tensors the formats.
        bits: bits per weight.
        groups: group sizes; empty for any.
        asymmetric: whether it subtracts zero points.
        ins: divisor of the input widths.
        outs: divisor of the output widths.
        capability: CUDA compute capability, at least.
        fast: False for kernels that unpack first and are kept for what no other runs.

    """

    name: str
    methods: tuple[str, ...]
    bits: tuple[int, ...]
    groups: tuple[int, ...] = _GROUPS
    asymmetric: bool = True
    ins: int = 1
    outs: int = 1
    capability: str = "8.0"
    fast: bool = True


KERNELS = (
    Kernel("Marlin", ("gptq",), (4, 8), asymmetric=False, ins=128, outs=64),
    Kernel("Marlin", ("awq", "pack-quantized"), (4, 8), ins=128, outs=64),
    Kernel("Machete", ("gptq",), (4, 8), (-1, 64, 128), ins=64, outs=128, capability="9.0"),
    Kernel("Machete", ("awq",), (4, 8), ins=64, outs=128, capability="9.0"),
    Kernel("ExLlamaV2", ("gptq", "awq"), (4,), ins=32, outs=32, capability="7.0"),
    Kernel("AWQ GEMM", ("awq",), (4,), (), outs=8, capability="7.5"),
    Kernel(
        "vLLM GPTQ",
        ("gptq",),
        (2, 3, 4, 8),
        (),
        asymmetric=False,
        ins=32,
        outs=32,
        capability="7.0",
        fast=False,
    ),
    Kernel("Triton", ("gptq",), (2, 4, 8), (*_GROUPS, 16, 256, 512, 1024), ins=32, outs=32, fast=False),
    Kernel("FP8", ("fp8", "float-quantized"), (8,), (), capability="8.9"),
    Kernel("FP8 Marlin, weights only", ("fp8", "float-quantized"), (8,), ()),
    Kernel("INT8", ("int-quantized",), (8,), (), capability="7.5"),
)
"""Kernels by falling speed, roughly."""


def kernels_for(section: Section, packed: Mapping[str, Packed]) -> tuple[list[Kernel], dict[str, list[str]]]:
    """Return the kernels that can run the format, and by name the modules whose widths each cannot split."""
    fits = [kernel for kernel in KERNELS if _runs(kernel, section)]
    refused = {
        kernel.name: [
            found.module
            for found in packed.values()
            if found.ins and found.outs and (found.ins % kernel.ins or found.outs % kernel.outs)
        ]
        for kernel in fits
    }
    return fits, refused


def _method(section: Section) -> str:
    return section.layout if section.method == "compressed-tensors" else section.method


def _runs(kernel: Kernel, section: Section) -> bool:
    return (
        _method(section) in kernel.methods
        and (section.bits is None or section.bits in kernel.bits)
        and (section.group is None or not kernel.groups or section.group in kernel.groups)
        and (kernel.asymmetric or section.symmetric is not False)
    )


def check_kernels(folder: Folder, packed: Mapping[str, Packed]) -> Iterator[Finding]:
    """Say which kernels cannot run it, and what the format needs."""
    section = folder.section
    if section is None or not any(_method(section) in kernel.methods for kernel in KERNELS) or not packed:
        return
    fits, refused = kernels_for(section, packed)
    fast = [kernel for kernel in fits if kernel.fast]
    yield from _slow(section, fits, fast)
    if fast and all(refused[kernel.name] for kernel in fast):
        kernel = fast[0]
        module = packed[refused[kernel.name][0]]
        text = (
            f"is {module.outs}x{module.ins}, which {', '.join(k.name for k in fast)} cannot split "
            f"({kernel.name}: outputs by {kernel.outs}, inputs by {kernel.ins}; {len(refused[kernel.name])} modules)"
        )
        yield Finding(
            "QG702", folder.modules[module.module].file, text, "expect a slower kernel", module.module
        )
    yield from _groups(folder, section, packed)
    if fast:
        text = f"is run by {', '.join(f'{k.name} (from {k.capability})' for k in fast)}"
        lowest = min(kernel.capability for kernel in fast)
        yield Finding("QG704", "", text, f"use a GPU of compute capability {lowest} or above")


def _slow(section: Section, fits: list[Kernel], fast: list[Kernel]) -> Iterator[Finding]:
    if not fast:
        symmetry = " asymmetric" if section.symmetric is False else ""
        others = f"; {', '.join(kernel.name for kernel in fits)} can, slower" if fits else ""
        text = f"says {section.sentence()}{symmetry}, which no fast kernel runs{others}"
        yield Finding("QG701", section.file, text, "use 4 or 8 bits with group size 128, 64 or 32 and sym")
    if section.method == "gptq" and section.desc_act and section.group == -1:
        text = "says desc_act with group_size -1, where the order changes nothing at run time"
        yield Finding("QG703", section.file, text, "use a group size, or desc_act false")
    if section.method == "gptq" and section.symmetric is False and section.layout in ("", "gptq"):
        text = (
            "says sym false in the format gptq, whose stored zero points are one off and overflow at the edge"
        )
        yield Finding("QG705", section.file, text, "save it as gptq_v2, or quantize with sym")


def _groups(folder: Folder, section: Section, packed: Mapping[str, Packed]) -> Iterator[Finding]:
    size = section.group
    if size is None or size <= 0:
        return
    for found in packed.values():
        if found.ins and found.ins % size:
            text = f"has {found.ins} inputs, which group_size {size} does not divide"
            advice = "use a group size that divides every width"
            yield Finding("QG117", folder.modules[found.module].file, text, advice, found.module)
