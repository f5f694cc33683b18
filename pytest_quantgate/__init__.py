"""Quality gates for quantized language models, as pytest tests that pass or fail.

This module holds names only, and finds them on first use: pytest imports it in every run, also where no gate is.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_quantgate.gate import Gate as Gate, Metric as Metric
    from pytest_quantgate.marks import quantgate as quantgate
    from pytest_quantgate.parse import parse as parse
    from pytest_quantgate.terms import (
        bits_per_weight as bits_per_weight,
        delta_p as delta_p,
        disk as disk,
        kld as kld,
        load_time as load_time,
        metric as metric,
        ppl as ppl,
        ppl_delta as ppl_delta,
        ram as ram,
        token_latency as token_latency,
        tokens_per_second as tokens_per_second,
        top1_agreement as top1_agreement,
        ttft as ttft,
        vram as vram,
        weights_memory as weights_memory,
    )
    from pytest_quantgate.units import (
        GB as GB,
        KB as KB,
        MB as MB,
        TB as TB,
        B as B,
        GiB as GiB,
        KiB as KiB,
        MiB as MiB,
        TiB as TiB,
        h as h,
        minute as minute,
        ms as ms,
        percent as percent,
        s as s,
        tok_s as tok_s,
        us as us,
    )

_HOME = {
    "marks": ("quantgate",),
    "gate": ("Gate", "Metric"),
    "parse": ("parse",),
    "terms": (
        "bits_per_weight", "delta_p", "disk", "kld", "load_time", "metric", "ppl", "ppl_delta", "ram",
        "token_latency", "tokens_per_second", "top1_agreement", "ttft", "vram", "weights_memory",
    ),
    "units": (
        "B", "GB", "GiB", "KB", "KiB", "MB", "MiB", "TB", "TiB", "h", "minute", "ms", "percent", "s", "tok_s", "us",
    ),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605  the table above is the one list


def __getattr__(name: str) -> Any:
    """Find a public name in its module (PEP 562)."""
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return __all__
