"""Verdicts by intervals and families: tables, and laws for whatever gate and estimate."""

from __future__ import annotations

from dataclasses import replace

import gate_strategies as gs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantgate import disk, kld, ppl, stats, top1_agreement
from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.gate import And, Or
from pytest_quantgate.spec import Estimate
from pytest_quantgate.units import MiB
from pytest_quantgate.verdict import Rule, Verdict, judge, refuted

SURE = Rule(0.95)


def sampled(value: float, error: float, clusters: int = 40) -> Estimate:
    known = stats.Student(value, error, clusters - 1)
    return Estimate(value, n=1000 * clusters, items="tokens", clusters=clusters, sampling=known).at(0.95)


@pytest.mark.parametrize(
    ("gate", "estimate", "outcome"),
    [
        (ppl < 1, sampled(0.5, 0.1), "PASS"),
        (ppl < 1, sampled(0.9, 0.1), "INCONCLUSIVE"),
        (ppl < 1, sampled(1.1, 0.1), "INCONCLUSIVE"),
        (ppl < 1, sampled(1.5, 0.1), "FAIL"),
        (ppl > 1, sampled(1.5, 0.1), "PASS"),
        (ppl > 1, sampled(0.5, 0.1), "FAIL"),
        (~(ppl < 1), sampled(1.5, 0.1), "PASS"),
        (ppl < 1, Estimate(0.9, exact=True), "PASS"),
        (ppl < 1, Estimate(0.9), "INCONCLUSIVE"),
        (ppl < 1, Estimate(0.9, low=0.8, high=0.95, partial="6 % of the windows"), "PASS"),
    ],
)
def test_the_whole_interval_decides(gate, estimate, outcome):
    """On the good side, on the bad side, across; what is counted needs none, what has none is undecided."""
    assert judge(gate, lambda _: estimate, SURE).outcome == outcome


@pytest.mark.parametrize(
    ("low", "high", "outcome"), [(0.5, 0.9, "PASS"), (1.1, 2, "FAIL"), (0.9, 1.1, "INCONCLUSIVE")]
)
def test_a_stopped_pass_is_decided_by_its_interval_always(low, high, outcome):
    """Its point is of a part only, so it decides nothing, confidence or not."""
    found = Estimate(0.95, low=low, high=high, partial="6 % of the windows")
    assert judge(ppl < 1, lambda _: found).outcome == outcome


def test_what_would_settle_it():
    """The sentence says how many windows; twice the distance takes a quarter."""
    verdict = judge(ppl < 1, lambda _: sampled(0.9, 0.1), SURE)
    (check,) = verdict.checks
    assert check.needed == pytest.approx(40 * (2.0227 * 0.1 / 0.1) ** 2, abs=1)
    assert verdict.explain() == (
        "ppl = 0.9 [0.6977, 1.102] (n = 40000 tokens): gate ppl < 1 is undecided at 95 %: about 164 windows would"
        " settle it (there are 40)"
    )
    assert Verdict.from_json(verdict.to_json()) == verdict


def test_a_number_without_an_interval_says_so():
    """Too few windows, or one measurement."""
    verdict = judge(ppl < 1, lambda _: Estimate(0.9, items="tokens", clusters=1), SURE)
    assert "has no interval (from 1 windows)" in verdict.explain()


def test_undecided_outweighs_unmeasured():
    """A gate with both is inconclusive: by default that fails, where the other would only skip."""
    found = {ppl: sampled(0.9, 0.1), kld.mean: NotMeasurableError("not here")}
    assert judge((ppl < 1) & (kld.mean < 1), found.__getitem__, SURE).outcome == "INCONCLUSIVE"


def test_a_refused_limit_never_holds():
    """Whatever was measured, and with the reason."""
    gate = ppl < 1
    verdict = judge(gate, lambda _: sampled(0.5, 0.01), Rule(refused={gate: "below the floor"}))
    assert verdict.outcome == "FAIL"
    assert "below the floor" in verdict.explain()


estimates = st.one_of(
    st.builds(sampled, st.floats(-2, 2), st.floats(0.01, 1), st.integers(2, 100)),
    st.builds(Estimate, st.floats(-2, 2), exact=st.just(True)),
    st.builds(NotMeasurableError, st.just("not here")),
)


@given(gs.gates(), gs.gates(), st.data())
@settings(deadline=None, max_examples=60)
def test_a_conjunct_never_turns_a_miss_into_a_pass(gate, extra, data):
    """Under a confidence as without."""
    found: dict = {}

    def lookup(metric):
        return found.setdefault(metric, data.draw(estimates))

    before, after = judge(gate, lookup, SURE), judge(And((gate, extra)), lookup, SURE)
    assert not (before.outcome == "FAIL" and after.passed)
    assert not (before.outcome == "INCONCLUSIVE" and after.passed)
    assert not (before.passed and judge(Or((gate, extra)), lookup, SURE).outcome == "FAIL")


@given(st.floats(-2, 2), st.floats(0.01, 1), st.integers(2, 100))
@settings(deadline=None)
def test_a_family_of_one_decides_as_the_interval_does(value, error, clusters):
    """The level of a family is that of an interval's end."""
    gate, found = ppl < 1, sampled(value, error, clusters)
    alone = judge(gate, lambda _: found, SURE).outcome == "FAIL"
    assert (gate in refuted([gate], lambda _: found, 0.95)) == alone


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(0.01, 1)), min_size=2, max_size=6))
@settings(deadline=None)
def test_a_family_never_fails_what_a_single_gate_would_not(values):
    """Holm's adjustment only makes refuting harder."""
    gates = [ppl(window=number + 2) < 1 for number in range(len(values))]
    found = {gate.metric: sampled(*value) for gate, value in zip(gates, values, strict=True)}
    together = refuted(gates, found.__getitem__, 0.95)
    alone = {gate for gate in gates if refuted([gate], found.__getitem__, 0.95)}
    assert together <= alone


def test_a_family_fails_good_models_as_rarely_as_it_says():
    """Ten gates at their limits: any is refuted in at most 2.5 % of 2,000 runs (+- 1.1 %); unguarded in far more."""
    rng = np.random.default_rng(0)
    gates = [ppl(window=number + 2) < 1 for number in range(10)]
    guarded = unguarded = 0
    for _ in range(2000):
        found = {gate.metric: sampled(rng.normal(1, 0.1), 0.1, 10_000) for gate in gates}
        guarded += bool(refuted(gates, found.__getitem__, 0.95))
        unguarded += any(judge(gate, found.__getitem__, SURE).outcome == "FAIL" for gate in gates)
    assert guarded / 2000 <= 0.025 + 0.011
    assert unguarded / 2000 > 0.15


@pytest.mark.parametrize(
    ("gate", "value", "missed", "outcome"),
    [
        (kld.mean < 1, 0.5, None, "INCONCLUSIVE"),
        (kld.mean < 1, 0.5, 0.4, "PASS"),
        (kld.mean < 1, 0.5, 0.6, "INCONCLUSIVE"),
        (kld.mean < 1, 1.5, None, "FAIL"),
        (kld.mean > 1, 1.5, None, "PASS"),
        (kld.mean > 1, 0.5, None, "INCONCLUSIVE"),
        (kld.mean > 1, 0.5, 0.2, "FAIL"),
        (~(kld.mean >= 1), 0.5, None, "INCONCLUSIVE"),
        ((kld.mean < 1) & (kld.mean < 0.2), 0.5, None, "FAIL"),
        ((kld.mean < 1) | (kld.mean > 0.2), 0.5, None, "PASS"),
    ],
)
@pytest.mark.parametrize("rule", [None, SURE, "exact", "partial"])
def test_a_lower_bound_decides_what_no_higher_value_could_turn(gate, value, missed, outcome, rule):
    """By the point, by the interval, of a count and of a stopped pass: what could not be seen never helps a gate."""
    found = replace(sampled(value, 0.001), missed=missed)
    if rule == "exact":
        found, rule = replace(found, exact=True, sampling=None), None
    elif rule == "partial":
        found, rule = replace(found, low=value - 0.01, high=value + 0.01, partial="6 %", sampling=None), None
    verdict = judge(gate, lambda _: found, rule)
    assert verdict.outcome == outcome
    assert Verdict.from_json(verdict.to_json()) == verdict
    if outcome == "INCONCLUSIVE":
        assert "undecided" in verdict.explain()
        assert "the true kld.mean may be higher" in verdict.explain()


def test_a_lower_bound_is_refuted_only_from_above():
    """A miss that the part which was not seen could mend does not count among a family's."""
    seen, bound = (replace(sampled(0.5, 0.001), missed=missed) for missed in (0.0, None))
    assert refuted([kld.mean > 1], lambda _: seen, 0.95)
    assert not refuted([kld.mean > 1], lambda _: bound, 0.95)
    assert not refuted([kld.mean > 1], lambda _: replace(seen, missed=0.6), 0.95)
    assert refuted([kld.mean < 0.4], lambda _: bound, 0.95)


def test_an_exact_miss_is_refuted_whatever_the_family():
    """What is counted has no chance in it."""
    gates = [disk < 1 * MiB, top1_agreement > 0.9]
    found = {disk: Estimate(2.0**21, "B", exact=True), top1_agreement: sampled(0.95, 0.1)}
    assert refuted(gates, found.__getitem__, 0.95) == {gates[0]}


def test_the_order_of_tokens_never_changes_a_verdict():
    """A mean over windows is the same whatever order they come in."""
    rng = np.random.default_rng(1)
    values, windows = rng.normal(size=600), np.repeat(np.arange(30), 20)
    shuffled = rng.permutation(600)
    one, other = (
        stats.clustered_mean(values, windows),
        stats.clustered_mean(values[shuffled], windows[shuffled]),
    )
    assert one == pytest.approx(other)
