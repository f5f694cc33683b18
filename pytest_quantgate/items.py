"""Gates of the configuration file as test items of their own: `quantgate.toml::release[gptq-v1]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_quantgate.errors import UsageError
from pytest_quantgate.parse import parse
from pytest_quantgate.places import EDGE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["GateFile", "GateItem"]


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
