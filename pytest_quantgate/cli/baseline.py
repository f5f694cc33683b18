"""`quantgate baseline`: the stored observations of the unquantized model, listed, exported, imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate import figures
from pytest_quantgate.cli.folders import existing_store, store_folder
from pytest_quantgate.cli.tables import table
from pytest_quantgate.errors import StoreError
from pytest_quantgate.escaping import plain
from pytest_quantgate.store import Store
from pytest_quantgate.store.archive import export, take_in

if TYPE_CHECKING:
    from argparse import Namespace

    from pytest_quantgate.spec import Protocol
    from pytest_quantgate.store import Listing

__all__ = ["run"]


def run(chosen: Namespace) -> int:
    """Do what `chosen.action` says."""
    return {"show": _show, "export": _export, "import": _import}[chosen.action](chosen)


def _known(chosen: Namespace) -> tuple[Store, list[Listing]]:
    store = Store(existing_store(chosen.store), writable=False)
    found = [known for known in store.entries() if known.step.model.is_baseline]
    if not found:
        raise StoreError(f"{store.root}: no observation of the baseline; run pytest --quantgate once")
    return store, found


def _show(chosen: Namespace) -> int:
    _, found = _known(chosen)
    rows = [
        (
            known.key[:12],
            known.step.protocol.kind,
            known.step.model.dtype,
            known.step.model.weights.removeprefix("sha256:")[:12],
            figures.quantity(known.size, "B", digits=3),
            _protocol(known.step.protocol),
        )
        for known in found
    ]
    print(table(("key", "kind", "dtype", "weights", "size", "protocol"), *rows))
    return 0


def _export(chosen: Namespace) -> int:
    store, found = _known(chosen)
    size = export(store, found, Path(chosen.file))
    print(f"{plain(chosen.file)}: {len(found)} observations, {figures.quantity(size, 'B', digits=3)}")
    return 0


def _import(chosen: Namespace) -> int:
    store = Store(store_folder(chosen.store))
    steps = take_in(store, Path(chosen.file))
    print(f"{plain(str(store.root))}: {len(steps)} observations of the baseline are there")
    return 0


def _protocol(protocol: Protocol) -> str:
    """Return the parameters on one line, digests by their beginning."""
    return ", ".join(f"{name} = {str(value)[:24]}" for name, value in protocol.parameters)
