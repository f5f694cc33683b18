"""A Qwen2 checkpoint of a few layers as a GGUF file of float32 tensors, written tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
from safetensors.torch import load_file

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write(folder: Path, file: Path, *, bos: int | None = None, pre: str = "gpt-2") -> Path:
    """Write the checkpoint in `folder` to `file`; with `bos` the file says that this token begins every text."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(str(file), "qwen2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    _add_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text()), config, bos, pre)
    for name, tensor in load_file(folder / "model.safetensors").items():
        writer.add_tensor(_named(name), tensor.float().numpy())
    for step in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        getattr(writer, step)()
    return file


def _add_tokenizer(writer: Any, table: Any, config: Any, bos: int | None, pre: str) -> None:
    added = {entry["id"]: entry["content"] for entry in table["added_tokens"] if entry["special"]}
    vocabulary = dict(table["model"]["vocab"])
    vocabulary |= {content: number for number, content in added.items()}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    tokens += [f"<unused{number}>" for number in range(len(tokens), config["vocab_size"])]
    kinds = [
        gguf.TokenType.CONTROL if number in added else gguf.TokenType.NORMAL for number in range(len(tokens))
    ]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in table["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(bos is not None)
    if bos is not None:
        writer.add_bos_token_id(bos)


def _named(name: str) -> str:
    if not name.startswith("model.layers."):
        fixed = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
        stem, _, kind = name.rpartition(".")
        return f"{fixed[stem]}.{kind}"
    _, _, number, rest = name.split(".", 3)
    stem, _, kind = rest.rpartition(".")
    return f"blk.{number}.{NAMES[stem]}.{kind}"
