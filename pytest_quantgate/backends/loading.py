"""A folder of weights to a transformers model that is complete, safe and in the dtype that was asked for.

The kernels of GPTQ and AWQ checkpoints deserve a word. GPTQModel's automatic choice on a CPU computes with
scales rounded to bfloat16 whatever the model's dtype is (relative error 3e-3 per layer). Its plain torch
kernels dequantize exactly (AWQ's with help, see below), so they are used on CPUs, and for float32 everywhere;
on a GPU in half precision the automatic choice is what gets deployed.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import logging
import os
import warnings
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    AwqConfig,
    GPTQConfig,
)
from transformers.utils import logging as _logging

from pytest_quantgate import damages
from pytest_quantgate.errors import CheckpointError, ConfigError, MissingExtraError, ObservationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_quantgate.spec import ModelSpec

__all__ = ["DTYPES", "load_model", "load_tokenizer", "prepare", "quiet"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OPTIONS = ("attention", "kernel", "repeat", "tokens_at_once")
SHOWN = 3
LIBRARY: Any = _logging


@contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars, banners and warnings of the libraries off the terminal; errors still raise."""
    verbosity, bars = LIBRARY.get_verbosity(), LIBRARY.is_progress_bar_enabled()
    disabled = logging.root.manager.disable
    environment = dict(os.environ)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        warnings.simplefilter("ignore")
        LIBRARY.set_verbosity_error()
        LIBRARY.disable_progress_bar()
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            # gptqmodel turns HF_HOME and its kin to a folder of its own when it is imported
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            os.environ.update(environment)
            logging.disable(disabled)
            LIBRARY.set_verbosity(verbosity)
            if bars:
                LIBRARY.enable_progress_bar()


def prepare(spec: ModelSpec) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that the checkpoint calls for; import what its kernels need.

    Raises:
        MissingExtraError: the checkpoint needs a library that is not installed.
        ConfigError: a dtype or an option that this backend does not have.

    """
    if spec.dtype not in DTYPES:
        raise ConfigError(f"{spec.name}: dtype {spec.dtype!r} is not one of {', '.join(DTYPES)}")
    options = dict(spec.options)
    if unknown := sorted(set(options) - {*OPTIONS, damages.OPTION, damages.SEED}):
        raise ConfigError(
            f"{spec.name}: the transformers backend has no option {unknown[0]!r}: {', '.join(OPTIONS)}"
        )
    found: dict[str, Any] = {"attn_implementation": options["attention"]} if "attention" in options else {}
    settings = _quantization(Path(spec.path))
    _import_architecture(spec)
    method = settings.get("quant_method")
    if method in ("gptq", "awq"):
        _need_gptqmodel(f"loading the {str(method).upper()} checkpoint {spec.path}")
        kernel = _kernel(spec, str(method))
        bits, group = int(settings.get("bits", 4)), int(settings.get("group_size", 128))
        kind: Any = GPTQConfig if method == "gptq" else AwqConfig
        # transformers lets the file's own values win, except for the backend
        found["quantization_config"] = kind(bits=bits, group_size=group, backend=kernel)
    return found


def _kernel(spec: ModelSpec, method: str) -> str:
    options = dict(spec.options)
    damaged = damages.OPTION in options  # what a faster kernel has repacked cannot be damaged
    if "kernel" in options and not damaged:
        return str(options["kernel"])
    if spec.device.startswith("cuda") and spec.dtype != "float32" and not damaged:
        return "auto"
    return "gptq_torch" if method == "gptq" else "torch_awq"


def _quantization(folder: Path) -> Mapping[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'} cannot be read ({_first_line(error)})") from error
    settings = config.get("quantization_config") if isinstance(config, dict) else None
    return settings if isinstance(settings, dict) else {}


def _import_architecture(spec: ModelSpec) -> None:
    """Import the model's code now, so that the time of loading does not hold it."""
    with quiet(), suppress(OSError, ValueError, KeyError):  # loading says what is wrong
        MODEL_FOR_CAUSAL_LM_MAPPING[type(AutoConfig.from_pretrained(spec.path, local_files_only=True))]


def _need_gptqmodel(what: str) -> None:
    """Import what the checkpoint's kernels come from, so that the time of loading does not hold it."""
    for package in ("gptqmodel", "optimum"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(what, "gptq")
    with quiet():
        importlib.import_module("gptqmodel")
        importlib.import_module("optimum.gptq")


def load_model(spec: ModelSpec, arguments: Mapping[str, Any], *, allow_code: bool, allow_pickle: bool) -> Any:
    """Return the model in evaluation mode.

    Raises:
        CheckpointError: weights are missing, superfluous, of the wrong shape, or cannot be read.
        ObservationError: it does not compute in `spec.dtype`.

    """
    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                spec.path,
                dtype=DTYPES[spec.dtype],
                device_map=spec.device,
                local_files_only=True,
                trust_remote_code=allow_code,
                use_safetensors=None if allow_pickle else True,
                output_loading_info=True,
                **arguments,
            )
            model, report = loaded
            model.eval()
    except ImportError as error:
        raise MissingExtraError(f"loading {spec.path} ({_first_line(error)})", "gptq") from error
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{spec.path} cannot be loaded: {_first_line(error)}") from error
    _check_complete(spec, report)
    _check_dtype(spec, model)
    _compute_awq_exactly(model, DTYPES[spec.dtype])
    return model


def load_tokenizer(spec: ModelSpec, *, allow_code: bool) -> Any:
    """Return the tokenizer that lies beside the weights.

    Raises:
        CheckpointError: there is none, or it cannot be read.

    """
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(
                spec.path, local_files_only=True, trust_remote_code=allow_code
            )
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise CheckpointError(f"{spec.path}: the tokenizer cannot be loaded: {_first_line(error)}") from error


def _check_complete(spec: ModelSpec, report: Mapping[str, Any]) -> None:
    """Refuse a model of which transformers made up a part: a missing tensor is initialised at random."""
    for kind, verb in (
        ("missing_keys", "lacks"),
        ("unexpected_keys", "has unknown"),
        ("mismatched_keys", "has misfit"),
    ):
        names = sorted(str(name) for name in report.get(kind) or ())
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            listed = ", ".join(names[:SHOWN])
            raise CheckpointError(
                f"{spec.path} {verb} tensors: {listed}{more}; export it again with save_pretrained"
            )


def _compute_awq_exactly(model: Any, dtype: torch.dtype) -> None:
    """Let AWQ's torch kernel, which computes in float16 at best (3e-4 per layer), do it in float32."""
    if dtype != torch.float32:
        return
    for module in model.modules():
        if type(module).__name__ == "AwqTorchLinear" and module.adapter is None:
            module.scales = module.scales.float()
            module.forward = functools.partial(_awq_in_float32, module)


def _awq_in_float32(module: Any, inputs: torch.Tensor) -> torch.Tensor:
    dequantize = importlib.import_module(type(module).__module__).dequantize_gemm
    matrix: torch.Tensor = dequantize(
        module.qweight, module.qzeros, module.scales, module.bits, module.group_size
    )
    outputs = inputs @ matrix.float()
    if module.bias is not None:
        outputs = outputs + module.bias.float()
    return outputs


def _check_dtype(spec: ModelSpec, model: Any) -> None:
    kept = tuple({*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())})  # noqa: SLF001
    wanted = DTYPES[spec.dtype]
    for name, parameter in model.named_parameters():
        packed = not parameter.is_floating_point() or parameter.itemsize == 1
        if packed or parameter.dtype == wanted or any(part in name for part in kept):
            continue
        found = str(parameter.dtype).removeprefix("torch.")
        raise ObservationError(
            f'{spec.name} computes in {found}, not in {spec.dtype} ({name}): set dtype = "{found}" for it'
        )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
