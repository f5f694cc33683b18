"""What a loaded model is made of: quantized modules and their bits, dense ones, tensors that are not finite.

Quantized modules are told by what they carry, since importing every quantization library to ask `isinstance`
would be slower than loading the model.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "bits_of",
    "dense_linears",
    "is_plain",
    "nonfinite_tensors",
    "quantized_modules",
    "text_config",
    "weight_bytes",
]

BITSANDBYTES = {"Linear8bitLt": 8, "Linear4bit": 4, "LinearFP4": 4, "LinearNF4": 4}
PIECE = 2**24
BYTE = 8


def text_config(config: Any) -> Any:
    """Return the part of a configuration that describes the language model; before transformers 4.45, all of it."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def quantized_modules(model: nn.Module) -> dict[str, int]:
    """Return the bits of every quantized module, by name."""
    found = ((name, bits_of(module)) for name, module in model.named_modules())
    return {name: bits for name, bits in found if bits}


def dense_linears(model: nn.Module) -> list[str]:
    """Return the linear modules that are not quantized; the output head and tied embeddings among them."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not bits_of(module)
    ]


def bits_of(module: nn.Module) -> int:
    """Return how many bits a weight of this module has if it is quantized, else 0."""
    # GPTQModel and AutoGPTQ say bits, AutoAWQ w_bit
    packed: Any = getattr(module, "bits", getattr(module, "w_bit", 0))
    if packed and hasattr(module, "qweight"):
        return int(packed)
    if type(module).__name__ in BITSANDBYTES:
        return BITSANDBYTES[type(module).__name__]
    scheme = getattr(getattr(module, "quantization_scheme", None), "weights", None)  # compressed-tensors
    if scheme is not None:
        return int(scheme.num_bits)
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return 0
    if is_plain(weight):  # FP8Linear of transformers
        return BYTE if weight.is_floating_point() and weight.itemsize == 1 else 0
    return _bits_of_tensor(weight)


def _bits_of_tensor(weight: Tensor) -> int:
    """Return the bits of a tensor subclass of optimum-quanto (`qtype`) or torchao (range, stored type)."""
    bits = getattr(getattr(weight, "qtype", None), "bits", 0)
    if bits:
        return int(bits)
    inner = getattr(weight, "original_weight_tensor", weight)
    stated = getattr(inner, "target_dtype", None)  # torchao's Intx: torch.int4, kept in bytes
    if isinstance(stated, torch.dtype) and (digits := "".join(filter(str.isdigit, str(stated)))):
        return int(digits)
    for holder in (inner, getattr(inner, "tensor_impl", None)):
        top = getattr(holder, "quant_max", None)
        if top is not None:
            return math.ceil(math.log2(top - holder.quant_min + 1))  # type: ignore[union-attr]
    name = type(inner).__name__.lower()
    if "int4" in name:
        return 4
    return 8 if hasattr(inner, "qdata") or "float8" in name or "int8" in name else 0


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of all weights as they lie in memory: codes, scales and what was left alone; tied ones once.

    A library's state_dict is not asked: bitsandbytes changes a model that has run when it makes one.
    """
    found: dict[int, Tensor] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            found |= {id(part): part for part in _parts(weight)}
        for holder in (getattr(module, "weight", None), getattr(module, "state", None)):
            scales = getattr(
                holder, "SCB", None
            )  # bitsandbytes, 8 bits: here before the first pass, or there
            found |= {id(scales): scales} if isinstance(scales, Tensor) else {}
        for name, tensor in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:  # noqa: SLF001  tables that are computed anew
                found |= {id(part): part for part in _parts(tensor)}
    return sum(tensor.nbytes for tensor in found.values())


def _parts(tensor: Any) -> Iterator[Tensor]:
    """Yield the plain tensors that a library's tensor is made of."""
    state = getattr(tensor, "quant_state", None)
    while (
        state is not None
    ):  # bitsandbytes, 4 bits; the scales of double quantization have scales of their own
        yield from (part for part in (state.absmax, state.code, state.offset) if isinstance(part, Tensor))
        state = state.state2
    if is_plain(tensor) or not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _parts(getattr(tensor, name))


def is_plain(tensor: Tensor) -> bool:
    """Return whether this is an ordinary tensor, not a library's subclass."""
    return type(tensor) in (Tensor, nn.Parameter, nn.Buffer)


def nonfinite_tensors(model: nn.Module) -> list[str]:
    """Return the names of the floating-point tensors that hold a NaN or an infinity."""
    named = itertools.chain(model.named_parameters(), model.named_buffers())
    return [name for name, tensor in named if _looked_at(tensor) and not _is_finite(tensor)]


def _looked_at(tensor: Tensor) -> bool:
    return is_plain(tensor) and tensor.is_floating_point() and tensor.device.type != "meta"


def _is_finite(tensor: Tensor) -> bool:
    pieces = torch.split(tensor.detach().flatten(), PIECE)
    return all(
        bool(torch.isfinite(piece.float() if piece.itemsize == 1 else piece).all()) for piece in pieces
    )
