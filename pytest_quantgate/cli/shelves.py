"""`quantgate store`: what is stored, and removing what is old."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_quantgate import figures
from pytest_quantgate.cli.folders import existing_store
from pytest_quantgate.cli.tables import table
from pytest_quantgate.escaping import plain
from pytest_quantgate.store import Store

if TYPE_CHECKING:
    from argparse import Namespace

__all__ = ["run"]

_DAY = 86400.0


def run(chosen: Namespace) -> int:
    """Do what `chosen.action` says."""
    return {"ls": _list, "prune": _prune}[chosen.action](chosen)


def _list(chosen: Namespace) -> int:
    store = Store(existing_store(chosen.store), writable=False)
    found = sorted(store.entries(), key=lambda known: known.written, reverse=True)
    now = time.time()
    rows = [
        (
            known.key[:12],
            figures.quantity(known.size, "B", digits=3),
            f"{max(0.0, now - known.written) / _DAY:.1f} d",
            known.step.label,
        )
        for known in found
    ]
    if rows:
        print(table(("key", "size", "age", "observation"), *rows))
    total = figures.quantity(sum(known.size for known in found), "B", digits=3)
    print(f"{plain(str(store.root))}: {len(found)} observations, {total}")
    return 0


def _prune(chosen: Namespace) -> int:
    age = chosen.older_than * _DAY
    folder = existing_store(chosen.store)
    if chosen.dry_run:
        for path in Store(folder, writable=False).older(age):
            print(plain(str(path)))
        return 0
    removed = Store(folder).prune(age)
    print(f"{plain(str(folder))}: {removed} removed that were older than {chosen.older_than} days")
    return 0
