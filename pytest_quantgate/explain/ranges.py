"""Suspicions from what a format usually costs: worse than it should be, or too good to be true. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_quantgate.expected import Usual, usual
from pytest_quantgate.report.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_quantgate.explain.facts import Facts
    from pytest_quantgate.spec import Estimate

__all__ = ["suspicions"]

SMALL = 1_000_000_000
FEW_BITS = 3
UNCHANGED = 1e-4


def suspicions(facts: Facts) -> Iterator[Finding]:
    """Yield whether a variant's perplexity is outside of what is usual for its format, if that is known."""
    if facts.ratio is None or facts.scheme is None:
        return
    known = usual(facts.scheme)
    if known is not None and (facts.ratio.low or facts.ratio.value) > known.high:
        yield _worse(facts, facts.ratio, known)
    elif _is_one(facts.ratio) and _is_suspect(facts):
        yield _better(facts, facts.ratio)


def _worse(facts: Facts, ratio: Estimate, known: Usual) -> Finding:
    assert facts.scheme is not None
    small = facts.shape is not None and facts.shape.parameters < SMALL
    caveat = (
        "; they are of models of a billion parameters and more, and a smaller one loses more" if small else ""
    )
    return Finding(
        facts.variant,
        "range",
        f"worse than its format usually is: ppl.ratio = {ratio.value:.4g}, {facts.scheme.title} usually {known.text}",
        f"{'; '.join(known.sources)}{caveat}",
        f"{'a model this small loses more than those' if small else 'the bits alone do not explain it'}: look at"
        " the recipe, then for a damaged layer",
        0.38,  # it names no cause: after those for which much speaks
        "worse_than_usual",
    )


def _better(facts: Facts, ratio: Estimate) -> Finding:
    assert facts.scheme is not None
    layers = facts.sanity.get("quantized_layers")
    seen = "no layer of the loaded model is quantized" if layers == 0 else f"{layers} layers are quantized"
    return Finding(
        facts.variant,
        "range",
        f"better than plausible for {facts.scheme.title}: ppl.ratio = {ratio.value:.6g}; is it really quantized?",
        f"the sanity check: {seen}" if layers is not None else "no format of so few bits is free",
        "compare the size on disk, and see that the folder holds the checkpoint that you mean",
        0.6,
        "implausibly_good",
    )


def _is_one(ratio: Estimate) -> bool:
    low = ratio.low if ratio.low is not None else ratio.value
    high = ratio.high if ratio.high is not None else ratio.value
    return low - UNCHANGED <= 1 <= high + UNCHANGED


def _is_suspect(facts: Facts) -> bool:
    """Eight and good four bits may cost nothing that is measurable; three never do, and nor does what is not there."""
    assert facts.scheme is not None
    return facts.sanity.get("quantized_layers") == 0 or 0 < facts.scheme.bits <= FEW_BITS
