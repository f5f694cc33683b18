"""Tokenizer, chat template and generation: there, sound, and within the vocabulary. Pure.

Of tokenizer.json only ids and special tokens are looked at; two checkpoints are compared in `compared`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_quantgate.lint.finding import Finding
from pytest_quantgate.lint.shapes import Shapes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_quantgate.lint.folder import Folder

__all__ = ["TOKENIZERS", "check_generation", "check_tokenizer"]

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")
_COPY = "copy the tokenizer's files from the baseline"
_SPECIAL = ("eos_token", "bos_token", "pad_token", "unk_token")


def check_tokenizer(folder: Folder) -> Iterator[Finding]:
    """Judge the tokenizer's files against each other and against the embedding."""
    present = [name for name in TOKENIZERS if name in folder.sizes]
    if not present:
        yield Finding("QG401", "", f"has no tokenizer (allowed: {', '.join(TOKENIZERS[:4])} …)", _COPY)
        return
    if "tokenizer_config.json" not in folder.sizes:
        yield Finding(
            "QG408", "", "has no tokenizer_config.json, which names class, special tokens and template", _COPY
        )
    if folder.template is None:
        yield Finding(
            "QG414", "", "has no chat template", "copy chat_template.jinja if the model is for chat"
        )
    if "tokenizer.json" in folder.sizes:
        yield from _vocabulary(folder)
    elif "vocab.json" in folder.sizes and "merges.txt" not in folder.sizes:
        yield Finding("QG408", "", "has vocab.json and neither tokenizer.json nor merges.txt", _COPY)


def _vocabulary(folder: Folder) -> Iterator[Finding]:
    ids = folder.ids
    if not ids:
        yield Finding("QG402", "tokenizer.json", "has no vocabulary that can be read", _COPY)
        return
    last, rows = max(ids.values()), _rows(folder)
    if rows is not None and last >= rows:
        token = next(token for token, number in ids.items() if number == last)
        text = f"has the id {last} ({token[:40]!a}; the embedding has {rows} rows, ids to {rows - 1})"
        yield Finding(
            "QG403", "tokenizer.json", text, "take the tokenizer and the weights from the same model"
        )
    for name, token in _special_tokens(folder):
        if token not in ids:
            text = f"names the {name} {token[:40]!a}, which tokenizer.json does not have"
            yield Finding("QG413", "tokenizer_config.json", text, _COPY)


def _special_tokens(folder: Folder) -> Iterator[tuple[str, str]]:
    config = folder.documents.get("tokenizer_config.json", {})
    for name in _SPECIAL:
        value = config.get(name)
        token = value.get("content") if isinstance(value, dict) else value
        if isinstance(token, str):
            yield name, token


def _rows(folder: Folder) -> int | None:
    for name, module in folder.modules.items():
        info = module.parts.get("weight")
        if info is not None and name.endswith(("embed_tokens", "wte", "embed_in")) and len(info.shape) == 2:  # noqa: PLR2004
            return info.shape[0]
    return Shapes(folder.text_config).vocabulary


def check_generation(folder: Folder) -> Iterator[Finding]:
    """Judge generation_config.json and the special ids."""
    generation = folder.documents.get("generation_config.json")
    if "generation_config.json" not in folder.sizes:
        text = "has no generation_config.json"
        yield Finding("QG409", "", text, "copy it from the baseline: it says when to stop and how to sample")
    rows = _rows(folder)
    sources = (("config.json", folder.text_config), ("generation_config.json", generation or {}))
    for file, config in sources:
        for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
            for number in _numbers(config.get(name)):
                # -1 is how some families write "none"
                if rows is not None and (number >= rows or number < -1):
                    text = f"says {name} {number} (allowed: 0 to {rows - 1})"
                    yield Finding("QG404", file, text, "correct the id")
    yield from _stops(folder, generation)


def _stops(folder: Folder, generation: Mapping[str, Any] | None) -> Iterator[Finding]:
    stated = _numbers(folder.text_config.get("eos_token_id"))
    stops = _numbers(generation.get("eos_token_id")) if generation else stated
    if not stops:
        return
    if stated and not set(stated) & set(stops):
        text = f"stops at {stops[:6]} (config.json says eos_token_id {stated[:6]})"
        yield Finding("QG411", "generation_config.json", text, "copy both files from the same model")
    token = dict(_special_tokens(folder)).get("eos_token")
    number = folder.ids.get(token) if token else None
    if number is not None and number not in stops:
        file = "generation_config.json" if generation else "config.json"
        text = f"stops at {stops[:6]} (the tokenizer's eos_token {token[:40]!a} is {number})" if token else ""
        yield Finding("QG411", file, text, f"add {number} to eos_token_id")


def _numbers(value: Any) -> list[int]:
    items = value if isinstance(value, list) else [value]
    return [item for item in items if type(item) is int]
