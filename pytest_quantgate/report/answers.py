"""What each model answered to each item of a task, for a person who wants to read the answers that flipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_quantgate.reading import require, require_finite, texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_quantgate.spec import Json

__all__ = ["Answers", "Flip", "flips"]


@dataclass(frozen=True, slots=True)
class Answers:
    """One model's answers to one task.

    Attributes:
        model: name of the variant, or "baseline".
        metric: the task's metric, with its arguments.
        ids: names of the items.
        answers: what the model said to each.
        correct: how right that is, 0 to 1.
        expected: the right answers; for the baseline alone.
        questions: by the item's name, for those that flipped in this variant.

    """

    model: str
    metric: str
    ids: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    correct: tuple[float, ...] = ()
    expected: tuple[str, ...] = ()
    questions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object of builtin types only."""
        return {
            "model": self.model,
            "metric": self.metric,
            "ids": list(self.ids),
            "answers": list(self.answers),
            "correct": list(self.correct),
            "expected": list(self.expected),
            "questions": dict(self.questions),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Answers:
        """Rebuild what `to_json` wrote."""
        columns = {name: texts(value.get(name, ())) for name in ("ids", "answers", "expected")}
        correct = tuple(value.get("correct", ()))
        found = cls(**{**value, **columns, "correct": correct})
        require(str, model=found.model, metric=found.metric)
        require(Mapping, questions=found.questions)
        texts((*found.questions, *found.questions.values()))
        for share in correct:
            require(int, float, correct=share)
            require_finite(correct=share)
        if {len(found.ids)} != {len(found.answers), len(correct)}:
            raise ValueError(f"the answers of {found.model} to {found.metric} are not one per item")
        return found


class Flip(NamedTuple):
    """An item that is right in one model and wrong, or less right, in the other."""

    id: str
    question: str
    expected: str
    before: str
    after: str
    lost: bool


def flips(baseline: Answers, variant: Answers) -> Iterator[Flip]:
    """Yield the items that both answered and whose correctness differs, lost ones first."""
    there = {name: number for number, name in enumerate(baseline.ids)}
    pairs = [(there[name], number) for number, name in enumerate(variant.ids) if name in there]
    changed = [(a, b) for a, b in pairs if baseline.correct[a] != variant.correct[b]]
    for a, b in sorted(changed, key=lambda pair: baseline.correct[pair[0]] < variant.correct[pair[1]]):
        yield Flip(
            variant.ids[b],
            variant.questions.get(variant.ids[b], ""),
            _at(baseline.expected, a),
            baseline.answers[a],
            variant.answers[b],
            baseline.correct[a] > variant.correct[b],
        )


def _at(column: Sequence[str], index: int) -> str:
    return column[index] if index < len(column) else ""
