"""The checks of a model folder before any framework sees it: files, index, configuration. Pure Python.

Weights must be safetensors; code and pickles in a checkpoint are refused, since loading them runs them. Every
link must stay inside the folder, or lead into the `blobs/` of the hub's cache. Every fault is a one-line
`CheckpointError`: `<file>: <what> (<found>, <allowed>); <next step>`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_quantgate.checkpoint.config import check_config, check_quantization
from pytest_quantgate.checkpoint.folder import (
    GET_AGAIN,
    checked,
    fault,
    listing,
    locate,
    parsed,
    read_json,
    stamp,
)
from pytest_quantgate.checkpoint.gguf_files import SUFFIX, read_model
from pytest_quantgate.checkpoint.headers import TensorInfo, read_header, refuse_many
from pytest_quantgate.files import MalformedError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Checkpoint", "TensorInfo", "check_unchanged", "preflight"]

INDEX = "model.safetensors.index.json"
MAX_CONFIG = 1 << 20
MAX_INDEX = 64 << 20
MAX_INDEXED = 500_000
MAX_TOKENIZER = 96 << 20
MAX_TEMPLATE = 1 << 20
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_NOT_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|rng_state.*)\.(bin|pt|pth)")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder, or a GGUF file, that passed the checks.

    Attributes:
        path: the folder, or the file.
        config: config.json, or what a GGUF header says of the same.
        tensors: what the headers list, by name; empty for allowed pickles.
        weight_files: bytes of every weight file, by name.
        quantization: the quantization section, or None for a dense model.
        has_tokenizer: whether tokenizer files lie beside the weights.
        has_chat_template: whether a chat template does.
        stamps: (name, size, mtime_ns, inode) of the weight files, for `check_unchanged`.

    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    weight_files: Mapping[str, int]
    quantization: Mapping[str, Any] | None
    has_tokenizer: bool
    has_chat_template: bool
    stamps: tuple[tuple[str, int, int, int], ...] = ()

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return self.path.parent if self.is_gguf and self.path.name in self.weight_files else self.path

    @property
    def is_gguf(self) -> bool:
        """Whether one GGUF file holds all of it, what lies beside it being none of its own."""
        return next(iter(self.weight_files)).endswith(SUFFIX)


def preflight(path: Path, *, allow_pickle: bool = False, allow_code: bool = False) -> Checkpoint:
    """Check a model folder, or a GGUF file.

    Args:
        path: the folder, or the file.
        allow_pickle: accept a folder whose only weights are pickles, unchecked.
        allow_code: accept Python files and `auto_map`, which a loader may run.

    Raises:
        CheckpointError: it is damaged, incomplete or refused.

    """
    if path.suffix == SUFFIX and not path.is_dir():
        return Checkpoint(path, **read_model(path))
    names = listing(path)
    if any(name.endswith(SUFFIX) for name in names) and not any(
        name.endswith(".safetensors") for name in names
    ):
        return Checkpoint(path, **read_model(path))
    config = parsed(path, "config.json", MAX_CONFIG, check_config)
    quantization = _quantization(path, names, config)
    tokenizer = _tokenizer(path, names)
    if "adapter_config.json" in names:
        raise fault(
            path / "adapter_config.json", "an adapter, not a model", "merge it into its base model first"
        )
    if not allow_code:
        _refuse_code(path, names, config, tokenizer)
    weights = _weights(path, names, allow_pickle=allow_pickle)
    tensors = _tensors(path, weights) if weights[0].endswith(".safetensors") else {}
    stamps = tuple(stamp(path, name) for name in weights)
    return Checkpoint(
        path=path,
        config=config,
        tensors=tensors,
        weight_files={name: size for name, size, _, _ in stamps},
        quantization=quantization,
        has_tokenizer=any(name in names for name in _TOKENIZERS),
        has_chat_template="chat_template" in tokenizer
        or any(name.startswith("chat_template.") for name in names),
        stamps=stamps,
    )


def check_unchanged(checkpoint: Checkpoint) -> None:
    """Compare the weight files with what `preflight` saw; call it after loading.

    Raises:
        CheckpointError: one was replaced, rewritten or removed meanwhile.

    """
    for before in checkpoint.stamps:
        if stamp(checkpoint.folder, before[0]) != before:
            raise fault(
                checkpoint.folder / before[0],
                "changed while it was used",
                "wait until nothing writes to it, then run again",
            )


# --- configuration, tokenizer, code


def _quantization(path: Path, names: set[str], config: Mapping[str, Any]) -> dict[str, Any] | None:
    if config.get("quantization_config") is not None:
        return dict(config["quantization_config"])
    for name in ("quantize_config.json", "quant_config.json"):
        if name in names:
            return parsed(path, name, MAX_CONFIG, check_quantization)
    return None


def _tokenizer(path: Path, names: set[str]) -> dict[str, Any]:
    limits = dict.fromkeys(_TOKENIZERS, MAX_TOKENIZER)
    limits |= {name: MAX_TEMPLATE for name in names if name.startswith("chat_template.")}
    for name, limit in limits.items():
        if name in names and stamp(path, name)[1] > limit:
            raise fault(
                path / name, f"too large (found {stamp(path, name)[1]} bytes, allowed: {limit})", GET_AGAIN
            )
    if "tokenizer_config.json" not in names:
        return {}
    found = read_json(path, "tokenizer_config.json", MAX_CONFIG * 16)
    if not isinstance(found, dict) or len(str(found.get("chat_template", ""))) > MAX_TEMPLATE:
        raise fault(
            path / "tokenizer_config.json",
            f"no JSON object, or a chat template of more than {MAX_TEMPLATE} characters",
            GET_AGAIN,
        )
    return found


def _refuse_code(
    path: Path, names: set[str], config: Mapping[str, Any], tokenizer: Mapping[str, Any]
) -> None:
    code = sorted(name for name in names if name.endswith(".py"))
    places = [
        name
        for name, where in (("config.json", config), ("tokenizer_config.json", tokenizer))
        if "auto_map" in where
    ]
    if code or places:
        what = f"has {code[0]}" if code else f'has "auto_map" in {places[0]}'
        raise fault(
            path,
            f"custom code refused ({what}; allowed: models that the library itself knows)",
            "read the code, then allow it with --quantgate-allow-code",
        )


# --- weights


def _weights(path: Path, names: set[str], *, allow_pickle: bool) -> list[str]:
    found = sorted(name for name in names if name.endswith(".safetensors"))
    if INDEX in names:
        if "model.safetensors" in names:
            raise fault(path / INDEX, "beside model.safetensors: one model or two?", "remove one of them")
        return sorted(set(_weight_map(path).values()))
    if "model.safetensors" in names:
        return ["model.safetensors"]
    if len(found) == 1:
        return found
    if found:
        raise fault(path, f"{len(found)} safetensors files and no {INDEX}", GET_AGAIN)
    pickles = sorted(
        name
        for name in names
        if any(Path(name).match(kind) for kind in _PICKLES) and not _NOT_WEIGHTS.fullmatch(name)
    )
    if pickles and allow_pickle:
        return pickles
    if pickles:
        raise fault(
            path / pickles[0],
            "pickle refused (found no safetensors; loading a pickle runs code)",
            "convert the model to safetensors, or allow it with --quantgate-allow-pickle",
        )
    raise fault(path, "no weights (allowed: *.safetensors)", GET_AGAIN)


def _weight_map(path: Path) -> dict[str, str]:
    return dict(parsed(path, INDEX, MAX_INDEX, check_index, MAX_INDEXED)["weight_map"])


def check_index(index: Any) -> Any:
    """Return the index of a sharded checkpoint, if it names plain files only.

    Raises:
        MalformedError: says what was found and what is allowed.

    """
    if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
        raise MalformedError("no weight_map (allowed: a JSON object with metadata and weight_map)")
    if not isinstance(index.get("metadata"), dict):
        raise MalformedError("no metadata (allowed: a JSON object with metadata and weight_map)")
    weight_map = index["weight_map"]
    if not weight_map:
        raise MalformedError("an empty weight_map (allowed: at least one tensor)")
    refuse_many(len(weight_map), MAX_INDEXED)
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            raise MalformedError(
                f"tensor {name[:80]!a} in the file {ascii(shard)[:80]} "
                f"(allowed: a plain name *.safetensors in the folder)"
            )
    return index


def _tensors(path: Path, weights: list[str]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for shard in weights:
        target = locate(path, shard)
        found = checked(path / shard, partial(read_header, target, shard))
        for name, info in found.items():
            if name in tensors:
                raise fault(path / shard, f"tensor {name!r} is also in {tensors[name].file}", GET_AGAIN)
            tensors[name] = info
    if (path / INDEX).exists():
        _compare(path, tensors)
    return tensors


def _compare(path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    index = parsed(path, INDEX, MAX_INDEX, check_index, MAX_INDEXED)
    weight_map = index["weight_map"]
    for name in sorted(weight_map.keys() | tensors.keys()):
        where, file = weight_map.get(name), tensors[name].file if name in tensors else None
        if where != file:
            raise fault(
                path / INDEX,
                f"tensor {name!r} listed in {where or 'no file'} (found in {file or 'none'})",
                GET_AGAIN,
            )
    total = sum(info.nbytes for info in tensors.values())
    if index["metadata"].get("total_size", total) != total:
        found = ascii(index["metadata"]["total_size"])[:40]
        raise fault(
            path / INDEX,
            f'"total_size" is {found} (the shards hold {total})',
            f"{GET_AGAIN}, or correct that number",
        )
