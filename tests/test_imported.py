"""Results of other tools, judged by the same gates and marked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_quantgate import imported
from pytest_quantgate.cli import main
from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.imports.values import Imported
from pytest_quantgate.parse import parse_metric
from pytest_quantgate.spec import Estimate, Observation
from pytest_quantgate.store import Store
from pytest_quantgate.tasks import sheet

LOG = """\
perplexity: calculating perplexity over 64 chunks, n_ctx=512, batch_size=2048, n_seq=4
====== Perplexity statistics ======
Mean PPL(Q)                   :   6.400000 ±   0.040000
Mean PPL(base)                :   6.230000 ±   0.038000
Cor(ln(PPL(Q)), ln(PPL(base))):  99.50%
Mean ln(PPL(Q)/PPL(base))     :   0.026922 ±   0.000700
Mean PPL(Q)/PPL(base)         :   1.027287 ±   0.000719
Mean PPL(Q)-PPL(base)         :   0.170000 ±   0.004600

====== KL divergence statistics ======
Mean    KLD:   0.031300 ±   0.000200
Maximum KLD:   5.123400
99.9%   KLD:   1.500000
99.0%   KLD:   0.400000
Median  KLD:   0.012000
10.0%   KLD:   0.000500
 5.0%   KLD:   0.000100
 1.0%   KLD:  -0.000002
Minimum KLD:  -0.000100

====== Token probability statistics ======
Mean    Δp: -0.650 ± 0.020 %
Maximum Δp: 90.100%
99.9%   Δp: 40.000%
99.0%   Δp: 12.000%
Minimum Δp: -95.000%
RMS Δp    :  5.520 ± 0.060 %
Same top p: 91.900 ± 0.100 %
"""


def results(accuracy: float, error: float = 0.01) -> dict[str, Any]:
    """Return what lm-evaluation-harness writes."""
    return {
        "results": {"arc_easy": {"alias": "arc_easy", "acc,none": accuracy, "acc_stderr,none": error}},
        "configs": {"arc_easy": {"task": "arc_easy", "output_type": "multiple_choice", "metric_list": [
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True}]}},
        "versions": {"arc_easy": 1.0},
        "n-shot": {"arc_easy": 0},
        "n-samples": {"arc_easy": {"original": 2376, "effective": 2376}},
        "higher_is_better": {"arc_easy": {"acc": True}},
        "config": {"model": "hf", "model_args": "pretrained=x", "limit": None},
        "date": 1.0,
        "lm_eval_version": "0.4.13",
    }  # fmt: skip


@pytest.fixture
def elsewhere(study: Any) -> Any:
    """A study whose only variant was measured elsewhere, and so was its baseline."""
    study.tables = {"": "baseline = { imported = true }", "variants.q4_k_m": "imported = true"}
    (study.path / "kld.log").write_text(LOG)
    for name, accuracy in (("base", 0.75), ("variant", 0.74)):
        (study.path / f"{name}.json").write_text(json.dumps(results(accuracy)))
    return study


def bring(study: Any, *arguments: str) -> int:
    return main(["import", *arguments, "--store", str(study.path / ".quantgate")])


def test_a_log_of_llama_cpp_is_judged(elsewhere: Any) -> None:
    """The gates are those of any variant; the report says where the figures are from."""
    assert bring(elsewhere, "llama.cpp", str(elsewhere.path / "kld.log"), "--variant", "q4_k_m") == 0
    elsewhere.gates(
        good="kld.mean < 0.05 and ppl.ratio < 1.05 and top1_agreement > 0.9 and kld.p99 < 0.5 and delta_p.rms < 0.1",
        bad="kld.mean < 0.03",
    )
    result = elsewhere.run("--quantgate-report", "out", "--quantgate-confidence", "0.95")
    result.assert_outcomes(passed=0, failed=2)  # kld.p99 has no interval: not decided at a confidence
    result = elsewhere.run("--quantgate-report", "out")
    result.assert_outcomes(passed=1, failed=1)
    found = json.loads((elsewhere.path / "out" / "report.json").read_text())
    figure = found["variants"][0]["figures"]["kld.mean"]
    assert figure["value"] == pytest.approx(0.0313)
    assert "imported from kld.log (llama.cpp" in figure["note"]
    assert any("imported from kld.log" in note for note in found["notes"])


def test_results_of_lm_eval_are_compared(elsewhere: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Two files without samples: an unpaired difference with both errors, and a row in the table."""
    for name, variant in (("base", "baseline"), ("variant", "q4_k_m")):
        assert bring(elsewhere, "lm-eval", str(elsewhere.path / f"{name}.json"), "--variant", variant) == 0
    assert "arc_easy" in capsys.readouterr().out
    elsewhere.gates(drop="lm_eval('arc_easy').drop <= 0.05", flips="lm_eval('arc_easy').flips < 0.5")
    result = elsewhere.run("--quantgate-report", "out")
    result.assert_outcomes(passed=1, skipped=1)
    found = json.loads((elsewhere.path / "out" / "report.json").read_text())
    (row,) = found["capabilities"]
    assert row["drop"]["value"] == pytest.approx(0.01)
    assert row["drop"]["high"] == pytest.approx(0.01 + 1.96 * 0.01 * 2**0.5, rel=1e-3)
    assert row["lost"] is None


def test_what_was_not_imported_is_never_passed(elsewhere: Any) -> None:
    """Without a file, without the baseline's file: skipped with the reason, failed when strict."""
    elsewhere.gates(drop="lm_eval('arc_easy').drop <= 0.05")
    result = elsewhere.run("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*q4_k_m is not here, and no result of it was imported*"])
    bring(elsewhere, "lm-eval", str(elsewhere.path / "variant.json"), "--variant", "q4_k_m")
    result = elsewhere.run("-rs")
    result.stdout.fnmatch_lines(["*the baseline's result was not imported*--variant baseline*"])
    elsewhere.run("--quantgate-strict").assert_outcomes(failed=1)


def test_an_import_takes_the_place_of_a_measurement(study: Any) -> None:
    """A variant that is here: its imported metric is not measured, the rest is."""
    (study.path / "kld.log").write_text(LOG)
    bring(study, "llama.cpp", str(study.path / "kld.log"), "--variant", "good")
    study.gates(tail="kld.mean < 0.05")
    study.run().assert_outcomes(passed=1, failed=1)  # bad is measured
    assert [line for line in study.log() if line == "score bad"]


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"variants.a": "imported = true\nmodel = 'base'"}, "give either model"),
        ({"variants.a": "imported = 1"}, "imported = 1: write true or false"),
        ({"variants.a": "imported = false"}, "give either model"),
        ({"": 'baseline = { imported = true, model = "base" }'}, "write a path or hub id"),
    ],
)
def test_mistakes_are_one_line(study: Any, tables: dict[str, str], said: str) -> None:
    """Imported and something else at once is refused."""
    study.tables = {**study.tables, **tables}
    study.gates(one="ppl < 5")
    result = study.run()
    assert result.ret == 4
    assert said in result.stderr.str()


def test_a_measured_variant_takes_a_model_to_compare_with(study: Any) -> None:
    """An imported baseline cannot be scored."""
    study.tables[""] = "baseline = { imported = true }"
    study.gates(one="ppl.delta < 5")
    result = study.run()
    assert result.ret == 4
    assert "the baseline is imported: it takes a model to compare with" in result.stderr.str()


def test_a_bad_file_imports_nothing(study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 4, no store entry."""
    file = study.path / "cut.log"
    file.write_text(LOG[:300])
    assert bring(study, "llama.cpp", str(file), "--variant", "good") == 4
    assert bring(study, "lm-eval", str(file), "--variant", "good") == 4
    assert bring(study, "excel", str(file), "--variant", "good") == 4
    assert bring(study, "vllm", str(study.path / "none.json"), "--variant", "good") == 4
    assert len(capsys.readouterr().err.strip().splitlines()) == 4
    assert not list(Path(study.path / ".quantgate").glob("**/*.obs"))


def test_default_arguments_do_not_part_a_metric() -> None:
    """lm_eval('x') and lm_eval('x', metric='acc') are one metric; another metric is another."""
    steps = [
        imported.step_of("v", parse_metric(text)).key
        for text in (
            "lm_eval('x')",
            "lm_eval('x', metric='acc')",
            "lm_eval('x', metric='acc', filter='none')",
        )
    ]
    assert len(set(steps)) == 1
    assert imported.step_of("v", parse_metric("lm_eval('x', metric='acc_norm')")).key not in steps
    assert imported.step_of("w", parse_metric("lm_eval('x')")).key not in steps


def test_figures_that_are_not_there_are_named() -> None:
    """A statistic that the file does not hold is not measurable, and the message lists what it holds."""
    about = {"file": "f.log", "made_by": "tool 1"}
    figures = {"mean": Estimate(0.1).to_json(), "|delta": Estimate(0.2).to_json()}
    held = Observation({}, {"figures": figures, "imported": about})
    with pytest.raises(
        NotMeasurableError, match=r"imported from f.log \(tool 1\), which holds only mean, .delta"
    ):
        imported.figure(parse_metric("kld.p99"), held, None)


def test_results_that_were_measured_otherwise_are_not_compared(elsewhere: Any) -> None:
    """Other worked examples in the one file than in the other: not measurable, and the message says which."""
    (elsewhere.path / "base.json").write_text(json.dumps({**results(0.75), "n-shot": {"arc_easy": 25}}))
    for name, variant in (("base", "baseline"), ("variant", "q4_k_m")):
        assert bring(elsewhere, "lm-eval", str(elsewhere.path / f"{name}.json"), "--variant", variant) == 0
    elsewhere.gates(drop="lm_eval('arc_easy').drop <= 0.05")
    result = elsewhere.run("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*shots is 0 in one file and 25 in the other*"])


def test_a_name_that_no_study_can_have_is_refused(study: Any) -> None:
    """Before anything is kept."""
    (study.path / "kld.log").write_text(LOG)
    assert bring(study, "llama.cpp", str(study.path / "kld.log"), "--variant", "../x y") == 4


@pytest.mark.parametrize("text", ["lm_eval('arc_easy')", "evalution('arc_easy', metric='acc')"])
@pytest.mark.parametrize("alike", [True, False])
def test_imported_answers_are_paired_and_shown(elsewhere: Any, text: str, alike: bool) -> None:  # noqa: FBT001
    """Answers to the same items: flips, and both sides in the report; to others: not compared."""
    store = Store(elsewhere.path / ".quantgate")
    for model, correct in (("baseline", [1, 1, 1, 0]), ("q4_k_m", [1, 0, 1, 0])):
        arrays = {
            "item": np.arange(4, dtype=np.int32),
            "group": np.zeros(4, dtype=np.int32),
            "correct": np.asarray(correct, dtype=np.float64),
        }
        words = {name: [f"{name} {n}" for n in range(4)] for name in ("id", "answer", "expected", "question")}
        which = "same" if alike else model
        facts = {"groups": [""], "categories": {}, "of": 4, "remarks": [], "items": which}
        held = sheet.made(arrays, words, facts)
        found = Imported(text, {"": Estimate(sum(correct) / 4, n=4)}, held, "tool 1", {})
        store.put(imported.step_of(model, parse_metric(text)), imported.observation_of(found, "f.json", "0"))
    elsewhere.gates(flips=f"{text}.flips <= 0.25 and {text}.lost > 0.2")
    result = elsewhere.run("--quantgate-report", "out", "-rs")
    result.assert_outcomes(passed=int(alike), skipped=int(not alike))
    report = json.loads((elsewhere.path / "out" / "report.json").read_text())
    assert {one["model"] for one in report["answers"]} == {"baseline", "q4_k_m"}
    if not alike:
        result.stdout.fnmatch_lines(["*the two files are not of the same items*"])
