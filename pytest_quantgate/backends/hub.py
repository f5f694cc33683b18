"""Checkpoints from the Hugging Face hub, through huggingface_hub alone (no torch)."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pytest_quantgate.errors import CheckpointError
from pytest_quantgate.escaping import plain

__all__ = ["snapshot"]

PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
"""What is fetched: weights without pickles, configuration, tokenizer, chat template; no code."""

DUPLICATES = ["consolidated*.safetensors", "*/*.safetensors"]
"""The same weights once more, for other loaders."""

TIMEOUT = 10.0
"""Seconds for the hub's first answer."""

_REASONS: tuple[tuple[type[Exception], str, str], ...] = (
    (
        GatedRepoError,
        "needs an accepted licence",
        "accept it on the model's page, then log in with hf auth login",
    ),
    (
        RepositoryNotFoundError,
        "not found on the hub, or private",
        "check the name, or log in with hf auth login",
    ),
    (RevisionNotFoundError, "has no such revision", "check the variant's revision"),
    (HFValidationError, "no valid hub id", "give 'organisation/name' or a folder"),
    (
        OfflineModeIsEnabled,
        "not in the local cache, and HF_HUB_OFFLINE is set",
        "download it once with hf download",
    ),
)


def snapshot(source: str, revision: str | None, *, offline: bool) -> Path:
    """Return the local folder of a hub repository, downloaded if it must be and may be.

    Raises:
        CheckpointError: one line: what the hub said, and what to do.

    """
    try:
        folder = snapshot_download(
            source,
            revision=revision,
            allow_patterns=PATTERNS,
            ignore_patterns=DUPLICATES,
            local_files_only=offline,
            etag_timeout=TIMEOUT,
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        name = f"{source} (revision {revision})" if revision else source
        raise CheckpointError(plain(f"model {name!r}: {_explain(error, offline=offline)}")) from error
    return Path(str(folder))


def _explain(error: Exception, *, offline: bool) -> str:
    for kind, what, next_step in _REASONS:
        if isinstance(error, kind):
            return f"{what}; {next_step}"
    if offline:
        return "not in the local cache; run once without --quantgate-offline, or give a folder"
    reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
    return (
        f"the hub cannot be reached, the local cache lacks it ({reason}); check the network, or give a folder"
    )
