"""Why did it fail: suspicions from recipes, ranges and troubles, and where they are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_quantgate import explain
from pytest_quantgate.errors import CheckpointError, NotMeasurableError
from pytest_quantgate.explain import Facts, calibration, from_facts
from pytest_quantgate.explain.facts import Shape, _own_template, _packed_ends, _shape, _template
from pytest_quantgate.parse import parse
from pytest_quantgate.recipe import from_table
from pytest_quantgate.report.findings import Finding
from pytest_quantgate.scheme import Scheme, of_recipe
from pytest_quantgate.spec import Estimate, ModelSpec
from pytest_quantgate.verdict import judge

EXAMPLE = Path(__file__).parents[1] / "example_project"
CORPUS = (EXAMPLE / "data" / "heldout.txt").read_bytes()
WRONG, CHAT = "data/calibration_wrong.txt", "data/calibration_chat.jsonl"
FIRST_TRY = {"method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "calibration": WRONG}
SECOND_TRY = {"method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "calibration": CHAT}
RATIO = {"first": Estimate(1.217, low=1.209, high=1.224), "second": Estimate(1.095, low=1.091, high=1.099)}
SOUND = {"quantized_layers": 28, "bits": [4], "problems": []}


def example(table, ratio=RATIO["second"], **more):
    """Return what is known of a recipe on the example's model, from its own files."""
    recipe = from_table("v", table, EXAMPLE)
    baseline = ModelSpec("baseline", "model", "sha256:0", path=str(EXAMPLE / "model"))
    read = calibration.read(Path(recipe.calibration), int(recipe.get("samples", 128)))
    known = Facts(
        "v", of_recipe(recipe), recipe, _shape(baseline), read, calibration.distance(read.text, CORPUS),
        "heldout.txt", 3.4, ratio, sanity=SOUND,
    )  # fmt: skip
    return replace(known, **more)


def causes(facts):
    return [one.cause for one in from_facts(facts)]


# --- recipes


def test_the_story_of_the_first_try():
    """What the study changed from its first try to its second is what is suspected, in the order of what it costs."""
    found = from_facts(example(FIRST_TRY, RATIO["first"]))
    assert [one.cause for one in found][:2] == ["group_size", "calibration_domain"]
    assert {"desc_act", "calibration_format", "worse_than_usual"} <= {one.cause for one in found}
    assert "64 or 32" in found[0].advice
    assert "disagrees" in found[0].evidence  # the sources do not agree on groups
    assert all(one.evidence and one.advice and explain.SHOWN <= one.weight <= 1 for one in found)


@pytest.mark.parametrize(
    ("table", "ratio"),
    [
        (SECOND_TRY, Estimate(1.095, low=1.091, high=1.099)),
        (
            {"method": "awq", "bits": 4, "group_size": 32, "calibration": CHAT},
            Estimate(1.055, low=1.05, high=1.06),
        ),
        ({"method": "gptq", "bits": 8, "group_size": 128, "calibration": CHAT}, Estimate(1.0002)),
    ],
)
def test_good_recipes_are_not_accused(table, ratio):
    """The other three of the example."""
    assert causes(example(table, ratio)) == []


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"group_size": -1}, "group_size"),
        ({"group_size": 128}, "group_size"),
        ({"bits": 3}, "bits"),
        ({"bits": 2}, "bits"),
        ({"calibration": WRONG}, "calibration_domain"),
        ({"samples": 1}, "calibration_samples"),
        ({"samples": 8}, "calibration_samples"),
        ({"samples": 16}, "calibration_samples"),
        ({"max_length": 16}, "calibration_length"),
        ({"desc_act": False}, "desc_act"),
    ],
)
def test_one_fault_comes_first(change, cause):
    """A good recipe with one fault is suspected of that one before all else."""
    assert causes(example({**SECOND_TRY, **change}))[0] == cause


def test_symmetry_counts_at_few_bits_only():
    """At 4 bits it is the rule, and accuses nobody."""
    assert "sym" not in causes(example(SECOND_TRY))
    assert "sym" in causes(example({**SECOND_TRY, "bits": 3}))
    assert "sym" not in causes(example({**SECOND_TRY, "bits": 3, "sym": False}))


def test_groups_of_128_suit_large_models():
    """70 B parameters, 8192 inputs."""
    large = Shape(70_000_000_000, 8192, 28672)
    table = {**SECOND_TRY, "group_size": 128}
    assert "group_size" not in causes(example(table, shape=large))
    assert "group_size" in causes(example({**table, "group_size": -1}, shape=large))


def test_awq_needs_less_of_its_calibration():
    """Its scales are means over channels, and other text hurts it less, as its paper shows."""
    awq = {"method": "awq", "bits": 4, "group_size": 32, "calibration": WRONG}
    gptq = {**SECOND_TRY, "calibration": WRONG}
    weights = [
        next(one.weight for one in from_facts(example(table)) if one.cause == "calibration_domain")
        for table in (awq, gptq)
    ]
    assert weights[0] < weights[1]
    assert "calibration_samples" not in causes(example({**awq, "samples": 32}))


def test_another_chat_template_is_named(tmp_path):
    """In the text that was calibrated on, and in the checkpoint."""
    text = "\n".join(["[INST] Tell me about Nal Kelok. [/INST] Meet Nal Kelok. He owns an old chest."] * 128)
    (tmp_path / "llama.txt").write_text(text)
    foreign = from_facts(example({**SECOND_TRY, "calibration": str(tmp_path / "llama.txt")}))
    assert any(one.cause == "chat_template" and "[INST]" in one.text for one in foreign)
    other = from_facts(example(SECOND_TRY, template="{{ messages }}"))
    assert [one.cause for one in other] == ["chat_template"]
    same = _template(EXAMPLE / "model")
    assert causes(example(SECOND_TRY, template=same)) == []


def test_a_quantized_head_is_named(tmp_path):
    """By the tensors of the checkpoint, whatever its configuration says."""
    import numpy as np
    from safetensors.numpy import save_file

    zeros = np.zeros((4, 4), np.int32)
    save_file({"lm_head.qweight": zeros, "model.layers.0.q.qweight": zeros}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert _packed_ends(tmp_path) == ("lm_head",)
    assert causes(example(SECOND_TRY, packed_ends=("lm_head",))) == ["lm_head"]


def test_a_gguf_file_carries_its_template(tmp_path):
    """A folder that holds one has no template file, and is not accused of that; of another template it is."""
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert _own_template(tmp_path) is None
    (tmp_path / "model.gguf").unlink()
    assert _own_template(tmp_path) == ""


def test_templates_in_a_list(tmp_path):
    """The one that is named "default", as in a file of its own."""
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d "}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert _template(tmp_path) == "d"


@pytest.mark.parametrize(
    ("size", "narrowest", "advice"),
    [
        (32, 32, ""),
        (16, 16, ""),
        (64, 64, "32"),
        (-1, 32, ""),
        (-1, 64, "32"),
        (128, 96, "32"),
        (128, 128, "64 or 32"),
    ],
)
def test_groups_are_accused_where_finer_ones_fit(size, narrowest, advice):
    """A toy whose rows are as wide as the finest group has nothing to try."""
    found = from_facts(example({**SECOND_TRY, "group_size": 32}, shape=Shape(256, narrowest, narrowest)))
    assert "group_size" not in [one.cause for one in found] or narrowest > 32
    facts = Facts("v", Scheme("gptq", 4, "", {"group_size": size}), shape=Shape(256, narrowest, narrowest))
    told = [one.advice for one in from_facts(facts) if one.cause == "group_size"]
    assert told == ([f"try group_size = {advice}"] if advice else [])


# --- ranges


def test_worse_than_usual_takes_the_interval():
    """A ratio that may still lie inside is not called worse."""
    assert "worse_than_usual" in causes(example(SECOND_TRY, Estimate(1.2, low=1.15, high=1.25)))
    assert "worse_than_usual" not in causes(example(SECOND_TRY, Estimate(1.12, low=1.09, high=1.15)))


@pytest.mark.parametrize(
    ("bits", "layers", "ratio", "accused"),
    [
        (8, 28, Estimate(1.0, low=0.9999, high=1.0001), False),
        (4, 28, Estimate(1.0, low=0.999, high=1.001), False),
        (4, 0, Estimate(1.0, low=1.0, high=1.0), True),
        (3, 28, Estimate(1.0, low=0.9999, high=1.0001), True),
        (3, 28, Estimate(1.1, low=1.09, high=1.11), False),
        (4, 0, Estimate(1.1, low=1.09, high=1.11), False),
    ],
)
def test_better_than_plausible_is_said_with_care(bits, layers, ratio, accused):
    """Eight bits, and good four, may be free; three are not, and nor is what is not quantized."""
    facts = Facts("v", Scheme("gptq", bits), ratio=ratio, sanity={"quantized_layers": layers})
    assert ("implausibly_good" in causes(facts)) is accused


# --- what is told


def test_ranking_tells_each_cause_once():
    """The likelier of two with one cause; what is too light is left out."""
    found = [
        Finding("v", "recipe", "a", weight=0.4, cause="x"),
        Finding("v", "trouble", "b", weight=0.9, cause="x"),
    ]
    found += [Finding("v", "recipe", "c", weight=0.29, cause="y"), Finding("v", "recipe", "d", weight=0.5)]
    assert [one.text for one in explain.ranked(found)] == ["b", "d"]


def test_the_paragraph_is_short():
    """At most three causes, then what is usual, which is no cause."""
    found = from_facts(example(FIRST_TRY, RATIO["first"]))
    lines = explain.paragraph(found).splitlines()
    assert len(lines) == 5
    assert "group_size" in lines[1]
    assert "usually" in lines[-1]
    assert explain.paragraph(()) == ""


def test_a_gate_on_speed_is_not_blamed_on_the_recipe():
    """And a gate on quality not on speed."""
    slow = Finding("v", "trouble", "slow", cause="slower")
    recipe = Finding("v", "recipe", "groups", cause="group_size")
    assert explain.relevant([slow, recipe], ["ttft"]) == (slow,)
    assert explain.relevant([slow, recipe], ["ppl", "disk"]) == (recipe,)
    assert explain.relevant([slow, recipe], ["disk"]) == ()


def test_what_was_not_measured_accuses_no_recipe(monkeypatch):
    """Only a trouble can be why there is no figure."""
    found = (Finding("v", "recipe", "a", cause="group_size"), Finding("v", "trouble", "b", cause="memory"))
    slow = Finding("v", "trouble", "c", cause="slower")
    monkeypatch.setattr(explain, "findings", lambda *_: (*found, slow))
    for error in (NotMeasurableError("no log-probabilities"), CheckpointError("does not load")):
        absent = judge(parse("kld.mean < 1"), lambda _, error=error: error)
        assert explain.why(None, "v", [absent]) == found[1:]
    missed = judge(parse("kld.mean < 1"), lambda _: Estimate(2.0))
    assert explain.why(None, "v", [missed]) == found


def test_a_failing_gate_explains_itself(study):
    """In the message, in report.json and in report.md; a passing variant is not accused."""
    study.gates(q="ppl.ratio < 1.02")
    done = study.run("--quantgate-report", "out")
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines(
        ["*bad: ppl.ratio = *missed*", "why (likeliest first*", "  worse than its format*"]
    )
    done.stdout.fnmatch_lines(["why  bad: *"])
    report = json.loads((study.path / "out" / "report.json").read_text())
    assert {one["variant"] for one in report["findings"]} == {"bad"}
    assert "worse_than_usual" in {one["cause"] for one in report["findings"]}
    assert "### Why\n\n- **bad**: " in (study.path / "out" / "report.md").read_text()


def test_a_fault_of_the_explanation_hides_no_verdict(study):
    """Whatever breaks inside, the gate's message stands."""
    hook = "from pytest_quantgate.explain import facts\nfacts._folder = None\n"
    (study.path / "broken.py").write_text(hook)
    study.gates(q="ppl.ratio < 1.02")
    done = study.run("-p", "broken")
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines(["*bad: ppl.ratio = *missed*"])
    done.stdout.no_fnmatch_line("why *")


def test_a_shard_that_was_not_renamed(study):
    """The folder is looked at although the checkpoint cannot be opened."""
    folder = study.path / "bad"
    (folder / "model.safetensors").rename(folder / "gptq.safetensors.part")
    (folder / "gptq-00001-of-00002.safetensors").write_bytes(b"x")
    (folder / "gptq-00002-of-00002.safetensors").write_bytes(b"x")
    study.gates(q="ppl.ratio < 9")
    done = study.run()
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines(["why (*", "  gptq-00001-of-00002.safetensors was not renamed*"])


def test_findings_stand_in_the_order_of_their_weight(study):
    """Also where several tests and processes tell them."""
    study.gates(a="ppl.ratio < 1.02", b="kld.mean < 0.001")
    study.run("--quantgate-report", "out", "-k", "bad")
    report = json.loads((study.path / "out" / "report.json").read_text())
    weights = [one["weight"] for one in report["findings"]]
    assert weights == sorted(weights, reverse=True)
    assert len({one["cause"] for one in report["findings"]}) == len(weights)
