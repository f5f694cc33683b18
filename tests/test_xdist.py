"""pytest -n: one model's tests on one worker, nothing measured twice, one summary."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("xdist")

BODY = "from pytest_quantgate import *\n@quantgate(ppl_delta < 1.0)\ndef test_{0}(): pass\n"


@pytest.mark.parametrize("dist", ["load", "loadgroup"])
def test_measured_once(study, dist):
    """Whatever the distribution, each observation is made once, and the controller has all results."""
    for index in range(4):
        (study.path / f"test_{index}.py").write_text(BODY.format(index))
    study.run("--quantgate-store", "alone")
    alone = [line for line in study.log() if line.startswith("score")]
    result = study.run("-n", "4", "--dist", dist, "--quantgate-report", "out")
    result.assert_outcomes(passed=4, failed=4)
    log = study.log()
    assert sorted(line for line in log if line.startswith("score")) == sorted(alone)
    report = json.loads((study.path / "out" / "report.json").read_text())
    assert [row["name"] for row in report["variants"]] == ["good", "bad"]
    assert len(report["results"]) == 8
    labels = [step["label"] for step in report["steps"] if step["source"] == "measured"]
    assert sorted(labels) == sorted(set(labels))


def test_a_variant_stays_on_one_worker(study):
    """Under --dist loadgroup all tests of a variant run in one process, so that it loads there once."""
    for index in range(4):
        (study.path / f"test_{index}.py").write_text(
            "import os\nfrom pathlib import Path\nfrom pytest_quantgate import *\n"
            "@quantgate(ppl < 1e9)\ndef test_it(quant_variant):\n"
            "    worker = os.environ['PYTEST_XDIST_WORKER']\n"
            "    Path(f'{quant_variant.name}.{worker}.ran').touch()\n"
        )
    study.run("-n", "4", "--dist", "loadgroup").assert_outcomes(passed=8)
    assert sorted(path.name.split(".")[0] for path in study.path.glob("*.ran")) == ["bad", "good"]


def test_refresh_measures_once(study):
    """Under --quantgate-refresh, too, workers share what one of them measured in this run."""
    for index in range(2):
        (study.path / f"test_{index}.py").write_text(BODY.format(index))
    study.run("-n", "2", "--dist", "load")
    study.log()
    study.run("-n", "2", "--dist", "load", "--quantgate-refresh")
    scores = [line for line in study.log() if line == "score bad"]
    assert len(scores) <= 2


MISTAKES = {
    "an unknown metric": (
        "@quantgate('nope < 1')\ndef test_it(): pass\n",
        "test_it.py:2 (test_it[good]): unknown metric 'nope'",
    ),
    "a gate that is none": ("@quantgate(0 < ppl < 1)\ndef test_it(): pass\n", "test_it.py:2: "),
    "a gate of the module": ("pytestmark = quantgate('ppl <')\ndef test_it(): pass\n", "test_it.py:2: "),
    "a variant that is not there": (
        "@quantgate(ppl < 1, variants=['gptq-*'])\ndef test_it(): pass\n",
        "test_it.py:2 (test_it): unknown variant 'gptq-*'",
    ),
}


def refused(result: pytest.RunResult, message: str) -> None:
    """Require exit code 4 and the message as pytest prints usage errors: once, and nothing of the machinery."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    errors = [line for line in result.errlines if line]
    assert errors[0].startswith(f"ERROR: {message}")
    assert len([line for line in errors if line.startswith("ERROR")]) == 1
    text = result.stdout.str() + result.stderr.str()
    assert not any(word in text for word in ("INTERNALERROR", "Traceback", "crashed", "UsageError"))


@pytest.mark.parametrize("body", MISTAKES)
@pytest.mark.parametrize("dist", ["load", "loadgroup"])
def test_a_mistake_is_a_usage_error(study, body, dist):
    """A mistake in a gate ends the run as without workers: exit code 4 and one message, before any test."""
    text, message = MISTAKES[body]
    (study.path / "test_it.py").write_text(f"from pytest_quantgate import *\n{text}")
    (study.path / "test_other.py").write_text("def test_other(): open('ran', 'w').close()")
    refused(study.run("-n", "2", "--dist", dist), message)
    assert not (study.path / "ran").exists()


@pytest.mark.parametrize(
    ("table", "body", "message"),
    [
        ("tokens", 'corpsu = "x"', "[tool.quantgate.tokens]: unknown key 'corpsu'; did you mean 'corpus'?"),
        ("gates", 'release = "ppl_delta <"', "[tool.quantgate.gates] release: "),
        ("", 'baseline = "nowhere"', "baseline: model path 'nowhere' does not exist"),
    ],
)
def test_a_mistake_in_the_configuration_is_a_usage_error(study, table, body, message):
    """So does a mistake in the configuration file, found by the workers."""
    (study.path / "test_it.py").write_text(BODY.format("it"))
    study.tables[table] = body
    result = study.run("-n", "2", "test_it.py", "quantgate.toml")
    file = "" if message.startswith("baseline") else f"{study.path / 'quantgate.toml'}: "
    refused(result, file + message)


def test_plan_without_workers(study):
    """--quantgate-plan prints the plan, also where -n is in addopts."""
    (study.path / "test_it.py").write_text(BODY.format(0))
    study.run("-n", "2", "--quantgate-plan").stdout.fnmatch_lines(["*good tokens*"])


def test_a_worker_that_dies(study):
    """A crash of one worker loses its test, not the store or the session."""
    (study.path / "test_it.py").write_text(
        "import os\nfrom pytest_quantgate import *\n"
        "@quantgate(ppl < 1e9)\ndef test_it(quant_variant):\n    if quant_variant.name == 'bad': os._exit(3)\n"
    )
    result = study.run("-n", "2", "--dist", "loadgroup")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*crashed*"])
    study.run("-k", "good").assert_outcomes(passed=1)
