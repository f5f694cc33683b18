"""Gates that are tested: what is caught, what is missed, what is not counted, and how pytest and reports tell it."""

from __future__ import annotations

import json

import pytest

from pytest_quantgate.damages import DAMAGES, damaged
from pytest_quantgate.report import Report, Trial, build
from pytest_quantgate.report.selftest import detections, misses, untested
from pytest_quantgate.reporters import markdown, terminal
from pytest_quantgate.selftest import explain, undetected
from pytest_quantgate.spec import ModelSpec

SEVERE = [kind for kind, damage in DAMAGES.items() if damage.severe]
TRIABLE = [kind for kind in DAMAGES if kind != "missing_bos"]


def trial(gate, damage, found="caught", *, variant="v", severe=True, reason=""):
    return Trial(variant, gate, found, damage, severe, reason)


# --- pure parts


def test_a_damaged_model_has_an_identity_of_its_own():
    """Kind and seed are part of it, the variant's own options stay."""
    spec = ModelSpec("v", "m", "sha256:0", options=(("kernel", "x"),))
    made = {json.dumps(damaged(spec, kind, seed).identity()) for kind in DAMAGES for seed in (0, 1)}
    assert len(made) == 2 * len(DAMAGES)
    assert dict(damaged(spec, "kv_heads").options)["kernel"] == "x"
    assert json.dumps(spec.identity()) not in made


@pytest.mark.parametrize(
    ("trials", "kinds"),
    [
        ([trial("a", "x"), trial("b", "x", "missed")], ()),
        ([trial("a", "x", "missed"), trial("b", "x", "missed")], ("x",)),
        ([trial("a", "x", "missed", severe=False)], ()),
        ([trial("a", "x", "not measurable")], ()),
        ([trial("a", "x", "missed"), trial("b", "x", "not measurable"), trial("a", "y")], ("x",)),
        ([trial("a", "", "not tested", severe=False)], ()),
    ],
)
def test_severe_damage_is_undetected_when_no_gate_that_was_tried_caught_it(trials, kinds):
    assert undetected(trials) == kinds


def test_the_message_lists_each_gate_with_what_it_missed():
    """Mild damage is marked, what was measured stands behind it."""
    text = explain(
        [
            trial("a", "kv_heads", "missed", reason="ppl = 2"),
            trial("a", "fp8_layer", "missed", severe=False, reason="ppl = 1"),
        ]
    )
    assert text.splitlines() == [
        "severe damage passes every gate: kv_heads",
        f"  kv_heads: {DAMAGES['kv_heads'].what}",
        "  gate a missed",
        "    kv_heads: ppl = 2",
        "    fp8_layer (mild): ppl = 1",
    ]


def test_the_table_counts_gates():
    """Cells say how many of the gates that were judged caught it; "-" where none could be."""
    trials = [
        trial("a", "x"), trial("b", "x", "missed"), trial("a", "y", "not measurable"),
        trial("a", "x", variant="w"), trial("c", "", "not tested", severe=False, reason="blind"),
        trial("c", "", "not tested", variant="w", severe=False, reason="blind"),
    ]  # fmt: skip
    variants, rows = detections(trials)
    assert variants == ("v", "w")
    assert [(row.damage, row.grade, row.cells) for row in rows] == [
        ("x", "severe", ("1 of 2", "1 of 1")),
        ("y", "severe", ("-", "-")),
    ]
    assert misses(trials) == (("v", "b", "x"),)
    assert untested(trials) == (("v, w", "c", "blind"),)


def test_reports_carry_it_and_reporters_show_it():
    """It survives JSON, later trials of the same gate win, and text from outside is no markup."""
    first = {"selftest": [trial("a|b", "x", "missed").to_json()]}
    second = {"selftest": [trial("a|b", "x").to_json(), trial("g", "", "not tested").to_json()]}
    report = build([first, second])
    assert report.selftest == (trial("a|b", "x"), trial("g", "", "not tested"))
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report
    shown = terminal.render(build([first]))
    assert "x (severe)  0 of 1" in shown
    assert "missed  v: a|b lets pass x" in shown
    page = markdown.render(build([first]))
    assert "| x | severe | 0 of 1 |" in page
    assert "a|b" not in page


def test_a_report_without_a_self_test_says_nothing_of_it():
    assert "elf-test" not in terminal.render(build([])) + markdown.render(build([]))


# --- in pytest, with the fake backend


@pytest.fixture
def tested(study):
    """A study of one good variant whose gates hold."""
    study.tables = {name: body for name, body in study.tables.items() if name != "variants.bad"}
    study.gates(release="ppl_delta < 1.0", smaller="disk.ratio < 2")
    return study


def trials_of(study, *arguments):
    result = study.run(
        "--quantgate-selftest", "--quantgate-report", "out", "-v", "quantgate.toml", *arguments
    )
    return result, json.loads((study.path / "out" / "report.json").read_text())["selftest"]


def test_gates_that_catch_all_severe_damage_pass(tested):
    """There is one more item per variant, after its gates; the table is in terminal and Markdown."""
    result, trials = trials_of(tested)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*::release?good?*", "*::smaller?good?*", "*::selftest?good? PASSED*"])
    result.stdout.fnmatch_lines(["self-test*good", "scales_zeroed (severe)*1 of 1"])
    found = {row["damage"]: row["found"] for row in trials if row["gate"] == "ppl.delta < 1"}
    assert {kind for kind in SEVERE if found[kind] == "caught"} == {*SEVERE} - {"missing_bos"}
    assert found["missing_bos"] == "not measurable"
    assert found["zero_point"] == "missed"
    blind = [row for row in trials if row["gate"] == "disk.ratio < 2"]
    assert [(row["found"], row["damage"]) for row in blind] == [("not tested", "")]
    assert "size and speed cannot see damage" in blind[0]["reason"]
    assert "### Self-test of the gates" in (tested.path / "out" / "report.md").read_text()


def test_a_second_self_test_loads_nothing(tested):
    """Observations of damaged copies are in the store."""
    trials_of(tested)
    loads = [line for line in tested.log() if line.startswith("load")]
    assert {f"load good+{kind}" for kind in TRIABLE} <= set(loads)
    _, trials = trials_of(tested)
    # what a model lacks is not kept: an error is no observation
    assert [line for line in tested.log() if line.startswith("load")] == ["load good+missing_bos"]
    assert any(row["found"] == "caught" for row in trials)


def test_a_gate_that_lets_severe_damage_pass_fails_the_self_test(tested):
    """The message names the damage, the gate and what was measured; the gate's own test passes."""
    tested.gates(release="ppl < 100000")
    result, _ = trials_of(tested)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "good: severe damage passes every gate: scales_zeroed*",
            "  gate ppl < 100000 missed",
            "    scales_zeroed: ppl = *",
        ]
    )


def test_one_gate_that_catches_is_enough(tested):
    """The other is listed with what it lets pass."""
    tested.gates(release="ppl_delta < 1.0", loose="ppl < 100000")
    result, _ = trials_of(tested)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["missed  good: ppl < 100000 lets pass scales_zeroed*"])


def test_a_gate_that_fails_anyway_proves_nothing(study):
    """It is not tried, and a self-test without any other gate is skipped with the reason."""
    study.gates(release="ppl_delta < 0.5")
    result, trials = trials_of(study, "-rs", "-k", "bad")
    result.assert_outcomes(failed=1, skipped=1, deselected=2)
    result.stdout.fnmatch_lines(["*ppl.delta < 0.5: fails without damage"])
    assert [(row["variant"], row["found"]) for row in trials] == [("bad", "not tested")]


def test_the_self_test_alone_knows_the_gates(tested):
    """With -k only it runs, on the gates of what was left out; without the option there is none."""
    result, trials = trials_of(tested, "-k", "selftest")
    result.assert_outcomes(passed=1, deselected=2)
    assert {row["gate"] for row in trials} == {"ppl.delta < 1", "disk.ratio < 2"}
    tested.run("quantgate.toml").assert_outcomes(passed=2)


def test_marked_tests_are_tested_too(tested):
    """Gates of a marked test count for the variants that it runs for."""
    tested.tables.pop("gates")
    tested.variant("other", seed=4, damage=0.05)
    (tested.path / "test_marked.py").write_text(
        "from pytest_quantgate import kld, quantgate\n"
        "@quantgate(kld.mean < 1.0, variants=['other'])\n"
        "def test_it(): ...\n"
    )
    result = tested.run("--quantgate-selftest", "-v", "test_marked.py")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["quantgate.toml::selftest?other? PASSED*"])


def test_a_backend_that_ignores_the_option_is_found_out(tested):
    """Nothing changed: that is no evidence about the gates."""
    tested.variant("good", seed=1, damage=0.05, undamageable=True)
    result, trials = trials_of(tested, "-rs")
    result.assert_outcomes(passed=2, skipped=1)
    reasons = {row["reason"] for row in trials if row["damage"]}
    assert reasons == {"the backend does not bring it about: nothing changed"}


def test_numbers_that_are_no_numbers_count_as_caught(tested):
    """A damaged copy whose logits are not finite fails every gate, as such a variant would."""
    tested.variant("good", seed=1, damage=0.05, breaks=True)
    result, trials = trials_of(tested)
    result.assert_outcomes(passed=3)
    assert {row["found"] for row in trials if row["severe"]} == {"caught", "not measurable"}


def test_workers_do_the_same(tested):
    """Under pytest-xdist the rows come back to one table."""
    pytest.importorskip("xdist")
    result, trials = trials_of(tested, "-n", "2", "--dist", "loadgroup")
    result.assert_outcomes(passed=3)
    assert any(row["found"] == "caught" for row in trials)
