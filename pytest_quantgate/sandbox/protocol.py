"""What crosses a wall of the box: frames of JSON, and plain data in them.

A frame is its length (four bytes, little-endian) and that many bytes of JSON; a frame that says it is longer than
`FRAME` is never read. Plain data are values whose type is exactly None, bool, int, float (NaN and the infinities too),
complex, str, bytes, bytearray, list, tuple, dict, set or frozenset. In JSON the first four kinds and strings stand for
themselves, everything else is an array that begins with a tag:

    ["l", ...] list   ["t", ...] tuple   ["s", ...] set   ["f", ...] frozenset   ["d", key, value, ...] dict
    ["i", hex] a long int   ["c", real, imag] complex   ["b", latin-1] bytes   ["a", latin-1] bytearray
    ["u", hex] a string with surrogates, as UTF-8 that lets them pass

A value of a subclass is sent as what it is underneath: a namedtuple as a tuple, a Counter as a dict. So whatever
`decode` returns has no method that its sender wrote. Generators, iterators, functions and instances are not plain.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["DEPTH", "FRAME", "ProtocolError", "Wire", "decode", "encode", "pack"]

FRAME = 4 * 2**20
"""The longest frame that is read, in bytes."""
DEPTH = 100
"""How deep containers may be nested."""

_HEADER = 4
_SMALL = 2**63
_written = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_PIECE = 2**16


class ProtocolError(Exception):
    """Data that is not plain, too long or too deep, or a frame that is no frame."""


def encode(value: object, depth: int = 0) -> Any:
    """Return what JSON can hold for `value`.

    Raises:
        ProtocolError: the value is not plain data, or nested too deep.

    """
    kind = type(value)
    if isinstance(value, str) and kind is str:
        return _text(value)
    if value is None or kind is bool or kind is float:
        return value
    for base, write in _WRITERS:
        if issubclass(kind, base):
            return write(value, depth)
    raise ProtocolError(f"a {kind.__name__[:100]} is not plain data")


def decode(value: object, depth: int = 0) -> Any:
    """Return the value that `encode` was given, from what JSON held.

    Raises:
        ProtocolError: it is nothing that `encode` returns.

    """
    if type(value) is not list:
        if type(value) is dict:
            raise ProtocolError("an object where plain data was expected")
        return value
    if not value or depth > DEPTH:
        raise ProtocolError("an untagged array" if not value else f"nested deeper than {DEPTH}")
    read = _READERS.get(value[0]) if type(value[0]) is str else None
    if read is None:
        raise ProtocolError("an array with an unknown tag")
    try:
        return read(value, depth + 1)
    except (TypeError, ValueError, IndexError) as error:
        raise ProtocolError(f"an array that is not what its tag says ({type(error).__name__})") from error


def pack(message: object) -> bytes:
    """Return a message of JSON's own types as one frame, however long it is."""
    body = _written(message).encode("ascii")
    return len(body).to_bytes(_HEADER, "little") + body


class Wire:
    """One end of a connection: messages of JSON's own types, one frame each.

    Args:
        descriptor: what is read and written.
        limit: the longest frame that is read, in bytes.

    """

    def __init__(self, descriptor: int, limit: int = FRAME) -> None:
        self._descriptor = descriptor
        self._limit = limit
        self._heard = b""

    def send(self, message: object) -> None:
        """Write one message.

        Raises:
            ProtocolError: it is longer than a frame may be.
            OSError: nobody reads any more.

        """
        frame = pack(message)
        if len(frame) - _HEADER > FRAME:
            raise ProtocolError(f"longer than {FRAME:,} bytes")
        sent = os.write(self._descriptor, frame)
        while sent < len(frame):
            sent += os.write(self._descriptor, memoryview(frame)[sent : sent + _PIECE])

    def receive(self) -> Any:
        """Read one message; wait for it.

        Raises:
            EOFError: the other side is gone.
            ProtocolError: what came is too long or no JSON.
            OSError: the descriptor cannot be read.

        """
        heard = self._heard or self._more(_PIECE)
        while len(heard) < _HEADER:
            heard += self._more(_PIECE)
        end = _HEADER + int.from_bytes(heard[:_HEADER], "little")
        if end - _HEADER > self._limit:
            raise ProtocolError(f"longer than {self._limit:,} bytes")
        if len(heard) < end:
            heard = self._rest(heard, end)
        self._heard = heard[end:]
        try:
            return json.loads(heard[_HEADER:end])
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"no JSON ({type(error).__name__})") from error

    def _rest(self, heard: bytes, end: int) -> bytes:
        pieces, have = [heard], len(heard)
        while have < end:
            pieces.append(self._more(min(end - have, _PIECE)))
            have += len(pieces[-1])
        return b"".join(pieces)

    def _more(self, most: int) -> bytes:
        piece = os.read(self._descriptor, most)
        if not piece:
            raise EOFError("the other side is gone")
        return piece


def _text(value: str) -> Any:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return ["u", value.encode("utf-8", "surrogatepass").hex()]
    return value


def _number(value: int, _: int) -> Any:
    plain = int.__index__(value)
    return plain if -_SMALL <= plain < _SMALL else ["i", hex(plain)]


def _many(tag: str, walk: Callable[[Any], Iterable[object]]) -> Callable[[Any, int], Any]:
    def write(value: Any, depth: int) -> Any:
        if depth >= DEPTH:
            raise ProtocolError(f"nested deeper than {DEPTH}")
        return [tag, *(encode(one, depth + 1) for one in walk(value))]

    return write


_WRITERS: tuple[tuple[type, Callable[[Any, int], Any]], ...] = (
    (int, _number),
    (list, _many("l", list.__iter__)),
    (tuple, _many("t", tuple.__iter__)),
    (dict, _many("d", lambda value: (one for pair in dict.items(value) for one in pair))),
    (set, _many("s", set.__iter__)),
    (frozenset, _many("f", frozenset.__iter__)),
    (str, lambda value, _: _text(str.__str__(value))),
    (float, lambda value, _: float.__float__(value)),
    (complex, lambda value, _: ["c", complex.__complex__(value).real, complex.__complex__(value).imag]),
    (bytes, lambda value, _: ["b", bytes.__bytes__(value).decode("latin-1")]),
    (bytearray, lambda value, _: ["a", bytearray.decode(value, "latin-1")]),
)


def _some(value: list[Any], depth: int) -> Iterable[object]:
    return (decode(one, depth) for one in value[1:])


def _pairs(value: list[Any], depth: int) -> dict[object, object]:
    flat = list(_some(value, depth))
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _one(value: list[Any]) -> str:
    _, text = value
    if type(text) is not str:
        raise TypeError("a text was expected")
    return text


def _complex(value: list[Any]) -> complex:
    _, real, imag = value
    if type(real) is not float or type(imag) is not float:
        raise TypeError("two floats were expected")
    return complex(real, imag)


_READERS: dict[str, Callable[[list[Any], int], Any]] = {
    "l": lambda value, depth: list(_some(value, depth)),
    "t": lambda value, depth: tuple(_some(value, depth)),
    "d": _pairs,
    "s": lambda value, depth: set(_some(value, depth)),
    "f": lambda value, depth: frozenset(_some(value, depth)),
    "i": lambda value, _: int(_one(value), 16),
    "c": lambda value, _: _complex(value),
    "b": lambda value, _: _one(value).encode("latin-1"),
    "a": lambda value, _: bytearray(_one(value), "latin-1"),
    "u": lambda value, _: bytes.fromhex(_one(value)).decode("utf-8", "surrogatepass"),
}
