"""Which rows of ids begin alike, so that what they share is computed once. Numpy alone."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_quantgate.spec import IntArray

__all__ = ["Group", "groups"]

LEAST = 16
"""Fewer shared tokens are not worth a pass of their own."""


class Group(NamedTuple):
    """Rows that share their first `length` ids; `length` 0 for those that share nothing worth while."""

    length: int
    members: tuple[int, ...]


def groups(rows: Sequence[IntArray], most: Sequence[int], least: int = LEAST) -> list[Group]:
    """Part rows into groups that begin alike.

    Args:
        rows: the ids (T_i,) of each.
        most: how many ids of each row may be shared at most: what must be computed for the row itself stays out.
        least: the fewest shared ids that make a group.

    """
    order = sorted(range(len(rows)), key=lambda index: rows[index].astype(">u4").tobytes())
    alone: list[int] = []
    found: list[Group] = []
    for length, members in _runs(rows, most, order, least):
        if len(members) > 1:
            found.append(Group(length, tuple(members)))
        else:
            alone += members
    return [*found, *([Group(0, tuple(alone))] if alone else [])]


def _runs(
    rows: Sequence[IntArray], most: Sequence[int], order: Sequence[int], least: int
) -> Iterator[tuple[int, list[int]]]:
    """Yield neighbours in sorted order, parted where what they share falls to less than half."""
    if not order:
        return
    length, members = most[order[0]], [order[0]]
    for before, index in itertools.pairwise(order):
        shared = min(_common(rows[before], rows[index]), most[index], most[before])
        # two questions may share a few words more than all do: falling to the half is no loss
        if shared >= max(least, length // 2 if len(members) > 1 else 0):
            length = min(length, shared)
            members.append(index)
        else:
            yield length, members
            length, members = most[index], [index]
    yield length, members


def _common(one: IntArray, other: IntArray) -> int:
    size = min(len(one), len(other))
    differs = np.flatnonzero(one[:size] != other[:size])
    return int(differs[0]) if len(differs) else size
