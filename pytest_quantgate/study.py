"""The study that a TOML file describes: a baseline, variants, gates and how to measure.

`[tool.quantgate]` of `pyproject.toml`, or the same tables without that prefix in `quantgate.toml`. Every key is
checked: one that is not known is refused with a suggestion, since a misspelt key would silently weaken a gate.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_quantgate import recipe as recipes
from pytest_quantgate.errors import ConfigError, UnknownNameError
from pytest_quantgate.options import NAMES as SETTING_NAMES

if TYPE_CHECKING:
    from pytest_quantgate.spec import Recipe, Scalar

__all__ = ["ModelTable", "Study", "check_name", "read"]

_MODEL_KEYS: Final = ("model", "revision", "dtype", "device", "backend", "options", "imported")
_STUDY_KEYS: Final = ("baseline", "variants", "gates", "measure", "tasks", "dtype", "device")


@dataclass(frozen=True, slots=True)
class ModelTable:
    """One configured model: a checkpoint that exists (`model`), or a recipe that makes it from the baseline.

    `dtype` and `device` are "auto" unless given. An `imported` one is neither: its figures were measured elsewhere.
    """

    name: str
    model: str = ""
    revision: str = ""
    dtype: str = "auto"
    device: str = "auto"
    backend: str = "transformers"
    options: tuple[tuple[str, Scalar], ...] = ()
    recipe: Recipe | None = None
    imported: bool = False


@dataclass(frozen=True, slots=True)
class Study:
    """What is compared with what.

    Attributes:
        root: the folder of the file; relative paths count from it.
        file: the file, or None if there is no configuration.
        table: the whole table, for settings that `options` shares with the command line.
        baseline: the unquantized reference, or None.
        variants: in the order of the file.
        gates: (name, text) of the gates that apply to every variant without a test.
        measure: texts of metrics to measure for the report although no gate asks for them.
        observers: settings of the observers by their kind: [tool.quantgate.tokens] …
        tasks: the user's own tasks by name: [tool.quantgate.tasks.trivia] …

    """

    root: Path
    file: Path | None = None
    table: Mapping[str, Any] = field(default_factory=dict)
    baseline: ModelTable | None = None
    variants: tuple[ModelTable, ...] = ()
    gates: tuple[tuple[str, str], ...] = ()
    measure: tuple[str, ...] = ()
    observers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the variants, in configured order."""
        return tuple(entry.name for entry in self.variants)

    def settings(self, table: str) -> Mapping[str, Any]:
        """Return an observer's settings: "tokens", or those of a task, "tasks.trivia", with its name as `task`."""
        name = table.removeprefix("tasks.")
        return self.observers.get(table, {}) if name == table else {**self.tasks[name], "task": name}

    def variant(self, name: str) -> ModelTable:
        """Return one variant.

        Raises:
            UnknownNameError: it is not configured.

        """
        for entry in self.variants:
            if entry.name == name:
                return entry
        raise UnknownNameError("variant", name, self.names, "see [tool.quantgate.variants]")


def read_table(file: Path) -> Mapping[str, Any]:
    """Return the [tool.quantgate] table of a TOML file.

    Raises:
        ConfigError: the file cannot be read or is not TOML; two variants of one name are TOML's own error.

    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: {error}{_duplicate_hint(error)}") from None
    table = content.get("tool", {}).get("quantgate")
    if table is None and file.name != "pyproject.toml":
        table = content
    if not isinstance(table, dict):
        raise ConfigError(f"{file}: [tool.quantgate] is not a table")
    return table


def _duplicate_hint(error: tomllib.TOMLDecodeError) -> str:
    duplicate = any(words in str(error) for words in ("overwrite", "twice", "already"))
    return "; two variants, or two keys, have the same name" if duplicate else ""


def read(file: Path | None, root: Path) -> Study:
    """Read a study; without a file, an empty one in the folder `root`.

    Raises:
        ConfigError: a key or value that cannot be used.
        UnknownNameError: an unknown quantization method.

    """
    if file is None:
        return Study(root)
    table = read_table(file)
    scalars = [key for key, value in table.items() if not isinstance(value, dict)]
    _refuse_unknown(f"{file}: [tool.quantgate]", scalars, (*_STUDY_KEYS, *SETTING_NAMES))
    defaults = {
        key: _string(f"{file}: [tool.quantgate] {key}", table[key])
        for key in ("dtype", "device")
        if key in table
    }
    folder = file.parent
    return Study(
        root=folder,
        file=file,
        table=table,
        baseline=_baseline(file, table.get("baseline"), defaults),
        variants=tuple(
            _variant(file, name, value, defaults) for name, value in _table(file, table, "variants").items()
        ),
        gates=tuple(
            (name, _string(f"{file}: [tool.quantgate.gates] {name}", text))
            for name, text in _table(file, table, "gates").items()
        ),
        measure=_strings(f"{file}: [tool.quantgate] measure", table.get("measure", [])),
        observers={
            key: value for key, value in table.items() if isinstance(value, dict) and key not in _STUDY_KEYS
        },
        tasks=_tables(file, _table(file, table, "tasks"), "tasks"),
    )


def _baseline(file: Path, value: object, defaults: Mapping[str, str]) -> ModelTable | None:
    if value is None:
        return None
    place = f"{file}: [tool.quantgate] baseline"
    table = {"model": value} if isinstance(value, str) else value
    if not isinstance(table, dict) or ("model" in table) == bool(table.get("imported")):
        raise ConfigError(f'{place}: write a path or hub id, or a table with model = "..."')
    _refuse_unknown(place, table, _MODEL_KEYS)
    return _entry(place, "baseline", table, defaults)


def _variant(file: Path, name: str, value: object, defaults: Mapping[str, str]) -> ModelTable:
    place = f"{file}: [tool.quantgate.variants.{name}]"
    if not isinstance(value, dict):
        raise ConfigError(
            f'{place} is not a table; write model = "..." or quantize = {{ method = "gptq", ... }}'
        )
    if name == "baseline":
        raise ConfigError(f"{place}: {name!r} cannot be a variant's name: it is the reference's")
    check_name(place, name)
    _refuse_unknown(place, value, (*_MODEL_KEYS, "quantize"))
    if ("model" in value) + ("quantize" in value) + bool(value.get("imported")) != 1:
        raise ConfigError(
            f"{place}: give either model (a checkpoint that exists) or quantize (a recipe),"
            " or imported = true if its figures were measured elsewhere"
        )
    return _entry(place, name, value, defaults, file.parent)


def check_name(place: str, name: str) -> None:
    """Refuse what cannot be a model's name.

    Raises:
        ConfigError: says what can.

    """
    if not name or not name.isprintable() or any(sign in name for sign in "[]::*?/ "):
        raise ConfigError(
            f"{place}: {name!r} cannot be a variant's name; use letters, digits, '-', '_' and '.'"
        )


def _entry(
    place: str, name: str, table: Mapping[str, Any], defaults: Mapping[str, str], root: Path | None = None
) -> ModelTable:
    texts = {
        key: _string(f"{place} {key}", table[key])
        for key in ("model", "revision", "dtype", "device", "backend")
        if key in table
    }
    options = table.get("options", {})
    if not isinstance(options, dict) or not all(
        isinstance(item, str | int | float | bool) for item in options.values()
    ):
        raise ConfigError(f"{place} options: write a table of strings, numbers and booleans")
    is_imported = table.get("imported", False)
    if not isinstance(is_imported, bool):
        raise ConfigError(f"{place} imported = {is_imported!r}: write true or false")
    recipe = None
    if root is not None and "quantize" in table:
        if not isinstance(table["quantize"], dict):
            raise ConfigError(f'{place} quantize: write {{ method = "gptq", bits = 4, ... }}')
        recipe = recipes.from_table(name, table["quantize"], root)
    return ModelTable(
        name=name,
        options=tuple(sorted(options.items())),
        recipe=recipe,
        imported=is_imported,
        **{**defaults, **texts},
    )


def _table(file: Path, table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: [tool.quantgate.{key}] is not a table")
    return value


def _tables(file: Path, tables: Mapping[str, Any], key: str) -> Mapping[str, Mapping[str, Any]]:
    for name, value in tables.items():
        if not isinstance(value, dict):
            raise ConfigError(
                f'{file}: [tool.quantgate.{key}.{name}] is not a table; write kind = "..." in it'
            )
    return tables


def _string(place: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{place} = {value!r}: write a non-empty string")
    return value


def _strings(place: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{place} = {value!r}: write a list of strings")
    return tuple(_string(place, item) for item in value)


def _refuse_unknown(place: str, keys: Iterable[str], known: tuple[str, ...]) -> None:
    for key in keys:
        if key not in known:
            raise ConfigError(f"{place}: {UnknownNameError('key', key, known)}")
