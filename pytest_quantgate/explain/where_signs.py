"""What the table of weights shows by itself: each planted or real mistake leaves a sign of its own. Pure.

The thresholds stand far from both sides. The error of a module is set against what rounding with its own scales gives
by itself. GPTQ and AWQ stay within 6 dB of that on the example, at 2 to 8 bits and calibrated on one sample or the
wrong text; weights that are not these are 8 to 40 dB off. A kernel agrees with the files to 50 dB or more in any dtype.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final, TypeAlias

from pytest_quantgate.explain.where_weights import EQUAL_DB
from pytest_quantgate.report.findings import Finding

__all__ = ["signs"]

Rows: TypeAlias = Sequence[Mapping[str, Any]]

FLOORS: Final = {8: 30.0, 6: 20.0, 5: 15.0, 4: 9.0, 3: 4.0, 2: -1.0}
"""The SQNR in dB below which no way of rounding to so many bits leaves weights, where the scales cannot be read."""

BEYOND_DB: Final = 7.0
"""How much worse than rounding by itself no quantizer makes weights."""

KERNEL_DB: Final = 35.0
FELL_BY_DB: Final = 8.0
SHIFTED: Final = 0.5
GAINED_DB: Final = 6.0
MOVED: Final = 0.1
TWIN: Final = 0.85
DEAD: Final = 0.5
SHOWN: Final = 3
_LAYER = re.compile(r"\.(\d+)\.")


def signs(variant: str, rows: Rows) -> tuple[Finding, ...]:
    """Return what the rows of `where_weights` say, each cause once."""
    quantized = [row for row in rows if row["bits"]]
    found = [_not_quantized(variant, rows, quantized), _engine(variant, rows)]
    left = [row for row in rows if row["sqnr"] < EQUAL_DB]
    for look in (_zero_points, _group_order, _swapped):
        finding, named = look(variant, left)
        found.append(finding)
        left = [row for row in left if row["name"] not in named]
    found.append(_bad(variant, left, quantized))
    return tuple(finding for finding in found if finding is not None)


def _not_quantized(variant: str, rows: Rows, quantized: Rows) -> Finding | None:
    equal = [row for row in rows if row["sqnr"] >= EQUAL_DB]
    if not rows or (quantized and len([row for row in quantized if row in equal]) * 2 <= len(quantized)):
        return None
    if quantized:
        text = f"{len(equal)} of {len(rows)} linear modules hold the baseline's weights to the last digit"
        advice = "see whether the baseline itself is this checkpoint, dequantized"
    elif len(equal) == len(rows):
        text = "it is not quantized: every linear module holds the baseline's own weights"
        advice = "quantize it, or point the variant at the folder that was meant"
    else:
        text = f"it is not quantized: all {len(rows)} linear modules are dense"
        advice = "see whether the weights were dequantized or merged when they were saved"
    evidence = f"{len(quantized)} of {len(rows)} modules are packed"
    return Finding(variant, "what", text, evidence, advice, 0.97, "not_quantized")


def _engine(variant: str, rows: Rows) -> Finding | None:
    wrong = [row for row in rows if row["kernel"] is not None and row["kernel"] < KERNEL_DB]
    if not wrong:
        return None
    worst = min(wrong, key=lambda row: float(row["kernel"]))
    text = (
        f"the engine computes with other weights than the files state in {len(wrong)} of {len(rows)} modules"
    )
    evidence = f"{_short(worst)}: {worst['kernel']:.1f} dB between kernel and files"
    advice = 'try another kernel (options = { kernel = "gptq_torch" }), or another version of the engine'
    return Finding(variant, "what", text, evidence, advice, 0.96, "engine")


def _zero_points(variant: str, rows: Rows) -> tuple[Finding | None, set[str]]:
    wrong = [
        row
        for row in rows
        if row["shift"] is not None
        and abs(row["shift"]) > SHIFTED
        and row["shifted"] > row["sqnr"] + GAINED_DB / 2
        and row["shifted"] > _floor(row)
    ]
    if not wrong:
        return None, set()
    typical = median(float(row["shift"]) for row in wrong)
    side = "high" if typical > 0 else "low"
    text = f"the weights of {_modules(wrong, rows)} are {abs(typical):.1f} steps too {side}: zero-points off"
    evidence = f"mean error in quantization steps, e.g. {wrong[0]['shift']:+.2f} in {_short(wrong[0])}"
    advice = "see checkpoint_format in quantization_config: GPTQ v1 stores zero - 1, v2 does not"
    return Finding(variant, "where", text, evidence, advice, 0.95, "zero_points"), _named(wrong)


def _group_order(variant: str, rows: Rows) -> tuple[Finding | None, set[str]]:
    wrong = [
        row
        for row in rows
        if row["regrouped"] is not None
        and row["moved"] > MOVED
        and row["regrouped"] > row["sqnr"] + GAINED_DB
    ]
    if not wrong:
        return None, set()
    worst = min(wrong, key=lambda row: float(row["sqnr"]))
    text = (
        f"the inputs of {_modules(wrong, rows)} are in the wrong groups: g_idx or the order of scales is off"
    )
    evidence = (
        f"{_short(worst)}: {worst['sqnr']:.1f} dB as stored, {worst['regrouped']:.1f} dB with"
        f" {worst['moved']:.0%} of its inputs in other groups"
    )
    advice = "export it again; see that desc_act and group_size in the configuration are those of the weights"
    return Finding(variant, "where", text, evidence, advice, 0.95, "group_order"), _named(wrong)


def _swapped(variant: str, rows: Rows) -> tuple[Finding | None, set[str]]:
    wrong = [row for row in rows if row["twin"] and row["twin_cosine"] > TWIN]
    if not wrong:
        return None, set()
    pairs = dict.fromkeys((_number(row["name"]), _number(row["twin"])) for row in wrong)
    said = [f"layer {here}'s weights are layer {there}'s" for here, there in list(pairs)[:SHOWN]]
    more = f", and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
    first = wrong[0]
    evidence = (
        f"{_short(first)}: cosine {first['cosine']:.2f} to its own weights in the baseline,"
        f" {first['twin_cosine']:.3f} to those of {first['twin']}"
    )
    advice = "merge the shards again; the names or the order of layers were mixed up"
    text = f"{', '.join(said)}{more}"
    return Finding(variant, "where", text, evidence, advice, 0.95, "layers_swapped"), _named(wrong)


def _bad(variant: str, rows: Rows, quantized: Rows) -> Finding | None:
    """Return what modules whose error no rounding explains mean: most of them, or a few."""
    if not rows:
        return None
    usual = median(float(row["sqnr"]) for row in rows)
    beyond = [row for row in rows if row["sqnr"] < _floor(row)]
    if len(beyond) * 2 > len(rows):
        alike = median(float(row["cosine"]) for row in beyond)
        text = "its weights are not this baseline's: another model, another fine-tuning, or an older version"
        least = median(_floor(row) for row in rows)
        evidence = f"{usual:.1f} dB and cosine {alike:.2f} in the median of {len(rows)} modules, where rounding leaves"
        evidence += f" {least:.0f} dB or more"
        advice = "set baseline to the weights that it was made from, or quantize it again"
        return Finding(variant, "what", text, evidence, advice, 0.93, "other_weights")
    ruined = [row for row in beyond if row["sqnr"] < usual - FELL_BY_DB]
    return _ruined(variant, ruined, usual, quantized or rows) if ruined else None


def _ruined(variant: str, ruined: Rows, usual: float, rows: Rows) -> Finding:
    worst = min(ruined, key=lambda row: float(row["sqnr"]))
    dead = all(row["dead"] > DEAD for row in ruined)
    how = "holds no weights at all: its scales are 0" if dead else "holds weights that are not the baseline's"
    text = f"{_modules(ruined, rows)} {how}"
    evidence = f"{_short(worst)}: {worst['sqnr']:.1f} dB, the other modules {usual:.1f} dB in the median"
    advice = "quantize that layer again; see whether the file was damaged or never filled there"
    return Finding(variant, "where", text, evidence, advice, 0.94, "ruined_layer")


def _floor(row: Mapping[str, Any]) -> float:
    if row["rounding"] is not None:
        return float(row["rounding"]) - BEYOND_DB
    return FLOORS.get(row["bits"], FLOORS[4])


def _modules(wrong: Rows, rows: Rows) -> str:
    """Return which modules, for people: by name, by layer, or how many."""
    if len(wrong) == len(rows):
        return "every module"
    layers = list(dict.fromkeys(_number(row["name"]) for row in wrong))
    if len(wrong) == 1:
        return _short(wrong[0])
    if len(layers) == 1:
        return f"layer {layers[0]} ({len(wrong)} modules)"
    return f"{len(wrong)} of {len(rows)} modules"


def _short(row: Mapping[str, Any]) -> str:
    name = str(row["name"])
    match = _LAYER.search(name)
    return f"layer {match.group(1)} {name[match.end() :]}" if match else name


def _number(name: str) -> str:
    match = _LAYER.search(name)
    return match.group(1) if match else name


def _named(rows: Rows) -> set[str]:
    return {str(row["name"]) for row in rows}
