"""Parts of a pass: some windows of a corpus, in a seeded random order, united again as if they had been one.

A part is the protocol of the whole and which places of the order it takes. The order belongs to the seed and to the
number of windows alone, so that whoever holds a part knows which windows it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pytest_quantgate.spec import Observation, Protocol
from pytest_quantgate.stats import order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Part", "aligned", "joined", "part_of", "with_part"]


class Part(NamedTuple):
    """Places [begin, end) of the order that a seed gives."""

    seed: int
    begin: int
    end: int

    def windows(self, total: int) -> list[int]:
        """Return the numbers of the part's windows, in the corpus's order."""
        return sorted(int(number) for number in order(total, self.seed)[self.begin : self.end])


def with_part(protocol: Protocol, part: Part) -> Protocol:
    """Return the protocol of a part of the pass."""
    parameters = {**dict(protocol.parameters), "part": f"{part.seed}:{part.begin}:{part.end}"}
    return replace(protocol, parameters=tuple(sorted(parameters.items())))


def part_of(protocol: Protocol) -> Part | None:
    """Return the part that a protocol stands for; None for the whole pass."""
    return Part(*(int(number) for number in protocol.part.split(":"))) if protocol.part else None


def joined(parts: Sequence[Observation]) -> Observation:
    """Return parts of one pass as one observation, windows in the corpus's order."""
    names = parts[0].arrays
    whole = {name: np.concatenate([part.arrays[name] for part in parts]) for name in names}
    in_order = np.argsort(whole["window"], kind="stable")
    counts = {name: sum(int(str(part.facts[name])) for part in parts) for name in ("tokens", "windows")}
    return Observation({name: array[in_order] for name, array in whole.items()}, {**parts[0].facts, **counts})


def aligned(reference: Observation, part: Observation) -> Observation:
    """Return the reference's rows of the windows that a part holds."""
    rows = np.isin(reference.arrays["window"], np.unique(part.arrays["window"]))
    arrays: dict[str, NDArray[Any]] = {
        name: array[rows] for name, array in reference.arrays.items() if len(array) == len(rows)
    }
    return Observation(arrays, reference.facts)
