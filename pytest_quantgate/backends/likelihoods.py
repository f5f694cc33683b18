"""Log-probabilities of choices, with what the questions share computed once.

Questions of one subject begin with the same examples. Their ids are sorted, so that those that begin alike lie together
(`prefixes`); the shared beginning runs once, and the tails continue from its cache in batches of like length. Tails
are padded on the right, where causal attention never looks, whatever side the tokenizer pads. Logits are made for the
positions before the tokens of a choice alone.

Whether continuing from a cache gives the numbers of a plain pass is checked on one row of the first group; a model with
which it does not, or whose cache holds more than keys and values, answers without sharing, and `remarks` says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pytest_quantgate.backends import caches
from pytest_quantgate.backends.prefixes import groups
from pytest_quantgate.errors import ObservationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_quantgate.backends.batches import Budget
    from pytest_quantgate.backends.scoring import Head
    from pytest_quantgate.interfaces import Choices, Progress
    from pytest_quantgate.spec import FloatArray, IntArray

__all__ = ["Likelihoods"]

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
LOOSE = 0.25  # half precision: two orders of summation differ by that much


class _Wanted(NamedTuple):
    """The log-probability of `token` after `place`, which counts for a choice of a question."""

    place: int
    token: int
    question: int
    choice: int


@dataclass(slots=True)
class _Row:
    """Ids that go through the model, and what is read off."""

    ids: IntArray
    wanted: list[_Wanted] = field(default_factory=list)

    @property
    def first(self) -> int:
        """The first place whose logits are read."""
        return min(one.place for one in self.wanted)


class Likelihoods:
    """Answers questions by likelihood.

    Args:
        model: the causal language model.
        head: its logits at chosen places.
        budget: tokens that are fed at once.
        device: where.

    Attributes:
        remarks: what a reader must know.

    """

    def __init__(self, model: Any, head: Head, budget: Budget, device: torch.device) -> None:
        self._model, self._head, self._budget, self._device = model, head, budget, device
        self._decoder = model.get_decoder()
        self._shares: bool | None = None
        self.remarks: list[str] = []

    def of(self, asked: Sequence[Choices], progress: Progress) -> list[FloatArray]:
        """Return the log-probability (C,) of each choice of each question."""
        rows = _rows(asked)
        sums = [np.zeros(len(one.continuations)) for one in asked]
        done = 0
        found = groups([row.ids for row in rows], [row.first for row in rows])
        for group in found:
            members = [rows[index] for index in group.members]
            length = group.length if group.length and self._may_share(members[0], group.length) else 0
            cache = self._start(members[0].ids[:length]) if length else None
            members.sort(key=lambda row: -len(row.ids))

            def read(batch: Sequence[_Row], cache: Any = cache, length: int = length) -> list[list[float]]:
                return self._read(batch, cache, length)

            def cost(batch: Sequence[_Row], length: int = length) -> int:
                return len(batch) * (len(batch[0].ids) - length)

            for batch, logprobs in self._budget.over(members, cost, read):
                for row, values in zip(batch, logprobs, strict=True):
                    for one, value in zip(row.wanted, values, strict=True):
                        sums[one.question][one.choice] += value
                done += len(batch)
                progress(done, len(rows))
        return [np.asarray(one, dtype=np.float64) for one in sums]

    def _start(self, ids: IntArray) -> Any:
        """Return the cache of a shared beginning."""
        fed = torch.from_numpy(ids)[None].to(self._device)
        cache = caches.empty(self._model.config)
        return self._decoder(input_ids=fed, past_key_values=cache, use_cache=True).past_key_values

    def _read(self, rows: Sequence[_Row], cache: Any, length: int) -> list[list[float]]:
        """Run a batch of tails, and return the log-probabilities that each row wants."""
        widest = len(rows[0].ids) - length
        ids = torch.zeros(len(rows), widest, dtype=torch.long)
        for line, row in zip(ids, rows, strict=True):
            line[: len(row.ids) - length] = torch.from_numpy(row.ids[length:])
        fed = ids.to(self._device)
        places = [
            number * widest + place - length for number, row in enumerate(rows) for place in _places(row)
        ]
        if cache is None:
            return _picked(rows, self._head.logits(fed, torch.tensor(places, device=self._device)))
        own = caches.lent(cache, len(rows))
        hidden = self._decoder(input_ids=fed, past_key_values=own, use_cache=True).last_hidden_state
        return _picked(rows, self._head.after(hidden.flatten(0, 1), places))

    def _may_share(self, row: _Row, length: int) -> bool:
        """Return whether a row gives the same numbers from a cache as without; checked once."""
        if self._shares is None:
            self._shares = self._agrees(row, length)
        return self._shares

    def _agrees(self, row: _Row, length: int) -> bool:
        plain = np.asarray(self._read([row], None, 0)[0])
        if not self._head.replays:
            self.remarks.append("the shared prompt is not cached: the model's head cannot run alone")
            return False
        try:
            cache = self._start(row.ids[:length])
            if not caches.is_plain(cache):
                self.remarks.append(
                    "the shared prompt is not cached: the model keeps more than keys and values"
                )
                return False
            shared = np.asarray(self._read([row], cache, length)[0])
        except (AttributeError, TypeError, ValueError) as error:
            self.remarks.append(f"the shared prompt is not cached ({type(error).__name__})")
            return False
        off = float(np.abs(plain - shared).max())
        if off > TOLERANCE.get(self._model.dtype, LOOSE):
            self.remarks.append(f"the shared prompt is not cached: it changes a log-probability by {off:.2g}")
            return False
        return True


def _rows(asked: Sequence[Choices]) -> list[_Row]:
    """Return what must be run: choices of one token each share the row of their question."""
    rows: dict[bytes, _Row] = {}
    for question, one in enumerate(asked):
        for choice, ids in enumerate(one.continuations):
            fed = np.concatenate([one.context, ids[:-1]])
            row = rows.setdefault(fed.tobytes(), _Row(fed))
            begin = len(one.context) - 1
            row.wanted += [_Wanted(begin + at, int(token), question, choice) for at, token in enumerate(ids)]
    return list(rows.values())


def _places(row: _Row) -> list[int]:
    return sorted({one.place for one in row.wanted})


def _picked(rows: Sequence[_Row], chunks: Iterable[Tensor]) -> list[list[float]]:
    """Read what each row wants off the chunks of logits (P, vocabulary) at all their places, in order."""
    slots = [(number, place) for number, row in enumerate(rows) for place in _places(row)]
    slot_of = {slot: at for at, slot in enumerate(slots)}
    wanted = [
        (slot_of[number, one.place], one.token) for number, row in enumerate(rows) for one in row.wanted
    ]
    at, tokens = (torch.tensor(column) for column in zip(*wanted, strict=True))
    values = torch.empty(len(wanted), dtype=torch.float64)
    begin = 0
    for chunk in chunks:
        here = torch.nonzero((at >= begin) & (at < begin + len(chunk)))[:, 0]
        logs = chunk.float().log_softmax(-1)
        picked = logs[(at[here] - begin).to(chunk.device), tokens[here].to(chunk.device)]
        values[here] = picked.cpu().double()
        begin += len(chunk)
    if not bool(torch.isfinite(values).all()):
        raise ObservationError("the logits are not finite: look for NaN weights or a dtype that overflows")
    flat = iter(values.tolist())
    return [[next(flat) for _ in row.wanted] for row in rows]
