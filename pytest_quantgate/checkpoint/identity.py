"""Which checkpoint a source names, and its identity: the digest of all in it that can change a number."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

from pytest_quantgate.checkpoint.folder import checked, fault, hub_digest, locate, read_json
from pytest_quantgate.checkpoint.gguf_files import SUFFIX
from pytest_quantgate.checkpoint.preflight import MAX_TOKENIZER, Checkpoint, preflight
from pytest_quantgate.digests import DigestMemo
from pytest_quantgate.errors import CheckpointError, MissingExtraError
from pytest_quantgate.escaping import plain
from pytest_quantgate.spec import Json, canonical, digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Checkpoint", "fingerprint", "preflight", "resolve"]

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9._-]{1,96}")
_VOLATILE = frozenset(
    ("transformers_version", "_name_or_path", "name_or_path", "_commit_hash", "torchao_version")
)
"""Keys that say who wrote a file or where it lay, and change no number."""

_CONFIGURATION = (
    "config.json",
    "generation_config.json",
    "quantize_config.json",
    "quant_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_RAW = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
_TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja")


def resolve(source: str, revision: str | None, root: Path, *, offline: bool = False) -> Path:
    """Return the folder, or the GGUF file, that a configured source means.

    Args:
        source: a path (relative ones count from `root`), or the hub id "organisation/name".
        revision: branch, tag or commit of a hub id.
        root: the folder of the configuration.
        offline: take a hub id from the local cache only.

    Raises:
        CheckpointError: it does not exist, or the hub cannot give it.
        MissingExtraError: a hub id, and huggingface_hub is not installed.

    """
    # os.path, not pathlib: no exception for what no file system takes
    path = root / os.path.expanduser(source)  # noqa: PTH111
    if source and (os.path.isdir(path) or (source.endswith(SUFFIX) and os.path.lexists(path))):  # noqa: PTH112
        return path
    there = os.path.exists(path)  # noqa: PTH110
    if there or source.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(source):
        what = "is not a folder" if there and source else "does not exist"
        raise CheckpointError(
            plain(
                f"model path {source[:200]!r} {what} (looked in {str(path)[:400]}); give a folder or a hub id"
            )
        )
    return _from_hub(source, revision, offline=offline)


def _from_hub(source: str, revision: str | None, *, offline: bool) -> Path:
    try:
        hub = importlib.import_module("pytest_quantgate.backends.hub")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "huggingface_hub":
            raise
        raise MissingExtraError(f"loading {source!r} from the hub", "hf") from error
    folder: Path = hub.snapshot(source, revision, offline=offline)
    return folder


class HasMemo(Interface):
    """What remembers digests: a store."""

    memo: DigestMemo


def fingerprint(checkpoint: Checkpoint, store: HasMemo | None = None) -> str:
    """Return "sha256:<digest>" over weights, configuration, tokenizer and chat template.

    The same content has the same fingerprint wherever it lies, whatever its times are and however its weight
    files are called. Configurations count by meaning, without the keys that only say who wrote them.

    Args:
        checkpoint: what `preflight` returned.
        store: remembers the digests of files, so that a large checkpoint is read once.

    Raises:
        CheckpointError: a file changed while it was read, or is not the one that the hub lists.

    """
    digests = DigestMemo(None) if store is None else store.memo
    folder = checkpoint.folder
    if checkpoint.is_gguf:  # sizes, vocabulary and template lie in the file itself
        gguf: Json = {"gguf": [_file_digest(folder, name, digests) for name in checkpoint.weight_files]}
        return f"sha256:{hashlib.sha256(canonical(gguf)).hexdigest()}"
    parts: dict[str, Json] = {
        "weights": sorted(_file_digest(folder, name, digests) for name in checkpoint.weight_files),
        "configuration": {name: digest(_meaning(folder, name)) for name in _present(folder, _CONFIGURATION)},
        "files": {
            name: _file_digest(folder, name, digests) for name in _present(folder, (*_RAW, *_TEMPLATES))
        },
    }
    return f"sha256:{hashlib.sha256(canonical(parts)).hexdigest()}"


def _present(folder: Path, patterns: tuple[str, ...]) -> Iterator[str]:
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            yield path.relative_to(folder).as_posix()


def _meaning(folder: Path, name: str) -> Json:
    meaning: Json = _without_volatile(read_json(folder, name, MAX_TOKENIZER))
    return meaning


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_volatile(item) for name, item in value.items() if name not in _VOLATILE}
    return value


def _file_digest(folder: Path, name: str, digests: DigestMemo) -> str:
    target = locate(folder, name)
    found = checked(folder / name, lambda: digests.sha256(target))
    listed = hub_digest(folder, name)
    if listed is not None and listed != found:
        raise fault(
            folder / name, f"its digest is {found} (the hub lists {listed})", f"remove {target} and run again"
        )
    return found
