"""Which items of a pass a part of it takes: places of an order that a seed gives.

The order belongs to the seed and to the number of items alone, so that whoever holds a part knows which items it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from pytest_quantgate.stats import order

if TYPE_CHECKING:
    from pytest_quantgate.spec import Protocol

__all__ = ["Part", "part_of", "with_part"]


class Part(NamedTuple):
    """Places [begin, end) of the order that a seed gives."""

    seed: int
    begin: int
    end: int

    def numbers(self, total: int) -> list[int]:
        """Return the numbers of the part's items, in the order of the data."""
        return sorted(int(number) for number in order(total, self.seed)[self.begin : self.end])


def with_part(protocol: Protocol, part: Part) -> Protocol:
    """Return the protocol of a part of the pass."""
    parameters = {**dict(protocol.parameters), "part": f"{part.seed}:{part.begin}:{part.end}"}
    return replace(protocol, parameters=tuple(sorted(parameters.items())))


def part_of(protocol: Protocol) -> Part | None:
    """Return the part that a protocol stands for; None for the whole pass."""
    return Part(*(int(number) for number in protocol.part.split(":"))) if protocol.part else None
