"""Examinations by subject: questions with four choices, in the layout of MMLU and C-Eval, from a folder or the hub.

The prompt is a line that names the subject, worked examples from the `dev` split, and the question:

    <question>
    A. <choice>
    …
    D. <choice>
    Answer:

continued by " A" … " D". That is byte for byte what lm-evaluation-harness 0.4 sends for `mmlu` and `ceval-valid`; the
original MMLU code (Hendrycks et al., 2021) writes two blanks before the subject instead of one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_quantgate.errors import ConfigError, UnknownNameError, UsageError
from pytest_quantgate.tasks import rows
from pytest_quantgate.tasks.items import Item, taken
from pytest_quantgate.tasks.task import Contents

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_quantgate.tasks.rows import Row
    from pytest_quantgate.tasks.ways import Request

__all__ = ["LETTERS", "Exam", "listed"]

LETTERS = ("A", "B", "C", "D")
MOST_SHOTS = 5


@dataclass(frozen=True, slots=True)
class Exam:
    """A `tasks.task.Source`.

    Attributes:
        hub: id of the data set on the hub.
        whole: the hub's configuration that holds every subject in a column `subject`; empty if each has its own.
        subjects: id of each subject, and how the prompt names it.
        categories: names that stand for several subjects.
        head: the first line, with `{subject}`.
        cue: what asks for the answer.
        split: which split is asked by default.
        columns: of a local CSV file without a header; empty for one that has it.
        hub_splits: what the hub calls a split that has another name there.

    """

    hub: str
    subjects: Mapping[str, str]
    categories: Mapping[str, Sequence[str]]
    head: str
    cue: str
    split: str
    columns: tuple[str, ...] = ()
    whole: str = ""
    hub_splits: Mapping[str, str] | None = None

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The settings: examples before each question, which subjects, which split."""
        return {"shots": MOST_SHOTS, "subjects": [], "split": self.split}

    def read(self, request: Request, root: Path, place: str) -> Contents:
        """Return the questions of the chosen subjects, in the order of their names."""
        if not 0 <= request["shots"] <= MOST_SHOTS:
            raise ConfigError(
                f"{place}: shots = {request['shots']}: the data have {MOST_SHOTS} examples a subject"
            )
        chosen = self._chosen(request["subjects"], place)
        places = {**request, "place": place, "root": root}
        found: list[Item] = []
        for subject in chosen:
            examples = self._rows("dev", subject, places) if request["shots"] else []
            shots = tuple(
                f"{self._asked(row, where)} {_answer(row, where)}\n\n"
                for where, row in examples[: request["shots"]]
            )
            head = self.head.format(subject=self.subjects[subject])
            found += [
                Item(
                    id=f"{subject}/{number}",
                    question=self._asked(row, where),
                    tail=self._asked(row, where),
                    expected=_answer(row, where),
                    group=subject,
                    head=head,
                    shots=shots,
                    choices=tuple(f" {letter}" for letter in LETTERS),
                    labels=LETTERS,
                )
                for number, (where, row) in enumerate(self._rows(request["split"], subject, places))
            ]
        kept = {name: [s for s in names if s in chosen] for name, names in self.categories.items()}
        return Contents(
            taken(found, request["limit"]), {name: names for name, names in kept.items() if names}
        )

    def _chosen(self, names: Sequence[str], place: str) -> list[str]:
        """Return the subjects that names and categories stand for; all by default."""
        found: set[str] = set()
        for name in names:
            if name not in self.subjects and name not in self.categories:
                raise UnknownNameError(f"subject in {place}", name, [*self.categories, *self.subjects])
            found |= set(self.categories.get(name, [name]))
        return sorted(found or self.subjects)

    def _asked(self, row: Row, where: str) -> str:
        lines = [rows.text_of(row, "question", where).strip()]
        lines += [f"{letter}. {rows.text_of(row, letter, where)}" for letter in LETTERS]
        return "\n".join([*lines, self.cue])

    def _rows(self, split: str, subject: str, request: Request) -> list[tuple[str, Row]]:
        """Return the rows of one subject, each with the words that name its place."""
        data, place = str(request["data"]), str(request["place"])
        folder = Path(request["root"]) / data
        if data and folder.is_dir():
            file = folder / split / f"{subject}_{split}.csv"
            if not file.is_file():
                raise UsageError(
                    f"{place}: {file} does not exist; leave its subject out by subjects = [...], or set split"
                )
            found: Iterable[Row] = rows.file_rows(file, self.columns)
            return [(f"{file} row {number}", row) for number, row in enumerate(found, 1)]
        if data and (data.count("/") != 1 or data.split("/", maxsplit=1)[0] in (".", "..", "data")):
            raise UsageError(
                f"{place}: data = {data!r}: there is no folder {folder}, and it is no id of the hub"
            )
        name = (self.hub_splits or {}).get(split, split)
        source = (data or self.hub, self.whole or subject, name, f"{place} data")
        listed_rows = _of_hub(*source).get(subject if self.whole else "", [])
        return [(f"{data or self.hub} {subject} {name} row {n}", row) for n, row in enumerate(listed_rows, 1)]


@functools.lru_cache(maxsize=128)
def _of_hub(data: str, configuration: str, split: str, place: str) -> dict[str, list[Row]]:
    """Return the rows of a split by subject; under "" where a configuration is one subject's."""
    found: dict[str, list[Row]] = {}
    for row in rows.dataset(data, configuration, split, place):
        found.setdefault(str(row.get("subject", "")), []).append(listed(row))
    return found


def listed(row: Row) -> Row:
    """Return a row whose choices lie in a list as one that has a column for each letter, as the CSV files have."""
    if "choices" not in row:
        return row
    answer = row.get("answer")
    letter = LETTERS[answer] if isinstance(answer, int) and 0 <= answer < len(LETTERS) else answer
    return {**row, **dict(zip(LETTERS, row["choices"], strict=False)), "answer": letter}


def _answer(row: Row, where: str) -> str:
    answer = rows.text_of(row, "answer", where).strip()
    if answer not in LETTERS:
        raise UsageError(f"{where}: answer is {answer!r}; it must be one of {', '.join(LETTERS)}")
    return answer
