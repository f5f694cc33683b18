"""What a comparison can see, before it is made: a normal approximation from the error of a mean.

With standard error s, a two-sided test at confidence c finds a change d with probability P when
d = (z_{(1+c)/2} + z_P) s (Cohen, Statistical Power Analysis, 2.4).
"""

from __future__ import annotations

import math

from scipy import special

from pytest_quantgate.stats.means import z_of

__all__ = ["chance_beyond", "detectable", "settling"]

MOST = 1000.0


def detectable(error: float, confidence: float, power: float) -> float:
    """Return the smallest true change that is told from none with probability `power`."""
    return (z_of(0.5 + confidence / 2) + z_of(power)) * error


def chance_beyond(distance: float, error: float) -> float:
    """Return the chance that an estimate lies further than `distance` above the true value."""
    if not error:
        return float(distance < 0)
    return float(special.ndtr(-distance / error))


def settling(count: int, half_width: float, distance: float) -> int | None:
    """Return how many items make an interval of `half_width` over `count` of them narrower than `distance`.

    None where that is more than anyone has: a million times as many.
    """
    factor = abs(half_width / distance) if distance else math.inf
    return math.ceil(count * factor**2) if factor < MOST else None
