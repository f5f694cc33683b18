"""What a config.json must look like before a framework believes it. Pure.

Frameworks accept a negative width, 10^9 layers or a quantization section that is a string, and then hang,
allocate or die with a bare TypeError. The ranges here are far beyond any model that exists.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_quantgate.files import MalformedError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check_config"]

_MODEL_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

_LIMITS = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "head_dim", "embedding_size"), 1 << 20),
    **dict.fromkeys(("intermediate_size", "moe_intermediate_size", "n_inner", "ffn_dim"), 1 << 24),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers"), 10_000),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_key_value_heads"), 1 << 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 1 << 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 1 << 31),
    "vocab_size": 1 << 24,
    "num_labels": 100_000,
}
"""Largest value of every size that decides how much is allocated; the smallest is 1."""

_PER_LAYER = {"intermediate_size", "num_attention_heads", "num_key_value_heads"}

DTYPES = frozenset(("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "auto"))

QUANT_METHODS = frozenset(
    (
        *("aqlm", "auto-round", "auto_round", "awq", "bitnet", "bitsandbytes", "compressed-tensors", "eetq"),
        *(
            "fbgemm_fp8",
            "finegrained_fp8",
            "fouroversix",
            "fp8",
            "fp_quant",
            "gptq",
            "gptqmodel",
            "higgs",
            "hqq",
        ),
        *("metal", "modelopt", "mxfp4", "quanto", "quark", "sinq", "spqr", "torchao", "vptq"),
    )
)
"""The quant_method names that loaders of the field know."""

_BITS = frozenset((1, 2, 3, 4, 5, 6, 8))
_MAX_GROUP = 1 << 16


def check_config(config: Any) -> dict[str, Any]:
    """Return the configuration of a model, if a loader can be trusted with it.

    Raises:
        MalformedError: says which field, what was found and what is allowed.

    """
    if not isinstance(config, dict):
        raise MalformedError(f"{_shown(config)} (allowed: a JSON object)")
    _check_model_type(config.get("model_type"))
    for section, fields in (("", config), *_nested(config)):
        _check_sizes(section, fields)
        _check_heads(section, fields)
        _check_dtype(section, fields)
    if config.get("quantization_config") is not None:
        check_quantization(config["quantization_config"])
    return config


def _nested(config: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [
        (f"{name}.", value)
        for name, value in config.items()
        if name.endswith("_config") and isinstance(value, dict)
    ]


def _check_model_type(found: Any) -> None:
    if not isinstance(found, str) or not _MODEL_TYPE.fullmatch(found):
        raise MalformedError(f'"model_type" is {_shown(found)} (allowed: a name such as "qwen2")')


def _check_sizes(section: str, fields: Mapping[str, Any]) -> None:
    for name, limit in _LIMITS.items():
        value = fields.get(name)
        if value is None:
            continue
        items = value if isinstance(value, list) and name in _PER_LAYER else [value]
        if not items or not all(_is_between(item, 1, limit) for item in items):
            raise MalformedError(
                f'"{section}{name}" is {_shown(value)} (allowed: an integer from 1 to {limit})'
            )
    labels = fields.get("id2label")
    if isinstance(labels, dict) and len(labels) > _LIMITS["num_labels"]:
        raise MalformedError(
            f'"{section}id2label" has {len(labels)} entries (allowed: {_LIMITS["num_labels"]})'
        )


def _check_heads(section: str, fields: Mapping[str, Any]) -> None:
    width, heads = fields.get("hidden_size"), fields.get("num_attention_heads")
    groups = fields.get("num_key_value_heads")
    if isinstance(width, int) and isinstance(heads, int) and fields.get("head_dim") is None and width % heads:
        raise MalformedError(
            f'"{section}num_attention_heads" is {heads} (allowed: a divisor of hidden_size {width})'
        )
    if isinstance(heads, int) and isinstance(groups, int) and heads % groups:
        raise MalformedError(
            f'"{section}num_key_value_heads" is {groups} (allowed: a divisor of num_attention_heads {heads})'
        )


def _check_dtype(section: str, fields: Mapping[str, Any]) -> None:
    for name in ("dtype", "torch_dtype"):
        value = fields.get(name)
        if value is not None and (not isinstance(value, str) or value.removeprefix("torch.") not in DTYPES):
            raise MalformedError(
                f'"{section}{name}" is {_shown(value)} (allowed: {", ".join(sorted(DTYPES))})'
            )


def check_quantization(section: Any) -> dict[str, Any]:
    """Return a quantization section (config.json, quantize_config.json), if its common fields are sound.

    Raises:
        MalformedError: says which field, what was found and what is allowed.

    """
    if not isinstance(section, dict):
        raise MalformedError(f"a quantization section that is {_shown(section)} (allowed: a JSON object)")
    method = section.get("quant_method")
    if method is not None and (not isinstance(method, str) or method.lower() not in QUANT_METHODS):
        raise MalformedError(
            f'"quant_method" is {_shown(method)} (known: {", ".join(sorted(QUANT_METHODS))})',
            "quantize the model with one of those methods",
        )
    for name in ("bits", "w_bit"):
        value = section.get(name)
        if value is not None and (type(value) is not int or value not in _BITS):
            raise MalformedError(
                f'"{name}" is {_shown(value)} (allowed: {", ".join(map(str, sorted(_BITS)))})'
            )
    _check_group(section.get("group_size"))
    for name in ("desc_act", "sym", "zero_point"):
        if section.get(name) is not None and not isinstance(section[name], bool):
            raise MalformedError(f'"{name}" is {_shown(section[name])} (allowed: true or false)')
    return section


def _check_group(value: Any) -> None:
    if value is not None and not (value == -1 or _is_between(value, 1, _MAX_GROUP)):
        raise MalformedError(
            f'"group_size" is {_shown(value)} (allowed: -1, or an integer from 1 to {_MAX_GROUP})'
        )


def _is_between(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _shown(value: Any) -> str:
    return ascii(value)[:60]
