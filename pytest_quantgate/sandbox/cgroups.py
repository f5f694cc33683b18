"""Control groups: memory and processes of all programs together, where this user may make a group."""

from __future__ import annotations

import contextlib
import ctypes
import os

from pytest_quantgate.sandbox import kernel

__all__ = ["Groups"]

_ROOT = "/sys/fs/cgroup"
_MAGIC = {1: 0x27E0EB, 2: 0x63677270}
_STATFS = 256  # more than struct statfs has on any machine


class Groups:
    """Groups that were made for this box; `remove` them when their processes are gone."""

    def __init__(self) -> None:
        self._made: list[tuple[str, str]] = []

    def make(self, memory: int, processes: int) -> None:
        """Make groups with limits where this user may."""
        wanted = {"memory": str(memory), "pids": str(processes)}
        with contextlib.suppress(OSError):
            with open("/proc/self/cgroup", encoding="utf-8") as file:  # noqa: PTH123
                lines = [line.rstrip("\n").split(":", 2) for line in file]
            for _, names, path in lines:
                kinds = {kind: wanted[kind] for kind in wanted if not names or kind in names.split(",")}
                for base in _bases(names) if kinds else ():
                    self._make(base + path, kinds, old=bool(names))

    def enter(self) -> str:
        """Put this process into the groups; return what was got, in the words of the report."""
        got = set()
        for folder, kinds in self._made:
            with contextlib.suppress(OSError):
                _put(f"{folder}/cgroup.procs", "0")
                got |= set(kinds.split())
        return f"cgroup {' '.join(sorted(got))}" if got else ""

    def remove(self) -> None:
        """Remove the groups; one that still holds a process stays."""
        for folder, _ in self._made:
            with contextlib.suppress(OSError):
                os.rmdir(folder)  # noqa: PTH106  pathlib is slow to import

    def _make(self, parent: str, limits: dict[str, str], *, old: bool) -> None:
        if _kind_of(parent) != (1 if old else 2):
            return
        folder = f"{parent.rstrip('/')}/quantgate-{os.getpid()}"
        with contextlib.suppress(OSError):
            os.mkdir(folder)  # noqa: PTH102
            got = [kind for kind, value in limits.items() if _set(folder, kind, value, old=old)]
            self._made.append((folder, " ".join(got)))


def _bases(names: str) -> list[str]:
    return [f"{_ROOT}/{names}"] if names else [_ROOT, f"{_ROOT}/unified"]


def _set(folder: str, kind: str, value: str, *, old: bool) -> bool:
    name = "memory.limit_in_bytes" if kind == "memory" and old else f"{kind}.max"
    try:
        _put(f"{folder}/{name}", value)
    except OSError:
        return False
    return True


def _put(path: str, text: str) -> None:
    # without O_CREAT: on a file system that is none of cgroups, writing must fail
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def _kind_of(path: str) -> int:
    """Return which version of cgroups a folder belongs to; 0 for a folder that only looks like one."""
    found = ctypes.create_string_buffer(_STATFS)
    if kernel.libc.statfs(path.encode(), found) < 0:
        return 0
    magic = int.from_bytes(found.raw[:4], "little")
    return next((version for version, known in _MAGIC.items() if known == magic), 0)
