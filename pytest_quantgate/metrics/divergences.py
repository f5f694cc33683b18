"""KL divergence from distributions that are known in part: on the baseline's top K, and where the variant tells less.

An in-process engine reads the variant at every id of the baseline's top K, and its smallest log-probability bounds
what the truncation misses. A server tells its own top N: ids beyond them are unknown (NaN) and join the rest, which
keeps the sum a lower bound (log-sum inequality); with the floor unknown too, nothing bounds what it misses. Then
`outside` holds the baseline's mass on the tokens that are unknown: the metric is not measurable where that is much, and
else its `missed` is None, so that a limit above it is never kept by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_quantgate.interfaces import TokenScores

__all__ = ["MOST_OUTSIDE", "against", "divergence"]

NO_MASS = 1e-7  # what float32 cannot tell from nothing when 1 is taken from a sum of probabilities
MOST_OUTSIDE = 0.25
"""The share of the baseline's mass, on average, of which a variant may tell nothing."""


def divergence(
    p_at: NDArray[Any], q_at: NDArray[Any], q_floor: NDArray[Any], vocabulary: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the KL divergence on top K and rest (S,), and at most how much it misses (S,), in nats.

    Args:
        p_at: (S, K) the baseline's K largest log-probabilities, in falling order.
        q_at: (S, K) the variant's at the same ids; NaN where that is unknown.
        q_floor: (S,) the variant's smallest log-probability; NaN, and so the second result, where that is unknown.
        vocabulary: number of tokens there are.

    """
    p_log, q_log = p_at.astype(np.float64), q_at.astype(np.float64)
    p, known = np.exp(p_log), ~np.isnan(q_log)
    head = np.where(known, p * (p_log - q_log), 0.0).sum(-1)
    if p_at.shape[1] >= vocabulary and known.all():
        return head, np.zeros_like(head)
    p_rest = np.maximum(1.0 - np.where(known, p, 0.0).sum(-1), NO_MASS)
    q_rest = np.maximum(1.0 - np.where(known, np.exp(q_log), 0.0).sum(-1), NO_MASS)
    rest = p_rest * np.log(p_rest / q_rest)
    largest = np.maximum(p_log[:, -1], np.where(known, -np.inf, p_log).max(-1))
    return head + rest, np.maximum(p_rest * (largest - q_floor) - rest, 0.0)


def against(p_at: NDArray[Any], scores: TokenScores, vocabulary: int) -> dict[str, NDArray[np.float32]]:
    """Return the columns kld, kld_excess and outside (S,) of a window; no excess is stated where none is known."""
    kld, excess = divergence(p_at, scores.at, scores.floor, vocabulary)
    unbounded = np.isnan(excess)
    p = np.where(np.isnan(scores.at), 0.0, np.exp(p_at.astype(np.float64)))
    outside = np.where(unbounded, np.clip(1.0 - p.sum(-1), 0.0, 1.0), 0.0)
    columns = {"kld": kld, "kld_excess": np.where(unbounded, 0.0, excess), "outside": outside}
    return {name: column.astype(np.float32) for name, column in columns.items()}
