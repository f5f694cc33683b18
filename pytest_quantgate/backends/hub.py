"""Checkpoints from the Hugging Face hub, through huggingface_hub alone (no torch)."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pytest_quantgate import network
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
)


def snapshot(source: str, revision: str | None, *, offline: bool) -> Path:
    """Return the local folder of a hub repository, downloaded if it must be and may be.

    Where the hub cannot be reached, the local cache is used at once.

    Raises:
        CheckpointError: one line: what the hub said, and what to do.

    """
    obstacle = "" if offline else network.obstacle()
    try:
        folder = snapshot_download(
            source,
            revision=revision,
            allow_patterns=PATTERNS,
            ignore_patterns=DUPLICATES,
            local_files_only=offline or bool(obstacle),
            etag_timeout=TIMEOUT,
        )
    except network.connection_errors(HfHubHTTPError, HFValidationError) as error:
        name = f"{source} (revision {revision})" if revision else source
        reason = _explain(error, obstacle, offline=offline)
        raise CheckpointError(plain(f"model {name!r}: {reason}")) from error
    return Path(str(folder))


def _explain(error: Exception, obstacle: str, *, offline: bool) -> str:
    for kind, what, next_step in _REASONS:
        if isinstance(error, kind):
            return f"{what}; {next_step}"
    if offline:
        return "not in the local cache; run once without --quantgate-offline, or give a folder"
    if obstacle.startswith(network.OFFLINE_VARIABLE):
        return f"not in the local cache, and {obstacle}; download it once with hf download"
    reason = obstacle or (str(error).splitlines() or [type(error).__name__])[0][:160]
    return (
        f"the hub cannot be reached, the local cache lacks it ({reason}); check the network, or give a folder"
    )
