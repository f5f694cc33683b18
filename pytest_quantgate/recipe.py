"""The vocabulary of recipes: which quantization methods there are, what each takes, and what fits a model.

Parameters carry the names that the field and `gptqmodel` use. A `Recipe` made here is complete: every default
is filled in, so that its identity states all that decides the result; calibration counts by its content.
Another method joins by an entry in `METHODS` (and a quantizer under the same name in the registry).
"""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from pytest_quantgate.errors import ConfigError, UnknownNameError
from pytest_quantgate.spec import Recipe, Scalar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["METHODS", "Key", "Method", "archived", "check_fits", "content_digest", "from_table", "is_on_load"]

WHOLE_ROW: Final = -1
"""The group size that stands for one group per output channel, as wide as the layer's input."""


@dataclass(frozen=True, slots=True)
class Key:
    """One parameter of a method.

    Attributes:
        kind: bool, int, float or str; an int is taken where a float is asked for, a bool never where a number is.
        default: what holds when the recipe does not say.
        choices: the values there are; empty for any in the range.
        low: smallest value; for a float, itself excluded.
        high: largest value; for a float, itself excluded.

    """

    kind: type
    default: Scalar
    choices: tuple[Scalar, ...] = ()
    low: float = float("-inf")
    high: float = float("inf")

    @property
    def allowed(self) -> str:
        """What may be written, for people."""
        if self.kind is bool:
            return "true or false"
        if self.choices:
            return " or ".join(map(str, self.choices))
        if self.kind is float:
            return f"a number between {self.low:g} and {self.high:g}"
        return f"a whole number from {self.low:.0f} to {self.high:.0f}"

    def accepts(self, value: object) -> bool:
        """Return whether a recipe may say `value`."""
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, bool)
        if self.kind is str:
            return isinstance(value, str) and value in self.choices
        if not isinstance(value, int if self.kind is int else (int, float)):
            return False
        if self.choices:
            return value in self.choices
        return self.low <= value <= self.high if self.kind is int else self.low < value < self.high


@dataclass(frozen=True, slots=True)
class Method:
    """A quantization method and its parameters.

    Attributes:
        keys: the parameters by name, beside `calibration`.
        conflicts: pairs of switches that cannot both be true.
        calibration: whether it takes a calibration file.
        on_load: it makes no checkpoint: the backend quantizes the baseline's weights whenever it loads them.
        successor: what to use instead of a library that is archived; empty for one that is kept.

    """

    keys: Mapping[str, Key]
    conflicts: tuple[tuple[str, str], ...] = ()
    calibration: Literal["needed", "optional", "none"] = "needed"
    on_load: bool = False
    successor: str = ""


_PIECE: Final = 1 << 20
_GGUF_TYPES: Final = (
    *("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q4_0", "Q3_K_L"),
    *("Q3_K_M", "Q3_K_S", "Q2_K", "IQ4_XS", "IQ4_NL"),
)
_SAMPLES: Final = Key(int, 128, low=1, high=1_000_000)
_MAX_LENGTH: Final = Key(int, 2048, low=16, high=1_048_576)

METHODS: Final[Mapping[str, Method]] = MappingProxyType(
    {
        # Frantar et al. 2022, https://arxiv.org/abs/2210.17323. gptqmodel also has 5, 6 and 7 bits, which
        # transformers does not load. act_group_aware is gptqmodel's reordering within groups: gptqmodel turns
        # it on where desc_act is off, here it is off until asked for, so that a bare recipe makes plain GPTQ.
        "gptq": Method(
            {
                "bits": Key(int, 4, choices=(2, 3, 4, 8)),
                "group_size": Key(int, 128, choices=(WHOLE_ROW, 16, 32, 64, 128, 256, 512, 1024)),
                "desc_act": Key(bool, default=False),
                "act_group_aware": Key(bool, default=False),
                "sym": Key(bool, default=True),
                "damp_percent": Key(float, 0.05, low=0, high=1),
                "samples": _SAMPLES,
                "max_length": _MAX_LENGTH,
            },
            conflicts=(("desc_act", "act_group_aware"),),
        ),
        # Lin et al. 2023, https://arxiv.org/abs/2306.00978, in the "gemm" layout, which has 4 bits only.
        "awq": Method(
            {
                "bits": Key(int, 4, choices=(4,)),
                "group_size": Key(int, 128, choices=(WHOLE_ROW, 16, 32, 64, 128)),
                "zero_point": Key(bool, default=True),
                "samples": _SAMPLES,
                "max_length": _MAX_LENGTH,
            }
        ),
        # llama.cpp's file types; without calibration data no importance matrix is used
        "gguf": Method(
            {
                "type": Key(str, "Q4_K_M", choices=_GGUF_TYPES),
                "samples": _SAMPLES,
                "max_length": _MAX_LENGTH,
            },
            calibration="optional",
        ),
        # Dettmers et al. 2022 (8 bits), https://arxiv.org/abs/2208.07339, and 2023 (nf4), https://arxiv.org/abs/2305.14314
        "bitsandbytes": Method(
            {
                "bits": Key(int, 4, choices=(4, 8)),
                "type": Key(str, "nf4", choices=("nf4", "fp4")),
                "double_quant": Key(bool, default=True),
            },
            calibration="none",
            on_load=True,
        ),
        # weight-only, in groups along the input: "int8" per output channel in torchao counts as WHOLE_ROW
        "torchao": Method(
            {
                "bits": Key(int, 8, choices=(4, 8)),
                "group_size": Key(int, WHOLE_ROW, choices=(WHOLE_ROW, 32, 64, 128, 256)),
            },
            calibration="none",
            on_load=True,
        ),
        "quanto": Method({"bits": Key(int, 8, choices=(2, 4, 8))}, calibration="none", on_load=True),
        # schemes as llm-compressor names them; `modifier` is what rounds the weights
        "llmcompressor": Method(
            {
                "scheme": Key(
                    str, "W4A16", choices=("W4A16", "W4A16_ASYM", "W8A16", "W8A8", "FP8", "FP8_DYNAMIC")
                ),
                "modifier": Key(str, "gptq", choices=("gptq", "awq", "round")),
                "group_size": Key(int, 128, choices=(WHOLE_ROW, 32, 64, 128, 256)),
                "desc_act": Key(bool, default=False),
                "damp_percent": Key(float, 0.01, low=0, high=1),
                "samples": _SAMPLES,
                "max_length": _MAX_LENGTH,
            },
            calibration="optional",
        ),
        # Cheng et al. 2023, https://arxiv.org/abs/2309.05516
        "autoround": Method(
            {
                "bits": Key(int, 4, choices=(2, 3, 4, 8)),
                "group_size": Key(int, 128, choices=(WHOLE_ROW, 32, 64, 128)),
                "sym": Key(bool, default=True),
                "iterations": Key(int, 200, low=1, high=10_000),
                "samples": _SAMPLES,
                "max_length": _MAX_LENGTH,
            }
        ),
        "auto-gptq": Method(
            {
                "bits": Key(int, 4, choices=(2, 3, 4, 8)),
                "group_size": Key(int, 128, choices=(WHOLE_ROW, 16, 32, 64, 128, 256, 512, 1024)),
                "desc_act": Key(bool, default=False),
                "sym": Key(bool, default=True),
                "damp_percent": Key(float, 0.01, low=0, high=1),
                "samples": _SAMPLES,
                "max_length": _MAX_LENGTH,
            },
            successor="gptq",
        ),
        "autoawq": Method(
            {
                "bits": Key(int, 4, choices=(4,)),
                "group_size": Key(int, 128, choices=(WHOLE_ROW, 16, 32, 64, 128)),
                "zero_point": Key(bool, default=True),
                "samples": _SAMPLES,
                "max_length": _MAX_LENGTH,
            },
            successor="awq",
        ),
    }
)


def from_table(name: str, table: Mapping[str, object], root: Path) -> Recipe:
    """Return the complete recipe that the configuration of variant `name` describes.

    Args:
        name: the variant's name, for messages.
        table: the `quantize` table: `method`, `calibration` and the method's own parameters.
        root: folder from which a relative calibration path counts.

    Raises:
        UnknownNameError: no such method.
        ConfigError: a parameter that the method does not have, a value of the wrong type or outside its
            range, two that exclude each other, no usable calibration file.

    """
    place = f"variant {name!r}, quantize"
    if "method" not in table:
        raise ConfigError(f"{place}: no method; write method = {' or '.join(map(repr, METHODS))}")
    method_name = table["method"]
    if not isinstance(method_name, str) or method_name not in METHODS:
        raise UnknownNameError("quantization method", str(method_name), METHODS, f"variant {name!r}")
    method = METHODS[method_name]
    _refuse_unknown(place, method_name, table)
    parameters = {key: _value(place, key, rule, table) for key, rule in method.keys.items()}
    for one, other in method.conflicts:
        if parameters[one] and parameters[other]:
            raise ConfigError(f"{place}: {one} and {other} exclude each other; set one of them to false")
    complete = tuple(sorted(parameters.items()))
    if method.calibration != "needed" and "calibration" not in table:
        return Recipe(method_name, complete)
    path = _calibration(place, table, root)
    return Recipe(method_name, complete, str(path), content_digest(path))


def _refuse_unknown(place: str, method: str, table: Iterable[str]) -> None:
    known = (*METHODS[method].keys, *(("calibration",) if METHODS[method].calibration != "none" else ()))
    for key in table:
        if key not in known and key != "method":
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(sorted(known))}"
            raise ConfigError(f"{place}: {method} has no parameter {key!r}; {hint}")


def _value(place: str, key: str, rule: Key, table: Mapping[str, object]) -> Scalar:
    value = table.get(key, rule.default)
    if not rule.accepts(value):
        raise ConfigError(f"{place}: {key} = {value!r} cannot be used; write {rule.allowed}")
    assert isinstance(value, (bool, int, float, str))
    # 0 and 0.0, 1 and 1.0 would give two identities to one recipe
    return float(value) if rule.kind is float else value


def _calibration(place: str, table: Mapping[str, object], root: Path) -> Path:
    written = table.get("calibration")
    if not isinstance(written, str) or not written:
        found = "no calibration" if written is None else f"calibration = {written!r} is no path"
        raise ConfigError(f"{place}: {found}; name a text or JSON-lines file that resembles the model's use")
    path = root / Path(written).expanduser()
    if not path.is_file():
        raise ConfigError(f"{place}: calibration file {path} does not exist; its path counts from {root}")
    if path.stat().st_size == 0:
        raise ConfigError(f"{place}: calibration file {path} is empty; write one sample per line into it")
    return path


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a calibration file, as 64 lower-case hexadecimal digits.

    Raises:
        ConfigError: it cannot be read.

    """
    try:
        found = hashlib.sha256()
        with path.open("rb") as stream:
            for piece in iter(partial(stream.read, _PIECE), b""):
                found.update(piece)
        return found.hexdigest()
    except OSError as error:
        raise ConfigError(f"calibration file {path} cannot be read: {error.strerror}") from error


def is_on_load(recipe: Recipe) -> bool:
    """Return whether a recipe makes no checkpoint, being carried out whenever the baseline is loaded."""
    return recipe.method in METHODS and METHODS[recipe.method].on_load


def archived(recipe: Recipe | None) -> tuple[str, ...]:
    """Return what a reader must know of a recipe whose library is no longer kept."""
    method = METHODS.get(recipe.method) if recipe else None
    successor = method.successor if method else ""
    if not recipe or not successor:
        return ()
    return (
        f"{recipe.method} is archived; its successor here is method = {successor!r}, which makes the same format",
    )


def check_fits(recipe: Recipe, linear_widths: Mapping[str, int]) -> None:
    """Make sure that the recipe's groups divide the input of every layer that it quantizes.

    Args:
        recipe: as `from_table` made it.
        linear_widths: input width of each linear layer, by its name.

    Raises:
        ConfigError: names the first layer that does not fit, its width, and the group sizes that fit all.

    """
    size = int(recipe.get("group_size", WHOLE_ROW))
    if size == WHOLE_ROW:
        return
    for layer, width in linear_widths.items():
        if width % size:
            fitting = _group_sizes(recipe.method, linear_widths)
            raise ConfigError(
                f"group_size = {size} does not divide the input width {width} of {layer}; "
                f"group sizes that fit this model: {', '.join(map(str, fitting))}"
            )


def _group_sizes(method: str, linear_widths: Mapping[str, int]) -> list[int]:
    known = [int(size) for size in METHODS[method].keys["group_size"].choices]
    return [
        size
        for size in known
        if size == WHOLE_ROW or all(width % size == 0 for width in linear_widths.values())
    ]
