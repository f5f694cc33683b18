"""The tensors of packed modules of the other formats. Pure.

In brackets the shape for a matrix of `outs` x `ins`:

- compressed-tensors: weight_packed [outs, ceil(ins * bits / 32)] as I32, or [outs, ins / 2] as U8 for FP4, with
  weight_scale [outs, groups] and, for integers, weight_shape [2]
- FP8: weight [outs, ins] as F8, weight_scale one, per row or per tile; weight_scale_inv per tile of weight_block_size
- int8: weight [outs, ins] as I8 with weight_scale
- bitsandbytes: 4 bit is weight [outs * ins / 2, 1] as U8 with weight.absmax, weight.quant_map and
  weight.quant_state.bitsandbytes__nf4 (or fp4); 8 bit is weight [outs, ins] as I8 with SCB [outs]
- torchao: _weight_qdata with _weight_scale
- quanto: weight._data with weight._scale
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_quantgate.lint.modules import FLOATS
from pytest_quantgate.lint.packing import Packed, Unpacking, unpack_integers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["unpack"]

_SCALES = (*FLOATS, "F8_E4M3", "F8_E8M0", "U8")
_STATE = "weight.quant_state.bitsandbytes__"
_TILES = 2


def unpack(at: Unpacking) -> Packed:
    """Return what a packed module holds; `at.findings` has what is wrong with it."""
    return _BY_PACKING[at.module.packing](at)


def _compressed(at: Unpacking) -> Packed:
    if not at.need("weight_packed", "weight_scale") or not at.shaped("weight_packed", None, None):
        return Packed(at.module.name)
    info = at.parts["weight_packed"]
    at.typed("weight_packed", ("I32", "U8"))
    at.typed("weight_scale", _SCALES)
    outs, columns = info.shape
    if info.dtype == "U8":
        return Packed(at.module.name, outs, columns * 2, 4)
    at.need("weight_shape")
    return _integers(at, outs, columns)


def _integers(at: Unpacking, outs: int, columns: int) -> Packed:
    said = at.section.bits_of(at.module.name) if at.section else None
    ins = at.expected[1] if at.expected else columns * 32 // said if said else None
    if not ins:
        return Packed(at.module.name, outs)
    # whole words per row: 100 inputs of 4 bits take 13 of them
    fits = said is not None and columns == math.ceil(ins * said / 32)
    bits = said if fits else at.compare_bits("weight_packed", columns * 32 / ins)
    scale = at.parts["weight_scale"].shape
    group = None
    if len(scale) == _TILES:
        at.shaped("weight_scale", outs, None)
        group = at.compare_groups("weight_scale", scale[1], ins)
    return Packed(at.module.name, outs, ins, bits, group)


def _fp8(at: Unpacking) -> Packed:
    if not at.shaped("weight", None, None):
        return Packed(at.module.name, bits=8)
    outs, ins = at.parts["weight"].shape
    scale = next(
        (part for part in ("weight_scale_inv", "weight_scale", "scale_weight") if part in at.parts), None
    )
    if scale is None:
        at.need("weight_scale")
        return Packed(at.module.name, outs, ins, 8)
    at.typed(scale, _SCALES)
    _check_scale(at, scale, outs, ins)
    return Packed(at.module.name, outs, ins, 8)


def _check_scale(at: Unpacking, scale: str, outs: int, ins: int) -> None:
    shape = at.parts[scale].shape
    tile = at.section.raw.get("weight_block_size") if at.section else None
    if (
        isinstance(tile, list)
        and len(tile) == _TILES
        and all(type(size) is int and size > 0 for size in tile)
    ):
        at.shaped(scale, math.ceil(outs / tile[0]), math.ceil(ins / tile[1]))
    elif shape not in ((), (1,), (outs,), (outs, 1)) and not (
        len(shape) == _TILES and outs % max(1, shape[0]) == 0
    ):
        at.say(
            "QG112",
            scale,
            f"has the shape {list(shape)[:4]} (expected one value, {outs}x1, or one for each tile)",
        )


def _int8(at: Unpacking) -> Packed:
    if not at.shaped("weight", None, None):
        return Packed(at.module.name, bits=8)
    outs, ins = at.parts["weight"].shape
    if at.need("weight_scale"):
        _check_scale(at, "weight_scale", outs, ins)
    bits = at.compare_bits("weight", 8) if at.parts["weight"].dtype == "I8" else None
    return Packed(at.module.name, outs, ins, bits)


def _fp4(at: Unpacking) -> Packed:
    if not at.shaped("weight", None, None) or not at.need("weight_scale"):
        return Packed(at.module.name, bits=4)
    outs, half = at.parts["weight"].shape
    return Packed(at.module.name, outs, half * 2, 4)


def _bnb8(at: Unpacking) -> Packed:
    if not at.need("SCB") or not at.shaped("weight", None, None):
        return Packed(at.module.name, bits=8)
    outs, ins = at.parts["weight"].shape
    at.shaped("SCB", outs)
    return Packed(at.module.name, outs, ins, at.compare_bits("weight", 8))


def _bnb4(at: Unpacking) -> Packed:
    states = [part.removeprefix(_STATE) for part in at.parts if part.startswith(_STATE)]
    at.need("weight.absmax", "weight.quant_map")
    if not states:
        at.need(f"{_STATE}nf4")
    said = at.section.raw.get("bnb_4bit_quant_type") if at.section else None
    if states and isinstance(said, str) and said not in states:
        at.say("QG115", f"{_STATE}{states[0]}", f"is {states[0]} (the configuration says {said[:20]!a})")
    count = math.prod(at.parts["weight"].shape) * 2
    bits = at.compare_bits("weight", 4)
    if at.expected is None:
        return Packed(at.module.name, bits=bits)
    outs, ins = at.expected
    if count not in (outs * ins, outs * ins + 1):
        at.say("QG202", "weight", f"holds {count} weights of 4 bits (config.json implies {outs}x{ins})")
    return Packed(at.module.name, outs, ins, bits)


def _torchao(at: Unpacking) -> Packed:
    return _plain(at, "_weight_qdata", "_weight_scale")


def _quanto(at: Unpacking) -> Packed:
    return _plain(at, "weight._data", "weight._scale")


def _plain(at: Unpacking, data: str, scale: str) -> Packed:
    at.need(scale)
    shape = at.parts[data].shape
    # types below a byte are packed, each in its own way
    if at.expected is None or shape != at.expected:
        return Packed(at.module.name)
    return Packed(at.module.name, shape[0], shape[1], 8)


_BY_PACKING: Mapping[str, Callable[[Unpacking], Packed]] = {
    "gptq": unpack_integers,
    "compressed": _compressed,
    "torchao": _torchao,
    "quanto": _quanto,
    "fp8": _fp8,
    "int8": _int8,
    "fp4": _fp4,
    "bnb8": _bnb8,
    "bnb4": _bnb4,
}
