"""What lies beside the weights and decides as much: tokenizer, chat template, the numbers of the configuration.

Both folders are read as JSON; nothing is loaded. Two tokenizers are compared by meaning, part by part, since saving one
again reorders its file without changing an id.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_quantgate.checkpoint.folder import read_json
from pytest_quantgate.errors import QuantgateError
from pytest_quantgate.report.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["differing"]

LIMIT: Final = 96 << 20
TEMPLATE: Final = "chat_template"
PARTS: Final = ("model", "normalizer", "pre_tokenizer", "post_processor", "added_tokens")
TOKENIZER: Final = 0.9
NUMBERS: Final = 0.92
DECIDING: Final = (
    "hidden_act", "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers",
    "num_key_value_heads", "rms_norm_eps", "layer_norm_eps", "rope_theta", "rope_parameters", "rope_scaling",
    "sliding_window", "use_sliding_window", "tie_word_embeddings", "head_dim", "final_logit_softcapping",
)  # fmt: skip
"""Keys of config.json that change what the same weights compute."""


def differing(variant: str, ours: Path, theirs: Path) -> tuple[Finding, ...]:
    """Return in what the folder of a variant differs from the baseline's, beside the weights; a file has no such."""
    if not ours.is_dir():
        return ()
    return (
        *_tokenizers(variant, ours, theirs),
        *_templates(variant, ours, theirs),
        *_numbers(variant, ours, theirs),
    )


def _tokenizers(variant: str, ours: Path, theirs: Path) -> Iterator[Finding]:
    one, other = _json(ours, "tokenizer.json"), _json(theirs, "tokenizer.json")
    if not one or not other:
        return
    parts = [part for part in PARTS if one.get(part) != other.get(part)]
    if parts:
        text = "its tokenizer is not the baseline's"
        evidence = f"tokenizer.json differs in {', '.join(parts)}"
        advice = "copy the baseline's tokenizer files beside the weights"
        yield Finding(variant, "what", text, evidence, advice, TOKENIZER, "tokenizer")


def _templates(variant: str, ours: Path, theirs: Path) -> Iterator[Finding]:
    one, other = _template(ours), _template(theirs)
    if one == other:
        return
    text = (
        "its chat template is not the baseline's"
        if one
        else "it has no chat template, and the baseline has one"
    )
    evidence = f"{len(one)} characters for the baseline's {len(other)}"
    if one and other:
        place = next(
            (at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one)
        )
        evidence += f"; they part at {one[place : place + 24]!r} for {other[place : place + 24]!r}"
    advice = "copy chat_template.jinja of the baseline: tasks in chat form are asked another way"
    yield Finding(variant, "what", text, evidence, advice, 0.6, "chat_template")


def _template(folder: Path) -> str:
    file = folder / f"{TEMPLATE}.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    found = _json(folder, "tokenizer_config.json").get(TEMPLATE, "")
    return found if isinstance(found, str) else str(found)


def _numbers(variant: str, ours: Path, theirs: Path) -> Iterator[Finding]:
    one, other = _json(ours, "config.json"), _json(theirs, "config.json")
    wrong = [key for key in DECIDING if key in one and key in other and one[key] != other[key]]
    if not wrong:
        return
    said = [f"{key} is {one[key]}, the baseline's {other[key]}" for key in wrong]
    text = f"its configuration computes something else: {said[0]}"
    evidence = f"config.json: {'; '.join(said)}"[:300]
    advice = "take the baseline's config.json, with quantization_config added"
    yield Finding(variant, "what", text, evidence, advice, NUMBERS, "configuration")


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        found = read_json(folder, name, LIMIT)
    except QuantgateError:
        return {}
    return found if isinstance(found, dict) else {}
