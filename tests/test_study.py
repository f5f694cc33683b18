"""The study that this project grew from, through the same gate, verdict and report code as a run."""

from __future__ import annotations

import pytest
import study_table

from pytest_quantgate import terms
from pytest_quantgate.gate import Metric
from pytest_quantgate.parse import parse
from pytest_quantgate.units import GB, ms
from pytest_quantgate.verdict import judge

GATES = [study_table.GATE, terms.ppl_delta < 1.0, parse("ppl_delta < 1.0")]


@pytest.mark.parametrize("gate", GATES, ids=["metric", "term", "text"])
@pytest.mark.parametrize(("variant", "delta"), [("gptq-v1", 3.46), ("gptq-v2", 1.19), ("awq", 1.26)])
def test_all_three_variants_miss_the_perplexity_gate(gate, variant, delta):
    """The study's verdicts come out, with its deltas, however the gate is written."""
    verdict = judge(gate, lambda metric: study_table.estimate(variant, metric))
    (check,) = verdict.checks
    assert verdict.outcome == "FAIL"
    assert round(check.estimate.value, 2) == delta
    assert check.margin == pytest.approx(1.0 - delta)
    assert not verdict.close


def test_baseline_itself_passes():
    """Against itself the baseline has no delta: the gate is not one that nothing can pass."""
    assert judge(study_table.GATE, lambda metric: study_table.estimate("baseline", metric)).passed


def test_looser_and_other_gates_tell_the_variants_apart():
    """Every variant halves the memory, only v2 stays within 1.2, and v1 is the one with a slow first token."""
    gates = {
        "memory": Metric("vram") < 1.7 * GB,
        "loose": study_table.PPL.delta < 1.2,
        "smallest": Metric("vram") < 1.5 * GB,
    }
    passed = {
        name: [
            v
            for v in ("gptq-v1", "gptq-v2", "awq")
            if judge(gate, lambda m, v=v: study_table.estimate(v, m)).passed
        ]
        for name, gate in gates.items()
    }
    assert passed == {"memory": ["gptq-v1", "gptq-v2", "awq"], "loose": ["gptq-v2"], "smallest": ["awq"]}
    slow = judge(Metric("ttft") < 50 * ms, lambda metric: study_table.estimate("gptq-v1", metric))
    assert slow.explain() == "ttft = 63.8 ms: gate ttft < 50ms missed by 13.8 ms (27.6 %)"


def test_report_of_the_study_holds_its_figures_and_verdicts():
    """Each row has what the study printed, and the deltas that the gate asked for."""
    report = study_table.study()
    assert report.status == "FAIL"
    assert report.baseline.name == "baseline"
    assert {row.name: row.status for row in report.variants} == dict.fromkeys(
        ("gptq-v1", "gptq-v2", "awq"), "FAIL"
    )
    for row in report.rows:
        for name, value in study_table.FIGURES[row.name].items():
            assert row.figures[name].value == value
    deltas = [round(row.figures["ppl.delta"].value, 2) for row in report.variants]
    assert deltas == [3.46, 1.19, 1.26]
