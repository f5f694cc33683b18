"""`quantgate flips`: the answers that changed from right to wrong or back, side by side."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.earlier import read_report
from pytest_quantgate.errors import UnknownNameError, UsageError
from pytest_quantgate.escaping import plain
from pytest_quantgate.report.answers import flips

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from pytest_quantgate.report import Answers, Report
    from pytest_quantgate.report.answers import Flip

__all__ = ["run"]

GAP = " | "
NARROWEST = 20


def run(chosen: Namespace) -> int:
    """Print each item that flipped: the question, what is right, and both answers beside each other."""
    report = read_report(Path(chosen.report))
    width = max(2 * NARROWEST, shutil.get_terminal_size((120, 24)).columns)
    for baseline, variant in _pairs(report, chosen):
        found = list(flips(baseline, variant))
        lost = sum(flip.lost for flip in found)
        print(
            plain(
                f"{variant.model} {variant.metric}: {lost} lost, {len(found) - lost} won of {len(variant.ids)}"
            )
        )
        for flip in found[: chosen.limit or None]:
            print("\n".join(_lines(flip, variant.model, width)))
        if chosen.limit and len(found) > chosen.limit:
            print(f"... and {len(found) - chosen.limit} more; --limit 0 shows all")
        print()
    return 0


def _pairs(report: Report, chosen: Namespace) -> Iterator[tuple[Answers, Answers]]:
    """Yield the baseline's and a variant's answers to one task."""
    if not report.answers:
        raise UsageError(f"{chosen.report} holds no answers: no task was measured in that run")
    tasks = dict.fromkeys(found.metric for found in report.answers)
    wanted = [task for task in tasks if not chosen.task or chosen.task in (task, task.partition("(")[0])]
    if not wanted:
        raise UnknownNameError("task", chosen.task, tasks)
    models = dict.fromkeys(found.model for found in report.answers if found.model != "baseline")
    for name in chosen.variant:
        if name not in models:
            raise UnknownNameError("variant", name, models)
    for task in wanted:
        of_task = {found.model: found for found in report.answers if found.metric == task}
        for name in chosen.variant or models:
            if name in of_task and "baseline" in of_task:
                yield of_task["baseline"], of_task[name]


def _lines(flip: Flip, variant: str, width: int) -> Iterator[str]:
    yield f"\n{'lost' if flip.lost else 'won'} {plain(flip.id)}"
    for title, text in (("question", flip.question), ("expected", flip.expected)):
        if text:
            yield from textwrap.wrap(f"{title}: {plain(text)}", width, subsequent_indent=" " * 10)
    room = (width - len(GAP)) // 2
    yield GAP.join((_cell("baseline", room), _cell(plain(variant), room))).rstrip()
    columns = [_wrapped(text, room) for text in (flip.before, flip.after)]
    for number in range(max(map(len, columns))):
        cells = [column[number] if number < len(column) else "" for column in columns]
        yield GAP.join(_cell(cell, room) for cell in cells).rstrip()


def _wrapped(text: str, room: int) -> list[str]:
    return [part for line in text.split("\n") for part in (textwrap.wrap(plain(line), room) or [""])]


def _cell(text: str, room: int) -> str:
    return f"{text[:room]:<{room}}"
