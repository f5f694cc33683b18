"""A folder of weights to a transformers model that is complete, safe and in the dtype that was asked for.

What a quantization format calls for is in `formats`, recipes that are carried out here in `on_load`, and what a loaded
model needs to compute in its dtype in `exactness`.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from safetensors import SafetensorError
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer

from pytest_quantgate import damages, restorations
from pytest_quantgate.backends import older_tokenizers, on_load
from pytest_quantgate.backends.exactness import wrongly_typed
from pytest_quantgate.backends.formats import DTYPES, FORMATS, Format, format_of, need, section
from pytest_quantgate.backends.kv_cache import OPTIONS as CACHE_OPTIONS
from pytest_quantgate.backends.kv_cache import asked
from pytest_quantgate.backends.quiet import first_line, quiet
from pytest_quantgate.errors import (
    CheckpointError,
    ConfigError,
    MissingExtraError,
    NotMeasurableError,
    ObservationError,
    QuantgateError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_quantgate.spec import ModelSpec

__all__ = ["DTYPES", "load_model", "load_tokenizer", "prepare", "quiet"]

OPTIONS = ("attention", "kernel", "repeat", "tokens_at_once", *CACHE_OPTIONS)
DTYPE = "dtype" if tuple(map(int, transformers.__version__.split(".")[:2])) >= (4, 56) else "torch_dtype"
SHOWN = 3
FAILURES = (
    *(OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, AssertionError),
    SafetensorError,
)


def prepare(spec: ModelSpec) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that the checkpoint calls for; import what its kernels need.

    Raises:
        MissingExtraError: the checkpoint needs a library that is not installed.
        NotMeasurableError: it needs another machine.
        ConfigError: a dtype or an option that this backend does not have.

    """
    if spec.dtype not in DTYPES:
        raise ConfigError(f"{spec.name}: dtype {spec.dtype!r} is not one of {', '.join(DTYPES)}")
    options = dict(spec.options)
    if unknown := sorted(set(options) - {*OPTIONS, damages.OPTION, damages.SEED, *restorations.OPTIONS}):
        raise ConfigError(
            f"{spec.name}: the transformers backend has no option {unknown[0]!r}: {', '.join(OPTIONS)}"
        )
    asked(spec)  # what is written wrongly is said before anything is loaded
    found: dict[str, Any] = {"attn_implementation": options["attention"]} if "attention" in options else {}
    settings, format_ = section(Path(spec.path)), _format(spec)
    _import_architecture(spec)
    if _is_on_load(spec):
        _refuse_quantized_twice(spec, settings)
        need(format_, spec, f"{spec.name} (recipe {spec.source})")
        return found | {"quantization_config": on_load.quantization_config(spec)}
    need(format_, spec, f"loading the {str(settings.get('quant_method')).upper()} checkpoint {spec.path}")
    return found | format_.arguments(spec, settings)


def _is_on_load(spec: ModelSpec) -> bool:
    return spec.recipe is not None and spec.recipe.method in on_load.METHODS


def _format(spec: ModelSpec) -> Format:
    if spec.recipe is not None and spec.recipe.method in on_load.METHODS:
        return FORMATS[spec.recipe.method]
    return format_of(section(Path(spec.path)))


def _refuse_quantized_twice(spec: ModelSpec, settings: Mapping[str, Any]) -> None:
    if settings:
        raise ConfigError(
            f"{spec.name}: {spec.path} is quantized already ({settings.get('quant_method')}); "
            "a recipe takes an unquantized baseline"
        )


def _import_architecture(spec: ModelSpec) -> None:
    """Import the model's code now, so that the time of loading does not hold it."""
    with quiet(), suppress(OSError, ValueError, KeyError):  # loading says what is wrong
        MODEL_FOR_CAUSAL_LM_MAPPING[type(AutoConfig.from_pretrained(spec.path, local_files_only=True))]


def load_model(spec: ModelSpec, arguments: Mapping[str, Any], *, allow_code: bool, allow_pickle: bool) -> Any:
    """Return the model in evaluation mode.

    Raises:
        CheckpointError: weights are missing, superfluous, of the wrong shape, or cannot be read.
        NotMeasurableError: a library that it needs is missing, or refuses this machine.
        ObservationError: it does not compute in `spec.dtype`.

    """
    format_ = _format(spec)
    own = None if _is_on_load(spec) else format_.own_loader
    report: Mapping[str, Any] = {}
    try:
        with quiet(), format_.loading():
            if own is not None:
                model = own(spec)
            else:
                loaded: Any = AutoModelForCausalLM.from_pretrained(
                    spec.path,
                    **{DTYPE: DTYPES[spec.dtype]},
                    device_map=spec.device,
                    local_files_only=True,
                    trust_remote_code=allow_code,
                    use_safetensors=None if allow_pickle else True,
                    output_loading_info=True,
                    **arguments,
                )
                model, report = loaded
            model.eval()
            format_.finish(model, DTYPES[spec.dtype])
    except QuantgateError:
        raise
    except ImportError as error:
        raise _missing(spec, format_, error) from error
    except FAILURES as error:
        raise CheckpointError(f"{spec.path} cannot be loaded: {first_line(error)}") from error
    _check_complete(spec, report)
    _check_it_was_read_as_quantized(spec, model)
    _check_dtype(spec, model)
    return model


def _missing(spec: ModelSpec, format_: Format, error: ImportError) -> NotMeasurableError:
    what = f"loading {spec.path} ({first_line(error)})"
    if format_.extra:
        return MissingExtraError(what, format_.extra)
    return NotMeasurableError(f"{what}; install what it names")


def load_tokenizer(spec: ModelSpec, *, allow_code: bool) -> Any:
    """Return the tokenizer that lies beside the weights.

    Raises:
        CheckpointError: there is none, or it cannot be read.

    """
    try:
        with quiet():
            return _tokenizer(spec, allow_code=allow_code)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise CheckpointError(f"{spec.path}: the tokenizer cannot be loaded: {first_line(error)}") from error


def _tokenizer(spec: ModelSpec, *, allow_code: bool) -> Any:
    folder = Path(spec.path)
    try:
        found = AutoTokenizer.from_pretrained(spec.path, local_files_only=True, trust_remote_code=allow_code)
    except Exception:  # the tokenizers library raises no class of its own
        if not older_tokenizers.IS_OLDER:
            raise
        found = older_tokenizers.read(folder)
    if older_tokenizers.IS_OLDER:
        older_tokenizers.keep_spaces(found, folder)
    return found


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


def _check_it_was_read_as_quantized(spec: ModelSpec, model: Any) -> None:
    """Refuse what transformers took for a dense model: it passes over a method that it does not know."""
    settings = section(Path(spec.path))
    if settings and format_of(settings).own_loader is None and getattr(model, "hf_quantizer", None) is None:
        raise CheckpointError(
            f"{spec.path} says that it is quantized by {settings.get('quant_method')!r}, which transformers "
            f"{transformers.__version__} does not know; load it with a version that does"
        )


def _check_dtype(spec: ModelSpec, model: Any) -> None:
    for name, dtype in wrongly_typed(model, DTYPES[spec.dtype]):
        found = str(dtype).removeprefix("torch.")
        raise ObservationError(
            f'{spec.name} computes in {found}, not in {spec.dtype} ({name}): set dtype = "{found}" for it'
        )
