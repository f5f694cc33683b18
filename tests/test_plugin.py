"""The plugin as its user meets it: marks, fixtures, outcomes, options, one pytest process per case."""

from __future__ import annotations

import json

import pytest

RELEASE = """
from pytest_quantgate import quantgate, ppl_delta, kld

@quantgate({gate})
def test_release(quantized_model):
    pass
"""


def write(study, body: str, name: str = "test_release.py") -> None:
    (study.path / name).write_text(body)


def test_one_test_per_variant(study):
    """A marked test runs once for each variant, and passes or fails by its figures."""
    write(study, RELEASE.format(gate="ppl_delta < 1.0"))
    result = study.run("-v")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*test_release?good? PASSED*", "*test_release?bad? FAILED*"])
    result.stdout.fnmatch_lines(["*ppl.delta = *gate ppl.delta < 1 missed by*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    assert result.ret == 1


def test_skipped_without_the_flag(study):
    """Without --quantgate the tests are skipped with that reason, and nothing is measured."""
    write(study, RELEASE.format(gate="ppl_delta < 1.0"))
    result = study.run("-rs", active=False)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*needs --quantgate*"])
    assert study.log() == []
    assert not (study.path / ".quantgate").exists()


@pytest.mark.parametrize("how", ["ini", "environment"])
def test_other_ways_to_activate(study, monkeypatch, how):
    """The ini file and the environment activate gates as the flag does."""
    write(study, RELEASE.format(gate="ppl_delta < 1e9"))
    if how == "ini":
        study.pytester.makeini("[pytest]\nquantgate = true\n")
    else:
        monkeypatch.setenv("QUANTGATE", "1")
    study.run(active=False).assert_outcomes(passed=2)


@pytest.mark.parametrize(
    "body",
    [
        "pytestmark = pytest.mark.quantgate('ppl_delta < 1.0')\ndef test_it(): pass",
        "@pytest.mark.quantgate(ppl_delta < 1.0)\ndef test_it(): pass",
        "@quantgate('ppl_delta < 1.0')\nclass TestIt:\n    def test_it(self): pass",
        "@quantgate(ppl_delta < 1.0)\n@quantgate(kld.mean < 100)\ndef test_it(quant_variant): pass",
        "@quantgate('kld.mean < 100', ppl_delta < 1.0)\ndef test_it(): pass",
        "@quantgate((ppl_delta < 1.0) & (kld.mean < 100))\ndef test_it(): pass",
        "def test_it(quantgate): quantgate.check(ppl_delta < 1.0)",
        "def test_it(quantgate): assert quantgate.measure(ppl_delta).value < 1.0",
    ],
)
def test_every_way_to_write_a_gate(study, body):
    """Marks on functions, classes and modules, stacked, as text, and checks in the body all judge alike."""
    write(
        study,
        "import pytest\nfrom pytest_quantgate import quantgate as _q, ppl_delta, kld\n"
        + body.replace("@quantgate(", "@_q("),
    )
    study.run().assert_outcomes(passed=1, failed=1)


def test_a_marker_narrows_to_variants(study):
    """`variants=` takes patterns, for its own gates or for the whole test."""
    write(
        study,
        "from pytest_quantgate import quantgate, ppl_delta\n"
        "@quantgate(ppl_delta < 1.0, variants=['g*'])\ndef test_one(): pass\n"
        "@quantgate(variants=['bad'])\n@quantgate(ppl_delta > 1.0)\ndef test_two(): pass\n",
    )
    result = study.run("-v")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*test_one?good? PASSED*", "*test_two?bad? PASSED*"])


def test_configured_gates_are_items(study):
    """Gates of the configuration are collected, selected and judged without a test file."""
    study.gates(release="ppl_delta < 1.0", sound="kld.mean < 100")
    listed = study.run("--collect-only", "-q")
    listed.stdout.fnmatch_lines(["quantgate.toml::release?good?", "quantgate.toml::sound?bad?"])
    assert study.log() == []
    study.run("-k", "release").assert_outcomes(passed=1, failed=1, deselected=2)
    study.run("-m", "quantgate", f"--junitxml={study.path / 'out.xml'}").assert_outcomes(passed=3, failed=1)
    written = (study.path / "out.xml").read_text()
    assert "quantgate.verdict" in written
    assert "quantgate.ppl.delta" in written
    study.run("quantgate.toml::sound[bad]").assert_outcomes(passed=1)


def test_configured_gates_with_testpaths(study):
    """They are collected, too, when testpaths names other folders."""
    (study.path / "tests").mkdir()
    study.gates(release="ppl_delta < 1e9")
    study.pytester.makeini("[pytest]\ntestpaths = tests\n")
    study.run().assert_outcomes(passed=2)


def test_warm_run_loads_nothing(study):
    """A second run takes every observation from the store and gives the same verdicts."""
    write(study, RELEASE.format(gate="(ppl_delta < 1.0) & (kld.mean < 0.5)"))
    report = study.path / "report"
    study.run("--quantgate-report", str(report)).assert_outcomes(passed=1, failed=1)
    cold = json.loads((report / "report.json").read_text())
    log = study.log()
    assert [line for line in log if line.startswith("load")] == ["load baseline", "load good", "load bad"]
    study.run("--quantgate-report", str(report)).assert_outcomes(passed=1, failed=1)
    warm = json.loads((report / "report.json").read_text())
    assert study.log() == []
    assert {step["source"] for step in warm["steps"]} == {"store"}
    assert [result["verdicts"] for result in warm["results"]] == [
        result["verdicts"] for result in cold["results"]
    ]


def test_baseline_and_variant_never_together(study):
    """A model is closed before the next one is loaded."""
    write(study, RELEASE.format(gate="ppl_delta < 1.0"))
    study.run()
    events = [line for line in study.log() if line.split()[0] in {"load", "close"}]
    assert events == [f"{what} {name}" for name in ("baseline", "good", "bad") for what in ("load", "close")]


def test_both_models_when_a_test_asks(study):
    """`baseline_model` stands beside `quantized_model` in a test that asks for both."""
    write(
        study,
        "def test_both(quantized_model, baseline_model):\n"
        "    assert quantized_model.loaded.spec.name != baseline_model.spec.name == 'baseline'\n"
        "    assert quantized_model.path.name == quantized_model.name\n"
        "    assert quantized_model.recipe is None\n",
    )
    study.run().assert_outcomes(passed=2)


def test_baseline_measurements(study):
    """`baseline` gives absolute metrics of the reference, and refuses comparisons."""
    write(
        study,
        "import pytest\nfrom pytest_quantgate import ppl\nfrom pytest_quantgate.errors import ConfigError\n"
        "def test_it(baseline, quant_variant):\n"
        "    assert 1 < baseline.measure(ppl).value < quant_variant.measure(ppl).value\n"
        "    with pytest.raises(ConfigError): baseline.measure(ppl.delta)\n",
    )
    study.run().assert_outcomes(passed=2)


def test_the_body_may_assert_more(study):
    """A failing body fails the test although the gates hold, and is reported as an error, not as a gate."""
    write(
        study, "from pytest_quantgate import quantgate, ppl\n@quantgate(ppl < 1e9)\ndef test_it(): assert 0\n"
    )
    result = study.run("--quantgate-report", "out")
    result.assert_outcomes(failed=2)
    report = json.loads((study.path / "out" / "report.json").read_text())
    assert {item["outcome"] for item in report["results"]} == {"ERROR"}


def test_expected_failure(study):
    """xfail(strict) works on a gate: a miss is xfailed, a pass fails."""
    write(
        study,
        "import pytest\nfrom pytest_quantgate import quantgate, ppl_delta\n"
        "@pytest.mark.xfail(strict=True, reason='coarse groups')\n"
        "@quantgate(ppl_delta < 1.0)\ndef test_it(): pass\n",
    )
    result = study.run("-rx")
    result.assert_outcomes(xfailed=1, failed=1)
    result.stdout.fnmatch_lines(["*XPASS(strict)*", "XFAIL*bad* coarse groups"])


def test_absence_is_skipped_or_fails_when_strict(study):
    """A gate that cannot be measured here is skipped with the reason, fails under --quantgate-strict, never passes."""
    write(study, "from pytest_quantgate import *\n@quantgate(vram < 2 * GiB)\ndef test_it(): pass\n")
    result = study.run("-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["*SKIPPED*vram*CUDA*"])
    study.run("--quantgate-strict").assert_outcomes(failed=2)


def test_absence_does_not_hide_a_failure(study):
    """One gate that fails decides, although another cannot be measured."""
    write(
        study, "from pytest_quantgate import *\n@quantgate(vram < 2 * GiB, ppl < 0.5)\ndef test_it(): pass\n"
    )
    study.run().assert_outcomes(failed=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nan": "true"}, "nonfinite|NaN|finite"),
        ({"dense": "true"}, "quantized"),
        ({"gibberish": "true"}, "degenerate|repeat"),
    ],
)
def test_sanity_fails_first(study, options, words):
    """A checkpoint that is not sane fails every gate with the cause, before anything long runs."""
    study.variant("odd", damage=0.01, **options)
    write(study, RELEASE.format(gate="ppl_delta < 1e9").replace("< 1e9", "< 1e9, variants=['odd']"))
    result = study.run()
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([f".*odd.*({words}).*"])


def test_an_observation_that_breaks_fails_the_gate(study):
    """Logits that are not finite fail the variant's tests in one line; the other variants run on."""
    study.variant("odd", broken="true")
    write(study, RELEASE.format(gate="ppl_delta < 1e9"))
    result = study.run()
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*odd*not finite*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_another_tokenizer_is_an_error(study):
    """Ids that differ from the baseline's are named, never scored."""
    study.variant("odd", tokenizer_shift=1)
    write(study, RELEASE.format(gate="ppl_delta < 1e9"))
    result = study.run()
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*odd*token*baseline*"])


def test_refresh(study):
    """--quantgate-refresh measures again: everything, or the baseline alone."""
    write(study, RELEASE.format(gate="ppl_delta < 1e9"))
    study.run()
    study.log()
    study.run("--quantgate-refresh=baseline")
    assert [line for line in study.log() if line.startswith("load")] == ["load baseline"]
    study.run("--quantgate-refresh")
    assert len([line for line in study.log() if line.startswith("load")]) == 3


def test_a_baseline_that_changed_makes_what_was_paired_with_it_stale(study, monkeypatch):
    """Its divergences were read off lists that are no longer the baseline's: in this run, and in any later one."""
    write(study, RELEASE.format(gate="kld.mean < 1e9"))
    study.run()
    study.log()
    monkeypatch.setenv("FAKE_DRIFT", "0.2")
    study.run("--quantgate-refresh=baseline", "-k", "good")
    lines = study.log()
    assert [line for line in lines if line.startswith("load")] == ["load baseline", "load good"]
    result = study.run()
    result.stdout.fnmatch_lines(["*bad tokens: the baseline was measured anew and differs; measuring again*"])
    assert [line for line in study.log() if line.startswith("load")] == ["load bad"]
    study.run()
    assert study.log() == []


def test_offline(study):
    """--quantgate-offline uses the store alone: what is missing is named, what is there is used."""
    write(study, RELEASE.format(gate="ppl_delta < 1e9"))
    result = study.run("--quantgate-offline")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*baseline tokens: not in the store*run once without --quantgate-offline*"])
    assert study.log() == []
    study.run()
    study.run("--quantgate-offline").assert_outcomes(passed=2)


def test_plan(study):
    """--quantgate-plan prints the steps, runs nothing, and says what the store has."""
    write(study, RELEASE.format(gate="ppl_delta < 1e9"))
    result = study.run("--quantgate-plan")
    result.stdout.fnmatch_lines(["*baseline tokens*to be measured", "*good tokens*", "*bad tokens*"])
    assert study.log() == []
    assert result.ret == 0
    study.run()
    study.run("--quantgate-plan").stdout.fnmatch_lines(["*baseline tokens*in the store"])


def test_reorders_by_variant(study):
    """Tests of one variant run together whatever file they are in, so that each model loads once."""
    for name in ("test_a.py", "test_b.py"):
        write(study, RELEASE.format(gate="ppl_delta < 1e9"), name)
    study.gates(release="ppl_delta < 1e9")
    result = study.run("-v")
    result.assert_outcomes(passed=6)
    order = [line.split("[")[1].split("]")[0] for line in result.outlines if "PASSED" in line]
    assert order == ["good"] * 3 + ["bad"] * 3


def test_metrics_are_listed(study):
    """--quantgate-metrics lists every metric with its unit and statistics, and runs nothing."""
    result = study.run("--quantgate-metrics")
    result.stdout.fnmatch_lines(["ppl*lower is better*", "kld*", "*p999*", "vram [[]B[]]*"])
    assert result.ret == 0


def test_measure_adds_figures_to_the_report(study):
    """`measure` observes what no gate asks for."""
    study.tables[""] += '\nmeasure = ["ttft", "kld.p99"]'
    write(study, RELEASE.format(gate="ppl_delta < 1e9"))
    study.run("--quantgate-report", "out")
    report = json.loads((study.path / "out" / "report.json").read_text())
    assert {"ttft", "kld.p99", "ppl.delta", "disk"} <= set(report["variants"][0]["figures"])
    assert "ttft" in report["baseline"]["figures"]


def test_registered_metric_in_a_conftest(study):
    """A plugin author adds a metric in one file, through the hook."""
    (study.path / "shape.py").write_text(
        "from pathlib import Path\n"
        "from pytest_quantgate.spec import Estimate, MetricDefinition, Observation, Protocol\n"
        "class Shape:\n"
        "    kind, device_bound, paired, order, settings = 'shape', False, False, 1, ()\n"
        "    def protocol(self, arguments, settings, root): return Protocol.of('shape')\n"
        "    def observe(self, subject, protocol, reference, progress):\n"
        "        return Observation(facts={'files': len(list(Path(subject.spec.path).iterdir()))})\n"
        "    def estimate(self, metric, variant, baseline): return Estimate(variant.facts['files'])\n"
        "SHAPE = Shape()\n"
        "FILES = MetricDefinition('files', 'number of files', '', 'lower', 'shape:SHAPE')\n"
    )
    conftest = study.path / "conftest.py"
    conftest.write_text(
        conftest.read_text().rstrip() + "\n    registry.add('metrics', 'files', 'shape:FILES')\n"
    )
    write(
        study,
        "from pytest_quantgate import quantgate, metric\n"
        "@quantgate(metric('files') <= 3)\ndef test_it(): pass\n"
        "@quantgate('files < 3')\ndef test_few(): pass\n",
    )
    study.run().assert_outcomes(passed=2, failed=2)


@pytest.mark.parametrize(
    ("table", "body", "expected"),
    [
        ("tokens", 'corpus = "corpus.txt"\nprotocol = "gptq"\nwindow = 128', "protocol.window: 256, now 128"),
        (
            "variants.good",
            'model = "good"\nbackend = "fake"\noptions = { damage = 0.2 }',
            "damage: 0.05, now 0.2",
        ),
    ],
)
def test_a_mismatch_is_said(study, table, body, expected):
    """What keeps a stored observation from being used is named; it is never reused."""
    write(study, RELEASE.format(gate="ppl_delta < 1e9"))
    study.run()
    study.tables[table] = body
    study.log()
    study.run().stdout.fnmatch_lines([f"*measuring again, since *{expected}*"])
    assert "score good" in study.log()
