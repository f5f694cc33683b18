"""A quantization section in one vocabulary, whichever library wrote it. Pure.

transformers, GPTQModel, AutoGPTQ, AutoAWQ, compressed-tensors, bitsandbytes, auto-round and the FP8 formats name the
same things differently; what none of them says stays None.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_quantgate.lint.naming import Names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["ON_LOAD", "PACKED", "Section"]

_METHODS = {"gptqmodel": "gptq", "auto_round": "auto-round", "finegrained_fp8": "fp8", "fbgemm_fp8": "fp8"}
_EXCLUDED = ("modules_to_not_convert", "ignore", "ignored_layers", "llm_int8_skip_modules", "exclude_modules")

_DENSE_BITS = 16

PACKED = frozenset(("gptq", "awq", "compressed-tensors", "fp8", "bitsandbytes", "auto-round", "torchao"))
"""Methods whose packed tensors lint knows."""

ON_LOAD = frozenset(("bitsandbytes", "torchao", "quanto", "hqq", "eetq", "higgs", "fp8"))
"""Methods that also quantize a dense checkpoint as it is loaded."""


@dataclass(frozen=True, slots=True)
class Section:
    """What a checkpoint says about its quantization.

    Attributes:
        file: where it stands.
        raw: its sound fields, as written.
        method: the quant_method, in one spelling; empty if it is not said.
        bits: per weight, or None.
        group: input widths that share a scale, -1 for the whole row, or None.
        symmetric: whether there are no zero points, or None.
        desc_act: whether columns are reordered, or None.
        layout: how integers are packed: "gptq", "gptq_v2", "gemm", "pack-quantized" …; empty if it is not said.
        excluded: modules that stay dense.
        only: the modules that are packed, where the section lists them instead.
        dynamic: further rules per module (GPTQModel): (names, bits or None, excluded).

    """

    file: str
    raw: Mapping[str, Any]
    method: str = ""
    bits: int | None = None
    group: int | None = None
    symmetric: bool | None = None
    desc_act: bool | None = None
    layout: str = ""
    excluded: Names = field(default_factory=Names)
    only: Names = field(default_factory=Names)
    dynamic: tuple[tuple[Names, int | None, bool], ...] = ()

    @classmethod
    def of(cls, file: str, raw: Mapping[str, Any]) -> Section:
        """Read a section whose common fields are sound."""
        said = _text(raw.get("quant_method")) or _text(raw.get("method")) or _guessed(raw)
        method = _METHODS.get(said.lower(), said.lower())
        weights = _weights(raw)
        return cls(
            file=file,
            raw=raw,
            method=method,
            bits=_first_int(raw.get("bits"), raw.get("w_bit"), weights.get("num_bits"), _bnb_bits(raw)),
            group=_first_int(raw.get("group_size"), raw.get("q_group_size"), _group(weights)),
            symmetric=_symmetric(raw, weights),
            desc_act=raw.get("desc_act") if isinstance(raw.get("desc_act"), bool) else None,
            layout=_layout(raw),
            excluded=Names.of([*_strings(*(raw.get(name) for name in _EXCLUDED)), *_dense(raw)]),
            only=Names.of(_strings(_flat(raw.get("modules_in_block_to_quantize")))),
            dynamic=tuple(_dynamic(raw.get("dynamic"))),
        )

    def excludes(self, module: str) -> bool | None:
        """Return whether a module stays dense; None where that cannot be said."""
        for names, _, excluded in self.dynamic:
            if (named := names.has(module)) is not False:
                return None if named is None else excluded
        if self.only:
            return None if (named := self.only.has(module)) is None else not named
        return self.excluded.has(module)

    def bits_of(self, module: str) -> int | None:
        """Return the bits that a module should have; None where it is not said."""
        for names, bits, excluded in self.dynamic:
            if not excluded and names.has(module) is not False:
                return bits
        return None if self.mixed else self.bits

    @property
    def mixed(self) -> bool:
        """Whether groups of modules have their own bits (compressed-tensors, auto-round)."""
        groups = self.raw.get("config_groups")
        return (isinstance(groups, dict) and len(groups) > 1) or bool(self.raw.get("extra_config"))

    def sentence(self) -> str:
        """Return it as people say it: "gptq 4 bit group 128"."""
        words = [self.method or "unknown method"]
        words += [f"{self.bits} bit"] if self.bits else []
        words += [f"group {self.group}"] if self.group else []
        return " ".join(words)


def _guessed(raw: Mapping[str, Any]) -> str:
    # AutoAWQ's quant_config.json and AutoGPTQ's quantize_config.json name no method
    if "w_bit" in raw or "zero_point" in raw:
        return "awq"
    return "gptq" if "desc_act" in raw else "compressed-tensors" if "config_groups" in raw else ""


def _weights(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    groups = raw.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    found = first.get("weights") if isinstance(first, dict) else None
    return found if isinstance(found, dict) else {}


def _group(weights: Mapping[str, Any]) -> int | None:
    size = _first_int(weights.get("group_size"))
    return -1 if size is None and weights.get("strategy") == "channel" else size


def _bnb_bits(raw: Mapping[str, Any]) -> int | None:
    return 4 if raw.get("load_in_4bit") is True else 8 if raw.get("load_in_8bit") is True else None


def _symmetric(raw: Mapping[str, Any], weights: Mapping[str, Any]) -> bool | None:
    for value in (raw.get("sym"), weights.get("symmetric")):
        if isinstance(value, bool):
            return value
    zero_point = raw.get("zero_point")
    return not zero_point if isinstance(zero_point, bool) else None


def _layout(raw: Mapping[str, Any]) -> str:
    for name in ("checkpoint_format", "packing_format", "format", "version"):
        value = _text(raw.get(name))
        if value:
            return value.lower().removeprefix("auto_round:").removeprefix("auto_")
    return ""


def _dense(raw: Mapping[str, Any]) -> list[str]:
    # auto-round lists what differs from the rest; 16 bits and more are left as they are
    further = raw.get("extra_config")
    return [
        name
        for name, change in (further.items() if isinstance(further, dict) else ())
        if isinstance(change, dict) and (_first_int(change.get("bits")) or 0) >= _DENSE_BITS
    ]


def _dynamic(value: Any) -> Iterable[tuple[Names, int | None, bool]]:
    for name, change in value.items() if isinstance(value, dict) else ():
        if isinstance(name, str):
            expression = name.removeprefix("+:").removeprefix("-:")
            bits = change.get("bits") if isinstance(change, dict) else None
            yield Names.of([f"re:{expression}"]), _first_int(bits), name.startswith("-:")


def _strings(*values: Any) -> list[str]:
    return [item for value in values if isinstance(value, list) for item in value if isinstance(item, str)]


def _flat(value: Any) -> list[Any]:
    items = value if isinstance(value, list) else []
    return [inner for item in items for inner in (item if isinstance(item, list) else [item])]


def _first_int(*values: Any) -> int | None:
    return next((value for value in values if type(value) is int), None)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
