"""All reading of pytest's configuration: command line, environment, ini file and TOML, as one frozen value.

Precedence: command line, then environment (`QUANTGATE_STORE` …), then the ini file (`quantgate_store`), then the
`[tool.quantgate]` table (`store`). Switches that lower a guard (`--quantgate-allow-pickle`, `--quantgate-allow-code`,
`--quantgate-allow-unsafe-code`) exist on the command line alone, the last in the environment as well: everything else
is a file that a pull request can write.
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
ALPHA: Final = 0.01
FAMILY_CONFIDENCE: Final = 0.95
WORKER_LIMIT: Final = 1800
LONGEST_LIMIT: Final = 30 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting that command line, environment, ini and TOML share."""

    name: str
    type: type
    help: str
    metavar: str = ""
    choices: tuple[str, ...] = ()
    implied: str = ""
    """What a flag without a value stands for."""

    @property
    def flag(self) -> str:
        """The command line form."""
        return f"--quantgate-{self.name.replace('_', '-')}"

    @property
    def ini(self) -> str:
        """The ini form; the environment variable is the same in capitals."""
        return f"quantgate_{self.name}"


SETTINGS: Final = (
    Setting("store", str, "folder of the cache of observations and checkpoints (default: .quantgate)", "DIR"),
    Setting("report", str, "write report.json and report.md into this folder", "DIR"),
    Setting("refresh", str, "measure again what the store holds", choices=("baseline", "all"), implied="all"),
    Setting("offline", bool, "use the store and local files only; what is missing there is an error"),
    Setting("strict", bool, "fail a gate that cannot be measured on this machine instead of skipping it"),
    Setting("confidence", float, "let the interval at this level decide a gate, e.g. 0.95", "LEVEL"),
    Setting(
        "inconclusive", str, "what an undecided gate does (default: fail)", choices=("fail", "warn", "skip")
    ),
    Setting("family", str, "guard against failing a good model by one of many gates", choices=("holm",)),
    Setting("stop_early", bool, "stop a pass over the corpus as soon as its gates are certain"),
    Setting("alpha", float, "chance that an early stop decides wrongly (default: 0.01)", "CHANCE"),
    Setting("seed", int, "of the order in which an early stop visits the corpus (default: 0)", "N"),
    Setting("floor", bool, "measure the baseline against itself and show the noise beside each change"),
    Setting("isolate", bool, "run each model in a process of its own, so that a crash is one failed gate"),
    Setting("worker_limit", int, "seconds without a sign of life after which such a process hangs", "N"),
    Setting("tag", str, "name this run in the history, e.g. v1.2", "NAME"),
    Setting("against", str, "compare with an earlier run: its id, its tag, or a report.json", "RUN"),
)
_PATHS: Final = frozenset({"store", "report"})
NAMES: Final = tuple(setting.name for setting in SETTINGS)


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
                setting.flag,
                nargs="?" if setting.implied else None,
                const=setting.implied or None,
                choices=setting.choices,
                help=setting.help,
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
        "--quantgate-selftest", action="store_true", help="damage each variant and see that its gates fail"
    )
    group.addoption(
        "--quantgate-allow-pickle", action="store_true", help="load pickled weights (they can run any code)"
    )
    group.addoption(
        "--quantgate-allow-unsafe-code",
        action="store_true",
        help="run programs that a model wrote although no sandbox can be built here",
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
        confidence: the level at which intervals decide; None: points do.
        inconclusive: what an undecided gate does: "fail", "warn" or "skip".
        family: "" or "holm".
        stop_early: stop a pass as soon as its gates are certain.
        alpha: chance that an early stop decides wrongly.
        seed: of the order in which an early stop visits the items.
        floor: measure the noise floor.
        isolate: run each model in a process of its own.
        worker_limit: seconds without a sign of life after which such a process is taken to hang.
        tag: name of this run.
        against: the earlier run to compare with.
        selftest: try the gates on damaged copies.
        allow_pickle: load pickled weights.
        allow_code: run code that comes with a checkpoint.
        allow_unsafe_code: run programs that a model wrote where no sandbox can be built.

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
    allow_unsafe_code: bool = False
    confidence: float | None = None
    inconclusive: str = "fail"
    family: str = ""
    stop_early: bool = False
    alpha: float = 0.01
    seed: int = 0
    floor: bool = False
    isolate: bool = False
    worker_limit: int = WORKER_LIMIT
    tag: str = ""
    against: str = ""
    selftest: bool = False

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
            # a variable, too: a CI runner that has no sandbox is configured there, not by a pull request
            allow_unsafe_code=config.getoption("--quantgate-allow-unsafe-code")
            or os.environ.get("QUANTGATE_ALLOW_UNSAFE_CODE", "").lower() in _TRUE,
            confidence=values["confidence"] or (FAMILY_CONFIDENCE if values["family"] else None),
            inconclusive=values["inconclusive"] or "fail",
            family=values["family"] or "",
            stop_early=bool(values["stop_early"]),
            alpha=values["alpha"] or ALPHA,
            seed=values["seed"] or 0,
            floor=bool(values["floor"]),
            isolate=bool(values["isolate"]),
            worker_limit=values["worker_limit"] or WORKER_LIMIT,
            tag=values["tag"] or "",
            against=values["against"] or "",
            selftest=config.getoption("--quantgate-selftest"),
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
    if setting.type is float:
        return _share(place, value)
    if setting.type is int:
        number = _whole(place, value)
        if setting.name == "worker_limit" and not 1 <= number <= LONGEST_LIMIT:
            raise ConfigError(f"{place} = {value!r}: write 1 to {LONGEST_LIMIT} seconds")
        return number
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{place} = {value!r}: write a string")
    if setting.choices:
        if value not in setting.choices:
            raise ConfigError(f"{place} = {value!r}: write one of {', '.join(setting.choices)}")
        return value
    return Path(base, value).resolve() if setting.name in _PATHS else value


def _share(place: str, value: object) -> float:
    """Return a level or a chance: a number between 0 and 1, both left out."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else 2.0
    except ValueError:
        number = 2.0
    if not 0 < number < 1:
        raise ConfigError(f"{place} = {value!r}: write a number between 0 and 1, e.g. 0.95")
    return number


def _whole(place: str, value: object) -> int:
    if isinstance(value, bool) or not str(value).isdecimal():
        raise ConfigError(f"{place} = {value!r}: write a whole number that is not negative")
    return int(str(value))
