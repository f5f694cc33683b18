"""JSON that was written elsewhere, read back with its types checked: nothing malformed reaches a reporter.

Errors are TypeError or ValueError, which name the member and its value.
"""

from __future__ import annotations

import sys
from types import NoneType
from typing import TYPE_CHECKING, Any

from pytest_quantgate.spec import Estimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["estimate", "require", "require_finite", "require_one_of", "texts"]

_LONGEST = 40


def require(*kinds: type, **members: object) -> None:
    """Refuse members that are of none of these kinds; None stands for itself as a kind of its own type."""
    for name, value in members.items():
        if not isinstance(value, kinds):
            raise TypeError(f"{name} cannot be {_shown(value)}")


def require_finite(**members: object) -> None:
    """Refuse members that are neither None nor a number that a float can hold."""
    require(int, float, NoneType, **members)
    for name, value in members.items():
        if isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
            raise ValueError(f"{name} cannot be {_shown(value)}")


def require_one_of(known: Iterable[str], **members: Any) -> None:
    """Refuse members that are not among the known words."""
    for name, value in members.items():
        if value not in known:
            raise ValueError(f"{name} cannot be {_shown(value)}")


def texts(values: Iterable[Any]) -> tuple[str, ...]:
    """Return strings; refuse anything else among them."""
    found = tuple(values)
    for text in found:
        require(str, text=text)
    return found


def estimate(value: Mapping[str, Any]) -> Estimate:
    """Rebuild an estimate; its numbers may be NaN or infinite."""
    found = Estimate.from_json(value)
    require(str, unit=found.unit, note=found.note, items=found.items)
    require(int, float, value=found.value)
    require(int, n=found.n)
    require(int, float, NoneType, low=found.low, high=found.high)
    require_finite(confidence=found.confidence)
    require(int, clusters=found.clusters)
    require(bool, exact=found.exact)
    require(str, partial=found.partial)
    require_finite(missed=found.missed)
    require(int, float, **dict(zip(("unpaired low", "unpaired high"), found.unpaired or (), strict=False)))
    return found


def _shown(value: object) -> str:
    text = (
        "a number beyond all floats"
        if isinstance(value, int) and abs(value) > sys.float_info.max
        else repr(value)
    )
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
