"""A sweep's rows as text, JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytest_quantgate import figures
from pytest_quantgate.cli.tables import table
from pytest_quantgate.escaping import markdown, plain
from pytest_quantgate.sweep import RULE, Result, front, smallest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_quantgate.spec import Estimate, Json
    from pytest_quantgate.verdict import Verdict

__all__ = ["RENDERERS", "Page"]

SCHEMA = 1
NONE = "-"
_TITLES: Final[Mapping[str, str]] = {
    "group_size": "group",
    "desc_act": "act",
    "ppl": "PPL",
    "ppl.ratio": "PPL ratio",
    "kld.mean": "KLD",
    "bits_per_weight": "bits/w",
    "tokens_per_second": "tok/s",
}


@dataclass(frozen=True, slots=True)
class Page:
    """All that is shown.

    Attributes:
        metrics: texts of the metrics, a column each.
        baseline: the reference's row; None where the sweep was interrupted.
        results: the rows that are finished, in order.
        total: how many there were to be.
        interrupted: the sweep ended early.

    """

    metrics: tuple[str, ...]
    baseline: Result | None
    results: tuple[Result, ...]
    total: int
    interrupted: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """The recipe's parameters that the rows differ in."""
        return tuple(dict.fromkeys(key for result in self.results for key in result.values))

    @property
    def best(self) -> frozenset[str]:
        """The names of the Pareto-best rows."""
        return front(self.results)

    @property
    def rows(self) -> tuple[Result, ...]:
        """The rows, the baseline's first."""
        return (*((self.baseline,) if self.baseline else ()), *self.results)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What stands below the table: the rule, the smallest that passes, and why a row is not whole or fails."""
        told = [f"* {RULE}"] if self.best else []
        if self.interrupted:
            told.append(f"interrupted: {len(self.results)} of {self.total} rows")
        if (found := smallest(self.results)) is not None:
            told.append(f"smallest that passes: {found.name}")
        for result in self.results:
            told += [f"{result.name}: not measured: {result.reason}"] if result.reason else []
            told += [f"{result.name}: {_explained(one)}" for one in result.verdicts if not one.passed]
        return tuple(told)


def _explained(verdict: Verdict) -> str:
    """Return a verdict's explanation on one line that begins with its outcome."""
    text = "; ".join(line.strip() for line in verdict.explain().splitlines())
    return text if text.startswith(verdict.outcome) else f"{verdict.outcome}: {text}"


def _cells(page: Page) -> list[list[str]]:
    judged = any(result.verdicts for result in page.results)
    head = ["variant", *(_TITLES.get(key, key) for key in (*page.keys, *page.metrics))]
    found = [[*head, *(("gates",) if judged else ()), "best"]]
    for result in page.rows:
        cells = [result.name, *(_written(result.values.get(key)) for key in page.keys)]
        cells += [_figure(result.figures.get(metric)) for metric in page.metrics]
        cells += [_standing(result) or NONE] if judged else []
        found.append([*cells, "*" if result.name in page.best else ""])
    return found


def _standing(result: Result) -> str:
    return result.outcome or ("not measured" if result.reason else "")


def _written(value: object) -> str:
    if value is None:
        return NONE
    return str(value).lower() if isinstance(value, bool) else str(value)


def _figure(estimate: Estimate | None) -> str:
    if estimate is None:
        return NONE
    unit = estimate.unit if estimate.unit == "B" else ""
    return figures.quantity(estimate.value, unit, digits=4)


def _text(page: Page) -> str:
    return "\n".join([table(*_cells(page)), *(("", *map(plain, page.remarks)) if page.remarks else ())])


def _markdown(page: Page) -> str:
    head, *rows = _cells(page)
    left = 1 + len(page.keys)
    rule = [":--" if number < left else "--:" for number in range(len(head))]
    lines = [head, rule, *([markdown(cell) for cell in row] for row in rows)]
    told = [f"- {markdown(remark)}" for remark in page.remarks]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), *(("", *told) if told else ())])


def _csv(page: Page) -> str:
    """Return base units, bytes and seconds, in columns that are named as gates name them."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["variant", *page.keys, *page.metrics, "gates", "best", "reason"])
    for result in page.rows:
        values = [_written(result.values[key]) if key in result.values else "" for key in page.keys]
        found = [repr(result.figures[key].value) if key in result.figures else "" for key in page.metrics]
        best = "true" if result.name in page.best else "false"
        writer.writerow([result.name, *values, *found, result.outcome, best, plain(result.reason)])
    return stream.getvalue().rstrip("\n")


def _json(page: Page) -> str:
    value: dict[str, Json] = {
        "schema": SCHEMA,
        "rule": RULE,
        "keys": page.keys,
        "metrics": page.metrics,
        "interrupted": page.interrupted,
        "total": page.total,
        "baseline": _row(page.baseline, page) if page.baseline else None,
        "rows": [_row(result, page) for result in page.results],
    }
    return json.dumps(value, indent=1, allow_nan=False)


def _row(result: Result, page: Page) -> dict[str, Any]:
    return {
        "name": result.name,
        "values": dict(result.values),
        "figures": {text: found.to_json() for text, found in result.figures.items()},
        "outcome": result.outcome,
        "gates": [verdict.gate for verdict in result.verdicts],
        "explained": [verdict.explain() for verdict in result.verdicts],
        "best": result.name in page.best,
        "reason": result.reason,
    }


RENDERERS: Final[Mapping[str, Callable[[Page], str]]] = {
    "text": _text,
    "json": _json,
    "csv": _csv,
    "markdown": _markdown,
}
