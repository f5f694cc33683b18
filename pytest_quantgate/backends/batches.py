"""Batches as large as the memory lets them be: halved where it does not."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, TypeVar

import torch

from pytest_quantgate.errors import ObservationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Budget"]

_T = TypeVar("_T")
_R = TypeVar("_R")
_WORDS = ("can't allocate memory", "not enough memory", "out of memory")


class Budget:
    """How much goes through the model at once; it shrinks when that was too much, and stays so.

    Args:
        amount: of what `cost` counts: tokens, or bytes of cache.
        most: rows of one batch at most.

    """

    def __init__(self, amount: int, most: int = 2**31) -> None:
        self.amount = amount
        self.most = most

    def over(
        self, items: Sequence[_T], cost: Callable[[Sequence[_T]], int], work: Callable[[Sequence[_T]], _R]
    ) -> Iterator[tuple[Sequence[_T], _R]]:
        """Yield each batch of `items` and what `work` made of it; `cost` says what a batch takes.

        Raises:
            ObservationError: one item alone is too much for the memory.

        """
        begin = 0
        while begin < len(items):
            batch = self._fitting(items, begin, cost)
            try:
                made = work(batch)
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                self._shrink(batch, cost, error)
                continue
            yield batch, made
            begin += len(batch)

    def _fitting(self, items: Sequence[_T], begin: int, cost: Callable[[Sequence[_T]], int]) -> Sequence[_T]:
        size = 1
        while (
            size < min(self.most, len(items) - begin) and cost(items[begin : begin + size + 1]) <= self.amount
        ):
            size += 1
        return items[begin : begin + size]

    def _shrink(self, batch: Sequence[_T], cost: Callable[[Sequence[_T]], int], error: Exception) -> None:
        if len(batch) == 1:
            said = (str(error).splitlines() or ["out of memory"])[0][:120]
            raise ObservationError(
                f"not even one row fits the memory ({said}); shorten the prompts"
            ) from error
        self.amount = cost(batch) // 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_out_of_memory(error: Exception) -> bool:
    said = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in said for word in _WORDS)
