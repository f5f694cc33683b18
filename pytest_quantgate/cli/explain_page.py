"""What `quantgate explain` shows: text, JSON, and the tables as CSV."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytest_quantgate.escaping import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_quantgate.explain.what import What
    from pytest_quantgate.explain.where import Where
    from pytest_quantgate.report.findings import Finding
    from pytest_quantgate.spec import Json
    from pytest_quantgate.verdict import Verdict

__all__ = ["Explained", "as_csv", "as_json", "as_text"]

SCHEMA: Final = "quantgate-explain/1"
MODULE: Final = (
    "bits", "sqnr", "rounding", "cosine", "kernel", "shift", "shifted", "dead", "regrouped", "moved", "twin",
    "twin_cosine",
)  # fmt: skip
LAYER: Final = ("relative", "added")
RESTORED: Final = ("kld", "share", "holds")
NO_CAUSE: Final = "no cause found"


@dataclass(frozen=True, slots=True)
class Explained:
    """One variant, looked into.

    Attributes:
        variant: its name.
        verdicts: one per gate.
        findings: likeliest first.
        where: tables of the model's inside; None if that was not asked for.
        what: who is to blame; None if that was not asked for.

    """

    variant: str
    verdicts: tuple[Verdict, ...]
    findings: tuple[Finding, ...] = ()
    where: Where | None = None
    what: What | None = None

    @property
    def holds(self) -> bool:
        """Whether there is nothing to explain."""
        return all(verdict.passed for verdict in self.verdicts)

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object of builtin types only."""
        return {
            "variant": self.variant,
            "holds": self.holds,
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
            "findings": [finding.to_json() for finding in self.findings],
            "where": self.where.to_json() if self.where else None,
            "what": self.what.to_json() if self.what else None,
        }


def as_json(found: Sequence[Explained]) -> str:
    """Return all of it as one JSON value."""
    value = {"schema": SCHEMA, "variants": [one.to_json() for one in found]}
    return json.dumps(value, indent=1, allow_nan=False)


def as_text(found: Sequence[Explained]) -> str:
    """Return it for people: verdicts, then findings, likeliest first, then what that rests on."""
    return "\n\n".join("\n".join(map(plain, _lines(one))) for one in found)


def _lines(one: Explained) -> Iterator[str]:
    yield one.variant
    for verdict in one.verdicts:
        yield f"  {verdict.outcome:<12}  {verdict.explain().splitlines()[0]}"
    if one.holds:
        yield "  its gates hold; nothing to explain"
        return
    for number, finding in enumerate(one.findings, 1):
        yield f"  {number}. {finding.text}"
        if finding.evidence:
            yield f"     evidence: {finding.evidence}"
        if finding.advice:
            yield f"     advice: {finding.advice}"
    if not one.findings:
        yield f"  {NO_CAUSE}"
    yield from _seen(one)


def _seen(one: Explained) -> Iterator[str]:
    if one.what is not None:
        if one.what.blame:
            yield f"  to blame: {one.what.blame}"
        for check in one.what.checks:
            yield f"     {check}"
    if one.where is None:
        return
    for note in one.where.notes:
        yield f"     {note}"
    if one.where.layers:
        yield "  layer outputs, relative error (what the layer adds):"
        for row in one.where.layers:
            yield f"     {row['name']}: {row['relative']:.3g} ({row['added']:+.2g})"
    if one.where.restored:
        yield "  put back to full precision, share of the KL divergence that it carried:"
        for trial in one.where.restored:
            held = {True: ", gates hold", False: ", gates fail", None: ""}[trial.holds]
            yield f"     {' + '.join(trial.names)}: {trial.share:.0%} (KLD {trial.kld:.3g}{held})"


def as_csv(found: Sequence[Explained]) -> str:
    """Return the tables as one: a row per module, layer and trial of each variant."""
    stream = io.StringIO()
    columns = ("variant", "table", "name", *MODULE, *LAYER, *RESTORED)
    writer = csv.DictWriter(stream, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for one in found:
        for table, row in _rows(one):
            # a cell that begins like a formula would be run by a spreadsheet
            writer.writerow({"variant": one.variant.lstrip("=+-@"), "table": table, **row})
    return stream.getvalue().rstrip("\n")


def _rows(one: Explained) -> Iterator[tuple[str, dict[str, Any]]]:
    if one.where is None:
        return
    for row in one.where.modules:
        yield "module", dict(row)
    for row in one.where.layers:
        yield "layer", dict(row)
    for trial in one.where.restored:
        yield "restored", {**trial.to_json(), "name": " + ".join(trial.names)}
