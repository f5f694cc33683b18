"""Memory of this process: the largest resident set since a moment. The standard library alone.

On Linux the kernel's high-water mark is reset (`/proc/self/clear_refs`), so that what ran before in the same process
does not count. Elsewhere `resource` gives the mark of the whole process: an upper bound.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["ResidentPeak"]

STATUS: Final = Path("/proc/self/status")
CLEAR_REFS: Final = Path("/proc/self/clear_refs")
RESET_PEAK: Final = "5"  # proc(5): reset VmHWM to the current resident set size


class ResidentPeak:
    """Counts from its creation on."""

    def __init__(self) -> None:
        gc.collect()
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # free memory goes back first
        with suppress(OSError):
            CLEAR_REFS.write_text(RESET_PEAK, encoding="ascii")
        self._before = _resident("VmRSS")

    def read(self) -> float:
        """Return the peak in bytes, less what there was at creation."""
        return max(0.0, _resident("VmHWM") - self._before)


def _resident(field: str) -> float:
    if STATUS.exists():
        for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(field + ":"):
                return float(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
