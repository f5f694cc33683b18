"""Recipes made into AWQ checkpoints by autoawq, which is archived: kept for teams that must reproduce an old release.

0.2.9 knows transformers up to 4.51, so it takes an environment of its own; it quantizes on a CPU, too. It joins the
samples and cuts them into blocks of the longest one's length, and would drop samples that are longer than it is told.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_quantgate.quantizers.isolation import isolated
from pytest_quantgate.quantizers.making import copy_companions, explained, read_samples, watched

with isolated():
    from awq import AutoAWQForCausalLM

if TYPE_CHECKING:
    from pytest_quantgate.interfaces import Progress
    from pytest_quantgate.spec import ModelSpec, Recipe

__all__ = ["SUCCESSOR", "quantizer"]

SUCCESSOR: Final = 'autoawq is archived; its successors are method = "awq" (gptqmodel) and "llmcompressor"'
LAYOUT: Final = "GEMM"


class AutoAwqQuantizer:
    """The `Quantizer` for the method "autoawq"."""

    def quantize(self, recipe: Recipe, baseline: ModelSpec, out: Path, progress: Progress) -> None:
        """Write the quantized checkpoint into the empty folder `out`.

        Whether it loads and speaks is seen where it is loaded: autoawq's own kernels need a GPU.

        Raises:
            ConfigError: the calibration file does not yield the samples, or has changed since it was read.
            CheckpointError: autoawq failed; names its successors.

        """
        with isolated() as output, explained(f"autoawq ({SUCCESSOR})", recipe, baseline, output):
            folder = Path(baseline.path)
            samples = read_samples(recipe, folder)
            model: Any = AutoAWQForCausalLM.from_pretrained(
                str(folder), device_map=baseline.device, trust_remote_code=False, safetensors=True
            )
            settings = {
                "w_bit": int(recipe["bits"]),
                "q_group_size": int(recipe["group_size"]),
                "zero_point": bool(recipe["zero_point"]),
                "version": LAYOUT,
            }
            with watched(model.model, progress):
                model.quantize(
                    None,
                    quant_config=settings,
                    calib_data=samples,
                    max_calib_samples=len(samples),
                    max_calib_seq_len=max(map(len, samples)),
                )
            model.save_quantized(str(out), safetensors=True)
            copy_companions(folder, out)


quantizer = AutoAwqQuantizer()
