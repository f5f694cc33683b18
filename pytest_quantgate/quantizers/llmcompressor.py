"""Recipes made into compressed-tensors checkpoints by llm-compressor: weights of 4 or 8 bits, int8 or FP8 throughout.

llm-compressor pins versions of transformers and compressed-tensors of its own, so a study gives it an environment of
its own (`requirements` in the recipe's table). A scheme says what is quantized to what; the modifier says how weights
are rounded: "gptq" and "awq" watch the calibration samples, "round" takes the nearest value. Static FP8 reads the
samples whatever the modifier is, since the range of the activations is part of the checkpoint.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from pytest_quantgate.quantizers.isolation import isolated
from pytest_quantgate.quantizers.making import (
    check_logits,
    copy_companions,
    explained,
    read_samples,
    watched,
)
from pytest_quantgate.quantizers.schemes import GROUPED, WHOLE_ROW, check

with isolated():
    from compressed_tensors.quantization import preset_name_to_scheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.pipelines.cache import IntermediatesCache
    from transformers import AutoModelForCausalLM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_quantgate.interfaces import Progress
    from pytest_quantgate.spec import ModelSpec, Recipe

__all__ = ["quantizer"]

LEFTOVERS: Final = ("recipe.yaml",)
FIRST: Final = [1, 2, 3, 4]
"""Ids that try a model for which there are no samples."""


class LlmCompressorQuantizer:
    """The `Quantizer` for the method "llmcompressor"."""

    def quantize(self, recipe: Recipe, baseline: ModelSpec, out: Path, progress: Progress) -> None:
        """Write the quantized checkpoint into the empty folder `out`, and make sure that it speaks.

        Raises:
            ConfigError: parameters that do not go together, or a calibration file that does not yield the samples.
            CheckpointError: llm-compressor failed, or what it made gives NaN.

        """
        check(recipe)
        with isolated() as output, explained("llm-compressor", recipe, baseline, output):
            samples = read_samples(recipe, Path(baseline.path)) if recipe.calibration else []
            model: Any = AutoModelForCausalLM.from_pretrained(
                baseline.path, dtype="auto", device_map=baseline.device, local_files_only=True
            )
            with watched(model, progress), _unpinned():
                oneshot(model=model, recipe=_modifiers(recipe), **_data(samples))
            model.save_pretrained(str(out), save_compressed=True)
            copy_companions(Path(baseline.path), out, LEFTOVERS)
            with torch.inference_mode():
                loaded: Any = AutoModelForCausalLM.from_pretrained(
                    out, device_map=baseline.device, local_files_only=True
                )
                check_logits(loaded, samples[0] if samples else FIRST)


quantizer = LlmCompressorQuantizer()


def _modifiers(recipe: Recipe) -> list[Any]:
    usual: dict[str, Any] = {"config_groups": {"group_0": _scheme(recipe)}, "ignore": ["lm_head"]}
    if recipe["modifier"] == "gptq":
        # 0.14 orders while it rounds, and stores the columns where they were
        order = "static" if recipe["desc_act"] else None
        return [GPTQModifier(**usual, dampening_frac=float(recipe["damp_percent"]), actorder=order)]
    awq = [AWQModifier()] if recipe["modifier"] == "awq" else []
    return [*awq, QuantizationModifier(**usual)]


@contextmanager
def _unpinned() -> Iterator[None]:
    """Let AWQ run without an accelerator: 0.14 pins its memory for one, and fails where there is none."""
    usual = IntermediatesCache.pin_memory
    if not torch.cuda.is_available():
        IntermediatesCache.pin_memory = lambda *_: None
    try:
        yield
    finally:
        IntermediatesCache.pin_memory = usual


def _scheme(recipe: Recipe) -> Any:
    found: Any = preset_name_to_scheme(str(recipe["scheme"]), ["Linear"])
    if recipe["scheme"] not in GROUPED:
        return found
    size = int(recipe["group_size"])
    shape: dict[str, Any] = (
        {"strategy": "channel", "group_size": None}
        if size == WHOLE_ROW
        else {"strategy": "group", "group_size": size}
    )
    weights = type(found.weights)(**{**found.weights.model_dump(), **shape})
    return type(found)(**{**found.model_dump(), "weights": weights})


def _data(samples: list[list[int]]) -> dict[str, Any]:
    if not samples:
        return {}
    rows = {"input_ids": samples, "attention_mask": [[1] * len(ids) for ids in samples]}
    return {
        "dataset": Dataset.from_dict(rows),
        "num_calibration_samples": len(samples),
        "max_seq_length": max(map(len, samples)),
        "shuffle_calibration_samples": False,
    }
