"""Tasks of the user's own: a JSON-lines file and a few lines of configuration make a metric of any name.

        [tool.quantgate.tasks.trivia]
        kind = "multiple-choice"        # or "question-answer", "code"
        data = "trivia.jsonl"

multiple-choice   rows {question, choices, answer}; the choice that the model finds most probable.
question-answer   rows {question, answer}; the model writes, and its answer is read: a number after "####" where the
                  right answer is worked like that, else the first line.
code              rows {prompt, test, entry_point} as HumanEval's; the model writes, and the test runs in a sandbox.

An `id` (or `task_id`) names an item, a `group` its subject.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_quantgate.errors import ConfigError, GateError, UnknownNameError
from pytest_quantgate.gate import Metric
from pytest_quantgate.tasks.programs import PROGRAMS
from pytest_quantgate.tasks.questions import CODE, PROMPTS, Questions, as_answer, as_choice, as_program
from pytest_quantgate.tasks.task import Task, definition
from pytest_quantgate.tasks.ways import ANSWERS, CHOICES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from pytest_quantgate.spec import MetricDefinition

__all__ = ["CHOICE", "KINDS", "PROGRAM", "QUESTION", "definitions", "known"]

QUESTION = Task("question-answer", Questions(as_answer, PROMPTS), ANSWERS)
CHOICE = Task("multiple-choice", Questions(as_choice, {**PROMPTS, "letters": False}), CHOICES)
PROGRAM = Task("code", Questions(as_program, CODE), PROGRAMS)

KINDS = {
    "multiple-choice": ("CHOICE", CHOICE),
    "question-answer": ("QUESTION", QUESTION),
    "code": ("PROGRAM", PROGRAM),
}
CAPABILITIES = {"multiple-choice": "knowledge", "question-answer": "answers", "code": "code"}


def definitions(
    tables: Mapping[str, Mapping[str, Any]], taken: Iterable[str], file: object
) -> list[MetricDefinition]:
    """Return the metric of each configured task.

    Args:
        tables: [tool.quantgate.tasks] by name.
        taken: names that are metrics already.
        file: for messages.

    Raises:
        ConfigError: a name or a kind that cannot be used.
        UnknownNameError: a key that such a task does not have.

    """
    return [_definition(name, table, frozenset(taken), file) for name, table in tables.items()]


def known(name: str, observer: str) -> MetricDefinition | None:
    """Return the metric of a task that another run configured, by its observer; None if that is none of these."""
    for attribute, task in KINDS.values():
        if observer == f"{__name__}:{attribute}":
            summary = f"{name}: share of right answers"
            return definition(name, summary, name, observer=observer, task=task, table=f"tasks.{name}")
    return None


def _definition(name: str, table: Mapping[str, Any], taken: frozenset[str], file: object) -> MetricDefinition:
    place = f"{file}: [tool.quantgate.tasks.{name}]"
    try:
        Metric(name)
    except GateError as error:
        raise ConfigError(f"{place}: {name!r} cannot be a metric's name: {error}") from error
    if name in taken:
        raise ConfigError(f"{place}: {name!r} cannot be a metric's name: it is one already; choose another")
    way = table.get("kind")
    if way not in KINDS:
        raise ConfigError(f"{place}: kind = {way!r}: there are {', '.join(KINDS)}")
    attribute, task = KINDS[way]
    for key in table:
        if key not in ("kind", "capability", *task.settings):
            raise ConfigError(
                f"{place}: {UnknownNameError('key', key, ('kind', 'capability', *task.settings))}"
            )
    capability = table.get("capability", CAPABILITIES[way])
    if not isinstance(capability, str) or not capability.isprintable() or not capability:
        raise ConfigError(f"{place}: capability = {capability!r}: write what it asks for, as text")
    observer = f"pytest_quantgate.metrics.own:{attribute}"
    return definition(
        name,
        f"{name}: share of right answers",
        capability,
        observer=observer,
        task=task,
        table=f"tasks.{name}",
    )
