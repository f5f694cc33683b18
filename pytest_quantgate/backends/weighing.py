"""Each linear module's weights of a loaded model against the baseline's.

The weights that count are those that the engine computes with. A module of any library is asked for them by feeding
it the identity; where the files hold a GPTQ or AWQ layout they are dequantized once more from there, so that a kernel
that computes wrongly is told from weights that are wrong. The baseline is read tensor by tensor: it is never loaded.

AWQ moves scales between a layer's matrices and norms. Such a layer is told by its norms, and its matrices are compared
after the best scale of each input and output (alternating least squares), since the product is what counts.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pytest_quantgate.backends.dequantizing import Codes, Tensors
from pytest_quantgate.backends.layers import decoder_layers, effective, linears, network
from pytest_quantgate.backends.modules import bits_of, is_plain
from pytest_quantgate.errors import NotMeasurableError, ObservationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_quantgate.interfaces import Model
    from pytest_quantgate.spec import Json

__all__ = ["EQUAL_DB", "fitted", "rescaled_layers", "sqnr", "weigh"]

EQUAL_DB = 200.0
"""What stands for no difference at all: a store keeps no infinity."""

SAMPLE = 64
"""Outputs that are enough to recognise a matrix or its groups by."""

WRONG_DB = 6.0
RESCALED = 0.01
ROUNDS = 4
_NUMBER = re.compile(r"\.(\d+)\.")


def weigh(model: Model, folder: str, progress: Callable[[int, int], None]) -> list[dict[str, Json]]:
    """Compare every linear module with the baseline's that lies in `folder`; one row each.

    A row holds: name; bits (0 for a dense one); inputs, outputs; sqnr in dB; cosine; kernel: dB of the engine's weights
    against those of the files, None where those cannot be read apart; rounding: dB that rounding with the stored
    scales alone would give; shift: the mean error in quantization steps; shifted: dB with that many whole steps taken
    off; dead: the share of outputs without any weight; regrouped, moved: dB with each input in the group that fits it
    best, and the share of inputs that would move; twin, twin_cosine: the baseline's module of another layer that it
    resembles.

    Raises:
        NotMeasurableError: the model has no modules here.
        CheckpointError: the baseline's weights cannot be read.

    """
    native, baseline, own = network(model), Tensors(Path(folder)), Tensors(Path(model.spec.path))
    like = next(part for part in native.parameters() if part.is_floating_point() and is_plain(part))
    rescaled = rescaled_layers(native, baseline)
    found = [(name, part) for name, part in linears(native) if f"{name}.weight" in baseline]
    rows = []
    for done, (name, part) in enumerate(found, 1):
        reference = baseline.floats(f"{name}.weight").to(like.device)
        loose = any(name.startswith(f"{layer}.") for layer in rescaled)
        row = _weighed(name, part, reference, effective(part, like), own.codes(name), loose=loose)
        if isinstance(row["sqnr"], float) and row["sqnr"] < WRONG_DB:
            row |= _twin(name, own, baseline, part, like)
        rows.append(row)
        progress(done, len(found))
    if not rows:
        raise NotMeasurableError(f"{model.spec.name}: no linear module has the name of one of the baseline's")
    return rows


def _weighed(
    name: str, part: Any, reference: Tensor, engine: Tensor, codes: Codes | None, *, loose: bool
) -> dict[str, Json]:
    if engine.shape != reference.shape:
        raise ObservationError(
            f"{name} has the shape {tuple(engine.shape)}, the baseline's {tuple(reference.shape)}: another architecture"
        )
    stated = engine if codes is None else codes.weight().to(engine.device)
    outputs, inputs = fitted(reference, stated) if loose else (torch.ones(1), torch.ones(1))
    scale = (outputs[:, None] * inputs).to(engine.device)
    row: dict[str, Json] = {
        "name": name,
        "bits": bits_of(part),
        "outputs": reference.shape[0],
        "inputs": reference.shape[1],
        "sqnr": sqnr(reference, stated * scale),
        "cosine": _cosine(reference, stated * scale),
        "kernel": None if codes is None else sqnr(stated, engine),
        "dead": float((stated == 0).all(1).float().mean()),
        **dict.fromkeys(("rounding", "shift", "shifted", "regrouped", "moved", "twin", "twin_cosine")),
    }
    if codes is not None:
        row |= _steps(reference.cpu(), codes, scale.cpu())
    if codes is not None and not loose and len(codes.scales) > 1:
        row |= _groups(reference.cpu(), codes)
    return row


def _steps(reference: Tensor, codes: Codes, scale: Tensor) -> dict[str, Json]:
    """Look at the errors in steps of quantization; `scale` brings the matrix to that of `reference` (N, K)."""
    step = codes.scales[codes.groups].T * scale
    weight = codes.weight() * scale
    error = (weight - reference) / torch.where(step == 0, torch.inf, step)
    shift = float(error.mean())
    spread = step.square().sum() / 12  # of an error that is anywhere within half a step
    return {
        "rounding": sqnr(reference, reference + (spread / step.numel()).sqrt()),
        "shift": shift,
        "shifted": sqnr(reference, weight - round(shift) * step),
    }


def _groups(reference: Tensor, codes: Codes) -> dict[str, Json]:
    """Look for the groups that fit the inputs best, on a few outputs: (N, K) `reference`."""
    few = slice(0, SAMPLE)
    part = Codes(codes.codes[:, few], codes.zeros[:, few], codes.scales[:, few], codes.groups, codes.bits)
    best = _best_groups(reference[few], part)
    return {
        "regrouped": sqnr(reference[few], part.weight(best)),
        "moved": float((best != codes.groups).float().mean()),
    }


def _best_groups(reference: Tensor, codes: Codes) -> Tensor:
    """Return for each input (K,) the group whose scales and zero-points bring it nearest to `reference` (N, K)."""
    inputs, groups = len(codes.groups), len(codes.scales)
    misses = torch.empty(groups, inputs)
    for group in range(groups):
        tried = codes.weight(torch.full((inputs,), group, dtype=torch.long))
        misses[group] = (tried - reference).square().sum(0)
    return misses.argmin(0)


def _twin(name: str, own: Tensors, baseline: Tensors, part: Any, like: Tensor) -> dict[str, Json]:
    """Look for the baseline's module of another layer that these weights are."""
    codes = own.codes(name)
    weight = (effective(part, like).cpu() if codes is None else codes.weight())[:SAMPLE]
    alike = [other for other in baseline if _anywhere(other) == _anywhere(f"{name}.weight")]
    likeness = {
        other: _cosine(baseline.floats(other)[:SAMPLE], weight)
        for other in alike
        if other != f"{name}.weight"
    }
    if not likeness:
        return {}
    best = max(likeness, key=lambda other: likeness[other])
    return {"twin": best.removesuffix(".weight"), "twin_cosine": likeness[best]}


def _anywhere(name: str) -> str:
    """Return a name without the number of its layer."""
    return _NUMBER.sub(".*.", name, count=1)


def rescaled_layers(native: Any, baseline: Tensors) -> list[str]:
    """Return the names of the decoder layers whose norms are not the baseline's: scales were moved."""
    found = []
    for layer, module in decoder_layers(native):
        norms = ((name, part) for name, part in module.named_parameters() if part.ndim == 1)
        weights = ((f"{layer}.{name}", part) for name, part in norms if name.endswith("norm.weight"))
        if any(name in baseline and _differs(part, baseline.floats(name)) for name, part in weights):
            found.append(layer)
    return found


def _differs(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    difference = (ours.detach().float().cpu() - theirs).norm()
    return bool(difference > RESCALED * theirs.norm())


def fitted(reference: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors of outputs (N,) and inputs (K,) with which `weight` (N, K) comes nearest to `reference`."""
    outputs = torch.ones(weight.shape[0], device=weight.device)
    inputs = torch.ones(weight.shape[1], device=weight.device)
    for _ in range(ROUNDS):
        inputs = _slopes(reference, weight * outputs[:, None], 0)
        outputs = _slopes(reference, weight * inputs, 1)
    return outputs, inputs


def _slopes(reference: Tensor, weight: Tensor, dim: int) -> Tensor:
    size = weight.square().sum(dim)
    return torch.where(size > 0, (reference * weight).sum(dim) / size.clamp_min(1e-30), 1.0)


def sqnr(signal: Tensor, noisy: Tensor) -> float:
    """Return the signal-to-quantization-noise ratio in dB, at most 200 either way; NaN counts as noise only."""
    noise = float((signal.double() - noisy.double()).square().sum())
    power = float(signal.double().square().sum())
    if noise == 0:
        return EQUAL_DB
    if power == 0 or not math.isfinite(noise):
        return -EQUAL_DB
    return min(EQUAL_DB, max(-EQUAL_DB, 10 * math.log10(power / noise)))


def _cosine(one: Tensor, other: Tensor) -> float:
    size = one.norm() * other.norm()
    value = float((one * other).sum() / size) if size > 0 else 0.0
    return value if math.isfinite(value) else 0.0
