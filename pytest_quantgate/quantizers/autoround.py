"""Recipes made into GPTQ checkpoints by auto-round: rounding that is learnt by signed gradient descent.

The result is written in the layout of auto-gptq, which every loader of GPTQ checkpoints reads; auto-round's own layout
needs auto-round wherever the model runs. auto-round passes over samples that are shorter than the length it is told,
so all are padded to the longest one, and the padding is masked.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from pytest_quantgate.quantizers.isolation import isolated
from pytest_quantgate.quantizers.making import copy_companions, explained, read_samples, watched

with isolated():
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer

if TYPE_CHECKING:
    from pytest_quantgate.interfaces import Progress
    from pytest_quantgate.spec import ModelSpec, Recipe

__all__ = ["quantizer"]

LAYOUT: Final = "auto_gptq"
BATCH: Final = 8
SEED: Final = 42  # auto-round's own


class AutoRoundQuantizer:
    """The `Quantizer` for the method "autoround"."""

    def quantize(self, recipe: Recipe, baseline: ModelSpec, out: Path, progress: Progress) -> None:
        """Write the quantized checkpoint into the empty folder `out`.

        Whether it loads and speaks is seen where it is loaded: auto-round brings no kernels for what it writes.

        Raises:
            ConfigError: the calibration file does not yield the samples, or has changed since it was read.
            CheckpointError: auto-round failed.

        """
        with isolated() as output, explained("auto-round", recipe, baseline, output):
            folder = Path(baseline.path)
            samples = read_samples(recipe, folder)
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            rounding = AutoRound(
                model,
                tokenizer=tokenizer,
                bits=int(recipe["bits"]),
                group_size=int(recipe["group_size"]),
                sym=bool(recipe["sym"]),
                iters=int(recipe["iterations"]),
                dataset=_padded(samples, tokenizer),
                nsamples=len(samples),
                seqlen=max(map(len, samples)),
                batch_size=min(BATCH, len(samples)),
                device_map=baseline.device,
                enable_torch_compile=False,
                seed=SEED,
            )
            with watched(model, progress):
                _, made = rounding.quantize_and_save(str(out), format=LAYOUT)
            _lift(Path(made), out)
            copy_companions(folder, out)


quantizer = AutoRoundQuantizer()


def _padded(samples: list[list[int]], tokenizer: Any) -> list[dict[str, torch.Tensor]]:
    """Return each sample as (1, T) ids and mask, T that of the longest."""
    longest = max(map(len, samples))
    filler = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    return [
        {
            "input_ids": torch.tensor([[*ids, *[filler] * (longest - len(ids))]]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids))]),
        }
        for ids in samples
    ]


def _lift(made: Path, out: Path) -> None:
    """Move what lies in a folder of auto-round's choice to where it was asked for."""
    if made == out:
        return
    for path in made.iterdir():
        shutil.move(str(path), str(out / path.name))
    made.rmdir()
