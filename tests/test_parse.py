"""Gate text: what parses to what, its laws, and that any other text is refused in the one way."""

from __future__ import annotations

import contextlib

import pytest
from gate_strategies import gates, metrics
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_quantgate.errors import GateError, GateSyntaxError
from pytest_quantgate.gate import Gate, Metric
from pytest_quantgate.parse import parse, parse_metric
from pytest_quantgate.terms import kld, metric, ppl, ppl_delta, top1_agreement, ttft, vram
from pytest_quantgate.units import GiB, ms, percent, tok_s

A, B, C = Metric("a") < 1, Metric("b") < 2, Metric("c") < 3


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("ppl_delta < 1", ppl_delta < 1),
        ("ppl.delta<1.0", ppl_delta < 1),
        ("1.0 > ppl.delta", ppl_delta < 1),
        ("1 <= ppl", ppl >= 1),
        ("ppl > -1e-3", ppl > -0.001),
        ("ppl > +.5", ppl > 0.5),
        ("ppl > 5.", ppl > 5),
        ("vram < 2GiB and ttft < 70ms", (vram < 2 * GiB) & (ttft < 70 * ms)),
        ("vram < 2 GiB and ttft<70 ms", (vram < 2 * GiB) & (ttft < 70 * ms)),
        ("2GiB > vram", vram < 2 * GiB),
        ("2 GiB >= vram.reserved", vram.reserved <= 2 * GiB),
        ("kld.mean < 5%", kld.mean < 5 * percent),
        ("kld.mean < 5 %and a<1", (kld.mean < 5 * percent) & A),
        ("tokens_per_second >= 30 tok/s", metric("tokens_per_second") >= 30 * tok_s),
        ("kld.p99.ratio < 2", kld.p99.ratio < 2),
        ("humaneval.drop <= 0.05", metric("humaneval").drop <= 0.05),
        ('mmlu("stem").drop < 0.05', metric("mmlu")("stem").drop < 0.05),
        ("mmlu('stem', shots=5) > 0.4", metric("mmlu")("stem", shots=5) > 0.4),
        ('ppl(protocol="gptq", window=2048).delta < 1', ppl(protocol="gptq", window=2048).delta < 1),
        ("ppl(x=1e3, y=true, z=False,).delta < 1", ppl(x=1000.0, y=True, z=False).delta < 1),
        ("ppl(x=-7) < 1", ppl(x=-7) < 1),
        ("ppl(true) < 1", ppl(True) < 1),
        ("ppl() < 1", ppl < 1),
        ("ppl(self=1, name=2) < 1", ppl(self=1, name=2) < 1),
        (r"""ppl(x='it\'s', y="C:\\a \"b\"") < 1""", ppl(x="it's", y='C:\\a "b"') < 1),
        ("a<1 and b<2 and c<3", A & B & C),
        ("a<1 or b<2 and c<3", A | B & C),
        ("(a<1 or b<2) and c<3", (A | B) & C),
        ("not a<1 and b<2", ~A & B),
        ("not (a<1 and b<2)", ~(A & B)),
        ("not not a<1", ~~A),
        ("(((a<1)))", A),
        ("not(a<1)or(b<2)", ~A | B),
        (" \t a < 1 and\n\tb < 2 \n", A & B),
        ("android < 1 and order < 2 or nothing < 3",
         (Metric("android") < 1) & (Metric("order") < 2) | (Metric("nothing") < 3)),
        ("ms < 5 ms", Metric("ms") < 5 * ms),
    ],
)  # fmt: skip
def test_texts(text: str, gate: Gate) -> None:
    """Text means what the same Python means."""
    assert parse(text) == gate


@given(gates())
def test_text_is_source(gate: Gate) -> None:
    """`parse(str(gate))` is the gate again."""
    assert parse(str(gate)) == gate


@given(metrics)
def test_metric_text_is_source(measured: Metric) -> None:
    """`parse_metric(str(metric))` is the metric again, and a limit after it is refused."""
    assert parse_metric(str(measured)) == measured
    with pytest.raises(GateSyntaxError, match="expected the end of the metric"):
        parse_metric(f"{measured} < 1")


@given(gates())
def test_fewest_parentheses(gate: Gate) -> None:
    """Leaving out any pair of parentheses around a gate changes the meaning or the syntax."""
    text = str(gate)
    for start, end in _pairs(text):
        shorter = f"{text[:start]} {text[start + 1 : end]} {text[end + 1 :]}"
        with contextlib.suppress(GateSyntaxError):
            assert parse(shorter) != gate


def _pairs(text: str) -> list[tuple[int, int]]:
    """Return the brackets that group, not those of calls or inside quotes."""
    if "'" in text or '"' in text:
        return []
    opened: list[tuple[int, bool]] = []
    found = []
    for at, char in enumerate(text):
        if char == "(":
            opened.append((at, at == 0 or text[at - 1] in " ("))
        elif char == ")":
            start, groups = opened.pop()
            found += [(start, at)] if groups else []
    return found


@given(gates(), st.sampled_from([" ", "\n", "\t", "  \r\n "]))
def test_blanks_do_not_matter(gate: Gate, blank: str) -> None:
    """Any white space stands for a blank between tokens."""
    text = str(gate)
    if "'" not in text and '"' not in text:
        assert parse(blank + text.replace(" ", blank) + blank) == gate


WORDS = st.sampled_from(
    [
        *"().,=<>&|~!%-'\"\\ \n\0",
        "and",
        "or",
        "not",
        "ppl",
        "delta",
        "1",
        "2.5",
        "1e",
        "GiB",
        "<=",
        "==",
        "true",
        "é",
        "\ud800",
    ]
)


def _refusal(text: str) -> GateSyntaxError | None:
    """Return why a text is no gate, or None; anything else that is raised passes through."""
    try:
        gate = parse(text)
    except GateSyntaxError as error:
        return error
    assert parse(str(gate)) == gate
    return None


@given(st.text() | st.lists(WORDS).map(" ".join) | st.lists(WORDS).map("".join))
@example("a(b='\\")
@example("a<1.")
@example("a<1e")
def test_any_text(text: str) -> None:
    """Any text at all is a gate or a `GateSyntaxError` that points into it."""
    error = _refusal(text)
    if error:
        assert isinstance(error, GateError)
        assert 0 <= error.span[0] <= error.span[1] <= len(text) + 1
        assert str(error).count("\n") == 2


@given(gates(), st.data())
def test_damaged_text(gate: Gate, data: st.DataObject) -> None:
    """A gate with a stretch cut out or repeated is a gate or a `GateSyntaxError`."""
    text = str(gate)
    start, end = sorted(data.draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
    for damaged in (text[:start] + text[end:], text[:end] + text[start:]):
        _refusal(damaged)


def test_example_of_the_study() -> None:
    """A text gate and the same gates joined in Python are one value, so that a plan measures them once."""
    text = "ppl_delta < 1.0 and kld.mean < 0.05 and top1_agreement > 0.9"
    assert parse(text) == (ppl_delta < 1.0) & (kld.mean < 0.05) & (top1_agreement > 0.9)
