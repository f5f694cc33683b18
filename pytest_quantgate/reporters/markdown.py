"""Report -> report.md, fit for a CI step summary (GitHub-flavoured Markdown).

Verdict first, then the study's table, what is missed, and the circumstances in a fold. Text from outside is
written with character references: it can be neither markup nor a table cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_quantgate import figures
from pytest_quantgate.escaping import markdown
from pytest_quantgate.report import capabilities, changes, findings, summary
from pytest_quantgate.report.selftest import detections, misses, untested

if TYPE_CHECKING:
    from pytest_quantgate.report import Report, Row
    from pytest_quantgate.report.summary import Column, Finding, FindingKind
    from pytest_quantgate.spec import Estimate

__all__ = ["render"]

_SECTIONS: Mapping[FindingKind, str] = {
    "FAIL": "Missed gates",
    "ERROR": "Errors",
    "inconclusive": "Inconclusive gates",
    "expected": "Missed as expected",
    "unmeasured": "Not measured",
    "close": "Too close to call",
    "sanity": "Suspicious checkpoints",
    "note": "Notes",
}
_MOST = 6


def render(report: Report) -> str:
    """Return the page, ending in a newline."""
    word, _, rest = summary.headline(report).partition(": ")
    blocks = [
        f"## Quantization gates: {word}" if rest else "## Quantization gates",
        _sentence(rest or word),
        *_table(report),
        *_finding_blocks(summary.findings(report)),
        *_causes(report),
        *_capabilities(report),
        *_intervals(report),
        *_selftest(report),
        *_changes(report),
        summary.store_line(report),
        *_details(report),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _table(report: Report) -> list[str]:
    table = summary.table(report)
    if not table.names:
        return []
    titles = ["variant", *map(_title, table.columns), "verdict"]
    rules = [":--", *("--:" for _ in table.columns), ":--"]
    rows = zip(
        map(markdown, table.names), *(column.cells for column in table.columns), _verdicts(table), strict=True
    )
    lines = [_row(cells) for cells in (titles, rules, *rows)]
    legend = f"{summary.CLOSE} the interval contains the limit: too close to call."
    close = any(verdict.endswith(summary.CLOSE) for verdict in table.verdicts)
    return ["\n".join(lines), legend if close else ""]


def _verdicts(table: summary.Table) -> list[str]:
    return [
        f"**{verdict}**" if verdict.startswith(("FAIL", "ERROR")) else verdict for verdict in table.verdicts
    ]


def _title(column: Column) -> str:
    return f"{column.title} ({markdown(column.unit)})" if column.unit else column.title


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _finding_blocks(found: Sequence[Finding]) -> list[str]:
    blocks = []
    for kind, title in _SECTIONS.items():
        lines = [_item(finding) for finding in found if finding.kind == kind]
        if lines:
            blocks += [f"### {title}", "\n".join(lines)]
    return blocks


def _item(finding: Finding) -> str:
    subject = f"**{markdown(finding.subject)}**: " if finding.subject else ""
    return f"- {subject}{markdown(finding.text)}"


def _causes(report: Report) -> list[str]:
    """Return why gates may have failed, with what that rests on."""
    told = findings.likeliest(report.findings, _MOST)
    lines = [f"- **{markdown(one.variant)}**: {markdown(one.sentence())}" for one in told]
    return ["### Why", "\n".join(lines)] if lines else []


def _capabilities(report: Report) -> list[str]:
    """Return what became of each capability, the worst of each variant first."""
    found = capabilities.lines(report.capabilities, (row.name for row in report.variants))
    rules = [":--", ":--", *["--:"] * (len(capabilities.TITLES) - 2)]
    rows = [_row([markdown(cell) for cell in line.cells]) for line in found]
    return ["### What broke", "\n".join([_row(capabilities.TITLES), _row(rules), *rows])] if found else []


def _intervals(report: Report) -> list[str]:
    """Return what pairing buys: each comparison's interval, and the one that unpaired data would give."""
    cells = [
        [markdown(row.name), *map(markdown, _paired(metric, figure, figure.unpaired))]
        for row in report.variants
        for metric, figure in row.figures.items()
        if figure.unpaired is not None and figure.low is not None
    ]
    titles = ["variant", "metric", "value", "paired", "unpaired", "narrower"]
    lines = [_row(line) for line in (titles, [":--", ":--", "--:", "--:", "--:", "--:"], *cells)]
    return ["### Paired intervals", "\n".join(lines)] if cells else []


def _paired(metric: str, figure: Estimate, unpaired: tuple[float, float] | None) -> list[str]:
    assert unpaired is not None
    assert figure.low is not None
    assert figure.high is not None
    apart = replace(figure, low=unpaired[0], high=unpaired[1])
    width = figure.high - figure.low
    factor = f"{(unpaired[1] - unpaired[0]) / width:.1f} times" if width else "-"
    value = figures.quantity(figure.value, figure.unit)
    return [metric, value, figures.interval(figure), figures.interval(apart), factor]


def _selftest(report: Report) -> list[str]:
    """Return the detection table, and the gates that let severe damage pass or were not tested."""
    variants, rows = detections(report.selftest)
    if not report.selftest:
        return []
    titles = ["damage", "grade", *map(markdown, variants)]
    cells = [[markdown(row.damage), row.grade, *row.cells] for row in rows]
    table = [_row(line) for line in (titles, [":--"] * len(titles), *cells)] if rows else []
    missed = [
        f"- **{markdown(variant)}**: {markdown(gate)} lets pass {markdown(kinds)}"
        for variant, gate, kinds in misses(report.selftest)
    ]
    left = [
        f"- {markdown(names)}: {markdown(gate)} was not tested: {markdown(reason)}"
        for names, gate, reason in untested(report.selftest)
    ]
    return ["### Self-test of the gates", "\n".join(table), "\n".join([*missed, *left])]


def _changes(report: Report) -> list[str]:
    found = [
        f"- against {markdown(run)}: **{markdown(name)}** {markdown(text)}"
        for run, name, text in changes.lines(report.changes)
    ]
    return ["### Changes", "\n".join(found)] if found else []


def _details(report: Report) -> list[str]:
    """Return the fold: models, environment, protocols, observations."""
    environment = [
        f"- {markdown(name)}: {_value(value)}" for name, value in sorted(report.environment.items())
    ]
    protocols = [f"- {_value(protocol)}" for protocol in report.protocols]
    steps = [
        f"- {markdown(step.label)} {markdown(step.key[:12])}: {step.source}, {figures.duration(step.seconds)}"
        for step in report.steps
    ]
    sections = (
        ("Models", [_model(row) for row in report.rows]),
        (
            "Environment",
            [*([f"- created: {markdown(report.created)}"] if report.created else []), *environment],
        ),
        ("Protocols", protocols),
        ("Observations", steps),
    )
    inside = [block for title, lines in sections if lines for block in (f"#### {title}", "\n".join(lines))]
    return (
        ["<details>\n<summary>Models, environment, protocols</summary>", *inside, "</details>"]
        if inside
        else []
    )


def _model(row: Row) -> str:
    recipe = f"recipe {_recipe(row.recipe)}" if row.recipe else ""
    engine = markdown(" ".join(f"{name} {version}" for name, version in row.engine.items()))
    told = (markdown(row.source), recipe, markdown(row.dtype), engine, markdown(row.weights))
    return f"- **{markdown(row.name)}**: {', '.join(part for part in told if part)}"


def _recipe(recipe: Mapping[str, Any]) -> str:
    """Write `Recipe.to_json()` for reading; a recipe of another shape as the JSON value it is."""
    parameters = recipe.get("parameters")
    if not isinstance(parameters, Mapping):
        return _value(recipe)
    rest = {name: item for name, item in recipe.items() if name not in {"method", "parameters"}}
    return ", ".join(filter(None, (_value(recipe.get("method", "")), _value(parameters), _value(rest))))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _value(value: Any) -> str:
    """Write a JSON value for reading: an object as "name = value, …"."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{markdown(str(name))} = {_value(item)}" for name, item in value.items() if item not in ("", {})
        )
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_value, value))
    return markdown(str(value))
