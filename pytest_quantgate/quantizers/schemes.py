"""What goes together in a recipe of llm-compressor: schemes say what, modifiers how it is rounded. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_quantgate.errors import ConfigError

if TYPE_CHECKING:
    from pytest_quantgate.spec import Recipe

__all__ = ["GROUPED", "WHOLE_ROW", "check"]

WHOLE_ROW: Final = -1
USUAL_GROUP: Final = 128
GROUPED: Final = ("W4A16", "W4A16_ASYM", "W8A16")
"""The schemes whose weights have groups; the others have one scale per output channel or per tensor."""

FLOAT: Final = ("FP8", "FP8_DYNAMIC")
STATIC: Final = ("FP8",)
"""The schemes that fix the range of the activations, and so read samples whatever the modifier is."""


def check(recipe: Recipe) -> None:
    """Make sure that the parameters of a recipe go together.

    Raises:
        ConfigError: says which do not, and what to write.

    """
    scheme, modifier = str(recipe["scheme"]), str(recipe["modifier"])
    if scheme not in GROUPED and recipe["group_size"] not in (WHOLE_ROW, USUAL_GROUP):
        raise ConfigError(f"llmcompressor: {scheme} has no groups; leave group_size out")
    if scheme in FLOAT and modifier != "round":
        raise ConfigError(
            f'llmcompressor: {scheme} is rounded to the nearest value; write modifier = "round"'
        )
    if recipe["desc_act"] and modifier != "gptq":
        raise ConfigError('llmcompressor: desc_act belongs to modifier = "gptq"; leave it out')
    if (modifier != "round" or scheme in STATIC) and not recipe.calibration:
        raise ConfigError(
            f'llmcompressor: {scheme} with modifier = "{modifier}" watches activations; '
            "name a calibration file of samples that resemble the model's use"
        )
