"""Report -> the terminal summary: the study's table, then a line for each thing to know.

The table keeps within `Layout.width` by shortening names and then leaving out columns, the least telling
first, which it says. Sentences are one line each, however long.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from pytest_quantgate.escaping import ascii_only, plain
from pytest_quantgate.report import capabilities, changes, findings, summary
from pytest_quantgate.report.selftest import detections, misses, untested

if TYPE_CHECKING:
    from pytest_quantgate.report import Report
    from pytest_quantgate.report.summary import Column, Finding, Table

__all__ = ["Layout", "render"]

_GAP = "  "
_SHORTEST_NAME = 12
_LONGEST_NAME = 32
_CAUSES = 2
_LEGEND = f"{summary.CLOSE} too close to call: the interval contains the limit"
_COLORS: Mapping[str, str] = {
    "partial": "33",
    "PASS": "32",
    "FAIL": "31",
    "ERROR": "31",
    "sanity": "31",
    "expected": "33",
    "unmeasured": "33",
    "inconclusive": "33",
    "close": "33",
}
Paint: TypeAlias = Callable[[str, str], str]


@dataclass(frozen=True, slots=True)
class Layout:
    """What the terminal can show: columns, ANSI colours, characters beyond ASCII."""

    width: int = 80
    color: bool = False
    unicode: bool = True


def render(report: Report, layout: Layout | None = None) -> str:
    """Return the summary, without a trailing newline and without a section header."""
    layout = layout or Layout()
    paint = _ansi if layout.color else _bare
    found = summary.findings(report)
    blocks = [
        _table_lines(summary.table(report), layout.width, paint),
        _finding_lines(found, paint),
        _cause_lines(report),
        _capability_lines(report),
        _selftest_lines(report),
        [plain(f"against {run}: {name} {text}") for run, name, text in changes.lines(report.changes)],
        [line for line in (summary.store_line(report), summary.headline(report)) if line],
    ]
    text = "\n\n".join("\n".join(lines) for lines in blocks if lines)
    return text if layout.unicode else ascii_only(text)


def _cause_lines(report: Report) -> list[str]:
    """Return why gates may have failed, the likeliest causes of each variant."""
    told = findings.likeliest(report.findings, _CAUSES)
    return [f"why{_GAP}{plain(one.variant)}: {plain(one.brief())}" for one in told]


def _capability_lines(report: Report) -> list[str]:
    """Return what became of each capability, the worst of each variant first."""
    found = capabilities.lines(report.capabilities, (row.name for row in report.variants))
    if not found:
        return []
    grid = [capabilities.TITLES, *(line.cells for line in found)]
    widths = [max(map(_width, map(plain, column))) for column in zip(*grid, strict=True)]
    return [_GAP.join(_aligned(cells, widths)).rstrip() for cells in grid]


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Lay out names to the left and figures to the right."""
    left = _padded(cells, widths)[:2]
    right = [
        " " * (room - _width(plain(cell))) + plain(cell)
        for cell, room in zip(cells[2:], widths[2:], strict=True)
    ]
    return [*left, *right]


def _selftest_lines(report: Report) -> list[str]:
    """Return the detection table, and the gates that let severe damage pass or were not tested."""
    variants, rows = detections(report.selftest)
    grid = [("self-test", *variants), *((f"{row.damage} ({row.grade})", *row.cells) for row in rows)]
    widths = [max(map(_width, map(plain, column))) for column in zip(*grid, strict=True)]
    table = [_GAP.join(_padded(cells, widths)).rstrip() for cells in grid] if rows else []
    missed = [
        f"missed{_GAP}{plain(f'{variant}: {gate} lets pass {kinds}')}"
        for variant, gate, kinds in misses(report.selftest)
    ]
    left = [
        f"not tested{_GAP}{plain(f'{names}: {gate}: {reason}')}"
        for names, gate, reason in untested(report.selftest)
    ]
    return [*table, *missed, *left]


def _padded(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        plain(cell) + " " * (room - _width(plain(cell))) for cell, room in zip(cells, widths, strict=True)
    ]


def _finding_lines(found: Sequence[Finding], paint: Paint) -> list[str]:
    room = max((len(finding.kind) for finding in found), default=0)
    return [
        paint(finding.kind, finding.kind)
        + " " * (room - len(finding.kind))
        + _GAP
        + (f"{plain(finding.subject)}: " if finding.subject else "")
        + plain(finding.text)
        for finding in found
    ]


def _table_lines(table: Table, width: int, paint: Paint) -> list[str]:
    if not table.names:
        return []
    shown, hidden = _fitting(table, width)
    names = _names(shown, width)
    grid = [
        _cells("variant", names),
        *((column.title, plain(column.unit), *column.cells) for column in shown.columns),
        _cells("verdict", shown.verdicts),
    ]
    widths = [max(map(_width, cells)) for cells in grid]
    lines = [
        _line([cells[index] for cells in grid], widths, "", _bare)
        for index in ((0, 1) if _units(shown) else (0,))
    ]
    for index, verdict in enumerate(shown.verdicts, start=2):
        lines.append(_line([cells[index] for cells in grid], widths, verdict.split(" ")[0], paint))
    lines += [_LEGEND] if any(verdict.endswith(summary.CLOSE) for verdict in shown.verdicts) else []
    return lines + ([f"left out to fit {width} columns: {', '.join(hidden)}"] if hidden else [])


def _line(cells: Sequence[str], widths: Sequence[int], kind: str, paint: Paint) -> str:
    """Lay out one row: names and verdicts to the left, figures to the right."""
    padded = [" " * (room - _width(cell)) for cell, room in zip(cells, widths, strict=True)]
    name = cells[0] + padded[0]
    middle = [pad + cell for pad, cell in zip(padded[1:-1], cells[1:-1], strict=True)]
    return _GAP.join([name, *middle, paint(kind, cells[-1])]).rstrip()


def _cells(title: str, cells: Sequence[str]) -> tuple[str, ...]:
    return (title, "", *cells)


def _units(table: Table) -> bool:
    return any(column.unit for column in table.columns)


def _fitting(table: Table, width: int) -> tuple[Table, tuple[str, ...]]:
    """Return the table with as many columns as fit, and the titles of those left out."""
    kept = table
    hidden: list[str] = []
    needed = min(_SHORTEST_NAME, max(_width(plain(name)) for name in ("variant", *table.names)))
    while _spare(kept, width) < needed and any(column.rank for column in kept.columns):
        least = max(kept.columns, key=lambda column: column.rank)
        hidden.append(least.title)
        kept = replace(kept, columns=tuple(column for column in kept.columns if column is not least))
    return kept, tuple(hidden)


def _spare(table: Table, width: int) -> int:
    """Return how many columns are left for the names."""
    figures = sum(len(_GAP) + _column_width(column) for column in table.columns)
    return width - figures - len(_GAP) - max(map(len, ("verdict", *table.verdicts)))


def _column_width(column: Column) -> int:
    return max(map(_width, (column.title, plain(column.unit), *column.cells)))


def _names(table: Table, width: int) -> list[str]:
    room = max(_SHORTEST_NAME, min(_LONGEST_NAME, _spare(table, width)))
    return [_shortened(plain(name), room) for name in table.names]


def _shortened(text: str, room: int) -> str:
    """Cut the middle out: names of variants often differ at their ends."""
    if _width(text) <= room:
        return text
    head, tail = text, ""
    while _width(head) + 1 + _width(tail) > room:
        half = (len(head) + len(tail) - 1) // 2
        head, tail = text[: len(head) + len(tail) - 1 - half], text[len(text) - half :]
    return f"{head}…{tail}"


def _width(text: str) -> int:
    """Return how many terminal columns a text takes."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) != 0 for char in text)


def _ansi(kind: str, text: str) -> str:
    return f"\x1b[{_COLORS[kind]}m{text}\x1b[0m" if kind in _COLORS else text


def _bare(_kind: str, text: str) -> str:
    return text
