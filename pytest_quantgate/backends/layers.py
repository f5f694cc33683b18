"""A loaded model seen from inside: its decoder layers and their outputs, its linear modules and what they compute with.

Modules are told by what they carry and asked by what they do: a module of any library gives its matrix when it is fed
the identity. So nothing here knows a quantization library.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pytest_quantgate.backends.modules import bits_of, is_plain, text_config
from pytest_quantgate.errors import NotMeasurableError, ObservationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.interfaces import Model
    from pytest_quantgate.spec import IntArray

__all__ = ["decoder_layers", "effective", "linears", "network", "states"]

ROWS_AT_ONCE = 1024


def network(model: Model) -> Any:
    """Return the model's torch module.

    Raises:
        NotMeasurableError: it has none in this process: a server, GGUF, a worker.

    """
    native = getattr(model, "native", None)
    if not isinstance(native, nn.Module):
        raise NotMeasurableError(
            f"{model.spec.name}: its layers cannot be looked at, since the backend {model.spec.backend!r} keeps them"
            " to itself; give the checkpoint to the transformers backend, in this process"
        )
    return native


def decoder_layers(native: Any) -> list[tuple[str, nn.Module]]:
    """Return the decoder layers with their names: the first list of modules as long as the configuration says."""
    count = getattr(text_config(native.config), "num_hidden_layers", 0)
    for name, module in native.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return [(f"{name}.{number}", layer) for number, layer in enumerate(module)]
    raise NotMeasurableError("the model has no stack of decoder layers that could be told apart")


def linears(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the linear modules by name, quantized by any library or not."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear) or hasattr(part, "qweight") or (bits_of(part) and _is_linear(part)):
            yield name, part


def _is_linear(module: Any) -> bool:
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def effective(module: Any, like: Tensor) -> Tensor:
    """Return the matrix (N, K) that a linear module computes with, in float32."""
    if isinstance(module, nn.Linear) and not bits_of(module) and is_plain(module.weight):
        return module.weight.detach().float()
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), _without_bias(module):
        inputs = int(module.in_features)
        nothing = module(like.new_zeros(1, inputs))[0]
        identity = torch.eye(inputs, dtype=like.dtype, device=like.device)
        columns = torch.cat([module(rows) - nothing for rows in torch.split(identity, ROWS_AT_ONCE)])
    return columns.float().T.contiguous()


@contextmanager
def _without_bias(module: Any) -> Iterator[None]:
    """Set the bias to 0 for a while: a large one would take the last digits of what half precision gives."""
    bias = getattr(module, "bias", None)
    if not isinstance(bias, Tensor):
        yield
        return
    kept = bias.detach().clone()
    bias.zero_()
    try:
        yield
    finally:
        bias.copy_(kept)


# --- outputs


def states(model: Model, windows: Sequence[IntArray], rows: int) -> tuple[NDArray[np.float32], list[str]]:
    """Return the output of each decoder layer (L, R, width) at about `rows` positions in all, and the layers' names.

    The positions are spread evenly over each window (T,); the same windows give the same positions.

    Raises:
        NotMeasurableError: the model has no decoder layers here.
        ObservationError: an output is NaN or infinite.

    """
    native = network(model)
    layers = decoder_layers(native)
    device = next(native.parameters()).device
    each = max(1, rows // max(1, len(windows)))
    kept: list[list[Tensor]] = [[] for _ in layers]
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        for ids in windows:
            places = np.unique(np.linspace(0, len(ids) - 1, min(each, len(ids))).astype(np.int64))
            hooks = _hooks((layer for _, layer in layers), kept, torch.from_numpy(places).to(device))
            try:
                native(input_ids=torch.from_numpy(ids.astype(np.int64))[None].to(device), use_cache=False)
            finally:
                for hook in hooks:
                    hook.remove()
    stacked = torch.stack([torch.cat(parts) for parts in kept])
    if not bool(torch.isfinite(stacked).all()):
        raise ObservationError(f"{model.spec.name}: the output of a layer is not finite")
    return stacked.numpy(), [name for name, _ in layers]


def _hooks(layers: Iterable[nn.Module], kept: list[list[Tensor]], places: Tensor) -> list[Any]:
    def keeper(number: int) -> Callable[..., None]:
        def keep(_module: object, _inputs: object, outputs: Any) -> None:
            hidden = outputs[0] if isinstance(outputs, tuple) else outputs
            kept[number].append(hidden[0][places].float().cpu())

        return keep

    return [layer.register_forward_hook(keeper(number)) for number, layer in enumerate(layers)]
