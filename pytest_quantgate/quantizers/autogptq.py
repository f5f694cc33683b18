"""Recipes made into GPTQ checkpoints by auto-gptq, kept for teams that must reproduce an old release: it is archived.

0.7.1 quantizes on a CUDA device alone and knows transformers up to 4.47, so it takes an environment of its own. What
it leaves to the hand is done here: the shard gets the name that loaders look for. Its successor writes the same format.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.quantizers.isolation import isolated
from pytest_quantgate.quantizers.making import (
    check_logits,
    copy_companions,
    explained,
    read_samples,
    watched,
)

with isolated():
    from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig

if TYPE_CHECKING:
    from pytest_quantgate.interfaces import Progress
    from pytest_quantgate.spec import ModelSpec, Recipe

__all__ = ["SUCCESSOR", "quantizer"]

SUCCESSOR: Final = (
    'auto-gptq is archived; its successor is method = "gptq" (gptqmodel), which runs on a CPU, too'
)
PARAMETERS: Final = ("bits", "group_size", "desc_act", "sym", "damp_percent")
USUAL_NAME: Final = "model.safetensors"


class AutoGptqQuantizer:
    """The `Quantizer` for the method "auto-gptq"."""

    def quantize(self, recipe: Recipe, baseline: ModelSpec, out: Path, progress: Progress) -> None:
        """Write the quantized checkpoint into the empty folder `out` and make sure that it speaks.

        Raises:
            NotMeasurableError: there is no CUDA device.
            ConfigError: the calibration file does not yield the samples, or has changed since it was read.
            CheckpointError: auto-gptq failed, or what it made gives NaN.

        """
        if not (baseline.device.startswith("cuda") and torch.cuda.is_available()):
            raise NotMeasurableError(
                f"auto-gptq quantizes on a CUDA device alone (device = {baseline.device!r}); {SUCCESSOR}"
            )
        with isolated() as output, explained("auto-gptq", recipe, baseline, output):
            samples = read_samples(recipe, Path(baseline.path))
            settings = BaseQuantizeConfig(**{name: recipe[name] for name in PARAMETERS})
            model: Any = AutoGPTQForCausalLM.from_pretrained(
                baseline.path, settings, torch_dtype=torch.float16
            )
            rows = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in samples]
            with watched(model.model, progress):
                model.quantize(rows, batch_size=1)
            model.save_quantized(str(out), use_safetensors=True)
            _name_as_loaders_expect(out)
            copy_companions(Path(baseline.path), out)
            with torch.inference_mode():
                check_logits(model.model.to(baseline.device), samples[0])


quantizer = AutoGptqQuantizer()


def _name_as_loaders_expect(out: Path) -> None:
    """Give the one shard its usual name: auto-gptq calls it gptq_model-4bit-128g.safetensors."""
    shards = list(out.glob("*.safetensors"))
    if len(shards) == 1 and shards[0].name != USUAL_NAME:
        shards[0].rename(out / USUAL_NAME)
