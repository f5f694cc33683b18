"""Numbers for people: the only place where a value and a unit become text.

Values come in base units ("B", "s", "tok/s", "nat", "bit" or "" for a pure number) and are shown in the unit
that the user wrote in the gate, or in the one that suits their size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_quantgate.units import UNITS

if TYPE_CHECKING:
    from pytest_quantgate.spec import Estimate

__all__ = [
    "converted",
    "distinct",
    "duration",
    "fixed",
    "interval",
    "percent",
    "quantity",
    "significant",
    "suited",
]

_LADDERS = {"B": ("GiB", "MiB", "KiB"), "s": ("s", "ms", "us")}
_PLAIN_BELOW = 1e15
_CELL_BELOW = 1e6
_LEGIBLE = 1e-4
_MINUTE = 60.0


def significant(value: float, digits: int = 4) -> str:
    """Return a number with `digits` significant digits, never fewer than its integer part has."""
    if not math.isfinite(value) or value == 0:
        return f"{value + 0.0:g}" if value else "0"
    size = abs(value)
    if size >= _PLAIN_BELOW or size < _LEGIBLE:
        return f"{value:.{digits}g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(size)))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def fixed(value: float, decimals: int, *, signed: bool = False) -> str:
    """Return a table cell: so many decimals, unless that would hide a small value or spell out a huge one."""
    if not math.isfinite(value):
        return f"{value:g}"
    value += 0.0
    sign = "+" if signed else ""
    hidden = value != 0 and abs(value) < 0.5 * 10.0**-decimals
    style = ".2g" if hidden or abs(value) >= _CELL_BELOW else f".{decimals}f"
    return f"{value:{sign}{style}}"


def converted(value: float, unit: str) -> float:
    """Return a value in base units as a number of `unit`; a name not in `UNITS` is a base unit."""
    _, numerator, denominator = UNITS.get(unit, ("", 1, 1))
    return value * denominator / numerator


def suited(value: float, unit: str) -> str:
    """Return the unit in which a value of base unit `unit` reads best: "GiB" for 3.5e9 B."""
    for candidate in _LADDERS.get(unit, ()):
        if abs(converted(value, candidate)) >= 1:
            return candidate
    return unit


def quantity(value: float, unit: str, *, shown: str = "", digits: int = 4) -> str:
    """Return a value with its unit, such as "2 GiB" for 2**31 and "B"; `shown` asks for a particular unit."""
    name = shown or suited(value, unit)
    return f"{significant(converted(value, name), digits)} {name}".rstrip()


def distinct(value: float, limit: float, unit: str, *, shown: str = "") -> str:
    """Return `quantity` with as many digits as it takes to tell the value from a limit it does not equal."""
    for digits in range(4, 18):
        text = quantity(value, unit, shown=shown, digits=digits)
        if value == limit or text != quantity(limit, unit, shown=shown or suited(value, unit), digits=digits):
            return text
    return text


def interval(estimate: Estimate, *, shown: str = "") -> str:
    """Return "[1.31, 1.53]" in the unit of the value itself; empty where no interval is known."""
    if estimate.low is None or estimate.high is None:
        return ""
    name = shown or suited(estimate.value, estimate.unit)
    low, high = (significant(converted(end, name)) for end in (estimate.low, estimate.high))
    return f"[{low}, {high}]"


def percent(ratio: float) -> str:
    """Return "42 %" for 0.42."""
    return f"{significant(100 * ratio, 3)} %"


def duration(seconds: float) -> str:
    """Return "850 ms", "12.3 s" or "3 min 05 s"."""
    if seconds < _MINUTE:
        return quantity(seconds, "s", digits=3)
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
