"""Checkpoints that transformers can load, scored and run in this process.

Scores are teacher-forced: windows of equal length go through the decoder together, and logits exist a few
positions at a time (see `scoring`). Generation is greedy, one sequence, with the key-value cache that
`generate` would use, in a loop of our own, since a time stamp per token is wanted.
"""

from __future__ import annotations

import gc
import time
from contextlib import ExitStack, contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jinja2 import TemplateError
from torch import Tensor

from pytest_quantgate.backends.batches import Budget
from pytest_quantgate.backends.chunks import Chunks
from pytest_quantgate.backends.damage import apply_damage
from pytest_quantgate.backends.decoding import Decoder
from pytest_quantgate.backends.kv_cache import asked as asked_cache
from pytest_quantgate.backends.likelihoods import Likelihoods
from pytest_quantgate.backends.loading import load_model, load_tokenizer, prepare, quiet
from pytest_quantgate.backends.memory import PeakMemory
from pytest_quantgate.backends.modules import (
    dense_linears,
    nonfinite_tensors,
    quantized_modules,
    text_config,
    weight_bytes,
)
from pytest_quantgate.backends.restoring import apply_restoration
from pytest_quantgate.backends.scoring import Head, Rows, read_rows
from pytest_quantgate.backends.templates import one_day
from pytest_quantgate.errors import NotMeasurableError, ObservationError
from pytest_quantgate.interfaces import TokenScores, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_quantgate.interfaces import Choices, Completion, Decoding, Progress, Prompt, Window
    from pytest_quantgate.spec import FloatArray, IntArray, Json, ModelSpec

__all__ = ["TransformersModel", "load"]

TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 8192}
NO_LIMIT = 2**31


def load(spec: ModelSpec, *, allow_code: bool = False, allow_pickle: bool = False) -> TransformersModel:
    """Load the checkpoint at `spec.path` in `spec.dtype` on `spec.device`; nothing is downloaded.

    Args: spec: which weights, and how; its options may set `attention` (sdpa, eager …), `kernel` (of
        GPTQModel), `tokens_at_once` (what is fed in one batch), `repeat` (nothing but an identity of its own:
        the same again), and those of `kv_cache`. allow_code: let the checkpoint's own Python code run.
        allow_pickle: accept weights that are not safetensors.

    Raises:
        CheckpointError: it is damaged, incomplete or refused.
        MissingExtraError: it needs a library that is not installed.
        NotMeasurableError: the device is not there.
        ObservationError: it does not compute in `spec.dtype`.

    """
    device = torch.device(spec.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise NotMeasurableError(f"{spec.name}: no CUDA device here for device = {spec.device!r}")
    arguments = prepare(spec)
    memory = PeakMemory(device)
    began = time.perf_counter()
    model = load_model(spec, arguments, allow_code=allow_code, allow_pickle=allow_pickle)
    _wait_for(device)
    seconds = time.perf_counter() - began
    tokenizer = load_tokenizer(spec, allow_code=allow_code)
    loaded = TransformersModel(spec, model, tokenizer, memory, seconds)
    apply_damage(loaded)
    apply_restoration(loaded)
    return loaded


class TransformersModel:
    """A loaded model; see `interfaces.Model` for the contract of its methods."""

    def __init__(
        self, spec: ModelSpec, model: Any, tokenizer: Any, memory: PeakMemory, load_seconds: float
    ) -> None:
        text = text_config(model.config)
        self.spec = spec
        self.load_seconds = load_seconds
        self.vocab_size = int(model.get_output_embeddings().out_features)
        self.max_length = int(getattr(text, "max_position_embeddings", 0) or NO_LIMIT)
        self.native, self.tokenizer, self._memory = model, tokenizer, memory
        self._device = memory.device
        kv_cache = asked_cache(spec)
        self._chunks = None if kv_cache is None else Chunks(model, kv_cache)
        self._head = Head(model, self.vocab_size, self._chunks.states if self._chunks else None)
        self._budget = Budget(
            int(dict(spec.options).get("tokens_at_once", TOKENS_AT_ONCE[self._device.type]))
        )
        self._likelihoods = Likelihoods(model, self._head, self._budget, self._device)
        empty = self._chunks.empty if self._chunks else None
        self._decoder = Decoder(
            model, tokenizer, self._end_ids(), self._device, last_only=self._last_only, quantized=empty
        )
        self.bos_id = self._find_bos()

    def _find_bos(self) -> int | None:
        ids = self.tokenizer("a")["input_ids"]
        return int(ids[0]) if ids and ids[0] == self.tokenizer.bos_token_id else None

    # --- text and ids ------------------------------------------------------------

    def encode(self, text: str) -> IntArray:
        """Return the ids of a text (N,), without special tokens added."""
        with quiet():
            return np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> IntArray:
        """Return the ids of a conversation (N,), ready for the assistant's turn."""
        if not self.tokenizer.chat_template:
            raise ObservationError(f"{self.spec.name}: its tokenizer has no chat template; use plain prompts")
        listed = [dict(message) for message in messages]
        try:
            with one_day():
                ids = self.tokenizer.apply_chat_template(
                    listed, add_generation_prompt=True, return_dict=False
                )
        except TemplateError as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise ObservationError(
                f"{self.spec.name}: its chat template refuses the conversation: {said}"
            ) from error
        return np.asarray(ids, dtype=np.int64)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        return str(self.tokenizer.decode([int(i) for i in ids]))

    # --- scoring ------------------------------------------------------------

    def score(
        self, windows: Sequence[Window], *, top_k: int = 0, at: Sequence[IntArray] | None = None
    ) -> Iterator[TokenScores]:
        """Yield one `TokenScores` per window, in order; see `interfaces.Model.score`."""
        if self._chunks is not None and (top_k or at is not None):
            self._chunks.refuse_short(windows)
        indexed = list(enumerate(windows))
        for _, group in groupby(indexed, key=lambda item: len(item[1].ids)):

            def work(batch: Sequence[tuple[int, Window]]) -> list[TokenScores]:
                asked = None if at is None else [at[index] for index, _ in batch]
                with self._running():
                    return self._score_batch([w for _, w in batch], min(top_k, self.vocab_size), asked)

            for _, scores in self._budget.over(list(group), _tokens_of, work):
                yield from scores

    def _score_batch(
        self, windows: list[Window], top_k: int, asked: list[IntArray] | None
    ) -> list[TokenScores]:
        length = len(windows[0].ids)
        ids = torch.from_numpy(np.stack([window.ids for window in windows])).to(self._device)  # (B, T)
        sizes = [length - window.start for window in windows]
        spans = [(row * length + w.start, (row + 1) * length) for row, w in enumerate(windows)]
        places = torch.cat(
            [torch.arange(*span, device=self._device) for span in spans]
        )  # of the scored tokens
        wanted = None if asked is None else torch.from_numpy(np.concatenate(asked)).to(self._device)
        parts, done = [], 0
        for logits in self._head.logits(ids, places - 1):
            here = slice(done, done + len(logits))
            rows = read_rows(
                logits, ids.flatten()[places[here]], top_k, None if wanted is None else wanted[here]
            )
            parts.append(Rows(*(column.cpu() for column in rows)))
            done += len(logits)
        columns = [torch.split(torch.cat(column), sizes) for column in zip(*parts, strict=True)]
        return [_to_scores(*window) for window in zip(*columns, strict=True)]

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Run without gradients, and on a CPU without the compiler, which takes longer than what it saves.

        GPTQModel compiles the dequantization of every layer: 10 seconds for a model of 4 layers.
        """
        parameters = self.native.parameters()
        quanto = any("quanto" in type(p).__module__ for p in parameters)  # int2 fails in inference mode
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad() if quanto else torch.inference_mode())
            if self._device.type == "cpu":
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield

    # --- generation ------------------------------------------------------------

    def generate(self, ids: Sequence[int], new_tokens: int, *, stop_at_end: bool = False) -> Trace:
        """Continue `ids` greedily by up to `new_tokens`; with `stop_at_end`, the end token is the last."""
        ends = self._end_ids() if stop_at_end else frozenset()
        fed = torch.tensor([[int(i) for i in ids]], device=self._device)
        cache, tokens, seconds = self._chunks and self._chunks.empty(), list[int](), list[float]()
        _wait_for(self._device)
        began = time.perf_counter()
        with self._running():
            while len(tokens) < new_tokens:
                step = self.native(input_ids=fed, past_key_values=cache, use_cache=True, **self._last_only)
                cache, fed = step.past_key_values, step.logits[:, -1:].argmax(-1)
                tokens.append(int(fed))  # waits for the device
                seconds.append(time.perf_counter() - began)
                if tokens[-1] in ends:
                    break
        return Trace(np.asarray(tokens, dtype=np.int64), np.asarray(seconds))

    # --- answers ------------------------------------------------------------

    def likelihoods(self, asked: Sequence[Choices], progress: Progress) -> list[FloatArray]:
        """Return the log-probability of each choice; see `interfaces.Answering`."""
        if self._chunks is not None:
            return self._chunks.likelihoods(self.score, asked, progress)
        with self._running():
            return self._likelihoods.of(asked, progress)

    def complete(self, prompts: Sequence[Prompt], decoding: Decoding, progress: Progress) -> list[Completion]:
        """Return the answer to each prompt; see `interfaces.Answering`."""
        with self._running():
            return self._decoder.complete(prompts, decoding, progress)

    def remarks(self) -> Sequence[str]:
        """Return what could not be shared or batched, and why."""
        own = self._chunks.remarks() if self._chunks else ()
        return (*own, *self._likelihoods.remarks, *self._decoder.remarks)

    @property
    def _last_only(self) -> dict[str, int]:
        return {"logits_to_keep": 1} if self._head.slices else {}

    def _end_ids(self) -> frozenset[int]:
        settings = getattr(self.native, "generation_config", None)
        found = getattr(settings, "eos_token_id", None)
        found = self.tokenizer.eos_token_id if found is None else found
        return frozenset(found if isinstance(found, list | tuple) else [] if found is None else [int(found)])

    # --- what it is, and the end ------------------------------------------------------------

    def findings(self) -> Mapping[str, Json]:
        """Return the quantized modules, the linear ones left alone, and the tensors that are not finite."""
        return {
            "quantized": quantized_modules(self.native) | (self._chunks.bits() if self._chunks else {}),
            "dense": dense_linears(self.native),
            "nonfinite": nonfinite_tensors(self.native),
            "weight_bytes": weight_bytes(self.native),
        }

    def memory(self) -> Mapping[str, float]:
        """Return peak bytes since loading began; see `interfaces.Model.memory`."""
        return self._memory.read()

    def close(self) -> None:
        """Free the model and its memory; closing twice is harmless."""
        self.native = None
        self._head = self._likelihoods = self._decoder = self._chunks = None  # type: ignore[assignment]
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _tokens_of(batch: Sequence[tuple[int, Window]]) -> int:
    return len(batch) * len(batch[0][1].ids)


def _to_scores(logprob: Tensor, top1: Tensor, ids: Tensor, at: Tensor, floor: Tensor) -> TokenScores:
    return TokenScores(logprob.numpy(), top1.numpy(), ids.numpy(), at.numpy(), floor.numpy())


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
