"""Answers as an observation: one row per item, numbers as they are and texts as UTF-8 in two arrays.

Texts lie in arrays and not in the facts, since an entry of the store has a header of limited size: "answer" becomes
`answer.utf8` (B,) uint8, all texts one after another, and `answer.ends` (N,) int64, where each ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate.report import Answers
from pytest_quantgate.spec import Json, Observation

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NUMBER", "aligned", "answers", "joined", "made", "texts"]

LONGEST = 4000
"""Characters of an answer that the report shows."""

NUMBER = "item"
"""The array that says which item a row is of: its place in the task."""

_TEXT, _ENDS = ".utf8", ".ends"


def made(
    numbers: Mapping[str, NDArray[Any]], words: Mapping[str, Sequence[str]], facts: Mapping[str, Json]
) -> Observation:
    """Return an observation of numbers (N, …) and texts (N,)."""
    arrays = dict(numbers)
    for name, column in words.items():
        # a lone surrogate, which half a character of a byte-level tokenizer can become, has no UTF-8
        encoded = [text.encode("utf-8", "replace") for text in column]
        arrays[name + _TEXT] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        arrays[name + _ENDS] = np.cumsum([len(part) for part in encoded], dtype=np.int64)
    return Observation(arrays, facts)


def texts(observation: Observation, name: str) -> list[str]:
    """Return a column of texts."""
    whole = observation.arrays[name + _TEXT].tobytes()
    ends = [0, *observation.arrays[name + _ENDS].tolist()]
    return [whole[begin:end].decode("utf-8") for begin, end in itertools.pairwise(ends)]


def _columns(observation: Observation) -> tuple[list[str], list[str]]:
    """Return the names of the numbers, and of the texts."""
    names = list(observation.arrays)
    words = [name.removesuffix(_ENDS) for name in names if name.endswith(_ENDS)]
    return [name for name in names if not name.endswith((_TEXT, _ENDS))], words


def _chosen(observation: Observation, rows: NDArray[np.intp]) -> Observation:
    numbers, words = _columns(observation)
    columns = {name: texts(observation, name) for name in words}
    return made(
        {name: observation.arrays[name][rows] for name in numbers},
        {name: [column[row] for row in rows] for name, column in columns.items()},
        observation.facts,
    )


def joined(parts: Sequence[Observation]) -> Observation:
    """Return the rows of several parts as one observation, in the task's order."""
    numbers, words = _columns(parts[0])
    remarks: list[Any] = [remark for part in parts for remark in _listed(part.facts.get("remarks"))]
    whole = made(
        {name: np.concatenate([part.arrays[name] for part in parts]) for name in numbers},
        {name: [text for part in parts for text in texts(part, name)] for name in words},
        {**parts[0].facts, "remarks": list(dict.fromkeys(remarks))},
    )
    return _chosen(whole, np.argsort(whole.arrays[NUMBER], kind="stable"))


def aligned(reference: Observation, part: Observation) -> Observation:
    """Return the reference's rows of the items that a part holds."""
    return _chosen(reference, np.flatnonzero(np.isin(reference.arrays[NUMBER], part.arrays[NUMBER])))


def answers(
    model: str, metric: str, observation: Observation, reference: Observation | None = None
) -> Answers:
    """Return a model's answers for the report: with a reference, the questions of those that flipped."""
    ids, correct = texts(observation, "id"), observation.arrays["correct"].astype(float).tolist()
    columns = {
        "ids": tuple(ids),
        "answers": tuple(text[:LONGEST] for text in texts(observation, "answer")),
        "expected": () if reference else tuple(texts(observation, "expected")),
    }
    questions: dict[str, str] = {}
    if reference is not None:
        known = dict(
            zip(texts(reference, "id"), reference.arrays["correct"].astype(float).tolist(), strict=True)
        )
        asked = zip(ids, texts(observation, "question"), correct, strict=True)
        questions = {name: text for name, text, share in asked if known.get(name, share) != share}
    return Answers(model, metric, correct=tuple(correct), questions=questions, **columns)


def _listed(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else []
