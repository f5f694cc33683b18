"""Parts of a loaded transformers model put back: to the baseline's weights, or to what its own files state.

Nothing on disk is touched. A quantized module is replaced by an ordinary linear layer, whatever library made it; other
parameters under a restored name (norms, biases, embeddings) take the baseline's values. A whole decoder layer is put
back exactly. A single matrix of a layer whose scales AWQ has moved is first brought into that layer's scales (see
`weighing.fitted`), which is exact to the error of that fit.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pytest_quantgate.backends.dequantizing import Tensors
from pytest_quantgate.backends.layers import effective, linears
from pytest_quantgate.backends.modules import bits_of, is_plain
from pytest_quantgate.backends.weighing import fitted, rescaled_layers
from pytest_quantgate.errors import ConfigError, NotMeasurableError
from pytest_quantgate.restorations import DEQUANTIZED, FOLDER, RESTORED

if TYPE_CHECKING:
    from pytest_quantgate.backends.transformers import TransformersModel

__all__ = ["apply_restoration"]

SMALLEST = 1e-3
"""A factor nearer to zero than this is no scale that AWQ moved: the weights there are gone."""


def apply_restoration(model: TransformersModel) -> None:
    """Put back what a model's specification says; leave it alone if it says nothing.

    Raises:
        ConfigError: there is no such module.
        CheckpointError: the baseline's weights cannot be read.
        NotMeasurableError: the baseline has no such tensors.

    """
    options = dict(model.spec.options)
    if options.get(DEQUANTIZED):
        _dequantize(model)
    if names := str(options.get(RESTORED, "")):
        baseline = Tensors(Path(str(options[FOLDER])))
        for name in names.split(","):
            _restore(model, name, baseline)


def _restore(model: TransformersModel, name: str, baseline: Tensors) -> None:
    try:
        target = model.native.get_submodule(name)
    except AttributeError as error:
        raise ConfigError(f"{model.spec.name}: it has no module {name!r} to put back") from error
    found = [(f"{name}.{inner}".rstrip("."), part) for inner, part in linears(target)]
    alone = any(whole == name for whole, _ in found)
    like = _like(model)
    frames = rescaled_layers(model.native, baseline) if alone else []
    for whole, part in found:
        if f"{whole}.weight" not in baseline:
            raise NotMeasurableError(f"{model.spec.name}: the baseline has no weights of {whole}")
        weight = baseline.floats(f"{whole}.weight").to(like.device)
        bias = baseline.floats(f"{whole}.bias").to(like.device) if f"{whole}.bias" in baseline else None
        if any(whole.startswith(f"{layer}.") for layer in frames):
            weight, bias = _framed(weight, bias, effective(part, like))
        _put(model.native, whole, _linear(weight, bias, like))
    if not alone:
        _restore_others(target, name, baseline)


def _restore_others(target: nn.Module, name: str, baseline: Tensors) -> None:
    with torch.no_grad():
        for inner, parameter in target.named_parameters():
            whole = f"{name}.{inner}"
            if whole in baseline and is_plain(parameter) and parameter.is_floating_point():
                parameter.copy_(baseline.floats(whole).reshape(parameter.shape))


def _framed(weight: Tensor, bias: Tensor | None, ours: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the baseline's weight (N, K) and bias (N,) in the scales of the variant's layer."""
    outputs, inputs = (torch.where(part.abs() < SMALLEST, 1.0, part) for part in fitted(weight, ours))
    return weight / outputs[:, None] / inputs, None if bias is None else bias / outputs


def _dequantize(model: TransformersModel) -> None:
    own, like = Tensors(Path(model.spec.path)), _like(model)
    for name, part in list(linears(model.native)):
        if not bits_of(part):
            continue
        codes = own.codes(name)
        weight = effective(part, like) if codes is None else codes.weight().to(like.device)
        stated = own.floats(f"{name}.bias") if f"{name}.bias" in own else getattr(part, "bias", None)
        _put(model.native, name, _linear(weight, stated, like))


def _like(model: TransformersModel) -> Tensor:
    """Return a tensor of the type and on the device that the model computes with."""
    found: Tensor = next(
        part for part in model.native.parameters() if part.is_floating_point() and is_plain(part)
    )
    return found


def _linear(weight: Tensor, bias: Any, like: Tensor) -> nn.Linear:
    outputs, inputs = weight.shape
    made = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.to(like), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().to(like), requires_grad=False)
    return made.eval()


def _put(native: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(native.get_submodule(parent), own, module)
