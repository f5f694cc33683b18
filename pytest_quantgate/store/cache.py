"""The content-addressed store: observations and quantized checkpoints, named by what they depend on.

Correct without any lock: entries are immutable, written beside their place and moved there whole, and their
digest is checked on every read. What is damaged is put into quarantine and counts as missing. A run never
fails because something could not be kept: it goes on uncached, with one warning. Layout under the root::

    v1/observations/<key[:2]>/<key>.obs      v1/checkpoints/<key>/ and <key>.json      (see `shelf.py`)
    v1/locks/       v1/fingerprints/        v1/quarantine/

Other versions' folders (v2/ …) are left alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.digests import DigestMemo
from pytest_quantgate.errors import StoreError
from pytest_quantgate.files import MalformedError, NotRegularError, opened, read_all, write_atomic
from pytest_quantgate.store.entry import HEADER_START, MAX_ENTRY, MAX_HEADER, decode, decode_header, encode
from pytest_quantgate.store.locks import Locks
from pytest_quantgate.store.quarantine import Quarantine, is_older, remove_older, sweep
from pytest_quantgate.store.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_quantgate.spec import Json, Observation, Step

__all__ = ["Listing", "Store", "StoreWarning"]

VERSION = "v1"
LOCK_TIMEOUT = 4 * 3600.0
"""Seconds to wait for another process that makes the same thing: longer than any quantization should take."""

_KEY = re.compile(r"[0-9a-f]{64}")
_NEXT_STEP = "give a folder that can be written with --quantgate-store DIR"
_MARKERS = {
    "README.md": "# pytest-quantgate store\n\nMeasurements and checkpoints of `pytest --quantgate`.\n"
    "Safe to delete; what is missing is made again. Do not commit it.\n",
    ".gitignore": "# Created by pytest-quantgate automatically.\n*\n",
    "CACHEDIR.TAG": "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This file is a cache directory tag created by pytest-quantgate.\n"
    "# For information about cache directory tags, see https://bford.info/cachedir/spec.html\n",
}


class StoreWarning(StoreError, UserWarning):  # noqa: N818  a warning first
    """Something could not be kept, read or locked; the run went on.

    Also a `StoreError`: where warnings are errors (`-W error`), it ends the measurement with its line.
    """


@dataclass(frozen=True, slots=True)
class Listing:
    """One stored observation, for people; `size` in bytes, `written` in seconds since the epoch."""

    key: str
    step: Step
    size: int
    written: float


class Store:
    """A folder of observations and checkpoints.

    Args:
        root: created if it is missing.
        writable: False reads only: a shared store that others fill.
        lock_timeout: seconds to wait for another process before doing its work again.

    Raises:
        StoreError: `root` cannot be used at all.

    """

    def __init__(self, root: Path, *, writable: bool = True, lock_timeout: float = LOCK_TIMEOUT) -> None:
        self.root = Path(root).absolute()
        self.writable = writable
        self._warned: set[str] = set()
        self._swept = False
        self._home = self.root / VERSION
        self._prepare()
        quarantine = Quarantine(self._home / "quarantine", writable=writable)
        self._quarantine = quarantine
        self._locks = Locks(self._home / "locks", lock_timeout, self._warn)
        self.memo = DigestMemo(self._home / "fingerprints" if writable else None)
        self._shelf = Shelf(self._home / "checkpoints", self.memo, quarantine, self._warn)

    # --- observations

    def get(self, key: str) -> Observation | None:
        """Return the observation of the step with this key, or None.

        A damaged entry is moved to quarantine with a warning and counts as missing.
        """
        path = self._path(key)
        try:
            return _read(path, key)
        except FileNotFoundError:
            pass
        except (MalformedError, NotRegularError) as error:
            self._isolate(path, str(error))
        except OSError as error:
            # ESTALE: another runner on NFS replaced it just now
            self._warn("read", f"{path}: cannot be read ({error.strerror}); measuring again")
        return None

    def written(self, key: str) -> float:
        """Return when the observation was written (seconds since the epoch); 0.0 if there is none."""
        try:
            return self._path(key).lstat().st_mtime
        except OSError:
            return 0.0

    def put(self, step: Step, observation: Observation) -> None:
        """Keep an observation under `step.key`, whole or not at all.

        Raises:
            StoreError: it must not be kept: NaN, infinity, objects. A full disk is a warning instead.

        """
        pieces = encode(step, observation)
        if not self.writable:
            self._warn("put", f"{self.root}: the store is read-only; new measurements are not kept")
            return
        try:
            write_atomic(self._path(step.key), pieces)
            self._sweep()
        except OSError as error:
            self._warn("put", f"{self.root}: cannot keep measurements ({error.strerror}); {_NEXT_STEP}")

    def lock(self, key: str) -> AbstractContextManager[bool]:
        """Return a context in which others wait before making the same thing; yields whether it is held."""
        if not self.writable:
            return contextlib.nullcontext(False)
        return self._locks.hold(_checked(key))

    def entry(self, key: str) -> memoryview:
        """Return an observation as it is stored, digest checked, for another store to `adopt`.

        Raises:
            StoreError: there is none, or it is damaged.

        """
        path = self._path(key)
        try:
            with opened(path) as (descriptor, status):
                data = read_all(descriptor, min(status.st_size, MAX_ENTRY))
            decode(data)
        except (OSError, MalformedError) as error:
            raise StoreError(f"{path}: cannot be read ({error})") from error
        return data

    def adopt(self, data: memoryview) -> Step:
        """Keep what `entry` of another store gave; return its step. What is there already stays as it is.

        Raises:
            StoreError: it is no sound entry, or it cannot be written.

        """
        try:
            found, _ = decode(data)
            if self.get(found.key) is None:
                write_atomic(self._path(found.key), [data])
        except MalformedError as error:
            raise StoreError(f"it is no sound observation: {error}") from error
        except OSError as error:
            raise StoreError(f"{self.root}: cannot be written ({error.strerror}); {_NEXT_STEP}") from error
        return found.step

    # --- checkpoints

    def checkpoint(self, key: str) -> Path | None:
        """Return the folder of a finished checkpoint whose files are as they were written, or None."""
        return self._shelf.find(_checked(key))

    def checkpoint_record(self, key: str) -> dict[str, Json] | None:
        """Return what is known of a checkpoint that was made once, even if its folder was pruned.

        The record holds "content" (digest of all files), "files" ([name, bytes, sha256]) and "about".
        """
        return self._shelf.record(_checked(key))

    def build_checkpoint(self, key: str, build: Callable[[Path], None], about: Json) -> Path:
        """Return the checkpoint's folder; if it is missing, `build(folder)` writes it, once among all.

        Args:
            key: digest of all that the checkpoint depends on.
            build: writes the files into the empty folder that it is given; what it raises is passed on.
            about: kept in the record, for people.

        Raises:
            StoreError: the store cannot be written, and so has no place for a checkpoint.

        """
        with self.lock(key + ".checkpoint" if self.writable else key):
            ready = self.checkpoint(key)
            if ready is not None:
                return ready
            if not self.writable:
                raise StoreError(
                    f"{self.root}: no checkpoint {key[:12]}, and the store is read-only; {_NEXT_STEP}"
                )
            return self._shelf.build(key, build, about)

    # --- housekeeping

    def entries(self) -> Iterator[Listing]:
        """List the stored observations; damaged ones are left out and left alone."""
        for path in sorted(self._home.glob("observations/??/*.obs")):
            with contextlib.suppress(OSError, MalformedError), opened(path) as (descriptor, status):
                size = min(status.st_size, MAX_HEADER + HEADER_START)
                head = decode_header(read_all(descriptor, size), status.st_size)
                yield Listing(head.key, head.step, status.st_size, status.st_mtime)

    def step(self, key: str) -> Step | None:
        """Return the step whose observation is stored under this key, from the header alone; None if there is none."""
        with contextlib.suppress(OSError, MalformedError), opened(self._path(key)) as (descriptor, status):
            size = min(status.st_size, MAX_HEADER + HEADER_START)
            return decode_header(read_all(descriptor, size), status.st_size).step
        return None

    def older(self, older_than: float) -> tuple[Path, ...]:
        """Return what `prune` would remove: observations and checkpoints written that many seconds ago."""
        limit = time.time() - older_than
        entries = sorted(self._home.glob("observations/??/*.obs"))
        return (*(path for path in entries if is_older(path, limit)), *self._shelf.older(limit))

    def prune(self, older_than: float) -> int:
        """Remove observations and checkpoints written more than `older_than` seconds ago; return how many.

        The records of checkpoints stay. Readers that hold an entry open keep reading it.
        """
        limit = time.time() - older_than
        removed = sum(remove_older(path, limit) for path in self._home.glob("observations/??/*.obs"))
        removed += self._shelf.prune(limit)
        sweep(self._home)
        return removed

    def _path(self, key: str) -> Path:
        return self._home / "observations" / _checked(key)[:2] / f"{key}.obs"

    def _sweep(self) -> None:
        if not self._swept:
            self._swept = True
            sweep(self._home)

    def _isolate(self, path: Path, why: str) -> None:
        place = self._quarantine.take(path)
        moved = f"moved to {place}" if place else "left where it is"
        self._warn(f"damaged {path}", f"{path}: damaged: {why}; {moved}, measuring again")

    def _warn(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            warnings.warn(message, StoreWarning, stacklevel=3)
            self._warned.add(topic)  # not where warnings are errors: every measurement must end, not only one

    def _prepare(self) -> None:
        try:
            if self.writable:
                self.root.mkdir(parents=True, exist_ok=True)
            names = set(os.listdir(self.root)) if self.root.exists() else set()  # noqa: PTH208  names only
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise StoreError(f"{self.root}: cannot be the store ({why}); {_NEXT_STEP}") from error
        newer = sorted(name for name in names if re.fullmatch(r"v[0-9]{1,4}", name) and int(name[1:]) > 1)
        if newer:
            self._warn("newer", f"{self.root}: ignoring {newer[-1]}/, which a newer pytest-quantgate wrote")
        # never into a folder that is somebody's own: .gitignore would hide their files
        if self.writable and names <= _MARKERS.keys():
            with contextlib.suppress(OSError):
                for name in _MARKERS.keys() - names:
                    write_atomic(self.root / name, [_MARKERS[name].encode()], durable=False)


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key.removesuffix(".checkpoint")):
        raise StoreError(f"{key[:80]!r} is no key of the store; keys are 64 lower-case hexadecimal digits")
    return key


def _read(path: Path, key: str) -> Observation:
    with opened(path) as (descriptor, status):
        if status.st_size > MAX_ENTRY:
            raise MalformedError(f"{status.st_size} bytes (allowed: {MAX_ENTRY})")
        found, observation = decode(read_all(descriptor, status.st_size))
    if found.key != key:
        raise MalformedError(f"it is the entry {found.key}")
    return observation
