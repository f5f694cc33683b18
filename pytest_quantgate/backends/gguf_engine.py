"""llama.cpp through llama-cpp-python's low-level functions: a model, a context as long as needed, logits anywhere.

The `Llama` class keeps the logits of its whole context in memory, has a context of one length, and destroys itself with
errors when the interpreter ends. Here a context grows with what is asked for, and logits are read batch by batch from
where llama.cpp keeps them.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import llama_cpp
import numpy as np

from pytest_quantgate.errors import CheckpointError, ObservationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from pytest_quantgate.spec import IntArray

__all__ = ["CACHE_BITS", "CACHE_TYPES", "Engine", "Settings"]

LOGIT_BYTES: Final = 96 * 2**20
"""Of one batch: llama.cpp keeps the logits of all its positions."""

BATCH: Final = 512
STEP: Final = 256  # what llama.cpp rounds contexts to
SHORTEST: Final = 512
KEPT_LINES: Final = 8
WARNING, ERROR = 3, 4  # enum ggml_log_level of ggml.h
CACHE_TYPES: Final = {
    "f32": llama_cpp.GGML_TYPE_F32,
    "f16": llama_cpp.GGML_TYPE_F16,
    "bf16": 30,
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "q5_1": llama_cpp.GGML_TYPE_Q5_1,
    "q5_0": llama_cpp.GGML_TYPE_Q5_0,
    "q4_1": llama_cpp.GGML_TYPE_Q4_1,
    "q4_0": llama_cpp.GGML_TYPE_Q4_0,
    "iq4_nl": llama_cpp.GGML_TYPE_IQ4_NL,
    "int8": llama_cpp.GGML_TYPE_Q8_0,
    "int4": llama_cpp.GGML_TYPE_Q4_0,
}
"""Types of the key-value cache; int8 and int4 are the names that the transformers backend has for like types."""

CACHE_BITS: Final = {"q8_0": 8, "q5_1": 5, "q5_0": 5, "q4_1": 4, "q4_0": 4, "iq4_nl": 4, "int8": 8, "int4": 4}
"""Of the quantized ones among them."""

_said: deque[tuple[int, str]] = deque(maxlen=KEPT_LINES)


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _listen(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    """Keep what llama.cpp would print, for the message of an error."""
    line = text.decode(errors="replace").strip()
    if level in (WARNING, ERROR) and line:
        _said.append((level, line))


llama_cpp.llama_backend_init()


def _explanation() -> str:
    errors = [line for level, line in _said if level == ERROR]
    return " | ".join(errors or [line for _, line in _said]) or "llama.cpp gives no reason"


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is run.

    Attributes:
        threads: of the CPU.
        batch: tokens that are fed at once; 0 for what the size of the vocabulary suggests.
        cache: type of the keys' and values' cache.
        flash: use llama.cpp's flash attention; a quantized cache needs it.
        gpu: number of the GPU that holds all layers; None for the CPU.

    """

    threads: int = 1
    batch: int = 0
    cache: str = "f16"
    flash: bool = False
    gpu: int | None = None


class Engine:
    """A loaded GGUF file.

    Args:
        path: the file, or the first part of it.
        settings: how it is run.

    Attributes:
        vocab: llama.cpp's own vocabulary.
        vocab_size: number of logits.
        trained: longest context that the model was made for.

    Raises:
        CheckpointError: llama.cpp cannot load it.

    """

    def __init__(self, path: Path, settings: Settings) -> None:
        llama_cpp.llama_log_set(_listen, ctypes.c_void_p(0))  # others may have set theirs
        self._settings = settings
        self._context: Any = None
        self._batch: Any = None
        self._held: IntArray = np.empty(0, dtype=np.int64)
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0 if settings.gpu is None else -1
        parameters.main_gpu = settings.gpu or 0
        parameters.split_mode = llama_cpp.LLAMA_SPLIT_MODE_NONE
        _said.clear()
        self._model: Any = llama_cpp.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self._model:
            raise CheckpointError(
                f"{path}: llama.cpp {llama_cpp.__version__} cannot load it ({_explanation()[:300]});"
                " update llama-cpp-python, or convert the model anew"
            )
        self.vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.vocab_size = int(llama_cpp.llama_vocab_n_tokens(self.vocab))
        self.trained = int(llama_cpp.llama_model_n_ctx_train(self._model))
        self._size = settings.batch or max(
            32, min(BATCH, LOGIT_BYTES // (4 * max(1, self.vocab_size)) // 32 * 32)
        )

    def logits(self, ids: IntArray, first: int, *, reuse: bool = False) -> Iterator[NDArray[np.float32]]:
        """Yield the logits (P, vocabulary) of the positions from `first` on, batch by batch, in order.

        An array is valid until the next one is asked for.

        Args:
            ids: (T,) the tokens.
            first: index of the first position whose logits are wanted.
            reuse: leave out what the last call had in common with `ids`, up to `first`: sums in another order.

        Raises:
            ObservationError: an id that the vocabulary has not, or llama.cpp cannot compute.

        """
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            raise ObservationError(
                f"the id {int(ids.max())} is not in the model's vocabulary of {self.vocab_size}:"
                " it is another tokenizer's"
            )
        self.reserve(len(ids))
        begin = self._rewind(ids, first) if reuse else self._rewind(ids, 0)
        for at in range(begin, len(ids), self._size):
            part = ids[at : at + self._size]
            wanted = max(0, len(part) - max(0, first - at))
            self._feed(part, at, wanted)
            if wanted:
                pointer = llama_cpp.llama_get_logits(self._context)
                yield np.ctypeslib.as_array(pointer, shape=(wanted, self.vocab_size))

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens; growing forgets what was fed.

        Raises:
            ObservationError: llama.cpp cannot make such a context.

        """
        if self._context and length <= llama_cpp.llama_n_ctx(self._context):
            return
        self._free_context()
        settings = self._settings
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_ctx = max(SHORTEST, -(-length // STEP) * STEP)
        wanted.n_batch = wanted.n_ubatch = self._size
        wanted.n_threads = wanted.n_threads_batch = settings.threads
        wanted.type_k = wanted.type_v = CACHE_TYPES[settings.cache]
        wanted.flash_attn_type = int(settings.flash)
        wanted.offload_kqv = settings.gpu is not None
        wanted.swa_full = True  # a window that slides forgets what is used again
        _said.clear()
        self._context = llama_cpp.llama_init_from_model(self._model, wanted)
        if not self._context:
            raise ObservationError(
                f"llama.cpp cannot make a context of {wanted.n_ctx} tokens with a cache of {settings.cache}:"
                f" {_explanation()[:300]}"
            )
        self._batch = llama_cpp.llama_batch_init(self._size, 0, 1)
        for index in range(self._size):
            self._batch.n_seq_id[index] = 1
            self._batch.seq_id[index][0] = 0

    def _rewind(self, ids: IntArray, most: int) -> int:
        """Forget what is held beyond the beginning that it shares with `ids`; return that beginning's length."""
        memory = llama_cpp.llama_get_memory(self._context)
        size = min(len(self._held), len(ids), most)
        differs = np.flatnonzero(self._held[:size] != ids[:size])
        shared = int(differs[0]) if len(differs) else size
        if shared and llama_cpp.llama_memory_seq_rm(memory, 0, shared, -1):
            self._held = self._held[:shared]
            return shared
        llama_cpp.llama_memory_clear(memory, False)
        self._held = self._held[:0]
        return 0

    def _feed(self, part: IntArray, at: int, wanted: int) -> None:
        batch, count = self._batch, len(part)
        batch.n_tokens = count
        for target, values in (
            (batch.token, part),
            (batch.pos, np.arange(at, at + count)),
            (batch.logits, np.arange(count) >= count - wanted),
        ):
            np.ctypeslib.as_array(target, shape=(count,))[:] = values
        _said.clear()
        code = llama_cpp.llama_decode(self._context, batch)
        if code:
            self._held = self._held[:0]
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
            raise ObservationError(f"llama.cpp cannot compute (code {code}): {_explanation()[:300]}")
        self._held = np.concatenate([self._held[:at], part])

    def _free_context(self) -> None:
        self._held = self._held[:0]
        if self._batch is not None:
            llama_cpp.llama_batch_free(self._batch)
            self._batch = None
        if self._context:
            llama_cpp.llama_free(self._context)
            self._context = None

    def close(self) -> None:
        """Free the model and its memory; closing twice is harmless."""
        self._free_context()
        if self._model:
            llama_cpp.llama_model_free(self._model)
            self._model = self.vocab = None
