"""The walls beside the floor: what a machine gives, best effort, once for all programs.

Each function tries one thing, and returns what it got in the words of the report, or "" where the machine refuses.
None of them is what the box stands on; each takes away something that a hole in the floor would give.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_quantgate.sandbox import kernel, seccomp

if TYPE_CHECKING:
    from pytest_quantgate.sandbox.programs import Limits

__all__ = [
    "adopt_orphans",
    "children",
    "die_with_parent",
    "drop_rights",
    "empty_root",
    "end_children",
    "harden",
    "limit",
    "limit_program",
    "namespaces",
    "offer_to_oom_killer",
    "works",
]

_NAMESPACES = {"ipc": 0x08000000, "net": 0x40000000, "pid": 0x20000000, "uts": 0x04000000}
_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000
_RECURSIVE_PRIVATE, _DETACH = 0x44000, 2
_READ_ONLY_TMPFS = 0x1 | 0x2 | 0x4 | 0x8  # read-only, no setuid, no devices, no exec
_DEATH_SIGNAL, _SUBREAPER, _DUMPABLE, _DROP_BOUND = 1, 36, 4, 24
_CAPABILITIES_VERSION_3 = 0x20080522
_NUMBERS = {"pivot_root": {"x86_64": 155, "aarch64": 41}, "capset": {"x86_64": 126, "aarch64": 91}}
_NOBODIES = (
    1_879_048_192,
    65_533,
)  # far above what distributions and containers hand out; inside a small map
_FILES = 64
_KILL = 9


def works(attempt: Callable[[], object]) -> bool:
    """Return whether an attempt succeeds, in a process that is thrown away."""
    child = os.fork()
    if child == 0:
        try:
            attempt()
        except BaseException:  # noqa: BLE001  whatever it is, it does not work
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def namespaces() -> str:
    """Take namespaces of our own; the process namespace holds for children that are forked from now on."""
    if not kernel.LINUX:
        return ""
    every = sum(_NAMESPACES.values())
    for kinds, names in ((every, ()), (every | _NEW_USER, ("user",))):
        if works(lambda kinds=kinds: _unshare(kinds)):  # type: ignore[misc]
            _unshare(kinds)
            return "namespaces " + " ".join(sorted({*names, *_NAMESPACES, "mount"}))
    return ""


def empty_root() -> None:
    """Put an empty read-only file system where the disk was, in a mount namespace of our own.

    Raises:
        OSError: the machine does not allow it.

    """
    _checked(kernel.libc.unshare(_NEW_MOUNTS), "unshare")
    _mount(None, b"/", None, _RECURSIVE_PRIVATE)
    _mount(b"none", b"/tmp", b"tmpfs", _READ_ONLY_TMPFS, b"size=4k,mode=555")
    os.chdir("/tmp")  # noqa: S108  any folder that is always there would do
    try:
        kernel.syscall(_NUMBERS["pivot_root"][kernel.MACHINE], ctypes.c_char_p(b"."), ctypes.c_char_p(b"."))
        _checked(kernel.libc.umount2(b".", _DETACH), "umount2")
    except OSError:
        os.chroot(".")
    os.chdir("/")


def drop_rights() -> str:
    """Become a user that nobody is, without groups and capabilities."""
    done = []
    if os.geteuid() == 0:
        for nobody in _NOBODIES:
            try:
                os.setgroups([])
                os.setresgid(nobody, nobody, nobody)
                os.setresuid(nobody, nobody, nobody)
            except OSError:
                continue
            done.append("own uid")
            break
    if kernel.LINUX:
        done += ["no capabilities"] if _without_capabilities() else []
    return "+".join(done)


def harden() -> None:
    """Give up gaining rights by running a program, and keep this process's memory from others of the same user.

    Raises:
        OSError: the kernel refuses.

    """
    kernel.prctl(seccomp.NO_NEW_PRIVS, 1)
    kernel.prctl(_DUMPABLE, 0)


def limit(limits: Limits) -> None:
    """Set the limits that the keepers may have too."""
    _lower(resource.RLIMIT_AS, limits.memory)
    _lower(resource.RLIMIT_STACK, limits.stack)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, _FILES)


def limit_program(process: int, seconds: float) -> None:
    """Limit what only programs must not do: CPU time in whole seconds, as a net under the keeper's, and children."""
    _lower(resource.RLIMIT_CPU, int(seconds) + 2, process)
    _lower(resource.RLIMIT_NPROC, 0, process)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    if kernel.LINUX:
        kernel.prctl(_DEATH_SIGNAL, _KILL)


def adopt_orphans() -> None:
    """Become the parent of whatever a child leaves behind."""
    if kernel.LINUX:
        kernel.prctl(_SUBREAPER, 1)


def children() -> set[int]:
    """Return the children of this process; none where the system has no list of them."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:  # noqa: PTH123
            return {int(one) for one in file.read().split()}
    except OSError:
        return set()


def end_children() -> None:
    """Kill and collect children, and what they leave to this process, until there is none."""
    with contextlib.suppress(ChildProcessError):
        while True:
            for process in children():
                with contextlib.suppress(OSError):
                    os.kill(process, _KILL)
            os.wait()


def offer_to_oom_killer() -> None:
    """Have the kernel kill this process and its children first when memory runs out."""
    with contextlib.suppress(OSError):
        _write("/proc/self/oom_score_adj", "1000")


def _unshare(kinds: int) -> None:
    user, group = os.geteuid(), os.getegid()
    _checked(kernel.libc.unshare(kinds), "unshare")
    if kinds & _NEW_USER:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123
        file.write(text)


def _mount(
    source: bytes | None, target: bytes, kind: bytes | None, flags: int, data: bytes | None = None
) -> None:
    _checked(kernel.libc.mount(source, target, kind, ctypes.c_ulong(flags), data), "mount")


def _checked(found: int, what: str) -> None:
    if found < 0:
        raise kernel.fail(what)


def _without_capabilities() -> bool:
    for number in range(64):
        with contextlib.suppress(OSError):  # beyond the last one, or no right to drop: capset is what counts
            kernel.prctl(_DROP_BOUND, number)
    header, nothing = struct.pack("=Ii", _CAPABILITIES_VERSION_3, 0), bytes(24)
    try:
        kernel.syscall(
            _NUMBERS["capset"].get(kernel.MACHINE, -1), ctypes.c_char_p(header), ctypes.c_char_p(nothing)
        )
    except OSError:
        return False
    return True


def _lower(which: int, value: int, process: int = 0) -> None:
    """Lower a limit, at most to what it is already; of another process where the system can."""
    _, hard = resource.getrlimit(which)
    low = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS refuses some
        if not process:
            resource.setrlimit(which, (low, low))
        elif hasattr(resource, "prlimit"):
            resource.prlimit(process, which, (low, low))
