"""Lint by rule: each is triggered by one change of a sound checkpoint, and by no sound checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lint_models as models
import pytest
from lint_cases import CASES, Q0, Case, section, without
from lint_models import CONFIG, GROUP, HIDDEN, LAYERS, SECTIONS

from pytest_quantgate.lint import RULES, Finding, Linted, lint

ROOT = Path(__file__).parents[1]
KINDS = ["", *SECTIONS]


OF_GGUF = {"QG121", "QG801"}


def linted(tmp_path: Path, case: Case) -> Linted:
    case.write(tmp_path / "model")
    if case.baseline is not None:
        case.baseline(tmp_path / "baseline")
    return lint(tmp_path / "model", tmp_path / "baseline" if case.baseline else None)


@pytest.mark.parametrize("case", CASES, ids=[f"{case.rule}-{case.said[:30]}" for case in CASES])
def test_every_rule_is_triggered(tmp_path: Path, case: Case) -> None:
    """The changed checkpoint has the finding, in one printable line that says what and what to do."""
    found = [finding for finding in linted(tmp_path, case).findings if finding.rule == case.rule]
    assert found
    assert any(case.said in finding.line() for finding in found), [finding.line() for finding in found]
    assert all(finding.line().isprintable() and finding.advice for finding in found)


def test_every_rule_has_a_case() -> None:
    """But those of GGUF, which `test_lint_gguf` triggers."""
    assert {case.rule for case in CASES} == {rule for rule in RULES if rule not in OF_GGUF}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_checkpoint_is_not_accused(tmp_path: Path, kind: str, shards: int) -> None:
    """Alone and against its baseline: a note on the GPU at most."""
    folder = models.write(tmp_path / "model", kind, shards=shards)
    baseline = models.write(tmp_path / "baseline")
    assert {finding.rule for finding in lint(folder).findings} <= {"QG704"}
    # a dense checkpoint is the baseline itself
    assert {finding.rule for finding in lint(folder, baseline).findings} <= {"QG704"}


def test_the_example_is_sound() -> None:
    """The trained model of the example lacks a licence and a card, nothing else."""
    found = lint(ROOT / "example_project" / "model", ROOT / "example_project" / "model")
    assert {finding.rule for finding in found.findings} == {"QG604", "QG605"}
    assert found.facts.packed == 0


@pytest.mark.parametrize(
    ("kind", "bits"),
    # scale 16, zero point 4 per group of 64; order 32 per input: small matrices carry more of it
    [("awq", 4 + 20 / 64), ("compressed", 4 + 16 / 64), ("bnb8", 8.11), ("int8", 8.06), ("fp8", 8.002)],
)
def test_bits_per_weight_are_the_formula(tmp_path: Path, kind: str, bits: float) -> None:
    """What is counted from shapes is what the format costs by definition, to a hundredth of a bit."""
    found = lint(models.write(tmp_path, kind)).facts
    assert found.packed_bits == pytest.approx(bits, abs=0.01)
    assert found.packed == LAYERS * len(models.MATRICES)


def test_layers_of_one_fault_are_one_line(tmp_path: Path) -> None:
    """What differs only in the layer's number is counted, not repeated; what is said of all modules is one line."""
    found = lint(models.write(tmp_path, "gptq", quantization_config=section(bits=8)))
    (line,) = [finding for finding in found.findings if finding.rule == "QG115"]
    assert line.count == LAYERS * len(models.MATRICES)
    found = lint(models.write(tmp_path, intermediate_size=384))
    lines = [finding for finding in found.findings if finding.rule == "QG202"]
    assert [finding.count for finding in lines] == [LAYERS] * 3


@pytest.mark.parametrize("rank", range(3))
def test_findings_come_by_severity(tmp_path: Path, rank: int) -> None:
    """Errors, then warnings, then notes."""
    found = lint(
        models.write(tmp_path, "gptq", quantization_config=section(bits=8), files={"README.md": None})
    )
    ranks = [("error", "warning", "note").index(finding.about.severity) for finding in found.findings]
    assert ranks == sorted(ranks)
    assert rank in ranks


def test_many_findings_of_a_rule_end_with_a_count() -> None:
    """A hostile header cannot print a hundred thousand lines."""
    from pytest_quantgate.lint.finding import collapsed

    found = collapsed(
        Finding("QG202", "f", f"is {size}", "mend it", f"tensor{size}x") for size in range(1000)
    )
    assert len(found) == 40
    assert sum(finding.count for finding in found) == 1000


@pytest.mark.parametrize(
    ("dynamic", "rules"),
    [({r"-:model\.layers\.0\..*": {}}, set()), ({r"-:.*layers\.1\..*": {}}, {"QG108"})],
)
def test_modules_that_a_rule_excludes_may_be_dense(
    tmp_path: Path, dynamic: dict[str, Any], rules: set[str]
) -> None:
    """GPTQModel's dynamic rules are regular expressions over names."""
    first = {name: value for name, value in models.tensors().items() if "layers.0." in name}
    made = without("gptq", "model.layers.0.") | first
    found = lint(models.write(tmp_path, "gptq", made=made, quantization_config=section(dynamic=dynamic)))
    assert {finding.rule for finding in found.findings} & {"QG108"} == rules


def test_halves_do_not_accuse_each_other(tmp_path: Path) -> None:
    """Which of two kinds of layers is the odd one cannot be said when they are as many."""
    made = models.tensors()
    for layer in (0, 2):
        made[f"model.layers.{layer}.mlp.extra.weight"] = ("BF16", (HIDDEN, HIDDEN))
    assert "QG204" not in {finding.rule for finding in lint(models.write(tmp_path, made=made)).findings}


def test_hybrid_layers_are_not_accused(tmp_path: Path) -> None:
    """Layers with other mixers, or with experts, are compared with their like."""
    made = models.tensors()
    for layer in (1, 3):
        made = {name: value for name, value in made.items() if f"layers.{layer}.self_attn" not in name}
        made[f"model.layers.{layer}.linear_attn.in_proj.weight"] = ("BF16", (HIDDEN, HIDDEN))
    found = lint(models.write(tmp_path, made=made, model_type="qwen3_next"))
    assert "QG204" not in {finding.rule for finding in found.findings}


def test_the_table_of_the_docs_is_the_code() -> None:
    """docs/lint.md lists every rule with its name, severity and summary, in order."""
    text = (ROOT / "docs" / "lint.md").read_text(encoding="utf-8")
    rows = [f"| `{r.id}` | {r.name} | {r.severity} | {r.summary} |" for r in RULES.values()]
    assert "\n".join(rows) in text


def test_unquantized_config_equals_the_baseline(tmp_path: Path) -> None:
    """The sections are the only difference that config.json of a sound variant has."""
    assert models.config("gptq") == {**CONFIG, "quantization_config": SECTIONS["gptq"]}
    one, two = models.write(tmp_path / "a"), models.write(tmp_path / "b", rms_norm_eps=1e-5)
    # a field that one of them leaves to the default is not compared
    assert "QG210" not in {finding.rule for finding in lint(one, two).findings}


def test_what_a_loader_quantizes_is_said_of_methods_that_are_not_unpacked(tmp_path: Path) -> None:
    """optimum-quanto has no stored form: a dense checkpoint with its section is quantized on load."""
    found = lint(models.write(tmp_path, quantization_config={"quant_method": "quanto", "weights": "int8"}))
    assert {finding.rule for finding in found.findings} == {"QG119"}


def test_layers_that_auto_round_leaves_dense(tmp_path: Path) -> None:
    """extra_config excludes what it gives 16 bits."""
    dense = {"model.layers.0.self_attn.q_proj": {"bits": 16}}
    packing = {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}
    made = {name: value for name, value in without("gptq", Q0).items() if "g_idx" not in name}
    made[f"{Q0}.weight"] = ("BF16", (HIDDEN, HIDDEN))
    described = {**section(desc_act=None), **packing}
    folder = models.write(
        tmp_path, "gptq", made=made, quantization_config={**described, "extra_config": dense}
    )
    assert {finding.rule for finding in lint(folder).findings} == set()
    models.write(tmp_path, "gptq", made=made, quantization_config=described)
    assert {finding.rule for finding in lint(folder).findings} == {"QG108"}


def test_a_folder_of_the_hubs_cache(tmp_path: Path) -> None:
    """There every file is a link into blobs/, and that is no link out of the folder."""
    plain = models.write(tmp_path / "plain", "awq")
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "1", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(plain.iterdir()):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert {finding.rule for finding in lint(snapshot).findings} <= {"QG704"}


def test_a_packing_that_no_method_here_writes(tmp_path: Path) -> None:
    """Tensors of FP4 are recognized and counted, and the note says that the method's rules are not known."""
    made = models.tensors("modelopt")
    found = lint(models.write(tmp_path, made=made, quantization_config={"quant_method": "modelopt"}))
    assert {finding.rule for finding in found.findings} == {"QG120"}
    # a scale of 8 bits for 16 weights, one of 32 for the matrix
    assert found.facts.packed_bits == pytest.approx(4 + 8 / 16, abs=0.01)


def test_what_optimum_quanto_saved_is_quantized(tmp_path: Path) -> None:
    """It writes no quantization section but a file beside the weights, and its loader reads that one."""
    folder = models.write(tmp_path, made=models.tensors("quanto"), files={"quanto_qmap.json": {}})
    found = lint(folder)
    assert [finding.rule for finding in found.findings if finding.about.severity != "note"] == []
    assert "QG120" in [finding.rule for finding in found.findings]
    assert found.facts.quantization == "quanto"
    assert found.facts.packed == models.LAYERS * len(models.MATRICES)
    (folder / "quanto_qmap.json").unlink()
    assert "QG105" in [finding.rule for finding in lint(folder).findings]


def test_a_layout_for_one_kernel_is_left_alone(tmp_path: Path) -> None:
    """AWQ's gemv stores rows: nothing is read back from its shapes."""
    made = {
        name: ("I32", tuple(reversed(shape))) if name.endswith("qweight") else (dtype, shape)
        for name, (dtype, shape) in models.tensors("awq").items()
    }
    folder = models.write(tmp_path, "awq", made=made, quantization_config=section("awq", version="gemv"))
    assert {finding.rule for finding in lint(folder).findings} <= {"QG704"}


def test_order_that_is_not_stored(tmp_path: Path) -> None:
    """GPTQ without desc_act needs no g_idx; widths come from config.json, or from the bits that are said."""
    made = {name: value for name, value in models.tensors("gptq").items() if "g_idx" not in name}
    for number, model_type in enumerate(("qwen2", "unheard_of")):
        fields = {"quantization_config": section(desc_act=False), "model_type": model_type}
        found = lint(models.write(tmp_path / str(number), "gptq", made=made, **fields))
        assert {finding.rule for finding in found.findings} <= {"QG704"}
        assert found.facts.packed_bits == pytest.approx(4 + 20 / GROUP, abs=0.01)


def test_a_tokenizer_written_another_way_is_the_same(tmp_path: Path) -> None:
    """Pairs or text for merges, other blanks, a sentencepiece file left out: the ids are what counts."""
    whole = models.tokenizer()
    one, two = ({**whole, "model": whole["model"] | {"merges": merges}} for merges in ([["a", "b"]], ["a b"]))
    baseline = models.write(tmp_path / "a", files={"tokenizer.json": one, "tokenizer.model": b"x"})
    folder = models.write(tmp_path / "b", files={"tokenizer.json": json.dumps(two, indent=4)})
    assert lint(folder, baseline).findings == ()


def test_unigram_vocabularies_are_counted_by_place(tmp_path: Path) -> None:
    """Their tokens are a list with scores."""
    pairs = [[f"<{number}>", -1.0] for number in range(400)]
    tokenizer = {"model": {"type": "Unigram", "vocab": pairs}}
    found = lint(models.write(tmp_path, files={"tokenizer.json": tokenizer}))
    assert "QG403" in {finding.rule for finding in found.findings}


def test_headers_have_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of many large headers is not read to its end, and says so."""
    monkeypatch.setattr("pytest_quantgate.lint.shards.MAX_HEADERS", 500)
    found = lint(models.write(tmp_path, shards=3))
    assert "is not read: the headers before it" in found.findings[0].line()
