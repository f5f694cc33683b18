"""Observations as one portable zip archive, from one store into another.

The archive holds `manifest.json` and one `observations/<key>.obs` per observation, not compressed: what is read is
never larger than the file. No name in it is ever used as a path: a member is found by its key, and written where the
store puts that key. Digests of the manifest and of the entries themselves are checked before anything is written.
They find accidents; who can write the archive can write a figure (see docs/store.md, "Trust").
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import zipfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pytest_quantgate.errors import StoreError
from pytest_quantgate.escaping import plain
from pytest_quantgate.files import TEMPORARY, MalformedError, strict_json
from pytest_quantgate.store.entry import MAX_ENTRY, decode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_quantgate.spec import Step
    from pytest_quantgate.store.cache import Listing, Store

__all__ = ["export", "take_in"]

FORMAT = "quantgate-baseline"
VERSION = 1
_MANIFEST = "manifest.json"
_MAX_MANIFEST = 16 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same observations give the same archive
_UNREADABLE = (zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, RuntimeError, ValueError)


def export(store: Store, listings: Sequence[Listing], file: Path) -> int:
    """Write observations into an archive, all of them or no file; return its size in bytes.

    Raises:
        StoreError: an observation is damaged, or the file cannot be written.

    """
    temporary = file.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with zipfile.ZipFile(temporary, "x") as archive:
            entries = [_export_one(archive, store, listing) for listing in listings]
            manifest = {"format": FORMAT, "version": VERSION, "entries": entries}
            archive.writestr(
                zipfile.ZipInfo(_MANIFEST, _EPOCH), json.dumps(manifest, indent=1, sort_keys=True)
            )
        os.replace(temporary, file)  # noqa: PTH105  as the store does
        return file.stat().st_size
    except OSError as error:
        raise StoreError(f"{file}: the archive cannot be written ({error.strerror})") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _export_one(archive: zipfile.ZipFile, store: Store, listing: Listing) -> dict[str, Any]:
    data = store.entry(listing.key)
    info = zipfile.ZipInfo(_name(listing.key), _EPOCH)
    info.file_size = len(data)
    with archive.open(info, "w") as member:
        member.write(data)
    return {
        "key": listing.key,
        "label": listing.step.label,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def take_in(store: Store, file: Path) -> tuple[Step, ...]:
    """Keep the baseline's observations of an archive; return their steps. All are checked before the first is kept.

    Raises:
        StoreError: the file is no such archive, is damaged, or holds something else.

    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = _manifest(archive)
            for entry in entries:
                _read(archive, entry)
            return tuple(store.adopt(_read(archive, entry)) for entry in entries)
    except OSError as error:
        raise StoreError(f"{file}: the archive cannot be read ({error.strerror})") from error
    except _UNREADABLE as error:
        raise StoreError(f"{file}: nothing was imported: {plain(str(error))}") from error


def _manifest(archive: zipfile.ZipFile) -> list[dict[str, Any]]:
    """Return what the archive says that it holds, after checking that it holds that and nothing else."""
    info = archive.getinfo(_MANIFEST)
    manifest = strict_json(_bytes(archive, info, _MAX_MANIFEST))
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise MalformedError("its manifest is not that of an exported baseline")
    if not isinstance(manifest.get("version"), int) or manifest["version"] > VERSION:
        raise MalformedError("a newer version wrote it; run pip install --upgrade pytest-quantgate")
    entries: list[dict[str, Any]] = manifest["entries"]
    expected = [_MANIFEST, *(_name(str(entry["key"])) for entry in entries)]
    if odd := sorted(set(archive.namelist()).symmetric_difference(expected)):
        raise MalformedError(f"the member {odd[0]!r} does not belong to it, or is missing")
    if len(archive.namelist()) != len(expected):
        raise MalformedError("a member stands in it twice")
    return entries


def _read(archive: zipfile.ZipFile, entry: dict[str, Any]) -> memoryview:
    key = str(entry["key"])
    data = _bytes(archive, archive.getinfo(_name(key)), MAX_ENTRY)
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise MalformedError(f"the observation {key[:12]} has another digest than its manifest says")
    found, _ = decode(data)
    if found.key != key:
        raise MalformedError(f"the observation {key[:12]} is that of another step ({found.key[:12]})")
    if not found.step.model.is_baseline or found.step.reference:
        raise MalformedError(f"the observation {key[:12]} ({found.step.label}) is not the baseline's")
    return data


def _bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> memoryview:
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise MalformedError(f"the member {info.filename!r} is compressed; export writes it plain")
    if info.file_size > most:
        raise MalformedError(f"the member {info.filename!r} has {info.file_size} bytes (allowed: {most})")
    return memoryview(archive.read(info))


def _name(key: str) -> str:
    return f"observations/{key}.obs"
