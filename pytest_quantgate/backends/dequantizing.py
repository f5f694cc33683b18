"""What the files of a GPTQ or AWQ checkpoint say, dequantized by code that shares nothing with any kernel.

Every kernel that computes with packed weights has its own idea of their layout; this is the layout as the formats
define it, read tensor by tensor from the safetensors files:

    weight[n, k] = scales[g(k), n] * (code[k, n] - zero[g(k), n])

GPTQ packs codes of b bits along the inputs and zero-points along the outputs, as one little-endian stream of bits in
32-bit words (3 bits cross them); g(k) is `g_idx`, and format v1 stores zero - 1. AWQ ("gemm") packs eight codes of
4 bits along the outputs in the order 0 2 4 6 1 3 5 7, and g(k) = k // group_size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pytest_quantgate.errors import CheckpointError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Codes", "Tensors", "readable"]

WORD = 32
AWQ_BITS = 4
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # which nibble of a word holds output 0, 1, 2 …
PACKED = ("qweight", "qzeros", "scales")
FORMAT_V2 = "gptq_v2"


@dataclass(frozen=True)
class Codes:
    """One packed matrix, opened.

    Attributes:
        codes: (K, N) int32.
        zeros: (G, N) int32.
        scales: (G, N) float32.
        groups: (K,) the group of each input.
        bits: of a code.

    """

    codes: Tensor
    zeros: Tensor
    scales: Tensor
    groups: Tensor
    bits: int

    def weight(self, groups: Tensor | None = None) -> Tensor:
        """Return the matrix (N, K) in float32; with other `groups` (K,), as it would be with those."""
        at = self.groups if groups is None else groups
        return (self.scales[at] * (self.codes - self.zeros[at]).float()).T.contiguous()


class Tensors:
    """The tensors of a checkpoint folder by name; each is read when it is asked for.

    Raises:
        CheckpointError: the folder holds no safetensors, or they cannot be read.

    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = {name: file for file in sorted(folder.glob("*.safetensors")) for name in _names(file)}
        if not self._file:
            raise CheckpointError(f"{folder}: no safetensors whose weights could be looked at")

    def __contains__(self, name: object) -> bool:
        return name in self._file

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)

    def get(self, name: str) -> Tensor:
        """Return one tensor as it is stored, on the CPU."""
        with _opened(self._file[name]) as file:
            found: Tensor = file.get_tensor(name)
        return found

    def floats(self, name: str) -> Tensor:
        """Return one tensor in float32, on the CPU."""
        return self.get(name).float()

    @cached_property
    def quantization(self) -> Mapping[str, Any]:
        """The section quantization_config of config.json; empty for a model without."""
        try:
            config: Any = json.loads((self._folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        section = config.get("quantization_config") if isinstance(config, dict) else None
        return section if isinstance(section, dict) else {}

    def codes(self, module: str) -> Codes | None:
        """Return the packed matrix of a module; None if it has none in a layout that is known here."""
        method = self.quantization.get("quant_method")
        if not all(f"{module}.{part}" in self for part in PACKED):
            return None
        words, zeros, scales = (self.get(f"{module}.{part}") for part in PACKED)
        if method == "awq" and words.dtype == torch.int32 and self.quantization.get("bits") == AWQ_BITS:
            return _awq(words, zeros, scales.float())
        bits = self.quantization.get("bits")
        if method != "gptq" or words.dtype != torch.int32 or not isinstance(bits, int):
            return None
        index = self.get(f"{module}.g_idx") if f"{module}.g_idx" in self else None
        form = self.quantization.get("checkpoint_format", self.quantization.get("format", "gptq"))
        return _gptq((words, zeros, scales.float()), index, bits, 0 if form == FORMAT_V2 else 1)


def readable(folder: Path) -> bool:
    """Return whether a checkpoint's packed weights can be read here, apart from any engine."""
    try:
        found = Tensors(folder)
    except CheckpointError:
        return False
    packed = (name.removesuffix(".qweight") for name in found if name.endswith(".qweight"))
    return any(found.codes(module) is not None for module in packed)


def _gptq(
    packed: tuple[Tensor, Tensor, Tensor], index: Tensor | None, bits: int, offset: int
) -> Codes | None:
    """Open words, zero-points and scales; `offset` is what the format takes off a zero-point."""
    words, zeros, scales = packed
    groups, outputs = scales.shape
    inputs = words.shape[0] * WORD // bits
    codes = _stream(words.T.contiguous().numpy(), bits)[:, :inputs].T
    points = _stream(zeros.contiguous().numpy(), bits)[:, :outputs]
    points = (points + offset) & ((1 << bits) - 1)
    if index is None:
        index = torch.arange(inputs) // max(1, inputs // groups)
    at = index.long()
    if len(at) != inputs or int(at.min()) < -groups or int(at.max()) >= groups:
        return None  # what the layout does not allow is for the loader to refuse
    return Codes(_tensor(codes), _tensor(points), scales, at % groups, bits)


def _awq(words: Tensor, zeros: Tensor, scales: Tensor) -> Codes:
    inputs, groups = words.shape[0], len(scales)
    at = torch.arange(inputs) // max(1, inputs // groups)
    return Codes(_nibbles(words), _nibbles(zeros), scales, at.clamp_(max=groups - 1), AWQ_BITS)


def _nibbles(words: Tensor) -> Tensor:
    fields = [(words >> (AWQ_BITS * place)) & 15 for place in AWQ_ORDER]
    return torch.stack(fields, dim=-1).flatten(1)


def _stream(words: NDArray[Any], bits: int) -> NDArray[np.int32]:
    """Read rows of 32-bit words as streams of numbers of `bits` bits: (R, W) -> (R, W * 32 // bits)."""
    rows = np.ascontiguousarray(words.astype("<i4")).view(np.uint8)
    stream = np.unpackbits(rows, axis=1, bitorder="little")
    count = stream.shape[1] // bits
    fields = stream[:, : count * bits].reshape(len(rows), count, bits)
    found: NDArray[np.int32] = (fields.astype(np.int32) << np.arange(bits, dtype=np.int32)).sum(
        -1, dtype=np.int32
    )
    return found


def _tensor(array: NDArray[np.int32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _names(file: Path) -> list[str]:
    with _opened(file) as stream:
        return list(stream.keys())


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(str(file), framework="pt") as stream:
            yield stream
    except (OSError, SafetensorError) as error:
        said = (str(error).splitlines() or [""])[0]
        raise CheckpointError(f"{file}: cannot be read ({said[:200]})") from error
