"""The rows that benchmarks return and the Markdown table that they make. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["BEGIN", "END", "Row", "markdown", "put_between"]

BEGIN = "<!-- make bench: begin -->"
END = "<!-- make bench: end -->"
COLUMNS = ("what", "measured", "against", "ratio", "aim")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        what: the case that was measured.
        value: what came out, with its unit, as people read it.
        against: what it is compared with, in the same unit.
        ratio: value over against, or a share where `what` says so; None where no ratio makes sense.
        spread: the quartiles of the ratio over the repetitions, where there were several.
        aim: the ratio or value that is wanted; empty for information only.

    """

    what: str
    value: str
    against: str = ""
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    aim: str = ""

    def cells(self) -> tuple[str, ...]:
        """Return the cells of the table, in the order of its columns."""
        return self.what, self.value, self.against, self._ratio(), self.aim

    def _ratio(self) -> str:
        if self.ratio is None:
            return ""
        found = f"{self.ratio:.3g}"
        if self.spread is None:
            return found
        low, high = self.spread
        return f"{found} ({low:.3g} to {high:.3g})"


def markdown(rows: Iterable[Row]) -> str:
    """Return the rows as one Markdown table."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def put_between(document: str, text: str) -> str:
    """Return the document with `text` between its two markers.

    Raises:
        ValueError: the markers are not there, once each and in order.

    """
    before, begun, rest = document.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not begun or not ended or BEGIN in after or END in after:
        raise ValueError(f"the document needs the lines {BEGIN} and {END}, once each")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"
