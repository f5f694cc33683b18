"""Two ways of doing something, timed in turn: what is kept is their ratio, since seconds belong to a machine.

A and B alternate (A B, then B A), so that a machine that slows down, or a neighbour that wakes up, meets
both. Medians over the repetitions; the spread is that of the ratio within a repetition.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Timing", "alternate", "clock", "seconds"]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of each repetition, of ours and of what it is compared with."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def our_median(self) -> float:
        """Median seconds of ours."""
        return statistics.median(self.ours)

    @property
    def their_median(self) -> float:
        """Median seconds of theirs."""
        return statistics.median(self.theirs)

    @property
    def cost(self) -> float:
        """How many times as long ours takes."""
        return self.our_median / self.their_median

    @property
    def share(self) -> float:
        """Our throughput as a share of theirs."""
        return 1 / self.cost

    @property
    def cost_spread(self) -> tuple[float, float]:
        """The quartiles of `cost` within a repetition."""
        return _quartiles([a / b for a, b in zip(self.ours, self.theirs, strict=True)])

    @property
    def share_spread(self) -> tuple[float, float]:
        """The quartiles of `share` within a repetition."""
        return _quartiles([b / a for a, b in zip(self.ours, self.theirs, strict=True)])


def alternate(ours: Callable[[], object], theirs: Callable[[], object], repetitions: int) -> Timing:
    """Time both in turn, after one run of each that does not count."""
    ours(), theirs()
    first, second = list[float](), list[float]()
    for number in range(repetitions):
        pair = [(ours, first), (theirs, second)]
        for call, times in pair if number % 2 == 0 else reversed(pair):
            times.append(clock(call))
    return Timing(tuple(first), tuple(second))


def clock(call: Callable[[], object]) -> float:
    """Return the seconds that one call takes, garbage of earlier ones collected before."""
    gc.collect()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def seconds(value: float) -> str:
    """Return a duration as people read it."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
