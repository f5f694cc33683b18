"""A GGUF file by its header: whole, of as many layers as it says, quantized as it says, with tokenizer and template.

One file holds everything, so there is no folder to judge. llama.cpp's names: `blk.<layer>.<module>`, `token_embd`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from pytest_quantgate.checkpoint.folder import listing
from pytest_quantgate.checkpoint.gguf_files import SUFFIX, described, find_gguf, quantization_of, read_parts
from pytest_quantgate.checkpoint.gguf_types import FLOATS, TYPES, bits_of
from pytest_quantgate.errors import CheckpointError
from pytest_quantgate.lint.finding import Finding, unreadable
from pytest_quantgate.lint.sizes import Facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from pytest_quantgate.checkpoint.gguf import Header
    from pytest_quantgate.checkpoint.headers import TensorInfo
    from pytest_quantgate.lint.folder import Folder

__all__ = ["is_gguf", "lint_gguf"]

_BLOCK = re.compile(r"blk\.(\d{1,6})\.(.+)")
_CONVERT = "convert the model again"
_MATRIX = 2
_BLOCKED = 256
_FEW_BITS = 4
_SAME = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
_NOTHING = Facts(quantization="gguf", nbytes=0, weights=0, packed=0, packed_bits=None, bits=None)


def is_gguf(path: Path) -> bool:
    """Return whether a path is a GGUF file, or a folder of nothing else.

    Raises:
        CheckpointError: the folder cannot be listed.

    """
    if path.is_dir():
        names = listing(path)
        return any(name.endswith(SUFFIX) for name in names) and "config.json" not in names
    return path.suffix == SUFFIX


def lint_gguf(path: Path, baseline: Folder | None) -> tuple[list[Finding], Facts]:
    """Return what is wrong with a GGUF model, and what it takes."""
    try:
        folder, names = find_gguf(path)
        parts = read_parts(folder, names)
        config, tensors = described(folder, parts)
    except CheckpointError as error:
        folder = path if path.is_dir() else path.parent
        return [unreadable("QG801", folder, path.name, error)], _NOTHING
    header = parts[names[0]]
    section = quantization_of(header, tensors)
    findings = [
        *_layers(names[0], config, tensors),
        *_mixture(names[0], section, tensors),
        *_metadata(names[0], header),
        *(_baseline(names[0], config, tensors, baseline) if baseline else ()),
    ]
    return findings, _facts(section, tensors)


def _facts(section: Mapping[str, Any] | None, tensors: Mapping[str, TensorInfo]) -> Facts:
    matrices = [info for info in tensors.values() if len(info.shape) >= _MATRIX]
    packed = [info for info in matrices if info.dtype not in FLOATS]
    return Facts(
        quantization=f"gguf {section['file_type']}" if section else "gguf",
        nbytes=sum(info.nbytes for info in tensors.values()),
        weights=sum(math.prod(info.shape) for info in matrices),
        packed=len(packed),
        packed_bits=_rate(packed),
        bits=_rate(matrices),
    )


def _rate(infos: list[TensorInfo]) -> float | None:
    count = sum(math.prod(info.shape) for info in infos)
    return round(8 * sum(info.nbytes for info in infos) / count, 4) if count else None


def _layers(name: str, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    blocks: dict[int, set[str]] = {}
    for tensor in tensors:
        found = _BLOCK.fullmatch(tensor)
        if found:
            blocks.setdefault(int(found[1]), set()).add(found[2])
    stated = config.get("num_hidden_layers")
    if stated is not None and (len(blocks) != stated or max(blocks, default=-1) != stated - 1):
        text = (
            f"says {stated} layers (its tensors have {len(blocks)}, up to number {max(blocks, default=-1)})"
        )
        yield Finding("QG203", name, text, _CONVERT)
    embedding = tensors.get("token_embd.weight")
    wanted = (config.get("vocab_size"), config.get("hidden_size"))
    if embedding is None:
        yield Finding("QG204", name, "is missing", _CONVERT, "token_embd.weight")
    elif None not in wanted and embedding.shape != wanted:
        text = f"is {'x'.join(map(str, embedding.shape))} (the metadata implies {wanted[0]}x{wanted[1]})"
        yield Finding("QG202", name, text, _CONVERT, "token_embd.weight")
    counts = Counter(module for modules in blocks.values() for module in modules)
    for module, count in counts.items():
        if len(blocks) * 0.9 < count < len(blocks):
            number = next(number for number, modules in blocks.items() if module not in modules)
            text = f"is missing ({count} of {len(blocks)} layers have it)"
            yield Finding("QG204", name, text, _CONVERT, f"blk.{number}.{module}")


def _mixture(
    name: str, section: Mapping[str, Any] | None, tensors: Mapping[str, TensorInfo]
) -> Iterator[Finding]:
    if section is None:
        return
    said, bits = section["file_type"], section["bits"]
    wanted = bits_of(said) if said != "unknown" else 0
    block = _block_of(said)
    matrices = {tensor: info for tensor, info in tensors.items() if len(info.shape) >= _MATRIX}
    odd = {tensor: info for tensor, info in matrices.items() if info.shape[-1] % block}
    # embedding and head have types of their own in most mixtures
    inner = [info for tensor, info in matrices.items() if _BLOCK.fullmatch(tensor) and tensor not in odd]
    main = _main_bits(inner)
    if main is not None and main != wanted:
        text = f"says file type {said} (most weights have {main} bits: {_shares(section)})"
        yield Finding("QG115", name, text, "quantize it again")
    if odd:
        first, found = next(iter(odd.items()))
        text = (
            f"says file type {said}, whose blocks have {block} weights: {first} has {found.shape[-1]} inputs and is "
            f"{found.dtype} ({len(odd)} of {len(matrices)} matrices)"
        )
        yield Finding("QG121", name, text, "expect it larger than the type says, or choose Q8_0 or Q4_0")
    # fewer than four bits there cost most quality per byte; the mixtures give more
    for end in ("token_embd.weight", "output.weight"):
        info = tensors.get(end)
        if info is not None and info.dtype not in FLOATS and bits_of(info.dtype) < min(_FEW_BITS, bits + 1):
            text = f"is quantized to {info.dtype}"
            yield Finding("QG111", name, text, "keep it at 4 bits or more", end)


def _block_of(file_type: str) -> int:
    """Return how many weights share a block in a mixture: those of its main type."""
    known = [kind for kind in TYPES.values() if file_type.startswith(kind.name)]
    if known:
        return max(known, key=lambda kind: len(kind.name)).block
    return _BLOCKED if file_type.startswith("IQ") else 1


def _main_bits(infos: Iterable[TensorInfo]) -> int | None:
    """Return the bits of the type that most of the quantized weights have."""
    weights = Counter[str]()
    for info in infos:
        if info.dtype not in FLOATS:
            weights[info.dtype] += math.prod(info.shape)
    return bits_of(weights.most_common(1)[0][0]) if weights else None


def _shares(section: Mapping[str, Any]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in section["types"].items())


def _metadata(name: str, header: Header) -> Iterator[Finding]:
    if "tokenizer.ggml.model" not in header.metadata:
        yield Finding("QG401", name, "has no tokenizer", _CONVERT)
    if not header.metadata.get("tokenizer.chat_template"):
        text = "has no chat template"
        yield Finding("QG414", name, text, "convert it with the template if the model is for chat")
    if not header.metadata.get("general.license"):
        yield Finding("QG604", name, "has no general.license", "state the licence of the base model")


def _baseline(
    name: str, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], baseline: Folder
) -> Iterator[Finding]:
    for key in _SAME:
        ours, theirs = config.get(key), baseline.text_config.get(key)
        if type(ours) is int and type(theirs) is int and ours != theirs:
            text = f"says {key} {ours} (the baseline says {theirs})"
            yield Finding("QG210", name, text, "convert that baseline again")
    ours, theirs = sum(info.nbytes for info in tensors.values()), sum(baseline.weights.files.values())
    if baseline.weights.complete and ours >= theirs and any(i.dtype not in FLOATS for i in tensors.values()):
        text = f"has {ours} bytes of weights (the baseline has {theirs})"
        yield Finding("QG502", name, text, "check its file type")
