"""What a format usually costs: published ratios of perplexity to the unquantized model's, as data with sources.

`ppl.within_expected` sets a variant's own ratio r against the highest u that sources give for its format:

    (r - 1) / (u - 1)        0: nothing lost; 1: as much as the format costs at most; 2: twice that

so that `ppl.within_expected <= 1` reads as it is meant. It is a relation, since it compares with the baseline, and an
increasing function of `ppl.ratio`, so that the interval and the p-values of the ratio carry over as they are. What is
better than published is no fault: good 4-bit checkpoints often are.

Sources differ by up to a factor of ten for GGUF, and none is of a model below a billion parameters, which loses more.
A format that no source gives a ratio for has no range: the metric is then not measurable.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.stats import Scaled

if TYPE_CHECKING:
    from pytest_quantgate.gate import Metric
    from pytest_quantgate.scheme import Scheme
    from pytest_quantgate.spec import Estimate

__all__ = ["PUBLISHED", "WITHIN_EXPECTED", "Published", "Usual", "share", "usual"]

WITHIN_EXPECTED = "within_expected"

COURSE = 'a course page on quality trade-offs, "expected quality degradation"'
GPTQ_CODE = "the GPTQ authors' code (IST-DASLab/gptq), WikiText-2, LLaMA 7B to 65B"
HQQ = "Badri & Shaji 2023 (HQQ), WikiText-2, Llama-2 7B and 13B"
LLAMA_CPP = "llama.cpp's perplexity tool, WikiText-2, Llama 2 7B and Llama 3 8B"
LLAMA_70B = "llama.cpp's scorechart, WikiText-2, Llama 2 70B"


@dataclass(frozen=True, slots=True)
class Published:
    """What one source says of one format.

    Attributes:
        method: as in `Scheme`.
        bits: of a weight.
        low: lowest ratio of perplexities that the source gives.
        high: highest one.
        source: who says so.
        kind: the type within the method.

    """

    method: str
    bits: int
    low: float
    high: float
    source: str
    kind: str = ""


def _gguf(kind: str, low: float, high: float, source: str) -> Published:
    return Published("gguf", int(kind[1]), low, high, source, kind)


PUBLISHED = (
    Published("gptq", 8, 1.02, 1.05, COURSE),
    Published("gptq", 8, 1.00, 1.002, HQQ),
    Published("gptq", 4, 1.05, 1.10, COURSE),
    Published("gptq", 4, 1.053, 1.088, GPTQ_CODE),
    Published("gptq", 4, 1.022, 1.039, HQQ),
    Published("gptq", 3, 1.104, 1.181, GPTQ_CODE),
    Published("awq", 4, 1.04, 1.08, COURSE),
    Published("awq", 4, 1.015, 1.019, HQQ),
    # a checkpoint of this kind does not say which of the two made it
    Published("compressed-tensors", 4, 1.04, 1.10, COURSE, "W4A16"),
    Published("compressed-tensors", 8, 1.02, 1.05, COURSE, "W8A16"),
    Published("bitsandbytes", 8, 1.008, 1.009, HQQ),
    # the source does not say which of the two it is; nf4 is the better one
    Published("bitsandbytes", 4, 1.035, 1.048, HQQ, "nf4"),
    _gguf("Q8_0", 1.03, 1.06, COURSE),
    _gguf("Q8_0", 1.0004, 1.0007, LLAMA_CPP),
    _gguf("Q6_K", 1.0024, 1.0035, LLAMA_CPP),
    _gguf("Q5_K_M", 1.004, 1.004, LLAMA_70B),
    _gguf("Q5_K_M", 1.009, 1.009, LLAMA_CPP),
    _gguf("Q5_K_S", 1.005, 1.005, LLAMA_70B),
    _gguf("Q5_K_S", 1.017, 1.017, LLAMA_CPP),
    _gguf("Q4_K_M", 1.05, 1.12, COURSE),
    _gguf("Q4_K_M", 1.014, 1.028, LLAMA_CPP),
    _gguf("Q4_K_S", 1.016, 1.016, LLAMA_70B),
    _gguf("Q4_K_S", 1.043, 1.043, LLAMA_CPP),
    _gguf("Q4_0", 1.036, 1.036, LLAMA_70B),
    _gguf("Q4_0", 1.075, 1.075, LLAMA_CPP),
    _gguf("Q3_K_L", 1.038, 1.038, LLAMA_70B),
    _gguf("Q3_K_L", 1.089, 1.089, LLAMA_CPP),
    _gguf("Q3_K_M", 1.10, 1.20, COURSE),
    _gguf("Q3_K_M", 1.105, 1.105, LLAMA_CPP),
    _gguf("Q3_K_S", 1.079, 1.079, LLAMA_70B),
    _gguf("Q3_K_S", 1.262, 1.262, LLAMA_CPP),
    # the first says "1.30+"; the second is what that plus came to
    _gguf("Q2_K", 1.15, 1.30, COURSE),
    _gguf("Q2_K", 1.108, 1.565, LLAMA_CPP),
)


@dataclass(frozen=True, slots=True)
class Usual:
    """What a format usually costs: the union of what its sources say.

    Attributes:
        low: lowest published ratio of perplexities.
        high: highest one, above 1.
        sources: who says so, in order.

    """

    low: float
    high: float
    sources: tuple[str, ...]

    @property
    def text(self) -> str:
        """The range in words: "1.02 to 1.1"."""
        return f"{self.low:.4g} to {self.high:.4g}"


def usual(scheme: Scheme | None) -> Usual | None:
    """Return what a format usually costs; None where no source says so."""
    if scheme is None:
        return None
    rows = [
        row
        for row in PUBLISHED
        if (row.method, row.kind, row.bits) == (scheme.method, scheme.kind, scheme.bits)
    ]
    if not rows:
        return None
    sources = tuple(dict.fromkeys(row.source for row in rows))
    return Usual(min(row.low for row in rows), max(row.high for row in rows), sources)


def share(metric: Metric, ratio: Estimate, scheme: Scheme | None) -> Estimate:
    """Return how much of what its format usually costs at most a variant costs.

    Args:
        metric: `ppl.within_expected`, for messages.
        ratio: the variant's `ppl.ratio`.
        scheme: the variant's format.

    Raises:
        NotMeasurableError: the format is not known, or no source gives a range for it.

    """
    if scheme is None:
        raise NotMeasurableError(
            f"{metric}: neither a recipe nor config.json says what the format is; gate ppl.ratio itself"
        )
    known = usual(scheme)
    if known is None:
        raise NotMeasurableError(
            f"{metric}: no source gives a range for {scheme.title}; gate ppl.ratio itself"
        )
    room = known.high - 1
    return replace(
        ratio,
        value=(ratio.value - 1) / room,
        low=None if ratio.low is None else (ratio.low - 1) / room,
        high=None if ratio.high is None else (ratio.high - 1) / room,
        unpaired=None,
        sampling=None if ratio.sampling is None else Scaled(ratio.sampling, zero=1.0, by=room),
        note=f"ppl.ratio = {ratio.value:.4g}; {scheme.title} usually {known.text}",
    )
