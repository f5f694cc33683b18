"""`quantgate quantize`: one quantized checkpoint, outside of a study, with a forecast first."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate import figures, quantizing
from pytest_quantgate.cli.progress import INTERRUPTED, narrator
from pytest_quantgate.cli.recipe_options import KEYS, value_of
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.escaping import plain
from pytest_quantgate.options import Options
from pytest_quantgate.quantizing import Job
from pytest_quantgate.recipe import METHODS, from_table
from pytest_quantgate.registry import Registry, load

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping

    from pytest_quantgate.quantizing import Foreseen
    from pytest_quantgate.spec import Scalar

__all__ = ["run"]


def run(chosen: Namespace) -> int:
    """Forecast, make, and say where it lies."""
    options = _options(chosen)
    job = _job(chosen)
    foreseen = quantizing.foresee(job, options)
    for line in _forecast(foreseen):
        print(plain(f"forecast: {line}"), file=sys.stderr)
    if chosen.dry_run:
        return 0
    started = time.monotonic()
    try:
        folder = quantizing.make(job, foreseen, options, Registry(), narrator())
    except KeyboardInterrupt:
        print(plain(f"quantgate: interrupted; {job.out} is as it was"), file=sys.stderr)
        return INTERRUPTED
    weights = sum(
        path.stat().st_size for path in folder.iterdir() if path.suffix in (".safetensors", ".gguf")
    )
    took = figures.duration(time.monotonic() - started)
    print(
        plain(f"{folder}: {figures.quantity(weights, 'B')} of weights, made in {took}; it loads and speaks")
    )
    return 0


def _options(chosen: Namespace) -> Options:
    return Options(
        root=Path.cwd(),
        store=Path.cwd(),
        report=None,
        refresh="",
        offline=False,
        strict=False,
        plan_only=False,
        allow_pickle=chosen.allow_pickle,
        allow_code=chosen.allow_code,
    )


def _job(chosen: Namespace) -> Job:
    written = {key: getattr(chosen, f"key_{key}") for key in KEYS}
    table: dict[str, Scalar] = {key: value_of(text) for key, text in written.items() if text is not None}
    table["method"] = chosen.method
    if chosen.calibration:
        table["calibration"] = str(Path(chosen.calibration).expanduser().absolute())
        table |= _samples(chosen.method, table)
    elif chosen.method in METHODS and METHODS[chosen.method].calibration == "needed":
        raise ConfigError(f"{chosen.method} needs a calibration file; name one with --calibration FILE")
    if not chosen.out.strip():
        raise ConfigError("--out is empty; name the new checkpoint's folder")
    return Job(
        baseline=chosen.baseline,
        recipe=from_table(chosen.method, table, Path.cwd()),
        out=Path(os.path.expanduser(chosen.out)),  # noqa: PTH111  no error for a user who is not there
        revision=chosen.revision,
        device=chosen.device,
        force=chosen.force,
    )


def _samples(method: str, table: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return how many samples a file that has fewer than the method's default holds, if nobody asked for a number."""
    path = Path(str(table["calibration"]))
    if (
        "samples" in table
        or method not in METHODS
        or "samples" not in METHODS[method].keys
        or not path.is_file()
    ):
        return {}
    found = int(load("pytest_quantgate.quantizers.calibration:count")(path))
    usual = METHODS[method].keys["samples"].default
    if not found or found >= int(usual):
        return {}
    print(plain(f"quantgate: {path} has {found} samples; all are used"), file=sys.stderr)
    return {"samples": found}


def _forecast(foreseen: Foreseen) -> tuple[str, ...]:
    takes = foreseen.takes
    size, left, memory, free = (
        figures.quantity(value, "B", digits=3)
        for value in (takes.size, takes.left, takes.memory, foreseen.free)
    )
    stay = f", of which {left} stay at 16 bits" if takes.left else ""
    told = [
        f"{takes.layers} layers; {size} of weights{stay}; {free} are free",
        f"about {memory} of memory at the peak; about {figures.duration(takes.seconds)}, roughly",
    ]
    available = _available_memory()
    if available and takes.memory > available:
        told.append(
            f"this machine has {figures.quantity(available, 'B', digits=3)} of memory left: it may not do"
        )
    return tuple(told)


def _available_memory() -> int:
    """Return the bytes of memory that new processes can have; 0 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), 0)
