"""The decoder layers against each other and config.json: none missing, none lacking a tensor; dtype and head. Pure.

Layers are compared with layers of their kind: the same layer_types entry, the same mixers (attention, mamba …), with
experts or without. So hybrid models are not accused of what they are.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_quantgate.lint.finding import Finding
from pytest_quantgate.lint.modules import FLOATS, LAYER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_quantgate.lint.folder import Folder
    from pytest_quantgate.lint.modules import Module

__all__ = ["check_head", "check_layers"]

_AGAIN = "download or export the checkpoint again"
_MIXER = re.compile(r"attn|attention|mamba|conv|ssm|rwkv|mixer|rec")
_VISION = re.compile(r"(?:^|\.)(?:vision\w*|visual|audio\w*|encoder|mtp|draft)\.")
_STATED = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}
_FULL_PRECISION = re.compile(r"(?:^|\.)(?:gate|router|conv1d|conv)$")


def check_layers(folder: Folder) -> Iterator[Finding]:
    """Find decoder layers and tensors that are missing."""
    if not folder.weights.complete or "block_configs" in folder.config:
        return
    layers = _layers(folder.modules)
    stated = _count(folder.text_config)
    if stated is not None and layers:
        # a layer after the last one may predict further tokens (MTP)
        further = folder.text_config.get("num_nextn_predict_layers")
        allowed = stated + (further if type(further) is int and further > 0 else 0)
        missing = [number for number in range(min(stated, max(layers) + 2)) if number not in layers]
        if missing or max(layers) + 1 < stated or max(layers) >= allowed:
            which = f", layer {missing[0]} is missing" if missing else ""
            text = f"says {stated} layers (the weights have {len(layers)}, up to number {max(layers)}{which})"
            yield Finding("QG203", "config.json", text, _AGAIN)
    yield from _lacking(folder, layers)


def _layers(modules: Mapping[str, Module]) -> dict[int, set[str]]:
    layers: dict[int, set[str]] = defaultdict(set)
    for name, module in modules.items():
        if module.place is not None and not _VISION.search(name):
            layers[module.place[0]].add(module.place[1])
    return dict(layers)


def _count(config: Mapping[str, Any]) -> int | None:
    for name in ("num_hidden_layers", "n_layer", "num_layers"):
        value = config.get(name)
        if type(value) is int:
            return value
    return None


def _lacking(folder: Folder, layers: Mapping[int, set[str]]) -> Iterator[Finding]:
    types = folder.text_config.get("layer_types")
    kinds: dict[_Kind, list[int]] = defaultdict(list)
    for number, names in layers.items():
        kinds[_kind(number, names, types)].append(number)
    bare = [kind for kind in kinds if not kind.mixers]
    without = [number for kind in bare if len(bare) < len(kinds) for number in kinds.pop(kind)]
    for number in without:
        yield Finding("QG204", "", "has no attention or other mixer", _AGAIN, f"layers.{number}.")
    for numbers in kinds.values():
        yield from _minority(layers, numbers)


class _Kind(NamedTuple):
    """What layers that can be compared have in common."""

    said: str
    mixers: frozenset[str]
    has_experts: bool


def _kind(number: int, names: Iterable[str], types: Any) -> _Kind:
    said = types[number] if isinstance(types, list) and number < len(types) else None
    heads = {name.partition(".")[0] for name in names}
    mixers = frozenset(head for head in heads if _MIXER.search(head) and "norm" not in head)
    experts = any(".experts." in f".{name}." for name in names)
    return _Kind("" if said is None else str(said)[:80], mixers, experts)


def _minority(layers: Mapping[int, set[str]], numbers: list[int]) -> Iterator[Finding]:
    counts = Counter(name for number in numbers for name in layers[number])
    for name, count in counts.items():
        if len(numbers) / 2 < count < len(numbers):
            for number in numbers:
                if name not in layers[number]:
                    text = f"is missing ({count} of {len(numbers)} layers have it)"
                    yield Finding("QG204", "", text, _AGAIN, f"layers.{number}.{name}")


def check_head(folder: Folder) -> Iterator[Finding]:
    """Judge head, embedding, the class's name and the dtype."""
    config = folder.text_config
    if folder.config and not folder.config.get("architectures"):
        text = "names no architectures"
        yield Finding("QG209", "config.json", text, 'add the class, such as ["Qwen2ForCausalLM"]')
    if folder.weights.complete and _is_causal(folder.config):
        tied = folder.config.get("tie_word_embeddings", config.get("tie_word_embeddings"))
        names = [name.rpartition(".")[2] for name in folder.modules]
        head = "lm_head" in names or "embed_out" in names or "output" in names
        if tied is False and not head:
            text = "says tie_word_embeddings false, and there is no lm_head"
            yield Finding("QG206", "config.json", text, "set it to true, or add the head")
        if tied is True and "lm_head" in names:
            text = "says tie_word_embeddings true, and there is an lm_head"
            yield Finding("QG207", "config.json", text, "remove the tensor, or set it to false")
        if "embed_tokens" not in names and any(
            LAYER.match(name) and "self_attn" in name for name in folder.modules
        ):
            yield Finding("QG204", "", "is missing", _AGAIN, "embed_tokens.weight")
    yield from _dtype(folder)


def _is_causal(config: Mapping[str, Any]) -> bool:
    names = config.get("architectures")
    return isinstance(names, list) and bool(names) and str(names[0]).endswith("ForCausalLM")


def _dtype(folder: Folder) -> Iterator[Finding]:
    config = folder.config
    said = config.get("dtype", config.get("torch_dtype", folder.text_config.get("dtype")))
    stated = _STATED.get(str(said).removeprefix("torch."))
    if stated is None:
        return
    found = Counter[str]()
    example: dict[str, str] = {}
    for name, module in folder.modules.items():
        info = module.parts.get("weight")
        if info is None or module.packing or len(info.shape) != 2 or info.dtype not in FLOATS:  # noqa: PLR2004
            continue
        if info.dtype != stated and not _FULL_PRECISION.search(name) and not _VISION.search(name):
            found[info.dtype] += 1
            example.setdefault(info.dtype, f"{name}.weight")
    for dtype, count in found.items():
        text = f"says dtype {said} ({count} matrices are {dtype}, such as {example[dtype]})"
        yield Finding("QG205", "config.json", text, "state the dtype that the weights have")
