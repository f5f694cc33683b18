r"""Tasks whose data is a list of rows in one file: questions with answers, with choices, or functions to write.

A prompt is made from a row by a template such as "Question: {question}\nAnswer:"; worked examples are rows of another
file, or of another split, written the same way with their answer behind.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_quantgate.errors import ConfigError, UsageError
from pytest_quantgate.tasks import extraction, rows
from pytest_quantgate.tasks.items import Item, taken
from pytest_quantgate.tasks.task import Contents

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_quantgate.tasks.rows import Row
    from pytest_quantgate.tasks.ways import Request

    Made: TypeAlias = Callable[[Row, Request, str], Item]

__all__ = ["CODE", "PROMPTS", "Questions", "as_answer", "as_choice", "as_program"]

SEPARATOR = "\n\n"
AUTOMATIC = -1
PROMPTS: Mapping[str, Any] = {"prompt": "Question: {question}\nAnswer:", "chat_prompt": "{question}"}
CODE: Mapping[str, Any] = {
    "chat_prompt": "Complete this Python function. Answer with the whole function in one code block.\n\n"
    "```python\n{prompt}```"
}


@dataclass(frozen=True, slots=True)
class Questions:
    """A `tasks.task.Source`: rows of one file, or of one data set of the hub.

    Attributes:
        make: from a row to an item without examples.
        settings: its settings beside `examples`, `shots` and `split`.
        shots: worked examples before each question, unless it is put as a conversation.
        hub: (id, configuration) of the data set on the hub; empty if `data` must be given.
        installed: gives the rows where a package ships them; None if it is not installed.

    """

    make: Made
    settings: Mapping[str, Any] = field(default_factory=dict)
    shots: int = 0
    hub: tuple[str, str] = ("", "")
    installed: Callable[[], Sequence[Row] | None] | None = None

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The settings: how many worked examples, and from where; which split."""
        return {"shots": AUTOMATIC if self.shots else 0, "examples": "", "split": "test", **self.settings}

    def read(self, request: Request, root: Path, place: str) -> Contents:
        """Return the items in the order of the file."""
        found = [self.make(row, request, where) for where, row in self._rows(request, root, place)]
        shots = self._shots(request, root, place)
        # an item is never its own example
        whole = [
            replace(item, shots=tuple(text for tail, text in shots if tail != item.tail)) for item in found
        ]
        return Contents(taken(whole, request["limit"]), {})

    def _shots(self, request: Request, root: Path, place: str) -> tuple[tuple[str, str], ...]:
        """Return worked examples: the question, and the whole with what parts it from the next."""
        count = request["shots"]
        if count == AUTOMATIC and self.shots:
            count = 0 if request["chat"] else self.shots
        if not count:
            return ()
        if count < 0:
            raise ConfigError(f"{place}: shots = {count}: it must be 0 or more")
        found = self._example_rows(request, root, place)
        if len(found) < count:
            raise ConfigError(f"{place}: shots = {count}, and there are {len(found)} examples")
        made = [self.make(row, request, where) for where, row in found[:count]]
        return tuple((item.tail, f"{item.tail}{_worked(item, place)}{SEPARATOR}") for item in made)

    def _example_rows(self, request: Request, root: Path, place: str) -> list[tuple[str, Row]]:
        if request["examples"]:
            return _numbered(root / request["examples"])
        local = root / request["data"]
        if request["data"] and local.exists():
            folder = local if local.is_dir() else local.parent
            return _numbered(folder / f"train{'' if local.is_dir() else local.suffix}", place)
        if not self.hub[0]:
            raise ConfigError(
                f'{place}: shots = {request["shots"]} needs examples = "...", a file of worked rows'
            )
        return self._hub_rows(request, "train", place)

    def _rows(self, request: Request, root: Path, place: str) -> list[tuple[str, Row]]:
        """Return the rows, each with the words that name its place."""
        data = str(request["data"])
        local = root / data
        if data and local.is_dir():
            return _numbered(local / str(request["split"]), place)
        if data and (local.is_file() or not self.hub[0] or data.count("/") != 1):
            if not local.is_file():
                raise UsageError(f"{place}: data = {data!r}: {local} does not exist")
            return _numbered(local)
        if not data and self.installed is not None and (shipped := self.installed()) is not None:
            return [(f"row {number}", row) for number, row in enumerate(shipped, 1)]
        if not data and not self.hub[0]:
            raise ConfigError(f'{place}: it needs data = "...", a JSON-lines file')
        return self._hub_rows(request, str(request["split"]), place)

    def _hub_rows(self, request: Request, split: str, place: str) -> list[tuple[str, Row]]:
        name, configuration = self.hub
        found = rows.dataset(request["data"] or name, configuration, split, f"{place} data")
        return [
            (f"{request['data'] or name} {split} row {number}", row) for number, row in enumerate(found, 1)
        ]


def _numbered(path: Path, place: str = "") -> list[tuple[str, Row]]:
    """Return the rows of a file; one without an ending is found by any that can be read."""
    if place and not path.suffix:
        endings = (".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv")
        there = [path.with_name(path.name + ending) for ending in endings]
        existing = [candidate for candidate in there if candidate.is_file()]
        if not existing:
            raise UsageError(f"{place}: {path.parent} has no file {path.name}.jsonl; set split or examples")
        path = existing[0]
    return [(f"{path} row {number}", row) for number, row in enumerate(rows.file_rows(path), 1)]


def _worked(item: Item, place: str) -> str:
    """Return what follows the question in an example."""
    if item.choices:
        return item.choices[item.labels.index(item.expected)]
    if not item.expected:
        raise ConfigError(f"{place}: the example {item.id!r} has no canonical_solution; leave shots out")
    return item.expected if item.check else f" {item.expected}"


def _id(row: Row, where: str) -> str:
    key = next((key for key in ("id", "task_id") if key in row), "")
    return rows.text_of(row, key, where) if key else f"row {where.rpartition(' ')[2]}"


def _group(row: Row, where: str) -> str:
    return rows.text_of(row, "group", where) if "group" in row else ""


def _filled(request: Request, row: Row, where: str) -> str:
    """Return the template filled from a row."""
    template = str(request["chat_prompt" if request.get("chat") else "prompt"])
    try:
        parts = list(string.Formatter().parse(template))
        if any(
            name is not None and (not name.isidentifier() or kind or form) for _, name, kind, form in parts
        ):
            raise ValueError("only names of columns stand in braces")  # noqa: TRY301  one message for both
    except ValueError as error:
        raise ConfigError(
            f"prompt = {template!r}: {error}; write {{question}} and double other braces"
        ) from error
    return "".join(
        text + ("" if name is None else rows.text_of(row, name, where)) for text, name, _, _ in parts
    )


def as_answer(row: Row, request: Request, where: str) -> Item:
    """Return a question whose answer is text: columns question and answer."""
    answer = rows.text_of(row, "answer", where)
    if not extraction.final(answer):
        raise UsageError(f"{where}: answer is empty, or nothing follows its ####")
    tail = _filled(request, row, where)
    return Item(_id(row, where), rows.text_of(row, "question", where), tail, answer, _group(row, where))


def as_choice(row: Row, request: Request, where: str) -> Item:
    """Return a question with choices: columns question, choices (or A, B, …), answer: a letter, a place or a text.

    The choices follow the prompt as they are; with `letters` they are listed before its last line, and letters follow.
    """
    choices = row.get("choices") or [row[letter] for letter in string.ascii_uppercase if letter in row]
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(string.ascii_uppercase):  # noqa: PLR2004
        raise UsageError(f"{where}: choices must be a list of 2 to 26 texts")
    texts = [rows.text_of({"choice": choice}, "choice", where) for choice in choices]
    if not all(text.strip() for text in texts) or len(set(texts)) < len(texts):
        raise UsageError(f"{where}: choices must be texts that differ, none of them empty")
    labels = tuple(string.ascii_uppercase[: len(texts)])
    tail = _filled(request, row, where)
    if request["letters"]:
        lines = [f"{label}. {text}\n" for label, text in zip(labels, texts, strict=True)]
        head, newline, cue = tail.rpartition("\n")
        tail = "".join([head, newline, *lines, cue])
    return Item(
        id=_id(row, where),
        question=rows.text_of(row, "question", where),
        tail=tail,
        expected=_label(row, texts, labels, where),
        group=_group(row, where),
        choices=tuple(f" {choice}" for choice in (labels if request["letters"] else texts)),
        labels=labels,
    )


def _label(row: Row, texts: Sequence[str], labels: Sequence[str], where: str) -> str:
    if "answer" not in row:
        raise UsageError(f"{where} has no column 'answer'; it has: {', '.join(map(str, row))}")
    answer = row["answer"]
    meant = set()
    if not isinstance(answer, bool) and str(answer).isdecimal() and int(answer) < len(labels):
        meant.add(labels[int(answer)])
    if answer in labels:
        meant.add(str(answer))
    if str(answer) in texts:
        meant.add(labels[texts.index(str(answer))])
    if len(meant) > 1:
        raise UsageError(
            f"{where}: answer {answer!r} is a choice and names another; write the letter that is none"
        )
    if meant:
        return meant.pop()
    raise UsageError(
        f"{where}: answer is {answer!r}; it must be one of {', '.join(labels)}, a place or a choice's text"
    )


def as_program(row: Row, request: Request, where: str) -> Item:
    """Return a function to write, in HumanEval's layout: columns prompt, test and entry_point."""
    prompt, test, name = (rows.text_of(row, key, where) for key in ("prompt", "test", "entry_point"))
    if not name.isidentifier():
        raise UsageError(f"{where}: entry_point is {name!r}, which is no name of a function")
    if "def check(" not in test:
        raise UsageError(f"{where}: test defines no check(candidate)")
    if "import numpy" in test:
        raise UsageError(
            f"{where}: its test imports numpy, which the sandbox has not; for HumanEval+ give evalplus's own file"
        )
    tail = _filled(request, row, where) if request["chat"] else prompt
    solution = rows.text_of(row, "canonical_solution", where) if "canonical_solution" in row else ""
    group = _group(row, where)
    return Item(_id(row, where), prompt, tail, solution, group=group, check=test, entry_point=name)
