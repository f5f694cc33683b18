"""`quantgate explain`: why the gates of a variant fail, after a red night build."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate import explain
from pytest_quantgate import study as studies
from pytest_quantgate.cli.configuration import config_file
from pytest_quantgate.cli.explain_page import Explained, as_csv, as_json, as_text
from pytest_quantgate.cli.progress import narrator
from pytest_quantgate.errors import CheckpointError, ConfigError, StoreError, UsageError
from pytest_quantgate.escaping import plain
from pytest_quantgate.explain import what, where
from pytest_quantgate.files import write_atomic
from pytest_quantgate.history import History
from pytest_quantgate.marks import Asked, as_confidence
from pytest_quantgate.measurements import Measurements
from pytest_quantgate.options import Options
from pytest_quantgate.parse import parse
from pytest_quantgate.registry import Registry
from pytest_quantgate.report import Report

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence

    from pytest_quantgate.report.findings import Finding
    from pytest_quantgate.study import Study

__all__ = ["run"]

INTERRUPTED = 2
"""pytest's exit code for Ctrl-C."""


def run(chosen: Namespace) -> int:
    """Explain each variant, print or write it, and return 0."""
    study = studies.read(config_file(chosen.config), Path.cwd())
    output = _output(chosen.output)
    names = tuple(dict.fromkeys(chosen.variant)) or study.names
    for name in names:
        study.variant(name)
    # what is measured for the report alone explains nothing
    measured = _measurements(chosen, replace(study, measure=()))
    asked = {name: _gates(chosen, study, measured.options, name) for name in names}
    if not any(asked.values()):
        raise ConfigError("there is no gate to explain; name one with --gate GATE, or judge the study first")
    try:
        found = _explained(chosen, measured, {name: gates for name, gates in asked.items() if gates})
    except KeyboardInterrupt:
        print("quantgate: interrupted; what was measured is kept in the store", file=sys.stderr)
        return INTERRUPTED
    finally:
        measured.engine.release()
    _show(chosen, found, output)
    return 0


def _measurements(chosen: Namespace, study: Study) -> Measurements:
    written = study.table.get("store", ".quantgate")
    if not isinstance(written, str):
        raise ConfigError(f"{study.file}: [tool.quantgate] store = {written!r}: write a string")
    said = chosen.store or os.environ.get("QUANTGATE_STORE")
    options = Options(
        root=study.root,
        store=Path(said).absolute() if said else study.root / written,
        report=None,
        refresh="",
        offline=False,
        strict=False,
        plan_only=False,
        allow_pickle=chosen.allow_pickle,
        allow_code=chosen.allow_code,
        confidence=as_confidence(study.table.get("confidence")),
    )
    return Measurements(study, options, Registry(), narrator(), time.time())


def _gates(chosen: Namespace, study: Study, options: Options, variant: str) -> tuple[Asked, ...]:
    """Return the gates of a variant: those that are given, else the study's and those of the newest run."""
    texts = list(chosen.gate) or [text for _, text in study.gates] + _judged(options.store, variant)
    return tuple(dict.fromkeys(Asked(parse(text)) for text in texts))


def _judged(store: Path, variant: str) -> list[str]:
    """Return the gates of a variant in the newest run that judged it."""
    history = History(store)
    for run_ in history.runs():
        report = Report.from_json(dict(history.report(run_)), place=str(history.file))
        found = [result for result in report.results if result.variant == variant]
        if found:
            return [verdict.gate for result in found for verdict in result.verdicts]
    return []


def _explained(
    chosen: Namespace, measured: Measurements, asked: Mapping[str, Sequence[Asked]]
) -> list[Explained]:
    for gates in asked.values():
        for one in gates:
            measured.wants.check(one.gate)
    try:
        measured.prepare(asked)
    except CheckpointError as error:
        raise UsageError(str(error)) from error
    return [_one(chosen, measured, name, gates) for name, gates in asked.items()]


def _one(chosen: Namespace, measured: Measurements, name: str, asked: Sequence[Asked]) -> Explained:
    verdicts = measured.judge(name, asked)
    if all(verdict.passed for verdict in verdicts):
        return Explained(name, verdicts)
    failing = [one for one, verdict in zip(asked, verdicts, strict=True) if not verdict.passed]
    findings: list[Finding] = list(explain.findings(measured, name))
    decided = any(verdict.outcome != "UNMEASURED" for verdict in verdicts if not verdict.passed)
    seen = blamed = None
    if decided and not chosen.quick and (chosen.what or not chosen.where):
        blamed = what.look(measured, name, chosen.windows)
        findings += blamed.findings
    if decided and not chosen.quick and (chosen.where or not chosen.what):
        seen = where.look(measured, name, failing, chosen.windows)
        findings += seen.findings
    return Explained(name, verdicts, explain.ranked(findings), seen, blamed)


# --- output


def _output(given: str | None) -> Path | None:
    """Return where it goes; refused before anything is measured, rather than after hours."""
    if given is None:
        return None
    path = Path(given).absolute()
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"--output {given}: not a file in a folder that exists")
    return path


def _show(chosen: Namespace, found: Sequence[Explained], output: Path | None) -> None:
    text = as_json(found) if chosen.format == "json" else as_text(found)
    if output is None:
        print(text)
        return
    tables = output.suffix == ".csv"
    if tables:
        print(text)
    try:
        write_atomic(output, [(as_csv(found) if tables else text).encode(), b"\n"])
    except OSError as error:
        if not tables:
            print(text)
        raise StoreError(f"{output}: cannot be written ({error.strerror})") from error
    print(plain(f"quantgate: {output} written"), file=sys.stderr)
