"""What the configuration may say of an endpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_quantgate import damages
from pytest_quantgate.errors import ConfigError, NotMeasurableError

if TYPE_CHECKING:
    from pytest_quantgate.spec import ModelSpec, Scalar

__all__ = ["OPTIONS", "Settings", "settings_of"]

OPTIONS: Mapping[str, Scalar] = {
    "server": "",
    "launch": "",
    "served": "",
    "flavor": "auto",
    "start_limit": 600,
    "request_limit": 300,
    "api_key_env": "",
    "concurrency": 4,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of an endpoint; see docs/servers.md."""

    server: str
    launch: str
    served: str
    flavor: str
    start_limit: float
    request_limit: float
    api_key_env: str
    concurrency: int


def settings_of(spec: ModelSpec) -> Settings:
    """Return the options of an endpoint.

    Raises:
        ConfigError: one that does not exist or cannot be used, or neither address nor command.
        NotMeasurableError: a self-test asks for damage.

    """
    given = dict(spec.options)
    if damages.OPTION in given:
        raise NotMeasurableError(
            f"{given[damages.OPTION]} cannot be tried: an endpoint cannot be damaged from here"
        )
    if unknown := sorted(set(given) - set(OPTIONS)):
        raise ConfigError(f"{spec.name}: an endpoint has no option {unknown[0]!r}: {', '.join(OPTIONS)}")
    found: dict[str, Any] = {**OPTIONS, **given}
    for name, default in OPTIONS.items():
        value = found[name]
        fits = isinstance(value, str) if isinstance(default, str) else _is_positive(value)
        if not fits or (name == "concurrency" and not isinstance(value, int)):
            kind = "text" if isinstance(default, str) else "a number above 0"
            raise ConfigError(f"{spec.name}: {name} = {value!r}: it must be {kind}")
    if not found["server"] and not found["launch"]:
        raise ConfigError(f'{spec.name}: an endpoint needs server = "http://..." or launch = "..."')
    if found["launch"] and "{port}" not in found["launch"] and not found["server"]:
        raise ConfigError(
            f"{spec.name}: launch: write {{port}} where the port goes, or give the address by server"
        )
    return Settings(**found)


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
