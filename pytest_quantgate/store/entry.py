"""The file format of a stored observation: `Step` + `Observation` <-> bytes. Pure.

Layout, all numbers little-endian::

    16 bytes  magic
     8 bytes  length of the header
    header    JSON: schema, key, step, facts, arrays = [[name, dtype, shape, offset, bytes], …]
    arrays    raw, each starting at a multiple of 64
    32 bytes  SHA-256 of everything before

Nothing in it can run code, and no length in it is believed before it was compared with the file's size.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate.errors import StoreError
from pytest_quantgate.files import Bytes, MalformedError, strict_json
from pytest_quantgate.spec import Json, Observation, Step, canonical

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["HEADER_START", "MAX_ENTRY", "MAX_HEADER", "Entry", "decode", "decode_header", "encode"]

SCHEMA = 1
MAGIC = b"QUANTGATE-OBS\x01\r\n"
MAX_HEADER = 16 << 20
MAX_ENTRY = 8 << 30
MAX_DIMENSIONS = 32
DTYPES = frozenset(["|b1", "|i1", "|u1", *(f"<{kind}{size}" for kind in "iuf" for size in (2, 4, 8))])
_ALIGNMENT = 64
_DIGEST = 32
HEADER_START = len(MAGIC) + 8


@dataclass(frozen=True, slots=True)
class Entry:
    """What one file holds; `arrays` is the table of the header: name, dtype, shape, offset and bytes."""

    key: str
    step: Step
    facts: dict[str, Json]
    arrays: tuple[tuple[str, str, tuple[int, ...], int, int], ...]


def encode(step: Step, observation: Observation) -> Iterator[Bytes]:
    """Return the pieces of an entry, ready to be written one after another.

    Raises:
        StoreError: an array or a fact that must not be stored: NaN, infinity, an object, too large.

    """
    arrays = {name: _storable(name, array, step) for name, array in observation.arrays.items()}
    header = _header(step, observation, arrays)
    return _pieces(header, tuple(arrays.values()))


def _storable(name: str, array: NDArray[Any], step: Step) -> NDArray[Any]:
    plain = np.asarray(array, order="C")
    plain = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
    if plain.dtype.str not in DTYPES:
        raise StoreError(
            f"{step.label}: array {name!r} has the dtype {plain.dtype} "
            f"(allowed: bool, integers and floats up to 64 bits); convert it, or put text into facts"
        )
    if plain.dtype.kind == "f" and not np.isfinite(plain).all():
        count = int(plain.size - np.isfinite(plain).sum())
        raise StoreError(
            f"{step.label}: array {name!r} holds {count} of {plain.size} values that are NaN or infinite; "
            f"nothing was stored: look for broken weights or an overflow in the model"
        )
    return plain


def _header(step: Step, observation: Observation, arrays: dict[str, NDArray[Any]]) -> bytes:
    table: list[Json] = []
    offset = 0  # from the start of the array section, which begins aligned
    for name, array in arrays.items():
        table.append([name, array.dtype.str, list(array.shape), offset, array.nbytes])
        offset += array.nbytes + _padding(array.nbytes)
    try:
        header = canonical(
            {
                "schema": SCHEMA,
                "key": step.key,
                "step": step.to_json(),
                "facts": dict(observation.facts),
                "arrays": table,
            }
        )
        strict_json(header)
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"{step.label}: facts that cannot be stored: {error}; use plain, finite JSON"
        ) from error
    if len(header) > MAX_HEADER or offset > MAX_ENTRY - MAX_HEADER:
        raise StoreError(
            f"{step.label}: {len(header) + offset} bytes are too large for one entry of the store"
        )
    return header


def _pieces(header: bytes, arrays: tuple[NDArray[Any], ...]) -> Iterator[Bytes]:
    digest = hashlib.sha256()
    start = MAGIC + struct.pack("<Q", len(header)) + header
    for piece in chain([start], (array.tobytes() for array in arrays)):
        for part in (piece, bytes(_padding(len(piece)))):
            digest.update(part)
            yield part
    yield digest.digest()


def _padding(size: int) -> int:
    return -size % _ALIGNMENT


def decode(data: memoryview) -> tuple[Entry, Observation]:
    """Rebuild what `encode` wrote; the arrays are read-only views of `data`.

    Raises:
        MalformedError: anything is not as it was written.

    """
    _check_digest(data)
    entry = decode_header(data, len(data))
    arrays = {
        name: np.frombuffer(data, dtype, math.prod(shape), offset).reshape(shape)
        for name, dtype, shape, offset, _ in entry.arrays
    }
    return entry, Observation(arrays, entry.facts)


def _check_digest(data: memoryview) -> None:
    if len(data) < HEADER_START + _DIGEST:
        raise MalformedError(f"{len(data)} bytes are too few for an entry")
    stored = bytes(data[-_DIGEST:]).hex()
    found = hashlib.sha256(data[:-_DIGEST]).hexdigest()
    if stored != found:
        raise MalformedError(f"its content has the digest {found}, but {stored} was written")


def decode_header(data: memoryview, size: int) -> Entry:
    """Read the header of an entry that is `size` bytes long, of which `data` holds the beginning.

    Raises:
        MalformedError: it is no entry, or its lengths do not fit `size`.

    """
    if bytes(data[: len(MAGIC)]) != MAGIC:
        raise MalformedError("it does not begin as an entry")
    (length,) = struct.unpack("<Q", data[len(MAGIC) : HEADER_START])
    if length > min(MAX_HEADER, size - HEADER_START - _DIGEST):
        raise MalformedError(f"a header of {length} bytes in a file of {size}")
    header = strict_json(data[HEADER_START : HEADER_START + length])
    start = HEADER_START + length + _padding(HEADER_START + length)
    try:
        schema = header["schema"]
        step = Step.from_json(header["step"])
        key = step.key
        table = tuple(_table(header["arrays"], start, size - _DIGEST))
        facts = header["facts"]
    except MalformedError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MalformedError(f"a header without what it should hold ({error!r})") from error
    if schema != SCHEMA:
        raise MalformedError(f"schema {schema!r} (known: {SCHEMA})")
    if not isinstance(facts, dict):
        raise MalformedError("facts that are no JSON object")
    if header["key"] != key:
        raise MalformedError(f"it says that its key is {header['key']!r}, but its step has the key {key}")
    return Entry(key, step, facts, table)


def _table(rows: Any, start: int, end: int) -> Iterator[tuple[str, str, tuple[int, ...], int, int]]:
    position = start
    seen = set()
    for name, dtype, shape, offset, nbytes in rows:
        sizes = (*shape, offset, nbytes)
        if dtype not in DTYPES or name in seen or not isinstance(name, str) or len(shape) > MAX_DIMENSIONS:
            raise MalformedError(f"array {name!r} with the dtype {dtype!r}")
        if any(type(item) is not int or item < 0 for item in sizes):
            raise MalformedError(f"array {name!r} of the shape {shape!r}")
        expected = math.prod(shape) * np.dtype(dtype).itemsize
        if nbytes != expected or start + offset != position or nbytes > end - position:
            raise MalformedError(f"array {name!r} of {nbytes} bytes at {offset}, which does not fit")
        seen.add(name)
        yield name, dtype, tuple(shape), position, nbytes
        position += nbytes + _padding(nbytes)
    if position != end:
        raise MalformedError(f"{end - position} bytes more than its arrays")
