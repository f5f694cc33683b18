"""Values on their way between two processes: JSON for what is small, raw bytes for arrays; nothing is ever pickled.

A frame is two lengths (of the JSON text and of the arrays, 8 bytes each, little-endian), the text, and the arrays one
after the other. In the text an array is `{"$array": [type, shape]}`, a tuple `{"$tuple": [...]}`, and one of the
values of `interfaces` its name and members.
"""

from __future__ import annotations

import json
import math
import socket
import struct
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

import numpy as np

from pytest_quantgate.interfaces import Choices, Completion, Decoding, Prompt, TokenScores, Trace, Window
from pytest_quantgate.spec import ModelSpec, Recipe

__all__ = ["Channel"]

_HEADER: Final = struct.Struct("<QQ")
_CHUNK: Final = 1 << 20
_MEMBERS: Final = {
    kind.__name__: kind for kind in (Choices, Completion, Decoding, Prompt, TokenScores, Trace, Window)
}
_JSON: Final[dict[str, Any]] = {"ModelSpec": ModelSpec, "Recipe": Recipe}


class Channel:
    """One end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, value: Any, seconds: float | None = None) -> None:
        """Send a value; wait at most so long for the other end to take it.

        Raises:
            ConnectionError: there is no one at the other end.
            TimeoutError: it is not taken.
            TypeError: a value that has no form here.

        """
        self._connection.settimeout(seconds)
        arrays: list[np.ndarray[Any, Any]] = []
        text = json.dumps(_packed(value, arrays)).encode()
        self._connection.sendall(_HEADER.pack(len(text), sum(array.nbytes for array in arrays)) + text)
        for array in arrays:
            self._connection.sendall(array.tobytes())

    def receive(self, seconds: float | None = None) -> Any:
        """Return the next value; wait at most so long for its beginning, and for each further piece of it.

        Raises:
            EOFError: the other end is gone.
            TimeoutError: nothing came.

        """
        text_size, array_size = _HEADER.unpack(self._read(_HEADER.size, seconds))
        text = json.loads(self._read(text_size, seconds))
        return _unpacked(text, _Arrays(self._read(array_size, seconds)))

    def close(self) -> None:
        """Let the other end know that nothing will come any more."""
        self._connection.close()

    def _read(self, size: int, seconds: float | None) -> bytearray:
        found = bytearray()
        self._connection.settimeout(seconds)
        while len(found) < size:
            try:
                piece = self._connection.recv(min(_CHUNK, size - len(found)))
            except ConnectionError as error:
                raise EOFError from error
            if not piece:
                raise EOFError
            found += piece
        return found


class _Arrays:
    """The arrays of a frame, taken one by one."""

    def __init__(self, content: bytearray) -> None:
        self._content = memoryview(content)

    def take(self, kind: str, shape: list[int]) -> np.ndarray[Any, Any]:
        dtype = np.dtype(kind)
        size = dtype.itemsize * math.prod(shape)
        here, self._content = self._content[:size], self._content[size:]
        return np.frombuffer(here, dtype).reshape(shape)


def _packed(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, list):
        return [_packed(item, arrays) for item in value]
    if isinstance(value, Mapping):
        return {str(name): _packed(item, arrays) for name, item in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    named = _named(value, arrays)
    return value if named is None else {f"${named[0]}": named[1]}


def _named(value: Any, arrays: list[np.ndarray[Any, Any]]) -> tuple[str, Any] | None:
    """Return the name and the content of what JSON has no form for; None for what it has."""
    kind = type(value).__name__
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError("an array of objects cannot leave its process")
        arrays.append(np.ascontiguousarray(value))
        return "array", [value.dtype.str, list(value.shape)]
    if isinstance(value, tuple):
        return "tuple", [_packed(item, arrays) for item in value]
    if kind in _JSON:
        return kind, value.to_json()
    if kind in _MEMBERS:
        return kind, {each.name: _packed(getattr(value, each.name), arrays) for each in fields(value)}
    return None


def _unpacked(value: Any, arrays: _Arrays) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    name = next(iter(value), "")
    if len(value) == 1 and name.startswith("$"):
        return _rebuilt(name[1:], value[name], arrays)
    return {key: _unpacked(item, arrays) for key, item in value.items()}


def _rebuilt(name: str, inner: Any, arrays: _Arrays) -> Any:
    if name == "array":
        return arrays.take(*inner)
    if name == "tuple":
        return tuple(_unpacked(item, arrays) for item in inner)
    if name in _JSON:
        return _JSON[name].from_json(inner)
    return _MEMBERS[name](**{key: _unpacked(item, arrays) for key, item in inner.items()})
