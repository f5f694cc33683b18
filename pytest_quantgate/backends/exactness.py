"""Making a loaded quantized model compute in the dtype that was asked for, and say so where it cannot.

A format fixes its codes and scales; the type of the products and sums is the loader's choice, and libraries choose by
themselves: AWQ's torch kernel takes float16 at best, bitsandbytes the type that was set when the checkpoint was saved.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

import torch

from pytest_quantgate.backends.modules import bits_of, is_plain

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["cast_the_rest", "compute_awq_exactly", "compute_nf4_in", "decompress", "wrongly_typed"]


def compute_awq_exactly(model: Any, dtype: torch.dtype) -> None:
    """Let AWQ's torch kernel, which computes in float16 at best (3e-4 per layer), do it in float32."""
    if dtype != torch.float32:
        return
    for module in model.modules():
        if type(module).__name__ == "AwqTorchLinear" and module.adapter is None:
            module.scales = module.scales.float()
            module.forward = functools.partial(_awq_in_float32, module)


def _awq_in_float32(module: Any, inputs: torch.Tensor) -> torch.Tensor:
    dequantize = importlib.import_module(type(module).__module__).dequantize_gemm
    matrix: torch.Tensor = dequantize(
        module.qweight, module.qzeros, module.scales, module.bits, module.group_size
    )
    outputs = inputs @ matrix.float()
    if module.bias is not None:
        outputs = outputs + module.bias.float()
    return outputs


def compute_nf4_in(model: Any, dtype: torch.dtype) -> None:
    """Let bitsandbytes' 4-bit layers multiply in `dtype`, not in what was said when the checkpoint was saved."""
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = dtype
            module.compute_type_is_set = True
    cast_the_rest(model, dtype)


def decompress(model: Any, dtype: torch.dtype) -> None:
    """Let a compressed-tensors model unpack its weights now: it does so in its first pass, and only in a whole one."""
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device))
    cast_the_rest(model, dtype)


def cast_the_rest(model: Any, dtype: torch.dtype) -> None:
    """Cast the tensors that are not quantized: for these formats transformers leaves them as they are stored.

    Scales keep their type: they belong to the format, and rounding them would be another quantization.
    """
    kept = _kept_in_float32(model)
    for prefix, module in model.named_modules():
        quantized = bool(bits_of(module))
        for name, tensor in module.named_parameters(recurse=False):
            of_format = quantized and name != "bias"
            if not of_format and _is_float(tensor) and not any(part in f"{prefix}.{name}" for part in kept):
                tensor.data = tensor.data.to(dtype)


def _is_float(tensor: torch.Tensor) -> bool:
    return is_plain(tensor) and tensor.is_floating_point() and tensor.itemsize > 1


def _kept_in_float32(model: Any) -> tuple[str, ...]:
    names = ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
    return tuple(part for name in names for part in getattr(model, name, None) or ())


def wrongly_typed(model: Any, wanted: torch.dtype) -> Iterator[tuple[str, torch.dtype]]:
    """Yield name and dtype of each parameter that makes the model compute in another dtype than `wanted`.

    Packed codes, scales of quantized modules and what the architecture keeps in float32 do not.
    """
    kept = _kept_in_float32(model)
    scales = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if bits_of(module)
        for name, tensor in module.named_parameters(recurse=False)
        if is_plain(tensor) and name not in ("weight", "bias")
    }
    for name, parameter in model.named_parameters():
        packed = not parameter.is_floating_point() or parameter.itemsize == 1
        if packed or name in scales or parameter.dtype == wanted or any(part in name for part in kept):
            continue
        yield name, parameter.dtype
