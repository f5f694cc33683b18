"""The ids of a tokenizer.json, of whatever kind its model is. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ids_of"]


def ids_of(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Return the ids of tokenizer.json by token: of its model and those that were added."""
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        sound = set(map(type, vocabulary.values())) <= {int}
        ids = dict(vocabulary) if sound else {k: v for k, v in vocabulary.items() if type(v) is int}
    elif isinstance(vocabulary, list):
        # unigram: pairs of token and score, the id is the position
        ids = {
            str(pair[0]): place for place, pair in enumerate(vocabulary) if isinstance(pair, list) and pair
        }
    else:
        ids = {}
    added = tokenizer.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and isinstance(token.get("content"), str) and type(token.get("id")) is int:
            ids[token["content"]] = token["id"]
    return ids
