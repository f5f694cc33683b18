"""Why a variant is as bad as it is: suspicions from what is known already; nothing is loaded or measured for them.

`facts` looks up what is known, each of `recipe`, `ranges` and `trouble` draws its findings from that, and the paragraph
under a failing gate is made of the likeliest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_quantgate.explain import ranges, recipe, trouble
from pytest_quantgate.explain.facts import Facts, gather
from pytest_quantgate.parse import parse_metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_quantgate.measurements import Measurements
    from pytest_quantgate.report.findings import Finding
    from pytest_quantgate.verdict import Verdict

__all__ = ["SHOWN", "Facts", "findings", "from_facts", "paragraph", "ranked", "relevant", "why"]

SHOWN = 0.3
"""Findings of less weight accuse nobody."""

MOST = 3
SPEED = frozenset({"tokens_per_second", "ttft", "token_latency", "load_time"})
SIZE = frozenset({"disk", "weights_memory", "bits_per_weight", "vram", "ram"})
_OF_SPEED = frozenset({"slower", "import", "memory"})
_OF_SIZE = frozenset({"not_quantized", "wrong_checkpoint", "implausibly_good", "import", "memory"})


def findings(measured: Measurements, variant: str) -> tuple[Finding, ...]:
    """Return what may have gone wrong with a variant, likeliest first; empty where nothing speaks against it.

    Never raises: an explanation must not hide the verdict that it explains.
    """
    try:
        return from_facts(gather(measured, variant))
    except Exception:  # noqa: BLE001  see above
        return ()


def from_facts(facts: Facts) -> tuple[Finding, ...]:
    """Return the findings that facts give, likeliest first."""
    found = [*trouble.suspicions(facts), *recipe.suspicions(facts), *ranges.suspicions(facts)]
    return ranked(found)


def ranked(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings by falling weight: each cause once, and none that is too light."""
    ordered = sorted(found, key=lambda one: -one.weight)
    first = {(one.variant, one.cause or one.text): one for one in reversed(ordered)}
    return tuple(
        one for one in ordered if one is first[one.variant, one.cause or one.text] and one.weight >= SHOWN
    )


def why(measured: Measurements, variant: str, verdicts: Iterable[Verdict]) -> tuple[Finding, ...]:
    """Return the findings that may explain these verdicts, likeliest first; never raises."""
    try:
        missed = [check for verdict in verdicts if not verdict.passed for check in verdict.decisive()]
        judged = [parse_metric(check.metric).name for check in missed if check.estimate is not None]
        found = findings(measured, variant)
        causes = relevant(found, judged)
        # what was not measured accuses no recipe: only what keeps a model from being measured
        keeps = [one for one in found if one.kind == "trouble" and one.cause != "slower"]
        blamed = [*causes, *(keeps if len(judged) < len(missed) else ())]
        return tuple(one for one in found if one in blamed)
    except Exception:  # noqa: BLE001  an explanation must not hide what it explains
        return ()


def relevant(found: Iterable[Finding], metrics: Iterable[str]) -> tuple[Finding, ...]:
    """Return the findings that may explain why gates on these metrics (their bare names) failed."""
    kinds = {"speed" if name in SPEED else "size" if name in SIZE else "quality" for name in metrics}
    return tuple(
        one
        for one in found
        if ("quality" in kinds and one.cause != "slower")
        or ("speed" in kinds and one.cause in _OF_SPEED)
        or ("size" in kinds and one.cause in _OF_SIZE)
    )


def paragraph(found: Sequence[Finding]) -> str:
    """Return what to put under failing gates: the likeliest findings, a line each; empty where there is none."""
    # what is usual comes last, since it names no cause
    causes = [one for one in found if one.kind != "range"][:MOST]
    usual = [one for one in found if one.kind == "range"][:1]
    lines = [f"  {one.brief()}" for one in (*causes, *usual)]
    return (
        "\n".join(["why (likeliest first; quantgate explain says what this rests on):", *lines])
        if lines
        else ""
    )
