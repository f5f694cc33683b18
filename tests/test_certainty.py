"""Confidence, undecided gates, families and early stopping, as a user meets them."""

from __future__ import annotations

import json

import fakes
import pytest

REPORT = ("--quantgate-report", "out")
STRADDLES = "kld.mean < {limit}"


def loaded(study) -> dict:
    return json.loads((study.path / "out" / "report.json").read_text())


def figure(study, variant: str, metric: str) -> dict:
    row = next(row for row in loaded(study)["variants"] if row["name"] == variant)
    return row["figures"][metric]


@pytest.fixture
def near(study):
    """A study whose gate's limit lies a hair above what `good` measures: inside of its interval."""
    study.gates(close="kld.mean < 1")
    assert study.run("-k", "good", *REPORT).ret == 0
    value = figure(study, "good", "kld.mean")["value"]
    study.gates(close=f"kld.mean < {value * 1.001!r}")
    return study


def test_the_point_decides_by_default(near):
    """What the expression says; the straddling interval is marked."""
    done = near.run("-k", "good")
    assert done.ret == 0
    done.stdout.fnmatch_lines(["*too close to call*"])


@pytest.mark.parametrize(("policy", "outcomes", "code"), [
    ("fail", {"failed": 1}, 1), ("warn", {"passed": 1}, 0), ("skip", {"skipped": 1}, 0),
])  # fmt: skip
def test_what_an_undecided_gate_does(near, policy, outcomes, code):
    """The policy decides about the test; the message says what would settle it."""
    done = near.run("-k", "good", "--quantgate-confidence", "0.95", "--quantgate-inconclusive", policy, "-rs")
    assert done.ret == code
    assert done.parseoutcomes().items() >= outcomes.items()
    done.stdout.fnmatch_lines(
        ["*kld.mean < * is undecided at 95 %: about * windows would settle it (there are 15)*"]
    )
    assert ("warning" in done.parseoutcomes() or "warnings" in done.parseoutcomes()) == (policy == "warn")


@pytest.mark.parametrize("place", ["option", "toml", "ini", "environment", "mark", "fixture"])
def test_where_a_confidence_may_stand(near, monkeypatch, place):
    """Each place makes the straddling gate undecided."""
    arguments: list[str] = ["-k", "good"]
    if place == "option":
        arguments += ["--quantgate-confidence", "0.9"]
    elif place == "toml":
        near.tables[""] += "\nconfidence = 0.9"
    elif place == "ini":
        near.pytester.makeini("[pytest]\nquantgate_confidence = 0.9")
    elif place == "environment":
        monkeypatch.setenv("QUANTGATE_CONFIDENCE", "0.9")
    else:
        limit = near.tables["gates"].rpartition("< ")[2].rstrip('"')
        del near.tables["gates"]
        body = {
            "mark": f"@quantgate('kld.mean < {limit}', confidence=0.9)\ndef test_it(quantized_model): ...",
            "fixture": f"def test_it(quantgate):\n    quantgate.check('kld.mean < {limit}', confidence=0.9)",
        }[place]
        near.pytester.makepyfile(
            f"from pytest_quantgate import quantgate\n{body}".replace(
                "from pytest_quantgate import quantgate\ndef", "def"
            )
        )
    done = near.run(*arguments)
    assert done.ret == 1
    done.stdout.fnmatch_lines(["*is undecided at 90 %*"])


@pytest.mark.parametrize("value", ["0", "1", "1.5", "-0.5", "high", "nan"])
def test_what_is_no_confidence(study, value):
    """One line that names the place and the value, and exit code 4."""
    study.gates(close="kld.mean < 1")
    done = study.run(f"--quantgate-confidence={value}")
    assert done.ret == 4
    done.stderr.fnmatch_lines([f"*--quantgate-confidence = '{value}': write a number between 0 and 1*"])


def test_an_alpha_of_zero(study):
    """An early stop that may never err never stops."""
    study.tables[""] += "\nalpha = 0"
    study.gates(close="kld.mean < 1")
    done = study.run()
    assert done.ret == 4
    done.stderr.fnmatch_lines(["*alpha = 0: write a number between 0 and 1*"])


def test_a_family_of_one(study):
    """There is nothing to adjust for."""
    study.gates(close="kld.mean < 1")
    done = study.run("--quantgate-family", "holm")
    assert done.ret == 4
    done.stderr.fnmatch_lines(["*--quantgate-family holm: good has one comparison, and a family takes two*"])


def test_a_family_decides_clear_cases_as_single_gates_do(study):
    """Far from its limits a good model passes and a bad one fails, at the default level."""
    study.gates(study="ppl.ratio < 1.1", close="kld.mean < 0.1", same="top1_agreement > 0.8")
    done = study.run("--quantgate-family", "holm", *REPORT)
    assert done.ret == 1
    rows = {row["name"]: row["status"] for row in loaded(study)["variants"]}
    assert rows == {"good": "PASS", "bad": "FAIL"}
    levels = {c["confidence"] for r in loaded(study)["results"] for v in r["verdicts"] for c in v["checks"]}
    assert levels == {0.95}


# --- early stopping


@pytest.fixture
def long(study):
    """A study of 124 windows."""
    (study.path / "corpus.txt").write_text(fakes.corpus(4000))
    study.tables["tokens"] = 'corpus = "corpus.txt"\nprotocol = "gptq"\nwindow = 32'
    study.gates(study="ppl.ratio < 1.2", close="kld.mean < 0.2")
    return study


def verdicts(study) -> list[tuple[str, str]]:
    return [(result["nodeid"].partition("@")[0], result["outcome"]) for result in loaded(study)["results"]]


def test_a_stopped_pass_gives_the_verdicts_of_the_whole(long):
    """Limits far off are decided at the third look, and the report says so."""
    early = long.run("--quantgate-stop-early", "--quantgate-store", "early", *REPORT)
    found = verdicts(long)
    partial = figure(long, "bad", "kld.mean")
    assert partial["partial"] == "30.4 % of the windows"
    assert partial["low"] < partial["value"] < partial["high"]
    early.stdout.fnmatch_lines(["bad *(*)*", "*bad: kld.mean = * after 30.4 % of the windows*"])
    whole = long.run("--quantgate-store", "whole", *REPORT)
    assert early.ret == whole.ret == 1
    assert verdicts(long) == found
    assert partial["low"] < figure(long, "bad", "kld.mean")["value"] < partial["high"]
    assert figure(long, "bad", "kld.mean")["partial"] == ""


def test_a_limit_at_the_truth_visits_everything(long):
    """The result is the whole pass's, kept as such: a run without early stopping scores nothing."""
    long.gates(close="kld.mean < 1")
    long.run("-k", "good", "--quantgate-store", "whole", *REPORT)
    whole = figure(long, "good", "kld.mean")
    long.gates(close=f"kld.mean < {whole['value'] * 1.0001!r}")
    long.run("-k", "good", "--quantgate-stop-early", *REPORT)
    assert figure(long, "good", "kld.mean") == whole
    long.log()
    long.run("-k", "good", *REPORT)
    assert not [line for line in long.log() if line.startswith("score")]
    assert figure(long, "good", "kld.mean") == whole


def test_another_limit_goes_on_where_the_last_stopped(long):
    """The parts that were scored are taken from the store."""
    long.run("-k", "good", "--quantgate-stop-early")
    first = [line for line in long.log() if line == "score good"]
    long.gates(study="ppl.ratio < 1.2", close="kld.mean < 0.21")
    long.run("-k", "good", "--quantgate-stop-early")
    assert first
    assert "score good" not in long.log()


def test_the_seed_decides_what_is_seen(long):
    """The same one sees the same windows, another one others."""
    values = []
    for store, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        long.run(
            "-k",
            "good",
            "--quantgate-stop-early",
            "--quantgate-seed",
            seed,
            "--quantgate-store",
            store,
            *REPORT,
        )
        values.append(figure(long, "good", "kld.mean")["value"])
    assert values[0] == values[1] != values[2]


def test_a_percentile_needs_the_whole_pass(long):
    """Under the option such a gate makes the pass whole; a mark that asks for both is a mistake."""
    long.gates(tail="kld.p99 < 9", close="kld.mean < 0.2")
    assert long.run("-k", "good", "--quantgate-stop-early", *REPORT).ret == 0
    assert figure(long, "good", "kld.mean")["partial"] == ""
    long.pytester.makepyfile(
        "from pytest_quantgate import kld, quantgate\n"
        "@quantgate(kld.p99 < 9, stop_early=True)\ndef test_it(quantized_model): ..."
    )
    done = long.run()
    assert done.ret == 4
    done.stderr.fnmatch_lines(
        ["*test_it*kld.p99 is no mean of items, so that a pass cannot stop early for it*"]
    )


def test_offline_without_the_parts(long):
    """What is missing is named."""
    assert long.run("-k", "good", "--quantgate-store", "s").ret == 0
    long.variant("good", seed=9, damage=0.05)
    done = long.run("-k", "good", "--quantgate-store", "s", "--quantgate-stop-early", "--quantgate-offline")
    assert done.ret == 1
    done.stdout.fnmatch_lines(["*not in the store*"])


def test_under_confidence_a_stop_needs_more(long):
    """Both ends of the interval that the whole pass would have must be certain."""
    done = long.run("--quantgate-stop-early", "--quantgate-confidence", "0.95", *REPORT)
    assert done.ret == 1
    found = verdicts(long)
    long.run("--quantgate-store", "whole", "--quantgate-confidence", "0.95", *REPORT)
    assert verdicts(long) == found


def test_workers_stop_alike(long):
    """Under pytest-xdist the verdicts and what was seen are the same."""
    pytest.importorskip("xdist")
    long.run("--quantgate-stop-early", "--quantgate-store", "one", *REPORT)
    alone = sorted(verdicts(long)), figure(long, "bad", "kld.mean")
    long.run("--quantgate-stop-early", "--quantgate-store", "two", "-n", "2", "--dist", "loadgroup", *REPORT)
    assert (sorted(verdicts(long)), figure(long, "bad", "kld.mean")) == alone
