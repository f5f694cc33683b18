"""A tokenizer of transformers as the vocabulary of a GGUF file.

What counts is the tokenizer that transformers builds, not the files: for some model types it replaces the file's
pre-tokenizer. llama.cpp does not run a pre-tokenizer's expressions but knows some by name, so the name is looked up by
the expression; the converted file's ids are compared with the tokenizer's own before it is used (`gguf`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import gguf

from pytest_quantgate.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["add_vocabulary"]

_TAIL: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED: Final = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
)
_SHORT: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
EXPRESSIONS: Final = {
    rf"{_SHORT}|\p{{N}}|{_TAIL}": "qwen2",
    rf"{_SHORT}|\p{{N}}{{1,3}}|{_TAIL}": "llama-bpe",
    rf"{_CASED}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+": "tekken",
}
"""What llama.cpp (src/llama-vocab.cpp) calls the expressions that tokenizers split by."""

WORD_START: Final = "\u2581"
NO_SCORE: Final = -1e6


def add_vocabulary(writer: gguf.GGUFWriter, config: Any, tokenizer: Any, folder: Path) -> None:
    """Write tokens, merges, special tokens and the chat template.

    Raises:
        ConfigError: the tokenizer is of no kind that llama.cpp has, or this cannot tell which.

    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(f"method gguf cannot convert the tokenizer of {folder}: it has no tokenizer.json")
    settings = json.loads(backend.to_str())
    model = settings["model"]
    if model["type"] != "BPE":
        raise ConfigError(
            f"method gguf cannot convert the tokenizer of {folder}: {model['type']}, only BPE is known"
        )
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    tokens, types = _tokens(settings, config.vocab_size, tokenizer.unk_token_id)
    if _is_pieces(settings):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(tokens, merges))
        writer.add_add_space_prefix(_prefixes_space(settings))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_pre_tokenizer(settings, folder))
        writer.add_token_merges(merges)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    _add_special(writer, tokenizer)


def _tokens(settings: Mapping[str, Any], size: int, unknown: int | None) -> tuple[list[str], list[int]]:
    """Return the text and the type of each id below `size`."""
    kinds = gguf.TokenType
    tokens = [f"[PAD{number}]" for number in range(size)]
    types: list[int] = [kinds.UNUSED] * size
    pieces = _is_pieces(settings)
    for text, number in settings["model"]["vocab"].items():
        is_byte = pieces and len(text) == len("<0x00>") and text.startswith("<0x") and text.endswith(">")
        tokens[number], types[number] = text, kinds.BYTE if is_byte else kinds.NORMAL
    for added in settings["added_tokens"]:
        text = added["content"].replace(WORD_START, " ") if pieces else added["content"]
        tokens[added["id"]] = text
        types[added["id"]] = kinds.CONTROL if added["special"] else kinds.USER_DEFINED
    if pieces and unknown is not None:
        types[unknown] = kinds.UNKNOWN
    return tokens, types


def _is_pieces(settings: Mapping[str, Any]) -> bool:
    """Return whether it works on characters, as SentencePiece does, and not on bytes."""
    return bool(settings["model"].get("byte_fallback"))


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """Return what stands for the order of the merges: the piece that is made first has the highest score."""
    first: dict[str, float] = {}
    for rank, merge in enumerate(merges):
        first.setdefault(merge.replace(" ", "", 1), -float(rank))
    return [first.get(token, NO_SCORE) for token in tokens]


def _prefixes_space(settings: Mapping[str, Any]) -> bool:
    """Return whether a text is read as if a blank stood before it."""
    steps = [step for step in (settings.get("normalizer"), settings.get("pre_tokenizer")) if step]
    flat = [inner for step in steps for inner in step.get("normalizers", step.get("pretokenizers", [step]))]
    return any(
        step["type"] == "Prepend"
        or (step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never")
        for step in flat
    )


def _pre_tokenizer(settings: Mapping[str, Any], folder: Path) -> str:
    found = settings.get("pre_tokenizer") or {}
    steps = found.get("pretokenizers", [found])
    expressions = [step["pattern"].get("Regex") for step in steps if step.get("type") == "Split"]
    kinds = [step.get("type") for step in steps]
    if len(expressions) == 1 and expressions[0] in EXPRESSIONS:
        return EXPRESSIONS[expressions[0]]
    by_rule = any(step.get("type") == "ByteLevel" and step.get("use_regex", True) for step in steps)
    if by_rule and kinds == ["ByteLevel"]:
        return "gpt-2"
    if by_rule and kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"]:
        return "smollm"
    raise ConfigError(
        f"method gguf cannot convert the tokenizer of {folder}: no name in llama.cpp is known for its pre-tokenizer"
        f" ({json.dumps(found, ensure_ascii=False)[:160]}); known: gpt-2, smollm, {', '.join(EXPRESSIONS.values())}"
    )


def _add_special(writer: gguf.GGUFWriter, tokenizer: Any) -> None:
    for name, add in (
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("unk", writer.add_unk_token_id),
        ("pad", writer.add_pad_token_id),
    ):
        number = getattr(tokenizer, f"{name}_token_id", None)
        if number is not None:
            add(number)
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(bool(ids) and ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(bool(ids) and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if isinstance(template, str):
        writer.add_chat_template(template)
