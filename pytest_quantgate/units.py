"""Limits with units: `2 * GiB`, `70 * ms`, `5 * percent`.

A `Quantity` is a frozen value and a unit. It equals another only if both are written alike: `1024 * MiB` is
not `1 * GiB`, since a gate prints as its author wrote it; `.si` is what a verdict compares. KB, MB, GB and TB
count in thousands, KiB, MiB, GiB and TiB in 1024s (IEC 80000-13).

Most constants carry the unit's own name. Three cannot: `percent` is "%", `tok_s` is "tok/s", and `minute` is
"min", which would hide Python's `min`.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import ClassVar, NoReturn

from pytest_quantgate.errors import GateError

__all__ = [
    "GB",
    "KB",
    "MB",
    "TB",
    "UNITS",
    "B",
    "GiB",
    "KiB",
    "MiB",
    "Operand",
    "Quantity",
    "TiB",
    "h",
    "minute",
    "ms",
    "percent",
    "s",
    "tok_s",
    "us",
]

# (dimension, numerator, denominator): one of the two is 1, so that a conversion rounds only once
UNITS: dict[str, tuple[str, int, int]] = {
    "": ("", 1, 1),
    "%": ("", 1, 100),
    "B": ("B", 1, 1),
    "KB": ("B", 1000, 1),
    "MB": ("B", 1000**2, 1),
    "GB": ("B", 1000**3, 1),
    "TB": ("B", 1000**4, 1),
    "KiB": ("B", 1024, 1),
    "MiB": ("B", 1024**2, 1),
    "GiB": ("B", 1024**3, 1),
    "TiB": ("B", 1024**4, 1),
    "us": ("s", 1, 1000**2),
    "ms": ("s", 1, 1000),
    "s": ("s", 1, 1),
    "min": ("s", 60, 1),
    "h": ("s", 3600, 1),
    "tok/s": ("tok/s", 1, 1),
}
_PYTHON_NAMES = {"%": "percent", "tok/s": "tok_s", "min": "minute"}
_EXACT_INTEGERS = 2.0**53


class Operand:
    """Mixin of what stands beside `<` in a gate: turns Python's reading of `m < 1.0 & k < 2` into advice.

    `&` and `|` bind tighter than `<`, so they meet a metric or a quantity only where parentheses are missing.
    """

    __slots__ = ()

    __array_ufunc__: ClassVar[None] = None  # numpy scalars then let the metric do the comparing

    def __and__(self, other: object) -> NoReturn:
        raise GateError("put parentheses around each comparison: (ppl.delta < 1.0) & (kld.mean < 0.05)")

    def __or__(self, other: object) -> NoReturn:
        raise GateError("put parentheses around each comparison: (ppl.delta < 1.0) | (kld.mean < 0.05)")

    __rand__ = __and__
    __ror__ = __or__


@dataclass(frozen=True, slots=True, repr=False)
class Quantity(Operand):
    """A finite number with a unit of `UNITS`; the unit "" makes it a pure number.

    Raises:
        GateError: `value` is not a finite int or float, or the unit does not exist.

    """

    value: float
    unit: str = ""

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise GateError(f"unknown unit {self.unit!r}; {_advice(self.unit)}")
        # + 0.0 makes -0.0 zero: equal quantities are written alike
        object.__setattr__(self, "value", _finite(self.value) + 0.0)
        if not math.isfinite(self.si):
            raise GateError(f"{self} is too large for a limit")

    @classmethod
    def of(cls, limit: float | Quantity) -> Quantity:
        """Return a limit as a quantity: itself, or a pure number."""
        return limit if isinstance(limit, Quantity) else cls(limit)

    @property
    def dimension(self) -> str:
        """What it measures: "" (pure number), "B", "s" or "tok/s"; also the name of the unit of `si`."""
        return UNITS[self.unit][0]

    @property
    def si(self) -> float:
        """The value in the base unit: bytes, seconds, tokens per second, or 1."""
        _, numerator, denominator = UNITS[self.unit]
        return self.value * numerator / denominator

    def __mul__(self, factor: float) -> Quantity:
        if isinstance(factor, Operand):
            return NotImplemented
        return Quantity(self.value * _finite(factor), self.unit)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Quantity:
        if isinstance(divisor, Operand):
            return NotImplemented
        if not _finite(divisor):
            raise GateError(f"{self} cannot be divided by zero")
        return Quantity(self.value / _finite(divisor), self.unit)

    def __neg__(self) -> Quantity:
        return Quantity(-self.value, self.unit)

    def __str__(self) -> str:
        return f"{_compact(self.value)}{self.unit}"

    def __repr__(self) -> str:
        if not self.unit:
            return f"Quantity({self.value!r})"
        return f"{_compact(self.value)} * {_PYTHON_NAMES.get(self.unit, self.unit)}"


def _finite(value: object) -> float:
    """Return a number as a float; refuse what only looks like one (a bool, NaN, an infinity)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        what = "a metric, and no limit (.delta and .ratio compare with the baseline)"
        raise GateError(
            f"{value!r} is {what if isinstance(value, Operand) else 'no limit'}: "
            "write a number, or a quantity such as 2 * GiB or 70 * ms"
        )
    try:
        number = float(value)
    except OverflowError:
        raise GateError("a limit must fit a float: an integer is too large") from None
    if not math.isfinite(number):
        raise GateError(f"{number} is no limit: write a finite number")
    return number


def _advice(unit: str) -> str:
    """Say which unit may have been meant; letter case and the two Greek mu are the usual slips."""
    plain = unit.lower().replace("\u00b5", "u").replace("\u03bc", "u")
    same = [known for known in UNITS if known.lower() == plain]
    close = same or difflib.get_close_matches(unit, UNITS, n=1)
    return f"did you mean {close[0]!r}?" if close else f"units are {' '.join(filter(None, UNITS))}"


def _compact(value: float) -> str:
    """Write a float so that it reads back exactly, and a whole number without its `.0`."""
    return str(int(value)) if value.is_integer() and abs(value) < _EXACT_INTEGERS else repr(value)


percent = Quantity(1, "%")
B, KB, MB, GB, TB = (Quantity(1, unit) for unit in ("B", "KB", "MB", "GB", "TB"))
KiB, MiB, GiB, TiB = (Quantity(1, unit) for unit in ("KiB", "MiB", "GiB", "TiB"))
us, ms, s, minute, h = (Quantity(1, unit) for unit in ("us", "ms", "s", "min", "h"))
tok_s = Quantity(1, "tok/s")
