"""The header of a GGUF file, read strictly before llama.cpp maps the file. Pure.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. A count in the file
is never believed: every entry is read where it stands, so that the file's own size bounds the work, and what is large
(the vocabulary) is stepped over. llama.cpp allocates by the counts and ends in a C++ exception, or worse.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytest_quantgate.checkpoint.gguf_cursor import Cursor
from pytest_quantgate.checkpoint.gguf_types import TYPES
from pytest_quantgate.checkpoint.headers import MAX_TENSORS, TensorInfo, refuse_many
from pytest_quantgate.files import MalformedError, opened, read_all

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["MAGIC", "Header", "Listed", "read_gguf"]

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
FIXED: Final = struct.Struct("<4sIQQ")  # magic, version, tensors, metadata entries
MAX_ENTRIES: Final = 1 << 16
MAX_KEY: Final = (1 << 16) - 1
MAX_NAME: Final = 64  # GGML_MAX_NAME
MAX_STRING: Final = 1 << 20
"""Longest string that is kept; a longer one is stepped over."""

MAX_LISTED: Final = 4096
"""Longest list of numbers that is kept: one value per layer, not one per token."""

MAX_STRINGS: Final = 1 << 22
"""In one array: tokens or merges."""

MAX_DIMENSIONS: Final = 4
ALIGNMENT: Final = 32
MAX_ALIGNMENT: Final = 1 << 20
STRING, ARRAY, BOOL = 8, 9, 7
NUMBERS: Final[Mapping[int, struct.Struct]] = {
    kind: struct.Struct("<" + code)
    for kind, code in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}
_LENGTH: Final = struct.Struct("<Q")


class Listed(NamedTuple):
    """An array of the metadata that is too long to keep, or one of strings: only how many there are."""

    length: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself.

    Attributes:
        metadata: values by key; a long array is a `Listed`.
        tensors: by name; shapes are as PyTorch writes them, (outputs, inputs).
        offsets: where the bytes of each tensor begin in the file.

    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    offsets: Mapping[str, int]

    def of_architecture(self, key: str) -> Any:
        """Return `<architecture>.<key>`; None if it is not there."""
        return self.metadata.get(f"{self.metadata.get('general.architecture')}.{key}")


def read_gguf(path: Path, name: str) -> Header:
    """Return the header of a file.

    Args:
        path: where it lies, all links resolved.
        name: the file's name in its folder, for `TensorInfo.file`.

    Raises:
        MalformedError: it is no sound GGUF file.
        OSError: it cannot be read.

    """
    with opened(path) as (descriptor, status):
        size = status.st_size
        tensors, entries = _counts(bytes(read_all(descriptor, min(size, FIXED.size))), size)
        cursor = Cursor(descriptor, size, FIXED.size)
        metadata = _metadata(cursor, entries)
        infos = [_info(cursor, number) for number in range(tensors)]
    return _placed(metadata, infos, cursor.position, size, name)


def _counts(head: bytes, size: int) -> tuple[int, int]:
    if not head.startswith(MAGIC):
        raise MalformedError(f"begins with {head[:4]!r} (allowed: b'GGUF')", "give a GGUF file")
    if len(head) < FIXED.size:
        raise MalformedError(f"truncated inside the first {FIXED.size} bytes (found {size} bytes)")
    _, version, tensors, entries = FIXED.unpack(head)
    if version not in VERSIONS:
        swapped = int.from_bytes(struct.pack("<I", version), "big") in VERSIONS
        what = "big-endian" if swapped else f"of version {version}"
        raise MalformedError(
            f"a GGUF file {what} (allowed: versions 2 and 3, little-endian)", "convert the model anew"
        )
    refuse_many(tensors, MAX_TENSORS)
    if entries > MAX_ENTRIES:
        raise MalformedError(f"too much metadata (found {entries} entries, allowed: {MAX_ENTRIES})")
    return int(tensors), int(entries)


# --- metadata


def _metadata(cursor: Cursor, entries: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for number in range(entries):
        cursor.section = f"metadata (entry {number + 1} of {entries})"
        key = _text(cursor, MAX_KEY, "a metadata key")
        if key in metadata:
            raise MalformedError(f"the metadata key {key[:80]!a} twice")
        metadata[key] = _value(cursor, key, cursor.number(NUMBERS[4]))
    return metadata


def _text(cursor: Cursor, limit: int, what: str) -> str:
    length = cursor.number(_LENGTH)
    if length > limit:
        raise MalformedError(f"{what} of {length} bytes (allowed: {limit})")
    try:
        return cursor.take(length).decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"{what} that is not UTF-8 (byte {error.start})") from error


def _value(cursor: Cursor, key: str, kind: int) -> Any:
    if kind in NUMBERS:
        return cursor.number(NUMBERS[kind])
    if kind == STRING:
        length = cursor.number(_LENGTH)
        if length > MAX_STRING:
            cursor.skip(length)
            return Listed(length)
        return cursor.take(length).decode(errors="replace")
    if kind == ARRAY:
        return _array(cursor, key)
    raise MalformedError(f"the metadata key {key[:80]!a} of the type {kind} (allowed: 0 to 12)")


def _array(cursor: Cursor, key: str) -> Any:
    kind, count = cursor.number(NUMBERS[4]), cursor.number(_LENGTH)
    if kind in NUMBERS:
        layout = NUMBERS[kind]
        if count > MAX_LISTED:
            cursor.skip(count * layout.size)
            return Listed(count)
        return [cursor.number(layout) for _ in range(count)]
    if kind != STRING:
        raise MalformedError(
            f"the metadata key {key[:80]!a}: an array of the type {kind} (allowed: numbers, strings)"
        )
    if count > MAX_STRINGS:
        raise MalformedError(f"the metadata key {key[:80]!a}: {count} strings (allowed: {MAX_STRINGS})")
    for _ in range(count):
        cursor.skip(cursor.number(_LENGTH))
    return Listed(count)


# --- tensors


class _Info(NamedTuple):
    """A tensor as the file lists it; `begin` counts from the data section."""

    name: str
    info: TensorInfo
    begin: int


def _info(cursor: Cursor, number: int) -> _Info:
    cursor.section = f"list of tensors (number {number + 1})"
    name = _text(cursor, MAX_NAME, "a tensor name")
    if not name.isprintable():
        raise MalformedError(f"the tensor name {name!a} (allowed: printable characters)")
    dimensions = cursor.number(NUMBERS[4])
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise MalformedError(f"tensor {name!r} of {dimensions} dimensions (allowed: 1 to {MAX_DIMENSIONS})")
    shape = struct.unpack(f"<{dimensions}Q", cursor.take(8 * dimensions))
    kind = cursor.number(NUMBERS[4])
    begin = cursor.number(_LENGTH)
    if kind not in TYPES:
        known = ", ".join(TYPES[number].name for number in sorted(TYPES))
        raise MalformedError(
            f"tensor {name!r} of the type {kind} (known: {known})", "use a file of a known type"
        )
    stored = TYPES[kind]
    elements = math.prod(shape)
    if not 0 < elements < 1 << 63 or shape[0] % stored.block:
        raise MalformedError(
            f"tensor {name!r} of the shape {list(shape)} "
            f"(allowed for {stored.name}: rows of a multiple of {stored.block}, less than 2^63 elements)"
        )
    return _Info(
        name, TensorInfo(stored.name, shape[::-1], elements // stored.block * stored.nbytes, ""), begin
    )


def _placed(metadata: Mapping[str, Any], infos: list[_Info], header: int, size: int, file: str) -> Header:
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise MalformedError(f"general.alignment is {ascii(alignment)[:40]} (allowed: a power of 2)")
    start = -(-header // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    offsets: dict[str, int] = {}
    expected = 0
    for name, info, begin in infos:
        if name in tensors:
            raise MalformedError(f"tensor {name!r} twice")
        if begin != expected:
            raise MalformedError(f"tensor {name!r} begins at {begin} of the data (expected {expected})")
        expected = -(-(begin + info.nbytes) // alignment) * alignment
        tensors[name] = TensorInfo(info.dtype, info.shape, info.nbytes, file)
        offsets[name] = start + begin
    end = max((offsets[name] + info.nbytes for name, info in tensors.items()), default=0)
    if end > size:
        raise MalformedError(f"truncated (found {size} bytes, its header lists {end})")
    return Header(metadata, tensors, offsets)
