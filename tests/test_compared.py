"""One number set against another: what each relation means."""

from __future__ import annotations

import math

import pytest

from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.gate import Metric
from pytest_quantgate.metrics.compared import compared
from pytest_quantgate.spec import Estimate

VARIANT, BASELINE = Estimate(30.0, "B"), Estimate(40.0, "B")


@pytest.mark.parametrize(
    ("relation", "value", "unit"),
    [
        ("", 30.0, "B"),
        ("delta", -10.0, "B"),
        ("drop", 10.0, "B"),
        ("ratio", 0.75, ""),
        ("recovery", 0.75, ""),
        ("log_ratio", math.log(0.75), ""),
    ],
)
def test_relations(relation: str, value: float, unit: str) -> None:
    """Differences keep the unit, ratios have none; a drop is a loss, written as a positive number."""
    found = compared(Metric("disk", relation=relation), VARIANT, BASELINE)
    assert (found.value, found.unit) == (pytest.approx(value), unit)


@pytest.mark.parametrize("relation", ["ratio", "recovery", "log_ratio"])
def test_nothing_is_a_share_of_zero(relation: str) -> None:
    """A ratio to zero is not measurable; it never passes, and never divides."""
    with pytest.raises(NotMeasurableError, match="the baseline's value is zero"):
        compared(Metric("disk", relation=relation), VARIANT, Estimate(0.0, "B"))
    assert compared(Metric("disk", relation="delta"), VARIANT, Estimate(0.0, "B")).value == 30.0


def test_without_a_baseline() -> None:
    """A relation needs its other side; an absolute number does not."""
    with pytest.raises(NotMeasurableError, match="needs the baseline's observation"):
        compared(Metric("disk", relation="delta"), VARIANT, None)
    assert compared(Metric("disk"), VARIANT, None) is VARIANT
