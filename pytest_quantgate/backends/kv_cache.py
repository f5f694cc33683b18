"""A key-value cache that is quantized while the model runs: keys per channel, values per token, in groups.

The scheme is KIVI's (Liu et al. 2024, https://arxiv.org/abs/2402.02750): the newest tokens, `kv_residual` of them at
most, stay in the model's own type; when there are so many, they are rounded for good to asymmetric codes in groups of
`kv_group`: of consecutive tokens for a channel of the keys, which have outlying channels, and of channels for a token
of the values. transformers has a cache of that kind, which goes through quanto or hqq: it has no 8 bits in quanto,
rounds what was rounded before again with every flush, and cannot drop rows of a batch. So the layer is our own, and the
rest of transformers' cache machinery is used as it is.

What attends to what: tokens that are fed together see each other, and the newest ones, unrounded. So feeding a text in
chunks of `kv_residual` tokens gives the numbers that feeding it token by token would give: that is how windows are
scored. A prompt that is to be continued is read at once, as engines do; what follows sees it rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor

from pytest_quantgate.backends.caches import LAYERED, DynamicLayer, empty
from pytest_quantgate.errors import ConfigError, NotMeasurableError

if TYPE_CHECKING:
    from pytest_quantgate.spec import ModelSpec

__all__ = ["OPTIONS", "QuantizedLayer", "Settings", "asked", "new_cache"]

CACHE: Final = "kv_cache"
RESIDUAL: Final = "kv_residual"
GROUP: Final = "kv_group"
OPTIONS: Final = (CACHE, RESIDUAL, GROUP)
BITS: Final = {"int8": 8, "int4": 4, "int2": 2}
BYTE: Final = 8
USUAL: Final = 32
"""Tokens, and codes of a group: KIVI's own group, and the shortest residual that is a whole one."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a cache is quantized.

    Attributes:
        bits: of a code: 8, 4 or 2.
        residual: how many of the newest tokens stay unrounded at most; a multiple of `group`.
        group: how many codes share scale and offset.

    """

    bits: int
    residual: int = USUAL
    group: int = USUAL


def asked(spec: ModelSpec) -> Settings | None:
    """Return how the cache of a model is to be quantized; None if it is not.

    Raises:
        ConfigError: a type or a size that there is not.

    """
    options = dict(spec.options)
    if CACHE not in options:
        if lone := sorted({RESIDUAL, GROUP} & set(options)):
            raise ConfigError(f'{spec.name}: {lone[0]} belongs to kv_cache; write kv_cache = "int8", too')
        return None
    if options[CACHE] not in BITS:
        raise ConfigError(
            f"{spec.name}: kv_cache = {options[CACHE]!r} cannot be used; write {' or '.join(BITS)}"
        )
    group = _size(spec, GROUP, BYTE, USUAL)
    return Settings(BITS[str(options[CACHE])], _size(spec, RESIDUAL, group, max(group, USUAL)), group)


def _size(spec: ModelSpec, name: str, step: int, usual: int) -> int:
    found: Any = dict(spec.options).get(name, usual)
    if type(found) is not int or found < 1 or found % step:
        raise ConfigError(f"{spec.name}: {name} = {found!r} cannot be used; write a multiple of {step}")
    return found


class Packed(NamedTuple):
    """Codes of 8, 4 or 2 bits, several to a byte, with what turns them back."""

    codes: Tensor  # (B, H, groups, bytes of a group, rest) for keys, (B, H, T, groups, bytes of a group) for values
    scale: Tensor  # with 1 in place of the bytes
    offset: Tensor


def pack(grouped: Any, axis: int, bits: int) -> Packed:
    """Round a tensor to codes; the members of a group lie along `axis`, which is negative."""
    offset, top = grouped.amin(axis, keepdim=True), grouped.amax(axis, keepdim=True)
    scale = ((top - offset) / (2**bits - 1)).clamp_min(torch.finfo(grouped.dtype).tiny)
    codes = ((grouped - offset) / scale).round().clamp(0, 2**bits - 1).to(torch.uint8)
    each = BYTE // bits
    parts = codes.unflatten(axis, (-1, each)).unbind(axis)
    packed = torch.zeros_like(parts[0])
    for place, part in enumerate(parts):
        packed |= part << (place * bits)
    return Packed(packed, scale, offset)


def unpack(packed: Packed, axis: int, bits: int) -> Tensor:
    """Return what `pack` rounded to, in the type that it came in."""
    places = range(0, BYTE, bits)
    codes = torch.stack([(packed.codes >> place) & (2**bits - 1) for place in places], axis)
    inner = axis - 1  # where `stack` has moved the bytes to
    return codes.flatten(inner, axis).to(packed.scale.dtype) * packed.scale + packed.offset


class _Side:
    """The rounded keys, or the rounded values, of one layer."""

    def __init__(self, settings: Settings, along: int) -> None:
        self._bits, self._group = settings.bits, settings.group
        self._along = along  # the dimension of (B, H, T, D) that groups run along: -2 or -1
        self._held: Packed | None = None

    def add(self, states: Any) -> None:
        """Round states (B, H, T, D) and keep them behind the others; T is a multiple of the group.

        A head of fewer channels than a group has is one group.

        Raises:
            ConfigError: the groups do not fit the head.

        """
        size = min(self._group, states.shape[self._along])
        if states.shape[self._along] % size or size * self._bits % BYTE:
            raise ConfigError(
                f"kv_cache: a head of {states.shape[self._along]} channels is not made of groups of {size} codes of"
                f" {self._bits} bits; set kv_group to a multiple of {BYTE} that divides it"
            )
        new = pack(states.unflatten(self._along, (-1, size)), self._along, self._bits)
        dim = 2  # of groups of tokens, or of tokens
        self._held = (
            new
            if self._held is None
            else Packed(*(torch.cat(pair, dim) for pair in zip(self._held, new, strict=True)))
        )

    def states(self) -> list[Tensor]:
        """Return what is held (B, H, T, D), turned back; an empty list for nothing."""
        if self._held is None:
            return []
        whole = unpack(self._held, self._along, self._bits)
        return [whole.flatten(self._along - 1, self._along)]

    def select(self, indices: Tensor) -> None:
        """Keep some rows."""
        if self._held is not None:
            self._held = Packed(*(part[indices] for part in self._held))

    def nbytes(self) -> int:
        """Return the bytes that it takes."""
        return sum(part.nbytes for part in self._held or ())


class QuantizedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """The cache of one full attention layer. `keys` and `values` are the newest tokens, not yet rounded."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._settings = settings
        self._sides = (_Side(settings, -2), _Side(settings, -1))
        self.rounded = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Take new states, and return all: the older ones as they were rounded."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        assert self.keys is not None
        assert self.values is not None
        newest = [torch.cat(pair, -2) for pair in ((self.keys, key_states), (self.values, value_states))]
        shown = [torch.cat([*side.states(), new], -2) for side, new in zip(self._sides, newest, strict=True)]
        self.keys, self.values = newest
        if ready := newest[0].shape[-2] // self._settings.residual * self._settings.residual:
            self.round_off(ready)
        return shown[0], shown[1]

    def round_off(self, count: int) -> None:
        """Round the oldest `count` of the newest tokens, for good."""
        assert self.keys is not None
        assert self.values is not None
        for side, new in zip(self._sides, (self.keys, self.values), strict=True):
            side.add(new[:, :, :count])
        self.rounded += count
        # a view would keep the whole of it alive
        self.keys, self.values = self.keys[:, :, count:].clone(), self.values[:, :, count:].clone()

    def get_seq_length(self) -> int:
        """Return how many tokens are held."""
        return self.rounded + (self.keys.shape[-2] if self.is_initialized and self.keys is not None else 0)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        super().batch_select_indices(indices)
        for side in self._sides:
            side.select(indices)

    def nbytes(self) -> int:
        """Return the bytes that the rounded tokens take, scales and offsets included."""
        return sum(side.nbytes() for side in self._sides)


def new_cache(config: Any, settings: Settings) -> Any:
    """Return an empty cache for a model of this configuration.

    Raises:
        NotMeasurableError: the model keeps more than the keys and values of full attention.

    """
    if not LAYERED:
        raise NotMeasurableError(
            "kv_cache: a cache that is quantized while it runs needs transformers 4.54 or newer"
        )
    cache = empty(config)
    if other := [layer for layer in cache.layers if type(layer) is not DynamicLayer]:
        raise NotMeasurableError(
            f"kv_cache: {config.model_type} has layers whose cache is a {type(other[0]).__name__}; "
            "only full attention can be quantized"
        )
    cache.layers = [QuantizedLayer(settings) for _ in range(config.get_text_config().num_hidden_layers)]
    return cache
