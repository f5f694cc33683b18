"""Which configuration file a command means, without pytest."""

from __future__ import annotations

from pathlib import Path

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.options import CONFIG_NAMES

__all__ = ["config_file", "nearest"]


def config_file(given: str | None) -> Path:
    """Return the file that is given, else the nearest one here or above.

    Raises:
        ConfigError: there is none.

    """
    if given:
        if not Path(given).is_file():
            raise ConfigError(f"--config {given}: no such file")
        return Path(given).absolute()
    found = nearest()
    if found is None:
        raise ConfigError(
            f"no {CONFIG_NAMES[0]} in {Path.cwd()} or above; write one, or name it with --config FILE"
        )
    return found


def nearest() -> Path | None:
    """Return the nearest configuration file in the current folder or above; None if there is none."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        for name in CONFIG_NAMES:
            file = folder / name
            if file.is_file() and (name == CONFIG_NAMES[0] or b"[tool.quantgate" in file.read_bytes()):
                return file
    return None
