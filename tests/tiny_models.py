"""Tiny models with random weights, and a tokenizer trained on a few words.

All widths are multiples of 64: GPTQModel's AWQ ends the process over any other output width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    FalconH1Config,
    FalconH1ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from pytest_quantgate.spec import ModelSpec

WORDS = ("the river", "a gate", "opens", "falls", "slowly", "when", "water", "number", "seven", "and", "it")
ENDS = (".\n", ", ", " ", "; ")
VOCABULARY = 320
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def text(length: int = 12_000) -> str:
    """Return words in an order that does not repeat soon."""
    pairs = itertools.cycle(itertools.product(WORDS, ENDS))
    picked = (f"{word}{end}" for number, (word, end) in enumerate(pairs) if (number * number) % 7 != 3)
    return "".join(itertools.islice(picked, length // 7))[:length]


def tokenizer(*, bos: bool = False) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer; with `bos` it puts a token before every text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([text()], trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<end> $A", special_tokens=[("<end>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<end>", bos_token="<end>" if bos else None
    )


def _no_groups() -> dict[str, Any]:
    return {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"}


KINDS: dict[str, Callable[[], Any]] = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=True)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False)),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, head_dim=16, final_logit_softcapping=3.0, query_pre_attn_scalar=16)
    ),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **SHAPE, head_dim=16, sliding_window=16, layer_types=["sliding_attention", "full_attention"]
        )
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=24)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**_no_groups())),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=512)
    ),
    "lfm2": lambda: Lfm2ForCausalLM(Lfm2Config(**SHAPE, layer_types=["conv", "full_attention"])),
    "falcon_h1": lambda: FalconH1ForCausalLM(
        FalconH1Config(
            **SHAPE, mamba_d_ssm=128, mamba_n_heads=4, mamba_d_head=32, mamba_n_groups=1, mamba_d_state=16
        )
    ),
}
TAME = ("lfm2", "falcon_h1")
"""Whose states grow without bound when every matrix is made four times larger."""


def network(kind: str, *, seed: int = 0, noise: float = 0.0) -> Any:
    """Return a random network of an architecture; `noise` moves every matrix, relative to its size."""
    torch.manual_seed(seed)
    made = KINDS[kind]().eval()
    noises = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim > 1:
                weight.mul_(1 if kind in TAME else 4)
                weight.add_(noise * weight.std() * torch.randn(weight.shape, generator=noises))
    return made


def save(folder: Path, kind: str, *, seed: int = 0, noise: float = 0.0, bos: bool = False) -> Path:
    """Write a checkpoint and return its folder."""
    network(kind, seed=seed, noise=noise).save_pretrained(folder)
    tokenizer(bos=bos).save_pretrained(folder)
    return folder


def spec(folder: Path, name: str = "baseline", **fields: Any) -> ModelSpec:
    """Return the specification of a checkpoint."""
    return ModelSpec(name, str(folder), "sha256:0", path=str(folder), **fields)


class Subject:
    """A model, loaded once."""

    def __init__(self, model: Any) -> None:
        self.model, self.spec = model, model.spec
