"""Many prompts continued at once: the shared beginning once, finished rows dropped, a stop condition for each row.

Prompts that begin alike continue from one cache of that beginning. What is left of them is padded behind the shared
part, and the padding is masked, whatever side the tokenizer pads. A model with sliding attention counts places in its
cache, so there rows of one length go together instead; one that keeps more than keys and values answers one by one.
With a quantized cache rows of one length go together and share nothing: padding would get into its groups.
Random numbers come from a stream of each prompt's own, so an answer does not depend on the batch it was made in.

Whether a padded row has the logits of a plain pass is checked once, on the shortest beside the longest; a model with
which it has not gets rows of one length together, and `remarks` says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from pytest_quantgate.backends import caches
from pytest_quantgate.backends.batches import Budget
from pytest_quantgate.backends.likelihoods import LOOSE, TOLERANCE
from pytest_quantgate.backends.prefixes import Group, groups
from pytest_quantgate.backends.sampling import chosen, drawn_for
from pytest_quantgate.interfaces import Completion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pytest_quantgate.interfaces import Decoding, Progress, Prompt
    from pytest_quantgate.spec import IntArray

__all__ = ["Decoder"]

ROWS_AT_ONCE = 256
CACHE_BYTES = 2**30  # of a CPU
GPU_SHARE = 0.5  # of the free memory
LEAST_SHARED = 64  # ids
LEAST_ROWS = 16
DROP_AT = 0.75  # of a batch's rows: finished ones are dropped when fewer than this share are left

Layout: TypeAlias = Literal["padded", "equal", "apart", "single"]


@dataclass(slots=True, eq=False)
class _Row:
    """A prompt and its answer so far."""

    ids: IntArray
    random: NDArray[np.float64]
    tokens: list[int] = field(default_factory=list)
    answer: Completion | None = None


class _State(NamedTuple):
    """A batch between two tokens."""

    logits: Tensor  # (B, vocabulary)
    cache: Any
    mask: Tensor  # (B, T): 0 for padding
    position: Tensor  # (B, 1) of the last token


class Decoder:
    """Continues prompts.

    Args:
        model: the causal language model.
        tokenizer: its tokenizer.
        ends: the tokens that end an answer.
        device: where.
        last_only: arguments with which the model makes the last logits alone.
        quantized: makes an empty cache that is not the model's own kind; None for that.

    Attributes:
        remarks: what a reader must know.

    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        ends: frozenset[int],
        device: torch.device,
        *,
        last_only: dict[str, int],
        quantized: Callable[[], Any] | None = None,
    ) -> None:
        self._model, self._tokenizer, self._ends = model, tokenizer, ends
        self._device, self._last_only = device, last_only
        self._ending = ends
        self._quantized = quantized
        self._layout: Layout | None = None
        self._budget: Budget | None = None
        self._token_bytes = 1
        self.remarks: list[str] = []

    def complete(self, prompts: Sequence[Prompt], decoding: Decoding, progress: Progress) -> list[Completion]:
        """Return the answer to each prompt, in order."""
        self._ending = self._ends | self._special(decoding.stops)
        rows = [_Row(one.ids, drawn_for(one, decoding)) for one in prompts]
        done = 0
        for part in self._answered(rows, decoding):
            done += len(part)
            progress(done, len(rows))
        answers = [row.answer for row in rows]
        assert all(answers)
        return [answer for answer in answers if answer is not None]

    def _special(self, stops: Sequence[str]) -> set[int]:
        """Return the special tokens among the stops: a text shows none of them."""
        found = {self._tokenizer.convert_tokens_to_ids(stop) for stop in stops}
        return found & set(self._tokenizer.all_special_ids)

    # --- what goes together

    def _answered(self, rows: Sequence[_Row], decoding: Decoding) -> Iterator[Sequence[_Row]]:
        """Answer rows; yield each batch that is done."""
        if not rows:
            return
        longest = sorted(rows, key=lambda row: -len(row.ids))
        layout = self._layout or self._look_at(longest)
        budget = self._budget = self._budget or Budget(self._room(), ROWS_AT_ONCE)
        parts = [_alone(longest)] if layout in ("single", "apart") else _groups(longest)
        for length, members in parts:
            chosen = [longest[index] for index in sorted(members)]
            shared = self._start(chosen[0].ids[:length]) if length else None
            for batch in _together(chosen, layout):

                def work(some: Sequence[_Row], shared: Any = shared, length: int = length) -> None:
                    self._answer(some, shared, length, decoding)

                def cost(some: Sequence[_Row]) -> int:
                    return len(some) * (len(some[0].ids) + decoding.new_tokens) * self._token_bytes

                yield from (some for some, _ in budget.over(batch, cost, work))

    def _look_at(self, rows: Sequence[_Row]) -> Layout:
        """Return how this model's rows can go together."""
        state = self._prefill([rows[-1]], None, 0)
        held = state.cache
        if self._quantized is not None:
            self._token_bytes = caches.size_of(held)
            self._layout = "apart"
            return self._layout
        if not caches.is_plain(held):
            self.remarks.append("prompts are continued one by one: the model keeps more than keys and values")
            self._layout = "single"
            return self._layout
        self._token_bytes = caches.size_of(held)
        self._layout = "equal" if caches.is_sliding(held) else "padded"
        if self._layout == "padded" and len(rows) > 1:
            mixed = self._prefill([rows[0], rows[-1]], None, 0).logits[-1]
            off = float((mixed.log_softmax(-1) - state.logits[0].log_softmax(-1)).abs().max())
            if not off <= TOLERANCE.get(self._model.dtype, LOOSE):
                self.remarks.append(f"prompts are not padded: that changes a log-probability by {off:.2g}")
                self._layout = "equal"
        return self._layout

    def _room(self) -> int:
        """Return how many bytes of cache there may be."""
        if self._device.type != "cuda":
            return CACHE_BYTES
        return int(GPU_SHARE * torch.cuda.mem_get_info(self._device)[0])

    # --- one batch

    def _start(self, ids: IntArray) -> Any:
        """Return the cache of a shared beginning."""
        cache = caches.empty(self._model.config)
        fed = torch.from_numpy(ids)[None].to(self._device)
        self._model(input_ids=fed, past_key_values=cache, use_cache=True, **self._last_only)
        return cache

    def _prefill(self, rows: Sequence[_Row], shared: Any, length: int) -> _State:
        """Run the prompts behind a shared beginning of `length` ids, padded on the left of what is their own."""
        widest = max(len(row.ids) for row in rows) - length
        ids = torch.zeros(len(rows), widest, dtype=torch.long)
        mask = torch.ones(len(rows), length + widest, dtype=torch.long)
        for number, row in enumerate(rows):
            empty = widest - (len(row.ids) - length)
            ids[number, empty:] = torch.from_numpy(row.ids[length:])
            mask[number, length : length + empty] = 0
        positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, length:]
        ids, mask, positions = (part.to(self._device) for part in (ids, mask, positions))
        cache = self._empty() if shared is None else caches.lent(shared, len(rows))
        return self._step(ids, mask, positions, cache)

    def _empty(self) -> Any:
        return caches.empty(self._model.config) if self._quantized is None else self._quantized()

    def _step(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> _State:
        made = self._model(
            input_ids=ids,
            attention_mask=None if bool(mask.all()) else mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **self._last_only,
        )
        return _State(made.logits[:, -1].float(), cache, mask, positions[:, -1:])

    def _answer(self, rows: Sequence[_Row], shared: Any, length: int, decoding: Decoding) -> None:
        """Continue a batch until every row has its answer."""
        live = list(rows)
        for row in live:
            row.tokens, row.answer = [], None
        state = self._prefill(live, shared, length)
        caches.roomy(state.cache, decoding.new_tokens)
        while True:
            tokens = chosen(state.logits, _drawn(live) if decoding.temperature else (), decoding)
            for row, token in zip(live, tokens.tolist(), strict=True):
                if row.answer is None:
                    row.tokens.append(token)
            self._finish(live, decoding)
            going = [number for number, row in enumerate(live) if row.answer is None]
            if not going:
                return
            if len(going) < DROP_AT * len(live):
                kept = torch.tensor(going, device=self._device)
                caches.select(state.cache, kept)
                live, tokens = [live[number] for number in going], tokens[kept]
                state = state._replace(mask=state.mask[kept], position=state.position[kept])
            mask = torch.cat([state.mask, state.mask.new_ones(len(live), 1)], dim=-1)
            state = self._step(tokens[:, None], mask, state.position + 1, state.cache)

    def _finish(self, live: Sequence[_Row], decoding: Decoding) -> None:
        """Give those rows their answer that have come to an end."""
        going = [row for row in live if row.answer is None]
        hit = self._stopped(going, decoding.stops)
        for row in going:
            if row.tokens[-1] in self._ending:
                row.answer = self._completion(row, decoding, "end")
            elif row in hit:
                text = self._text(row.tokens)
                if any(stop in text for stop in decoding.stops):
                    row.answer = self._completion(row, decoding, "stop")
            if row.answer is None and len(row.tokens) >= decoding.new_tokens:
                row.answer = self._completion(row, decoding, "length")

    def _stopped(self, rows: Sequence[_Row], stops: Sequence[str]) -> list[_Row]:
        """Return the rows whose last tokens spell a stop; the whole text is made for these alone."""
        if not stops:
            return []
        span = max(len(stop.encode()) for stop in stops) + 2  # a token is a byte at least
        ends = self._tokenizer.batch_decode([row.tokens[-span:] for row in rows])
        return [row for row, text in zip(rows, ends, strict=True) if any(stop in text for stop in stops)]

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _completion(
        self, row: _Row, decoding: Decoding, ended: Literal["stop", "end", "length"]
    ) -> Completion:
        text = self._text(row.tokens)
        cuts = [text.index(stop) for stop in decoding.stops if stop in text]
        return Completion(text[: min(cuts)] if cuts else text, len(row.tokens), ended)


def _alone(rows: Sequence[_Row]) -> Group:
    return Group(0, tuple(range(len(rows))))


def _groups(rows: Sequence[_Row]) -> list[Group]:
    """Return the rows that begin alike, where that is worth a loop of their own: each token costs a pass per group.

    Where all rows begin alike there is one loop whatever is shared.
    """
    found = groups([row.ids for row in rows], [len(row.ids) - 1 for row in rows], LEAST_SHARED)
    least = min(LEAST_ROWS, len(rows))
    large = [group for group in found if group.length and len(group.members) >= least]
    rest = tuple(index for group in found if group not in large for index in group.members)
    return [*large, *([Group(0, rest)] if rest else [])]


def _together(rows: Sequence[_Row], layout: Layout) -> Iterator[list[_Row]]:
    """Yield the rows that may form a batch."""
    keys = {"padded": lambda _: 0, "single": id}
    for _, part in groupby(rows, key=keys.get(layout, lambda row: len(row.ids))):
        yield list(part)


def _drawn(live: Sequence[_Row]) -> list[float]:
    """Return each row's next random number; a row that is done takes none."""
    return [float(row.random[len(row.tokens)]) if row.answer is None else 0.0 for row in live]
