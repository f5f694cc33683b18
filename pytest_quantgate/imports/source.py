"""Another tool's file, read with its shape checked: what is missing or of the wrong kind is named with its place."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_quantgate.errors import GateError, UsageError
from pytest_quantgate.files import MalformedError, NotRegularError, opened, read_all, strict_json
from pytest_quantgate.gate import Metric

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pytest_quantgate.spec import Json

__all__ = ["LARGEST", "Node", "Source"]

LARGEST = 256 << 20
"""The most bytes that a file may have."""

_MEMBERS = 1 << 24
_LONGEST = 40
_MANY = 1 << 32


@dataclass(frozen=True, slots=True)
class Source:
    """A file of a tool.

    Attributes:
        path: where it lies.
        kind: what it should be, e.g. "result of lm-eval".
        advice: how one gets such a file.

    """

    path: Path
    kind: str
    advice: str

    def foreign(self, what: str) -> UsageError:
        """Return the error of a file that another tool wrote, or none."""
        return UsageError(f"{self.path} is no {self.kind}: {what}; {self.advice}")

    def broken(self, what: str, advice: str = "") -> UsageError:
        """Return the error of a file that cannot be used."""
        return UsageError(f"{self.path}: {what}; {advice or self.advice}")

    def alone(self, extra_files: Sequence[Path]) -> None:
        """Refuse files beside it."""
        if extra_files:
            raise UsageError(
                f"{extra_files[0]}: a {self.kind} is one file, and no other belongs to it; leave it out"
            )

    def metric(self, name: str, **arguments: str) -> str:
        """Return a metric's text; "of" is the argument without a name."""
        try:
            return str(Metric(name, tuple(arguments.items())))
        except GateError as error:
            raise self.broken(f"its names make no metric ({error})") from error

    def data(self) -> memoryview:
        """Return the bytes."""
        try:
            with opened(self.path) as (descriptor, status):
                if status.st_size > LARGEST:
                    raise self.broken(
                        f"it has {status.st_size >> 20} MiB (allowed: {LARGEST >> 20})",
                        "give the results without the raw data",
                    )
                found = read_all(descriptor, status.st_size)
        except NotRegularError as error:
            raise self.broken(
                "it is no regular file", "give the file itself, not a link or a folder"
            ) from error
        except OSError as error:
            raise self.broken(f"it cannot be read ({error.strerror})", "give the path of the file") from error
        except MalformedError as error:
            raise self.broken(f"it {error}", "wait until it is written, and read it again") from error
        if not len(found):
            raise self.broken("it is empty")
        return found

    def json(self) -> Node:
        """Return its content as JSON."""
        return self.parsed(self.data(), "")

    def parsed(self, data: memoryview | bytes, trail: str) -> Node:
        """Return JSON that stands in it at a place."""
        try:
            return Node(strict_json(data, members=_MEMBERS), self, trail)
        except MalformedError as error:
            place, hint = (
                f"{trail}: " if trail else "",
                "; perhaps it is cut short" if "not JSON" in str(error) else "",
            )
            raise self.foreign(f"{place}{error}{hint}") from error

    def lines(self) -> Iterator[Node]:
        """Yield the JSON of each line that is not blank."""
        for number, line in enumerate(bytes(self.data()).split(b"\n"), 1):
            if line.strip():
                yield self.parsed(line, f"line {number}")

    def text(self) -> str:
        """Return its content as text: UTF-8, or the UTF-16 of PowerShell's `>`; what is neither is replaced."""
        data = bytes(self.data())
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if wide else "utf-8-sig", "replace")


@dataclass(frozen=True, slots=True)
class Node:
    """A value in a file of JSON, and where it stands; every question but `get` fails with that place."""

    value: Any
    source: Source
    trail: str

    def wrong(self, wanted: str) -> UsageError:
        """Return the error of a value of the wrong kind."""
        shown = repr(self.value)
        shown = shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."
        return self.source.broken(f"{self.trail or 'the whole'} is {shown}, where {wanted} belongs")

    def get(self, key: str) -> Node | None:
        """Return a member, or None where there is none, or null, or this is no table."""
        value = self.value.get(key) if isinstance(self.value, dict) else None
        return None if value is None else Node(value, self.source, self._at(key))

    def member(self, key: str) -> Node:
        """Return a member that must be there."""
        self.table()
        if key not in self.value:
            place = f"{self.trail} has" if self.trail else "it has"
            raise self.source.foreign(f"{place} no {key!r}")
        return Node(self.value[key], self.source, self._at(key))

    def table(self) -> list[tuple[str, Node]]:
        """Return the members of a table."""
        if not isinstance(self.value, dict):
            raise self.wrong("a table") if self.trail else self.source.foreign("it is no table of JSON")
        return [(key, Node(value, self.source, self._at(key))) for key, value in self.value.items()]

    def rows(self) -> list[Node]:
        """Return the parts of a list."""
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        return [Node(value, self.source, self._at(str(at))) for at, value in enumerate(self.value)]

    def text(self) -> str:
        """Return a text; half a surrogate pair, which JSON can hold and UTF-8 cannot, becomes a question mark."""
        if not isinstance(self.value, str):
            raise self.wrong("a text")
        return self.value.encode("utf-8", "replace").decode()

    def scalars(self, *keys: str) -> dict[str, Json]:
        """Return those of its members that are a text, a number, true or false: what a protocol can say."""
        found = {key: self.get(key) for key in keys}
        return {
            key: node.text() if isinstance(node.value, str) else node.value
            for key, node in found.items()
            if node is not None and isinstance(node.value, str | int | float)
        }

    def number(self) -> float:
        """Return a number; `strict_json` lets none pass that is not finite."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.wrong("a number")
        try:
            return float(self.value)
        except OverflowError as error:
            raise self.wrong("a number that a float can hold") from error

    def positive(self) -> float:
        """Return a number of at least 0."""
        found = self.number()
        if found < 0:
            raise self.wrong("a number of at least 0")
        return found

    def count(self) -> int:
        """Return a whole number from 0 to 2**32; 5.0 is one."""
        found = self.number()
        if not 0 <= found < _MANY or found != int(found):
            raise self.wrong("a whole number from 0 to 2**32")
        return int(found)

    def _at(self, key: str) -> str:
        return f"{self.trail}.{key}" if self.trail else key
