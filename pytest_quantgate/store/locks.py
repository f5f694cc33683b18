"""Locks between processes that save work and never decide about correctness.

Two runners that both believe to hold a lock do the same work twice; the store stays whole. So whatever goes
wrong here (no flock on this file system, a holder that hangs, a folder that cannot be written) costs a
warning, not the run.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from pytest_quantgate.files import MalformedError, opened, read_all, strict_json, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["Locks"]

# a lock file that is merely present would stay for ever after a kill: rather no lock
_OPTIONS: dict[str, Any] = {"mode": 0o644}
if "fallback_to_soft" in inspect.signature(FileLock.__init__).parameters:  # filelock >= 4
    _OPTIONS["fallback_to_soft"] = False


class Locks:
    """Named locks in one folder.

    Args:
        folder: where the lock files lie; created on first use.
        timeout: seconds to wait for a holder before going on without the lock.
        warn: called with (topic, message); says each topic once.

    """

    def __init__(self, folder: Path, timeout: float, warn: Callable[[str, str], None]) -> None:
        self._folder = folder
        self._timeout = timeout
        self._warn = warn
        self._locks: dict[str, FileLock] = {}
        self._guard = threading.Lock()

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[bool]:
        """Hold the lock `name`, reentrantly; yield False if the work goes on without it."""
        held = self._acquire(name)
        holder = self._folder / f"{name}.holder"
        if held:
            self._say_who(holder)
        try:
            yield held
        finally:
            if held:
                self._release(name, holder)

    def _acquire(self, name: str) -> bool:
        try:
            self._lock(name).acquire()
        except Timeout:
            who = _who(self._folder / f"{name}.holder")
            self._warn(
                f"timeout {name}",
                f"{self._folder / name}.lock: {who} holds it for more than {self._timeout:g} s; "
                f"going on without it, the work may be done twice: look whether that process hangs",
            )
        except (OSError, NotImplementedError, RuntimeError) as error:
            self._warn(
                "lock",
                f"{self._folder}: no locking here ({error}); going on, parallel runs may do work twice",
            )
        else:
            return True
        return False

    def _lock(self, name: str) -> FileLock:
        with self._guard:
            if name not in self._locks:
                self._folder.mkdir(parents=True, exist_ok=True)
                path = str(self._folder / f"{name}.lock")
                self._locks[name] = FileLock(path, timeout=self._timeout, **_OPTIONS)
            return self._locks[name]

    @staticmethod
    def _say_who(holder: Path) -> None:
        about = {"pid": os.getpid(), "host": socket.gethostname()}
        with contextlib.suppress(OSError):  # only a courtesy to those who wait
            write_atomic(holder, [json.dumps(about).encode()], durable=False)

    def _release(self, name: str, holder: Path) -> None:
        lock = self._locks[name]
        with contextlib.suppress(OSError):
            if lock.lock_counter == 1:
                holder.unlink()
        with contextlib.suppress(OSError):
            lock.release()


def _who(holder: Path) -> str:
    try:
        with opened(holder) as (descriptor, status):
            about = strict_json(read_all(descriptor, min(status.st_size, 4096)))
        return f"process {int(about['pid'])} on {str(about['host'])[:100]}"
    except (OSError, MalformedError, KeyError, TypeError, ValueError):
        return "another process"
