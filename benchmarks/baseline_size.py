"""How small the stored baseline is, and how far a truncated KL divergence is from the exact one."""

from __future__ import annotations

from pathlib import Path

import networks
import numpy as np
from table import Row

from pytest_quantgate.gate import Metric
from pytest_quantgate.metrics.tokens import TOKENS

__all__ = ["measure"]

WINDOWS = 40
LLAMA_CPP = 2
"""Bytes per token and vocabulary entry of llama.cpp's file of base logits."""


def measure() -> list[Row]:
    """Return bytes per token for several K and vocabularies, and the error of the divergence on the example."""
    return [*_sizes(), *_errors()]


def _sizes() -> list[Row]:
    rows = []
    for vocabulary in (networks.SMALL, networks.LARGE):
        for kept in (16, 64, 256):
            identifier = 2 if vocabulary < 2**16 else 4
            # ids and top-1 of the token, its window, its log-probability; K ids with a log-probability each
            size = 4 + identifier + 4 + 4 + kept * (identifier + 4)
            theirs = LLAMA_CPP * vocabulary
            what = (
                f"baseline, K = {kept}, vocabulary {vocabulary:,}: bytes per token against llama.cpp's file"
            )
            rows.append(Row(what, f"{size:,} B", f"{theirs:,} B", size / theirs))
    return rows


def _errors() -> list[Row]:
    model = networks.example()
    subject = networks.Subject(model)
    rows = []
    for bits in (4, 3):
        damaged = networks.Subject(
            networks.in_memory(networks.rounded(model.native, bits), model.tokenizer, "v")
        )
        exact = _divergence(subject, damaged, model.vocab_size)[0]
        for kept in (16, 64, 256):
            found, bound = _divergence(subject, damaged, kept)
            what = f"KLD of {bits}-bit rounding, K = {kept}: truncated against exact (stated bound {bound:.3g} nat)"
            rows.append(Row(what, f"{found:.6f} nat", f"{exact:.6f} nat", found / exact))
    return rows


def _divergence(subject: networks.Subject, damaged: networks.Subject, kept: int) -> tuple[float, float]:
    settings = {
        "corpus": "data/heldout.txt",
        "protocol": "gptq",
        "window": 256,
        "limit": WINDOWS,
        "top_k": kept,
    }
    protocol = TOKENS.protocol({}, settings, Path(networks.EXAMPLE))
    reference = TOKENS.observe(subject, protocol, None, lambda *_: None)
    observed = TOKENS.observe(damaged, protocol, reference, lambda *_: None)
    value = TOKENS.estimate(Metric("kld").mean, observed, reference).value
    return value, float(np.mean(observed.arrays["kld_excess"]))
