"""GPTQ and AWQ recipes made into checkpoints by gptqmodel, on a CPU or a GPU.

What decides the result beside the recipe is fixed here: one seed, one order and batching of the samples, no
kernel compiled on the spot. Two runs with the same number of torch threads give the same bytes; another
number sums in another order, and a few codes differ. The weights are gptqmodel's; tokenizer, chat template
and generation settings are the baseline's own files, since both models are scored on the same ids.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.quantizers.isolation import isolated
from pytest_quantgate.quantizers.making import check_logits, copy_companions, explained, read_samples

with isolated():
    # before gptqmodel, which moves the cache folders that transformers reads when it is imported
    from transformers import AutoModelForCausalLM, AwqConfig, GPTQConfig  # isort: skip

    import optimum.gptq  # noqa: F401  transformers loads GPTQ checkpoints by it
    from gptqmodel import BACKEND, DEVICE_THREAD_POOL, GPTQModel, QuantizeConfig
    from gptqmodel.looper import loop_processor
    from gptqmodel.utils import threadx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_quantgate.interfaces import Progress
    from pytest_quantgate.spec import ModelSpec, Recipe

__all__ = ["quantizer"]

BATCH_TOKENS = 8192
"""Samples are fed together up to this many tokens, padding included."""

SHORTEST = 11
"""Fewest tokens of a sample: 7.6.0 drops shorter ones, whatever its argument for that says."""

AWQ_WIDTH = 64
"""What the output width of each layer must be a multiple of, for gptqmodel's AWQ."""

ENVIRONMENT = {
    "GPTQMODEL_DISABLE_PACK_EXT": "1",  # a kernel that packs weights: compiles for 20 s, gives the same bytes
    "GPTQMODEL_CPU_WORKERS": "4",  # on one or two cores its own choice is 1, and 7.6.0 needs 2
    "PYTEST_CURRENT_TEST": "quantgate",  # draws no progress bars, which take a tenth of a small model's time
}
LEFTOVERS = ("quant_log.csv",)  # timings, which differ between two equal runs


class GptqModelQuantizer:
    """The `Quantizer` for the methods "gptq" and "awq"."""

    def quantize(self, recipe: Recipe, baseline: ModelSpec, out: Path, progress: Progress) -> None:
        """Write the quantized checkpoint into the empty folder `out` and make sure that it loads and speaks.

        Raises:
            ConfigError: the calibration file does not yield the samples, or has changed since it was read.
            CheckpointError: gptqmodel failed, or what it wrote does not load or gives NaN.

        """
        with isolated() as output, explained("gptqmodel", recipe, baseline, output):
            samples = read_samples(recipe, Path(baseline.path), SHORTEST)
            with _logs_aside(), _failures_raise():
                _make(recipe, baseline, samples, out, progress)
            copy_companions(Path(baseline.path), out, LEFTOVERS)
            _check_it_speaks(recipe, out, baseline.device, samples[0])


quantizer = GptqModelQuantizer()


def _make(
    recipe: Recipe, baseline: ModelSpec, samples: list[list[int]], out: Path, progress: Progress
) -> None:
    os.environ.update(ENVIRONMENT)
    model = GPTQModel.load(baseline.path, _configuration(recipe, baseline.device))
    if recipe.method == "awq":
        _check_output_widths(model.model)
    layers = model.model.config.get_text_config().num_hidden_layers
    model.layer_callback = lambda layer_idx, submodule_finalized: progress(layer_idx + 1, layers)  # noqa: ARG005
    rows = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in samples]
    model.quantize(
        rows,
        batch_size=max(1, BATCH_TOKENS // max(map(len, samples))),
        backend=BACKEND.AWQ_TORCH if recipe.method == "awq" else BACKEND.AUTO,
    )
    model.save(str(out))
    DEVICE_THREAD_POOL.wait()


def _check_output_widths(model: Any) -> None:
    for name, module in model.named_modules():
        if ".layers." in name and isinstance(module, torch.nn.Linear) and module.out_features % AWQ_WIDTH:
            raise ConfigError(
                f"awq needs output widths that are multiples of {AWQ_WIDTH}, "
                f"{name} has {module.out_features}; write method = 'gptq' for this model"
            )


def _configuration(recipe: Recipe, device: str) -> Any:
    parameters: dict[str, Any] = dict(recipe.parameters)
    del parameters["samples"], parameters["max_length"]
    if recipe.method == "awq":
        parameters |= {"quant_method": "awq", "format": "gemm", "sym": not parameters.pop("zero_point")}
    # a folder for offloading would stand in the checkpoint's configuration by its random name
    return QuantizeConfig(**parameters, device=device, offload_to_disk=False)


@contextmanager
def _logs_aside() -> Iterator[None]:
    """Turn aside the log files that gptqmodel writes below the current folder."""
    usual = loop_processor._PROJECT_LOG_DIR  # noqa: SLF001  the only way there is in 7.6.0
    with tempfile.TemporaryDirectory(prefix="quantgate-") as folder:
        loop_processor._PROJECT_LOG_DIR = Path(folder)  # noqa: SLF001
        try:
            yield
        finally:
            loop_processor._PROJECT_LOG_DIR = usual  # noqa: SLF001


@contextmanager
def _failures_raise() -> Iterator[None]:
    """Let an error in a thread of gptqmodel raise here: by itself it ends the process with `os._exit(1)`.

    Raises:
        BaseException: the first error of a thread, if nothing else has raised it.

    """
    worker, errors = threadx._DeviceWorker, []  # noqa: SLF001
    usual = worker._abort_process  # noqa: SLF001
    worker._abort_process = lambda _, error: errors.append(error)  # noqa: SLF001
    try:
        yield
        if errors:
            raise errors[0]
    finally:
        worker._abort_process = usual  # noqa: SLF001


def _check_it_speaks(recipe: Recipe, folder: Path, device: str, ids: list[int]) -> None:
    """Load the checkpoint and run one short text through it.

    Raises:
        CheckpointError: a logit is NaN or infinite.

    """
    with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, device_map=device, local_files_only=True, quantization_config=_kernel(recipe, device)
        )
        check_logits(model, ids)


def _kernel(recipe: Recipe, device: str) -> Any:
    """Return how to load it: on a CPU the automatic choice is a kernel that fails at group_size = 16."""
    shape: dict[str, Any] = {"bits": recipe["bits"], "group_size": recipe["group_size"]}
    if recipe.method == "awq":
        return AwqConfig(**shape | {"backend": "torch_awq" if device == "cpu" else "auto"})
    return GPTQConfig(**shape, backend="gptq_torch" if device == "cpu" else "auto")
