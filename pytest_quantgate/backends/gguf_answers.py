"""Questions and prompts answered one after another by llama.cpp, those that begin alike next to each other.

llama.cpp keeps the keys and values of what it was fed: what a question shares with the one before is not fed again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from pytest_quantgate.backends.gguf_scores import chosen, drawn_for, log_softmax
from pytest_quantgate.interfaces import Completion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_quantgate.backends.gguf_engine import Engine
    from pytest_quantgate.backends.gguf_text import GgufTokenizer
    from pytest_quantgate.interfaces import Choices, Decoding, Progress, Prompt
    from pytest_quantgate.spec import FloatArray, IntArray

__all__ = ["completions", "likelihoods"]


@dataclass(slots=True)
class _Row:
    """Ids to feed, and what is read: after which position which token counts for which choice of a question."""

    ids: IntArray
    wanted: list[tuple[int, int, int, int]] = field(default_factory=list)


def likelihoods(engine: Engine, asked: Sequence[Choices], progress: Progress) -> list[FloatArray]:
    """Return for each question the log-probability (C,) of each choice; see `interfaces.Answering`."""
    rows: dict[bytes, _Row] = {}
    for question, one in enumerate(asked):
        begin = len(one.context) - 1
        for choice, ids in enumerate(one.continuations):
            fed = np.concatenate([one.context, ids[:-1]]).astype(np.int64)
            row = rows.setdefault(fed.tobytes(), _Row(fed))  # choices of one token share a row
            row.wanted += [(begin + at, int(token), question, choice) for at, token in enumerate(ids)]
    sums: list[FloatArray] = [np.zeros(len(one.continuations)) for one in asked]
    ordered = sorted(rows.values(), key=lambda row: _key(row.ids))
    engine.reserve(max((len(row.ids) for row in ordered), default=0))
    for done, row in enumerate(ordered, 1):
        _add(engine, row, sums)
        progress(done, len(ordered))
    return [np.asarray(one, dtype=np.float64) for one in sums]


def _key(ids: IntArray) -> bytes:
    return ids.astype(">u4").tobytes()


def _add(engine: Engine, row: _Row, sums: list[FloatArray]) -> None:
    first = min(place for place, *_ in row.wanted)
    at = first
    for chunk in engine.logits(row.ids, first, reuse=True):
        for logits in chunk:
            here = [one for one in row.wanted if one[0] == at]
            logs = log_softmax(logits) if here else logits
            for _, token, question, choice in here:
                sums[question][choice] += logs[token]
            at += 1


def completions(
    engine: Engine,
    tokenizer: GgufTokenizer,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    progress: Progress,
) -> list[Completion]:
    """Return the answer to each prompt, in order; see `interfaces.Answering`."""
    ends = tokenizer.ends | {
        found for stop in decoding.stops if (found := tokenizer.control(stop)) is not None
    }
    answers: dict[int, Completion] = {}
    order = sorted(range(len(prompts)), key=lambda index: _key(prompts[index].ids))
    engine.reserve(max((len(prompt.ids) for prompt in prompts), default=0) + decoding.new_tokens)
    for done, index in enumerate(order, 1):
        answers[index] = _complete(engine, tokenizer, prompts[index], decoding, ends)
        progress(done, len(prompts))
    return [answers[index] for index in range(len(prompts))]


def _complete(
    engine: Engine, tokenizer: GgufTokenizer, prompt: Prompt, decoding: Decoding, ends: frozenset[int]
) -> Completion:
    ids, tokens = np.asarray(prompt.ids, dtype=np.int64), list[int]()
    drawn = drawn_for(prompt, decoding)
    ended: Literal["stop", "end", "length"] = "length"
    span = max((len(stop.encode()) for stop in decoding.stops), default=0) + 2  # a token is a byte at least
    while len(tokens) < decoding.new_tokens:
        (logits,) = engine.logits(ids, len(ids) - 1, reuse=True)
        tokens.append(chosen(logits[0], float(drawn[len(tokens)]) if decoding.temperature else 0.0, decoding))
        ids = np.append(ids, tokens[-1])
        if tokens[-1] in ends:
            ended = "end"
            break
        if _stops(tokenizer.decode(tokens[-span:]), decoding) and _stops(_text(tokenizer, tokens), decoding):
            ended = "stop"
            break
    text = _text(tokenizer, tokens)
    cuts = [text.index(stop) for stop in decoding.stops if stop in text]
    return Completion(text[: min(cuts)] if cuts else text, len(tokens), ended)


def _stops(text: str, decoding: Decoding) -> bool:
    return any(stop in text for stop in decoding.stops)


def _text(tokenizer: GgufTokenizer, tokens: Sequence[int]) -> str:
    return tokenizer.decode(tokens, special=False)
