"""GGUF files, run by llama.cpp through llama-cpp-python in this process.

Numbers come from the logits of all positions, on the same token ids as any other backend's. llama.cpp computes in its
own way whatever `dtype` says: weights as they are stored, activations rounded to 8 bits in blocks for a product with a
quantized matrix (to 16 with a 16-bit one), keys and values in float16 unless `kv_cache` says otherwise. That belongs to
what is deployed, and so to what is measured.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import llama_cpp
import numpy as np

from pytest_quantgate import damages, restorations
from pytest_quantgate.backends import gguf_answers, gguf_modules
from pytest_quantgate.backends.gguf_engine import CACHE_BITS, CACHE_TYPES, Engine, Settings
from pytest_quantgate.backends.gguf_scores import token_scores
from pytest_quantgate.backends.gguf_text import GgufTokenizer
from pytest_quantgate.backends.resident import ResidentPeak
from pytest_quantgate.checkpoint import preflight
from pytest_quantgate.checkpoint.gguf_files import find_gguf, read_parts
from pytest_quantgate.errors import CheckpointError, ConfigError, NotMeasurableError, ObservationError
from pytest_quantgate.interfaces import TokenScores, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_quantgate.interfaces import Choices, Completion, Decoding, Progress, Prompt, Window
    from pytest_quantgate.spec import FloatArray, IntArray, Json, ModelSpec, Scalar

__all__ = ["GgufModel", "load"]

OPTIONS: Final = ("batch", "flash_attention", "kv_cache", "repeat", "threads")


def load(spec: ModelSpec, *, allow_code: bool = False, allow_pickle: bool = False) -> GgufModel:
    """Load the GGUF file at `spec.path`, or the one in that folder, on `spec.device`.

    Args: spec: which weights, and how; its options may set `threads` (of the CPU), `batch` (tokens that are fed at
        once), `flash_attention` (llama.cpp's; false unless the cache is quantized), `kv_cache` (f16, f32, bf16, q8_0,
        q4_0 …) and `repeat` (nothing but an identity of its own). allow_code, allow_pickle: nothing; a GGUF file holds
        neither.

    Raises:
        CheckpointError: it is damaged, or llama.cpp cannot load it.
        ConfigError: an option that this backend does not have.
        NotMeasurableError: the device is not there, or llama-cpp-python was built without it.

    """
    del allow_code, allow_pickle
    settings = _settings(spec)
    preflight(Path(spec.path))  # llama.cpp ends the process over sizes that no model has
    folder, names = find_gguf(Path(spec.path))
    metadata = read_parts(folder, names)[names[0]].metadata
    if "tokenizer.ggml.model" not in metadata:
        raise CheckpointError(
            f"{folder / names[0]}: no vocabulary in it; convert the model anew, with its tokenizer"
        )
    memory = ResidentPeak()
    began = time.perf_counter()
    engine = Engine(folder / names[0], settings)
    seconds = time.perf_counter() - began
    template = metadata.get("tokenizer.chat_template", "")
    tokenizer = GgufTokenizer(spec.name, engine.vocab, template if isinstance(template, str) else "")
    return GgufModel(spec, engine, tokenizer, memory, seconds)


def _settings(spec: ModelSpec) -> Settings:
    options = dict(spec.options)
    for name in (damages.OPTION, *restorations.OPTIONS):
        if name in options:
            raise NotMeasurableError(
                f"{spec.name}: llama.cpp does not let weights of a GGUF file be changed in memory ({name})"
            )
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise ConfigError(f"{spec.name}: the gguf backend has no option {unknown[0]!r}: {', '.join(OPTIONS)}")
    cache = options.get("kv_cache", "f16")
    if cache not in CACHE_TYPES:
        raise ConfigError(f"{spec.name}: kv_cache = {cache!r} is not one of {', '.join(CACHE_TYPES)}")
    packed = cache in CACHE_BITS
    flash = options.get("flash_attention", packed)
    if not isinstance(flash, bool) or (packed and not flash):
        reason = f"kv_cache = {cache!r} needs it" if packed else "write true or false"
        raise ConfigError(f"{spec.name}: flash_attention = {flash!r}: {reason}")
    return Settings(
        threads=_whole(spec, "threads", options.get("threads", _cores()), 1),
        batch=_whole(spec, "batch", options.get("batch", 0), 0),
        cache=str(cache),
        flash=flash,
        gpu=_gpu(spec),
    )


def _whole(spec: ModelSpec, name: str, value: Scalar, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 1 << 16:
        raise ConfigError(f"{spec.name}: {name} = {value!r}: write a whole number from {least} to {1 << 16}")
    return value


def _cores() -> int:
    """Return how many threads this process may use, by the machine and by the variable that numeric libraries obey."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(there, int(asked)) if asked.isdigit() and int(asked) else there


def _gpu(spec: ModelSpec) -> int | None:
    kind, _, number = spec.device.partition(":")
    if kind == "cpu":
        return None
    if not llama_cpp.llama_supports_gpu_offload():
        raise NotMeasurableError(
            f'{spec.name}: llama-cpp-python is built for the CPU alone, device = {spec.device!r}; set device = "cpu"'
            ' for it, or build it with CMAKE_ARGS="-DGGML_CUDA=on"'
        )
    return int(number or 0)


class GgufModel:
    """A loaded model; see `interfaces.Model` for the contract of its methods.

    `native` is the `Engine`: llama.cpp's model and context behind a few methods.
    """

    def __init__(
        self,
        spec: ModelSpec,
        engine: Engine,
        tokenizer: GgufTokenizer,
        memory: ResidentPeak,
        load_seconds: float,
    ) -> None:
        self.spec = spec
        self.load_seconds = load_seconds
        self.vocab_size = engine.vocab_size
        self.max_length = engine.trained
        self.native, self.tokenizer, self._memory = engine, tokenizer, memory
        self.bos_id = tokenizer.bos_id

    # --- text and ids ------------------------------------------------------------

    def encode(self, text: str) -> IntArray:
        """Return the ids of a text (N,), without special tokens added."""
        return self.tokenizer.encode(text)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> IntArray:
        """Return the ids of a conversation (N,), ready for the assistant's turn."""
        return self.tokenizer.encode_chat(messages)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        return self.tokenizer.decode(ids)

    # --- scoring and generation ------------------------------------------------------------

    def score(
        self, windows: Sequence[Window], *, top_k: int = 0, at: Sequence[IntArray] | None = None
    ) -> Iterator[TokenScores]:
        """Yield one `TokenScores` per window, in order, each from an empty cache; see `interfaces.Model.score`."""
        self.native.reserve(max((len(window.ids) for window in windows), default=0))
        for number, window in enumerate(windows):
            asked = None if at is None else at[number]
            if asked is not None and asked.size and int(asked.max()) >= self.vocab_size:
                raise ObservationError(
                    f"{self.spec.name} has a vocabulary of {self.vocab_size}, the baseline knows the id"
                    f" {int(asked.max())}: they are no versions of one model"
                )
            fed = window.ids[:-1]  # the last token is a target alone
            chunks = self.native.logits(fed, window.start - 1)
            yield token_scores(chunks, window.ids[window.start :], top_k, asked)

    def generate(self, ids: Sequence[int], new_tokens: int, *, stop_at_end: bool = False) -> Trace:
        """Continue `ids` greedily by up to `new_tokens`; with `stop_at_end`, the end token is the last."""
        fed = np.asarray(ids, dtype=np.int64)
        self.native.reserve(len(fed) + new_tokens)
        tokens, seconds = list[int](), list[float]()
        began = time.perf_counter()
        while len(tokens) < new_tokens:
            (logits,) = self.native.logits(fed, len(fed) - 1, reuse=bool(tokens))
            tokens.append(int(logits[0].argmax()))
            seconds.append(time.perf_counter() - began)
            fed = np.append(fed, tokens[-1])
            if stop_at_end and tokens[-1] in self.tokenizer.ends:
                break
        return Trace(np.asarray(tokens, dtype=np.int64), np.asarray(seconds))

    # --- answers ------------------------------------------------------------

    def likelihoods(self, asked: Sequence[Choices], progress: Progress) -> list[FloatArray]:
        """Return the log-probability of each choice; see `interfaces.Answering`."""
        return gguf_answers.likelihoods(self.native, asked, progress)

    def complete(self, prompts: Sequence[Prompt], decoding: Decoding, progress: Progress) -> list[Completion]:
        """Return the answer to each prompt; see `interfaces.Answering`."""
        return gguf_answers.completions(self.native, self.tokenizer, prompts, decoding, progress)

    def remarks(self) -> Sequence[str]:
        """Return what a reader must know of the types that the file really has."""
        return gguf_modules.remarks(Path(self.spec.path))

    # --- what it is, and the end ------------------------------------------------------------

    def findings(self) -> Mapping[str, Json]:
        """Return the quantized modules, the dense ones, and the tensors that are not finite.

        A quantized key-value cache is a module of its own, "kv_cache".
        """
        found = gguf_modules.findings(Path(self.spec.path))
        cache = str(dict(self.spec.options).get("kv_cache", "f16"))
        return {
            **found,
            "quantized": {
                **found["quantized"],
                **({"kv_cache": CACHE_BITS[cache]} if cache in CACHE_BITS else {}),
            },
        }

    def memory(self) -> Mapping[str, float]:
        """Return the peak of this process since loading began: "ram"; nothing on a GPU, which it does not tell."""
        return {"ram": self._memory.read()} if self.spec.device == "cpu" else {}

    def close(self) -> None:
        """Free the model and its memory; closing twice is harmless."""
        self.native.close()
