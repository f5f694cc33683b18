"""`quantgate import`: results of other tools, kept as a model's own, and marked."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate import imported, imports
from pytest_quantgate.cli.folders import store_folder
from pytest_quantgate.escaping import plain
from pytest_quantgate.figures import significant
from pytest_quantgate.parse import parse_metric
from pytest_quantgate.store import Store
from pytest_quantgate.study import check_name

if TYPE_CHECKING:
    from argparse import Namespace

__all__ = ["run"]


def run(chosen: Namespace) -> int:
    """Read the file, keep each metric under the model's name, and say which."""
    check_name(f"--variant {chosen.variant}", chosen.variant)
    file = Path(chosen.file)
    found = imports.read(chosen.format, file, [Path(extra) for extra in chosen.samples])
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    store = Store(store_folder(chosen.store))
    for one in found:
        step = imported.step_of(chosen.variant, parse_metric(one.metric))
        store.put(step, imported.observation_of(one, file.name, digest))
        values = ", ".join(
            f"{key.replace('|', '.').lstrip('.') or 'value'} {significant(value.value)}"
            for key, value in one.figures.items()
        )
        items = f", {len(one.observation.arrays['item'])} answers" if one.observation else ""
        print(plain(f"{chosen.variant}: {one.metric}: {values}{items} ({one.made_by})"))
    return 0
