"""Report -> report.json: the value itself, which `Report.from_json` reads; see docs/report.schema.json."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_quantgate.report import Report

__all__ = ["render"]


def render(report: Report) -> str:
    """Return the report as ASCII JSON (so that any encoding can hold it), ending in a newline."""
    return json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n"
