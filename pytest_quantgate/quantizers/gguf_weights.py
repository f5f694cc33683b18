"""A model folder's tensors written as GGUF, one at a time: the largest tensor is what it takes in memory."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import gguf
import torch
from safetensors import safe_open
from torch import Tensor

from pytest_quantgate.errors import CheckpointError, ConfigError
from pytest_quantgate.quantizers.gguf_architectures import (
    ARCHITECTURES,
    describe,
    extra_tensors,
    permuted,
)
from pytest_quantgate.quantizers.gguf_vocabulary import add_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_quantgate.quantizers.gguf_architectures import Architecture

__all__ = ["FLOAT_TYPES", "names_of", "stored_type", "write_gguf"]

FLOAT_TYPES: Final = {
    "F32": (torch.float32, gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "F16": (torch.float16, gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "BF16": (torch.bfloat16, gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}
MATRIX: Final = 2
HEAD, INDEX = "lm_head.weight", "model.safetensors.index.json"
LEFT_OUT: Final = ("rotary_emb.inv_freq",)


class _Entry(NamedTuple):
    """A tensor to write."""

    name: str
    shape: tuple[int, ...]
    matrix: bool
    read: Callable[[], Tensor]


def stored_type(folder: Path) -> str:
    """Return the type of GGUF that holds a folder's weights without a loss: "F32", "F16" or "BF16".

    Raises:
        ConfigError: the weights are of another type.

    """
    with ExitStack() as stack:
        kinds = {
            handle.get_slice(name).get_dtype()
            for handle in _opened(folder, stack)
            for name in handle.keys()  # noqa: SIM118
        }
    if len(kinds) > 1 and kinds <= FLOAT_TYPES.keys():
        return "F32"
    if len(kinds) != 1 or not kinds <= FLOAT_TYPES.keys():
        listed = ", ".join(sorted(kinds))
        raise ConfigError(
            f"method gguf cannot convert {folder}: its weights are {listed}, not F32, F16 or BF16"
        )
    return str(kinds.pop())


def write_gguf(folder: Path, config: Any, tokenizer: Any, kind: str, out: Path) -> None:
    """Write a model folder as one GGUF file.

    Args:
        folder: holds safetensors.
        config: its configuration; `architecture_of` has accepted it.
        tokenizer: its tokenizer.
        kind: type of the matrices: "F32", "F16" or "BF16"; vectors are always F32.
        out: the file to make.

    Raises:
        ConfigError: the tokenizer is of no kind that llama.cpp has.
        CheckpointError: a tensor that the architecture has not, or that float16 cannot hold.

    """
    architecture = ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[architecture.kind])
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_file_type(FLOAT_TYPES[kind][2])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    describe(writer, config)
    add_vocabulary(writer, config, tokenizer, folder)
    with ExitStack() as stack:
        stack.callback(writer.close)
        entries = list(_entries(folder, config, architecture, stack))
        for entry in entries:
            dtype, raw, _ = FLOAT_TYPES[kind if entry.matrix else "F32"]
            nbytes = dtype.itemsize * torch.Size(entry.shape).numel()
            writer.add_tensor_info(entry.name, entry.shape, _numpy_type(dtype), nbytes, raw_dtype=raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry in entries:
            writer.write_tensor_data(_as_array(entry, FLOAT_TYPES[kind if entry.matrix else "F32"][0]))


def _numpy_type(dtype: torch.dtype) -> Any:
    return torch.empty(0, dtype=torch.uint16 if dtype == torch.bfloat16 else dtype).numpy().dtype


def _as_array(entry: _Entry, dtype: torch.dtype) -> Any:
    tensor = entry.read().to(dtype).contiguous()
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(
            f'tensor {entry.name} is not finite in {str(dtype).removeprefix("torch.")}; write type = "BF16" or "F32"'
        )
    return tensor.view(torch.uint16).numpy() if dtype == torch.bfloat16 else tensor.numpy()


def _opened(folder: Path, stack: ExitStack) -> Iterator[Any]:
    index = folder / INDEX
    if index.exists():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    for name in names:
        yield stack.enter_context(safe_open(folder / name, framework="pt"))


def names_of(config: Any) -> Callable[[str], str | None]:
    """Return what gives a tensor's name in GGUF; None for one that the architecture has not."""
    architecture = ARCHITECTURES[config.model_type]
    table = gguf.get_tensor_name_map(architecture.kind, config.num_hidden_layers)
    return lambda name: table.get_name(name, try_suffixes=(".weight", ".bias"))


def _entries(folder: Path, config: Any, architecture: Architecture, stack: ExitStack) -> Iterator[_Entry]:
    named = names_of(config)
    for handle in _opened(folder, stack):
        for name in sorted(handle.keys()):
            if name.endswith(LEFT_OUT) or (name == HEAD and config.tie_word_embeddings):
                continue
            target = named(name)
            if target is None:
                raise CheckpointError(
                    f"{folder}: the tensor {name} is none that a {config.model_type} model has in GGUF;"
                    " export the model again with save_pretrained"
                )
            shape = tuple(handle.get_slice(name).get_shape())

            def read(handle: Any = handle, name: str = name) -> Tensor:
                return _treated(name, handle.get_tensor(name), config, architecture)

            yield _Entry(target, shape, len(shape) >= MATRIX, read)
    for name, tensor in extra_tensors(config).items():
        yield _Entry(name, tuple(tensor.shape), matrix=False, read=tensor.clone)


def _treated(name: str, tensor: Tensor, config: Any, architecture: Architecture) -> Tensor:
    if architecture.norm_offset and name.endswith("norm.weight"):
        return tensor.float() + architecture.norm_offset
    if architecture.permuted and ".q_proj." in name:
        return permuted(tensor, config.num_attention_heads)
    if architecture.permuted and ".k_proj." in name:
        return permuted(tensor, config.num_key_value_heads)
    return tensor
