"""All reading of pytest's configuration: command line, environment, ini file and TOML, as one frozen value.

Precedence: command line, then environment (`QUANTGATE_STORE` …), then the ini file (`quantgate_store`), then the
`[tool.quantgate]` table (`store`). Switches that lower a guard (`--quantgate-allow-pickle`, `--quantgate-allow-code`)
exist on the command line alone: everything else is a file that a pull request can write.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_quantgate.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pytest

__all__ = ["Options", "add_options", "is_active"]

CONFIG_NAMES: Final = ("quantgate.toml", "pyproject.toml")
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off", ""})


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting that command line, environment, ini and TOML share."""

    name: str
    type: type
    help: str
    metavar: str = ""
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """The command line form."""
        return f"--quantgate-{self.name}"

    @property
    def ini(self) -> str:
        """The ini form; the environment variable is the same in capitals."""
        return f"quantgate_{self.name}"


SETTINGS: Final = (
    Setting("store", str, "folder of the cache of observations and checkpoints (default: .quantgate)", "DIR"),
    Setting("report", str, "write report.json and report.md into this folder", "DIR"),
    Setting("refresh", str, "measure again what the store holds", choices=("baseline", "all")),
    Setting("offline", bool, "use the store and local files only; what is missing there is an error"),
    Setting("strict", bool, "fail a gate that cannot be measured on this machine instead of skipping it"),
)


def add_options(parser: pytest.Parser) -> None:
    """Declare the command line options and ini values."""
    group = parser.getgroup("quantgate", "quality gates for quantized language models")
    group.addoption("--quantgate", action="store_true", help="measure the variants and judge the gates")
    parser.addini("quantgate", "always act as under --quantgate", type="bool", default=False)
    for setting in SETTINGS:
        if setting.type is bool:
            group.addoption(setting.flag, action="store_true", default=None, help=setting.help)
        elif setting.choices:
            group.addoption(
                setting.flag, nargs="?", const=setting.choices[-1], choices=setting.choices, help=setting.help
            )
        else:
            group.addoption(setting.flag, metavar=setting.metavar, help=setting.help)
        parser.addini(setting.ini, setting.help, type="string", default="")
    group.addoption("--quantgate-config", metavar="FILE", help="read [tool.quantgate] from this TOML file")
    group.addoption(
        "--quantgate-metrics", action="store_true", help="list the metrics that gates can name, and exit"
    )
    group.addoption(
        "--quantgate-plan", action="store_true", help="print what would be measured, and run nothing"
    )
    group.addoption(
        "--quantgate-allow-pickle", action="store_true", help="load pickled weights (they can run any code)"
    )
    group.addoption(
        "--quantgate-allow-code", action="store_true", help="run model code that a checkpoint brings along"
    )


def is_active(config: pytest.Config) -> bool:
    """Return whether gates are to be measured in this run."""
    return bool(
        config.getoption("--quantgate")
        or config.getoption("--quantgate-plan")
        or os.environ.get("QUANTGATE", "").lower() in _TRUE
        or config.getini("quantgate")
    )


def config_file(config: pytest.Config) -> Path | None:
    """Return the TOML file that holds [tool.quantgate], or None.

    It is looked for as pytest looks for its own: in the folder that the arguments share, then upwards to the rootdir.

    Raises:
        ConfigError: the file that `--quantgate-config` names does not exist.

    """
    named = config.getoption("--quantgate-config")
    if named:
        path = Path(config.invocation_params.dir, named)
        if not path.is_file():
            raise ConfigError(f"--quantgate-config {named}: no such file")
        return path
    for folder in _folders(config):
        for name in CONFIG_NAMES:
            path = folder / name
            # a look at the bytes spares every other project the TOML parser
            if path.is_file() and (name == CONFIG_NAMES[0] or b"[tool.quantgate" in path.read_bytes()):
                return path
    return None


def _folders(config: pytest.Config) -> Iterator[Path]:
    """Yield the folder that the arguments share and those above it, the rootdir last."""
    here = config.invocation_params.dir
    named = [here.joinpath(argument.partition("::")[0]).resolve() for argument in config.args]
    shared = Path(os.path.commonpath(named)) if named else here
    for folder in (shared, *shared.parents):
        yield folder
        if folder == config.rootpath:
            return
    yield config.rootpath


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for.

    Attributes:
        root: folder that relative paths of the configuration count from.
        invocation: folder that relative paths of the command line count from.
        store: folder of the cache.
        report: folder of the report files, or None.
        refresh: "", "baseline" or "all".
        offline: use the store and local files only.
        strict: a gate that cannot be measured fails.
        plan_only: print the plan, run nothing.
        allow_pickle: load pickled weights.
        allow_code: run code that comes with a checkpoint.

    """

    root: Path
    store: Path
    report: Path | None
    refresh: str
    offline: bool
    strict: bool
    plan_only: bool
    allow_pickle: bool
    allow_code: bool

    @classmethod
    def from_config(cls, config: pytest.Config, table: Mapping[str, Any], root: Path) -> Options:
        """Read everything; `table` is [tool.quantgate], which lies in the folder `root`.

        Raises:
            ConfigError: a value that cannot be used, with where it was written.

        """
        values = {setting.name: _value(config, setting, table, root) for setting in SETTINGS}
        return cls(
            root=root,
            store=values["store"] or root / ".quantgate",
            report=values["report"],
            refresh=values["refresh"] or "",
            offline=bool(values["offline"]),
            strict=bool(values["strict"]),
            plan_only=config.getoption("--quantgate-plan"),
            allow_pickle=config.getoption("--quantgate-allow-pickle"),
            allow_code=config.getoption("--quantgate-allow-code"),
        )


def _value(config: pytest.Config, setting: Setting, table: Mapping[str, Any], root: Path) -> Any:
    """Return the first value that is given for a setting, checked; None if there is none."""
    variable = setting.ini.upper()
    sources = (
        (setting.flag, config.getoption(setting.flag), config.invocation_params.dir),
        (variable, os.environ.get(variable), config.invocation_params.dir),
        (setting.ini, config.getini(setting.ini) or None, config.rootpath),
        (f"[tool.quantgate] {setting.name}", table.get(setting.name), root),
    )
    for place, value, base in sources:
        if value is not None:
            return _checked(setting, place, value, base)
    return None


def _checked(setting: Setting, place: str, value: object, base: Path) -> Any:
    if setting.type is bool:
        word = str(value).lower()
        if word not in _TRUE | _FALSE:
            raise ConfigError(f"{place} = {value!r}: write true or false")
        return word in _TRUE
    if not isinstance(value, str):
        raise ConfigError(f"{place} = {value!r}: write a string")
    if setting.choices:
        if value not in setting.choices:
            raise ConfigError(f"{place} = {value!r}: write one of {', '.join(setting.choices)}")
        return value
    return Path(base, value).resolve()
