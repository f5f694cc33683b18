"""Gate text to gate: `parse("vram < 2GiB and not kld.mean > 0.05")`.

The grammar, one rule per function; blanks and line ends may stand between any two tokens::

    gate       = or_expr END
    or_expr    = and_expr {"or" and_expr}
    and_expr   = not_expr {"and" not_expr}
    not_expr   = "not" not_expr | "(" or_expr ")" | comparison
    comparison = metric OPERATOR limit | limit OPERATOR metric
    metric     = ["since" "(" STRING ")" "."] NAME [arguments] {"." NAME}
    arguments  = "(" [argument {"," argument} [","]] ")"
    argument   = [NAME "="] value
    value      = STRING | NUMBER | "true" | "false"
    limit      = NUMBER [UNIT]

What it refuses raises a `GateSyntaxError` that points at the place, and never anything else: also where the
words are right and the metric is not (`ppl.delta.ratio`), or where the text is too long or too deep.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn, TypeVar, cast

from pytest_quantgate.errors import GateError, GateSyntaxError
from pytest_quantgate.gate import SINCE, And, Comparison, Gate, Metric, Not, Operator, Or, refine
from pytest_quantgate.terms import metric
from pytest_quantgate.units import UNITS, Quantity

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_quantgate.spec import Scalar

__all__ = ["parse", "parse_metric"]

MAX_LENGTH = 10_000
MAX_DEPTH = 64

_T = TypeVar("_T")

_BLANKS = re.compile(r"\s*", re.ASCII)
_RULES = {
    "name": re.compile(r"[A-Za-z_][A-Za-z0-9_]*"),
    "number": re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"),
    "operator": re.compile(r"[<>]=?(?!=)"),
    "string": re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL),
    "unit": re.compile(r"%|[^\W\d][\w/]*"),
    "quote": re.compile("['\"]"),
    "equals": re.compile(r"=(?!=)"),
    **{sign: re.compile(re.escape(sign)) for sign in "().,"},
    **{word: re.compile(rf"{word}\b") for word in ("and", "or", "not")},
}
_WORD_OR_SIGN = re.compile(r"\w+|[<>=!&|~]+|.", re.DOTALL)
_KEYWORDS = ("and", "or", "not")
_MIRRORED: dict[str, Operator] = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_CONSTANTS = {"true": True, "True": True, "false": False, "False": False}
_EQUALITY = "only < <= > >= make gates"
_ADVICE = {
    **dict.fromkeys(("&", "&&", "AND", "And"), "write 'and'"),
    **dict.fromkeys(("|", "||", "OR", "Or"), "write 'or'"),
    **dict.fromkeys(("~", "!", "NOT", "Not"), "write 'not'"),
    **dict.fromkeys(("=", "==", "!=", "<>", "is", "in"), _EQUALITY),
    **dict.fromkeys(("=<", "\u2264"), "write <="),
    **dict.fromkeys(("=>", "\u2265"), "write >="),
}


def parse(text: str) -> Gate:
    """Return the gate that a text stands for; `parse(str(gate)) == gate`.

    Raises:
        GateSyntaxError: the text is no gate; the message shows where and says what to write.

    """
    if len(text) > MAX_LENGTH:
        raise GateSyntaxError(
            f"a gate has at most {MAX_LENGTH:,} characters, this text has {len(text):,}",
            text,
            (MAX_LENGTH, len(text)),
        )
    return _gate(_Source(text))


def parse_metric(text: str) -> Metric:
    """Return the metric that a text stands for, e.g. "kld.p99"; `parse_metric(str(metric)) == metric`.

    Raises:
        GateSyntaxError: the text is no metric.

    """
    source = _Source(text)
    measured = _metric(source)
    if source.position < len(text):
        source.unexpected("the end of the metric")
    return measured


class _Source:
    """Gate text and how far it is read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.depth = 0
        self.position = self.end = 0  # where the next token begins, and where the last one ended
        self.advance(0)

    def advance(self, end: int) -> None:
        self.end = end
        blanks = _BLANKS.match(self.text, end)
        self.position = blanks.end() if blanks else end

    def peek(self, rule: str) -> str:
        found = _RULES[rule].match(self.text, self.position)
        return found[0] if found else ""

    def take(self, rule: str) -> str:
        """Read a token of that rule if it comes next; "" if not."""
        found = self.peek(rule)
        if found:
            self.advance(self.position + len(found))
        return found

    def expect(self, rule: str, expected: str) -> str:
        return self.take(rule) or self.unexpected(expected)

    def unexpected(self, expected: str) -> NoReturn:
        """Refuse what comes next: by the advice that there is for it, or by what was expected."""
        found = _WORD_OR_SIGN.match(self.text, self.position)
        if not found:
            self.refuse(f"expected {expected}, found the end of the text", (self.position, self.position))
        token = found[0]
        if not token.isprintable():
            message = f"expected {expected}, found the character U+{ord(token[0]):04X}"
        elif token in _ADVICE:
            message = (
                f"{_ADVICE[token]}, not {token!r}" if token.isascii() else f"{_ADVICE[token]} for {token}"
            )
        else:
            message = f"expected {expected}, found {token!r}"
        self.refuse(message, found.span())

    def refuse(self, message: str, span: tuple[int, int]) -> NoReturn:
        raise GateSyntaxError(message, self.text, span)

    def checked(self, start: int, build: Callable[[], _T]) -> _T:
        """Build a value from the tokens since `start`; what it refuses is refused at these tokens."""
        try:
            return build()
        except GateError as error:
            raise GateSyntaxError(str(error), self.text, (start, self.end)) from None


def _gate(source: _Source) -> Gate:
    """`gate = or_expr END`."""
    if source.position == len(source.text):
        source.unexpected("a gate such as ppl.delta < 1.0")
    gate = _or_expr(source)
    if source.position < len(source.text):
        source.unexpected("'and', 'or' or the end of the text")
    return gate


def _or_expr(source: _Source) -> Gate:
    """`or_expr = and_expr {"or" and_expr}`."""
    parts = [_and_expr(source)]
    while source.take("or"):
        parts.append(_and_expr(source))
    return Or(tuple(parts)) if parts[1:] else parts[0]


def _and_expr(source: _Source) -> Gate:
    """`and_expr = not_expr {"and" not_expr}`."""
    parts = [_not_expr(source)]
    while source.take("and"):
        parts.append(_not_expr(source))
    return And(tuple(parts)) if parts[1:] else parts[0]


def _not_expr(source: _Source) -> Gate:
    """`not_expr = "not" not_expr | "(" or_expr ")" | comparison`."""
    start = source.position
    opening = source.take("not") or source.take("(")
    if not opening:
        return _comparison(source)
    source.depth += 1
    if source.depth > MAX_DEPTH:
        source.refuse(f"gates nest at most {MAX_DEPTH} deep", (start, source.end))
    if opening == "(":
        gate = _or_expr(source)
        source.expect(")", "')', 'and' or 'or'")
    else:
        gate = Not(_not_expr(source))
    source.depth -= 1
    return gate


def _comparison(source: _Source) -> Gate:
    """`comparison = metric OPERATOR limit | limit OPERATOR metric`."""
    if source.peek("number"):
        limit = _limit(source)
        sign = source.expect("operator", f"< <= > or >= after {limit}")
        start = source.position
        measured = _metric(source)
        comparison = source.checked(start, lambda: Comparison(measured, _MIRRORED[sign], limit))
    else:
        start = source.position
        measured = _metric(source)
        sign = _operator_after(source, measured)
        limit = _limit(source)
        comparison = source.checked(start, lambda: Comparison(measured, cast("Operator", sign), limit))
    if source.peek("operator"):
        _refuse_chain(source, comparison)
    return comparison


def _operator_after(source: _Source, measured: Metric) -> str:
    """Read the operator after a metric, which people forget together with the limit."""
    bare = source.position == len(source.text) or source.peek(")") or source.peek("and") or source.peek("or")
    if bare:
        source.refuse(f"a gate needs a limit, e.g. {measured} < 1.0", (source.end, source.end + 1))
    return source.expect("operator", f"< <= > or >= after {measured}")


def _refuse_chain(source: _Source, first: Comparison) -> NoReturn:
    """Refuse `0 < m < 1`, and say how to write it."""
    start = source.position
    sign = source.take("operator")
    number = source.take("number")
    second = f"{first.metric} {sign} {number}{source.take('unit')}" if number else "the second comparison"
    source.refuse(f"comparisons do not chain: write {first} and {second}", (start, source.end))


def _metric(source: _Source) -> Metric:
    """`metric = ["since" "(" STRING ")" "."] NAME [arguments] {"." NAME}`."""
    start = source.position
    if source.peek("name") in _KEYWORDS:
        source.unexpected("a metric")
    name = source.expect("name", "a metric")
    if name == SINCE:
        run = _run(source)
        name = source.expect("name", "a metric")
        measured = source.checked(start, lambda: replace(metric(name), since=run))
    else:
        measured = source.checked(start, lambda: metric(name))
    while source.peek(".") or source.peek("("):
        measured = source.checked(start, _suffix(source, measured))
    return measured


def _run(source: _Source) -> str:
    """Read `"(" STRING ")" "."` after "since"."""
    start = source.position
    source.expect("(", "'(' and an earlier run: since('v1.2').ppl.delta")
    if not source.peek("quote"):
        source.unexpected("a run in quotes: since('v1.2').ppl.delta")
    run = str(_value(source))
    source.expect(")", "')'")
    if not run:
        source.refuse(
            "since('') names no run; write its id, its tag or its report's path", (start, source.end)
        )
    source.expect(".", f"'.' and a metric after since({run!r})")
    return run


def _suffix(source: _Source, measured: Metric) -> Callable[[], Metric]:
    """Read what follows a metric; the metric itself says whether it may."""
    if source.take("."):
        attribute = source.expect("name", "a statistic or relation after '.'")
        return lambda: refine(measured, attribute)
    positional, named = _arguments(source)
    return lambda: measured(*positional, **named)


def _arguments(source: _Source) -> tuple[list[Scalar], dict[str, Scalar]]:
    """`arguments = "(" [argument {"," argument} [","]] ")"`."""
    positional: list[Scalar] = []
    named: dict[str, Scalar] = {}
    source.expect("(", "'('")
    while not source.peek(")"):
        _argument(source, positional, named)
        if not source.take(","):
            break
    source.expect(")", "',' or ')'")
    return positional, named


def _argument(source: _Source, positional: list[Scalar], named: dict[str, Scalar]) -> None:
    """`argument = [NAME "="] value`."""
    start = source.position
    name = source.take("name") if source.peek("name") not in _CONSTANTS else ""
    if not name:
        if named:
            source.unexpected("NAME=VALUE after a named argument")
        positional.append(_value(source))
        return
    if not source.take("equals"):
        source.unexpected(f"'=' and a value after {name} (text stands in quotes: {name!r})")
    if name in named:
        source.refuse(f"argument {name!r} is given twice", (start, source.end))
    named[name] = _value(source)


def _value(source: _Source) -> Scalar:
    """`value = STRING | NUMBER | "true" | "false"`."""
    start = source.position
    number = source.take("number")
    if number:
        whole = number.lstrip("+-").isdigit()
        return source.checked(start, lambda: _whole(number) if whole else Quantity(float(number)).value)
    if source.peek("name") in _CONSTANTS:
        return _CONSTANTS[source.take("name")]
    if source.peek("quote") and not source.peek("string"):
        source.refuse("the quoted string does not end", (start, start + 1))
    string = source.expect("string", "a quoted string, a number, true or false")
    wrong = re.search(r"""\\[^\\'"]""", string.replace("\\\\", "  "))
    if wrong:
        source.refuse(r"write \\ for a backslash", (start + wrong.start(), start + wrong.end()))
    return re.sub(r"\\(.)", r"\1", string[1:-1])


def _whole(number: str) -> int:
    if len(number) > 20:  # noqa: PLR2004 (a sign and the 19 digits of 2**63)
        raise GateError("a number argument is below 2**63")
    return int(number)


def _limit(source: _Source) -> Quantity:
    """`limit = NUMBER [UNIT]`."""
    start = source.position
    number = source.expect("number", "a limit: a number, with or without a unit")
    unit, unit_start = "", source.position
    if source.peek("unit") not in (*_KEYWORDS, *_ADVICE):
        unit = source.take("unit")
    wrong = start if unit in UNITS else unit_start
    return source.checked(wrong, lambda: Quantity(float(number), unit))
