"""Logits for chosen positions, a few at a time, from one pass of the decoder.

A vocabulary of 151,936 entries and a window of 2,048 tokens make 1.2 GB of float32 logits, and log-softmax
doubles it. So the decoder runs once, and the rest of the model's own `forward` (head, soft-capping, logit
scaling: whatever the architecture does) runs on chunks of its hidden states: while a chunk is computed, a
module that returns it stands in for the decoder. Whether that gives the same numbers as the plain call is
checked on the first window; a model with which it does not is run the plain way.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from pytest_quantgate.errors import ObservationError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Head", "Rows", "read_rows"]

CHUNK_BYTES = 160 * 2**20  # float32 logits of one chunk
RESCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling")  # these take copies of a chunk
CACHE_BYTES = 2 * 2**20
PROBE_TOKENS = 32
BLOCK = 64  # columns


class Rows(NamedTuple):
    """What is read off the logits of N positions; log-probabilities in float32."""

    logprob: Tensor  # (N,)
    top1: Tensor  # (N,)
    ids: Tensor  # (N, K)
    at: Tensor  # (N, K)
    floor: Tensor  # (N,)


class _Replay(nn.Module):
    """Stands in for the decoder and returns hidden states that are already there."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.empty(0)

    def forward(self, *_arguments: object, **_options: object) -> BaseModelOutputWithPastAndCrossAttentions:
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.hidden)


class Head:
    """Gives a causal language model's logits at some positions without ever holding those of all."""

    def __init__(self, model: Any, vocab_size: int) -> None:
        self._model = model
        self._decoder = model.get_decoder()
        self._name = next((n for n, child in model.named_children() if child is self._decoder), "")
        config = model.config.get_text_config()
        copies = 3 if any(getattr(config, name, None) for name in RESCALED) else 1
        self._chunk = max(1, CHUNK_BYTES // (4 * vocab_size * copies))
        self.slices = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._replays: bool | None = None if self._name else False

    @property
    def replays(self) -> bool | None:
        """Whether chunks of one decoder pass are used; None before the first call."""
        return self._replays

    def logits(self, ids: Tensor, positions: Tensor) -> Iterator[Tensor]:
        """Yield chunks (P, vocabulary) of the logits at `positions` (N,) in the flattened `ids` (B, T)."""
        if self._replays is None:
            self._replays = self._probe(ids[:1, :PROBE_TOKENS])
        if not self._replays:
            yield from self._plain(ids, positions)
            return
        hidden = self._decoder(input_ids=ids, use_cache=False).last_hidden_state
        for part in torch.split(hidden.flatten(0, 1)[positions], self._chunk):
            yield self._replayed(part)

    def _replayed(self, hidden: Tensor) -> Tensor:
        with self._standing_in(hidden[None]):
            blank = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
            logits: Tensor = self._model(input_ids=blank, use_cache=False).logits[0]
        return logits

    @contextmanager
    def _standing_in(self, hidden: Tensor) -> Iterator[None]:
        replay = _Replay()
        replay.hidden = hidden
        setattr(self._model, self._name, replay)
        try:
            yield
        finally:
            setattr(self._model, self._name, self._decoder)

    def _plain(self, ids: Tensor, positions: Tensor) -> Iterator[Tensor]:
        """Run the whole model for every chunk of every row: slow, and right for every architecture."""
        length = ids.shape[1]
        for row in range(len(ids)):
            inside = positions[(positions >= row * length) & (positions < (row + 1) * length)] - row * length
            for part in torch.split(inside, self._chunk):
                keep = {"logits_to_keep": part} if self.slices else {}
                logits = self._model(input_ids=ids[row : row + 1], use_cache=False, **keep).logits[0]
                yield logits if self.slices else logits[part]

    def _probe(self, ids: Tensor) -> bool:
        """Return whether a replayed chunk gives the logits of the plain call."""
        plain = self._model(input_ids=ids, use_cache=False).logits[0]
        try:
            replayed = self._replayed(self._decoder(input_ids=ids, use_cache=False).last_hidden_state[0])
        except (AttributeError, TypeError, IndexError):
            return False
        return replayed.shape == plain.shape and torch.allclose(
            replayed, plain, rtol=1e-3, atol=1e-3, equal_nan=True
        )


def read_rows(logits: Tensor, targets: Tensor, top_k: int, asked: Tensor | None) -> Rows:
    """Read one chunk of logits (P, vocabulary).

    `targets` (P,) are the tokens that are there; log-probabilities are read at `asked` (P, K), or at the
    `top_k` of each row. The logits may be overwritten: a copy would be one more chunk of memory.

    Raises:
        ObservationError: a logit is NaN or infinite.

    """
    # a few rows at a time stay in a CPU's cache through all that is read off them
    size = len(logits) if logits.is_cuda else max(1, CACHE_BYTES // (4 * logits.shape[1]))
    asked_parts = [None] * len(logits) if asked is None else torch.split(asked, size)
    parts = zip(torch.split(logits, size), torch.split(targets, size), asked_parts, strict=False)
    read = [_read(part, there, top_k, wanted) for part, there, wanted in parts]
    rows = Rows(*(torch.cat(column) for column in zip(*read, strict=True)))
    if not bool(torch.isfinite(rows.floor).all()):  # a NaN or an infinity reaches the least, the sum, or both
        raise ObservationError("the logits are not finite: look for NaN weights or a dtype that overflows")
    return rows


def _read(logits: Tensor, targets: Tensor, top_k: int, asked: Tensor | None) -> Rows:
    scores = logits.float()
    blocks = _block_maxima(scores)  # (P, N)
    scores.sub_(blocks.amax(-1, keepdim=True))  # near zero, float32 is at its finest
    top1 = _largest(scores, blocks, 1)[:, 0]
    if asked is None:
        asked = _largest(scores, blocks, top_k)
    at, there = scores.gather(1, asked), scores.gather(1, targets[:, None])[:, 0]
    floor = scores.amin(-1)
    total = scores.exp_().sum(-1).log_()  # overwrites: nothing is read after this
    return Rows(there - total, top1, asked, at - total[:, None], floor - total)


def _block_maxima(scores: Tensor) -> Tensor:
    """Return the maximum of every block of 64 columns (P, N); a shorter last block counts as one."""
    whole = scores.shape[1] // BLOCK * BLOCK
    maxima = scores[:, :whole].view(len(scores), -1, BLOCK).amax(-1)
    return maxima if whole == scores.shape[1] else torch.cat([maxima, scores[:, whole:].amax(-1, True)], 1)


def _largest(scores: Tensor, blocks: Tensor, count: int) -> Tensor:
    """Return the columns of the `count` largest scores of each row (P, K), largest first.

    They lie in the `count` blocks with the largest maxima: looking only there is several times faster on a
    CPU than `topk` on a whole vocabulary.
    """
    if count == 0 or count >= blocks.shape[1]:
        return scores.topk(count).indices
    chosen = blocks.topk(count).indices  # (P, K)
    columns = chosen[:, :, None] * BLOCK + torch.arange(BLOCK, device=scores.device)
    columns = columns.flatten(1)  # (P, K * 64)
    outside = columns >= scores.shape[1]
    found = scores.gather(1, columns.clamp_(max=scores.shape[1] - 1)).masked_fill_(outside, -torch.inf)
    return columns.gather(1, found.topk(count).indices)
