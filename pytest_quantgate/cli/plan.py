"""`quantgate plan`: what pytest would measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Run pytest with `--quantgate-plan`; return its exit code."""
    return int(pytest.main(["--quantgate-plan", *arguments]))
