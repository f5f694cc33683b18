"""Tensor shapes that config.json implies, and the tensors' own. Pure.

Only families whose projections are named and sized as Llama's are known by name; of others the embedding alone.
Widths: `hidden` of the stream, `heads` x `head_dim` of queries, `groups` x `head_dim` of keys and values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_quantgate.lint.finding import Finding
from pytest_quantgate.lint.modules import FLOATS, is_end

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_quantgate.lint.folder import Folder
    from pytest_quantgate.lint.packing import Packed

__all__ = ["Shapes", "check_shapes"]

LIKE_LLAMA = frozenset(
    (
        *(
            "arcee",
            "cohere",
            "cohere2",
            "exaone4",
            "gemma",
            "gemma2",
            "gemma3_text",
            "granite",
            "helium",
            "llama",
        ),
        *(
            "ministral",
            "mistral",
            "mixtral",
            "olmo",
            "olmo2",
            "olmo3",
            "qwen2",
            "qwen2_moe",
            "qwen3",
            "qwen3_moe",
        ),
        *("seed_oss", "smollm3", "stablelm", "starcoder2"),
    )
)
"""model_type of families with q_proj, k_proj, v_proj, o_proj of these widths."""

_MIXING = frozenset(("q_proj", "k_proj", "v_proj", "o_proj"))
_NORMS = frozenset(("input_layernorm", "post_attention_layernorm"))
_ADVICE = "take config.json and the weights from the same export"


class Shapes:
    """The matrices that a configuration implies, by module name."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
        groups = _size(config, "num_key_value_heads") or heads
        head_dim = _size(config, "head_dim") or (hidden // heads if hidden and heads else None)
        inner = _size(config, "intermediate_size")
        expert = _size(config, "moe_intermediate_size") or inner
        self.hidden, self.vocabulary = hidden, _size(config, "vocab_size")
        queries = heads * head_dim if heads and head_dim else None
        values = groups * head_dim if groups and head_dim else None
        known = config.get("model_type") in LIKE_LLAMA
        self._by_name: dict[str, tuple[int | None, int | None]] = (
            {
                "q_proj": (queries, hidden),
                "k_proj": (values, hidden),
                "v_proj": (values, hidden),
                "o_proj": (hidden, queries),
                "gate_proj": (inner, hidden),
                "up_proj": (inner, hidden),
                "down_proj": (hidden, inner),
            }
            if known
            else {}
        )
        self._of_expert: dict[str, tuple[int | None, int | None]] = (
            {
                **dict.fromkeys(("w1", "w3", "gate_proj", "up_proj"), (expert, hidden)),
                **dict.fromkeys(("w2", "down_proj"), (hidden, expert)),
            }
            if known
            else {}
        )

    def matrix(self, module: str) -> tuple[int, int] | None:
        """Return (outs, ins) of a module, or None where the configuration does not say it."""
        if is_end(module) and not module.endswith("output"):
            return _both(self.vocabulary, self.hidden)
        rest, _, last = module.rpartition(".")
        if last in self._of_expert and rest.rpartition(".")[0].endswith(".experts"):
            return _both(*self._of_expert[last])
        if last in self._by_name and rest.endswith(".self_attn" if last in _MIXING else ".mlp"):
            return _both(*self._by_name[last])
        return None

    def vector(self, module: str) -> int | None:
        """Return the length of a normalization's weight."""
        if not self._by_name:
            return None
        is_norm = module.rpartition(".")[2] in _NORMS or module.endswith("model.norm")
        return self.hidden if is_norm else None


def check_shapes(folder: Folder, packed: Mapping[str, Packed]) -> Iterator[Finding]:
    """Compare every matrix and norm with what config.json implies."""
    shapes = Shapes(folder.text_config)
    for name, module in folder.modules.items():
        expected = shapes.matrix(name)
        if name in packed:
            found: tuple[int | None, ...] = (packed[name].outs, packed[name].ins)
        else:
            info = module.parts.get("weight")
            length = shapes.vector(name)
            expected = (length,) if length and expected is None else expected  # type: ignore[assignment]
            found = info.shape if info is not None and info.dtype in FLOATS else ()
        if expected is None or not found or _agree(found, expected):
            continue
        text = f"is {_shown(found)} (config.json implies {_shown(expected)})"
        yield Finding("QG202", module.file, text, _ADVICE, f"{name}.weight")


def _agree(found: tuple[int | None, ...], expected: tuple[int, ...]) -> bool:
    return len(found) == len(expected) and all(
        f is None or f == e for f, e in zip(found, expected, strict=True)
    )


def _shown(shape: tuple[int | None, ...]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape[:4])


def _size(config: Mapping[str, Any], name: str) -> int | None:
    value = config.get(name)
    return value if type(value) is int else None


def _both(outs: int | None, ins: int | None) -> tuple[int, int] | None:
    return None if outs is None or ins is None else (outs, ins)
