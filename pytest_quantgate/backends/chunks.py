"""Windows that go through a quantized key-value cache: fed in chunks, each of which looks back at rounded ones.

A single pass over a window never reads a cache, so it could not show what quantizing one costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pytest_quantgate.backends.kv_cache import new_cache
from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.interfaces import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from pytest_quantgate.backends.kv_cache import Settings
    from pytest_quantgate.interfaces import Choices, Progress, TokenScores
    from pytest_quantgate.spec import FloatArray

__all__ = ["Chunks"]


class Chunks:
    """Runs a model through its quantized cache.

    Args:
        model: the causal language model.
        settings: of the cache.

    """

    def __init__(self, model: Any, settings: Settings) -> None:
        self._model, self._settings = model, settings
        self._decoder = model.get_decoder()
        self._unread = 0

    def empty(self) -> Any:
        """Return an empty cache."""
        return new_cache(self._model.config, self._settings)

    def states(self, ids: Tensor) -> Tensor:
        """Return the decoder's states (B, T, width) of ids (B, T), as token after token would give them."""
        cache = self.empty()
        made = [
            self._decoder(input_ids=part, past_key_values=cache, use_cache=True).last_hidden_state
            for part in torch.split(ids, self._settings.residual, dim=1)
        ]
        return torch.cat(made, 1)

    def refuse_short(self, windows: Sequence[Window]) -> None:
        """Refuse windows that end before anything is quantized: they would only show that nothing was.

        Raises:
            NotMeasurableError: none is longer than what stays unrounded.

        """
        residual = self._settings.residual
        if max((len(window.ids) for window in windows), default=0) <= residual:
            raise NotMeasurableError(
                f"kv_cache: no window is longer than kv_residual = {residual} tokens, which are not quantized; "
                "use longer windows, or a smaller kv_residual"
            )

    def likelihoods(
        self,
        score: Callable[[list[Window]], Iterator[TokenScores]],
        asked: Sequence[Choices],
        progress: Progress,
    ) -> list[FloatArray]:
        """Return the log-probability (C,) of each choice of each question, each read as a window of its own."""
        places = [
            (number, choice) for number, one in enumerate(asked) for choice in range(len(one.continuations))
        ]
        windows = [
            Window(np.concatenate([asked[n].context, asked[n].continuations[c]]), len(asked[n].context))
            for n, c in places
        ]
        self._unread += sum(len(window.ids) <= self._settings.residual for window in windows)
        order = sorted(range(len(places)), key=lambda index: -len(windows[index].ids))
        sums = [np.zeros(len(one.continuations)) for one in asked]
        scored = score([windows[index] for index in order])
        for done, (index, scores) in enumerate(zip(order, scored, strict=True), 1):
            number, choice = places[index]
            sums[number][choice] = float(scores.logprob.sum(dtype=np.float64))
            progress(done, len(places))
        return list(sums)

    def remarks(self) -> tuple[str, ...]:
        """Return what a reader must know."""
        if not self._unread:
            return ()
        return (
            f"{self._unread} choices are no longer than kv_residual: nothing of their cache was quantized",
        )

    def bits(self) -> dict[str, int]:
        """Return the bits of the cache as those of a module."""
        return {"kv_cache": self._settings.bits}
