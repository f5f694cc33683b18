"""A folder that is there whole or not at all: built beside its place by one process, then moved there.

The work folder `.NAME.quantgate` lies beside the target, on the same disk, so that the move is one rename. A process
holds a lock on it; what a killed process left in it is removed by the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_quantgate.errors import StoreError, UsageError
from pytest_quantgate.files import sync_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["check_target", "claimed", "free_bytes", "place"]

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_HELD: Final = (errno.EAGAIN, errno.EACCES)
_NO_EXCHANGE: Final = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def check_target(out: Path, sources: Sequence[Path], *, force: bool) -> Path:
    """Return the folder that `out` means, all links followed, if it may be written.

    Args:
        out: as the user wrote it.
        sources: files and folders that must not be replaced.
        force: a checkpoint that lies there may be replaced.

    Raises:
        UsageError: it is a file, holds something, or holds one of the sources.

    """
    target = Path(os.path.realpath(out))
    for source in sources:
        if Path(os.path.realpath(source)).is_relative_to(target):
            raise UsageError(f"--out {out}: {source} lies there; give a folder of its own")
    if not os.path.lexists(target):
        return target
    if not target.is_dir():
        raise UsageError(f"--out {out}: is a file; give a folder")
    try:
        names = os.listdir(target)  # noqa: PTH208  names only
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be read ({error.strerror}); give another folder") from error
    if names and not force:
        raise UsageError(
            f"--out {out}: is not empty; give another folder, or replace the checkpoint with --force"
        )
    if names and not any(name == "config.json" or name.endswith(".gguf") for name in names):
        raise UsageError(
            f"--out {out}: --force replaces checkpoints only, and there is no config.json or *.gguf"
        )
    return target


@contextlib.contextmanager
def claimed(target: Path) -> Iterator[Path]:
    """Hold the work folder of a target, empty; it is removed in the end.

    Raises:
        StoreError: another process is at work on the same target, or the folder beside it cannot be written.

    """
    work = target.parent / f".{target.name}.quantgate"
    descriptor = _locked(work, target)
    try:
        for path in work.iterdir():
            _remove(path)
        yield work
    finally:
        # before the lock goes: whoever waits for the name must find it free, not half removed
        _remove(work)
        os.close(descriptor)


def _locked(work: Path, target: Path) -> int:
    while True:
        try:
            work.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # its holder removed it between the two calls
        except OSError as error:
            raise StoreError(
                f"{work}: cannot be made ({error.strerror}); give --out in another folder"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _HELD:
                raise StoreError(
                    f"{target}: another process is writing it; wait for that one, or give another --out"
                ) from error
            with contextlib.suppress(OSError):
                work.rmdir()
            raise StoreError(
                f"{work}: cannot be locked ({error.strerror}); give --out on a local disk"
            ) from error
        if _is_still(work, descriptor):
            return descriptor
        os.close(descriptor)


def _is_still(work: Path, descriptor: int) -> bool:
    """Return whether the folder that is locked is the one that has the name: a holder removes it in the end."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), work.lstat())
    return False


def place(made: Path, target: Path) -> None:
    """Move a finished folder to its place, in one step; what lay there is exchanged and removed.

    Raises:
        StoreError: it cannot be moved; what lay there is as it was.

    """
    try:
        if target.is_dir() and any(target.iterdir()):
            _exchange(made, target)
            _remove(made)
        else:
            made.rename(target)
        sync_directory(target.parent)
    except OSError as error:
        raise StoreError(f"{target}: cannot be put in place ({error.strerror}); run again") from error


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders: at no moment is there none under either name, where the system can do that."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None, use_errno=True)
        rename = getattr(library, "renameat2", None)
        if rename is not None:
            if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
                return
            if ctypes.get_errno() not in _NO_EXCHANGE:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    # outside of the work folder, which a later run empties: a kill between the two must not lose the old one
    aside = other.parent / f"{other.name}.replaced"
    other.rename(aside)
    try:
        one.rename(other)
    except OSError:
        aside.rename(other)
        raise
    aside.rename(one)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def free_bytes(target: Path) -> int:
    """Return the free bytes of the disk that a target will lie on; its folders need not exist."""
    folder = next(path for path in (target, *target.parents) if path.exists())
    return shutil.disk_usage(folder).free
