"""Verdicts: gates judged by estimates."""

from __future__ import annotations

import itertools
import json
import math

import gate_strategies as gs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantgate.errors import NotMeasurableError, ObservationError
from pytest_quantgate.gate import And, Comparison, Metric, Not
from pytest_quantgate.spec import Estimate
from pytest_quantgate.units import GB, MiB, Quantity, ms, percent
from pytest_quantgate.verdict import Check, Verdict, judge

ppl, kld, vram, ttft, top1 = map(Metric, ("ppl", "kld", "vram", "ttft", "top1_agreement"))
unhurried = settings(deadline=None)  # shared machines pause
CLOSE = "; too close to call: the interval contains the limit"
ABSENT = NotMeasurableError("no CUDA device")

finite = st.floats(allow_nan=False, allow_infinity=False)
estimates = st.builds(
    Estimate,
    st.floats(),
    st.sampled_from(["", "B", "s", "tok/s", "nat"]),
    st.integers(0, 10**9),
    st.none() | st.floats(),
    st.none() | st.floats(),
    st.text(max_size=5),
)
NAMES = ("a", "b", "c")
small_comparisons = st.builds(
    Comparison,
    st.sampled_from(NAMES).map(Metric),
    st.sampled_from(["<", "<=", ">", ">="]),
    st.integers(-2, 2).map(Quantity),
)
small_gates = gs.gates(small_comparisons)
tables = st.fixed_dictionaries(
    {Metric(name): st.integers(-3, 3).map(lambda v: Estimate(float(v))) | st.just(ABSENT) for name in NAMES}
)


def judged(gate, **values):
    """Judge with values by metric name; a number is an estimate."""
    found = {
        name: value if isinstance(value, Estimate | Exception) else Estimate(value)
        for name, value in values.items()
    }
    return judge(gate, lambda metric: found[metric.name])


# --- one comparison ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "value", "holds", "margin"),
    [
        (ppl < 1, 0.5, True, 0.5),
        (ppl < 1, 1.0, False, 0.0),
        (ppl < 1, math.nextafter(1, 0), True, 2**-53),
        (ppl < 1, math.nextafter(1, 2), False, -(2**-52)),
        (ppl <= 1, 1.0, True, 0.0),
        (ppl <= 1, 1.5, False, -0.5),
        (ppl > 1, 1.5, True, 0.5),
        (ppl > 1, 1.0, False, 0.0),
        (ppl >= 1, 1.0, True, 0.0),
        (ppl >= 1, 0.25, False, -0.75),
        (ppl < -1, -1.5, True, 0.5),
    ],
)
def test_comparison_is_exact_at_the_limit(gate, value, holds, margin):
    """Each operator decides on the exact value; the margin is signed so that a miss is negative."""
    verdict = judged(gate, ppl=value)
    assert verdict.outcome == ("PASS" if holds else "FAIL")
    assert (verdict.checks[0].holds, verdict.checks[0].margin) == (holds, margin)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "gate", [ppl < 1, ppl > 1, ppl <= 1, ppl >= 1, ~(ppl < 1), ~(ppl > 1), ~~(ppl < 1)], ids=str
)
def test_value_that_is_not_finite_never_passes(gate, value):
    """NaN and infinities fail every comparison, under `not` as well, and say so."""
    verdict = judged(gate, ppl=value)
    assert verdict.outcome == "FAIL"
    assert verdict.checks[0].estimate is None
    assert "not a finite number" in verdict.explain()


def test_failed_observation_fails_and_unmeasurable_one_does_not_decide():
    """An observation without usable numbers is a miss; a machine that cannot measure is no verdict at all."""
    assert judged(ppl < 1, ppl=ObservationError("logits are NaN")).outcome == "FAIL"
    verdict = judged(ppl < 1, ppl=ABSENT)
    assert (verdict.outcome, verdict.passed, verdict.reason) == ("UNMEASURED", False, "no CUDA device")


@pytest.mark.parametrize(
    ("low", "high", "close"),
    [
        (0.5, 0.9, False),
        (0.5, 1.0, True),
        (0.5, 1.1, True),
        (1.0, 1.1, True),
        (1.01, 1.1, False),
        (None, 2.0, False),
    ],
)
def test_close_is_an_interval_that_contains_the_limit(low, high, close):
    """Ends count as inside; without both ends nothing is called close."""
    verdict = judged(ppl < 1, ppl=Estimate(0.8, low=low, high=high))
    assert (verdict.close, verdict.checks[0].close) == (close, close)


def test_close_check_makes_a_close_verdict_only_if_it_decides():
    """A clear miss beside a doubtful one leaves no doubt."""
    doubtful = Estimate(1.1, low=0.9, high=1.3)
    both = (ppl < 1) & (kld < 1)
    assert judged(both, ppl=doubtful, kld=0.5).close
    assert not judged(both, ppl=doubtful, kld=2.0).close
    assert not judged((ppl < 1) | (kld < 1), ppl=doubtful, kld=0.5).close
    assert not judged(both, ppl=doubtful, kld=ABSENT).passed


# --- several comparisons ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("left", "right"), itertools.product([0.5, 2.0, ABSENT], repeat=2))
def test_kleene_tables(left, right):
    """`and` fails with either part, `or` holds with either, and what is left over is unmeasured."""
    known = {0.5: True, 2.0: False, ABSENT: None}
    a, b = known[left], known[right]
    name = {True: "PASS", False: "FAIL", None: "UNMEASURED"}
    conjunction = False if False in (a, b) else None if None in (a, b) else True
    disjunction = True if True in (a, b) else None if None in (a, b) else False
    assert judged((ppl < 1) & (kld < 1), ppl=left, kld=right).outcome == name[conjunction]
    assert judged((ppl < 1) | (kld < 1), ppl=left, kld=right).outcome == name[disjunction]


@unhurried
@given(small_gates, tables)
def test_outcome_is_what_the_gate_itself_evaluates_to(gate, table):
    """Pushing `not` into the comparisons changes no outcome of finite and absent values."""
    compare = {"<": float.__lt__, "<=": float.__le__, ">": float.__gt__, ">=": float.__ge__}

    def truth(comparison):
        found = table[comparison.metric]
        return None if found is ABSENT else compare[comparison.operator](found.value, comparison.limit.si)

    expected = {True: "PASS", False: "FAIL", None: "UNMEASURED"}[gate.evaluate(truth)]
    assert judge(gate, table.__getitem__).outcome == expected


@unhurried
@given(st.lists(small_comparisons, min_size=2, max_size=5), tables)
def test_pass_of_a_conjunction_has_no_check_that_fails(parts, table):
    """PASS means that every comparison was measured and holds; FAIL that one does not."""
    verdict = judge(And(tuple(parts)), table.__getitem__)
    assert verdict.passed == all(check.holds for check in verdict.checks)
    assert (verdict.outcome == "FAIL") == any(check.holds is False for check in verdict.checks)
    assert verdict.decisive()


@unhurried
@given(small_gates, small_gates, tables)
def test_another_conjunct_never_turns_a_miss_into_a_pass(gate, extra, table):
    """Adding `& x` keeps FAIL, and passes nothing that did not pass."""
    before, after = judge(gate, table.__getitem__), judge(gate & extra, table.__getitem__)
    assert before.outcome != "FAIL" or after.outcome == "FAIL"
    assert before.passed or not after.passed


@unhurried
@given(small_gates, tables, st.sampled_from(NAMES), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_value_that_is_not_finite_passes_nothing_that_a_miss_would_not(gate, table, name, value):
    """With NaN a gate passes only if it passes whatever that metric's comparisons say."""
    broken = {**table, Metric(name): Estimate(value)}
    absent = {**table, Metric(name): ABSENT}
    assert (
        not judge(gate, broken.__getitem__).passed
        or judge(gate, absent.__getitem__).passed
        or name not in str(gate)
    )


def test_negation_shows_the_comparison_that_has_to_hold():
    """`not` appears in the gate's text; the check shows the inverted operator."""
    verdict = judged(Not((ppl > 1) & (kld <= 2)), ppl=3.0, kld=1.0)
    assert verdict.gate == "not (ppl > 1 and kld <= 2)"
    assert [check.text for check in verdict.checks] == ["ppl <= 1", "kld > 2"]
    assert verdict.outcome == "FAIL"


def test_each_metric_is_looked_up_once():
    """However often a gate names it, and each distinct comparison is one check."""
    asked = []

    def lookup(metric):
        asked.append(metric)
        return Estimate(1.0)

    verdict = judge((ppl > 0) & (ppl < 2) & ((ppl < 2) | (kld < 1)), lookup)
    assert asked == [ppl, kld]
    assert [check.text for check in verdict.checks] == ["ppl > 0", "ppl < 2", "kld < 1"]


def test_what_is_no_gate_is_refused():
    """A metric or a text in place of a gate is a programming error."""
    with pytest.raises(TypeError, match="not a gate"):
        judge(ppl, {}.get)


# --- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "found", "text"),
    [
        (
            ppl.delta < 1,
            Estimate(1.42, "", 512, 1.31, 1.53, items="tokens"),
            "ppl.delta = 1.42 [1.31, 1.53] (n = 512 tokens): gate ppl.delta < 1 missed by 0.42 (42 %)",
        ),
        (ppl > 0, Estimate(2.0), "ppl = 2: gate ppl > 0 holds by 2"),
        (ppl < 1, Estimate(1.0), "ppl = 1: gate ppl < 1 missed: exactly at the limit"),
        (ppl <= 1, Estimate(1.0), "ppl = 1: gate ppl <= 1 holds: exactly at the limit"),
        (ppl < 1, Estimate(1.00001), "ppl = 1.00001: gate ppl < 1 missed by 1e-05 (0.001 %)"),
        (vram < 2 * GB, Estimate(2.5e9, "B"), "vram = 2.5 GB: gate vram < 2GB missed by 0.5 GB (25 %)"),
        (
            vram < 2048 * MiB,
            Estimate(2.0**30, "B"),
            "vram = 1024 MiB: gate vram < 2048MiB holds by 1024 MiB (50 %)",
        ),
        (
            vram < 3e9,
            Estimate(2.0**30, "B"),
            "vram = 1 GiB: gate vram < 3000000000 holds by 1.794 GiB (64.2 %)",
        ),
        (
            ttft < 70 * ms,
            Estimate(0.0638, "s", 10),
            "ttft = 63.8 ms (n = 10): gate ttft < 70ms holds by 6.2 ms (8.86 %)",
        ),
        (
            top1 > 90 * percent,
            Estimate(0.875),
            "top1_agreement = 87.5 %: gate top1_agreement > 90% missed by 2.5 % (2.78 %)",
        ),
        (
            kld.mean < 0.05,
            Estimate(0.06, "nat", 9, 0.04, 0.08, "+-0.001"),
            "kld.mean = 0.06 nat [0.04, 0.08] (n = 9): gate kld.mean < 0.05 missed by 0.01 nat (20 %)"
            + CLOSE
            + "; +-0.001",
        ),
        (vram < 1, ABSENT, "vram could not be measured (no CUDA device): gate vram < 1 is undecided"),
        (
            ppl < 1,
            Estimate(math.nan),
            "ppl has no usable value (nan is not a finite number): gate ppl < 1 missed",
        ),
    ],
)
def test_explanation_of_one_comparison(gate, found, text):
    """One line: measured, interval, count, comparison, distance, in the unit of the limit."""
    assert judge(gate, lambda _: found).explain() == text


def test_explanation_of_several_comparisons_marks_each():
    """The gate comes first, then a line for every comparison, decided or not."""
    verdict = judged((ppl < 1) & (kld < 1) & (vram < 1), ppl=1.5, kld=0.5, vram=ABSENT)
    assert verdict.explain().splitlines() == [
        "FAIL: gate ppl < 1 and kld < 1 and vram < 1",
        "  FAIL  ppl = 1.5: ppl < 1 missed by 0.5 (50 %)",
        "  ok    kld = 0.5: kld < 1 holds by 0.5 (50 %)",
        "  ?     vram could not be measured (no CUDA device): vram < 1 is undecided",
    ]


@unhurried
@given(small_gates, tables, st.text())
def test_explanation_holds_one_line_per_check_whatever_the_reason_says(gate, table, reason):
    """Reasons and notes from outside start no line and move no cursor."""
    table = {m: NotMeasurableError(reason) if found is ABSENT else found for m, found in table.items()}
    verdict = judge(gate, table.__getitem__)
    lines = verdict.explain().split("\n")
    assert len(lines) == (1 if len(verdict.checks) == 1 else len(verdict.checks) + 1)
    assert all(line.isprintable() for line in lines)


@unhurried
@given(st.floats(1e-12, 1e12), st.floats(1e-12, 1e12))
def test_text_never_shows_a_miss_as_equal_to_its_limit(value, limit):
    """Enough digits are printed to tell the value from a limit that it is not equal to."""
    text = judged(ppl < limit, ppl=value).checks[0].measured()
    if value != limit:
        assert float(text.removeprefix("ppl = ")) != limit


# --- JSON -------------------------------------------------------------------------------------------------------------


@unhurried
@given(gs.gates(), st.lists(estimates, min_size=1))
def test_json_round_trip(gate, found):
    """A verdict on any estimates survives strict JSON, and is made of builtin types."""
    values = itertools.cycle(found)
    verdict = judge(gate, lambda _: next(values))
    text = json.dumps(verdict.to_json(), allow_nan=False)
    assert Verdict.from_json(json.loads(text)) == verdict
    verdict.explain()


def test_json_holds_no_numpy_scalar():
    """execnet carries exact builtin types only, and a float64 is a subclass of float."""
    found = Estimate(np.float64(1.5), "", np.int64(3), np.float64(1), np.float64(2))
    value = judge(ppl < 1, lambda _: found).to_json()
    check = value["checks"][0]
    kinds = {type(item) for item in (*check.values(), *check["estimate"].values())}
    assert kinds <= {str, float, bool, int, type(None), dict}


def test_unknown_outcome_is_refused():
    """A verdict is one of four words."""
    with pytest.raises(ValueError, match="outcome cannot be 'MAYBE'"):
        Verdict.from_json({"outcome": "MAYBE", "gate": "", "checks": []})


def test_undecided_verdict_points_at_all_its_checks():
    """INCONCLUSIVE is explained by every comparison, not by none."""
    check = Check("ppl", "<", "1", 1.0)
    assert Verdict("INCONCLUSIVE", "ppl < 1", (check,)).decisive() == (check,)
