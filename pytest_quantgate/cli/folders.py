"""Where the store is, without pytest: said, in the environment, in the nearest configuration, or the default."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_quantgate.cli.configuration import nearest
from pytest_quantgate.errors import ConfigError, StoreError
from pytest_quantgate.study import read_table

__all__ = ["existing_store", "store_folder"]

_DEFAULT = ".quantgate"


def store_folder(given: str | None) -> Path:
    """Return the folder that commands mean; it need not exist.

    Raises:
        ConfigError: the nearest configuration cannot be read.

    """
    if said := given or os.environ.get("QUANTGATE_STORE"):
        return Path(said)
    file = nearest()
    if file is None:
        return Path.cwd() / _DEFAULT
    written = read_table(file).get("store", _DEFAULT)
    if not isinstance(written, str):
        raise ConfigError(f"{file}: [tool.quantgate] store = {written!r}: write a string")
    return file.parent / written


def existing_store(given: str | None) -> Path:
    """Return the folder that commands mean.

    Raises:
        StoreError: there is none.

    """
    folder = store_folder(given)
    if not folder.is_dir():
        raise StoreError(f"{folder}: there is no store; name its folder with --store DIR")
    return folder
