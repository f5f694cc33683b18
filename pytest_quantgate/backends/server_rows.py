"""What a server tells of the tokens of a window, checked, and as the scores of one.

A server tells the log-probability of the token that is there, and those of its N most probable ones. So an id that is
asked for may be missing: its place holds NaN, and so does the smallest log-probability of the vocabulary, unless the
whole vocabulary was told. What that costs a divergence is the metric's matter; nothing is filled in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.errors import ObservationError
from pytest_quantgate.interfaces import TokenScores

if TYPE_CHECKING:
    from pytest_quantgate.spec import IntArray

__all__ = ["NOBODY", "Row", "checked", "to_scores"]

NOBODY = -1
"""The most probable token, where the server's list does not say which it is: it agrees with none."""

PLACEHOLDER = -9000.0
"""vLLM writes -9999 for minus infinity, which JSON cannot hold."""
ROUNDING = 2e-2  # of probabilities in bfloat16


@dataclass(frozen=True, slots=True)
class Row:
    """One scored token.

    Attributes:
        logprob: of the token that is there.
        top1: the most probable token, or `NOBODY`.
        top: log-probabilities by id, of as many as were told.
        floor: the smallest of the whole vocabulary; NaN where that was not told.

    """

    logprob: float
    top1: int
    top: Mapping[int, float]
    floor: float = math.nan


def checked(rows: Sequence[Row], expected: int, place: str) -> Sequence[Row]:
    """Return the rows if they are as many as tokens were to be scored, and hold log-probabilities.

    Raises:
        ObservationError: they do not.

    """
    if len(rows) != expected:
        raise ObservationError(
            f"{place}: {len(rows)} log-probabilities for {expected} tokens: the server cuts them off, or saw"
            " another prompt"
        )
    for number, row in enumerate(rows):
        wrong = _wrong(row)
        if wrong:
            raise ObservationError(f"{place}: {wrong} at scored token {number}")
    return rows


def _wrong(row: Row) -> str:
    """Return what is wrong with a row; empty for a sound one."""
    if not math.isfinite(row.logprob) or row.logprob < PLACEHOLDER:
        return f"a log-probability of {row.logprob:g}: look for NaN weights, or sampling filters before the log-softmax"
    if row.logprob > ROUNDING or any(value > ROUNDING for value in row.top.values()):
        return "a positive log-probability: the server tells logits, or something else"
    if any(math.isnan(value) for value in row.top.values()):
        return "NaN among the most probable tokens"
    if math.fsum(math.exp(value) for value in row.top.values()) > 1 + ROUNDING:
        return "probabilities that sum to more than 1"
    return ""


def to_scores(rows: Sequence[Row], scored: IntArray, top_k: int, asked: IntArray | None) -> TokenScores:
    """Return rows as the scores of a window.

    Args:
        rows: one for each of the S scored tokens.
        scored: (S,) the tokens that are there.
        top_k: how many of the most probable to give where none are asked for; fewer where the server tells fewer.
        asked: (S, K) the ids to read, or None.

    """
    tables = [{**row.top, int(token): row.logprob} for row, token in zip(rows, scored, strict=True)]
    if asked is None:
        count = min(top_k, *(len(row.top) for row in rows))
        ranked = [sorted(row.top, key=row.top.__getitem__, reverse=True)[:count] for row in rows]
        asked = np.asarray(ranked, dtype=np.int64).reshape(len(rows), count)
    at = [
        [_told(table.get(token, math.nan)) for token in line]
        for table, line in zip(tables, asked.tolist(), strict=True)
    ]
    return TokenScores(
        logprob=np.asarray([row.logprob for row in rows], dtype=np.float32),
        top1=np.asarray([row.top1 for row in rows], dtype=np.int64),
        ids=asked,
        at=np.asarray(at, dtype=np.float32).reshape(asked.shape),
        floor=np.asarray([row.floor for row in rows], dtype=np.float32),
    )


def _told(value: float) -> float:
    """Return a log-probability, or NaN for what only stands for one."""
    return value if value > PLACEHOLDER else math.nan
