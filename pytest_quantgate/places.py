"""Where things are: the plugin's state in the configuration, a gate in its file, the variant of an item."""

from __future__ import annotations

from typing import Any, Final

import pytest

__all__ = ["EDGE", "VARIANT", "place_of", "variant_of"]

EDGE: Final = pytest.StashKey[Any]()
"""Where pytest's configuration keeps the plugin's state."""
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
