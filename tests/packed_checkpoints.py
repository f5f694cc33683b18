"""Quantized checkpoints made by hand: codes packed by numpy, as the formats define it, and the matrices they stand for.

No quantization library is involved, so what one makes of such a file can be held against the matrices.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

GROUP = 32
Tensors = dict[str, torch.Tensor]
Made = tuple[Tensors, torch.Tensor]


def rounded(weight: torch.Tensor, bits: int, group: int, *, symmetric: bool) -> tuple[np.ndarray, ...]:
    """Return codes (N, K), zero-points and scales (N, K / group) of a matrix (N, K); scales are float16 values."""
    rows, columns = weight.shape
    grouped = weight.double().numpy().reshape(rows, columns // group, group)
    top = 2**bits - 1
    if symmetric:
        scales = np.abs(grouped).max(-1) / (top // 2)
        zeros = np.full(scales.shape, 2 ** (bits - 1))
    else:
        low, high = np.minimum(grouped.min(-1), 0), np.maximum(grouped.max(-1), 0)
        scales = (high - low) / top
        zeros = np.clip(np.rint(-low / scales), 0, top)
    scales = scales.astype(np.float16).astype(np.float64)
    codes = np.clip(np.rint(grouped / scales[..., None]) + zeros[..., None], 0, top)
    return codes.reshape(rows, columns).astype(np.int64), zeros.astype(np.int64), scales


def matrix(codes: np.ndarray, zeros: np.ndarray, scales: np.ndarray) -> torch.Tensor:
    """Return what codes stand for (N, K)."""
    group = codes.shape[1] // zeros.shape[1]
    return torch.from_numpy(np.repeat(scales, group, 1) * (codes - np.repeat(zeros, group, 1))).float()


def packed(codes: np.ndarray, bits: int, axis: int) -> torch.Tensor:
    """Return codes packed into 32-bit words along an axis, the first in the lowest bits."""
    each = 32 // bits
    along = np.moveaxis(codes, axis, -1)
    along = along.reshape(*along.shape[:-1], -1, each).astype(np.uint64) << (
        np.arange(each, dtype=np.uint64) * bits
    )
    words = along.sum(-1).astype(np.uint32).view(np.int32)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(words, -1, axis)))


def gptq(name: str, weight: torch.Tensor) -> Made:
    """Return a layer as auto-gptq writes it: format v1, whose zero-points are stored less one."""
    codes, zeros, scales = rounded(weight, 4, GROUP, symmetric=False)
    zeros = np.maximum(zeros, 1)  # 0 less one would wrap
    tensors = {
        f"{name}.qweight": packed(codes.T, 4, 0),
        f"{name}.qzeros": packed(zeros.T - 1, 4, 1),
        f"{name}.scales": torch.from_numpy(scales.T.copy()).half(),
        f"{name}.g_idx": torch.arange(weight.shape[1], dtype=torch.int32) // GROUP,
    }
    return tensors, matrix(codes, zeros, scales)


def awq(name: str, weight: torch.Tensor) -> Made:
    """Return a layer as autoawq writes it: "gemm", eight outputs to a word in the order 0 2 4 6 1 3 5 7."""
    codes, zeros, scales = rounded(weight, 4, GROUP, symmetric=False)
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def shuffled(values: np.ndarray) -> np.ndarray:
        return values.reshape(len(values), -1, 8)[:, :, order].reshape(values.shape)

    tensors = {
        f"{name}.qweight": packed(shuffled(codes.T), 4, 1),
        f"{name}.qzeros": packed(shuffled(zeros.T), 4, 1),
        f"{name}.scales": torch.from_numpy(scales.T.copy()).half(),
    }
    return tensors, matrix(codes, zeros, scales)


def compressed(name: str, weight: torch.Tensor, *, symmetric: bool = True) -> Made:
    """Return a layer as llm-compressor writes 4 bits: packed along the inputs, codes offset by 8."""
    codes, zeros, scales = rounded(weight, 4, GROUP, symmetric=symmetric)
    tensors = {
        f"{name}.weight_packed": packed(codes, 4, 1),
        f"{name}.weight_scale": torch.from_numpy(scales).float(),
        f"{name}.weight_shape": torch.tensor(weight.shape),
    }
    if not symmetric:
        tensors[f"{name}.weight_zero_point"] = packed(zeros, 4, 0)
    return tensors, matrix(codes, zeros, scales)


def int8(name: str, weight: torch.Tensor) -> Made:
    """Return a layer with one scale per output, as int8."""
    scales = weight.double().abs().amax(1, keepdim=True) / 127
    codes = (weight.double() / scales).round().clamp(-128, 127)
    return {
        f"{name}.weight": codes.to(torch.int8),
        f"{name}.weight_scale": scales.float(),
    }, (codes * scales.float().double()).float()


def fp8(name: str, weight: torch.Tensor) -> Made:
    """Return a layer with one scale per output, as float8 e4m3."""
    scales = (weight.abs().amax(1, keepdim=True) / 448).float()
    codes = (weight.float() / scales).to(torch.float8_e4m3fn)
    return {f"{name}.weight": codes, f"{name}.weight_scale": scales}, codes.float() * scales


def _scheme(**weights: Any) -> dict[str, Any]:
    usual = {"dynamic": False, "strategy": "channel", "symmetric": True, "type": "int"}
    inputs = weights.pop("inputs", None)
    return {
        "quant_method": "compressed-tensors",
        "format": weights.pop("format"),
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": {**usual, **weights}, "input_activations": inputs}
        },
    }


DYNAMIC = {"dynamic": True, "strategy": "token", "symmetric": True}
FOUR_BITS = {"format": "pack-quantized", "num_bits": 4, "group_size": GROUP, "strategy": "group"}
KINDS: dict[str, tuple[Callable[..., Made], dict[str, Any]]] = {
    "auto-gptq": (
        gptq,
        {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": GROUP,
            "desc_act": False,
            "sym": False,
            "damp_percent": 0.01,
            "static_groups": False,
            "true_sequential": True,
            "is_marlin_format": False,
            "model_name_or_path": None,
            "model_file_base_name": None,
        },
    ),
    "autoawq": (
        awq,
        {
            "quant_method": "awq",
            "bits": 4,
            "group_size": GROUP,
            "version": "gemm",
            "zero_point": True,
            "modules_to_not_convert": None,
        },
    ),
    "W4A16": (compressed, _scheme(**FOUR_BITS)),
    "W4A16_ASYM": (
        lambda name, weight: compressed(name, weight, symmetric=False),
        _scheme(**FOUR_BITS, symmetric=False),
    ),
    "W8A8": (int8, _scheme(format="int-quantized", num_bits=8, inputs={**DYNAMIC, "num_bits": 8})),
    "FP8": (
        fp8,
        _scheme(
            format="float-quantized",
            num_bits=8,
            type="float",
            inputs={**DYNAMIC, "num_bits": 8, "type": "float"},
        ),
    ),
}


def write(folder: Path, baseline: Path, kind: str) -> dict[str, torch.Tensor]:
    """Quantize the decoder's linear layers of a checkpoint into a new one; return what their matrices now are."""
    make, section = KINDS[kind]
    shutil.copytree(baseline, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": section}))
    tensors, matrices = load_file(folder / "model.safetensors"), {}
    for key in [key for key in tensors if ".layers." in key and key.endswith("_proj.weight")]:
        name = key.removesuffix(".weight")
        made, matrices[name] = make(name, tensors.pop(key).float())
        tensors |= made
    save_file(
        {key: value.contiguous() for key, value in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return matrices
