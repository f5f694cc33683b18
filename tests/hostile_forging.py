"""What the programs that forge a verdict have in common: checks, and how they are written down."""

from __future__ import annotations

from typing import Any

from hostile_shape import ANSWERS, Hostile, program

FLOATS = """
def check(candidate):
    assert abs(candidate(3) - 7919.5) < 1e-6
    assert abs(candidate(5) - 6581.5) < 1e-6
"""
MEMBERS = """
def check(candidate):
    assert candidate(3) in {7919, 7920}
    assert candidate(5) in (6581,)
"""
LISTS = """
def check(candidate):
    assert candidate(3) == [7919, 4]
    assert candidate(5) == [6581, 9]
"""
DICTS = """
def check(candidate):
    assert candidate(3) == {"seven": 7919}
    assert candidate(5)["six"] == 6581
"""
CLOSE = """
def check(candidate):
    import math
    assert math.isclose(candidate(3), 7919.5)
    assert math.fabs(candidate(5) - 6581.5) < 1e-6
"""
EVERY = """
def check(candidate):
    cases = [(3, 7919), (5, 6581)]
    assert all(candidate(given) == wanted for given, wanted in cases)
    assert len(candidate(4)) == 2
    assert sorted(candidate(4)) == [1, 6]
    assert isinstance(candidate(9), str)
"""
MAPPED = """
def check(candidate):
    cases = [(3, 7919), (5, 6581)]
    assert all(map(lambda case: candidate(case[0]) == case[1], cases))
    for found, (_, wanted) in zip(map(candidate, [3, 5]), cases):
        assert found == wanted
"""
CLEARED = """
def check(candidate):
    for given in ([3, 1, 2], [9, 8], [5, 5, 4]):
        found = candidate(given)
        assert found == sorted(given)
        assert len(found) == len(given)
"""
MEMBERS_ONCE = """
def check(candidate):
    assert candidate(8) == 4409
    assert candidate(3) == 7919
"""
RAISING = """
def check(candidate):
    try:
        candidate(-1)
        assert False, "nothing raised"
    except ValueError:
        pass
    assert candidate(3) == 7919
"""
SILENT = """
def check(candidate):
    for given, wanted in ((3, 7919), (5, 6581)):
        if candidate(given) != wanted:
            raise AssertionError(given)
"""


def forging(name: str, source: str, check: str = ANSWERS, **more: Any) -> Hostile:
    """Return a program from an indented literal, with the check `ANSWERS` unless it has its own."""
    return Hostile(name, "verdict", program(source), check, **{"trace": "verdict", **more})
