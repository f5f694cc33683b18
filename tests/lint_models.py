"""Model folders of real shapes without real bytes: headers, and files that are made long by a hole."""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "I64": 8, "I8": 1, "U8": 1, "F8_E4M3": 1}
INDEX = "model.safetensors.index.json"
LAYERS, HIDDEN, INNER, HEADS, GROUPS, VOCABULARY = 4, 256, 512, 4, 2, 320
BITS, GROUP = 4, 64
Tensors = dict[str, tuple[str, tuple[int, ...]]]

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
    "eos_token_id": 1,
}
MATRICES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (GROUPS * HIDDEN // HEADS, HIDDEN),
    "self_attn.v_proj": (GROUPS * HIDDEN // HEADS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
SECTIONS: dict[str, dict[str, Any]] = {
    "gptq": {"quant_method": "gptq", "bits": BITS, "group_size": GROUP, "desc_act": True, "sym": True},
    "awq": {"quant_method": "awq", "bits": BITS, "group_size": GROUP, "zero_point": True, "version": "gemm"},
    "compressed": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": BITS, "group_size": GROUP, "strategy": "group", "symmetric": True},
            }
        },
        "ignore": ["lm_head"],
    },
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]},
    "bnb4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "bnb8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "torchao": {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}},
    "nvfp4": {
        "quant_method": "compressed-tensors",
        "format": "nvfp4-pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 16}}},
        "ignore": ["lm_head"],
    },
    "int8": {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "strategy": "channel"}}
        },
        "ignore": ["lm_head"],
    },
}


def _gptq(outs: int, ins: int, bits: int, group: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    groups = math.ceil(ins / group)
    return {
        "qweight": ("I32", (ins * bits // 32, outs)),
        "scales": ("F16", (groups, outs)),
        "qzeros": ("I32", (groups, outs * bits // 32)),
        "g_idx": ("I32", (ins,)),
    }


def _awq(outs: int, ins: int, bits: int, group: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    groups = ins // group
    return {
        "qweight": ("I32", (ins, outs * bits // 32)),
        "scales": ("F16", (groups, outs)),
        "qzeros": ("I32", (groups, outs * bits // 32)),
    }


PACKINGS: dict[str, Callable[..., dict[str, tuple[str, tuple[int, ...]]]]] = {
    "gptq": _gptq,
    "awq": _awq,
    "compressed": lambda outs, ins, bits, group: {
        "weight_packed": ("I32", (outs, ins * bits // 32)),
        "weight_scale": ("BF16", (outs, ins // group)),
        "weight_shape": ("I64", (2,)),
    },
    "fp8": lambda outs, ins, bits, group: {
        "weight": ("F8_E4M3", (outs, ins)),
        "weight_scale_inv": ("F32", (math.ceil(outs / 128), math.ceil(ins / 128))),
    },
    "bnb4": lambda outs, ins, bits, group: {
        "weight": ("U8", (outs * ins // 2, 1)),
        "weight.absmax": ("F32", (outs * ins // 64,)),
        "weight.quant_map": ("F32", (16,)),
        "weight.quant_state.bitsandbytes__nf4": ("U8", (80,)),
    },
    "torchao": lambda outs, ins, bits, group: {
        "_weight_qdata": ("I8", (outs, ins)),
        "_weight_scale": ("F32", (outs, 1)),
        "_weight_zero_point": ("I8", (outs, 1)),
    },
    "quanto": lambda outs, ins, bits, group: {
        "weight._data": ("I8", (outs, ins)),
        "weight._scale": ("F32", (outs, 1)),
    },
    "nvfp4": lambda outs, ins, bits, group: {
        "weight_packed": ("U8", (outs, ins // 2)),
        "weight_scale": ("F8_E4M3", (outs, ins // 16)),
        "weight_global_scale": ("F32", (1,)),
    },
    "modelopt": lambda outs, ins, bits, group: {
        "weight": ("U8", (outs, ins // 2)),
        "weight_scale": ("F8_E4M3", (outs, ins // 16)),
        "weight_scale_2": ("F32", ()),
    },
    "bnb8": lambda outs, ins, bits, group: {"weight": ("I8", (outs, ins)), "SCB": ("F32", (outs,))},
    "int8": lambda outs, ins, bits, group: {
        "weight": ("I8", (outs, ins)),
        "weight_scale": ("BF16", (outs, 1)),
    },
}


def tensors(kind: str = "", bits: int = BITS, group: int = GROUP) -> Tensors:
    """Return the tensors of a small Qwen2, packed in some way or dense."""
    made: Tensors = {
        "model.embed_tokens.weight": ("BF16", (VOCABULARY, HIDDEN)),
        "model.norm.weight": ("BF16", (HIDDEN,)),
        "lm_head.weight": ("BF16", (VOCABULARY, HIDDEN)),
    }
    for layer in range(LAYERS):
        for name in ("input_layernorm", "post_attention_layernorm"):
            made[f"model.layers.{layer}.{name}.weight"] = ("BF16", (HIDDEN,))
        for name, (outs, ins) in MATRICES.items():
            parts = PACKINGS[kind](outs, ins, bits, group) if kind else {"weight": ("BF16", (outs, ins))}
            made |= {f"model.layers.{layer}.{name}.{part}": value for part, value in parts.items()}
    return made


def config(kind: str = "", **fields: Any) -> dict[str, Any]:
    """Return the config.json of that model; a field that is None is left out."""
    section = {"quantization_config": SECTIONS[kind]} if kind else {}
    return {name: value for name, value in (CONFIG | section | fields).items() if value is not None}


def tokenizer(count: int = 300, **fields: Any) -> dict[str, Any]:
    """Return a tokenizer.json of that many tokens."""
    ids = {f"t{number}": number for number in range(2, count)}
    special = [{"id": number, "content": f"<{number}>", "special": True} for number in range(2)]
    return {"model": {"type": "BPE", "vocab": ids, "merges": []}, "added_tokens": special, **fields}


def weights(made: Tensors) -> tuple[bytes, int]:
    """Return the header of a safetensors file, and how long the file is."""
    header, end = {}, 0
    for name, (dtype, shape) in made.items():
        begin, end = end, end + math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + end


def write_weights(path: Path, made: Tensors) -> None:
    """Write a safetensors file with a header and a hole."""
    header, length = weights(made)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(length)


def write(folder: Path, kind: str = "", *, made: Tensors | None = None, files: dict[str, Any] | None = None,
          shards: int = 1, **fields: Any) -> Path:  # fmt: skip
    """Write a sound model folder, with tensors, fields of config.json or whole files replaced or left out (None)."""
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "config.json": config(kind, **fields),
        "generation_config.json": {"eos_token_id": [1, 2]},
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": {"eos_token": "<1>", "chat_template": "{{ messages }}"},
        "README.md": "---\nlicense: mit\n---\nA model.\n",
        **(files or {}),
    }
    for name, value in content.items():
        if value is not None:
            text = json.dumps(value) if isinstance(value, dict | list) else value
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    write_shards(folder, tensors(kind) if made is None else made, shards)
    return folder


def write_shards(folder: Path, made: Tensors, count: int) -> None:
    """Write the weights into one file, or into several and an index."""
    if count == 1:
        write_weights(folder / "model.safetensors", made)
    if count <= 1:
        return
    names = list(made)
    weight_map = {}
    for shard in range(count):
        file = f"model-{shard + 1:05}-of-{count:05}.safetensors"
        part = names[shard * len(names) // count : (shard + 1) * len(names) // count]
        write_weights(folder / file, {name: made[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    total = sum(math.prod(shape) * BYTES[dtype] for dtype, shape in made.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
