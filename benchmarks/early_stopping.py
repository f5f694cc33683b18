"""How often an early stop decides otherwise than the whole pass would, and how much it saves.

The numbers are the paired change of the log-likelihood of each window of the example's held-out text, for copies
that are rounded to 8, 4 and 3 bits, and synthetic ones. A limit lies at a multiple of the true change. Each rule
decides on many random orders: ours (`stats.sequence` at alpha 0.01), a run of a fixed size (10 % of the windows, by the
sign of its mean), and a rule that peeks: an ordinary 99 % t interval at each of our looks, believed the first time it
leaves the limit out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import networks
import numpy as np
from numpy.typing import NDArray
from scipy import special
from table import Row

from pytest_quantgate import ppl, stats
from pytest_quantgate.metrics.tokens import TOKENS
from pytest_quantgate.spec import Observation

__all__ = ["measure"]

ALPHA = 0.01
ORDERS = 400
DISTANCES = (4.0, 2.0, 1.5, 1.1, 0.9, 0.5, 0.25)
TOTAL = 784
Numbers: TypeAlias = NDArray[np.float64]
Rule: TypeAlias = Callable[[Numbers, float], tuple[bool, int]]
"""From numbers in visiting order and a limit: whether their mean is said to lie below it, and how many were seen."""


def measure(_repetitions: int = 1) -> list[Row]:
    """Return error rates and shares of windows: 400 random orders each, however often times are repeated."""
    rows = [row for name, numbers in _example() for row in _distances(name, numbers, ORDERS)]
    return rows + [_worst(name, numbers, ORDERS) for name, numbers in _synthetic()]


def ours(numbers: Numbers, limit: float) -> tuple[bool, int]:
    """Stop when the sequence leaves the limit out."""
    for count in stats.looks(len(numbers)):
        low, high = stats.sequence(numbers[:count], len(numbers), ALPHA)
        if high < limit or low >= limit:
            return high < limit, count
    raise AssertionError("the whole decides")


def peeking(numbers: Numbers, limit: float) -> tuple[bool, int]:
    """Stop when an ordinary interval leaves the limit out."""
    for count in stats.looks(len(numbers))[:-1]:
        mean, error = numbers[:count].mean(), numbers[:count].std(ddof=1) / np.sqrt(count)
        half = special.stdtrit(count - 1, 1 - ALPHA / 2) * error
        if not mean - half <= limit <= mean + half:
            return bool(mean < limit), count
    return bool(numbers.mean() < limit), len(numbers)


def fixed(numbers: Numbers, limit: float) -> tuple[bool, int]:
    """Look once, after a tenth."""
    count = len(numbers) // 10
    return bool(numbers[:count].mean() < limit), count


def _tried(rule: Rule, numbers: Numbers, limit: float, orders: int) -> tuple[float, float]:
    """Return how often a rule errs, and the median share that it sees."""
    rng = np.random.default_rng(0)
    truth = bool(numbers.mean() < limit)
    results = [rule(rng.permutation(numbers), limit) for _ in range(orders)]
    wrong = np.mean([said != truth for said, _ in results])
    return float(wrong), float(np.median([seen for _, seen in results]) / len(numbers))


def _distances(name: str, numbers: Numbers, orders: int) -> Iterator[Row]:
    for distance in DISTANCES:
        limit = distance * float(numbers.mean())
        wrong, share = _tried(ours, numbers, limit, orders)
        errs = [_tried(rule, numbers, limit, orders)[0] for rule in (fixed, peeking)]
        yield Row(
            f"early stopping, {name}, limit at {distance:g} of the true change: windows seen, median",
            f"{share:.1%}, wrong in {wrong:.1%}",
            f"wrong in {errs[0]:.1%} after 10 %, in {errs[1]:.1%} when peeking",
            share,
            aim="wrong in at most 1 %",
        )


def _worst(name: str, numbers: Numbers, orders: int) -> Row:
    """Return the worst case: limits a hair below and above the true mean, where half of what is said is wrong."""
    hair = 1e-9 * (abs(float(numbers.mean())) + float(numbers.std()))
    limits = [float(numbers.mean()) + side * hair for side in (-1, 1)]
    wrong, peeked = (
        sum(_tried(rule, numbers, limit, orders)[0] for limit in limits) for rule in (ours, peeking)
    )
    return Row(
        f"early stopping, {name} numbers, limit at the truth: wrong on either side",
        f"{wrong:.1%}",
        f"{peeked:.1%} when peeking",
        None,
        aim="at most 1 %",
    )


def _example() -> Iterator[tuple[str, Numbers]]:
    model = networks.example()
    text = networks.EXAMPLE / "data" / "heldout.txt"
    protocol = TOKENS.protocol({}, {"corpus": str(text), "protocol": "gptq", "window": 256}, Path())

    def scored(network: object, reference: Observation | None) -> Observation:
        subject = networks.Subject(networks.in_memory(network, model.tokenizer))
        return TOKENS.observe(subject, protocol, reference, lambda *_: None)

    baseline = scored(model.native, None)
    order = np.arange(TOKENS.count(baseline))
    for bits in (8, 4, 3):
        items = TOKENS.items(
            ppl.log_ratio, scored(networks.rounded(model.native, bits), baseline), baseline, order
        )
        assert items is not None
        yield f"example rounded to {bits} bits", items.values


def _synthetic() -> Iterator[tuple[str, Numbers]]:
    rng = np.random.default_rng(0)
    yield "normal", rng.normal(size=TOTAL)
    yield "t (3 degrees)", rng.standard_t(3, size=TOTAL)
    yield "lognormal (sigma 1.5)", rng.lognormal(0, 1.5, size=TOTAL)
    yield "rare (2 %) 0/1", (np.arange(TOTAL) < TOTAL // 50).astype(np.float64)
    yield "two-regime", np.where(np.arange(TOTAL) < TOTAL // 20, 8.0, 0.0) + rng.normal(size=TOTAL)
