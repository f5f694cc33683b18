"""Known damage put into a loaded transformers model, for the self-test of gates (kinds: `pytest_quantgate.damages`).

Nothing on disk is touched. Packed weights are damaged in the buffers that the forward pass reads. That is
sound for GPTQModel's plain torch kernels alone, which keep the checkpoint's layout (`scales` and `qzeros` by
group, `qzeros` packed along the outputs; GPTQ zero-points already converted to format v2) and dequantize anew in
every pass; faster kernels repack and cache. So a damaged model is always loaded with them (see `loading`),
on a GPU as well: they compute the same to about 1e-3, and damage is larger. Heads are permuted behind the
projections, which equals permuting the weights and needs no repacking; rounding asks the layer for its
weights by feeding it the identity, which works for every kernel.

What a model does not have cannot be damaged: `NotMeasurableError` says what is missing. A model without packed
weights can still lose its scales (its weights become 0, as they would) or be rounded; it has no groups and
no zero-points.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from pytest_quantgate.backends.modules import bits_of, text_config
from pytest_quantgate.damages import OPTION, SEED
from pytest_quantgate.errors import NotMeasurableError, UnknownNameError

if TYPE_CHECKING:
    from pytest_quantgate.backends.transformers import TransformersModel

    Inflict: TypeAlias = Callable[[TransformersModel, np.random.Generator], None]

__all__ = ["KINDS", "apply_damage"]

USUAL_BASE, OTHER_BASE = 1e4, 1e6
KEYS_AND_VALUES = ("k_proj", "v_proj")
WORD_BITS = 32
ROWS_AT_ONCE = 1024
LARGEST_E4M3 = 448.0


def apply_damage(model: TransformersModel) -> None:
    """Damage a model as its specification's options say; leave it alone if they say nothing.

    The same options give the same damage.

    Raises:
        UnknownNameError: there is no such kind.
        NotMeasurableError: the model has not what this kind damages.

    """
    options = dict(model.spec.options)
    kind = str(options.get(OPTION, ""))
    if not kind:
        return
    if kind not in KINDS:
        raise UnknownNameError("kind of damage", kind, KINDS)
    with torch.no_grad():
        KINDS[kind](model, np.random.default_rng(int(options.get(SEED, 0))))


def _absent(kind: str, what: str) -> NotMeasurableError:
    return NotMeasurableError(f"{kind} cannot be tried: the model has no {what}")


# --- where


def _decoder_layers(model: TransformersModel, kind: str) -> nn.ModuleList:
    """Return the stack of decoder layers: the first list of modules that is as long as the configuration says."""
    count = getattr(text_config(model.native.config), "num_hidden_layers", 0)
    for module in model.native.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise _absent(kind, "stack of decoder layers")


def _packed(module: nn.Module) -> list[Any]:
    """Return the modules that hold packed weights with scales and zero-points by group."""
    return [found for found in module.modules() if _is_packed(found)]


def _is_packed(module: nn.Module) -> bool:
    fields = (getattr(module, name, None) for name in ("qweight", "qzeros", "scales"))
    return all(isinstance(tensor, Tensor) and tensor.ndim == 2 for tensor in fields)  # noqa: PLR2004 (G, N)


def _linears(module: nn.Module) -> list[tuple[str, Any]]:
    found = module.named_modules()
    return [(name, part) for name, part in found if _is_packed(part) or isinstance(part, nn.Linear)]


# --- packed weights


def _zero_scales(model: TransformersModel, _draw: np.random.Generator) -> None:
    layer = _decoder_layers(model, "scales_zeroed")[0]
    packed = _packed(layer)
    dense = [] if packed else [part for _, part in _linears(layer) if not bits_of(part)]
    if not packed and not dense:
        raise _absent("scales_zeroed", "layer whose scales can be reached")
    for module in packed:
        module.scales.zero_()
    for module in dense:
        module.weight.zero_()


def _lower_all_zero_points(model: TransformersModel, _draw: np.random.Generator) -> None:
    for module in _with_zero_points(model, "zero_points"):
        fields = range(WORD_BITS // bits_of(module))
        words = module.qzeros
        for field in fields:
            words = _lowered(words, field, bits_of(module))
        module.qzeros.copy_(words)


def _lower_one_zero_point(model: TransformersModel, draw: np.random.Generator) -> None:
    modules = _with_zero_points(model, "zero_point")
    module = modules[draw.integers(len(modules))]
    bits = bits_of(module)
    row, word = (int(draw.integers(size)) for size in module.qzeros.shape)
    field = int(draw.integers(WORD_BITS // bits))
    module.qzeros[row, word] = _lowered(module.qzeros[row, word], field, bits)


def _with_zero_points(model: TransformersModel, kind: str) -> list[Any]:
    """Return the packed modules whose zero-points each lie within one word of 32 bits."""
    modules = [module for module in _packed(model.native) if module.qzeros.dtype == torch.int32]
    found = [module for module in modules if bits_of(module) and WORD_BITS % bits_of(module) == 0]
    if not found:
        raise _absent(kind, "packed zero-points of 2, 4 or 8 bits")
    return found


def _lowered(words: Tensor, field: int, bits: int) -> Tensor:
    """Take 1 from one field of packed words; 0 becomes the largest, as it does when a format is misread."""
    most, shift = (1 << bits) - 1, field * bits
    wide = words.to(torch.int64) & 0xFFFFFFFF
    lowered = ((wide >> shift) - 1) & most
    changed = (wide & ~(most << shift)) | (lowered << shift)
    return torch.where(changed >= 1 << 31, changed - (1 << 32), changed).to(torch.int32)


def _reverse_groups(model: TransformersModel, _draw: np.random.Generator) -> None:
    modules = [module for module in _packed(model.native) if len(module.scales) > 1]
    if not modules:
        raise _absent("group_order", "packed layer of more than one group")
    for module in modules:
        module.scales.copy_(module.scales.flip(0))
        module.qzeros.copy_(module.qzeros.flip(0))


# --- layers and heads


def _exchange_layers(model: TransformersModel, _draw: np.random.Generator) -> None:
    layers = _decoder_layers(model, "layers_exchanged")
    if len(layers) == 1:
        raise _absent("layers_exchanged", "second decoder layer")
    first, last = layers[0], layers[-1]
    layers[0], layers[-1] = last, first
    # each keeps the place of the key-value cache that belongs to its position
    for ours, theirs in zip(_counted(first), _counted(last), strict=False):
        ours.layer_idx, theirs.layer_idx = theirs.layer_idx, ours.layer_idx


def _counted(layer: nn.Module) -> list[Any]:
    return [module for module in layer.modules() if hasattr(module, "layer_idx")]


def _move_heads(model: TransformersModel, _draw: np.random.Generator) -> None:
    text = text_config(model.native.config)
    heads = int(getattr(text, "num_key_value_heads", 0) or getattr(text, "num_attention_heads", 0))
    found = [
        module for name, module in model.native.named_modules() if name.rpartition(".")[2] in KEYS_AND_VALUES
    ]
    if heads < 2 or not found:  # noqa: PLR2004 one head has no order
        what = "second key-value head" if found else f"projections {' and '.join(KEYS_AND_VALUES)}"
        raise _absent("kv_heads", what)
    for module in found:
        module.register_forward_hook(functools.partial(_moved_on, heads))


def _moved_on(heads: int, _module: nn.Module, _inputs: object, outputs: Tensor) -> Tensor:
    """Move the heads of (…, H * D) on by one."""
    split = outputs.reshape(*outputs.shape[:-1], heads, -1)
    return split.roll(1, dims=-2).flatten(-2)


# --- positions and text


def _change_rotary_base(model: TransformersModel, _draw: np.random.Generator) -> None:
    named = model.native.named_buffers()
    tables = [table for name, table in named if name.endswith("inv_freq") and table.ndim == 1]
    if not tables or any(len(table) == 1 for table in tables):
        raise _absent("rotary_base", "rotary embedding")
    for table in tables:
        # inv_freq[i] = base ** (-i / len); the first ones keep to it under every scaling for long contexts
        base = float(table[1]) ** -len(table)
        wrong = OTHER_BASE if math.isclose(base, USUAL_BASE, rel_tol=0.01) else USUAL_BASE
        table.copy_(table ** (math.log(wrong) / math.log(base)))


def _forget_bos(model: TransformersModel, _draw: np.random.Generator) -> None:
    if model.bos_id is None:
        raise _absent("missing_bos", "tokenizer that puts a BOS token before a text")
    model.bos_id = None


# --- precision


def _round_layer(model: TransformersModel, _draw: np.random.Generator) -> None:
    layer = _decoder_layers(model, "fp8_layer")[0]
    found = _linears(layer)
    if not found:
        raise _absent("fp8_layer", "linear layer that can be rounded")
    for name, module in found:
        parent, _, own = name.rpartition(".")
        setattr(layer.get_submodule(parent), own, _rounded(module, model))


def _rounded(module: Any, model: TransformersModel) -> nn.Linear:
    """Return the layer with its weights as float8 e4m3 would hold them, one scale for the whole matrix."""
    any_weight = next(part for part in model.native.parameters() if part.is_floating_point())
    weight, bias = _weights_of(module, any_weight)
    scale = weight.abs().max().float().clamp_min(torch.finfo(torch.float32).tiny) / LARGEST_E4M3
    coarse = (weight.float() / scale).to(torch.float8_e4m3fn).float() * scale
    outputs, inputs = weight.shape
    made = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    made.weight = nn.Parameter(coarse.to(weight.dtype), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias, requires_grad=False)
    return made.eval()


def _weights_of(module: Any, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return what a linear module computes with, (N, K) and (N,), in the type and on the device of `like`."""
    if isinstance(module, nn.Linear):
        return module.weight.detach(), module.bias
    with torch.compiler.set_stance("force_eager"):
        nothing = like.new_zeros(1, module.in_features)
        bias = module(nothing)[0]
        identity = torch.eye(module.in_features, dtype=like.dtype, device=like.device)
        rows = torch.split(identity, ROWS_AT_ONCE)
        columns = torch.cat([module(part) for part in rows]) - bias
    return columns.T.contiguous(), bias if module.bias is not None else None


KINDS: Mapping[str, Inflict] = {
    "scales_zeroed": _zero_scales,
    "zero_points": _lower_all_zero_points,
    "group_order": _reverse_groups,
    "layers_exchanged": _exchange_layers,
    "rotary_base": _change_rotary_base,
    "kv_heads": _move_heads,
    "missing_bos": _forget_bos,
    "zero_point": _lower_one_zero_point,
    "fp8_layer": _round_layer,
}
