"""SHA-256 of large files, remembered by what identifies an unchanged file.

A 140 GB checkpoint is read once, not in every run. Size and modification time alone can be forged (`touch
-r`), so the identity also holds inode, device and the change time, which no call can set. A file that changed
a moment ago is hashed but not remembered: a second change within the clock's tick would go unseen.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from typing import TYPE_CHECKING

from pytest_quantgate.errors import CheckpointError
from pytest_quantgate.files import MalformedError, opened, read_all, strict_json, write_atomic
from pytest_quantgate.spec import Json, canonical, digest

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DigestMemo", "sha256_of"]

SETTLED = 2.0
"""Seconds since the last change after which a digest is remembered: the coarsest clock of a file system."""

_PIECE = 1 << 22


def _identity(path: Path, status: os.stat_result) -> list[Json]:
    return [
        os.path.realpath(path),
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
        status.st_dev,
    ]


def sha256_of(path: Path) -> str:
    """Return the digest of a regular file, read piece by piece and never mapped.

    Raises:
        CheckpointError: it changed while it was read.
        OSError: it cannot be read.

    """
    return _hash(path)[0]


def _hash(path: Path) -> tuple[str, os.stat_result]:
    total = hashlib.sha256()
    with opened(path) as (descriptor, before):
        left = before.st_size
        # a file that grows without end must not be read without end
        while left >= 0 and (piece := os.read(descriptor, _PIECE)):
            total.update(piece)
            left -= len(piece)
        after = os.fstat(descriptor)
        # the name may meanwhile lead to another file
        now = path.lstat()
    if left or not _identity(path, before) == _identity(path, after) == _identity(path, now):
        raise CheckpointError(
            f"{path}: changed while it was read ({before.st_size} bytes before, {now.st_size} after); "
            f"wait until nothing writes to it, then run again"
        )
    return total.hexdigest(), after


class DigestMemo:
    """Digests of files, kept in a folder.

    Args:
        folder: where they are remembered; None remembers nothing.

    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def sha256(self, path: Path) -> str:
        """Return the digest of a regular file, from memory if the file is provably the same.

        Raises:
            CheckpointError: it changed while it was read.
            OSError: it cannot be read.

        """
        remembered = self._recall(_identity(path, path.lstat()))
        if remembered is not None:
            return remembered
        found, status = _hash(path)
        if time.time() - max(status.st_mtime, status.st_ctime) > SETTLED:
            self._remember(_identity(path, status), found)
        return found

    def _place(self, identity: list[Json]) -> Path | None:
        return None if self._folder is None else self._folder / f"{digest(identity)}.json"

    def _recall(self, identity: list[Json]) -> str | None:
        place = self._place(identity)
        if place is None:
            return None
        try:
            with opened(place) as (descriptor, status):
                note = strict_json(read_all(descriptor, min(status.st_size, 1 << 16)))
        except (OSError, MalformedError):
            return None
        if not isinstance(note, dict) or note != _note(identity, str(note.get("sha256"))):
            return None
        return str(note["sha256"])

    def _remember(self, identity: list[Json], found: str) -> None:
        place = self._place(identity)
        if place is not None:
            with contextlib.suppress(OSError):  # only speed is lost
                write_atomic(place, [canonical(_note(identity, found))], durable=False)


def _note(identity: list[Json], found: str) -> dict[str, Json]:
    # the check guards against a damaged note, whose digest would be believed otherwise
    return {"file": identity, "sha256": found, "check": digest([identity, found])}
