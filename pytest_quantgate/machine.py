"""What this machine is, found without importing an engine: its device kinds and the versions that are installed."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["default_device", "device_kind", "installed", "versions"]

_NVIDIA_CARDS = Path("/proc/driver/nvidia/gpus")
_CPU_INFO = Path("/proc/cpuinfo")


@cache
def installed(distribution: str) -> str:
    """Return the installed version of a distribution; empty if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def versions(*distributions: str) -> tuple[tuple[str, str], ...]:
    """Return (name, version) of those that are installed, sorted by name."""
    return tuple(sorted((name, installed(name)) for name in distributions if installed(name)))


def default_device() -> str:
    """Return "cuda" where torch was built for it and a card is visible, else "cpu"."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "unset").strip() in {"", "-1"}
    cpu_build = installed("torch").endswith("+cpu") or not installed("torch")
    return "cpu" if hidden or cpu_build or not _cards() else "cuda"


def device_kind(device: str) -> str:
    """Return what speed and memory figures belong to, e.g. "cuda NVIDIA H100 80GB HBM3" or "cpu Xeon @ 2.80GHz x4"."""
    if device.partition(":")[0] == "cuda":
        cards = _cards()
        index = int(device.partition(":")[2] or 0)
        return f"cuda {cards[min(index, len(cards) - 1)]}" if cards else "cuda"
    return f"{device} {_processor()} x{_cores()}"


@cache
def _cards() -> tuple[str, ...]:
    try:
        folders = sorted(_NVIDIA_CARDS.iterdir())
    except OSError:
        return ()
    return tuple(_field(folder / "information", "Model") or "NVIDIA" for folder in folders)


@cache
def _processor() -> str:
    return _field(_CPU_INFO, "model name") or platform.processor() or platform.machine()


def _field(file: Path, name: str) -> str:
    """Return the value of the first "name: value" line of a kernel's text file; empty if there is none."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    values = (
        value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == name
    )
    return next(values, "")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
