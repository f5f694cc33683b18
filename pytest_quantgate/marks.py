"""The `quantgate(...)` decorator, and what a test's marks mean.

`@quantgate(ppl_delta < 1.0)` is `@pytest.mark.quantgate(ppl_delta < 1.0)` with its arguments checked where they are
written. Marks stack, and marks of the class and the module count too: all gates must hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from pytest_quantgate.errors import GateError, UnknownNameError, UsageError
from pytest_quantgate.gate import Gate, Metric
from pytest_quantgate.parse import parse

if TYPE_CHECKING:
    from _pytest.mark.structures import Mark

__all__ = ["Asked", "Clause", "Demand", "as_confidence", "as_gate", "demand_of", "quantgate"]

_KEYWORDS: Final = ("variants", "confidence", "stop_early")


def quantgate(
    *gates: Gate | str,
    variants: Sequence[str] = (),
    confidence: float | None = None,
    stop_early: bool | None = None,
) -> pytest.MarkDecorator:
    """Mark a test, a class or, as `pytestmark`, a module with gates that must hold.

    Args:
        gates: comparisons such as `ppl_delta < 1.0`, joined by `&`, `|`, `~`, or the same as text.
        variants: names or patterns ("gptq-*") of the variants to test; all of them by default.
        confidence: let the interval at this level decide these gates; by default as `--quantgate-confidence` says.
        stop_early: stop the pass as soon as these gates are certain; by default as `--quantgate-stop-early` says.

    Raises:
        GateError: an argument is no gate, or does not parse; a confidence that is none.

    """
    given = {"variants": list(variants) or None, "confidence": confidence, "stop_early": stop_early}
    keywords = {name: value for name, value in given.items() if value is not None}
    clause_of(pytest.mark.quantgate.with_args(*gates, **keywords).mark)
    # with_args: a plain call with one argument could be taken for the decorated function itself
    return pytest.mark.quantgate.with_args(*gates, **keywords)


def as_gate(value: object) -> Gate:
    """Return the gate that a mark's argument stands for.

    Raises:
        GateError: it stands for none; the message says what to write.

    """
    if isinstance(value, Gate):
        return value
    if isinstance(value, str):
        return parse(value)
    if isinstance(value, bool):
        raise GateError("a gate that is True or False at once: only < <= > >= make gates, == and != do not")
    if isinstance(value, Metric):
        raise GateError(f"{value} has no limit; write for example quantgate({value} < 1.0)")
    raise GateError(
        f"{value!r} is no gate; write for example quantgate(ppl_delta < 1.0) or quantgate('ppl_delta < 1.0')"
    )


class Asked(NamedTuple):
    """A gate, and what its mark says of how to judge it; None: as the session does."""

    gate: Gate
    confidence: float | None = None
    stop_early: bool | None = None


@dataclass(frozen=True, slots=True)
class Clause:
    """One mark: its gates, the variants that they are for (patterns; none: all), and how they are judged."""

    gates: tuple[Gate, ...] = ()
    patterns: tuple[str, ...] = ()
    confidence: float | None = None
    stop_early: bool | None = None

    def selects(self, variant: str) -> bool:
        """Return whether this mark is about the variant."""
        return not self.patterns or any(fnmatchcase(variant, pattern) for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class Demand:
    """What one test asks for. A mark without gates narrows the whole test to its variants."""

    clauses: tuple[Clause, ...] = ()

    def variants(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return those of the configured variants that the test runs for, in the configured order.

        Raises:
            UnknownNameError: a mark names a variant that is not configured.

        """
        known = tuple(names)
        for pattern in (pattern for clause in self.clauses for pattern in clause.patterns):
            if not any(fnmatchcase(name, pattern) for name in known):
                raise UnknownNameError("variant", pattern, known, "see [tool.quantgate.variants]")
        gated = [clause for clause in self.clauses if clause.gates]
        narrowing = [clause for clause in self.clauses if not clause.gates]
        return tuple(
            name
            for name in known
            if all(clause.selects(name) for clause in narrowing)
            and (not gated or any(clause.selects(name) for clause in gated))
        )

    def gates(self, variant: str) -> tuple[Asked, ...]:
        """Return the gates that must hold for one variant, each once."""
        selected = (
            Asked(gate, clause.confidence, clause.stop_early)
            for clause in self.clauses
            if clause.selects(variant)
            for gate in clause.gates
        )
        return tuple(dict.fromkeys(selected))


def demand_of(marks: Iterable[Mark]) -> Demand:
    """Read a test's marks.

    Raises:
        UsageError: a mark's arguments cannot be used.

    """
    return Demand(tuple(clause_of(mark) for mark in marks))


def clause_of(mark: Mark) -> Clause:
    """Read one mark.

    Raises:
        UsageError: its arguments cannot be used.

    """
    unknown = sorted(set(mark.kwargs) - set(_KEYWORDS))
    if unknown:
        raise UsageError(
            f"quantgate() has no argument {unknown[0]!r}; it takes gates, variants=[...], confidence=... and"
            " stop_early=..."
        )
    named, confidence, stop_early = (mark.kwargs.get(name) for name in _KEYWORDS)
    if isinstance(named, str) or not all(isinstance(name, str) for name in named or ()):
        raise UsageError(f"variants={named!r}: give a list of names or patterns, e.g. variants=['gptq-*']")
    if stop_early is not None and not isinstance(stop_early, bool):
        raise UsageError(f"stop_early={stop_early!r}: write True or False")
    gates = tuple(as_gate(argument) for argument in mark.args)
    return Clause(gates, tuple(named or ()), as_confidence(confidence), stop_early)


def as_confidence(value: object) -> float | None:
    """Return a level between 0 and 1, both left out; None for none.

    Raises:
        UsageError: it is something else.

    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise UsageError(f"confidence={value!r}: write a number between 0 and 1, e.g. confidence=0.95")
    return float(value)
