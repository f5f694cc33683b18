"""How many programs may be there at once without taking more memory than the machine has to give."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

__all__ = ["most_at_once"]

_OPEN = 16  # of each worker: those that sleep cost nothing but their memory
_SHARE = 0.75
_UNKNOWN = 4 * 2**30
_GROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def most_at_once(workers: int, memory: int) -> int:
    """Return how many programs may be open, if each may hold `memory` bytes: one of each worker at least."""
    return max(workers, min(_OPEN * workers, int(_SHARE * _available() / memory)))


def _available() -> int:
    """Return the bytes that are free on this machine, or in the container that this is."""
    found = [_UNKNOWN]
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = [int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024]
    for file in _GROUPS:
        with suppress(OSError, ValueError):  # "max" is no number, and no limit
            found.append(int(Path(file).read_text(encoding="ascii")))
    return min(found)
