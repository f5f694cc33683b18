"""The importance matrix of a model: for each quantized matrix, how large its inputs are, column by column.

What llama.cpp's `llama-imatrix` collects from its own graph is collected here from transformers in float32: the mean of
the squared inputs of every linear module over the calibration samples, each read alone. The output head is left out, as
it is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from pytest_quantgate.quantizers.gguf_weights import HEAD, names_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["importance"]


class _Squares:
    """The sum of squared inputs of one module."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].detach().float().flatten(0, -2)
        found = rows.square().sum(0, dtype=torch.float64)
        self.total = found if self.total is None else self.total + found
        self.count += len(rows)

    def mean(self) -> NDArray[np.float32]:
        """Return the mean of the squares (inputs,)."""
        assert self.total is not None
        return (self.total / self.count).cpu().numpy().astype(np.float32)


def importance(
    folder: Path, samples: Sequence[Sequence[int]], device: str, done: Callable[[int], None]
) -> dict[str, NDArray[np.float32]]:
    """Return the mean squared inputs (inputs,) of each matrix, by its name in GGUF.

    Args:
        folder: the unquantized model.
        samples: token ids.
        device: where the model runs.
        done: called with the number of samples that are through.

    """
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, device_map=device, local_files_only=True, use_safetensors=True
    )
    named = names_of(model.config)
    collected: dict[str, _Squares] = {}
    for name, module in model.named_modules():
        target = named(f"{name}.weight")
        if isinstance(module, nn.Linear) and target is not None and f"{name}.weight" != HEAD:
            collected[target] = _Squares()
            module.register_forward_pre_hook(collected[target])
    with torch.inference_mode():
        for number, ids in enumerate(samples, 1):
            model.get_decoder()(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False)
            done(number)
    return {name: squares.mean() for name, squares in collected.items() if squares.count}
