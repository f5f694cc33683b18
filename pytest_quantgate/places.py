"""Where a gate is written, and which variant an item is about: the two things that edge and session ask of an item."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

__all__ = ["VARIANT", "place_of", "variant_of"]

VARIANT: Final = "quant_variant"
"""The fixture that runs a test once per variant."""


def place_of(item: pytest.Item) -> str:
    """Return "tests/test_q.py:12 (test_release)"."""
    path, line, _ = item.location
    return f"{path}:{line + 1} ({item.name})" if line is not None else f"{path} ({item.name})"


def variant_of(item: pytest.Item) -> str:
    """Return the name of the variant that a collected item is about."""
    callspec = getattr(item, "callspec", None)
    return str(callspec.params[VARIANT] if callspec else getattr(item, "variant", ""))
