"""What arrived on test reports, on the process that talks to the user: merged, printed, written."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_quantgate import study
from pytest_quantgate.errors import StoreError
from pytest_quantgate.escaping import plain
from pytest_quantgate.history import History, Run, new_id
from pytest_quantgate.options import Options, config_file
from pytest_quantgate.registry import Registry
from pytest_quantgate.report import Report, build
from pytest_quantgate.reporters.terminal import Layout
from pytest_quantgate.store import Store, StoreWarning

if TYPE_CHECKING:
    import pytest

    from pytest_quantgate.spec import Step

__all__ = ["Results"]


class Results:
    """The payloads of a run and where their report goes."""

    def __init__(self, config: pytest.Config) -> None:
        file = config_file(config)
        table = study.read_table(file) if file else {}
        self._options = Options.from_config(config, table, file.parent if file else config.rootpath)
        self._folder = self._options.report
        self._registry = Registry()
        config.hook.pytest_quantgate_register(registry=self._registry)
        self._config = config
        self._payloads: list[dict[str, Any]] = []
        now = datetime.now(UTC)
        self._created = now.isoformat(timespec="seconds")
        self._run = new_id(now)
        self._kept = False

    def add(self, payload: dict[str, Any]) -> None:
        """Take what one test report carries."""
        self._payloads.append(payload)

    @property
    def report(self) -> Report:
        """All of it, merged."""
        kept = {"run": self._run} if self._kept else {}
        return build([{"created": self._created, "tag": self._options.tag, **kept}, *self._payloads])

    def summarize(self, terminal: Any) -> None:
        """Print the summary."""
        render = self._registry.get("reporters", "terminal")
        encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        layout = Layout(
            self._config.get_terminal_writer().fullwidth,
            color=terminal.hasmarkup,
            unicode=encoding.lower().startswith("utf"),
        )
        terminal.section("quantgate")
        terminal.write_line(render(self.report, layout))
        if self._kept:
            tag = f", tag {plain(self._options.tag)}" if self._options.tag else ""
            terminal.write_line(f"run: {self._run}{tag}")
        if self._folder:
            terminal.write_line(f"report: {self._folder}")

    def write(self) -> None:
        """Keep the run in the history, and write one file per report format into the folder that was asked for."""
        self._remember()
        if self._folder is None:
            return
        report = self.report
        for name in self._registry.names("reporters"):
            if name != "terminal":
                self._write(self._folder / name, self._registry.get("reporters", name)(report))

    def _remember(self) -> None:
        """Add the run to the history, if it judged something; that this fails is a warning."""
        report = replace(self.report, run=self._run)
        if not any(result.verdicts for result in report.results):
            return
        verdicts = {row.name: row.status for row in report.variants}
        run = Run(self._run, report.created, report.tag, report.status, verdicts)
        try:
            steps = _steps(report, Store(self._options.store, writable=False))
            History(self._options.store).add(run, report.to_json(), steps)
        except StoreError as error:
            _warn(f"{error}; this run is not kept")
        else:
            self._kept = True

    def _write(self, file: Path, text: str) -> None:
        temporary = file.with_name(f".{file.name}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(file)
        except OSError as error:
            warnings.warn(f"{file}: the report cannot be written ({error.strerror})", stacklevel=2)


def _warn(text: str) -> None:
    """Warn, also where warnings are errors: the run is over, and what could not be noted does not fail it."""
    try:
        warnings.warn(text, StoreWarning, stacklevel=3)
    except StoreWarning:
        with warnings.catch_warnings():
            warnings.simplefilter("always", StoreWarning)
            warnings.warn(text, StoreWarning, stacklevel=3)


def _steps(report: Report, store: Store) -> dict[str, list[Step]]:
    """Return what the figures of each variant rest on, as far as the store has it: the next run reads it there."""
    found: dict[str, list[Step]] = {}
    for row in report.variants:
        keys = dict.fromkeys(known[0] for known in row.steps.values() if known)
        steps = [step for key in keys if (step := store.step(key)) is not None]
        # names are no part of a key: two variants of one checkpoint share an entry
        found[row.name] = [replace(step, model=replace(step.model, name=row.name)) for step in steps]
    return found
