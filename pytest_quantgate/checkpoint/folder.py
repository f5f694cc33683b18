"""The files of a model folder: where they lie, and reading them without trust.

Every fault is a one-line `CheckpointError`: `<file>: <what> (<found>, <allowed>); <next step>`.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_quantgate.errors import CheckpointError
from pytest_quantgate.escaping import plain
from pytest_quantgate.files import MalformedError, opened, read_all, strict_json

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GET_AGAIN", "checked", "fault", "hub_digest", "listing", "locate", "parsed", "read_json", "stamp"]

T = TypeVar("T")

GET_AGAIN = "download or export the checkpoint again"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def locate(folder: Path, name: str) -> Path:
    """Return where a file of a model folder really lies.

    Raises:
        CheckpointError: it is missing, or a link leads out of the folder.

    """
    path = folder / name
    try:
        target = Path(os.path.realpath(path, strict=True))
    except OSError as error:
        raise _unreadable(path, error) from error
    home = Path(os.path.realpath(folder))
    if not target.is_relative_to(home) and not _is_blob(target, home):
        raise fault(
            path, f"a link that leads out of the folder (to {target})", "copy the file into the folder"
        )
    return target


def _is_blob(target: Path, home: Path) -> bool:
    # the hub's cache: models--a--b/snapshots/<commit>/f -> models--a--b/blobs/<name> -> blobs/<xx>/<name>
    if home.parent.name != "snapshots":
        return False
    repository = home.parent.parent
    shared = repository.parent / "blobs" / target.name[:2]
    return target.parent in (repository / "blobs", shared)


def hub_digest(folder: Path, name: str) -> str | None:
    """Return the SHA-256 that the hub lists for a file: in its cache, the name of what the link leads to."""
    path = folder / name
    if path.is_symlink() and Path(os.path.realpath(folder)).parent.name == "snapshots":
        blob = Path(os.readlink(path))  # noqa: PTH115  the first hop only: a second one has another hash as its name
        if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name):
            return blob.name
    return None


def read_json(folder: Path, name: str, limit: int) -> Any:
    """Return the content of a JSON file of a model folder, read strictly.

    Raises:
        CheckpointError: it is missing, too large or no sound JSON.

    """
    return parsed(folder, name, limit, lambda value: value)


def parsed(folder: Path, name: str, limit: int, check: Callable[[Any], T], members: int = 1 << 20) -> T:
    """Return what `check` makes of a JSON file of a model folder.

    Raises:
        CheckpointError: it is missing, too large, no sound JSON, or `check` raised `MalformedError`.

    """
    target = locate(folder, name)

    def read() -> T:
        with opened(target) as (descriptor, status):
            if status.st_size > limit:
                raise MalformedError(f"too large (found {status.st_size} bytes, allowed: {limit})")
            return check(strict_json(read_all(descriptor, status.st_size), members=members))

    return checked(folder / name, read)


def checked(path: Path, read: Callable[[], T]) -> T:
    """Return what `read` does; its faults become those of the file `path`."""
    try:
        return read()
    except MalformedError as error:
        raise fault(path, str(error), error.next_step or GET_AGAIN) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def fault(path: Path, what: str, next_step: str) -> CheckpointError:
    """Return the error that says what is wrong with a file."""
    return CheckpointError(plain(f"{path}: {what}; {next_step}"))


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    if isinstance(error, FileNotFoundError) and not path.is_symlink():
        return fault(path, "missing", GET_AGAIN)
    return fault(path, f"cannot be read ({error.strerror})", "check the file, its link and its permissions")


def listing(path: Path) -> set[str]:
    """Return the names in a model folder."""
    try:
        return {entry.name for entry in os.scandir(path)}
    except OSError as error:
        next_step = "give a folder that holds config.json and safetensors weights"
        raise fault(path, f"no model folder ({error.strerror})", next_step) from error


def stamp(folder: Path, name: str) -> tuple[str, int, int, int]:
    """Return (name, size, mtime_ns, inode) of a file: what changes when somebody replaces or rewrites it."""
    path = locate(folder, name)
    try:
        status = path.lstat()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise fault(folder / name, "not a regular file", GET_AGAIN)
    return name, status.st_size, status.st_mtime_ns, status.st_ino
