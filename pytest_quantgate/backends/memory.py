"""Peak memory since loading began: what the device's allocator says on a GPU, resident set size on a CPU."""

from __future__ import annotations

import gc
import os

import torch

from pytest_quantgate.backends.resident import ResidentPeak

__all__ = ["PeakMemory"]


class PeakMemory:
    """Counts from its creation on."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        else:
            self._resident = ResidentPeak()

    def read(self) -> dict[str, float]:
        """Return peak bytes since creation: "vram", "vram.reserved" and, where known, "others"; or "ram"."""
        if self.device.type != "cuda":
            return {"ram": self._resident.read()}
        return {
            "vram": float(torch.cuda.max_memory_allocated(self.device)),
            "vram.reserved": float(torch.cuda.max_memory_reserved(self.device)),
            **_others(self.device),
        }


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
