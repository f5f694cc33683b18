"""The store's shelf of checkpoints that recipes were turned into: whole folders, each with its record.

A folder is built under a temporary name and moved into place together with its record, so it is there whole
or not at all. A copy of the record lies beside it and outlives it: what a recipe gave is known after its
weights were pruned.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import sys
import uuid
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pytest_quantgate.digests import DigestMemo, sha256_of
from pytest_quantgate.errors import CheckpointError, StoreError
from pytest_quantgate.files import (
    TEMPORARY,
    MalformedError,
    NotRegularError,
    opened,
    read_all,
    strict_json,
    sync_directory,
    write_atomic,
)
from pytest_quantgate.spec import Json, digest
from pytest_quantgate.store.quarantine import Quarantine, remove

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Shelf"]

RECORD = "quantgate-record.json"
"""Name of the record inside a checkpoint's folder."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
_MAX_RECORD = 16 << 20


class Shelf:
    """Checkpoints in one folder; see `Store` for the public face."""

    def __init__(
        self, folder: Path, memo: DigestMemo, quarantine: Quarantine, warn: Callable[[str, str], None]
    ) -> None:
        self._folder = folder
        self._memo = memo
        self._quarantine = quarantine
        self._warn = warn

    def record(self, key: str) -> dict[str, Json] | None:
        """Return the record of a checkpoint that was made once."""
        for path in (self._folder / key / RECORD, self._folder / f"{key}.json"):
            with contextlib.suppress(OSError, MalformedError):
                return _read_record(path)
        return None

    def find(self, key: str) -> Path | None:
        """Return a checkpoint whose files are those of its record; what is damaged goes to quarantine."""
        folder = self._folder / key
        if not os.path.lexists(folder):
            return None
        try:
            self._verify(folder)
        except (
            FileNotFoundError,
            NotADirectoryError,
            NotRegularError,
            MalformedError,
            CheckpointError,
        ) as error:
            place = self._quarantine.take(folder)
            moved = f"moved to {place}" if place else "left where it is"
            self._warn(
                f"damaged {folder}", f"{folder}: damaged checkpoint: {error}; {moved}, making it again"
            )
        except OSError as error:
            # perhaps sound: 140 GB of weights are not thrown away for a passing fault
            self._warn(
                f"unreadable {folder}", f"{folder}: cannot be read ({error.strerror}); making it again"
            )
        else:
            return folder
        return None

    def _verify(self, folder: Path) -> None:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise MalformedError("not a folder")
        record = _read_record(folder / RECORD)
        names = set(_names(folder)) - {RECORD}
        listed = {name: (size, sha) for name, size, sha in record["files"]}
        if names != listed.keys():
            odd = sorted(names ^ listed.keys())
            raise MalformedError(f"{odd[0]} is {'not in its record' if odd[0] in names else 'missing'}")
        for name, (size, sha) in listed.items():
            found = (folder / name).lstat().st_size
            if found != size:
                raise MalformedError(f"{name} has {found} bytes, its record says {size}")
            got = self._memo.sha256(folder / name)
            if got != sha:
                raise MalformedError(f"{name} has the digest {got}, its record says {sha}")

    def build(self, key: str, build: Callable[[Path], None], about: Json) -> Path:
        """Let `build` write the checkpoint, then move it into place with its record."""
        temporary = self._folder / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            temporary.mkdir(parents=True)
            build(temporary)
            record = _record(temporary, about)
            _write_record(temporary / RECORD, record)
            self._move(temporary, key)
        except OSError as error:
            remove(temporary)
            if error.errno in _NO_ROOM:
                raise StoreError(
                    f"{self._folder}: no room for a quantized checkpoint ({error.strerror}); "
                    f"free space, or give another folder with --quantgate-store DIR"
                ) from error
            raise
        except BaseException:
            remove(temporary)
            raise
        with contextlib.suppress(OSError):
            _write_record(self._folder / f"{key}.json", record)
        ready = self.find(key)
        if ready is None:
            raise StoreError(
                f"{self._folder / key}: vanished while it was made; run again when nothing cleans the store"
            )
        return ready

    def _move(self, temporary: Path, key: str) -> None:
        target = self._folder / key
        try:
            os.replace(temporary, target)  # noqa: PTH105  one call that tests can make fail
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            # another runner, whom no lock stopped, was first: theirs is as good as ours
            if self.find(key) is not None:
                remove(temporary)
            elif os.path.lexists(target):
                raise StoreError(f"{target}: in the way, and cannot be moved aside; remove it") from error
            else:
                os.replace(temporary, target)  # noqa: PTH105
        sync_directory(self._folder)

    def older(self, limit: float) -> tuple[Path, ...]:
        """Return the checkpoints made before `limit` (epoch seconds)."""
        return tuple(
            path
            for path in sorted(self._folder.glob("[0-9a-f]*"))
            if len(path.name) == 64 and path.lstat().st_ctime < limit  # noqa: PLR2004
        )

    def prune(self, limit: float) -> int:
        """Remove checkpoints made before `limit` (epoch seconds); their records stay."""
        old = self.older(limit)
        for path in old:
            # under another name first: nobody finds half a checkpoint
            condemned = self._folder / f"{TEMPORARY}{uuid.uuid4().hex}"
            with contextlib.suppress(OSError):
                os.replace(path, condemned)  # noqa: PTH105
                remove(condemned)
        return len(old)


def _names(folder: Path) -> list[str]:
    found = []
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            found.append(path.relative_to(folder).as_posix())
        elif not stat.S_ISDIR(mode):
            raise MalformedError(f"{path.name} is neither a file nor a folder")
    return found


def _record(folder: Path, about: Json) -> dict[str, Json]:
    try:
        names = _names(folder)
    except MalformedError as error:
        raise StoreError(f"{folder}: {error}; a checkpoint consists of plain files") from error
    if not names:
        raise StoreError(f"{folder}: the quantizer wrote nothing; look at its output above")
    files: list[Json] = []
    for name in names:
        path = folder / name
        _sync(path)
        files.append([name, path.lstat().st_size, sha256_of(path)])
    return {"schema": 1, "content": digest(files), "files": files, "about": about, "versions": _versions()}


def _sync(path: Path) -> None:
    with opened(path) as (descriptor, _):
        os.fsync(descriptor)


def _versions() -> dict[str, Json]:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return {"python": sys.version.split()[0], "pytest-quantgate": metadata.version("pytest-quantgate")}
    return {"python": sys.version.split()[0]}


def _write_record(path: Path, record: dict[str, Json]) -> None:
    body = {**record, "digest": digest(record)}
    write_atomic(path, [json.dumps(body, indent=1, sort_keys=True, allow_nan=False).encode()])


def _read_record(path: Path) -> dict[str, Any]:
    with opened(path) as (descriptor, status):
        if status.st_size > _MAX_RECORD:
            raise MalformedError(f"{path.name} has {status.st_size} bytes (allowed: {_MAX_RECORD})")
        record = strict_json(read_all(descriptor, status.st_size))
    stored = record.pop("digest", None) if isinstance(record, dict) else None
    found = digest(record)
    if stored != found:
        raise MalformedError(f"{path.name} has the digest {found}, but {stored} was written")
    return dict(record)
