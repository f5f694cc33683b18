"""Key-value caches that many rows continue from: made once, lent to a batch, with room to grow.

transformers' own dynamic cache copies everything for every new token; here a layer writes into room that was set aside.
Only the two plain kinds of layer are handled, full and sliding attention: whatever else a model keeps between tokens
(convolution or recurrent states) is not touched, and such a model answers without sharing.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from transformers import DynamicCache

LAYERED = True
"""Whether a cache is a list of layers."""

try:
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
except ImportError:  # before 4.54 it is none: then no cache is plain, and nothing is shared
    LAYERED = False

    class DynamicLayer:  # type: ignore[no-redef]
        """A stand-in that no cache holds."""

    class DynamicSlidingWindowLayer:  # type: ignore[no-redef]
        """A stand-in that no cache holds."""


if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LAYERED", "DynamicLayer", "empty", "is_plain", "is_sliding", "lent", "roomy", "select", "size_of"]


class Roomy(DynamicLayer):  # type: ignore[no-untyped-call]
    """A full attention layer that grows into a buffer instead of being copied for each token."""

    def __init__(self, keys: Tensor, values: Tensor, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self._length = keys.shape[-2]
        self._buffers = [_with_room(part, room) for part in (keys, values)]
        self._look()

    def _look(self) -> tuple[Tensor, Tensor]:
        """Show what is filled."""
        keys, values = (buffer[:, :, : self._length] for buffer in self._buffers)
        self.keys, self.values = keys, values
        return keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new states behind the others, and return all."""
        end = self._length + key_states.shape[-2]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._length : end] = states
        self._length = end
        return self._look()

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self._look()


def _with_room(states: Tensor, room: int) -> Tensor:
    rows, heads, length, width = states.shape
    buffer = states.new_empty(rows, heads, length + room, width)
    buffer[:, :, :length] = states
    return buffer


def empty(config: Any) -> Any:
    """Return an empty cache for a model of this configuration."""
    return DynamicCache(config=config) if LAYERED else DynamicCache()


def is_plain(cache: Any) -> bool:
    """Return whether all that a cache holds are keys and values of attention."""
    layers = getattr(cache, "layers", None)
    return layers is not None and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers
    )


def is_sliding(cache: Any) -> bool:
    """Return whether a layer forgets what is far back: then no padding may stand between tokens."""
    return any(layer.is_sliding for layer in cache.layers)


def lent(cache: Any, rows: int) -> Any:
    """Return a cache of one row as that of `rows` rows, which may be continued; `cache` stays as it is."""
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in twin.layers:
        if layer.is_initialized:
            layer.keys, layer.values = (part.expand(rows, -1, -1, -1) for part in (layer.keys, layer.values))
    return twin


def roomy(cache: Any, room: int) -> None:
    """Give every full attention layer room for so many more tokens."""
    if not LAYERED:
        return
    cache.layers = [
        Roomy(layer.keys, layer.values, room)
        if type(layer) is DynamicLayer and layer.keys is not None and layer.values is not None
        else layer
        for layer in cache.layers
    ]


def select(cache: Any, indices: Tensor) -> None:
    """Keep some rows."""
    for layer in cache.layers:
        if layer.is_initialized:
            layer.batch_select_indices(indices)


def size_of(cache: Any) -> int:
    """Return the bytes that one token of one row takes, of all layers together."""
    held = [layer for layer in cache.layers if getattr(layer, "is_initialized", False)]
    return sum(
        part.shape[1] * part.shape[3] * part.element_size()
        for layer in held
        for part in (layer.keys, layer.values)
    )
