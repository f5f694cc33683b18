"""lm-eval's samples_<task>_<date>.jsonl: one line for each document and filter."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_quantgate.imports.answers import QUESTION_LENGTH, Answer, bare
from pytest_quantgate.imports.source import Node, Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["Logged", "logged"]

_ADVICE = "give a samples_<task>_*.jsonl that lm_eval --log_samples wrote beside the results"
_KNOWN = frozenset(
    (
        "arguments",
        "doc",
        "doc_hash",
        "doc_id",
        "filter",
        "filtered_resps",
        "metrics",
        "prompt_hash",
        "resps",
        "target",
        "target_hash",
    )
)
_SUFFIX = ".jsonl"


@dataclass(frozen=True, slots=True)
class Logged:
    """The samples of a task: filter -> one answer per document."""

    source: Source
    answers: Mapping[str, Sequence[Answer]]

    def of(self, filtered: str) -> Sequence[Answer]:
        """Return the answers under a filter."""
        return self.answers.get(filtered, ())


def logged(files: Iterable[Path], tasks: Sequence[str], filters: Mapping[str, set[str]]) -> dict[str, Logged]:
    """Read the samples of some tasks.

    Args:
        files: where they lie; a file's name says whose they are.
        tasks: the tasks of the results.
        filters: which filters a task has, for versions that did not name a sample's.

    Raises:
        UsageError: a file belongs to no task, or to one that has another; or it is damaged.

    """
    found: dict[str, Logged] = {}
    for path in files:
        source = Source(path, "samples of lm-eval", _ADVICE)
        task = _task_of(path.name, tasks)
        if not task:
            raise source.broken("its name is of no task that the results have")
        if task in found:
            raise source.broken(
                f"{found[task].source.path} has samples of {task!r} already", "give one file for each task"
            )
        found[task] = _read(source, task, filters[task])
    return found


def _task_of(name: str, tasks: Sequence[str]) -> str:
    """Return the task that a file's name is of: the longest that fits, as one can begin with another's name."""
    stem = name.removesuffix(_SUFFIX)
    fitting = [task for task in tasks if f"{stem}_".startswith(f"samples_{task}_")]
    return max(fitting, key=len, default="")


def _read(source: Source, task: str, filters: set[str]) -> Logged:
    answers: dict[str, dict[int, Answer]] = {}
    for row in source.lines():
        name = row.get("filter")
        if name is None and len(filters) != 1:
            raise row.source.broken(
                f"{row.trail} does not say which filter it is of, and {task!r} has {len(filters)}",
                "make the samples with lm-eval 0.4.4 or newer",
            )
        under = answers.setdefault(name.text() if name else next(iter(filters)), {})
        answer = _answer(row, task)
        if answer.number in under:
            raise source.broken(
                f"{row.trail}: the document {answer.number} stands there twice", "give the samples of one run"
            )
        under[answer.number] = answer
    return Logged(source, {name: tuple(rows.values()) for name, rows in answers.items()})


def _answer(row: Node, task: str) -> Answer:
    number = row.member("doc_id").count()
    answers = row.member("filtered_resps").rows()
    target = row.member("target").value
    known = row.get("doc_hash")
    scores: dict[str, float] = {}
    for name, value in row.table():
        if name in _KNOWN:
            continue
        if isinstance(value.value, str) and name in _listed(row):
            raise value.wrong("a number")
        # some metrics are kept as lists, for their aggregation to make sense of
        if bare(value.value):
            scores[name] = float(value.value)
    return Answer(
        number=number,
        id="/".join((task, str(number), *([known.text()] if known else []))),
        answer=_shown([answer.value for answer in answers]),
        expected=_shown([target]),
        question=_question(row.get("arguments"))[-QUESTION_LENGTH:],
        scores=scores,
    )


def _listed(row: Node) -> Sequence[Any]:
    """Return the names of a sample's metrics."""
    names = row.get("metrics")
    return names.value if names is not None and isinstance(names.value, list) else ()


def _shown(values: Sequence[Any]) -> str:
    """Return the one text as it is, anything else as JSON."""
    only = values[0] if len(values) == 1 else values
    return only if isinstance(only, str) else json.dumps(only, ensure_ascii=False)


def _question(arguments: Node | None) -> str:
    """Return the first request's prompt: {"gen_args_0": {"arg_0": …}}, and before 0.4.3 [[…]]."""
    value = arguments.value if arguments is not None else None
    for key in ("gen_args_0", "arg_0"):
        if isinstance(value, list):
            value = value[0] if value else None
        elif isinstance(value, dict):
            value = value.get(key)
    return value if isinstance(value, str) else ""
