"""Reading and writing files that other processes may touch at any moment.

Reads take regular files only: no link is followed, no fifo can block. Writes are all or nothing: a temporary
file beside the target, fsync, replace, fsync of the folder. JSON is read strictly: no key twice, no NaN.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = [
    "TEMPORARY",
    "Bytes",
    "MalformedError",
    "NotRegularError",
    "opened",
    "read_all",
    "strict_json",
    "sync_directory",
    "write_atomic",
]

Bytes: TypeAlias = bytes | bytearray | memoryview

TEMPORARY = ".tmp-"
"""Prefix of everything that is unfinished; what a killed process leaves under it is swept by age."""

_PIECE = 1 << 22
_NO_DIRECTORY_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


class NotRegularError(OSError):
    """A folder, link, fifo or device where a file is expected."""


class MalformedError(ValueError):
    """Bytes that are not what they should be.

    Args:
        what: what was found and what is allowed.
        next_step: what to do about it, where that is not simply to get the file again.

    """

    def __init__(self, what: str, next_step: str = "") -> None:
        self.next_step = next_step
        super().__init__(what)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    """Open a regular file for reading; yield its descriptor and status.

    Raises:
        NotRegularError: it is a link, a folder, a fifo or a device.
        OSError: it is missing or cannot be opened.

    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise NotRegularError(error.errno, "not a regular file", str(path)) from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotRegularError(errno.EINVAL, "not a regular file", str(path))
        yield descriptor, status
    finally:
        os.close(descriptor)


def read_all(descriptor: int, size: int) -> memoryview:
    """Read exactly `size` bytes; the result is read-only.

    Raises:
        MalformedError: the file ends before.

    """
    data = bytearray(size)
    view = memoryview(data)
    done = 0
    while done < size:
        count = os.readv(descriptor, [view[done : done + _PIECE]])
        if count == 0:
            raise MalformedError(f"ends after {done} bytes of {size}")
        done += count
    return view.toreadonly()


def write_atomic(path: Path, pieces: Iterable[Bytes], *, durable: bool = True) -> None:
    """Write a file so that readers see the old one or the whole new one, also after a crash.

    Args:
        path: the file; its folder is made if it is missing.
        pieces: its content, part by part.
        durable: False saves the waiting for the disk, for what may be lost or torn by a power failure.

    Raises:
        OSError: nothing was changed, unless only the folder's fsync failed; no temporary file is left.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # beside the target: os.replace must not cross devices
    temporary = path.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        _write(temporary, pieces, durable=durable)
        os.replace(temporary, path)  # noqa: PTH105  one call that tests can make fail
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        sync_directory(path.parent)


def _write(path: Path, pieces: Iterable[Bytes], *, durable: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o644)
    try:
        for piece in pieces:
            view = memoryview(piece).cast("B")
            while view:
                view = view[os.write(descriptor, view[:_PIECE]) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in a folder durable; file systems that cannot do it are let off."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(descriptor)


def strict_json(data: Bytes, depth: int = 64, members: int = 1 << 20) -> Any:
    """Parse UTF-8 JSON without what a parser lets pass: a key twice, NaN, infinity, endless nesting.

    Raises:
        MalformedError: says what was found.

    """
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"not UTF-8 (byte {error.start})") from error
    count = text.count('":')
    if count > members + 64:  # room for what stands around them
        raise MalformedError(f"too many entries (found {count}, allowed: {members})")
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except MalformedError:
        raise
    except RecursionError as error:
        raise MalformedError(f"JSON nested too deep (allowed: {depth} levels)") from error
    except ValueError as error:  # JSONDecodeError, a byte order mark, an integer of 5,000 digits
        raise MalformedError(f"not JSON ({str(error).splitlines()[0][:120]})") from error
    if _deeper_than(value, depth):
        raise MalformedError(f"JSON nested too deep (allowed: {depth} levels)")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise MalformedError(f"the key {twice[:80]!r} twice")
    return value


def _no_constant(name: str) -> Any:
    raise MalformedError(f"the number {name} (allowed: finite numbers)")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise MalformedError(f"the number {text[:40]} (allowed: finite numbers)")
    return value


def _deeper_than(value: Any, depth: int) -> bool:
    layer = [value]
    for _ in range(depth + 1):
        layer = [
            item
            for outer in layer
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not layer:
            return False
    return True
