"""The baseline's share of the store: bytes per scored token, and how far KLD from its top K is from the exact value.

Size: whole entries on disk, of the example model (ids of 2 bytes) and of a synthetic observation with Qwen2's
vocabulary (4 bytes). llama.cpp's file of a baseline holds 2 bytes for every entry of the vocabulary.

Error: the example model against copies whose linear weights are rounded to 4 and 3 bits. Exact is the same pass
with the whole vocabulary kept. The bound is what the plugin itself reports beside the number.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import networks
import numpy as np
from table import Row

from pytest_quantgate.gate import Metric
from pytest_quantgate.metrics.tokens import TOKENS
from pytest_quantgate.spec import ModelSpec, Observation, Protocol, Step
from pytest_quantgate.store import Store

__all__ = ["measure"]

KEPT = (16, 64, 256)
BITS = (4, 3)
WINDOW, WINDOWS = 256, 64
LLAMA_CPP = 2  # bytes per entry of the vocabulary


def measure(repetitions: int = 1) -> list[Row]:  # noqa: ARG001  sizes do not vary
    """Return the sizes, and the errors."""
    baseline = networks.example()
    passes = {kept: _observed(baseline, kept) for kept in (*KEPT, baseline.vocab_size)}
    small = [_size(baseline.vocab_size, kept, passes[kept]) for kept in KEPT]
    large = [_size(networks.LARGE, kept, _synthetic(networks.LARGE, kept)) for kept in KEPT]
    return [*small, *large, *(row for bits in BITS for row in _errors(baseline, passes, bits))]


def _protocol(top_k: int) -> Protocol:
    corpus = str(networks.EXAMPLE / "data" / "heldout.txt")
    settings = {"corpus": corpus, "protocol": "gptq", "window": WINDOW, "limit": WINDOWS, "top_k": top_k}
    return TOKENS.protocol({}, settings, Path())


def _observed(model: object, top_k: int, reference: Observation | None = None) -> Observation:
    subject = networks.Subject(model)  # type: ignore[arg-type]
    return TOKENS.observe(subject, _protocol(top_k), reference, lambda *_: None)


def _synthetic(vocabulary: int, top_k: int) -> Observation:
    """Return an observation with the arrays that a model of this vocabulary would give, of arbitrary content."""
    count, random = WINDOWS * (WINDOW - 1), np.random.default_rng(0)
    return Observation(
        {
            "window": np.repeat(np.arange(WINDOWS, dtype=np.int32), WINDOW - 1),
            "ids": random.integers(0, vocabulary, WINDOWS * WINDOW, dtype=np.uint32),
            "logprob": random.normal(size=count).astype(np.float32),
            "top1": random.integers(0, vocabulary, count, dtype=np.uint32),
            "top_ids": random.integers(0, vocabulary, (count, top_k), dtype=np.uint32),
            "top_logprob": random.normal(size=(count, top_k)).astype(np.float32),
        }
    )


def _size(vocabulary: int, top_k: int, observation: Observation) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        spec = ModelSpec("baseline", "", "sha256:0")
        store.put(Step("pytest_quantgate.metrics.tokens:TOKENS", spec, _protocol(top_k)), observation)
        (entry,) = store.entries()
    ours, theirs = entry.size / len(observation.arrays["logprob"]), LLAMA_CPP * vocabulary
    return Row(
        f"stored baseline, vocabulary {vocabulary:,}, K = {top_k}, to llama.cpp's file",
        f"{ours:,.0f} bytes/token",
        f"{theirs:,} bytes/token",
        ours / theirs,
    )


def _errors(baseline: object, passes: dict[int, Observation], bits: int) -> list[Row]:
    whole = max(passes)
    damaged = networks.in_memory(
        networks.rounded(baseline.native, bits),  # type: ignore[attr-defined]
        baseline.tokenizer,  # type: ignore[attr-defined]
        f"{bits} bits",
    )
    exact = _mean(_observed(damaged, whole, passes[whole]))
    rows = []
    for top_k in KEPT:
        short = _observed(damaged, top_k, passes[top_k])
        found, bound = _mean(short), float(short.arrays["kld_excess"].mean(dtype=np.float64))
        rows.append(
            Row(
                f"what `kld.mean` misses of the exact value, example rounded to {bits} bits, K = {top_k} of {whole:,}",
                f"{exact - found:.2g} nat (stated bound {bound:.2g})",
                f"{exact:.4g} nat",
                (exact - found) / exact,
            )
        )
    return rows


def _mean(observation: Observation) -> float:
    return TOKENS.estimate(Metric("kld", statistic="mean"), observation, None).value
