"""Verdict -> JUnit properties: (name, value) pairs of a test item, for `item.user_properties`.

"quantgate.<metric>" is the number in its base unit, once per metric of the gate; then come "quantgate.gate"
and "quantgate.verdict", its outcome. pytest itself writes the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_quantgate.escaping import plain

if TYPE_CHECKING:
    from pytest_quantgate.verdict import Verdict

__all__ = ["properties"]


def properties(verdict: Verdict) -> list[tuple[str, str]]:
    """Return the properties that one verdict adds to its item, all of them text."""
    figures = {
        f"quantgate.{plain(check.metric)}": repr(check.estimate.value)
        for check in verdict.checks
        if check.estimate is not None
    }
    return [*figures.items(), ("quantgate.gate", plain(verdict.gate)), ("quantgate.verdict", verdict.outcome)]
