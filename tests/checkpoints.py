"""Small model folders, made byte by byte."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIG = {"model_type": "qwen2", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
INDEX = "model.safetensors.index.json"


def raw(header: bytes, data: bytes = b"") -> bytes:
    """Return a safetensors file with this header, however wrong it is."""
    return struct.pack("<Q", len(header)) + header + data


def weights(header: Any, data: bytes = bytes(8)) -> bytes:
    """Return a safetensors file with this header as JSON."""
    return raw(json.dumps(header).encode(), data)


def tensor(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **extra: Any) -> dict[str, Any]:
    """Return a tensor's field of a header: two floats unless said otherwise."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **extra}


def write_model(folder: Path, files: Mapping[str, bytes | str | dict[str, Any] | None] | None = None) -> Path:
    """Write a sound model of one tensor, with some files replaced, added, or left out (None)."""
    content: dict[str, Any] = {
        "config.json": CONFIG,
        "model.safetensors": weights({"w": tensor()}),
        **(files or {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in content.items():
        if value is not None:
            text = json.dumps(value) if isinstance(value, dict) else value
            (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def write_shards(folder: Path, weight_map: Any = None, metadata: Any = None, **files: bytes | None) -> Path:
    """Write a sound model of the tensors a, b in two shards, with parts of it replaced."""
    index = {
        "metadata": {"total_size": 16} if metadata is None else metadata,
        "weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"} if weight_map is None else weight_map,
    }
    shards = {
        "x-1.safetensors": weights({"a": tensor()}),
        "x-2.safetensors": weights({"b": tensor()}),
        **{name.replace("_", "-") + ".safetensors": value for name, value in files.items()},
    }
    return write_model(folder, {"model.safetensors": None, INDEX: index, **shards})
