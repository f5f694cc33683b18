"""Bad input from outside the gate language: one line that names the thing and the next step, no traceback."""

from __future__ import annotations

import pytest

GATE = "from pytest_quantgate import *\n@quantgate(ppl_delta < 1e9, variants=['{0}'])\ndef test_release(): pass\n"


def failed(study, *expected: str, arguments: tuple[str, ...] = ()) -> str:
    """Run, and require one failed test whose own message has all the words; return that message."""
    result = study.run("--junitxml", "out.xml", *arguments)
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text
    (message,) = {line for line in result.outlines if line.startswith(tuple(f"{name}: " for name in NAMES))}
    assert all(words in message for words in expected), message
    return message


NAMES = ("good", "real", "odd")


def test_a_hub_id_without_the_hub_client(study):
    """A variant on the hub, in an environment without the extra: the pip command, and the others are judged."""
    (study.path / "test_it.py").write_text(GATE.format("odd"))
    study.tables["variants.odd"] = 'model = "org/name"'
    conftest = study.path / "conftest.py"
    conftest.write_text("import sys\nsys.modules['huggingface_hub'] = None\n" + conftest.read_text())
    failed(study, "org/name", "pip install 'pytest-quantgate[hf]'")
    (study.path / "test_it.py").write_text(GATE.format("good"))
    study.run().assert_outcomes(passed=1)


def test_a_baseline_on_the_hub_without_the_hub_client(study):
    """The same for the baseline ends the run: nothing can be compared."""
    (study.path / "test_it.py").write_text(GATE.format("good"))
    study.tables[""] = (
        'baseline = { model = "org/name", backend = "fake" }\ndtype = "float32"\ndevice = "cpu"'
    )
    conftest = study.path / "conftest.py"
    conftest.write_text("import sys\nsys.modules['huggingface_hub'] = None\n" + conftest.read_text())
    result = study.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: baseline: *org/name*pip install 'pytest-quantgate?hf?'"])


def test_a_model_that_is_not_sane_says_what_to_look_at(study):
    """The failing test's own message has the likely causes: in JUnit there is nothing else."""
    study.variant("odd", nan=True)
    (study.path / "test_it.py").write_text(GATE.format("odd"))
    failed(study, "NaN or infinite weights in layers.0.linear.scales", "likely causes: ")


@pytest.mark.parametrize("place", ["v1", "v1/locks", "v1/observations"])
def test_a_store_that_cannot_keep(study, place):
    """A file where the store wants a folder: the run goes on with a warning, or fails where warnings are errors."""
    (study.path / "test_it.py").write_text(GATE.format("good"))
    blocked = study.path / ".quantgate" / place
    blocked.parent.mkdir(parents=True)
    blocked.write_text("")
    failed(study, str(study.path / ".quantgate"), arguments=("-W", "error"))
    result = study.run()
    assert result.parseoutcomes()["passed"] == 1
    result.stdout.fnmatch_lines([f"*StoreWarning: {study.path / '.quantgate'}*"])
    assert blocked.read_text() == ""


def test_a_mistake_in_the_configuration_is_not_blamed_on_a_test(study):
    """The message begins with the file that has the mistake, not with the test that was collected first."""
    (study.path / "test_it.py").write_text(GATE.format("good"))
    study.tables["tokenz"] = "x = 1"
    result = study.run("test_it.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {study.path / 'quantgate.toml'}: *unknown table 'tokenz'*"])


def test_wikitext_without_a_hub(study, monkeypatch):
    """The default corpus, where the hub is out of reach: exit code 4 and one line, offline with its own reason."""
    pytest.importorskip("datasets")
    (study.path / "test_it.py").write_text(GATE.format("good"))
    study.tables["tokens"] = 'protocol = "gptq"\nwindow = 256'
    monkeypatch.setenv("HF_HOME", str(study.path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for argument, reason in (("-q", "Connection refused"), ("--quantgate-offline", "--quantgate-offline")):
        result = study.run(argument)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        (line,) = [line for line in result.errlines if line.startswith("ERROR")]
        assert "corpus Salesforce/wikitext wikitext-2-raw-v1 test cannot be had" in line
        assert reason in line


def test_a_refused_variant_leaves_nothing(study):
    """What a refused variant leaves behind: no observation of it, and nothing half-written."""
    study.variant("odd")
    (study.path / "odd" / "model.safetensors").write_bytes(b"\x00" * 7)
    (study.path / "test_it.py").write_text(GATE.format("odd"))
    failed(study, "model.safetensors")
    left = [path for path in (study.path / ".quantgate").rglob("*") if path.is_file()]
    assert {path.name for path in left} == {".gitignore", "CACHEDIR.TAG", "README.md", "history.sqlite"}


def test_a_recipe_without_a_baseline(study):
    """There is nothing to quantize: said at collection."""
    (study.path / "test_it.py").write_text(GATE.format("odd").replace("ppl_delta", "ppl"))
    study.tables[""] = 'dtype = "float32"\ndevice = "cpu"'
    study.tables["variants.odd"] = 'quantize = { method = "gptq", bits = 4, calibration = "corpus.txt" }'
    refused(study, "variant 'odd' is a recipe, but no baseline is configured")


def test_a_calibration_file_that_is_not_there(study):
    """The file is named before anything is loaded."""
    (study.path / "test_it.py").write_text(GATE.format("odd"))
    study.tables["variants.odd"] = 'quantize = { method = "gptq", bits = 4, calibration = "gone.jsonl" }'
    refused(study, "gone.jsonl")
    assert study.log() == []


def test_a_relation_that_a_metric_has_not(study):
    """A metric that belongs to a pair of models has no ratio; what there is is listed."""
    (study.path / "test_it.py").write_text(GATE.format("good").replace("ppl_delta", "top1_agreement.ratio"))
    refused(study, "test_it.py:2", "top1_agreement has no .ratio")


def test_a_configuration_file_that_is_not_there(study):
    """The configuration that --quantgate-config names must exist, also where pytest chooses what to collect."""
    study.pytester.makeini("[pytest]\ntestpaths = .\n")
    refused(
        study, "--quantgate-config gone.toml: no such file", arguments=("--quantgate-config", "gone.toml")
    )


def refused(study, *expected: str, arguments: tuple[str, ...] = ()) -> None:
    """Run, and require exit code 4 and one line with all the words."""
    result = study.run(*arguments)
    text = result.stderr.str() + result.stdout.str()
    assert result.ret == pytest.ExitCode.USAGE_ERROR, text
    (line,) = [line for line in result.errlines if line.startswith("ERROR: ")]
    assert all(words in line for words in expected), line
    assert "Traceback" not in text


def test_a_report_that_cannot_be_written(study):
    """The verdicts stand; the report's absence is a warning that names the file, and nothing half-written stays."""
    (study.path / "test_it.py").write_text(GATE.format("good"))
    (study.path / "out").write_text("")
    result = study.run("--quantgate-report", "out")
    assert result.parseoutcomes()["passed"] == 1
    result.stdout.fnmatch_lines(["*report.json: the report cannot be written (*"])
    assert (study.path / "out").read_text() == ""
    assert not list(study.path.glob(".*.part"))


def test_fixtures_where_nothing_is_measured(study):
    """A test without gates that takes a fixture is skipped without --quantgate, and told without a baseline."""
    (study.path / "test_it.py").write_text(
        "def test_measured(baseline): pass\ndef test_loaded(baseline_model): pass\n"
    )
    result = study.run("-rs", active=False)
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["*needs --quantgate: it measures models"])
    study.tables[""] = 'dtype = "float32"\ndevice = "cpu"'
    result = study.run("-k", "loaded")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no baseline is configured; add baseline = *"])


def test_a_loaded_model_is_the_engines_own(study):
    """`model` and `tokenizer` are what the backend loaded, so that a body may ask them anything."""
    (study.path / "test_it.py").write_text(
        "from pytest_quantgate import *\n@quantgate(variants=['good'])\ndef test_it(quantized_model):\n"
        "    assert quantized_model.model is quantized_model.loaded\n"
        "    assert quantized_model.tokenizer.decode([0]) == 'A'\n"
        "    assert (quantized_model.path / 'config.json').is_file() and quantized_model.recipe is None\n"
    )
    study.run().assert_outcomes(passed=1)
