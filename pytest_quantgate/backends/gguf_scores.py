"""What is read off logits with numpy alone: log-probabilities, the largest, the smallest, the next token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pytest_quantgate.errors import ObservationError
from pytest_quantgate.interfaces import TokenScores

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from pytest_quantgate.interfaces import Decoding, Prompt
    from pytest_quantgate.spec import IntArray

    Logits = NDArray[np.float32]

__all__ = ["chosen", "drawn_for", "log_softmax", "token_scores"]

ROWS: Final = 32  # looked at together: a copy of their logits lies in the processor's cache
NOT_FINITE: Final = "the logits are not finite: look for NaN weights or a dtype that overflows"


def token_scores(
    chunks: Iterable[Logits], targets: IntArray, top_k: int, asked: IntArray | None
) -> TokenScores:
    """Read a window off its logits.

    Args:
        chunks: (P, vocabulary) each, S rows in all.
        targets: (S,) the tokens that are there.
        top_k: how many ids of each row to read.
        asked: (S, K) the ids to read instead.

    Raises:
        ObservationError: a logit is NaN or infinite.

    """
    parts: list[TokenScores] = []
    done = 0
    for chunk in chunks:
        for begin in range(0, len(chunk), ROWS):
            rows = chunk[begin : begin + ROWS]
            here = slice(done, done + len(rows))
            parts.append(_read(rows, targets[here], top_k, None if asked is None else asked[here]))
            done += len(rows)
    columns = ("logprob", "top1", "ids", "at", "floor")
    return TokenScores(*(np.concatenate([getattr(part, column) for part in parts]) for column in columns))


def _read(rows: Logits, targets: IntArray, top_k: int, asked: IntArray | None) -> TokenScores:
    with np.errstate(invalid="ignore"):  # infinity less infinity is told below
        shifted = rows - rows.max(-1, keepdims=True)  # first, since near zero float32 is at its finest
        total = np.log(np.exp(shifted).sum(-1, keepdims=True))
        floor = shifted.min(-1) - total[:, 0]
    if not np.isfinite(floor).all():
        raise ObservationError(NOT_FINITE)
    ids = _largest(rows, top_k) if asked is None else asked.astype(np.int64)
    at = np.take_along_axis(shifted, ids, -1) - total
    there = np.take_along_axis(shifted, targets[:, None], -1) - total
    return TokenScores(there[:, 0], rows.argmax(-1).astype(np.int64), ids, at, floor)


def _largest(rows: Logits, count: int) -> IntArray:
    """Return the columns of the `count` largest logits of each row (P, K), largest first."""
    width = rows.shape[1]
    count = min(count, width)
    if count in (0, width):
        found = np.broadcast_to(np.arange(count), (len(rows), count))
    else:
        found = np.argpartition(rows, width - count, axis=-1)[:, width - count :]
    order = np.argsort(-np.take_along_axis(rows, found, -1), axis=-1, kind="stable")
    return np.take_along_axis(found, order, -1).astype(np.int64)


def log_softmax(row: Logits) -> NDArray[np.float64]:
    """Return the log-probabilities of one row of logits (vocabulary,).

    Raises:
        ObservationError: a logit is NaN or infinite.

    """
    wide = row.astype(np.float64)
    with np.errstate(invalid="ignore"):
        wide -= wide.max()
    if not np.isfinite(wide).all():
        raise ObservationError(NOT_FINITE)
    wide -= np.log(np.exp(wide).sum())
    return wide


def drawn_for(prompt: Prompt, decoding: Decoding) -> NDArray[np.float64]:
    """Return the random numbers of an answer, the same as any other backend draws; none for a greedy one."""
    count = decoding.new_tokens if decoding.temperature else 0
    return np.random.default_rng([decoding.seed, prompt.stream]).random(count)


def chosen(row: Logits, drawn: float, decoding: Decoding) -> int:
    """Return the next token of one row of logits (vocabulary,): the most probable, or one from the nucleus.

    Raises:
        ObservationError: a logit is NaN.

    """
    if np.isnan(row).any():
        raise ObservationError(NOT_FINITE)
    if not decoding.temperature:
        return int(row.argmax())
    chances = np.exp(log_softmax(row / np.float32(decoding.temperature)))
    order = np.argsort(-chances, kind="stable")
    sorted_chances = chances[order]
    before = np.cumsum(sorted_chances) - sorted_chances
    kept = np.where(before >= decoding.top_p, 0.0, sorted_chances)
    reached = np.cumsum(kept / kept.sum())
    return int(order[min(int(np.searchsorted(reached, drawn)), len(order) - 1)])
