"""Everything this package raises on purpose.

The tree::

    QuantgateError
    ├── UsageError            the user wrote something wrong: exit code 4, one line, no traceback
    │   ├── GateError         a gate that is no gate: chained, without a limit, in the wrong unit …
    │   │   └── GateSyntaxError   gate text that does not parse: source line and caret
    │   ├── UnknownNameError  a metric, variant, method … that does not exist, with a suggestion
    │   └── ConfigError       a key or a value in the configuration
    ├── CheckpointError       a model folder that is damaged, incomplete or refused
    ├── ObservationError      a pass over a model that gave no usable numbers
    │   └── WorkerError       … because the process that ran it died or hung
    ├── StoreError            the store has not what is needed, or cannot keep it
    └── NotMeasurableError    this machine cannot measure it: skipped, or failed when strict
        └── MissingExtraError     … because an optional dependency is not installed

A message names the thing, the place and the next step, in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ConfigError",
    "GateError",
    "GateSyntaxError",
    "InconclusiveWarning",
    "MissingExtraError",
    "NotMeasurableError",
    "ObservationError",
    "QuantgateError",
    "StoreError",
    "UnknownNameError",
    "UsageError",
    "WorkerError",
]


_FEW = 12
"""How many names an error lists instead of a suggestion."""


class QuantgateError(Exception):
    """Base of all errors that this package raises on purpose."""


class UsageError(QuantgateError):
    """The user's mistake: reported at collection with exit code 4 and without a traceback."""


class GateError(UsageError, TypeError):
    """An expression that cannot be a gate; also a `TypeError`, since Python expects one from operators."""


class GateSyntaxError(GateError):
    """Gate text that does not parse.

    Args:
        message: what was expected and what was found.
        source: the whole gate text.
        span: the offending characters, as start and end offset into `source`.

    """

    def __init__(self, message: str, source: str, span: tuple[int, int]) -> None:
        self.message = message
        self.source = source
        self.span = span
        super().__init__(f"{message}\n{_excerpt(source, *span)}")


def _excerpt(source: str, start: int, end: int, width: int = 90) -> str:
    """Draw the place: one line of source, cut to `width` and fit for a terminal, and the carets under it."""
    left = max(0, start - width // 2) if len(source) > width else 0
    line = "".join(char if char.isprintable() else " " if char.isspace() else "\ufffd" for char in source)
    before, after = "..." if left else "", "..." if len(source) > left + width else ""
    carets = "^" * max(1, min(end, left + width) - start)
    return f"    {before}{line[left : left + width]}{after}\n    {' ' * (len(before) + start - left)}{carets}"


class UnknownNameError(UsageError):
    """A name that nothing is registered or configured under."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        self.kind = kind
        self.name = name
        message = f"unknown {kind} {name!r}"
        candidates = sorted(known)
        close = difflib.get_close_matches(name, candidates, n=1)
        if close:
            message += f"; did you mean {close[0]!r}?"
        elif candidates and len(candidates) <= _FEW:
            message += f"; there are: {', '.join(candidates)}"
        if hint:
            message += f" ({hint})"
        super().__init__(message)


class ConfigError(UsageError):
    """A configuration key or value that cannot be used."""


class CheckpointError(QuantgateError):
    """A model folder that is damaged, incomplete, or refused for safety."""


class ObservationError(QuantgateError):
    """A pass over a model that gave no usable numbers: NaN logits, an empty corpus, another tokenizer."""


class WorkerError(ObservationError):
    """The process that held a model died, hung, or could not be started."""


class StoreError(QuantgateError):
    """The store lacks what an offline run needs, or its folder cannot be used at all."""


class NotMeasurableError(QuantgateError):
    """This machine cannot measure it: the gate is skipped with this reason, or fails when strict."""


class MissingExtraError(NotMeasurableError):
    """An optional dependency that is not installed."""

    def __init__(self, purpose: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"{purpose} needs an extra: pip install 'pytest-quantgate[{extra}]'")


class InconclusiveWarning(UserWarning):
    """A gate was not decided, and `--quantgate-inconclusive warn` lets its test pass."""
