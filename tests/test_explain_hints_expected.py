"""`ppl.within_expected`: formats are recognized, ranges are the published ones, and the gate is judged on them."""

from __future__ import annotations

import json

import gguf_files
import pytest

from pytest_quantgate import ppl
from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.expected import PUBLISHED, share, usual
from pytest_quantgate.parse import parse
from pytest_quantgate.scheme import Scheme, of_configuration, of_recipe, scheme_of
from pytest_quantgate.spec import Estimate, ModelSpec, Recipe
from pytest_quantgate.stats import EXP, Mean

COURSE = [  # the course page's table, and the study's own
    ("gptq", 8, "", 1.02, 1.05),
    ("gptq", 4, "", 1.05, 1.10),
    ("awq", 4, "", 1.04, 1.08),
    ("gguf", 8, "Q8_0", 1.03, 1.06),
    ("gguf", 4, "Q4_K_M", 1.05, 1.12),
    ("gguf", 3, "Q3_K_M", 1.10, 1.20),
    ("gguf", 2, "Q2_K", 1.15, 1.30),
]


@pytest.mark.parametrize(("method", "bits", "kind", "low", "high"), COURSE)
def test_the_course_page_lies_inside(method, bits, kind, low, high):
    """Each published range is part of what counts as usual."""
    found = usual(Scheme(method, bits, kind))
    assert found.low <= low
    assert found.high >= high


def test_ranges_are_sound():
    """Low is not above high, high is above 1, and somebody says so."""
    for row in PUBLISHED:
        assert 1 <= row.low <= row.high < 2
        assert row.high > 1
        assert row.source


@pytest.mark.parametrize(
    "scheme",
    [Scheme("fp8", 8), Scheme("gptq", 2), Scheme("gptq"), Scheme("torchao", 8), Scheme("new", 4), None],
)
def test_what_nobody_published_is_not_measurable(scheme):
    """No range is made up, and of bits that nobody states not the widest one of the method is taken."""
    assert usual(scheme) is None
    with pytest.raises(NotMeasurableError, match=r"gate ppl\.ratio itself"):
        share(ppl.within_expected, Estimate(1.1), scheme)


def test_the_value_and_its_interval():
    """0 is lossless, 1 the upper end; the interval and the p-values are the ratio's on another scale."""
    sampling = Mean(0.05, 0.01, 30).sampling(EXP)
    ratio = Estimate(sampling.link.forward(0.05), n=900, clusters=30, sampling=sampling).at(0.95)
    found = share(ppl.within_expected, ratio, Scheme("gptq", 4))
    assert found.value == pytest.approx((ratio.value - 1) / 0.10)
    assert found.low == pytest.approx((ratio.low - 1) / 0.10)
    for level in (0.9, 0.99):
        assert found.at(level).high == pytest.approx((ratio.at(level).high - 1) / 0.10)
    assert found.sampling.tails(1.0) == pytest.approx(sampling.tails(1.10))
    assert "usually 1.022 to 1.1" in found.note


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}, ("gptq", 4, "", 128)),
        ({"bits": 4, "group_size": 128, "desc_act": False, "model_name_or_path": None}, ("gptq", 4, "", 128)),
        ({"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True}, ("awq", 4, "", 32)),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, ("awq", 4, "", 64)),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
         ("bitsandbytes", 4, "nf4", None)),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, ("bitsandbytes", 8, "", None)),
        ({"quant_method": "auto-round", "bits": 3, "group_size": 128}, ("autoround", 3, "", 128)),
        ({"quant_method": "fp8"}, ("fp8", 8, "", None)),
        ({"quant_method": "compressed-tensors", "config_groups": {
            "a": {"weights": {"num_bits": 4}}, "b": {"weights": {"num_bits": 8}}}},
         ("compressed-tensors", 0, "mixed", None)),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {
            "weights": {"num_bits": 4, "type": "int", "group_size": 128, "symmetric": True}}}},
         ("compressed-tensors", 4, "W4A16", 128)),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {
            "weights": {"num_bits": 8, "type": "float"}, "input_activations": {"num_bits": 8}}}},
         ("compressed-tensors", 8, "FP8", -1)),
        ({"quant_method": "compressed-tensors", "config_groups": 7}, ("compressed-tensors", 0, "", None)),
        ({"quant_method": "gptq", "bits": "4", "group_size": True}, ("gptq", 0, "", None)),
    ],
)  # fmt: skip
def test_configurations_of_tools(section, expected):
    """As each of them writes it; nonsense gives no bits, and no error."""
    found = of_configuration(section)
    assert (found.method, found.bits, found.kind, found.group_size) == expected


@pytest.mark.parametrize("section", [{}, {"bits": 4}, {"quant_method": 4}])
def test_configurations_that_name_no_method(section):
    assert of_configuration(section) is None


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (Recipe("gptq", (("bits", 4),)), ("gptq", 4, "")),
        (Recipe("auto-gptq", (("bits", 4),)), ("gptq", 4, "")),
        (Recipe("autoawq", (("bits", 4),)), ("awq", 4, "")),
        (Recipe("gguf", (("type", "Q4_K_M"),)), ("gguf", 4, "Q4_K_M")),
        (Recipe("bitsandbytes", (("bits", 4), ("type", "nf4"))), ("bitsandbytes", 4, "nf4")),
        (Recipe("bitsandbytes", (("bits", 8), ("type", "nf4"))), ("bitsandbytes", 8, "")),
        (Recipe("llmcompressor", (("modifier", "gptq"), ("scheme", "W4A16"))), ("gptq", 4, "")),
        (Recipe("llmcompressor", (("modifier", "awq"), ("scheme", "W4A16_ASYM"))), ("awq", 4, "")),
        (
            Recipe("llmcompressor", (("modifier", "gptq"), ("scheme", "W8A8"))),
            ("compressed-tensors", 8, "W8A8"),
        ),
    ],
)
def test_recipes(recipe, expected):
    """One word for one method, whichever tool makes it."""
    found = of_recipe(recipe)
    assert (found.method, found.bits, found.kind) == expected


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("qwen2.5-1.5b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("model.Q8_0.gguf", "Q8_0"),
        ("m-IQ4_XS.gguf", "IQ4_XS"),
        ("model.gguf", ""),
    ],
)
def test_gguf_files_by_name(tmp_path, name, kind):
    (tmp_path / name).write_bytes(b"GGUF")
    for path in (tmp_path / name, tmp_path):
        found = scheme_of(
            ModelSpec("v", "", "", path=str(path), backend="gguf" if path.suffix else "transformers")
        )
        assert (found.method, found.kind) == ("gguf", kind)


@pytest.mark.parametrize(
    ("stated", "tensor_type", "title"),
    [
        (15, gguf_files.Q4_K, "GGUF Q4_K_M"),
        (15, gguf_files.Q8_0, "GGUF Q4_K_M, mostly 8 bits"),
        (7, gguf_files.Q8_0, "GGUF Q8_0"),
        (999, gguf_files.Q8_0, "GGUF"),
    ],
)
def test_a_gguf_file_is_what_its_header_says(tmp_path, stated, tensor_type, title):
    """Not what it is named; and a mixture whose tensors took another type has no published range."""
    metadata = gguf_files.METADATA | {
        "general.file_type": (gguf_files.UINT32, stated),
        "qwen2.context_length": (gguf_files.UINT32, 64),
    }
    tensors = {"blk.0.attn_q.weight": ((256, 4), tensor_type)}
    path = gguf_files.write(tmp_path, "model-Q2_K.gguf", metadata=metadata, tensors=tensors)
    found = scheme_of(ModelSpec("v", "", "", path=str(path), backend="gguf"))
    assert found.title == title
    assert found.stated == "the header of model-Q2_K.gguf"
    assert (usual(found) is None) is ("," in title or title == "GGUF")


def test_a_dense_folder_has_no_scheme(tmp_path):
    """Nor has one that is damaged."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    spec = ModelSpec("v", "", "", path=str(tmp_path))
    assert scheme_of(spec) is None
    (tmp_path / "config.json").write_text("{")
    assert scheme_of(spec) is None
    assert scheme_of(ModelSpec("v", "http://x", "")) is None


def test_the_gate_reads_back():
    """The relation is part of the language."""
    gate = ppl("sliding").within_expected <= 1
    assert str(gate) == "ppl('sliding').within_expected <= 1"
    assert parse(str(gate)) == gate


def test_the_gate_is_judged(study):
    """The fakes' checkpoints say GPTQ of 8 bits; one keeps within its range, one does not."""
    study.gates(q="ppl.within_expected <= 1")
    done = study.run("--quantgate-report", "out")
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines(["*bad: ppl.within_expected = *missed*GPTQ, 8 bits usually 1 to 1.05*"])
    report = json.loads((study.path / "out" / "report.json").read_text())
    figures = {row["name"]: row["figures"] for row in report["variants"]}
    ratio = figures["bad"]["ppl"]["value"] / report["baseline"]["figures"]["ppl"]["value"]
    assert figures["bad"]["ppl.within_expected"]["value"] == pytest.approx((ratio - 1) / 0.05, rel=1e-6)


def test_the_gate_under_a_confidence(study):
    """The interval at any level decides."""
    study.gates(q="ppl.within_expected <= 1")
    done = study.run("--quantgate-confidence", "0.99")
    done.assert_outcomes(passed=1, failed=1)


def test_an_unknown_format_is_not_measured(study):
    """Skipped with the reason; a failure where strict."""
    config = json.loads((study.path / "bad" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "hqq", "bits": 8}
    (study.path / "bad" / "config.json").write_text(json.dumps(config))
    study.gates(q="ppl.within_expected <= 1")
    done = study.run("-rs", "-k", "bad")
    done.assert_outcomes(skipped=1)
    done.stdout.fnmatch_lines(["*no source gives a range for HQQ*"])
    study.run("--quantgate-strict", "-k", "bad").assert_outcomes(failed=1)


@pytest.mark.parametrize("gate", ["kld.mean.within_expected < 1", "disk.within_expected < 1"])
def test_only_perplexity_has_the_relation(study, gate):
    study.gates(q=gate)
    done = study.run()
    assert done.ret == 4
    done.stderr.fnmatch_lines(["*has no .within_expected*"])
