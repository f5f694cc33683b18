"""The checks of a GGUF model, one file or the parts of one, before llama.cpp sees it.

A GGUF file holds everything: weights, sizes, vocabulary, chat template. What lies beside it is not looked at, and is no
part of its identity.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pytest_quantgate.checkpoint.config import check_config
from pytest_quantgate.checkpoint.folder import GET_AGAIN, checked, fault, listing, locate, stamp
from pytest_quantgate.checkpoint.gguf import Header, Listed, read_gguf
from pytest_quantgate.checkpoint.gguf_types import FILE_TYPES, FLOATS, bits_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_quantgate.checkpoint.headers import TensorInfo

__all__ = ["SUFFIX", "find_gguf", "quantization_of", "read_model", "read_parts"]

SUFFIX: Final = ".gguf"
MAX_PARTS: Final = 1000
MATRIX: Final = 2
MAX_WIDTH: Final = 1 << 16
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_SIZES: Final = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
}
"""What config.json calls what a GGUF file calls `<architecture>.…`."""

NEEDED: Final = ("hidden_size", "num_hidden_layers", "max_position_embeddings")
"""Of those the others may be 0: a model without attention has no heads."""

Parts = dict[str, Header]
"""The headers of a model's files by name; the first holds the metadata."""


def read_model(path: Path) -> dict[str, Any]:
    """Return the fields of a `Checkpoint`, but its path.

    Args:
        path: a *.gguf file, or a folder that holds one model in that form.

    Raises:
        CheckpointError: it is damaged or incomplete.

    """
    folder, names = find_gguf(path)
    parts = read_parts(folder, names)
    config, tensors = described(folder, parts)
    first = parts[names[0]]
    stamps = tuple(stamp(folder, name) for name in names)
    return {
        "config": config,
        "tensors": tensors,
        "weight_files": {name: size for name, size, _, _ in stamps},
        "quantization": quantization_of(first, tensors),
        "has_tokenizer": "tokenizer.ggml.model" in first.metadata,
        "has_chat_template": bool(first.metadata.get("tokenizer.chat_template")),
        "stamps": stamps,
    }


def find_gguf(path: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the folder and the names of the files of a GGUF model, the first part first.

    Args:
        path: a *.gguf file, or a folder that holds one model in that form.

    Raises:
        CheckpointError: a folder with none or with several, a part without the others.

    """
    if path.suffix == SUFFIX and not path.is_dir():
        return path.parent, _parts(path.parent, path.name)
    names = sorted(name for name in listing(path) if name.endswith(SUFFIX))
    firsts = [name for name in names if not (found := _PART.fullmatch(name)) or int(found["number"]) == 1]
    if len(firsts) != 1:
        found_text = ", ".join(firsts[:4]) or "none"
        raise fault(path, f"{len(firsts)} GGUF models (found {found_text})", "name one of the files")
    return path, _parts(path, firsts[0])


def _parts(folder: Path, name: str) -> tuple[str, ...]:
    found = _PART.fullmatch(name)
    if found is None:
        return (name,)
    number, count = int(found["number"]), int(found["count"])
    if number != 1 or not 1 <= count <= MAX_PARTS:
        raise fault(folder / name, f"part {number} of {count}", "name the first part, …-00001-of-…")
    return tuple(f"{found['stem']}-{part:05}-of-{count:05}{SUFFIX}" for part in range(1, count + 1))


def read_parts(folder: Path, names: tuple[str, ...]) -> Parts:
    """Return the headers of a model's files.

    Raises:
        CheckpointError: one is missing, damaged or a part of another model.

    """
    parts = {name: checked(folder / name, partial(read_gguf, locate(folder, name), name)) for name in names}
    for number, (name, header) in enumerate(parts.items()):
        stated = (header.metadata.get("split.count", 1), header.metadata.get("split.no", 0))
        if stated[0] not in (0, len(names)) or stated[1] != number:
            raise fault(
                folder / name,
                f"says that it is part {stated[1]} of {stated[0]} (its place is {number} of {len(names)})",
                GET_AGAIN,
            )
    _tensors(folder, parts)
    return parts


def _tensors(folder: Path, parts: Parts) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for name, header in parts.items():
        for tensor, info in header.tensors.items():
            if tensor in tensors:
                raise fault(folder / name, f"tensor {tensor!r} is also in {tensors[tensor].file}", GET_AGAIN)
            tensors[tensor] = info
    return tensors


def described(folder: Path, parts: Parts) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    """Return what stands in for config.json, and all tensors.

    Raises:
        CheckpointError: no architecture, no tensor, or a size that no model has.

    """
    tensors = _tensors(folder, parts)
    name, header = next(iter(parts.items()))
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture.isprintable() or not architecture:
        what = f"no general.architecture in its metadata (found {ascii(architecture)[:40]})"
        raise fault(folder / name, what, GET_AGAIN)
    if not tensors:
        raise fault(folder / name, "no tensor at all", GET_AGAIN)
    sizes = {ours: header.of_architecture(theirs) for ours, theirs in _SIZES.items()}
    config: dict[str, Any] = {
        "model_type": architecture,
        "dtype": "float32",  # what llama.cpp adds up in
        "tie_word_embeddings": "output.weight" not in tensors,
        **{key: value for key, value in sizes.items() if isinstance(value, int) and (value or key in NEEDED)},
    }
    vocabulary = header.metadata.get("tokenizer.ggml.tokens")
    if isinstance(vocabulary, Listed):
        config["vocab_size"] = vocabulary.length
    rotated, width = header.of_architecture("rope.dimension_count"), config.get("head_dim", MAX_WIDTH)
    if isinstance(rotated, int) and rotated > width:  # llama.cpp would end the process
        raise fault(folder / name, f"rope.dimension_count is {rotated} (allowed: 0 to {width})", GET_AGAIN)
    return checked(folder / name, partial(check_config, config)), tensors


def quantization_of(header: Header, tensors: Mapping[str, TensorInfo]) -> dict[str, Any] | None:
    """Return the quantization section of a GGUF model: None if all of its tensors are floating point.

    `file_type` is the mixture that was asked for, `types` counts the tensors of each type that are really there, and
    `bits` are those of the type that most weights have.
    """
    weights: Counter[str] = Counter()
    types: Counter[str] = Counter()
    for info in tensors.values():
        if len(info.shape) >= MATRIX:
            weights[info.dtype] += math.prod(info.shape)
            types[info.dtype] += 1
    quantized = {name: count for name, count in weights.items() if name not in FLOATS}
    if not quantized:
        return None
    return {
        "quant_method": "gguf",
        "bits": bits_of(max(quantized, key=lambda name: quantized[name])),
        "file_type": FILE_TYPES.get(header.metadata.get("general.file_type", -1), "unknown"),
        "types": dict(sorted(types.items())),
    }
