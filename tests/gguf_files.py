"""GGUF files, made byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

UINT32, FLOAT32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9
METADATA: dict[str, tuple[int, Any]] = {
    "general.architecture": (STRING, "qwen2"),
    "general.file_type": (UINT32, 15),
    "qwen2.block_count": (UINT32, 2),
    "qwen2.embedding_length": (UINT32, 64),
    "tokenizer.ggml.model": (STRING, "gpt2"),
    "tokenizer.ggml.tokens": (ARRAY, (STRING, ["a", "b", "c"])),
    "tokenizer.ggml.token_type": (ARRAY, (5, [1, 1, 3])),
}
F32, F16, Q8_0, Q4_K = 0, 1, 8, 12
TENSORS = {"blk.0.attn_q.weight": ((256, 2), Q4_K), "blk.0.attn_norm.weight": ((64,), F32)}
BYTES = {F32: (1, 4), F16: (1, 2), Q8_0: (32, 34), Q4_K: (256, 144)}
_CODES = {UINT32: "<I", FLOAT32: "<f", BOOL: "<?", 2: "<H", 5: "<i", 10: "<Q"}


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def value(kind: int, content: Any) -> bytes:
    if kind == STRING:
        return string(content)
    if kind == ARRAY:
        inner, items = content
        return struct.pack("<IQ", inner, len(items)) + b"".join(value(inner, item) for item in items)
    return struct.pack(_CODES[kind], content)


def gguf(
    metadata: Mapping[str, tuple[int, Any]] | None = None,
    tensors: Mapping[str, tuple[Sequence[int], int]] | None = None,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int | None, int | None] = (None, None),
    alignment: int = 32,
    places: Mapping[str, int] | None = None,
    short: int = 0,
) -> bytes:
    """Return a sound file of two tensors, unless told otherwise; `counts` are those it claims, `short` bytes are cut."""
    entries = METADATA if metadata is None else metadata
    listed = TENSORS if tensors is None else tensors
    head = magic + struct.pack(
        "<IQQ",
        version,
        len(listed) if counts[0] is None else counts[0],
        len(entries) if counts[1] is None else counts[1],
    )
    body = b"".join(
        string(key) + struct.pack("<I", kind) + value(kind, item) for key, (kind, item) in entries.items()
    )
    at, infos = 0, b""
    for name, (shape, kind) in listed.items():
        block, size = BYTES.get(kind, (1, 1))
        begin = (places or {}).get(name, at)
        infos += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, begin)
        nbytes = size
        for number in shape:
            nbytes *= number
        at = -(-(begin + nbytes // block) // alignment) * alignment
    data = head + body + infos
    data += bytes(-len(data) % alignment) + bytes(min(at, 1 << 16))
    return data[: len(data) - short]


def write(folder: Path, name: str = "model.gguf", **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(gguf(**options))
    return path
