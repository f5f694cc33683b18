"""What a killed process leaves in the store: put aside, and swept when nobody can be using it."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from typing import TYPE_CHECKING

from pytest_quantgate.files import TEMPORARY

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Quarantine", "is_older", "remove", "remove_older", "sweep"]

KEPT = 16
"""Damaged entries kept for a look at them; of damaged checkpoints, which are large, only the last."""

ABANDONED = 3 * 86400.0
"""Seconds without any change after which something unfinished has no owner any more."""


class Quarantine:
    """A folder of at most `KEPT` damaged entries; the oldest go first."""

    def __init__(self, folder: Path, *, writable: bool) -> None:
        self._folder = folder
        self._writable = writable

    def take(self, path: Path) -> Path | None:
        """Move a file, folder or link here; return its new place, or None if it had to stay."""
        if not self._writable:
            return None
        place = self._folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}-{path.name}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)  # noqa: PTH105  moves folders and links as they are
        except OSError:
            return None
        with contextlib.suppress(OSError):
            kept = sorted(self._folder.iterdir())
            folders = [item for item in kept if item.is_dir()]
            for old in {*kept[:-KEPT], *folders[:-1]}:
                remove(old)
        return place


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def is_older(path: Path, limit: float) -> bool:
    """Return whether a file was written before `limit` (epoch seconds); False if it is gone."""
    with contextlib.suppress(OSError):
        return path.lstat().st_mtime < limit
    return False


def remove_older(path: Path, limit: float) -> bool:
    """Remove a file that was written before `limit` (epoch seconds); return whether that was done."""
    with contextlib.suppress(OSError):
        if is_older(path, limit):
            path.unlink()
            return True
    return False


def sweep(home: Path) -> None:
    """Remove unfinished files and folders that nothing has changed for `ABANDONED` seconds."""
    now = _clock_of(home)
    if now is None:
        return
    for pattern in (f"observations/??/{TEMPORARY}*", f"checkpoints/{TEMPORARY}*", f"*/{TEMPORARY}*"):
        for path in home.glob(pattern):
            if now - _last_change(path) > ABANDONED:
                remove(path)


def _clock_of(home: Path) -> float | None:
    # the file server's clock, not ours: only they can be compared with each other
    probe = home / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        probe.touch()
        return probe.stat().st_ctime
    except OSError:
        return None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _last_change(path: Path) -> float:
    # the change time: no call can set it back
    times = [time.time()]
    with contextlib.suppress(OSError):
        times = [path.lstat().st_ctime]
        times += [inner.lstat().st_ctime for inner in path.rglob("*")]
    return max(times)
