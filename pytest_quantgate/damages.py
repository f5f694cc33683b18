"""The damage that a self-test puts into a model: its kinds by name, and how grave each is.

Severe is what ruins a model whatever its format: a gate that lets it pass guards nothing. Mild is what some
real checkpoints carry unnoticed: a gate need not fail for it, and the table shows whether it would. The
grades were measured on the example's variants (docs/selftest.md): severe damage multiplies the perplexity of
each of them, mild damage leaves it within 5 % of the undamaged in at least one. So `zero_points`, which
ruins 4 bits beyond recognition, is mild: one step of 8 bits is a sixteenth of that. Where a place had to be
chosen it is one that no depth of a model makes harmless: a layer in the middle of a deep model can be left
out at little cost (Men et al., "ShortGPT", 2024), its first layer cannot. `missing_bos` was not measured,
since the example's tokenizer puts none: it is severe because another stream of tokens is refused unscored.

How a backend brings the damage about is its own matter; see `backends/damage.py`. A damaged model is an ordinary
`ModelSpec` whose options hold `OPTION` and `SEED`, so that its observations have keys of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pytest_quantgate.spec import ModelSpec

__all__ = ["DAMAGES", "OPTION", "SEED", "Damage", "damaged"]

OPTION: Final = "inflicted"
SEED: Final = "inflicted_seed"


@dataclass(frozen=True, slots=True)
class Damage:
    """One kind of damage.

    Attributes:
        severe: every gate on quality must fail for it.
        what: what is done, in a few words.
        like: the mistake that does the same to a real checkpoint.

    """

    severe: bool
    what: str
    like: str


DAMAGES: Final[Mapping[str, Damage]] = {
    "scales_zeroed": Damage(
        severe=True,
        what="the scales of the first decoder layer are 0",
        like="tensors that were allocated and never filled",
    ),
    "zero_points": Damage(
        severe=False,
        what="every zero-point is one too low",
        like="a GPTQ checkpoint of format v1 read as v2",
    ),
    "group_order": Damage(
        severe=True,
        what="the groups' scales and zero-points are in reverse order in every layer",
        like="a wrong g_idx, desc_act ignored",
    ),
    "layers_exchanged": Damage(
        severe=True,
        what="the first and the last decoder layer are exchanged",
        like="shards or names mixed up when a checkpoint was merged",
    ),
    "rotary_base": Damage(
        severe=True,
        what="the rotary base is 10,000, or 1,000,000 where 10,000 is right",
        like="rope_theta missing from config.json",
    ),
    "kv_heads": Damage(
        severe=True,
        what="keys and values of each layer's heads are moved on by one head",
        like="a conversion that permutes heads for another layout",
    ),
    "missing_bos": Damage(
        severe=True,
        what="the tokenizer puts no BOS token before a text",
        like="add_bos_token lost from tokenizer_config.json",
    ),
    "zero_point": Damage(
        severe=False,
        what="one zero-point, of one group and one output, is one too low",
        like="a bit that flipped",
    ),
    "fp8_layer": Damage(
        severe=False,
        what="the first decoder layer is rounded to float8 e4m3 on top",
        like="a layer that was quantized twice",
    ),
}


def damaged(spec: ModelSpec, kind: str, seed: int = 0) -> ModelSpec:
    """Return the specification of a model with damage of a kind; what is random about it follows from `seed`."""
    options = {**dict(spec.options), OPTION: kind, SEED: seed}
    return replace(spec, name=f"{spec.name}+{kind}", options=tuple(sorted(options.items())))
