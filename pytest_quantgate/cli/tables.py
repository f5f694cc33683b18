"""Rows of text as a table: columns aligned, nothing that could move a cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_quantgate.escaping import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["table"]


def table(*rows: Sequence[str]) -> str:
    """Return the rows, one per line, their cells padded to the width of the column; the last cell is not."""
    cells = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )
    return "\n".join(lines)
