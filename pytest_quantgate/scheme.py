"""How a variant's weights are stored: method, bits and groups, from its recipe or from its own configuration.

The words are those of recipes, whichever tool wrote the checkpoint: auto-gptq's, gptqmodel's and llm-compressor's GPTQ
are one method. Only configurations are read, never weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_quantgate.checkpoint.folder import read_json
from pytest_quantgate.checkpoint.gguf_files import described, find_gguf, quantization_of, read_parts
from pytest_quantgate.checkpoint.gguf_types import FILE_TYPES
from pytest_quantgate.errors import CheckpointError

if TYPE_CHECKING:
    from pytest_quantgate.spec import ModelSpec, Recipe

__all__ = ["Scheme", "of_configuration", "of_recipe", "scheme_of"]

WHOLE_ROW = -1
_LARGEST = 1 << 20
_METHODS = {"auto-gptq": "gptq", "gptqmodel": "gptq", "autoawq": "awq", "auto_round": "autoround"}
_METHODS |= {"auto-round": "autoround", "fbgemm_fp8": "fp8", "finegrained_fp8": "fp8"}
_TITLES = {"gptq": "GPTQ", "awq": "AWQ", "gguf": "GGUF", "fp8": "FP8", "hqq": "HQQ"}
_GGUF_TYPE = re.compile(r"(?:^|[._-])(I?Q\d(?:_[0-9A-Z]+)*|BF16|F16|F32)(?=$|[._-])", re.IGNORECASE)
_KEYS = {
    "w_bit": "bits",
    "q_group_size": "group_size",
    "symmetric": "sym",
    "weight_bits": "bits",
    "nbits": "bits",
}


@dataclass(frozen=True, slots=True)
class Scheme:
    """A format with its parameters.

    Attributes:
        method: "gptq", "awq", "gguf", "bitsandbytes", "compressed-tensors" …
        bits: of a weight; 0 where that is not stated.
        kind: the type within the method: "Q4_K_M", "nf4", "W8A8"; may be empty.
        parameters: group_size, desc_act, sym, zero_point, damp_percent …, as far as they are stated.
        stated: where that is written, for people.

    """

    method: str
    bits: int = 0
    kind: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    stated: str = "the recipe"

    @property
    def title(self) -> str:
        """It in words: "GPTQ, 4 bits", "GGUF Q4_K_M"."""
        name = _TITLES.get(self.method, self.method)
        kind = f" {self.kind}" if self.kind else ""
        return f"{name}{kind}, {self.bits} bits" if self.bits and self.method != "gguf" else f"{name}{kind}"

    @property
    def group_size(self) -> int | None:
        """Weights per scale; -1 for a whole row, None where nothing is said."""
        size = self.parameters.get("group_size")
        return size if isinstance(size, int) and not isinstance(size, bool) else None

    def says(self, name: str) -> bool | None:
        """Return a switch; None where it is not stated."""
        value = self.parameters.get(name)
        return value if isinstance(value, bool) else None


def scheme_of(spec: ModelSpec) -> Scheme | None:
    """Return how a model's weights are stored; None for a dense model, and where nothing says so."""
    if spec.recipe is not None:
        return of_recipe(spec.recipe)
    if spec.backend == "gguf" or spec.path.endswith(".gguf"):
        return _of_gguf(Path(spec.path))
    return _of_folder(Path(spec.path)) if spec.path else None


def of_recipe(recipe: Recipe) -> Scheme:
    """Return what a recipe asks for."""
    parameters: dict[str, Any] = dict(recipe.parameters)
    method = _METHODS.get(recipe.method, recipe.method)
    kind = str(parameters.get("type", ""))
    if method == "llmcompressor":
        return _of_compressor(parameters)
    if method == "gguf":
        return Scheme(method, _gguf_bits(kind), kind, parameters)
    if method == "bitsandbytes" and parameters.get("bits") != 4:  # noqa: PLR2004  a type is of four bits
        kind = ""
    return Scheme(method, _whole(parameters.get("bits")), kind, parameters)


def _of_compressor(parameters: Mapping[str, Any]) -> Scheme:
    scheme = str(parameters.get("scheme", ""))
    modifier = str(parameters.get("modifier", ""))
    bits = re.match(r"W(\d+)A16", scheme)
    if bits and modifier in {"gptq", "awq"}:
        symmetric = not scheme.endswith("ASYM")
        told = {**parameters, **({"sym": symmetric} if modifier == "gptq" else {"zero_point": not symmetric})}
        return Scheme(modifier, int(bits[1]), "", told)
    wide = re.match(r"W(\d+)", scheme)
    kind = f"{scheme}, rounded" if modifier == "round" else scheme
    return Scheme("compressed-tensors", int(wide[1]) if wide else 8, kind, parameters)


def of_configuration(section: Mapping[str, Any], stated: str = "config.json") -> Scheme | None:
    """Return what a quantization section says; None where it names no method."""
    name = section.get("quant_method")
    if not isinstance(name, str):
        # auto-gptq's own file has no method, and only it has these two words
        name = "gptq" if "desc_act" in section and "bits" in section else None
    if name is None:
        return None
    method = _METHODS.get(name.lower(), name.lower())
    meta = section.get("meta")
    flat = {**(meta if isinstance(meta, Mapping) else {}), **section}
    told = {_KEYS.get(key, key): value for key, value in flat.items()}
    if method == "bitsandbytes":
        return _of_bitsandbytes(told, stated)
    if method == "compressed-tensors":
        return _of_groups(told, stated)
    bits = 8 if method == "fp8" else _whole(told.get("bits"))
    return Scheme(method, bits, "", told, stated)


def _of_bitsandbytes(told: Mapping[str, Any], stated: str) -> Scheme:
    if told.get("load_in_4bit"):
        return Scheme("bitsandbytes", 4, str(told.get("bnb_4bit_quant_type", "fp4")), told, stated)
    return Scheme("bitsandbytes", 8, "", told, stated)


def _of_groups(told: Mapping[str, Any], stated: str) -> Scheme:
    groups = told.get("config_groups")
    found = (
        [group for group in groups.values() if isinstance(group, Mapping)]
        if isinstance(groups, Mapping)
        else []
    )
    weights = found[0].get("weights") if found else None
    mixed = len({repr(group.get("weights")) for group in found}) > 1
    if mixed or not isinstance(weights, Mapping):
        return Scheme("compressed-tensors", 0, "mixed" if mixed else "", told, stated)
    bits, acts = _whole(weights.get("num_bits")), found[0].get("input_activations")
    inputs = _whole(acts.get("num_bits")) if isinstance(acts, Mapping) else 16
    kind = "FP8" if weights.get("type") == "float" else f"W{bits}A{inputs}"
    size, order = weights.get("group_size"), weights.get("actorder")
    parameters = {
        "group_size": size if isinstance(size, int) else WHOLE_ROW,
        "sym": weights.get("symmetric"),
        **({"desc_act": True} if order in {"group", "dynamic"} else {}),
    }
    return Scheme("compressed-tensors", bits, kind, parameters, stated)


def _of_folder(folder: Path) -> Scheme | None:
    ggufs = sorted(folder.glob("*.gguf"))
    if ggufs:
        return _of_gguf(ggufs[0])
    for name in ("config.json", "quantize_config.json", "quant_config.json"):
        try:
            found: Any = read_json(folder, name, _LARGEST)
        except CheckpointError:
            continue
        section = (
            found.get("quantization_config") if name == "config.json" and isinstance(found, dict) else found
        )
        if isinstance(section, dict) and (scheme := of_configuration(section, name)) is not None:
            return scheme
    return None


def _of_gguf(path: Path) -> Scheme:
    """Return what a GGUF model's header says; its name says something only where the header cannot be read."""
    try:
        status = path.stat()
        return _of_header(path, status.st_mtime_ns, status.st_size)
    except (CheckpointError, OSError):
        named = _GGUF_TYPE.search(path.stem)
        kind = named[1].upper() if named else ""
        return Scheme("gguf", _gguf_bits(kind), kind, {}, f"the file name {path.name}")


@lru_cache(maxsize=16)
def _of_header(path: Path, _modified: int, _size: int) -> Scheme:
    folder, names = find_gguf(path)
    parts = read_parts(folder, names)
    header = parts[names[0]]
    kind = FILE_TYPES.get(header.metadata.get("general.file_type", -1), "")
    section = quantization_of(header, described(folder, parts)[1])
    bits = section["bits"] if section else _gguf_bits(kind)
    if kind and bits != _gguf_bits(kind):
        # rows that no block of the type fits took another one: the format's name is then no measure of what it costs
        kind = f"{kind}, mostly {bits} bits"
    return Scheme("gguf", bits, kind, {}, f"the header of {path.name}")


def _gguf_bits(kind: str) -> int:
    digits = re.search(r"\d+", kind)
    return int(digits[0]) if digits else 0


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
