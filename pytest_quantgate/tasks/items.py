"""Items of a task, and the text that a model is given for each.

An item's text is `head` + its examples + `tail`. It is put together as late as possible, since an item that is longer
than the model's context gives up its last examples first, as the original MMLU code does.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pytest_quantgate.errors import UsageError
from pytest_quantgate.spec import digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_quantgate.spec import Json

__all__ = ["Item", "check", "digest_of", "taken"]


@dataclass(frozen=True, slots=True)
class Item:
    """One question.

    Attributes:
        id: its name, unique in the task.
        question: what a person reads in a list of answers that changed; for a program, the code that it continues.
        tail: the end of the prompt: the question as the model sees it.
        expected: the right answer: a choice's label, a text, or empty for a program.
        group: the subject that it belongs to; empty for none.
        head: the beginning of the prompt.
        shots: worked examples, between head and tail.
        choices: the texts of which one is right, as they continue the prompt.
        labels: what people call them: A, B, C, D.
        check: for a program, the code that judges it: it defines `check(candidate)`.
        entry_point: for a program, the name of the function under test.

    """

    id: str
    question: str
    tail: str
    expected: str = ""
    group: str = ""
    head: str = ""
    shots: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    check: str = ""
    entry_point: str = ""

    def prompt(self, shots: int | None = None) -> str:
        """Return the text with its first `shots` examples; all of them by default."""
        return self.head + "".join(self.shots if shots is None else self.shots[:shots]) + self.tail


def digest_of(items: Sequence[Item]) -> str:
    """Return the identity of items: everything that a model is given, and what counts as right."""
    rows: list[Json] = [asdict(item) for item in items]
    return f"sha256:{digest(rows)}"


def check(items: Sequence[Item], place: str) -> None:
    """Refuse what cannot be judged.

    Raises:
        UsageError: there is no item, or two have one id.

    """
    if not items:
        raise UsageError(f"{place}: no item is left; look at its data, `limit` and `subjects`")
    twice = [name for name, count in Counter(item.id for item in items).items() if count > 1]
    if twice:
        raise UsageError(f"{place}: the id {twice[0]!r} stands there twice; give each item an id of its own")


def taken(items: Sequence[Item], limit: int) -> list[Item]:
    """Return the first `limit` items of each group, as lm-evaluation-harness takes them; 0 for all."""
    if not limit:
        return list(items)
    seen: Counter[str] = Counter()
    found: list[Item] = []
    for item in items:
        seen[item.group] += 1
        if seen[item.group] <= limit:
            found.append(item)
    return found
