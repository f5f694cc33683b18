"""What arrived on test reports, on the process that talks to the user: merged, printed, written."""

from __future__ import annotations

import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_quantgate import study
from pytest_quantgate.options import Options, config_file
from pytest_quantgate.registry import Registry
from pytest_quantgate.report import Report, build
from pytest_quantgate.reporters.terminal import Layout

if TYPE_CHECKING:
    import pytest

__all__ = ["Results"]


class Results:
    """The payloads of a run and where their report goes."""

    def __init__(self, config: pytest.Config) -> None:
        file = config_file(config)
        table = study.read_table(file) if file else {}
        self._folder = Options.from_config(config, table, file.parent if file else config.rootpath).report
        self._registry = Registry()
        config.hook.pytest_quantgate_register(registry=self._registry)
        self._config = config
        self._payloads: list[dict[str, Any]] = []
        self._created = datetime.now(UTC).isoformat(timespec="seconds")

    def add(self, payload: dict[str, Any]) -> None:
        """Take what one test report carries."""
        self._payloads.append(payload)

    @property
    def report(self) -> Report:
        """All of it, merged."""
        return build([{"created": self._created}, *self._payloads])

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
        if self._folder:
            terminal.write_line(f"report: {self._folder}")

    def write(self) -> None:
        """Write one file per report format into the folder that was asked for, if one was."""
        if self._folder is None:
            return
        report = self.report
        for name in self._registry.names("reporters"):
            if name != "terminal":
                self._write(self._folder / name, self._registry.get("reporters", name)(report))

    def _write(self, file: Path, text: str) -> None:
        temporary = file.with_name(f".{file.name}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(file)
        except OSError as error:
            warnings.warn(f"{file}: the report cannot be written ({error.strerror})", stacklevel=2)
