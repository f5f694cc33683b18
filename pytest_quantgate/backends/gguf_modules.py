"""What a GGUF file is made of, by its header and its bytes: types of the modules, weights that are not finite."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pytest_quantgate.checkpoint.gguf_files import find_gguf, quantization_of, read_parts
from pytest_quantgate.checkpoint.gguf_types import FLOATS, TYPES, bits_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from pytest_quantgate.checkpoint.gguf import Header
    from pytest_quantgate.checkpoint.headers import TensorInfo

__all__ = ["findings", "remarks"]

MATRIX: Final = 2
K_BLOCK: Final = 256
EMBEDDING, HEAD = "token_embd.weight", "output.weight"
STORED: Final = {kind.name: kind for kind in TYPES.values()}
PLAIN: Final = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
SCALES: Final = {
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "IQ4_XS", "IQ2_XXS", "IQ2_XS", "IQ2_S"), (0,)),
    **dict.fromkeys(("IQ3_XXS", "IQ3_S", "IQ1_S"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
}
"""Where the float16 scales of a block lie; a block is not finite if one of them is not."""

PIECE: Final = 1 << 22


def findings(path: Path) -> dict[str, Any]:
    """Return the quantized modules with their bits, the dense ones, and the tensors that are not finite.

    `types` counts the matrices of each type, and `remarks` say what a reader must know of them.
    """
    folder, parts, tensors = _read(path)
    matrices = {name: info for name, info in tensors.items() if len(info.shape) >= MATRIX}
    # the embedding is no linear module, but where it is the head too it does its work
    linear = [name for name in matrices if name != EMBEDDING or HEAD not in tensors]
    section = quantization_of(next(iter(parts.values())), tensors)
    return {
        "quantized": {
            name.removesuffix(".weight"): bits
            for name, info in matrices.items()
            if (bits := bits_of(info.dtype))
        },
        "dense": [name.removesuffix(".weight") for name in linear if not bits_of(matrices[name].dtype)],
        "nonfinite": [name for file, header in parts.items() for name in _nonfinite(folder / file, header)],
        "types": section["types"] if section else {},
        "remarks": list(remarks(path)),
    }


def _read(path: Path) -> tuple[Path, dict[str, Header], dict[str, TensorInfo]]:
    folder, names = find_gguf(path)
    parts = read_parts(folder, names)
    return folder, parts, {name: info for header in parts.values() for name, info in header.tensors.items()}


def remarks(path: Path) -> tuple[str, ...]:
    """Return what to know of a mixture that is not what its name says; nothing if it is.

    llama.cpp stores a matrix whose rows are no multiple of 256 in another type than the K- or I-quant that was asked
    for, and says so only in its log.
    """
    _, parts, tensors = _read(path)
    section = quantization_of(next(iter(parts.values())), tensors)
    family = _family(section["file_type"]) if section else ""
    if section is None or not family:
        return ()
    matrices = [info for info in tensors.values() if len(info.shape) >= MATRIX]
    weights = sum(math.prod(info.shape) for info in matrices)
    odd = sum(math.prod(info.shape) for info in matrices if info.shape[-1] % K_BLOCK)
    if not odd:
        return ()
    kinds = ", ".join(f"{count} {name}" for name, count in section["types"].items())
    told = (
        f"{section['file_type']} was asked for, but {odd / weights:.0%} of the weights lie in rows that are no multiple"
        f" of 256, which {family} need: the matrices are {kinds}"
    )
    return (told,)


def _family(file_type: str) -> str:
    """Return what mixtures of blocks of 256 weights are called; empty for one of shorter blocks."""
    if "_K" in file_type:
        return "K-quants"
    return "I-quants" if file_type.startswith("IQ") and file_type != "IQ4_NL" else ""


def _nonfinite(file: Path, header: Header) -> list[str]:
    return [
        name
        for name, info in header.tensors.items()
        if not all(np.isfinite(values).all() for values in _floats(file, info, header.offsets[name]))
    ]


def _floats(file: Path, info: TensorInfo, offset: int) -> Iterator[NDArray[np.floating]]:
    """Yield the numbers of a tensor, or the scales of its blocks, a piece at a time."""
    stored = STORED[info.dtype]
    if info.dtype not in FLOATS and info.dtype not in SCALES:
        return
    data = np.memmap(file, dtype=np.uint8, mode="r", offset=offset, shape=(info.nbytes,))
    piece = PIECE // stored.nbytes * stored.nbytes
    for begin in range(0, info.nbytes, piece):
        part = np.ascontiguousarray(data[begin : begin + piece])
        if info.dtype in PLAIN:
            yield part.view(PLAIN[info.dtype])
        elif info.dtype == "BF16":  # the upper half of a float32
            yield (part.view("<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            blocks = part.reshape(-1, stored.nbytes)
            for at in SCALES[info.dtype]:
                yield np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2")
