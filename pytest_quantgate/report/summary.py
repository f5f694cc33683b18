"""What a report says, before a reporter dresses it: headline, table and findings; pure, not escaped.

The table is that of a quantization study: one row per model, the baseline first. A column without a value in
any row is left out. A column shows one metric with one set of arguments for all rows, in one unit.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Literal, get_args

from pytest_quantgate import figures

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_quantgate.report.document import Report, Result, Row, Status
    from pytest_quantgate.spec import Estimate
    from pytest_quantgate.verdict import Check, Outcome, Verdict

__all__ = ["CLOSE", "Column", "Finding", "Table", "findings", "headline", "store_line", "table"]

CLOSE = "~"
"""Marks a verdict that is too close to call."""

_WORDS: Mapping[Status, str] = {
    "XFAIL": "expected",
    "PARTIAL": "partial",
    "UNMEASURED": "unmeasured",
    "INCONCLUSIVE": "inconclusive",
    "": "-",
}
_COUNTED: Mapping[Status, tuple[str, str]] = {
    "PASS": ("passes", "pass"),
    "PARTIAL": ("passes what could be measured", "pass what could be measured"),
    "FAIL": ("fails", "fail"),
    "XFAIL": ("fails as expected", "fail as expected"),
    "ERROR": ("has an error", "have errors"),
    "INCONCLUSIVE": ("is inconclusive", "are inconclusive"),
    "UNMEASURED": ("could not be measured", "could not be measured"),
    "": ("has no gate", "have no gate"),
}
_ARGUMENTS = re.compile(r"\(.*\)")
_SIGNIFICANT = 3
_MOST_DECIMALS = 4

FindingKind = Literal["FAIL", "ERROR", "inconclusive", "expected", "unmeasured", "close", "sanity", "note"]
_GRAVEST_FIRST: tuple[FindingKind, ...] = get_args(FindingKind)
_MISSES: Mapping[Outcome, FindingKind] = {"FAIL": "FAIL", "INCONCLUSIVE": "inconclusive"}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table.

    Attributes:
        title: what it shows.
        unit: in which unit; "" for a pure number.
        cells: one text per row; "-" where there is no value.
        rank: how soon it is left out where room is short: the highest first, 0 never.

    """

    title: str
    unit: str
    cells: tuple[str, ...]
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """The study's table: names of the models, figures, standings."""

    names: tuple[str, ...]
    columns: tuple[Column, ...]
    statuses: tuple[Status, ...]
    verdicts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to tell: `kind` says how grave, `subject` whom it concerns (may be empty)."""

    kind: FindingKind
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class _Figure:
    titles: Mapping[str, str]
    rank: int
    decimals: int | None = None
    signed: bool = False


_FIGURES = (
    _Figure({"bits_per_weight": "bits/w"}, rank=5, decimals=2),
    _Figure({"disk": "disk"}, rank=3),
    _Figure({"vram": "VRAM", "ram": "RAM", "weights_memory": "weights"}, rank=2),
    _Figure({"tokens_per_second": "tok/s"}, rank=4),
    _Figure({"ttft": "TTFT"}, rank=6),
    _Figure({"ppl": "PPL"}, rank=0, decimals=2),
    _Figure({"ppl.delta": "delta"}, rank=0, decimals=2, signed=True),
    _Figure({"kld.mean": "KLD"}, rank=1, decimals=4),
)


def headline(report: Report) -> str:
    """Return the whole report in one sentence: "FAIL: 1 of 4 variants passes, 3 fail"."""
    counts = Counter(row.status for row in report.variants)
    if not report.variants:
        return "no variant was judged"
    told = [
        f"{counts[status]} {_COUNTED[status][counts[status] != 1]}" for status in _COUNTED if counts[status]
    ]
    told[0] = told[0].replace(
        " ", f" of {len(report.variants)} {_plural(len(report.variants), 'variant')} ", 1
    )
    word: Mapping[Status, str] = {"XFAIL": "PASS", "PARTIAL": "PASS IN PART", "ERROR": "FAIL", "": "NO GATES"}
    partly = report.status in {"PASS", "XFAIL"} and (counts["UNMEASURED"] or counts["PARTIAL"])
    return f"{'PASS IN PART' if partly else word.get(report.status, report.status)}: {', '.join(told)}"


def table(report: Report) -> Table:
    """Return the study's table."""
    columns = (_column(figure, report.rows) for figure in _FIGURES)
    close = {result.variant for result in report.results if any(verdict.close for verdict in result.verdicts)}
    words = (
        "reference" if row is report.baseline else _WORDS.get(row.status, row.status) for row in report.rows
    )
    return Table(
        names=tuple(row.name for row in report.rows),
        columns=tuple(column for column in columns if column),
        statuses=tuple(row.status for row in report.rows),
        verdicts=tuple(
            f"{word} {CLOSE}" if row.name in close else word
            for row, word in zip(report.rows, words, strict=True)
        ),
    )


def findings(report: Report) -> tuple[Finding, ...]:
    """Return what a person must know beside the table, gravest first, each thing once."""
    told = chain(
        chain.from_iterable(_missed(result) for result in report.results),
        _unmeasured(report.results),
        (found for result in report.results for found in _close(result)),
        (
            Finding("sanity", row.name, _problem_text(p.text, p.causes))
            for row in report.rows
            for p in row.problems
        ),
        (Finding("note", "", note) for note in report.notes),
    )
    return tuple(sorted(dict.fromkeys(told), key=lambda found: _GRAVEST_FIRST.index(found.kind)))


def store_line(report: Report) -> str:
    """Return "12 observations: 9 from the store, 3 measured in 41 s"; empty if there were none."""
    measured = [step for step in report.steps if step.source == "measured"]
    stored = len(report.steps) - len(measured)
    seconds = sum(step.seconds for step in measured)
    told = [f"{stored} from the store"] if stored or not measured else []
    told += [f"{len(measured)} measured in {figures.duration(seconds)}"] if measured else []
    count = f"{len(report.steps)} {_plural(len(report.steps), 'observation')}"
    return f"{count}: {', '.join(told)}" if report.steps else ""


def _column(figure: _Figure, rows: Sequence[Row]) -> Column | None:
    """Return the column of the metric that most rows have, earlier names first; None if no row has any."""
    present = dict.fromkeys(key for row in rows for key in row.figures)
    keys = [key for name in figure.titles for key in present if _ARGUMENTS.sub("", key) == name]
    if not keys:
        return None
    key = max(keys, key=lambda candidate: sum(candidate in row.figures for row in rows))
    found = [row.figures.get(key) for row in rows]
    base = next(item.unit for item in found if item)
    finite = [abs(item.value) for item in found if item and math.isfinite(item.value)]
    unit = figures.suited(max(finite, default=0.0), base)
    values = [None if item is None else figures.converted(item.value, unit) for item in found]
    decimals = _decimals(values) if figure.decimals is None else figure.decimals
    cells = (
        _cell(item, value, decimals, signed=figure.signed) for item, value in zip(found, values, strict=True)
    )
    title = figure.titles[_ARGUMENTS.sub("", key)]
    return Column(title, "" if unit == title else unit, tuple(cells), figure.rank)


def _cell(item: Estimate | None, value: float | None, decimals: int, *, signed: bool) -> str:
    if item is None or value is None:
        return "-"
    text = figures.fixed(value, decimals, signed=signed)
    return f"({text})" if item.partial else text


def _decimals(values: Iterable[float | None]) -> int:
    """Return how many decimals give the largest value three significant digits."""
    largest = max((abs(value) for value in values if value and math.isfinite(value)), default=1.0)
    return min(_MOST_DECIMALS, max(0, _SIGNIFICANT - 1 - math.floor(math.log10(largest))))


def _missed(result: Result) -> Iterable[Finding]:
    expected = f"; expected: {result.reason}" if result.expected_failure and result.reason else ""
    if result.outcome == "ERROR":
        first = next(iter(result.reason.splitlines()), "failed, though not by a gate")
        kind: FindingKind = "expected" if result.expected_failure else "ERROR"
        yield Finding(kind, result.variant, f"{first} ({result.nodeid})")
    for verdict in result.verdicts:
        if verdict.outcome in _MISSES:
            kind = "expected" if result.expected_failure else _MISSES[verdict.outcome]
            yield from (Finding(kind, result.variant, text + expected) for text in _sentences(verdict))


def _sentences(verdict: Verdict) -> list[str]:
    """Return a line per decisive check."""
    return [_sentence(check, verdict) for check in verdict.decisive()]


def _sentence(check: Check, verdict: Verdict) -> str:
    """Write a check, with the whole gate where the check is not all of it."""
    return check.sentence() if len(verdict.checks) == 1 else f"{check.sentence('')}; in gate {verdict.gate}"


def _unmeasured(results: Iterable[Result]) -> Iterable[Finding]:
    """Join the variants that one gate could not be measured on for one reason."""
    variants: dict[tuple[str, str], dict[str, None]] = {}
    for result in results:
        for verdict in result.verdicts:
            if verdict.outcome == "UNMEASURED":
                variants.setdefault((verdict.gate, verdict.reason), {})[result.variant] = None
        if result.outcome == "UNMEASURED" and not result.verdicts:
            variants.setdefault((result.nodeid, result.reason), {})[result.variant] = None
    for (gate, reason), names in variants.items():
        yield Finding("unmeasured", ", ".join(names), f"{gate}: {reason}")


def _close(result: Result) -> Iterable[Finding]:
    """Say which passes are too close to call; a miss says so in its own line."""
    for verdict in result.verdicts:
        if verdict.outcome == "PASS" and verdict.close:
            near = (check for check in verdict.decisive() if check.close)
            yield from (Finding("close", result.variant, _sentence(check, verdict)) for check in near)


def _problem_text(text: str, causes: Sequence[str]) -> str:
    return f"{text}; likely causes: {', '.join(causes)}" if causes else text


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"
