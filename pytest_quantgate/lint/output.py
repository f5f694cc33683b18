"""A judged checkpoint as text, as JSON, and as SARIF 2.1.0 for code scanning. Pure.

SARIF: https://docs.oasis-open.org/sarif/sarif/v2.1.0/. A finding about the folder is placed at its config.json, since
a result needs a file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pytest_quantgate.escaping import plain
from pytest_quantgate.lint.rules import RULES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_quantgate.lint.finding import Finding
    from pytest_quantgate.lint.linting import Linted

__all__ = ["FORMATS"]

VERSION = "quantgate-lint/1"
SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def as_text(linted: Linted) -> str:
    """Return one line per finding, the worst first, and a summary."""
    lines = [f"{f.about.severity:<7} {f.rule} {f.about.name}: {f.line()}" for f in linted.findings]
    return "\n".join([*lines, _summary(linted)])


def _summary(linted: Linted) -> str:
    counts = [f"{count} {name}{'s' * (count != 1)}" for name, count in linted.counts().items() if count]
    return plain(f"{linted.path}: {', '.join(counts) or 'nothing found'} ({linted.facts.sentence()})")


def as_json(linted: Linted) -> str:
    """Return everything as one versioned JSON document."""
    document = {
        "format": VERSION,
        "checkpoint": linted.path,
        "counts": linted.counts(),
        "facts": linted.facts.to_json(),
        "findings": [finding.to_json() for finding in linted.findings],
    }
    return json.dumps(document, indent=2)


def as_sarif(linted: Linted) -> str:
    """Return the findings as one SARIF run."""
    driver = {
        "name": "quantgate-lint",
        "informationUri": "https://pypi.org/project/pytest-quantgate/",
        "rules": [
            {
                "id": rule.id,
                "name": rule.name,
                "shortDescription": {"text": rule.summary},
                "defaultConfiguration": {"level": rule.severity},
            }
            for rule in RULES.values()
        ],
    }
    results = [_result(linted, finding) for finding in linted.findings]
    run = {"tool": {"driver": driver}, "results": results, "columnKind": "utf16CodeUnits"}
    return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _result(linted: Linted, finding: Finding) -> dict[str, Any]:
    return {
        "ruleId": finding.rule,
        "ruleIndex": list(RULES).index(finding.rule),
        "level": finding.about.severity,
        "message": {"text": f"{finding.sentence()}; {plain(finding.advice)}"},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": _uri(linted.path, finding.file)}}}],
    }


def _uri(path: str, file: str) -> str:
    """Return a relative reference, so that a CI service finds the file in its checkout; absolute paths stay so."""
    where = Path(path)
    full = where if where.suffix == ".gguf" else where / (file or "config.json")
    if full.is_absolute():
        return full.as_uri()
    # "./" keeps a colon in the first part from being read as a scheme
    text = quote(os.fsencode(PurePosixPath(*full.parts)))
    return text if ":" not in text.partition("/")[0] else f"./{text}"


FORMATS: Mapping[str, Callable[[Linted], str]] = {"text": as_text, "json": as_json, "sarif": as_sarif}
"""How to write a judged checkpoint, by the name of --format."""
