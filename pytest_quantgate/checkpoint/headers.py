"""The header of a safetensors file, read strictly before any library maps the file. Pure.

Format: https://github.com/huggingface/safetensors#format. Stricter than the library: no tensor twice, no odd
names, no hole and no overlap, bounded header and count, nothing beyond dtype, shape and offsets.
"""

from __future__ import annotations

import math
import os
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_quantgate.files import MalformedError, opened, read_all, strict_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["MAX_TENSORS", "TensorInfo", "read_header", "refuse_many"]

MIN_HEADER = 2
MAX_HEADER = 16 << 20
MAX_TENSORS = 100_000
"""In one file; a whole model may have more."""

MAX_DIMENSIONS = 32

BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8"), 8),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits per element of every dtype of the format; those below a byte must fill whole bytes."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._:/-]{0,255}")
_FIELDS = {"dtype", "shape", "data_offsets"}
_NOT_SAFETENSORS = (
    (b"version https://git-lfs", "a Git LFS pointer", "run git lfs pull in that folder"),
    (b"<", "a web page", "download the file itself, not its page"),
    (b"PK\x03\x04", "a zip or .pt archive", "convert the model to safetensors"),
    (b"GGUF", "a GGUF file", "give a safetensors checkpoint"),
    (b"\x80", "a pickle", "convert the model to safetensors"),
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file: its dtype as the format names it, shape, bytes, and the file's name."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: str


def read_header(path: Path, name: str) -> dict[str, TensorInfo]:
    """Return the tensors of a file.

    Args:
        path: where it lies, all links resolved.
        name: the file's name in its folder, for `TensorInfo.file`.

    Raises:
        MalformedError: it is no sound safetensors file.
        OSError: it cannot be read.

    """
    with opened(path) as (descriptor, status):
        size = status.st_size
        if size == 0:
            raise MalformedError("an empty file")
        head = bytes(read_all(descriptor, min(size, 24)))
        _sniff(head)
        length = _header_length(head[:8], size)
        os.lseek(descriptor, 8, os.SEEK_SET)
        data = bytes(read_all(descriptor, length))
    return _tensors(_header(data), size - 8 - length, name)


def _sniff(start: bytes) -> None:
    for magic, what, next_step in _NOT_SAFETENSORS:
        # such a byte may also begin a length: the header's brace tells them apart
        if start.startswith(magic) and start[8:9] != b"{":
            raise MalformedError(f"{what} instead of safetensors", next_step)


def _header_length(start: bytes, size: int) -> int:
    if len(start) < 8:  # noqa: PLR2004
        raise MalformedError(f"truncated (found {size} bytes, a safetensors file has at least 10)")
    (length,) = struct.unpack("<Q", start)
    if not MIN_HEADER <= length <= MAX_HEADER:
        raise MalformedError(f"a header of {length} bytes (allowed: {MIN_HEADER} to {MAX_HEADER})")
    if length > size - 8:
        raise MalformedError(
            f"truncated inside the header (found {size} bytes, the header ends at {length + 8})"
        )
    return int(length)


def _header(data: bytes) -> dict[str, Any]:
    if data[:1] != b"{":
        raise MalformedError(f"a header that begins with {data[:1]!r} (allowed: '{{')")
    refuse_many(data.count(b'"data_offsets"'), MAX_TENSORS)  # before a million objects are made of them
    header = strict_json(data)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise MalformedError("a __metadata__ that is no map of strings")
    if not header:
        raise MalformedError("no tensor at all")
    refuse_many(len(header), MAX_TENSORS)
    return dict(header)


def refuse_many(count: int, allowed: int) -> None:
    """Raise `MalformedError` if there are more tensors than any model has."""
    if count > allowed:
        raise MalformedError(f"too many tensors (found {count}, allowed: {allowed})")


def _tensors(header: Mapping[str, Any], size: int, file: str) -> dict[str, TensorInfo]:
    spans = []
    tensors = {}
    for name, field in header.items():
        _check_name(name)
        if not isinstance(field, dict) or field.keys() != _FIELDS:
            raise MalformedError(f"tensor {name!r} with other fields than dtype, shape and data_offsets")
        nbytes = _nbytes(name, field["dtype"], field["shape"])
        spans.append((*_span(name, field["data_offsets"], nbytes), name))
        tensors[name] = TensorInfo(field["dtype"], tuple(field["shape"]), nbytes, file)
    _check_spans(spans, size)
    return tensors


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or ".." in name:
        raise MalformedError(
            f"the tensor name {name[:80]!a} (allowed: 1 to 256 letters, digits and ._:/- without '..')"
        )


def _nbytes(name: str, dtype: Any, shape: Any) -> int:
    if not isinstance(dtype, str) or dtype not in BITS:
        raise MalformedError(
            f"tensor {name!r} of the dtype {str(dtype)[:40]!a} (known: {', '.join(sorted(BITS))})"
        )
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_size, shape)):
        raise MalformedError(
            f"tensor {name!r} of the shape {str(shape)[:40]} "
            f"(allowed: at most {MAX_DIMENSIONS} integers, 0 to 2^63 - 1)"
        )
    bits = math.prod(shape) * BITS[dtype]
    if bits % 8:
        raise MalformedError(f"tensor {name!r} of {bits} bits (allowed: whole bytes)")
    return bits // 8


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _span(name: str, offsets: Any, nbytes: int) -> tuple[int, int]:
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):  # noqa: PLR2004
        raise MalformedError(
            f"tensor {name!r} at the offsets {str(offsets)[:60]} (allowed: two integers from 0)"
        )
    begin, end = offsets
    if end - begin != nbytes:
        raise MalformedError(
            f"tensor {name!r} of {end - begin} bytes from {begin} to {end} (dtype and shape ask for {nbytes})"
        )
    return begin, end


def _check_spans(spans: list[tuple[int, int, str]], size: int) -> None:
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            what = "overlaps the tensor before it" if begin < position else "leaves a hole before it"
            raise MalformedError(f"tensor {name!r} {what} (it begins at {begin}, expected {position})")
        position = end
    if position > size:
        raise MalformedError(f"truncated (found {size} bytes of data, its header lists {position})")
    if position < size:
        raise MalformedError(f"{size - position} bytes after the last tensor (allowed: none)")
