"""Progress of long commands, on standard error: what a pytest session shows, without pytest."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pytest_quantgate.escaping import plain
from pytest_quantgate.narrator import Terminal

if TYPE_CHECKING:
    from typing import TextIO

    from pytest_quantgate.engine import Narrator

__all__ = ["INTERRUPTED", "narrator"]

INTERRUPTED = 2
"""pytest's exit code for Ctrl-C."""

_ERASE = "\r\x1b[K"


def narrator() -> Narrator:
    """Return who tells: a moving line on a terminal, else a line per piece of work that took a second."""
    return Terminal(_Stream(sys.stderr), None)


class _Stream:
    """What a narrator wants of pytest's terminal reporter."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.isatty = stream.isatty()

    def write_line(self, text: str) -> None:
        print(plain(text), file=self._stream, flush=True)

    def rewrite(self, text: str, *, erase: bool) -> None:
        del erase
        print(f"{_ERASE}{plain(text)}", end="", file=self._stream, flush=True)
