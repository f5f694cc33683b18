"""`quantgate history`: the runs of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_quantgate.cli.folders import existing_store
from pytest_quantgate.cli.tables import table
from pytest_quantgate.history import History

if TYPE_CHECKING:
    from argparse import Namespace

__all__ = ["run"]


def run(chosen: Namespace) -> int:
    """Print the runs, the latest first."""
    history = History(existing_store(chosen.store))
    runs = history.runs(chosen.limit)
    if not runs:
        print(f"{history.file}: no run yet; every pytest --quantgate that judges something is one")
        return 0
    rows = [
        (known.id, known.tag or "-", known.status or "-", ", ".join(f"{n} {v}" for n, v in known.verdicts.items()))
        for known in runs
    ]  # fmt: skip
    print(table(("run", "tag", "verdict", "variants"), *rows))
    return 0
