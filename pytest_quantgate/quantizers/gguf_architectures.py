"""A transformers configuration in, GGUF metadata and the treatment of each tensor out.

Each architecture here is compared with transformers logit by logit (tests/test_gguf_convert.py). One that is not here
is refused: a gate cannot tell a conversion that is nearly right from a bad quantization.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import gguf
import torch
from torch import Tensor

from pytest_quantgate.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ARCHITECTURES", "Architecture", "architecture_of", "context_length", "describe", "extra_tensors"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """How a model type of transformers becomes one of llama.cpp.

    Attributes:
        kind: llama.cpp's architecture.
        permuted: query and key rows are stored in the order of the original Llama code, pairs of one rotation together.
        norm_offset: what is added to the weights of norms, which transformers stores less that.

    """

    kind: gguf.MODEL_ARCH
    permuted: bool = False
    norm_offset: float = 0.0


ARCHITECTURES: Final = {
    "llama": Architecture(gguf.MODEL_ARCH.LLAMA, permuted=True),
    "mistral": Architecture(gguf.MODEL_ARCH.LLAMA, permuted=True),
    "qwen2": Architecture(gguf.MODEL_ARCH.QWEN2),
    "qwen3": Architecture(gguf.MODEL_ARCH.QWEN3),
    "gemma2": Architecture(gguf.MODEL_ARCH.GEMMA2, norm_offset=1.0),
}
ACTIVATIONS: Final = {"gemma2": ("gelu_pytorch_tanh",)}
SILU: Final = ("silu", "swish")
GEMMA2_27B: Final = (
    46  # layers: llama.cpp tells by them that queries are scaled by the width of a head of the input
)


def architecture_of(config: Any, source: str) -> Architecture:
    """Return how a model is converted.

    Raises:
        ConfigError: it cannot be, or has something that llama.cpp's architecture of that name has not.

    """
    kind = str(config.model_type)
    if kind not in ARCHITECTURES:
        raise ConfigError(
            f"method gguf cannot convert {source}, a {kind} model (it converts: {', '.join(ARCHITECTURES)});"
            " convert it with llama.cpp's convert_hf_to_gguf.py, and give the *.gguf file as model"
        )
    for problem in _problems(kind, config):
        raise ConfigError(f"method gguf cannot convert {source}: {problem}")
    return ARCHITECTURES[kind]


def _problems(kind: str, config: Any) -> Iterator[str]:
    if getattr(config, "quantization_config", None):
        yield "it is quantized already; give the unquantized baseline"
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation not in ACTIVATIONS.get(kind, SILU):
        yield f"its activation is {activation}, llama.cpp computes {ACTIVATIONS.get(kind, SILU)[0]} for {kind}"
    scaling = _rope(config)[1].get("rope_type", "default")
    if scaling not in ("default", "linear", "llama3", "yarn"):
        yield f"its rotary embedding is scaled by {scaling!r}; default, linear, llama3 and yarn are known"
    if kind == "gemma2":
        layers = int(config.num_hidden_layers)
        expected = ["full_attention" if number % 2 else "sliding_attention" for number in range(layers)]
        if list(getattr(config, "layer_types", None) or expected) != expected:
            yield "its sliding and full layers do not take turns"
        width = config.hidden_size // config.num_attention_heads if layers == GEMMA2_27B else config.head_dim
        if config.query_pre_attn_scalar != width:
            yield f"query_pre_attn_scalar is {config.query_pre_attn_scalar}, llama.cpp takes {width}"


def _rope(config: Any) -> tuple[float, dict[str, Any]]:
    """Return the base of the rotary embedding and its scaling, of transformers 5 or 4."""
    found = dict(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {})
    found["rope_type"] = found.get("rope_type", found.get("type", "default"))
    return float(found.get("rope_theta", getattr(config, "rope_theta", 10_000.0))), found


def _head_width(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def context_length(config: Any) -> int:
    """Return the longest context in which llama.cpp computes the same.

    A window that slides in transformers, and not in llama.cpp, ends it.
    """
    longest, sliding = int(config.max_position_embeddings), int(getattr(config, "sliding_window", None) or 0)
    slides = sliding and config.model_type != "gemma2" and getattr(config, "use_sliding_window", True)
    return min(longest, sliding) if slides else longest


def describe(writer: gguf.GGUFWriter, config: Any) -> None:
    """Write the sizes and constants of a model."""
    width = _head_width(config)
    base, scaling = _rope(config)
    writer.add_context_length(context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(base)
    writer.add_vocab_size(config.vocab_size)
    if scaling["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    if scaling["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        original = scaling.get("original_max_position_embeddings") or config.max_position_embeddings
        writer.add_rope_scaling_orig_ctx_len(int(original))
    if config.model_type == "gemma2":
        writer.add_sliding_window(config.sliding_window)
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def extra_tensors(config: Any) -> dict[str, Tensor]:
    """Return tensors that transformers computes and llama.cpp reads: Llama 3's scaled frequencies."""
    base, scaling = _rope(config)
    if scaling["rope_type"] != "llama3":
        return {}
    width = _head_width(config)
    frequencies = 1.0 / base ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    factor, low, high = (float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return {"rope_freqs.weight": (1.0 / ((1 - smooth) / factor + smooth)).float()}


def permuted(tensor: Tensor, heads: int) -> Tensor:
    """Return query or key weights, or a bias, with the two halves of each rotation as neighbors.

    transformers rotates element i of a head with i + width / 2; llama.cpp's llama rotates 2 i with 2 i + 1.
    """
    split = tensor.reshape(heads, 2, len(tensor) // heads // 2, *tensor.shape[1:])
    return split.transpose(1, 2).reshape(tensor.shape)
