"""Quality gates for quantized language models, as pytest tests that pass or fail.

This module holds names only, and finds them on first use: pytest imports it in every run, also where no gate is.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_quantgate.gate import Gate as Gate
    from pytest_quantgate.gate import Metric as Metric
    from pytest_quantgate.marks import quantgate as quantgate
    from pytest_quantgate.terms import (
        bits_per_weight as bits_per_weight,
    )
    from pytest_quantgate.terms import (
        ceval as ceval,
    )
    from pytest_quantgate.terms import (
        delta_p as delta_p,
    )
    from pytest_quantgate.terms import (
        disk as disk,
    )
    from pytest_quantgate.terms import (
        evaluate as evaluate,
    )
    from pytest_quantgate.terms import (
        gsm8k as gsm8k,
    )
    from pytest_quantgate.terms import (
        humaneval as humaneval,
    )
    from pytest_quantgate.terms import (
        humaneval_plus as humaneval_plus,
    )
    from pytest_quantgate.terms import (
        kld as kld,
    )
    from pytest_quantgate.terms import (
        lm_eval as lm_eval,
    )
    from pytest_quantgate.terms import (
        load_time as load_time,
    )
    from pytest_quantgate.terms import (
        metric as metric,
    )
    from pytest_quantgate.terms import (
        mmlu as mmlu,
    )
    from pytest_quantgate.terms import (
        ppl as ppl,
    )
    from pytest_quantgate.terms import (
        ppl_delta as ppl_delta,
    )
    from pytest_quantgate.terms import (
        ram as ram,
    )
    from pytest_quantgate.terms import (
        since as since,
    )
    from pytest_quantgate.terms import (
        token_latency as token_latency,
    )
    from pytest_quantgate.terms import (
        tokens_per_second as tokens_per_second,
    )
    from pytest_quantgate.terms import (
        top1_agreement as top1_agreement,
    )
    from pytest_quantgate.terms import (
        ttft as ttft,
    )
    from pytest_quantgate.terms import (
        vram as vram,
    )
    from pytest_quantgate.terms import (
        weights_memory as weights_memory,
    )
    from pytest_quantgate.terms import (
        worst_capability as worst_capability,
    )
    from pytest_quantgate.units import (
        GB as GB,
    )
    from pytest_quantgate.units import (
        KB as KB,
    )
    from pytest_quantgate.units import (
        MB as MB,
    )
    from pytest_quantgate.units import (
        TB as TB,
    )
    from pytest_quantgate.units import (
        B as B,
    )
    from pytest_quantgate.units import (
        GiB as GiB,
    )
    from pytest_quantgate.units import (
        KiB as KiB,
    )
    from pytest_quantgate.units import (
        MiB as MiB,
    )
    from pytest_quantgate.units import (
        TiB as TiB,
    )
    from pytest_quantgate.units import (
        h as h,
    )
    from pytest_quantgate.units import (
        minute as minute,
    )
    from pytest_quantgate.units import (
        ms as ms,
    )
    from pytest_quantgate.units import (
        percent as percent,
    )
    from pytest_quantgate.units import (
        s as s,
    )
    from pytest_quantgate.units import (
        tok_s as tok_s,
    )
    from pytest_quantgate.units import (
        us as us,
    )

_HOME = {
    "marks": ("quantgate",),
    "gate": ("Gate", "Metric"),
    "terms": (
        "bits_per_weight", "ceval", "delta_p", "disk", "evaluate", "gsm8k", "humaneval", "humaneval_plus", "kld",
        "lm_eval", "load_time", "metric", "mmlu", "ppl", "ppl_delta", "ram", "since", "token_latency",
        "tokens_per_second", "top1_agreement", "ttft", "vram", "weights_memory", "worst_capability",
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
