"""Is the memory of a process that is gone back on its device? Asked of NVIDIA's driver, where there is one."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable
from typing import Any

from pytest_quantgate.errors import WorkerError

__all__ = ["holders", "wait_until_free"]

_PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.1


def wait_until_free(
    pid: int,
    device: str,
    name: str,
    *,
    asked: Callable[[], Iterable[int]] | None = None,
    seconds: float = _PATIENCE_SECONDS,
) -> None:
    """Return when a process that has ended holds no memory on the device any more.

    Args:
        pid: its id.
        device: "cpu" needs no check: the kernel takes memory back before it tells that a process is gone.
        name: whose it was, for the message.
        asked: returns the ids of the processes that hold memory; None asks the driver.
        seconds: how long to wait.

    Raises:
        WorkerError: it still does; what loads next would be measured beside it, or run out of memory.

    """
    if not device.startswith("cuda"):
        return
    give_up = time.monotonic() + seconds
    while pid in set((asked or holders)()):
        if time.monotonic() > give_up:
            raise WorkerError(
                f"{name}: its process {pid} has ended, but its memory on {device} is not back after {seconds:g} s;"
                " look at nvidia-smi, and reset the device if nothing else uses it"
            )
        time.sleep(_PAUSE_SECONDS)


def holders() -> Iterable[int]:
    """Return the ids of the processes that hold memory on any device; none where the driver cannot be asked."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # noqa: BLE001  no library, no driver: errors of many kinds, none of them the user's
        return ()
    try:
        cards = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return tuple(
            int(process.pid) for card in cards for process in nvml.nvmlDeviceGetComputeRunningProcesses(card)
        )
    except nvml.NVMLError:
        return ()
    finally:
        nvml.nvmlShutdown()
