"""Suspicions about a recipe: groups, order, symmetry, bits, what it was calibrated on. Pure: facts in, findings out.

Weights say how much speaks for a cause, on one scale for all. They were set on the example project's model, where each
was changed alone (perplexity 2.18 unquantized; all 4-bit GPTQ, rise of the perplexity):

    groups of 128 for 32    0.35 for 0.19      another domain     0.25 for 0.19 (with groups of 128: 0.47 for 0.35)
    1, 4, 16, 128 samples   0.41 0.33 0.25 0.21    cut to 16 tokens  0.28 for 0.21
    asymmetric              0.12 for 0.21      desc_act           0.21 for 0.19, and 0.37 for 0.35: nothing gained
    3 bits, 2 bits          3.94 and 472 for 0.21
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_quantgate.report.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_quantgate.explain.facts import Facts, Shape
    from pytest_quantgate.scheme import Scheme

__all__ = ["suspicions"]

SOLVERS = frozenset({"gptq", "compressed-tensors", "autoround"})
GROUPED = frozenset({"gptq", "awq", "autoround", "compressed-tensors", "torchao", "hqq"})
FOUR, THREE, TWO = 4, 3, 2
SMALL = 3_000_000_000
FAR = 0.4  # bits between two texts; see `calibration`
FEW, SOME = 16, 64
SHORT = 64

STUDY = "the four-way study of Qwen2.5-1.5B-Instruct"
COURSE = "the course page on quality trade-offs"
ALGORITHM = "the course page on the GPTQ algorithm"
PUBLISHED_TOKENS = 128 * 2048


def suspicions(facts: Facts) -> Iterator[Finding]:
    """Yield what in a recipe, or in the configuration of a checkpoint, may be to blame."""
    scheme = facts.scheme
    if scheme is None:
        return
    small = facts.shape is not None and facts.shape.parameters < SMALL
    yield from _bits(facts.variant, scheme, small=small)
    if 0 < scheme.bits <= FOUR:
        yield from _groups(facts.variant, scheme, facts.shape)
        yield from _order(facts.variant, scheme)
        yield from _symmetry(facts.variant, scheme)
        yield from _calibration(facts, scheme)
    yield from _ends(facts, scheme)
    yield from _templates(facts)


def _bits(variant: str, scheme: Scheme, *, small: bool) -> Iterator[Finding]:
    if not 0 < scheme.bits <= THREE:
        return
    quoted = "3-bit requires careful tuning and often underperforms, 2-bit is generally unusable"
    yield Finding(
        variant,
        "recipe",
        f"{scheme.bits} bits are few{', the more so for a small model' if small else ''}",
        f"{ALGORITHM}: {quoted}; the GPTQ authors' LLaMA-7B goes from 5.68 to 6.09 with 4 bits and 8.07 with 3",
        "take 4 bits, or smaller groups and no symmetry",
        {TWO: 0.95, THREE: 0.85}.get(scheme.bits, 0.95) - (0.2 if scheme.method == "gguf" else 0.0),
        "bits",
    )


def _groups(variant: str, scheme: Scheme, shape: Shape | None) -> Iterator[Finding]:
    """Suspect groups that are coarse for the size of the model: one scale for many weights."""
    size = scheme.group_size
    if size is None or scheme.method not in GROUPED:
        return
    whole = size <= 0 or (shape is not None and size >= shape.narrowest)
    small = shape is not None and shape.parameters < SMALL
    coarse = whole or size >= 256 or (small and size >= 128)  # noqa: PLR2004  the sizes that sources speak of
    finer = _finer(size, shape)
    if not coarse or not finer:
        return
    of = f"a model of {_count(shape.parameters)} parameters" if shape else "this model"
    row = (
        f", no less than its narrowest layer is wide ({shape.narrowest})"
        if shape and whole and size > 0
        else ""
    )
    yield Finding(
        variant,
        "recipe",
        f"{'one scale per row' if size <= 0 else f'group_size = {size}'} is coarse for {of}{row}",
        f"{STUDY}: 128 is too coarse for 1.5 B; {COURSE} disagrees: 128 is favorable for most uses;"
        " the smaller the model, the more it costs",
        f"try group_size = {' or '.join(map(str, finer))}",
        0.5 + (0.2 if small else 0.0) + (0.05 if whole else 0.0),
        "group_size",
    )


def _finer(size: int, shape: Shape | None) -> list[int]:
    """Return the usual group sizes that are finer, and fit every layer."""
    tried = [group for group in (64, 32) if size <= 0 or group < size]
    return [
        group for group in tried if shape is None or (group < shape.narrowest and not shape.narrowest % group)
    ]


def _order(variant: str, scheme: Scheme) -> Iterator[Finding]:
    if scheme.method != "gptq" or scheme.says("desc_act") is not False or scheme.says("act_group_aware"):
        return
    yield Finding(
        variant,
        "recipe",
        "desc_act = false: the columns that matter most are not quantized first",
        f"{STUDY} calls it a root cause, {COURSE} says 1 to 3 points of perplexity, {ALGORITHM} 1 to 2: they do not"
        " agree how much; GPTQ's authors: 7.15 to 6.09 on LLaMA-7B, slight elsewhere",
        "try desc_act = true, or act_group_aware = true, which costs no speed",
        0.4 if scheme.bits == FOUR else 0.45,
        "desc_act",
    )


def _symmetry(variant: str, scheme: Scheme) -> Iterator[Finding]:
    symmetric = scheme.says("sym") or scheme.says("zero_point") is False
    if not symmetric:
        return
    key = "zero_point = true" if scheme.method == "awq" else "sym = false"
    weight = 0.5 if scheme.bits <= THREE else (0.35 if scheme.method == "awq" else 0.25)
    yield Finding(
        variant,
        "recipe",
        f"symmetric at {scheme.bits} bits: the range of each group is centered on zero, and a level is lost",
        "GPTQ (Frantar et al. 2022) is published with an asymmetric grid, the code of AWQ's authors uses zero points",
        f"try {key}, if the kernels you deploy on take it",
        weight,
        "sym",
    )


# --- calibration


def _calibration(facts: Facts, scheme: Scheme) -> Iterator[Finding]:
    if facts.calibration is None:
        return
    yield from _domain(facts, scheme)
    yield from _raw_text(facts)
    yield from _amount(facts, scheme)
    yield from _length(facts)
    yield from _foreign_markers(facts)


def _domain(facts: Facts, scheme: Scheme) -> Iterator[Finding]:
    away, read = facts.distance, facts.calibration
    if away is None or read is None or away < FAR:
        return
    robust = scheme.method == "awq"
    yield Finding(
        facts.variant,
        "recipe",
        f"calibrated on another kind of text: {read.name} is {away:.2f} bits from {facts.corpus} (0 alike, 1 nothing"
        " in common)",
        "AWQ (Lin et al. 2023): another domain costs GPTQ 2.3 to 4.9 points of perplexity, AWQ 0.5 to 0.6;"
        f" {STUDY}, {COURSE}",
        "calibrate on samples of what the model is for",
        0.4 + 0.5 * (away - FAR) - (0.15 if robust else 0.0),
        "calibration_domain",
    )


def _raw_text(facts: Facts) -> Iterator[Finding]:
    read, shape = facts.calibration, facts.shape
    if read is None or shape is None or not shape.has_chat_template or read.kind == "conversations":
        return
    yield Finding(
        facts.variant,
        "recipe",
        f"the model converses (it has a chat template), and {read.name} holds plain text",
        f"{ALGORITHM}: use instruction-response pairs rather than raw web text; {STUDY}",
        'calibrate on conversations: {"messages": [...]} per line',
        0.35,
        "calibration_format",
    )


def _amount(facts: Facts, scheme: Scheme) -> Iterator[Finding]:
    """Suspect too little text: GPTQ's Hessian of n tokens has rank n at most, of as many rows as a layer has inputs."""
    read, shape = facts.calibration, facts.shape
    if read is None:
        return
    tokens = round(read.samples * _tokens_of_a_sample(facts))
    rank = tokens / shape.widest if shape and scheme.method in SOLVERS else 1e9
    by_rank = 0.7 if rank < 1 else 0.5 if rank < 4 else 0.35 if rank < 10 else 0.0  # noqa: PLR2004  steps of a scale
    by_count = 0.6 if read.samples < FEW else 0.4 if read.samples < SOME else 0.0
    weight = max(by_rank, by_count if scheme.method in SOLVERS else by_count / 2)
    if not weight:
        return
    layer = f" for layers of {shape.widest} inputs" if shape and by_rank else ""
    yield Finding(
        facts.variant,
        "recipe",
        f"calibrated on little: {read.samples} {'sample' if read.samples == 1 else 'samples'}, about {tokens} tokens"
        f"{layer}",
        f"GPTQ (Frantar et al. 2022) takes 128 samples, {PUBLISHED_TOKENS} tokens; {ALGORITHM}: 128 to 512 samples",
        "give 128 samples or more, or longer ones",
        weight,
        "calibration_samples",
    )


def _tokens_of_a_sample(facts: Facts) -> float:
    assert facts.calibration is not None
    whole = facts.calibration.middle / facts.bytes_per_token
    limit = facts.recipe.get("max_length", 0) if facts.recipe else 0
    return min(whole, float(limit)) if limit else whole


def _length(facts: Facts) -> Iterator[Finding]:
    read, recipe = facts.calibration, facts.recipe
    limit = int(recipe.get("max_length", 0)) if recipe else 0
    if read is None or not 0 < limit < 4 * SHORT or read.middle / facts.bytes_per_token < 1.5 * limit:
        return
    yield Finding(
        facts.variant,
        "recipe",
        f"calibration samples are cut to max_length = {limit} tokens, and are longer",
        "GPTQ (Frantar et al. 2022) takes 2048 tokens a sample; what comes later in a text is never seen",
        "raise max_length",
        0.55 if limit < SHORT else 0.35,
        "calibration_length",
    )


def _foreign_markers(facts: Facts) -> Iterator[Finding]:
    read, shape = facts.calibration, facts.shape
    foreign = [mark for mark in read.markers if shape and mark not in shape.template] if read else []
    if not read or not foreign:
        return
    yield Finding(
        facts.variant,
        "recipe",
        f"{read.name} is written in another chat template: it has {foreign[0]}, the model's template has not",
        f"{ALGORITHM}: samples are to be of the model's own training distribution",
        'give {"messages": [...]}, which go through the model\'s own template',
        0.5,
        "chat_template",
    )


# --- the checkpoint


def _ends(facts: Facts, scheme: Scheme) -> Iterator[Finding]:
    said = ("lm_head",) if scheme.says("lm_head") else ()
    ends = tuple(dict.fromkeys((*facts.packed_ends, *said)))
    if not ends or scheme.method == "gguf":
        return
    yield Finding(
        facts.variant,
        "recipe",
        f"{' and '.join(ends)} {'is' if len(ends) == 1 else 'are'} quantized as well",
        "GPTQ (Frantar et al. 2022) and AWQ (Lin et al. 2023) leave head and embedding alone",
        "leave them in 16 bits",
        0.5 if 0 < scheme.bits <= FOUR else 0.2,
        "lm_head",
    )


def _templates(facts: Facts) -> Iterator[Finding]:
    if facts.shape is None or facts.template is None or facts.template == facts.shape.template:
        return
    how = "has no chat template, the baseline has one" if not facts.template else "has another chat template"
    yield Finding(
        facts.variant,
        "recipe",
        f"the checkpoint {how}{'' if not facts.template else ' than the baseline'}",
        "the files of both folders",
        "copy the baseline's chat template and tokenizer files; conversations and chat tasks depend on it",
        0.45,
        "chat_template",
    )


def _count(number: int) -> str:
    for size, letter in ((10**9, " B"), (10**6, " M"), (10**3, " k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)
