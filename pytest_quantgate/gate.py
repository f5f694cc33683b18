"""The gate language in Python: metrics, comparisons, and what joins them.

`ppl.delta < 1.0` is a `Comparison`; `&`, `|` and `~` join gates to `And`, `Or` and `Not`. All are frozen
values with structural equality, so a plan can deduplicate them. `str(gate)` is the text form, which `parse`
reads back to an equal gate; `repr(gate)` is the Python form.

Python turns `and`, `or`, `not` and `0 < m < 1` into a question for a truth value, which no gate has before it
is measured: they raise a `GateError` that says what to write.
"""

from __future__ import annotations

import keyword
import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, NoReturn, TypeAlias

from pytest_quantgate.errors import GateError
from pytest_quantgate.units import Operand, Quantity

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_quantgate.spec import Scalar

    Lookup: TypeAlias = Callable[["Comparison"], bool | None]

__all__ = ["RELATIONS", "SINCE", "And", "Comparison", "Gate", "Metric", "Not", "Operator", "Or", "refine"]

Operator: TypeAlias = Literal["<", "<=", ">", ">="]

RELATIONS = ("delta", "ratio", "log_ratio", "drop", "recovery", "over_floor", "within_expected")
"""How a variant's value is set against the baseline's, its noise, or what its format usually costs; any other attribute
names a statistic."""

SINCE = "since"
"""The word before a metric of which the same variant's value in an earlier run is what it is set against."""

_FIELDS = ("name", "arguments", "statistic", "relation", SINCE, "key")
_POSITIONAL = "of"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Metric(Operand):
    """A measurable number: `ppl`, `kld.p99`, `ppl(protocol="gptq").delta`.

    It compares by `< <= > >=` with an int, a float or a `Quantity`, which makes a gate. `==` is structural.

    Attributes:
        name: the registered name.
        arguments: (name, value) pairs in the order of their names; a positional one is named "of".
        statistic: which sub-quantity, e.g. "p99"; empty for a metric of one number.
        relation: one of `RELATIONS`; empty for the absolute value.
        since: an earlier run whose value of the same variant takes the baseline's place; empty for the baseline.

    """

    name: str
    arguments: tuple[tuple[str, Scalar], ...] = ()
    statistic: str = ""
    relation: str = ""
    since: str = ""

    def __post_init__(self) -> None:
        _check_name("metric", self.name, (SINCE,))
        if not self.since.isprintable():
            raise GateError(f"since({self.since!r}): name a run by its id, its tag or the path of its report")
        if self.statistic:
            _check_name("statistic", self.statistic, (*_FIELDS, *RELATIONS))
        if self.relation not in ("", *RELATIONS):
            raise GateError(f"unknown relation {self.relation!r}; there are {', '.join(RELATIONS)}")
        arguments = sorted((_argument(*pair) for pair in self.arguments), key=lambda pair: pair[0])
        object.__setattr__(self, "arguments", tuple(arguments))

    @property
    def key(self) -> str:
        """The canonical text, e.g. "kld(protocol='gptq').mean.delta"; equal metrics have equal keys."""
        values = dict(self.arguments)
        inside = [repr(values.pop(_POSITIONAL))] if _POSITIONAL in values else []
        inside += [f"{name}={value!r}" for name, value in values.items()]
        call = f"({', '.join(inside)})" if inside else ""
        earlier = f"{SINCE}({self.since!r})" if self.since else ""
        return ".".join(filter(None, (earlier, self.name + call, self.statistic, self.relation)))

    def __getattr__(self, name: str) -> Metric:
        # copy, pickle and test tools probe private names; an unset field would come here for ever
        if name.startswith("_") or name in _FIELDS:
            raise AttributeError(f"a metric has no attribute {name!r}")
        return refine(self, name)

    def __call__(self, /, *positional: Scalar, **named: Scalar) -> Metric:
        """Return the metric measured with these arguments; the definition says which it takes."""
        if self.arguments or self.statistic or self.relation:
            raise GateError(f"arguments go once, right after the name: {self.name}(...), not {self}(...)")
        if len(positional) > 1 or (positional and _POSITIONAL in named):
            raise GateError(f"{self.name}(...) takes one positional argument; name the others")
        if positional:
            named[_POSITIONAL] = positional[0]
        return replace(self, arguments=tuple(named.items()))

    def __lt__(self, limit: float | Quantity) -> Comparison:
        return Comparison(self, "<", Quantity.of(limit))

    def __le__(self, limit: float | Quantity) -> Comparison:
        return Comparison(self, "<=", Quantity.of(limit))

    def __gt__(self, limit: float | Quantity) -> Comparison:
        return Comparison(self, ">", Quantity.of(limit))

    def __ge__(self, limit: float | Quantity) -> Comparison:
        return Comparison(self, ">=", Quantity.of(limit))

    # by key and not by fields: window=1 and window=True are two protocols, though 1 == True
    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Metric) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def __bool__(self) -> NoReturn:
        raise GateError(f"a metric is not a gate; compare it with a limit: {self} < 1.0")

    __invert__ = __bool__

    def __str__(self) -> str:
        return self.key

    __repr__ = __str__


class Gate(ABC):
    """A condition on metrics, to be judged once they are measured."""

    __slots__ = ()
    precedence: ClassVar[int]

    @abstractmethod
    def comparisons(self) -> tuple[Comparison, ...]:
        """Return the distinct comparisons, in the order in which they are written."""

    @abstractmethod
    def evaluate(self, lookup: Lookup) -> bool | None:
        """Judge in Kleene's three-valued logic; `lookup` returns None for what could not be measured."""

    def metrics(self) -> tuple[Metric, ...]:
        """Return the distinct metrics, in the order in which they are written."""
        return tuple(dict.fromkeys(comparison.metric for comparison in self.comparisons()))

    def __and__(self, other: Gate) -> And:
        return And((self, other)) if _is_gate(other) else NotImplemented

    def __or__(self, other: Gate) -> Or:
        return Or((self, other)) if _is_gate(other) else NotImplemented

    __rand__ = __and__
    __ror__ = __or__

    def __invert__(self) -> Not:
        return Not(self)

    def __bool__(self) -> NoReturn:
        raise GateError(
            f"`{self!r}` has no truth value: join gates with & | ~ instead of and, or, not, or stack "
            "decorators; instead of 0 < m < 1 write (m > 0) & (m < 1)"
        )


@dataclass(frozen=True, slots=True, repr=False)
class Comparison(Gate):
    """A metric against its limit."""

    precedence: ClassVar[int] = 3
    metric: Metric
    operator: Operator
    limit: Quantity

    def __post_init__(self) -> None:
        if self.metric.since and not self.metric.relation:
            raise GateError(
                f"{self.metric} is set against an earlier run; say how: write {self.metric}.delta or .ratio"
            )

    def comparisons(self) -> tuple[Comparison, ...]:
        """Return itself."""
        return (self,)

    def evaluate(self, lookup: Lookup) -> bool | None:
        """Return what `lookup` says."""
        return lookup(self)

    def __str__(self) -> str:
        return f"{self.metric} {self.operator} {self.limit}"

    def __repr__(self) -> str:
        return f"{self.metric!r} {self.operator} {self.limit if self.limit.unit else self.limit.value!r}"


@dataclass(frozen=True, slots=True, repr=False)
class _Joined(Gate):
    """Two gates or more under one operator; parts of the same kind are taken in."""

    word: ClassVar[str]
    sign: ClassVar[str]
    decisive: ClassVar[bool]  # the result of one part that settles the whole
    parts: tuple[Gate, ...]

    def __post_init__(self) -> None:
        nested = (part.parts if isinstance(part, type(self)) else (part,) for part in self.parts)
        flat = tuple(part for parts in nested for part in parts)
        if not flat[1:]:
            raise GateError(f"{type(self).__name__} joins two gates or more, not {len(flat)}")
        object.__setattr__(self, "parts", flat)

    def comparisons(self) -> tuple[Comparison, ...]:
        """Return the distinct comparisons of all parts."""
        return tuple(dict.fromkeys(found for part in self.parts for found in part.comparisons()))

    def evaluate(self, lookup: Lookup) -> bool | None:
        """Return the decisive result if a part has it, else None if a part is unknown, else the other."""
        results = [part.evaluate(lookup) for part in self.parts]
        known = self.decisive if self.decisive in results else not self.decisive
        return None if None in results and known is not self.decisive else known

    def __str__(self) -> str:
        return f" {self.word} ".join(_within(self, part, str) for part in self.parts)

    def __repr__(self) -> str:
        return f" {self.sign} ".join(_within(self, part, repr) for part in self.parts)


class And(_Joined):
    """All parts must hold."""

    __slots__ = ()
    precedence = 1
    word, sign, decisive = "and", "&", False


class Or(_Joined):
    """At least one part must hold."""

    __slots__ = ()
    precedence = 0
    word, sign, decisive = "or", "|", True


@dataclass(frozen=True, slots=True, repr=False)
class Not(Gate):
    """The part must not hold."""

    precedence: ClassVar[int] = 2
    part: Gate

    def comparisons(self) -> tuple[Comparison, ...]:
        """Return the part's comparisons."""
        return self.part.comparisons()

    def evaluate(self, lookup: Lookup) -> bool | None:
        """Return the opposite of the part, or None if that is unknown."""
        result = self.part.evaluate(lookup)
        return None if result is None else not result

    def __str__(self) -> str:
        return f"not {_within(self, self.part, str)}"

    def __repr__(self) -> str:
        return f"~{_within(self, self.part, repr)}"


def refine(metric: Metric, name: str) -> Metric:
    """Return `metric.name`: with that relation if it is one of `RELATIONS`, else with that statistic.

    Raises:
        GateError: the metric has one already, a statistic follows a relation, or the name cannot be one.

    """
    if name in RELATIONS and not metric.relation:
        return replace(metric, relation=name)
    if name not in RELATIONS and not metric.statistic and not metric.relation:
        return replace(metric, statistic=name)
    raise GateError(
        f"{metric}.{name}: write one statistic and then one relation at most: token_latency.p99.delta"
    )


def _within(whole: Gate, part: Gate, form: Callable[[Gate], str]) -> str:
    # unlike `and`, Python's `&` binds tighter than `<`
    loose = part.precedence < whole.precedence or (form is repr and isinstance(part, Comparison))
    return f"({form(part)})" if loose else form(part)


def _is_gate(other: object) -> bool:
    """Tell gates from strangers, and name the mistake behind a number beside `&`."""
    if isinstance(other, bool):
        raise GateError("only < <= > >= make gates: == and != compare two expressions as values")
    if isinstance(other, int | float):
        raise GateError("put parentheses around each comparison: (ppl.delta < 1.0) & (kld.mean < 0.05)")
    return isinstance(other, Gate)


def _check_name(kind: str, name: str, taken: tuple[str, ...] = ()) -> None:
    if name in taken or keyword.iskeyword(name) or not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
        raise GateError(f"{name!r} is no {kind} name: use ASCII letters, digits, _; no word of Python")


def _argument(name: str, value: object) -> tuple[str, Scalar]:
    """Return an argument as a builtin type that is written alike wherever it is equal: no enum, no -0.0."""
    _check_name("argument", name)
    if isinstance(value, str) and value.isprintable():
        return name, "".join(value)
    if isinstance(value, int) and abs(value) < 2**63:
        return name, value if isinstance(value, bool) else int(value)
    if isinstance(value, float) and math.isfinite(value):
        return name, float(value) + 0.0
    raise GateError(f"{name}={value!r}: an argument is printable text, a number below 2**63, True or False")
