"""Answers that another tool has logged, as an observation like that of our own tasks.

An item's number is its place in the task; in a group of tasks, the task's place among them times 2**32 more. So two
files of the same items have the same numbers, and `facts["items"]` is a digest of which items they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pytest_quantgate.spec import Observation, digest
from pytest_quantgate.tasks import sheet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.spec import Json

__all__ = ["QUESTION_LENGTH", "SHARES_NOT", "Answer", "bare", "observation"]

QUESTION_LENGTH = 2000
_STRIDE = 1 << 32
_FEW = 1e-6

SHARES_NOT = frozenset(
    (
        "bits_per_byte",
        "bleu",
        "brier_score",
        "bypass",
        "byte_perplexity",
        "chrf",
        "likelihood_diff",
        "ll_diff",
        "mcc",
        "pct_stereotype",
        "perplexity",
        "ppl",
        "ter",
        "word_perplexity",
    )
)
"""Metrics that are no share of what is right, whatever their value: lower is better, or 0 and 1 are no bounds."""


class Answer(NamedTuple):
    """What became of one item; `scores` lacks what is no number from 0 to 1."""

    number: int
    id: str
    answer: str
    expected: str
    question: str
    scores: Mapping[str, float]


def bare(value: object) -> bool:
    """Return whether a value can be an item's score: a number from 0 to 1, or true or false."""
    return isinstance(value, int | float) and 0 <= value <= 1


def observation(tasks: Mapping[str, Sequence[Answer]], metric: str, value: float) -> Observation | None:
    """Return the items of some tasks; None where one of them has no score, or the scores' mean is not the value.

    Args:
        tasks: the answers to each task of a group, or to the one task there is.
        metric: which score.
        value: what the tool computed from the scores.

    """
    if not tasks or not all(tasks.values()):
        return None
    names = sorted(tasks)
    rows = [
        (place, answer)
        for place, name in enumerate(names)
        for answer in sorted(tasks[name], key=lambda answer: answer.number)
    ]
    if not all(metric in answer.scores for _, answer in rows):
        return None
    scores = np.asarray([answer.scores[metric] for _, answer in rows], dtype=np.float64)
    if abs(float(scores.mean()) - value) > _FEW:
        return None
    arrays: dict[str, NDArray[Any]] = {
        sheet.NUMBER: np.asarray([place * _STRIDE + answer.number for place, answer in rows], dtype=np.int64),
        "group": np.asarray([place for place, _ in rows], dtype=np.int32),
        "correct": scores,
    }
    words = {
        "id": [answer.id for _, answer in rows],
        "answer": [answer.answer for _, answer in rows],
        "expected": [answer.expected for _, answer in rows],
        "question": [answer.question for _, answer in rows],
    }
    facts: dict[str, Json] = {
        "groups": list(names),
        "categories": {},
        "of": len(rows),
        "remarks": [],
        "items": digest(words["id"]),
    }
    return sheet.made(arrays, words, facts)
