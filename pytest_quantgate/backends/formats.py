"""What each quantization format asks of the loader: a library, a machine, arguments before, adjustments after.

An entry of `FORMATS` is one `quant_method` of config.json; another joins by an entry of its own. One that is not
listed is left to transformers, which says itself what it lacks.

The kernels of GPTQ and AWQ checkpoints deserve a word. GPTQModel's automatic choice on a CPU computes with
scales rounded to bfloat16 whatever the model's dtype is (relative error 3e-3 per layer). Its plain torch
kernels dequantize exactly (AWQ's with help, see `exactness`), so they are used on CPUs, and for float32
everywhere; on a GPU in half precision the automatic choice is what gets deployed.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import AwqConfig, GPTQConfig

from pytest_quantgate import damages
from pytest_quantgate.backends.exactness import (
    cast_the_rest,
    compute_awq_exactly,
    compute_nf4_in,
    decompress,
)
from pytest_quantgate.backends.quiet import first_line, quiet
from pytest_quantgate.backends.zero_points import packed_zero_points
from pytest_quantgate.errors import CheckpointError, MissingExtraError, NotMeasurableError

if TYPE_CHECKING:
    from pytest_quantgate.spec import ModelSpec

__all__ = ["DTYPES", "FORMATS", "Format", "format_of", "need", "section"]

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTO_FILE: Final = "quanto_qmap.json"
"""What optimum-quanto writes beside the weights, instead of a section in config.json."""

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """How checkpoints of one quantization method are loaded.

    Attributes:
        packages: importable names that must be there.
        extra: the extra of this package that brings them.
        arguments: (spec, quantization section) -> further arguments of `from_pretrained`.
        loading: the context in which it is loaded.
        finish: (model, dtype) -> None; adjusts the loaded model, so that it computes in that dtype.
        capability: the least compute capability of a CUDA device; None if any device will do.
        own_loader: (spec) -> model, for what transformers itself cannot load.

    """

    packages: tuple[str, ...] = ()
    extra: str = ""
    arguments: Callable[[ModelSpec, Settings], dict[str, Any]] = lambda _spec, _settings: {}
    loading: Callable[[], AbstractContextManager[None]] = nullcontext
    finish: Callable[[Any, torch.dtype], None] = lambda _model, _dtype: None
    capability: tuple[int, int] | None = None
    own_loader: Callable[[ModelSpec], Any] | None = None


def section(folder: Path) -> dict[str, Any]:
    """Return the quantization section of a checkpoint's configuration; empty for a dense model.

    Raises:
        CheckpointError: config.json cannot be read.

    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'} cannot be read ({first_line(error)})") from error
    found = config.get("quantization_config") if isinstance(config, dict) else None
    if isinstance(found, dict):
        return found
    return {"quant_method": "quanto"} if (folder / QUANTO_FILE).exists() else {}


def format_of(settings: Settings) -> Format:
    """Return what is known of the format that a quantization section names."""
    return FORMATS.get(str(settings.get("quant_method", "")).lower(), PLAIN)


def need(format_: Format, spec: ModelSpec, what: str) -> None:
    """Make sure that library and machine are there; import the library, so that the time of loading does not hold it.

    Raises:
        MissingExtraError: a library is not installed.
        NotMeasurableError: the machine cannot compute it.

    """
    if format_.capability is not None:
        _need_capability(format_.capability, spec, what)
    for package in format_.packages:
        if not _is_there(package):
            raise MissingExtraError(what, format_.extra)
    with quiet():
        for package in format_.packages:
            importlib.import_module(package)


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of the package that this one lies in
        return False


def _need_capability(least: tuple[int, int], spec: ModelSpec, what: str) -> None:
    wanted = f"{least[0]}.{least[1]}"
    if not spec.device.startswith("cuda"):
        raise NotMeasurableError(
            f"{what} needs a CUDA device of compute capability {wanted} or later (device = {spec.device!r}); "
            "measure it on such a machine"
        )
    found = torch.cuda.get_device_capability(torch.device(spec.device))
    if found < least:
        raise NotMeasurableError(
            f"{what} needs a CUDA device of compute capability {wanted} or later, "
            f"{spec.device} has {found[0]}.{found[1]}; measure it on such a machine"
        )


# --- GPTQ and AWQ


def _gptq(spec: ModelSpec, settings: Settings) -> dict[str, Any]:
    # transformers lets the file's own values win, except for the backend
    return {"quantization_config": GPTQConfig(**_shape(settings), backend=_kernel(spec, "gptq_torch"))}


def _awq(spec: ModelSpec, settings: Settings) -> dict[str, Any]:
    kind: Any = AwqConfig
    return {"quantization_config": kind(**_shape(settings), backend=_kernel(spec, "torch_awq"))}


def _shape(settings: Settings) -> dict[str, Any]:
    # null passes the preflight; the file's own values win, and the library says what it lacks
    return {"bits": int(settings.get("bits") or 4), "group_size": int(settings.get("group_size") or 128)}


def _kernel(spec: ModelSpec, plain: str) -> str:
    options = dict(spec.options)
    damaged = damages.OPTION in options  # what a faster kernel has repacked cannot be damaged
    if "kernel" in options and not damaged:
        return str(options["kernel"])
    if spec.device.startswith("cuda") and spec.dtype != "float32" and not damaged:
        return "auto"
    return plain


# --- optimum-quanto, whose files transformers does not read


def _load_quanto(spec: ModelSpec) -> Any:
    library: Any = importlib.import_module("optimum.quanto")
    wrapped = library.QuantizedModelForCausalLM.from_pretrained(spec.path)
    model = wrapped._wrapped  # noqa: SLF001  the transformers model inside, which is what it delegates to
    unfilled = [name for name, tensor in model.named_parameters() if tensor.device.type == "meta"]
    if unfilled:
        raise CheckpointError(f"{spec.path} lacks tensors: {unfilled[0]}; save it again with optimum-quanto")
    return model.to(spec.device)


_GPTQ: Final = Format(("gptqmodel", "optimum", "optimum.gptq"), "gptq", _gptq)

PLAIN: Final = Format()

FORMATS: Final[Mapping[str, Format]] = {
    "gptq": _GPTQ,
    "awq": Format(("gptqmodel", "optimum"), "gptq", _awq, finish=compute_awq_exactly),
    "bitsandbytes": Format(("bitsandbytes",), "bitsandbytes", finish=compute_nf4_in),
    "torchao": Format(("torchao",), "torchao", finish=cast_the_rest),
    "compressed-tensors": Format(
        ("compressed_tensors",), "compressed-tensors", loading=packed_zero_points, finish=decompress
    ),
    "quanto": Format(("optimum.quanto",), "quanto", finish=cast_the_rest, own_loader=_load_quanto),
    "auto-round": Format(("auto_round",), "autoround", finish=cast_the_rest),
    # on any other machine transformers would dequantize to bfloat16 and compute something else
    "fp8": Format(capability=(8, 9)),
    "finegrained_fp8": Format(capability=(8, 9)),
    "fbgemm_fp8": Format(capability=(9, 0)),
    "mxfp4": Format(capability=(7, 5)),
}
