"""A place for the packed zero-points of compressed-tensors, which 0.19 and 0.20 forget.

While a checkpoint is loaded, its layers are first laid out on the meta device. There the library gives packed weights
their shape, and leaves asymmetric zero-points as they were before packing, so that transformers 5.23 finds tensors
of another shape in the file and refuses it. Asymmetric 4 bits are what llm-compressor's AWQ makes.
"""

from __future__ import annotations

import importlib
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["packed_zero_points"]

WORD = 32
ZERO_POINT = "weight_zero_point"


def _compressor() -> Any:
    """Return the class that packs weights; None where this version has none of that name."""
    try:
        library = importlib.import_module("compressed_tensors.compressors.pack_quantized.base")
    except ModuleNotFoundError:
        return None
    return getattr(library, "PackedQuantizationCompressor", None)


@contextmanager
def packed_zero_points() -> Iterator[None]:
    """Let layers that are laid out inside have zero-points of the shape that is in the file."""
    kind = _compressor()
    if kind is None:  # another version, with other faults
        yield
        return
    usual = kind.__dict__["compress"]

    def compress(cls: Any, state_dict: Any, scheme: Any) -> Any:
        made = usual.__func__(cls, state_dict, scheme)
        zeros = made.get(ZERO_POINT)
        if zeros is not None and zeros.device.type == "meta" and zeros.dtype != torch.int32:
            rows = math.ceil(zeros.shape[0] * scheme.weights.num_bits / WORD)
            made[ZERO_POINT] = torch.empty(rows, *zeros.shape[1:], dtype=torch.int32, device="meta")
        return made

    kind.compress = classmethod(compress)
    try:
        yield
    finally:
        kind.compress = usual
