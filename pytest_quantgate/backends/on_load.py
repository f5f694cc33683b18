"""Recipes that make no checkpoint: the baseline's weights are quantized whenever they are loaded.

bitsandbytes, torchao and quanto need no calibration data and round in seconds, so teams ship the unquantized folder and
a line of configuration. What is rounded is the baseline as `spec.dtype` holds it, and that is computed in.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

import torch
import transformers

from pytest_quantgate.backends.formats import DTYPES
from pytest_quantgate.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_quantgate.spec import ModelSpec, Recipe

__all__ = ["METHODS", "quantization_config"]

WHOLE_ROW: Final = -1


def quantization_config(spec: ModelSpec) -> Any:
    """Return what `from_pretrained` takes as `quantization_config` for the recipe of a model.

    Raises:
        ConfigError: the recipe asks for what this torch cannot hold.

    """
    recipe = spec.recipe
    assert recipe is not None
    return METHODS[recipe.method](recipe, DTYPES[spec.dtype])


def _bitsandbytes(recipe: Recipe, dtype: torch.dtype) -> Any:
    kind: Any = transformers.BitsAndBytesConfig
    if recipe["bits"] == 8:  # noqa: PLR2004  LLM.int8
        return kind(load_in_8bit=True)
    return kind(
        load_in_4bit=True,
        bnb_4bit_quant_type=str(recipe["type"]),
        bnb_4bit_use_double_quant=bool(recipe["double_quant"]),
        bnb_4bit_compute_dtype=dtype,
    )


def _torchao(recipe: Recipe, dtype: torch.dtype) -> Any:  # noqa: ARG001  it computes in what it is fed
    library: Any = importlib.import_module("torchao.quantization")
    bits, size = int(recipe["bits"]), int(recipe["group_size"])
    if bits == 8 and size == WHOLE_ROW:  # noqa: PLR2004
        return transformers.TorchAoConfig(library.Int8WeightOnlyConfig())
    stored = getattr(torch, f"int{bits}", None)
    if stored is None:
        raise ConfigError(f"torchao: bits = {bits} needs torch 2.6 or later, here is {torch.__version__}")
    groups = library.PerAxis(0) if size == WHOLE_ROW else library.PerGroup(size)
    return transformers.TorchAoConfig(library.IntxWeightOnlyConfig(weight_dtype=stored, granularity=groups))


def _quanto(recipe: Recipe, dtype: torch.dtype) -> Any:  # noqa: ARG001
    return transformers.QuantoConfig(weights=f"int{recipe['bits']}")


METHODS: Final[Mapping[str, Callable[[Recipe, torch.dtype], Any]]] = {
    "bitsandbytes": _bitsandbytes,
    "torchao": _torchao,
    "quanto": _quanto,
}
"""By the names that recipes and `FORMATS` have in common."""
