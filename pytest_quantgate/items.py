"""Test items of the configuration file: its gates, `quantgate.toml::release[gptq-v1]`, and tests of gates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_quantgate.errors import UsageError
from pytest_quantgate.parse import parse
from pytest_quantgate.places import EDGE, variant_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["GateFile", "GateItem", "SelftestItem", "selftests"]


class GateFile(pytest.File):
    """The configuration file: one item per gate and variant."""

    def collect(self) -> Iterator[GateItem]:
        """Yield the items.

        Raises:
            UsageError: a gate does not parse, or no variant is configured.

        """
        session = self.config.stash[EDGE].session
        for name, text in session.study.gates:
            try:
                parse(text)
            except UsageError as error:
                raise UsageError(f"{self.path}: [tool.quantgate.gates] {name}: {error}") from error
            for variant in session.variants_of([pytest.mark.quantgate(text).mark]):
                yield GateItem.from_parent(self, name=f"{name}[{variant}]", variant=variant, gate=text)


class GateItem(pytest.Item):
    """One gate on one variant."""

    def __init__(self, *, variant: str, gate: str, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.variant = variant
        self.gate = gate
        self.add_marker(pytest.mark.quantgate(gate))
        if self.config.pluginmanager.hasplugin("xdist"):
            self.add_marker(pytest.mark.xdist_group(variant))

    def runtest(self) -> None:
        """Judge the gate."""
        self.config.stash[EDGE].judge(self)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Return where it is written."""
        return self.path, None, f"{self.name}: {self.gate}"


class SelftestItem(pytest.Item):
    """The gates of one variant, tried on damaged copies of it."""

    def __init__(self, *, variant: str, marks: Iterable[pytest.Mark], **keywords: Any) -> None:
        super().__init__(**keywords)
        self.variant = variant
        for mark in marks:
            self.add_marker(pytest.mark.quantgate.with_args(*mark.args, **mark.kwargs))
        if self.config.pluginmanager.hasplugin("xdist"):
            self.add_marker(pytest.mark.xdist_group(variant))

    def runtest(self) -> None:
        """Try the gates."""
        self.config.stash[EDGE].session.selftest(self)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Return the configuration file, and what is done."""
        return self.path, None, self.name


def selftests(root: pytest.Session, items: Iterable[pytest.Item]) -> Iterator[SelftestItem]:
    """Yield a self-test for each variant that the collected items have gates for: those gates, together."""
    study = root.config.stash[EDGE].session.study
    marks: dict[str, list[pytest.Mark]] = {}
    for item in items:
        marks.setdefault(variant_of(item), []).extend(item.iter_markers("quantgate"))
    file = GateFile.from_parent(root, path=study.file)
    for variant in study.names:
        if any(mark.args for mark in marks.get(variant, ())):
            yield SelftestItem.from_parent(
                file, name=f"selftest[{variant}]", variant=variant, marks=marks[variant]
            )
