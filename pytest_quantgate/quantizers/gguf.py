"""GGUF recipes: the baseline converted to one file, and quantized by llama.cpp itself.

The weights are first written as they are, in the baseline's own type; llama.cpp's quantizer then makes the mixture
that `type` names, with an importance matrix if there is calibration data. The file is used only if llama.cpp gives the
ids of the baseline's tokenizer for a text of many scripts, and answers with finite logits.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import llama_cpp
import numpy as np
from transformers import AutoConfig, AutoTokenizer

from pytest_quantgate.checkpoint import preflight
from pytest_quantgate.checkpoint.gguf_types import FILE_TYPES
from pytest_quantgate.errors import CheckpointError, ConfigError
from pytest_quantgate.quantizers import calibration
from pytest_quantgate.quantizers.gguf_architectures import architecture_of
from pytest_quantgate.quantizers.gguf_importance import importance
from pytest_quantgate.quantizers.gguf_weights import FLOAT_TYPES, stored_type, write_gguf
from pytest_quantgate.quantizers.isolation import isolated
from pytest_quantgate.recipe import content_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from pytest_quantgate.interfaces import Progress
    from pytest_quantgate.spec import ModelSpec, Recipe

__all__ = ["quantizer"]

FILE: Final = "model.gguf"
UNQUANTIZED: Final = "unquantized.gguf.part"
FTYPES: Final = {name: number for number, name in FILE_TYPES.items()}
CHECK_TOKENS: Final = 64
STEPS: Final = 3  # beside the calibration samples: converted, quantized, checked
WARNING, ERROR = 3, 4  # enum ggml_log_level of ggml.h
CHECK_TEXT: Final = (
    "The river's gate opens at 07:45, isn't it? They'll pay $1,234,567.89 (±0.5%) in 2026!\n\n\n"
    "  def f(x):\n\treturn x**2  # naïve café — “quotes”\r\n"
    "\u0417\u0434\u0440\u0430\u0432\u0441\u0442\u0432\u0443\u0439, \u043c\u0438\u0440! \u4f60\u597d\u4e16\u754c\u3002"
    " \u3053\u3093\u306b\u3061\u306f"
    " \ud55c\uad6d\uc5b4 \u0627\u0644\u0633\u0644\u0627\u0645 \U0001f680\U0001f9d1\u200d\U0001f680"
    " 3.14159 0x1F a_b-c/d\\e <tag attr='v'>   end \n"
)
FAILURES: Final = (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError, OSError)


class GgufQuantizer:
    """The `Quantizer` for the method "gguf"."""

    def quantize(self, recipe: Recipe, baseline: ModelSpec, out: Path, progress: Progress) -> None:
        """Write `model.gguf` into the empty folder `out` and make sure that it loads, reads and speaks.

        Raises:
            ConfigError: an architecture or a tokenizer that cannot be converted, calibration data of the wrong shape.
            CheckpointError: the baseline cannot be read, or llama.cpp cannot make or load the file.

        """
        with isolated() as output, _listening() as said:
            try:
                _quantize(recipe, baseline, out, progress)
            except FAILURES as error:
                raise CheckpointError(
                    f"llama.cpp could not make {recipe['type']} of {baseline.source}: {type(error).__name__}:"
                    f" {' '.join(str(error).split())[:300]}; its last output: {' | '.join(said) or output}"
                ) from error


quantizer = GgufQuantizer()


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _deaf(_level: int, _text: bytes, _: ctypes.c_void_p) -> None:
    """Print nothing."""


@contextmanager
def _listening() -> Iterator[deque[str]]:
    """Keep what llama.cpp would print."""
    said: deque[str] = deque(maxlen=3)

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def listen(level: int, text: bytes, _: ctypes.c_void_p) -> None:
        if level in (WARNING, ERROR) and (line := text.decode(errors="replace").strip(" .\n")):
            said.append(line)

    llama_cpp.llama_log_set(listen, ctypes.c_void_p(0))
    try:
        yield said
    finally:
        llama_cpp.llama_log_set(_deaf, ctypes.c_void_p(0))


def _quantize(recipe: Recipe, baseline: ModelSpec, out: Path, progress: Progress) -> None:
    folder, kind = Path(baseline.path), str(recipe["type"])
    if preflight(folder, allow_code=True, allow_pickle=True).is_gguf:
        _again(recipe, baseline, out, progress)
        return
    config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
    architecture_of(config, baseline.source)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    samples = _samples(recipe, tokenizer)
    total = len(samples) + STEPS
    weights = {}
    if samples:
        weights = importance(folder, samples, baseline.device, lambda done: progress(done, total))
    if kind in FLOAT_TYPES:
        write_gguf(folder, config, tokenizer, kind, out / FILE)
    else:
        write_gguf(folder, config, tokenizer, stored_type(folder), out / UNQUANTIZED)
        progress(len(samples) + 1, total)
        _run(out / UNQUANTIZED, kind, weights, out / FILE)
        (out / UNQUANTIZED).unlink()
    progress(len(samples) + 2, total)
    _check(out / FILE, tokenizer)
    progress(total, total)


def _again(recipe: Recipe, baseline: ModelSpec, out: Path, progress: Progress) -> None:
    """Quantize a baseline that is a GGUF file.

    Raises:
        ConfigError: it is quantized already, or there is calibration data, which takes a model that transformers runs.

    """
    sound = preflight(Path(baseline.path))
    if sound.quantization is not None:
        raise ConfigError(
            f"method gguf: {baseline.source} is quantized already ({sound.quantization['file_type']});"
            " give the unquantized baseline"
        )
    if recipe.calibration:
        raise ConfigError(
            f"method gguf: no importance matrix can be made of {baseline.source}, a GGUF file; leave calibration out,"
            " or give the safetensors folder as baseline"
        )
    _run(sound.folder / next(iter(sound.weight_files)), str(recipe["type"]), {}, out / FILE)
    progress(1, 2)
    _check(out / FILE, None)
    progress(2, 2)


def _samples(recipe: Recipe, tokenizer: Any) -> list[list[int]]:
    if not recipe.calibration:
        return []
    path = Path(recipe.calibration)
    if content_digest(path) != recipe.calibration_digest:
        raise ConfigError(f"calibration file {path} has changed since the recipe was read; run again")
    limits = {name: int(recipe[name]) for name in ("samples", "max_length")}
    return calibration.read(path, tokenizer, **limits)


def _run(source: Path, kind: str, weights: Mapping[str, NDArray[np.float32]], out: Path) -> None:
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = FTYPES[kind]
    parameters.nthread = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    table = (llama_cpp.llama_model_imatrix_data * (len(weights) + 1))()  # the last one's name is null
    for entry, (name, values) in zip(table, weights.items(), strict=False):
        entry.name, entry.size = name.encode(), len(values)
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if weights:
        parameters.imatrix = table
    code = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(out), ctypes.byref(parameters))
    if code:
        raise RuntimeError(f"llama_model_quantize gave {code}")


def _check(file: Path, tokenizer: Any) -> None:
    """Load the file, and compare what it reads with the tokenizer it was made of, if there is one.

    Raises:
        ConfigError: llama.cpp splits a text otherwise.
        CheckpointError: a logit is NaN or infinite.

    """
    with closing(llama_cpp.Llama(str(file), n_ctx=512, n_batch=512, logits_all=True, verbose=False)) as model:
        if tokenizer is not None:
            _compare(model, tokenizer)
        ids = model.tokenize(CHECK_TEXT.encode(), add_bos=False)[:CHECK_TOKENS]
        model.eval(ids)
        if not np.isfinite(model.scores[: len(ids)]).all():
            raise CheckpointError(
                "the quantized model answers with NaN or infinite logits; try a type of more bits"
            )


def _compare(model: Any, tokenizer: Any) -> None:
    text = CHECK_TEXT + "".join(str(token) for token in tokenizer.all_special_tokens[:4])
    expected = [int(number) for number in tokenizer(text, add_special_tokens=False)["input_ids"]]
    found = model.tokenize(text.encode(), add_bos=False, special=True)
    if expected != found:
        pairs = enumerate(zip(expected, found, strict=False))
        at = next((n for n, (one, other) in pairs if one != other), min(len(expected), len(found)))
        raise ConfigError(
            "method gguf cannot convert the tokenizer: of a text in many scripts, llama.cpp's token"
            f" {at} is {found[at : at + 1]}, transformers' {expected[at : at + 1]}"
        )
