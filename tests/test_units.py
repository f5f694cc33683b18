"""Quantities: what a limit with a unit is worth, how it is written, and what is no limit."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
from gate_strategies import finite, quantities
from hypothesis import given

from pytest_quantgate import units
from pytest_quantgate.errors import GateError
from pytest_quantgate.units import UNITS, GiB, KiB, MiB, Quantity, h, minute, ms, percent, s, tok_s, us

PYTHON = {name: getattr(units, name) for name in units.__all__}


@pytest.mark.parametrize(
    ("quantity", "text", "python", "si", "dimension"),
    [
        (2 * GiB, "2GiB", "2 * GiB", 2 * 1024**3, "B"),
        (GiB * 2, "2GiB", "2 * GiB", 2 * 1024**3, "B"),
        (GiB / 2, "0.5GiB", "0.5 * GiB", 512 * 1024**2, "B"),
        (1.5 * GiB, "1.5GiB", "1.5 * GiB", 1.5 * 1024**3, "B"),
        (3 * units.GB, "3GB", "3 * GB", 3e9, "B"),
        (7 * units.TB, "7TB", "7 * TB", 7e12, "B"),
        (3 * KiB, "3KiB", "3 * KiB", 3072, "B"),
        (units.B, "1B", "1 * B", 1, "B"),
        (70 * ms, "70ms", "70 * ms", 0.07, "s"),
        (3 * us, "3us", "3 * us", 0.000003, "s"),
        (1.5 * s, "1.5s", "1.5 * s", 1.5, "s"),
        (2 * minute, "2min", "2 * minute", 120, "s"),
        (2 * h, "2h", "2 * h", 7200, "s"),
        (5 * percent, "5%", "5 * percent", 0.05, ""),
        (57 * percent, "57%", "57 * percent", 0.57, ""),
        (-5 * percent, "-5%", "-5 * percent", -0.05, ""),
        (-(5 * percent), "-5%", "-5 * percent", -0.05, ""),
        (30 * tok_s, "30tok/s", "30 * tok_s", 30, "tok/s"),
        (Quantity(1.0), "1", "Quantity(1.0)", 1, ""),
        (Quantity(-0.0), "0", "Quantity(0.0)", 0, ""),
        (Quantity(0.05), "0.05", "Quantity(0.05)", 0.05, ""),
        (Quantity(1e-05), "1e-05", "Quantity(1e-05)", 1e-05, ""),
        (Quantity(2**60), "1.152921504606847e+18", "Quantity(1.152921504606847e+18)", 2.0**60, ""),
    ],
)
def test_forms(quantity: Quantity, text: str, python: str, si: float, dimension: str) -> None:
    """A quantity is written compactly, in text and in Python, and converts with a single rounding."""
    assert (text, python, si, dimension) == (str(quantity), repr(quantity), quantity.si, quantity.dimension)


def test_every_unit_has_a_constant() -> None:
    """Each unit that text knows has a Python constant of value 1."""
    constants = {value.unit: value.value for value in PYTHON.values() if isinstance(value, Quantity)}
    assert constants == dict.fromkeys(filter(None, UNITS), 1.0)


@given(quantities)
def test_repr_is_source(quantity: Quantity) -> None:
    """The Python form evaluates to an equal quantity."""
    assert eval(repr(quantity), PYTHON) == quantity


@given(quantities)
def test_copies(quantity: Quantity) -> None:
    """Pickle and deepcopy give equal values with equal hashes."""
    for twin in (pickle.loads(pickle.dumps(quantity)), copy.deepcopy(quantity)):
        assert (quantity, hash(quantity)) == (twin, hash(twin))


@given(finite)
def test_int_and_float_are_one(value: float) -> None:
    """A whole number makes the same quantity as int and as float, written the same."""
    whole = round(value)
    assert Quantity(whole) == Quantity(float(whole))
    assert str(Quantity(whole)) == str(Quantity(float(whole)))


def test_equality_is_structural() -> None:
    """Equal amounts in different units are different limits: a gate prints as it was written."""
    assert 1024 * MiB != 1 * GiB
    assert (1024 * MiB).si == GiB.si
    assert Quantity(1.0) != 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, True, "2", None, GiB, 1j])
def test_no_number(value: object) -> None:
    """What is not a finite int or float is refused."""
    with pytest.raises(GateError):
        Quantity(value)


@pytest.mark.parametrize(
    ("unit", "advice"),
    [
        ("gib", "did you mean 'GiB'?"),
        ("GIB", "did you mean 'GiB'?"),
        ("tok/sec", "did you mean 'tok/s'?"),
        ("\u00b5s", "did you mean 'us'?"),
        ("\u03bcs", "did you mean 'us'?"),
        ("xyz", "units are % B KB MB"),
    ],
)
def test_unknown_unit(unit: str, advice: str) -> None:
    """An unknown unit is answered with the nearest one, or with all of them."""
    with pytest.raises(GateError) as caught:
        Quantity(1, unit)
    assert advice in str(caught.value)


def test_too_large() -> None:
    """A limit whose base value overflows is refused when it is written, not when it is judged."""
    with pytest.raises(GateError, match="too large"):
        Quantity(1e308, "TiB")


def test_arithmetic_refuses() -> None:
    """Only a number scales a quantity; quantities have no order and no product."""
    for wrong in (
        lambda: GiB * MiB,
        lambda: GiB / MiB,
        lambda: 1 / GiB,
        lambda: GiB + GiB,
        lambda: GiB < MiB,
    ):
        with pytest.raises(TypeError):
            wrong()
    for wrong in (lambda: GiB * True, lambda: GiB / 0, lambda: GiB * math.inf):
        with pytest.raises(GateError):
            wrong()


def test_frozen() -> None:
    """A quantity cannot be changed."""
    with pytest.raises(AttributeError):
        GiB.value = 2  # type: ignore[misc]
