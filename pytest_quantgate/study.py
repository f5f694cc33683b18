"""The study that a TOML file describes: a baseline, variants, gates and how to measure.

`[tool.quantgate]` of `pyproject.toml`, or the same tables without that prefix in `quantgate.toml`. Every key is
checked: one that is not known is refused with a suggestion, since a misspelt key would silently weaken a gate.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_quantgate import matrix
from pytest_quantgate import recipe as recipes
from pytest_quantgate.errors import ConfigError, UnknownNameError
from pytest_quantgate.options import NAMES as SETTING_NAMES
from pytest_quantgate.stacks import check_requirement

if TYPE_CHECKING:
    from pytest_quantgate.spec import Recipe, Scalar

__all__ = ["ModelTable", "Stack", "Study", "check_name", "read"]

_MODEL_KEYS: Final = (
    *("model", "revision", "dtype", "device", "backend", "options", "imported"),
    *("python", "requirements", "isolate", "kv_cache"),
)
_SERVER_KEYS: Final = ("server", "launch")
_SECRET: Final = re.compile(r"://[^/\s]*@|://\S*\?|--api[-_]key[=\s]")
_STACK_KEYS: Final = ("python", "requirements")
_STUDY_KEYS: Final = ("baseline", "variants", "gates", "measure", "tasks", "dtype", "device")


@dataclass(frozen=True, slots=True)
class Stack:
    """The software that a model runs under; both empty for this process's own.

    Attributes:
        python: an interpreter; with `requirements`, the one that their environment is made from.
        requirements: what is installed into an environment that is made for them.

    """

    python: str = ""
    requirements: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.python or self.requirements)


@dataclass(frozen=True, slots=True)
class ModelTable:
    """One configured model.

    It is a checkpoint that exists (`model`), a recipe that makes it from the baseline (`recipe`), an endpoint
    (`endpoint`), or was measured elsewhere (`imported`).

    Attributes:
        name: as configured, or "baseline".
        model: local path or hub id; beside an endpoint, what is served there.
        revision: branch, tag or commit of a hub id.
        dtype: the type it computes in; "auto" for the checkpoint's own.
        device: "auto" for what is there.
        backend: "auto" for what the checkpoint calls for.
        options: further arguments for the backend.
        recipe: how it is made.
        imported: its figures were measured elsewhere.
        stack: where it runs.
        maker: where its recipe is carried out, if not there.
        isolated: it runs in a process of its own.
        endpoint: ("server", URL), ("launch", command) or both; empty for what is loaded here.

    """

    name: str
    model: str = ""
    revision: str = ""
    dtype: str = "auto"
    device: str = "auto"
    backend: str = "auto"
    options: tuple[tuple[str, Scalar], ...] = ()
    recipe: Recipe | None = None
    imported: bool = False
    stack: Stack = Stack()
    maker: Stack = Stack()
    isolated: bool = False
    endpoint: tuple[tuple[str, str], ...] = ()


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
            _variant(file, name, value, defaults) for name, value in _variants(file, table).items()
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
    _refuse_unknown(place, value, (*_MODEL_KEYS, *_SERVER_KEYS, "quantize"))
    served = "server" in value or "launch" in value
    given = ("model" in value and not served) + ("quantize" in value) + bool(value.get("imported")) + served
    if given != 1:
        raise ConfigError(
            f"{place}: give either model (a checkpoint that exists) or quantize (a recipe), server or launch"
            " (an endpoint), or imported = true if its figures were measured elsewhere"
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
        for key in ("model", "revision", "dtype", "device", "backend", *_SERVER_KEYS)
        if key in table
    }
    options = table.get("options", {})
    if not isinstance(options, dict) or not all(
        isinstance(item, str | int | float | bool) for item in options.values()
    ):
        raise ConfigError(f"{place} options: write a table of strings, numbers and booleans")
    if "kv_cache" in table:
        options = {**options, "kv_cache": _string(f"{place} kv_cache", table["kv_cache"])}
    recipe, maker = None, Stack()
    if root is not None and "quantize" in table:
        if not isinstance(table["quantize"], dict):
            raise ConfigError(f'{place} quantize: write {{ method = "gptq", bits = 4, ... }}')
        made = {key: value for key, value in table["quantize"].items() if key not in _STACK_KEYS}
        recipe = recipes.from_table(name, made, root)
        maker = _stack(f"{place} quantize", table["quantize"])
        if maker and recipes.is_on_load(recipe):
            raise ConfigError(
                f"{place} quantize: {recipe.method} quantizes where the model is loaded;"
                " write python and requirements beside quantize"
            )
    endpoint = tuple((key, texts.pop(key)) for key in _SERVER_KEYS if key in texts)
    _check_endpoint(place, endpoint, texts.get("backend", ""), options)
    stack, isolated = _stack(place, table), _flag(place, "isolate", table)
    if endpoint and (stack or isolated):
        raise ConfigError(
            f"{place}: {endpoint[0][0]} is a process of its own; leave python, requirements and isolate out"
        )
    return ModelTable(
        name=name,
        options=tuple(sorted(options.items())),
        recipe=recipe,
        imported=_flag(place, "imported", table),
        stack=stack,
        maker=maker or stack,
        isolated=isolated,
        endpoint=endpoint,
        **{**defaults, **texts},
    )


def _check_endpoint(
    place: str, endpoint: Sequence[tuple[str, str]], backend: str, options: Mapping[str, Any]
) -> None:
    """Refuse an endpoint that is not said to be one, whose observations would be taken for a checkpoint's; and keys.

    What is configured stands in reports and in the store.
    """
    if backend == "server" and not endpoint:
        raise ConfigError(
            f'{place}: an endpoint is written server = "http://..." or launch = "...", not by backend'
        )
    for key, text in (*endpoint, *((key, str(options.get(key, ""))) for key in _SERVER_KEYS)):
        if _SECRET.search(text):
            raise ConfigError(
                f"{place} {key}: it holds a key or a password, which would stand in every report; put that into an"
                " environment variable, and name it by options api_key_env"
            )


def _stack(place: str, table: Mapping[str, Any]) -> Stack:
    python = _string(f"{place} python", table["python"]) if "python" in table else ""
    listed = _strings(f"{place} requirements", table.get("requirements", []))
    if "requirements" in table and not listed:
        raise ConfigError(f'{place} requirements is empty; write ["torch==2.13.0", ...] or leave it out')
    for each in listed:
        try:
            check_requirement(each)
        except ConfigError as error:
            raise ConfigError(f"{place} requirements: {error}") from None
    return Stack(python, listed)


def _flag(place: str, key: str, table: Mapping[str, Any]) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{place} {key} = {value!r}: write true or false")
    return value


def _variants(file: Path, table: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the variant tables, a `matrix` replaced by the variants that it stands for."""
    found: dict[str, Any] = {}
    for name, value in _table(file, table, "variants").items():
        place = f"{file}: [tool.quantgate.variants.{name}]"
        expanded = matrix.expand(place, name, value) if isinstance(value, dict) else [(name, value)]
        for each, variant in expanded:
            if each in found:
                raise ConfigError(f"{place}: its matrix gives a second variant {each!r}; rename one of them")
            found[each] = variant
    return found


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
