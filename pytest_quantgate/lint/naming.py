"""How a configuration names modules: parts of a name, or regular expressions, which are not trusted. Pure.

An expression from a checkpoint could take forever on a name that almost matches. Those that repeat a group, or whose
worst case exceeds a budget, are not tried: lint then says nothing about the modules that they would name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Names"]

_REPEATS = re.compile(r"(?<!\\)[*+]|(?<!\\)\{\d*,?\d*\}|(?<![\\(])\?")
_REPEATED_GROUP = re.compile(r"\)\s*(?:[*+]|\{)|\(\?[^:]|\\\d")
_LONGEST = 200
_BUDGET = 100_000_000
"""Steps of the expressions over all names, at worst: length to the power of repeats, twice for each alternative."""

_AT_LEAST = 100
"""Steps that any match is counted as."""

_COMPARISONS = 20_000_000


@dataclass(slots=True)
class Names:
    """A set of module names as configurations write it.

    Attributes:
        plain: whole names, or whole dotted parts of names ("lm_head", "model.layers.0.mlp").
        patterns: regular expressions, matched from the name's beginning.
        unread: expressions that are not tried.

    """

    plain: tuple[str, ...] = ()
    patterns: tuple[re.Pattern[str], ...] = ()
    unread: tuple[str, ...] = ()
    _degrees: tuple[tuple[int, int], ...] = field(default=(), repr=False)
    _left: int = field(default=_BUDGET, repr=False)
    _compared: int = field(default=0, repr=False)

    @classmethod
    def of(cls, written: Iterable[str]) -> Names:
        """Read a list in which "re:" begins an expression."""
        texts = list(written)
        expressions = [text.removeprefix("re:") for text in texts if text.startswith("re:")]
        compiled = [(text, _compiled(text)) for text in expressions]
        return cls(
            plain=tuple(text for text in texts if text and not text.startswith("re:")),
            patterns=tuple(pattern for _, pattern in compiled if pattern),
            _degrees=tuple(_degree(text) for text, pattern in compiled if pattern),
            unread=tuple(text for text, pattern in compiled if pattern is None),
        )

    def __bool__(self) -> bool:
        return bool(self.plain or self.patterns or self.unread)

    def has(self, name: str) -> bool | None:
        """Return whether a module is named; None where that cannot be said."""
        if self._named(name):
            return True
        for pattern, (repeats, ways) in zip(self.patterns, self._degrees, strict=True):
            self._left -= max(_AT_LEAST, len(name) ** repeats * ways)
            if self._left < 0:
                return None
            if pattern.match(name):
                return True
        return None if self.unread else False

    def _named(self, name: str) -> bool:
        self._compared += len(self.plain)
        if self._compared > _COMPARISONS:
            return name in self.plain
        whole = f".{name}."
        return any(f".{part}." in whole for part in self.plain)


def _degree(expression: str) -> tuple[int, int]:
    """Return the repeats of an expression, and in how many ways its alternatives can be taken."""
    return min(20, len(_REPEATS.findall(expression))), int(2 ** expression.count("|"))


def _compiled(text: str) -> re.Pattern[str] | None:
    if len(text) > _LONGEST or _REPEATED_GROUP.search(text):
        return None
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return None
