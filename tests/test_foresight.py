"""What a gate will be able to see, before it is measured."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_quantgate import kld, ppl
from pytest_quantgate.foresight import Basis, foresee
from pytest_quantgate.stats import EXP, Items


def basis(spread: float, total: int = 400, **rest) -> Basis:
    values = np.random.default_rng(0).normal(0, 1, total)
    values = (values - values.mean()) / values.std(ddof=1) * spread
    return Basis(Items(values, total, EXP), 1.0, "a test", **rest)


def test_the_smallest_change_is_found_as_often_as_it_says():
    """A change of the size that is named leaves the interval in 80 % of simulated runs (400 runs: +- 6 %)."""
    found = foresee("v", ppl.ratio < 1.2, basis(0.5))
    assert found.sees is not None
    rng = np.random.default_rng(1)
    runs = rng.normal(np.log(1 + found.sees), 0.5, (400, 400)).mean(1)
    half = 1.96 * 0.5 / 20
    assert np.mean(runs - half > 0) == pytest.approx(0.8, abs=0.06)


def test_the_chance_of_failing_an_unchanged_model():
    """It is that of an estimate beyond the limit."""
    error = 0.5 / 20
    found = foresee("v", ppl.ratio < float(np.exp(error)), basis(0.5))
    assert found.alarm == pytest.approx(0.1587, abs=1e-3)


def test_a_gate_that_cannot_see_its_own_margin_is_blind():
    """Wide spread, narrow limit; an upper bound of the spread accuses nobody."""
    assert foresee("v", ppl.ratio < 1.001, basis(0.5)).blind
    assert not foresee("v", ppl.ratio < 1.2, basis(0.5)).blind
    assert not foresee("v", ppl.ratio < 1.001, basis(0.5, widening=2**0.5)).blind
    assert "BLIND" in foresee("v", ppl.ratio < 1.001, basis(0.5)).line()


def test_more_confidence_sees_less():
    """A higher level widens what cannot be told from nothing."""
    plain, sure = (foresee("v", kld.mean < 0.1, basis(0.5), level) for level in (None, 0.999))
    assert sure.sees > plain.sees


def test_the_plan_says_it(study):
    """Nothing is known at first, then the baseline's own spread bounds it, then the variant's is used."""
    study.gates(study="ppl.delta < 1", close="kld.mean < 0.1")
    empty = study.run("--quantgate-plan", "-k", "good")
    assert empty.ret == 0
    empty.stdout.fnmatch_lines(["*good: ppl.delta < 1: unknown (the baseline's pass is not in the store*"])
    assert study.run("-k", "good").ret == 0
    full = study.run("--quantgate-plan")
    full.stdout.fnmatch_lines(
        [
            "*good: ppl.delta < 1: sees a change of * (80% power), fails an unchanged model with * windows*good's stored pass*",
            "*bad: ppl.delta < 1: sees a change of *good's stored pass*",
        ]
    )
    assert not [line for line in study.log()[1:] if "bad" in line]


def test_strict_refuses_a_blind_gate(study):
    """A gate that cannot see its own margin is a usage error when strict, and only pointed out when not."""
    study.gates(tight="ppl.ratio < 1.0000001")
    study.run("-k", "bad")
    pointed = study.run("--quantgate-plan", "-k", "bad")
    assert pointed.ret == 0
    pointed.stdout.fnmatch_lines(["*BLIND*"])
    refused = study.run("--quantgate-plan", "--quantgate-strict", "-k", "bad")
    assert refused.ret == 4
    refused.stderr.fnmatch_lines(["*bad: ppl.ratio < *cannot see its own margin*"])
