"""What `quantgate lint` takes on a checkpoint of 70 B parameters, against listing its tensors with safetensors.

The folder has a real one's sizes and headers (80 layers of Llama 3 70B, GPTQ 4 bit in groups of 128, 30 shards of 40 GB
together, an index, a tokenizer of 128,256 entries), but the weights are holes and take no disk. The other side only
reads: `safe_open` of every shard for names, shapes and dtypes, `AutoConfig`, the tokenizer's JSON. Both are
timed inside a warm process, and as commands of their own, where importing counts.
"""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from table import Row
from timing import Timing, alternate, seconds

__all__ = ["measure"]

LAYERS, HIDDEN, INNER, HEADS, GROUPS, VOCABULARY, SHARDS = 80, 8192, 28672, 64, 8, 128256, 30
BITS, GROUP = 4, 128
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "eos_token_id": 1,
    "quantization_config": {
        "quant_method": "gptq",
        "bits": BITS,
        "group_size": GROUP,
        "desc_act": False,
        "sym": True,
    },
}
MATRICES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN // HEADS * GROUPS, HIDDEN),
    "self_attn.v_proj": (HIDDEN // HEADS * GROUPS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
BYTES = {"F16": 2, "I32": 4}
LISTING = """
import json, pathlib, sys
from safetensors import safe_open
from transformers import AutoConfig

def listed(folder):
    folder = pathlib.Path(folder)
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            for name in file.keys():
                part = file.get_slice(name)
                found[name] = part.get_shape(), part.get_dtype()
    AutoConfig.from_pretrained(folder)
    if (folder / "tokenizer.json").exists():
        json.loads((folder / "tokenizer.json").read_bytes())
    return found
"""


def measure(repetitions: int = 9) -> list[Row]:
    """Return how long lint takes, and its ratio to reading the same headers and configuration."""
    with tempfile.TemporaryDirectory() as folder:
        whole = _write(Path(folder) / "whole")
        bare = _write(Path(folder) / "bare", with_tokenizer=False)
        listed = _listing()
        return [
            _row(
                "lint, 70 B folder without tokenizer, in a process",
                alternate(lambda: _lint(bare), lambda: listed(bare), repetitions),
            ),
            _row(
                "lint, 70 B folder, in a process",
                alternate(lambda: _lint(whole), lambda: listed(whole), repetitions),
            ),
            _row(
                "`quantgate lint`, 70 B folder, as a command",
                alternate(lambda: _command(whole), lambda: _other_command(whole), max(3, repetitions // 3)),
            ),
        ]


def _row(what: str, timing: Timing) -> Row:
    against = f"{seconds(timing.their_median)} (safe_open and AutoConfig)"
    return Row(what, seconds(timing.our_median), against, timing.cost, timing.cost_spread)


def _lint(folder: Path) -> None:
    from pytest_quantgate.lint import lint  # noqa: PLC0415

    found = lint(folder)
    if found.counts()["error"] or found.facts.packed != LAYERS * len(MATRICES):
        raise RuntimeError(f"the synthetic folder is not sound: {[f.line() for f in found.findings]}")


def _listing():  # noqa: ANN202
    space: dict = {}
    exec(LISTING, space)
    return space["listed"]


def _command(folder: Path) -> None:
    _run("-m", "pytest_quantgate.cli", "lint", str(folder))


def _other_command(folder: Path) -> None:
    _run("-c", f"{LISTING}\nlisted({str(folder)!r})")


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


# --- the folder


def _write(folder: Path, *, with_tokenizer: bool = True) -> Path:
    folder.mkdir()
    tensors, weight_map = list(_tensors().items()), {}
    total = 0
    for shard in range(SHARDS):
        name = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        part = dict(tensors[shard * len(tensors) // SHARDS : (shard + 1) * len(tensors) // SHARDS])
        total += _write_shard(folder / name, part)
        weight_map |= dict.fromkeys(part, name)
    documents = {
        "config.json": CONFIG,
        "generation_config.json": {"eos_token_id": 1},
        "model.safetensors.index.json": {"metadata": {"total_size": total}, "weight_map": weight_map},
        "tokenizer_config.json": {"eos_token": "t1", "chat_template": "{{ messages }}"},
    }
    if with_tokenizer:
        documents["tokenizer.json"] = _tokenizer()
    else:
        (folder / "tokenizer.model").write_bytes(b"sentencepiece")
    for name, value in documents.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    return folder


def _tensors() -> dict[str, tuple[str, tuple[int, ...]]]:
    made: dict[str, tuple[str, tuple[int, ...]]] = {
        "model.embed_tokens.weight": ("F16", (VOCABULARY, HIDDEN))
    }
    for layer in range(LAYERS):
        beginning = f"model.layers.{layer}"
        for name, (outs, ins) in MATRICES.items():
            made |= {
                f"{beginning}.{name}.qweight": ("I32", (ins * BITS // 32, outs)),
                f"{beginning}.{name}.scales": ("F16", (ins // GROUP, outs)),
                f"{beginning}.{name}.qzeros": ("I32", (ins // GROUP, outs * BITS // 32)),
                f"{beginning}.{name}.g_idx": ("I32", (ins,)),
            }
        for name in ("input_layernorm", "post_attention_layernorm"):
            made[f"{beginning}.{name}.weight"] = ("F16", (HIDDEN,))
    return made | {"model.norm.weight": ("F16", (HIDDEN,)), "lm_head.weight": ("F16", (VOCABULARY, HIDDEN))}


def _write_shard(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> int:
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return end


def _tokenizer() -> dict[str, object]:
    vocabulary = {f"t{number}": number for number in range(VOCABULARY)}
    merges = [["\u0120", f"t{number}"] for number in range(VOCABULARY)]
    return {"model": {"type": "BPE", "vocab": vocabulary, "merges": merges}, "added_tokens": []}
