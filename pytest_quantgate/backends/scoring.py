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
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from pytest_quantgate.backends.modules import text_config
from pytest_quantgate.errors import NotMeasurableError, ObservationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Head", "Rows", "read_rows"]

CHUNK_BYTES = 96 * 2**20  # float32 logits of one chunk
RESCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling")  # these take copies of a chunk
PART_BYTES = {"cpu": 2**19, "cuda": 2**25}  # of a CPU: per thread, to stay in its core's cache
TOP_ROWS = 256  # positions whose largest logits are looked for at once: bounds the memory that takes
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
    """Gives a causal language model's logits at some positions without ever holding those of all.

    Args:
        model: the causal language model.
        vocab_size: number of logits.
        states: another way through the decoder: ids (B, T) -> its last states (B, T, width).

    """

    def __init__(self, model: Any, vocab_size: int, states: Callable[[Tensor], Tensor] | None = None) -> None:
        self._model = model
        self._decoder = model.get_decoder()
        self._states = states
        self._name = next((n for n, child in model.named_children() if child is self._decoder), "")
        config = text_config(model.config)
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
            self._refuse_other_states()
            yield from self._plain(ids, positions)
            return
        hidden = self._read(ids)
        for part in torch.split(hidden.flatten(0, 1)[positions], self._chunk):
            yield self._replayed(part)

    def _read(self, ids: Tensor) -> Tensor:
        if self._states is not None:
            return self._states(ids)
        hidden: Tensor = self._decoder(input_ids=ids, use_cache=False).last_hidden_state
        return hidden

    def _refuse_other_states(self) -> None:
        if self._states is not None:
            raise NotMeasurableError(
                "kv_cache: this architecture's head cannot run alone, so its windows cannot be fed in chunks"
            )

    def after(self, hidden: Tensor, places: Sequence[int]) -> Iterator[Tensor]:
        """Yield chunks (P, vocabulary) of the logits at `places` of the decoder's own states (N, width)."""
        chosen = hidden[torch.as_tensor(places, device=hidden.device)]
        for part in torch.split(chosen, self._chunk):
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
    """Read one chunk of logits (P, vocabulary), which stays as it is.

    `targets` (P,) are the tokens that are there; log-probabilities are read at `asked` (P, K), or at the
    `top_k` of each row.

    Raises:
        ObservationError: a logit is NaN or infinite.

    """
    swept = _sweep(logits)
    if not bool(torch.isfinite(swept.floor - swept.log_total).all()):
        raise ObservationError("the logits are not finite: look for NaN weights or a dtype that overflows")
    top1 = _largest(logits, swept.blocks, 1)[:, 0]
    if asked is None:
        parts = zip(torch.split(logits, TOP_ROWS), torch.split(swept.blocks, TOP_ROWS), strict=True)
        asked = torch.cat([_largest(rows, blocks, top_k) for rows, blocks in parts])
    at, there = (swept.normalized(logits.gather(1, ids)) for ids in (asked, targets[:, None]))
    return Rows(there[:, 0], top1, asked, at, swept.normalized(swept.floor)[:, 0])


class _Swept(NamedTuple):
    """What takes a look at every logit, in float32."""

    blocks: Tensor  # (P, N) the maximum of every block of 64 columns; a shorter last one counts
    top: Tensor  # (P, 1) the maximum
    floor: Tensor  # (P, 1) the minimum
    log_total: Tensor  # (P, 1) log Σ exp(logit - top)

    def normalized(self, logits: Tensor) -> Tensor:
        """Return log-probabilities (P, K): less the maximum first, since near zero float32 is at its finest."""
        return logits.float() - self.top - self.log_total


def _sweep(logits: Tensor) -> _Swept:
    """Go over the logits once, a few rows at a time, so that a CPU's caches hold them while they are read.

    Every thread gets rows of its own: a row that is split between threads travels between their caches.
    """
    count, width = logits.shape
    threads = torch.get_num_threads() if logits.device.type == "cpu" else 1
    size = threads * max(1, PART_BYTES.get(logits.device.type, 2**25) // (4 * width))
    blank = partial(torch.empty, device=logits.device, dtype=torch.float32)
    swept = _Swept(blank(count, -(-width // BLOCK)), blank(count, 1), blank(count, 1), blank(count, 1))
    space = blank(min(size, count), width)
    for begin in range(0, count, size):
        here = slice(begin, begin + size)
        rows = logits[here].float()
        _block_maxima(rows, swept.blocks[here])
        torch.amax(swept.blocks[here], -1, keepdim=True, out=swept.top[here])
        torch.amin(rows, -1, keepdim=True, out=swept.floor[here])
        torch.sub(rows, swept.top[here], out=space[: len(rows)]).exp_()
        torch.sum(space[: len(rows)], -1, keepdim=True, out=swept.log_total[here])
    swept.log_total.log_()
    return swept


def _block_maxima(rows: Tensor, out: Tensor) -> None:
    whole = rows.shape[1] // BLOCK
    torch.amax(rows[:, : whole * BLOCK].view(len(rows), whole, BLOCK), -1, out=out[:, :whole])
    if whole < out.shape[1]:
        torch.amax(rows[:, whole * BLOCK :], -1, keepdim=True, out=out[:, whole:])


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
