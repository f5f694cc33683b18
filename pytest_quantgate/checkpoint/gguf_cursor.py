"""Reading a file's header from the front, where no length in it is believed. Pure."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from pytest_quantgate.files import MalformedError

if TYPE_CHECKING:
    import struct

__all__ = ["Cursor"]

MAX_HEADER: Final = 128 << 20
"""Bytes before the first tensor; a vocabulary of 262,144 entries with its merges takes 15 MiB."""

_PIECE: Final = 1 << 20


class Cursor:
    """Reads a file from the front, a piece at a time.

    Attributes:
        position: of the next byte.
        section: what is being read, for messages.

    """

    def __init__(self, descriptor: int, size: int, position: int) -> None:
        self.position = position
        self.section = "metadata"
        self._descriptor, self._size = descriptor, size
        self._begin, self._buffer = 0, b""

    def take(self, count: int) -> bytes:
        """Return the next bytes.

        Raises:
            MalformedError: the file or the header's largest size ends before.

        """
        at = self._reach(count) - self._begin
        self.position += count
        return self._buffer[at : at + count]

    def number(self, layout: struct.Struct) -> Any:
        """Return the next number."""
        return layout.unpack(self.take(layout.size))[0]

    def skip(self, count: int) -> None:
        """Step over bytes without reading them."""
        self._within(count)
        self.position += count

    def _within(self, count: int) -> None:
        end = self.position + count
        if end > self._size:
            raise MalformedError(
                f"truncated inside the {self.section} (found {self._size} bytes, it goes on to {end} at least)"
            )
        if end > MAX_HEADER:
            raise MalformedError(f"a header of more than {MAX_HEADER} bytes (inside the {self.section})")

    def _reach(self, count: int) -> int:
        self._within(count)
        if not self._begin <= self.position <= self._begin + len(self._buffer) - count:
            self._begin = self.position
            self._buffer = os.pread(self._descriptor, max(_PIECE, count), self.position)
            if len(self._buffer) < count:
                raise MalformedError(f"became shorter while it was read (inside the {self.section})")
        return self.position
