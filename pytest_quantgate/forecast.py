"""What a quantization will take, before it starts: bytes of the result, memory at the peak, time. Pure.

size     from the tensors' shapes, packed as the method packs them: codes, scales, zero points and the order of the
         inputs for each linear layer of a decoder block; everything else (embeddings, head, norms, biases) at 16 bits;
         a head that is tied to the embedding not at all. For GGUF the mean bits per weight of the file type, which
         llama.cpp varies by tensor: about 10 % off. Rows that 256 does not divide take a wider type there.
memory   W + R + H + 3 C + A and a process with its libraries (`BASE`): W the whole model at 16 bits, R the result,
         H one Hessian in float32 per linear layer of the largest block (input width squared), C the largest layer in
         float32 (weight, error and inverse), A the inputs and outputs of a block for all calibration tokens at 16 bits.
time     rough, a factor of 3 either way: arithmetic of two passes of the calibration tokens through every block, of the
         Hessians and of their factorization, over the machine's measured rate; and a constant per layer and process.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pytest_quantgate.checkpoint import TensorInfo
    from pytest_quantgate.spec import Recipe

__all__ = ["Forecast", "forecast", "linear_layers"]

BASE: Final = 650 << 20
"""Bytes of a process with torch, transformers and gptqmodel loaded: 642 MiB seen on a CPU with a model of 1 MB."""
START: Final = 10.0
"""Seconds to import the libraries, and to load both models for the check."""
PER_LAYER: Final = 0.1
"""Seconds that a linear layer takes however small it is: hooks, packing, bookkeeping."""
HEADER: Final = 104
"""Bytes of a safetensors header per tensor."""

_BLOCK: Final = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_GGUF_BITS: Final[Mapping[str, float]] = {
    "F32": 32.0, "F16": 16.0, "BF16": 16.0, "Q8_0": 8.5, "Q6_K": 6.56, "Q5_K_M": 5.69, "Q5_K_S": 5.54,
    "Q4_K_M": 4.85, "Q4_K_S": 4.58, "Q4_0": 4.55, "Q3_K_L": 4.27, "Q3_K_M": 3.91, "Q3_K_S": 3.5,
    "Q2_K": 3.0, "IQ4_XS": 4.25, "IQ4_NL": 4.5,
}  # fmt: skip
"""Mean bits per weight of llama.cpp's file types, as its tables list them for models of 7 to 8 B weights."""
_GGUF_NARROW: Final[Mapping[str, float]] = {
    "Q6_K": 8.5, "Q5_K_M": 6.0, "Q5_K_S": 6.0, "Q4_K_M": 5.5, "Q4_K_S": 5.5, "Q3_K_L": 4.5, "Q3_K_M": 4.5,
    "Q3_K_S": 4.5, "Q2_K": 4.5, "IQ4_XS": 4.5,
}  # fmt: skip
"""Bits per weight of the type that llama.cpp takes instead where a row is no multiple of 256 long."""
_GGUF_BLOCK: Final = 256
_GGUF_HEAD: Final = "Q6_K"
"""The least that llama.cpp gives an embedding that is also the head, in a quantized file."""
_GGUF_WORD: Final = 48
"""Bytes that a token of the vocabulary takes, which lies in the same file."""
_AWQ_TRIALS: Final = 20
"""How many scalings AWQ's search tries, each with a pass through the block."""
_ROUND_BATCH: Final = 8
_FORWARD_AND_BACK: Final = 3


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer that is quantized: the block it belongs to, and its widths."""

    name: str
    block: int
    inputs: int
    outputs: int

    @property
    def weights(self) -> int:
        """How many weights it has."""
        return self.inputs * self.outputs


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a quantization will take.

    Attributes:
        size: bytes of the weights that are written.
        memory: bytes at the peak, of the process and of the device together.
        seconds: rough.
        layers: how many linear layers are quantized.
        left: bytes of `size` that belong to tensors which are left at 16 bits.

    """

    size: int
    memory: int
    seconds: float
    layers: int
    left: int


def linear_layers(tensors: Mapping[str, TensorInfo]) -> list[Linear]:
    """Return the linear layers of the decoder's blocks; experts that are stored as one tensor count as one layer."""
    found = []
    for name, info in tensors.items():
        block = _BLOCK.search(name)
        if block and name.endswith("weight") and len(info.shape) > 1 and "norm" not in name:
            *outputs, inputs = info.shape
            found.append(Linear(name, int(block[1]), inputs, math.prod(outputs)))
    return found


def forecast(
    tensors: Mapping[str, TensorInfo], recipe: Recipe, *, tied: bool, hidden: int, tokens: int, rate: float
) -> Forecast:
    """Return what a recipe will take.

    Args:
        tensors: of the unquantized checkpoint, from its headers.
        recipe: method and parameters.
        tied: the head is the embedding, and is not stored.
        hidden: the model's width.
        tokens: how many calibration tokens there are, over all samples.
        rate: multiplications and additions per second in float32, as the machine reaches them.

    """
    linears = linear_layers(tensors)
    packed = {linear.name for linear in linears}
    rest = {
        name: info.shape
        for name, info in tensors.items()
        if name not in packed and not (tied and name.endswith("lm_head.weight"))
    }
    others = 2 * sum(map(math.prod, rest.values()))
    if recipe.method == "gguf":
        left, size = 0, _gguf(str(recipe["type"]), linears, rest.values())
    else:
        headers = len(rest) + _TENSORS.get(recipe.method, 3) * len(linears)
        left, size = others, others + sum(map(_packing(recipe), linears)) + HEADER * headers
    return Forecast(
        size=size,
        memory=others
        + 2 * sum(one.weights for one in linears)
        + size
        + _working(linears, hidden, tokens)
        + BASE,
        seconds=START + PER_LAYER * len(linears) + _operations(recipe, linears, tokens) / rate,
        layers=len(linears),
        left=left,
    )


def _gguf(kind: str, linears: Iterable[Linear], rest: Iterable[tuple[int, ...]]) -> int:
    bits = sum(one.weights * _gguf_bits(kind, one.inputs) for one in linears)
    words = 0
    for shape in rest:
        if len(shape) > 1:
            words = max(words, shape[0])
            least = _gguf_bits(_GGUF_HEAD, shape[-1])
            # Q8_0 is wider, and F16 is no quantized type
            bits += math.prod(shape) * max(_gguf_bits(kind, shape[-1]), least)
        else:
            bits += 32 * math.prod(shape)
    return math.ceil(bits / 8) + _GGUF_WORD * words


def _gguf_bits(kind: str, width: int) -> float:
    narrow = width % _GGUF_BLOCK and kind in _GGUF_NARROW
    return _GGUF_NARROW[kind] if narrow else _GGUF_BITS[kind]


_TENSORS: Final[Mapping[str, int]] = {"gptq": 4, "auto-gptq": 4, "awq": 3, "autoawq": 3}


def _packing(recipe: Recipe) -> Callable[[Linear], int]:
    """Return how many bytes a linear layer takes."""
    bits, group = _bits(recipe), int(recipe.get("group_size", -1))
    if recipe.method in ("awq", "autoawq"):
        return lambda one: _awq(one, group)
    if recipe.method == "llmcompressor":
        return lambda one: _compressed(one, bits, group, str(recipe["scheme"]))
    return lambda one: _gptq(one, bits, group)


def _bits(recipe: Recipe) -> int:
    scheme = str(recipe.get("scheme", ""))
    return int(recipe.get("bits", 4 if scheme.startswith("W4") else 8))


def _groups(one: Linear, group: int) -> int:
    return 1 if group < 0 else math.ceil(one.inputs / group)


def _gptq(one: Linear, bits: int, group: int) -> int:
    """Return the bytes of qweight, qzeros (int32), scales (float16) and g_idx (int32)."""
    codes = 4 * math.ceil(one.inputs * bits / 32) * one.outputs
    groups = _groups(one, group)
    return codes + groups * (4 * math.ceil(one.outputs * bits / 32) + 2 * one.outputs) + 4 * one.inputs


def _awq(one: Linear, group: int) -> int:
    """Return the bytes of qweight, qzeros (int32, 8 codes each) and scales (float16)."""
    return one.weights // 2 + _groups(one, group) * (one.outputs // 2 + 2 * one.outputs)


def _compressed(one: Linear, bits: int, group: int, scheme: str) -> int:
    """Return the bytes of packed or plain codes and 16-bit scales, and of zero points where there are any."""
    groups = _groups(one, group) if scheme in ("W4A16", "W4A16_ASYM", "W8A16") else 1
    zeros = groups * one.outputs // 2 if scheme.endswith("ASYM") else 0
    return one.weights * bits // 8 + 2 * groups * one.outputs + zeros + 16


def _working(linears: Iterable[Linear], hidden: int, tokens: int) -> int:
    hessians: dict[int, int] = defaultdict(int)
    largest = 0
    for one in linears:
        hessians[one.block] += 4 * one.inputs**2
        largest = max(largest, 4 * one.weights)
    return max(hessians.values(), default=0) + 3 * largest + 2 * 2 * hidden * tokens


def _operations(recipe: Recipe, linears: Iterable[Linear], tokens: int) -> float:
    """Return how many multiplications and additions the method does."""
    weights = sum(one.weights for one in linears)
    if recipe.method == "gguf":
        return 2.0 * weights * tokens
    if recipe.method in ("awq", "autoawq"):
        return 2.0 * weights * tokens * (2 + _AWQ_TRIALS)
    if recipe.method == "autoround":
        batch = min(tokens, _ROUND_BATCH * int(recipe["max_length"]))
        return 2.0 * weights * (2 * tokens + _FORWARD_AND_BACK * batch * int(recipe["iterations"]))
    solve = sum(2.0 * one.inputs**2 * (tokens + one.inputs + one.outputs) for one in linears)
    return 2 * 2.0 * weights * tokens + solve
