"""Gate text that is no gate: what the error says, where its carets point, and that it is fit for a terminal."""

from __future__ import annotations

import sys

import pytest

from pytest_quantgate.errors import GateSyntaxError
from pytest_quantgate.gate import Metric
from pytest_quantgate.parse import MAX_DEPTH, MAX_LENGTH, parse

A = Metric("a") < 1

CARETS = """
# text, caret line, message: one blank line between cases

|
|^
expected a gate such as ppl.delta < 1.0, found the end of the text

|ppl.delta
|         ^
a gate needs a limit, e.g. ppl.delta < 1.0

|(ppl and kld.mean < 1
|    ^
a gate needs a limit, e.g. ppl < 1.0

|0 < ppl.delta < 1
|              ^^^
comparisons do not chain: write ppl.delta > 0 and ppl.delta < 1

|vram<1GiB<2 GiB and a<1
|         ^^^^^^
comparisons do not chain: write vram < 1GiB and vram < 2GiB

|a < 1 < b
|      ^
comparisons do not chain: write a < 1 and the second comparison

|ppl == 1
|    ^^
only < <= > >= make gates, not '=='

|ppl != 1
|    ^^
only < <= > >= make gates, not '!='

|ppl = 1
|    ^
only < <= > >= make gates, not '='

|ppl =< 1
|    ^^
write <=, not '=<'

|ppl ≥ 1
|    ^
write >= for ≥

|a<1 & b<2
|    ^
write 'and', not '&'

|a<1 && b<2
|    ^^
write 'and', not '&&'

|a<1 || b<2
|    ^^
write 'or', not '||'

|~a<1
|^
write 'not', not '~'

|a<1 AND b<2
|    ^^^
write 'and', not 'AND'

|a<1 b<2
|    ^
unknown unit 'b'; did you mean 'B'?

|vram < 2gib
|        ^^^
unknown unit 'gib'; did you mean 'GiB'?

|ttft < 70 µs or a<1
|          ^^
unknown unit 'µs'; did you mean 'us'?

|a < 1_000
|     ^^^^
unknown unit '_000'; units are % B KB MB GB TB KiB MiB GiB TiB us ms s min h tok/s

|a < 1e999
|    ^^^^^
inf is no limit: write a finite number

|a < 1e308 TiB
|    ^^^^^^^^^
1e+308TiB is too large for a limit

|vram < GiB
|       ^^^
expected a limit: a number, with or without a unit, found 'GiB'

|ppl < kld
|      ^^^
expected a limit: a number, with or without a unit, found 'kld'

|ppl <
|     ^
expected a limit: a number, with or without a unit, found the end of the text

|1 < 2
|    ^
expected a metric, found '2'

|a < 1)
|     ^
expected 'and', 'or' or the end of the text, found ')'

|(a < 1
|      ^
expected ')', 'and' or 'or', found the end of the text

|a<1 and
|       ^
expected a metric, found the end of the text

|a<1 or and b<2
|       ^^^
expected a metric, found 'and'

|ppl delta < 1
|    ^^^^^
expected < <= > or >= after ppl, found 'delta'

|ppl. < 1
|     ^
expected a statistic or relation after '.', found '<'

|a<1 and ppl.delta.ratio < 1
|        ^^^^^^^^^^^^^^^
ppl.delta.ratio: write one statistic and then one relation at most: token_latency.p99.delta

|ppl.name < 1
|^^^^^^^^
'name' is no statistic name: use ASCII letters, digits, _; no word of Python

|lambda < 1
|^^^^^^
'lambda' is no metric name: use ASCII letters, digits, _; no word of Python

|ppl_delta(window=1) < 1
|^^^^^^^^^^^^^^^^^^^
arguments go once, right after the name: ppl(...), not ppl.delta(...)

|ppl(1, 2) < 1
|^^^^^^^^^
ppl(...) takes one positional argument; name the others

|ppl(a=1, a=2) < 1
|         ^^
argument 'a' is given twice

|ppl(a=1, 2) < 1
|         ^
expected NAME=VALUE after a named argument, found '2'

|ppl(gptq) < 1
|        ^
expected '=' and a value after gptq (text stands in quotes: 'gptq'), found ')'

|ppl(a=gptq) < 1
|      ^^^^
expected a quoted string, a number, true or false, found 'gptq'

|ppl(a='gptq) < 1
|      ^
the quoted string does not end

|ppl(a='x\\d') < 1
|        ^^
write \\\\ for a backslash

|ppl(a=99999999999999999999) < 1
|^^^^^^^^^^^^^^^^^^^^^^^^^^^
a=99999999999999999999: an argument is printable text, a number below 2**63, True or False

|é < 1
|^
expected a metric, found 'é'
"""


def _cases() -> list[tuple[str, str, str]]:
    blocks = [block.splitlines() for block in CARETS.strip().split("\n\n")[1:]]
    return [(text[1:], carets[1:], message) for text, carets, message in blocks]


@pytest.mark.parametrize(("text", "carets", "message"), _cases())
def test_carets(text: str, carets: str, message: str) -> None:
    """A mistake is named in one line and pointed at."""
    with pytest.raises(GateSyntaxError) as caught:
        parse(text)
    assert f"{message}\n    {text}\n    {carets}" == str(caught.value)
    assert (text, message) == (caught.value.source, caught.value.message)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\0a < 1", "expected a metric, found the character U+0000\n    \ufffda < 1\n    ^"),
        ("a < 1\x1b[31m", "found the character U+001B\n    a < 1\ufffd[31m\n         ^"),
        ("a < 1\nand b", "a gate needs a limit, e.g. b < 1.0\n    a < 1 and b\n               ^"),
        ("ppl(a='x\ny') < 1", "True or False\n    ppl(a='x y') < 1\n    ^^^^^^^^^^^^"),
        ("\ud800 < 1", "found the character U+D800\n    \ufffd < 1\n    ^"),
    ],
)
def test_unprintable(text: str, shown: str) -> None:
    """Control characters reach no terminal, and the carets still stand under the place."""
    with pytest.raises(GateSyntaxError) as caught:
        parse(text)
    assert str(caught.value).endswith(shown)


def test_long_text_is_cut() -> None:
    """Of a long text the error shows the neighbourhood of the place, with the carets under it."""
    text = " and ".join(["ppl.delta < 1"] * 100 + ["vram < 2gib"] + ["ppl.delta < 1"] * 100)
    with pytest.raises(GateSyntaxError) as caught:
        parse(text)
    _, line, carets = str(caught.value).splitlines()
    assert len(line) < 110
    assert line[carets.index("^") : carets.rindex("^") + 1] == "gib"


def test_too_long() -> None:
    """Text over the limit is refused, and text at the limit is read."""
    assert parse("a < 1".ljust(MAX_LENGTH)) == A
    with pytest.raises(GateSyntaxError, match="at most 10,000 characters, this text has 10,001"):
        parse("a < 1".ljust(MAX_LENGTH + 1))


@pytest.mark.parametrize("opening", ["(", "not ", "not("])
def test_nesting(opening: str) -> None:
    """Nesting is read to its limit and refused beyond it, however deep the text is."""
    count = opening.count("(") + opening.count("not")
    deepest = MAX_DEPTH // count
    closing = ")" * opening.count("(")
    assert parse(opening * deepest + "a < 1" + closing * deepest).metrics() == (Metric("a"),)
    for depth in (deepest + 1, 1900):
        with pytest.raises(GateSyntaxError, match="nest at most 64 deep"):
            parse(opening * depth + "a < 1" + closing * depth)


def test_depth_counts_nesting_not_length() -> None:
    """Many brackets side by side are not deep."""
    assert len(parse(" and ".join(["(not a < 1)"] * 200)).parts) == 200


def test_text_alone_has_no_pitfall_of_python() -> None:
    """Digits beyond what Python's int() takes are refused, not raised as ValueError."""
    many = "9" * (sys.get_int_max_str_digits() + 1)
    for text in (f"a < {many}", f"a(b={many}) < 1", f"a(b=0.{many}e{many}) < 1"):
        with pytest.raises(GateSyntaxError):
            parse(text)
