"""Peak memory since loading began: what the device's allocator says on a GPU, resident set size on a CPU.

On Linux the kernel's high-water mark is reset before loading (`/proc/self/clear_refs`), so that an earlier,
larger model in the same process does not count. Elsewhere `resource` gives the mark of the whole process: an
upper bound.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

__all__ = ["PeakMemory"]

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5): reset VmHWM to the current resident set size


class PeakMemory:
    """Counts from its creation on."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        else:
            self._before = _reset_resident_peak()

    def read(self) -> dict[str, float]:
        """Return peak bytes since creation: "vram", "vram.reserved" and, where known, "others"; or "ram"."""
        if self.device.type != "cuda":
            return {"ram": max(0.0, _resident("VmHWM") - self._before)}
        return {
            "vram": float(torch.cuda.max_memory_allocated(self.device)),
            "vram.reserved": float(torch.cuda.max_memory_reserved(self.device)),
            **_others(self.device),
        }


def _reset_resident_peak() -> float:
    """Hand free memory back, set the high-water mark to what is left, and return that in bytes."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with suppress(OSError):
        CLEAR_REFS.write_text(RESET_PEAK, encoding="ascii")
    return _resident("VmRSS")


def _resident(field: str) -> float:
    if STATUS.exists():
        for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(field + ":"):
                return float(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _others(device: torch.device) -> dict[str, float]:
    """Return the bytes that other processes hold on the device, if NVML can be asked."""
    try:
        import pynvml  # noqa: PLC0415 - part of the `gpu` extra, wanted on a GPU only
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid.encode())
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:
        return {}
    return {"others": float(sum(p.usedGpuMemory or 0 for p in processes if p.pid != os.getpid()))}
