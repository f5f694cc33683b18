"""What the quantization section says against what is packed: every layer that it names, and no other. Pure."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from pytest_quantgate.lint.finding import Finding
from pytest_quantgate.lint.folder import QUANTO
from pytest_quantgate.lint.modules import FLOATS, is_end
from pytest_quantgate.lint.packing import is_awq
from pytest_quantgate.lint.section import ON_LOAD, PACKED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_quantgate.lint.folder import Folder
    from pytest_quantgate.lint.modules import Module
    from pytest_quantgate.lint.packing import Packed
    from pytest_quantgate.lint.section import Section

__all__ = ["check_coverage", "check_section"]

_AGAIN = "quantize the model again, or correct the configuration"
_COPY = "copy the quantization section into config.json"
_PROJECTION = re.compile(r"(?:^|\.)(?:[qkvo]_proj|gate_proj|up_proj|down_proj|gate_up_proj|qkv_proj)$")
_NEEDED = {"gptq": ("bits", "group_size"), "awq": ("bits", "group_size")}
_DEFAULTED = {"gptq": ("desc_act", "sym"), "awq": ("zero_point",)}
_ALSO = {"bits": ("w_bit",), "group_size": ("q_group_size",), "zero_point": ("sym",)}
_KINDS = {
    "gptq": ("gptq",),
    "awq": ("gptq",),
    "auto-round": ("gptq",),
    "bitsandbytes": ("bnb4", "bnb8"),
    "compressed-tensors": ("compressed", "fp8", "int8"),
    "fp8": ("fp8",),
    "torchao": ("torchao",),
}
"""Packings that each method writes."""


def check_section(folder: Folder) -> Iterator[Finding]:
    """Judge the section by itself: complete, and the same in all files that have one."""
    section = folder.section
    if section is None:
        return
    yield from _incomplete(section)
    for file, raw in folder.sections.items():
        if file != section.file:
            other = type(section).of(file, raw)
            for name in ("method", "bits", "group", "desc_act", "symmetric"):
                one, two = getattr(section, name), getattr(other, name)
                if one not in (None, "") and two not in (None, "") and one != two:
                    text = f"says {name} {ascii(two)[:40]} ({section.file} says {ascii(one)[:40]})"
                    yield Finding("QG104", file, text, "make them equal: loaders read one or the other")


def _incomplete(section: Section) -> Iterator[Finding]:
    if not section.method:
        yield Finding("QG102", section.file, "has a quantization section without quant_method", _AGAIN)
    if section.method == "compressed-tensors" and not section.raw.get("config_groups"):
        yield Finding("QG102", section.file, "has no config_groups (compressed-tensors needs one)", _AGAIN)
    for rule, table in (("QG102", _NEEDED), ("QG103", _DEFAULTED)):
        for name in table.get(section.method, ()):
            if all(section.raw.get(key) is None for key in (name, *_ALSO.get(name, ()))):
                text = f"does not say {name} ({section.method} needs it)"
                yield Finding(rule, section.file, text, f"add {name} as the model was quantized")


def check_coverage(folder: Folder, packed: Mapping[str, Packed]) -> Iterator[Finding]:
    """Compare the section with the modules that are packed."""
    section, complete = folder.section, folder.weights.complete
    modules = {name: module for name, module in folder.modules.items() if module.packing}
    if section is None or (section.file not in ("config.json", QUANTO) and modules):
        if modules:
            said = f"only {section.file} says so" if section else "no file says so"
            name, module = next(iter(modules.items()))
            text = (
                f"has no quantization_config, but {len(modules)} modules are packed, such as {name} ({said})"
            )
            yield Finding(
                "QG105", "config.json", text, _COPY if section else f"add it: {module.packing} layout"
            )
        if section is None:
            return
    if not modules and section.method in ON_LOAD | PACKED:
        if complete:
            yield _nothing_packed(section)
        return
    if section.method not in PACKED:
        text = f"says {section.sentence()}, whose packed tensors lint does not know"
        yield Finding("QG120", section.file, text, "load it and measure it")
        return
    yield from _wrong_layout(section, modules)
    yield from _per_module(folder, section, modules)
    yield from _mixed(section, packed)


def _nothing_packed(section: Section) -> Finding:
    if section.method in ON_LOAD:
        text = f"says {section.sentence()}, and all modules are dense"
        return Finding("QG119", section.file, text, "ship quantized weights if it is meant to be small")
    text = f"claims {section.sentence()}, but no module is packed: is it really quantized?"
    return Finding("QG107", section.file, text, "copy the quantized weights, or remove the section")


def _wrong_layout(section: Section, modules: Mapping[str, Module]) -> Iterator[Finding]:
    kinds = Counter(module.packing for module in modules.values())
    if not kinds.keys() & set(_KINDS.get(section.method, kinds)):
        text = f"claims {section.sentence()}, but modules are packed as {', '.join(sorted(kinds))}"
        yield Finding("QG107", section.file, text, _AGAIN)
    elif section.method in ("gptq", "awq"):
        odd = [m for m in modules.values() if "g_idx" in m.parts and is_awq(m, section)]
        if odd:
            text = f"says awq, but {odd[0].name} has a g_idx, which only GPTQ has"
            yield Finding("QG107", section.file, text, _AGAIN)


def _per_module(folder: Folder, section: Section, modules: Mapping[str, Module]) -> Iterator[Finding]:
    places = {module.place[1] for module in modules.values() if module.place}
    dense: set[str] = set()
    for name, module in folder.modules.items():
        excluded = section.excludes(name)
        if module.packing:
            if excluded:
                yield Finding(
                    "QG110", module.file, "is packed, though the configuration excludes it", _AGAIN, name
                )
            if is_end(name):
                yield Finding(
                    "QG111", module.file, "is quantized", "keep it dense, or judge what it costs", name
                )
            continue
        if excluded is not False or not _is_matrix(module) or module.place is None:
            continue
        if module.place[1] in places:
            text = "is dense, though the same module of other layers is packed and nothing excludes it"
            yield Finding("QG108", module.file, text, _AGAIN, name)
        elif _PROJECTION.search(name) and module.place[1] not in dense:
            dense.add(module.place[1])
            text = "is dense in every layer, though the configuration does not exclude it"
            yield Finding("QG109", module.file, text, "list it as not converted, or quantize it", name)


def _is_matrix(module: Module) -> bool:
    info = module.parts.get("weight")
    return info is not None and len(info.shape) > 1 and info.dtype in FLOATS


def _mixed(section: Section, packed: Mapping[str, Packed]) -> Iterator[Finding]:
    counts = Counter(found.bits for found in packed.values() if found.bits is not None)
    if len(counts) > 1:
        shares = ", ".join(f"{count} modules of {bits} bits" for bits, count in sorted(counts.items()))
        yield Finding("QG118", section.file, f"has {shares}", "check that the loader reads per-module bits")
