"""Recipes crossed: one variant table with a `matrix` becomes one table per combination. Pure.

`matrix = { bits = [4, 8], group_size = [32, 128] }` beside `quantize = { method = "gptq", ... }` stands for four
variants, `NAME-4b-g32` to `NAME-8b-g128`: their recipes have these values beside what `quantize` says. Whether a value
fits its method is the recipe's own check.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pytest_quantgate.errors import ConfigError

if TYPE_CHECKING:
    from pytest_quantgate.spec import Scalar

__all__ = ["MOST", "crossed", "expand", "named"]

MOST: Final = 200
"""Most combinations of one matrix: each is quantized and measured."""

_WHOLE_ROW: Final = -1
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9._-]+")


def expand(place: str, name: str, table: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return (name, table) of every combination; the table itself where it has no `matrix`.

    Args:
        place: where the table stands, for messages.
        name: name of the variant.
        table: its table, with `quantize` and perhaps `matrix`.

    Raises:
        ConfigError: the matrix cannot be used.

    """
    if "matrix" not in table:
        return [(name, table)]
    axes, recipe = table["matrix"], table.get("quantize")
    if not isinstance(axes, dict):
        raise ConfigError(f"{place} matrix: write {{ bits = [4, 8], group_size = [32, 128], ... }}")
    if not isinstance(recipe, dict):
        raise ConfigError(
            f'{place} matrix: it crosses recipes; add quantize = {{ method = "gptq", ... }} beside it'
        )
    for key in axes:
        if key in recipe:
            raise ConfigError(f"{place} matrix: {key} is also set in quantize; leave it out of one of them")
    rest = {key: value for key, value in table.items() if key != "matrix"}
    found: dict[str, Mapping[str, Any]] = {}
    for combination in crossed(f"{place} matrix", axes):
        each = named(name, combination)
        if each in found:
            raise ConfigError(
                f"{place} matrix: two combinations have the name {each!r}; rename a file or leave one out"
            )
        found[each] = {**rest, "quantize": {**recipe, **combination}}
    return list(found.items())


def crossed(place: str, axes: Mapping[str, Any]) -> list[dict[str, Scalar]]:
    """Return every combination of the values of the axes, the last axis fastest.

    Raises:
        ConfigError: an axis is no list of scalars, is empty or has a value twice; too many combinations.

    """
    if not axes:
        raise ConfigError(f"{place}: nothing to cross; write for example group_size = [32, 64, 128]")
    for key, values in axes.items():
        _check_axis(place, key, values)
    count = math.prod(map(len, axes.values()))
    if count > MOST:
        raise ConfigError(f"{place}: {count} combinations (allowed: {MOST}); cross fewer values")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _check_axis(place: str, key: str, values: object) -> None:
    if not isinstance(values, list):
        raise ConfigError(f"{place}: {key} = {values!r} is no list; write {key} = [{_written(values)}]")
    if not values:
        raise ConfigError(f"{place}: {key} is an empty list; write a value, or leave {key} out")
    seen: list[object] = []
    for value in values:
        if not isinstance(value, str | int | float):
            raise ConfigError(f"{place}: {key} has {value!r}; write strings, numbers or booleans")
        # True == 1, and yet they are two values
        if any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in seen):
            raise ConfigError(f"{place}: {key} has {_written(value)} twice; leave one out")
        seen.append(value)


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def named(name: str, combination: Mapping[str, Scalar]) -> str:
    """Return the name of one combination: "gptq-4b-g32-act" for bits, group_size and desc_act."""
    return "-".join((name, *(_part(key, value) for key, value in combination.items())))


def _part(key: str, value: Scalar) -> str:
    if key == "bits":
        return f"{value}b"
    if key == "group_size":
        return "row" if value == _WHOLE_ROW else f"g{value}"
    if isinstance(value, bool):
        short = "act" if key == "desc_act" else key
        return short if value else f"no{short}"
    if isinstance(value, str):
        last = value.replace("\\", "/").rpartition("/")[2]
        return _NO_NAME.sub("-", last.rpartition(".")[0] or last).strip("-.") or "x"
    return f"{key}{value}"
