"""The kernel's calls that the standard library has no name for, by ctypes."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Callable

__all__ = ["LINUX", "MACHINE", "fail", "fork", "libc", "prctl", "syscall"]

LINUX = sys.platform == "linux"
MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())

libc = ctypes.CDLL(None, use_errno=True)
_holding_the_lock = ctypes.PyDLL(None)


def fail(what: str) -> OSError:
    """Return the error that the last call left."""
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def fork() -> int:
    """Fork, for processes of one thread: without the hooks that repair locks and seed `random` in the child.

    The hooks cost a child as much as the fork itself. The kernel's errors are raised as `os.fork` raises them.
    """
    if not LINUX:
        return os.fork()
    found: int = _holding_the_lock.fork()
    if found < 0:
        raise OSError(errno.EAGAIN, "no process can be made")
    return found


def prctl(option: int, first: int = 0, second: int | ctypes.c_void_p = 0) -> int:
    """Set an option of this process.

    Raises:
        OSError: the kernel refuses.

    """
    found = _prctl(option, first, second, 0, 0)
    if found < 0:
        raise fail(f"prctl {option}")
    return found


def syscall(number: int, *arguments: object) -> int:
    """Make a system call by its number; integers are passed as longs.

    Raises:
        OSError: the kernel refuses.

    """
    wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    found: int = libc.syscall(ctypes.c_long(number), *wide)
    if found < 0:
        raise fail(f"syscall {number}")
    return found


def _declared() -> Callable[..., int]:
    function = getattr(libc, "prctl", libc.getpid)
    function.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
    libc.syscall.restype = ctypes.c_long
    return function


_prctl = _declared()
