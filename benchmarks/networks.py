"""The models that benchmarks run: the example's, random ones of a real model's proportions, damaged copies."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from pytest_quantgate.backends.memory import PeakMemory
from pytest_quantgate.backends.transformers import TransformersModel, load
from pytest_quantgate.spec import ModelSpec

__all__ = [
    "EXAMPLE",
    "HALF_BILLION",
    "LARGE",
    "NARROW",
    "SMALL",
    "Subject",
    "example",
    "in_memory",
    "numbers",
    "random_qwen2",
    "rounded",
]

EXAMPLE = Path(__file__).parents[1] / "example_project"
LARGE = 151_936  # the vocabulary of Qwen2 and Qwen2.5
SMALL = 1024


class Subject:
    """A loaded model, as an observer is given it."""

    def __init__(self, model: TransformersModel) -> None:
        self.model: Any = model
        self.spec = model.spec


def example() -> TransformersModel:
    """Load the example project's baseline in float32."""
    folder = EXAMPLE / "model"
    return load(ModelSpec("baseline", str(folder), "sha256:0", path=str(folder)))


NARROW: Mapping[str, int] = {
    "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 18, "num_attention_heads": 4,
}  # fmt: skip
HALF_BILLION: Mapping[str, int] = {
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
}  # fmt: skip


def random_qwen2(vocabulary: int, shape: Mapping[str, int] = NARROW) -> Any:
    """Return a random Qwen2 in float32.

    By default 4.5 M parameters of decoder, and 128 for every token of the vocabulary; `HALF_BILLION` is the shape of
    Qwen2.5-0.5B.
    """
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        **shape,
    )
    network: Any = Qwen2ForCausalLM(config)
    return network.eval()


def in_memory(network: Any, tokenizer: Any, name: str = "baseline") -> TransformersModel:
    """Return the backend's model around a network that is already there."""
    spec = ModelSpec(name, "", "sha256:0")
    return TransformersModel(spec, network, tokenizer, PeakMemory(torch.device("cpu")), 0.0)


def numbers(vocabulary: int) -> Any:
    """Return a tokenizer whose tokens are the numbers below `vocabulary`, written with blanks between."""
    backend = Tokenizer(
        models.WordLevel({str(number): number for number in range(vocabulary)}, unk_token="0")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    make: Any = PreTrainedTokenizerFast  # its constructor has no types
    return make(tokenizer_object=backend, eos_token="0", pad_token="0")


def rounded(network: Any, bits: int, group: int = 32) -> Any:
    """Return a copy with the decoder's linear weights rounded to the nearest of 2**bits levels, per group."""
    damaged = copy.deepcopy(network)
    linears = [module for module in damaged.get_decoder().modules() if isinstance(module, torch.nn.Linear)]
    with torch.no_grad():
        for linear in linears:
            rows = linear.weight.view(-1, group)
            low = rows.amin(1, keepdim=True)
            step = (rows.amax(1, keepdim=True) - low).clamp_(min=1e-12) / (2**bits - 1)
            rows.copy_(((rows - low) / step).round() * step + low)
    return damaged
