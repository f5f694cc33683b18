"""`quantgate explain` on fakes: which gates, what is printed and written, stale figures, and mistakes in one line."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import conftest
import fakes
import numpy as np
import pytest

from pytest_quantgate import study as studies
from pytest_quantgate.cli import explain, main
from pytest_quantgate.explain import what_files
from pytest_quantgate.registry import Registry
from pytest_quantgate.store import Store

GATE = "kld.mean < 0.01"


def registry():
    made = Registry()
    made.add("backends", "fake", "fakes:load")
    return made


@pytest.fixture
def told(tmp_path, monkeypatch, capsys):
    """Run the command in the folder of a study of fakes; returns exit code, output and errors.

    Without pytester, which forgets the modules that a test imported: torch cannot be imported twice.
    """
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "fake.log"))
    monkeypatch.delenv("QUANTGATE_STORE", raising=False)
    fakes.write_checkpoint(tmp_path / "base")
    study = conftest.Study(SimpleNamespace(path=tmp_path))
    study.variant("good", seed=1, damage=0.05)
    study.variant("bad", seed=2, damage=1.0)
    monkeypatch.chdir(study.path)
    monkeypatch.setattr(explain, "Registry", registry)

    def run(*arguments, **gates):
        study.gates(**gates)
        study.write()
        code = main(["explain", *arguments])
        return code, *capsys.readouterr()

    run.path = study.path
    run.study = study
    return run


def test_a_variant_whose_gates_hold_is_not_accused(told):
    """It says so, and looks no further: nothing is loaded a second time."""
    code, out, _ = told("good", release="kld.mean < 1")
    assert code == 0
    assert out.splitlines()[-1] == "  its gates hold; nothing to explain"
    assert "why" not in out
    assert told.study.log().count("load good") == 1


def test_a_failing_gate_is_told_with_what_was_looked_at(told):
    """The fake has no layers: that is said; baseline and variant are measured anew and agree with the store."""
    told("bad", release=GATE)
    code, out, _ = told("bad", release=GATE)
    assert code == 0
    assert out.startswith("bad\n  FAIL          kld.mean = ")
    assert "baseline measured anew: log-probabilities differ from the stored ones by 0 nats" in out
    assert "variant measured anew: log-probabilities differ from the stored ones by 0 nats" in out
    assert "weights: bad: its layers cannot be looked at" in out
    assert "stale" not in out


def test_each_half_can_be_asked_for_alone(told):
    """--where makes nothing anew, --what looks at no weights, --quick does neither; --windows is obeyed."""
    told("bad", release=GATE)
    _, where, _ = told("bad", "--where", release=GATE)
    _, what, _ = told("bad", "--what", "--windows", "2", release=GATE)
    told.study.log()
    _, quick, _ = told("bad", "--quick", release=GATE)
    assert "anew" not in where
    assert "weights:" in where
    assert "anew" in what
    assert "weights:" not in what
    assert "anew" not in quick
    assert "weights:" not in quick
    assert told.study.log() == []


def stored(told, name):
    """Return the store and the step of a model's pass over the corpus."""
    store = Store(told.path / ".quantgate")
    (found,) = [
        known.step
        for known in store.entries()
        if known.step.model.name == name and known.step.protocol.kind == "tokens"
    ]
    return store, found


def test_a_stale_baseline_is_found(told):
    """Its stored pass was made by another build, as `quantgate baseline import` can bring it: not what it gives now."""
    told("good", "bad", release="kld.mean < 1")
    store, step = stored(told, "baseline")
    kept = store.get(step.key)
    rolled = {**kept.arrays, "top_logprob": np.roll(kept.arrays["top_logprob"], 1, axis=0)}
    store.put(step, replace(kept, arrays={**rolled, "logprob": kept.arrays["logprob"] - 0.5}))
    store, variant = stored(told, "good")
    (store.root / "v1" / "observations" / variant.key[:2] / f"{variant.key}.obs").unlink()
    _, out, _ = told("good", release="kld.mean < 0.1")
    assert "  1. the stored observation of the baseline is not what the baseline gives now" in out
    assert "to blame: stale baseline" in out
    assert "differ from the stored ones by 0.5 nats" in out
    assert "advice: run pytest --quantgate --quantgate-refresh: " in out


def test_a_stale_variant_is_found(told):
    """The same for the variant's own pass; what was measured anew is not kept."""
    told("bad", release=GATE)
    store, step = stored(told, "bad")
    kept = store.get(step.key)
    store.put(step, replace(kept, arrays={**kept.arrays, "logprob": kept.arrays["logprob"] - 0.5}))
    _, out, _ = told("bad", release=GATE)
    assert "to blame: stale variant" in out
    assert np.array_equal(store.get(step.key).arrays["logprob"], kept.arrays["logprob"] - 0.5)


def test_the_gates_of_the_newest_run_are_explained(told):
    """A test's gates stand in the history, where the command finds them; --gate takes the place of all."""
    told.study.tables.pop("gates", None)
    (told.path / "test_it.py").write_text(
        f"from pytest_quantgate import quantgate\n@quantgate({GATE!r})\ndef test_it(): ...\n"
    )
    (told.path / "conftest.py").write_text(conftest.CONFTEST.format(here=str(conftest.HERE)))
    told.study.write()
    command = [sys.executable, "-m", "pytest", "-q", "--quantgate", "test_it.py"]
    assert subprocess.run(command, cwd=told.path, capture_output=True, check=False).returncode == 1
    _, out, _ = told("bad", "--quick")
    assert "FAIL          kld.mean" in out
    _, out, _ = told("bad", "--quick", "--gate", "ppl < 100000")
    assert "kld" not in out
    assert "PASS          ppl" in out


def test_json_and_tables(told):
    """JSON holds verdicts, findings and both halves; a CSV file gets the tables, and the text is printed."""
    code, out, _ = told("bad", "good", "--format", "json", release=GATE)
    value = json.loads(out)
    assert code == 0
    assert value["schema"] == "quantgate-explain/1"
    bad = {one["variant"]: one for one in value["variants"]}["bad"]
    assert bad["verdicts"][0]["outcome"] == "FAIL"
    assert bad["where"]["notes"]
    assert bad["what"]["checks"]
    _, out, err = told("bad", "--output", "tables.csv", release=GATE)
    assert out.startswith("bad\n")
    assert "tables.csv written" in err
    head, *rows = csv.reader((told.path / "tables.csv").read_text().splitlines())
    assert head[:3] == ["variant", "table", "name"]
    assert rows == []
    _, out, _ = told("bad", "--output", "told.txt", release=GATE)
    assert out == ""
    assert (told.path / "told.txt").read_text().startswith("bad\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody", "--gate", GATE], "unknown variant 'nobody'"),
        (["good"], "there is no gate to explain; name one with --gate GATE"),
        (["good", "--gate", "kdl.mean < 1"], "unknown metric 'kdl'; did you mean 'kld'?"),
        (["good", "--gate", "kld <"], "kld <"),
        (["good", "--gate", GATE, "--config", "none.toml"], "--config none.toml: no such file"),
        (["good", "--gate", GATE, "--output", "no/where.csv"], "--output no/where.csv: not a file"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_4(told, arguments, message):
    """Found before anything is loaded."""
    code, out, err = told(*arguments)
    assert (code, out) == (4, "")
    assert message in err
    assert "Traceback" not in err
    assert told.study.log() == []


@pytest.mark.parametrize("windows", ["0", "-1", "some"])
def test_windows_are_a_number(told, windows, capsys):
    with pytest.raises(SystemExit) as caught:
        told("good", "--windows", windows)
    assert caught.value.code == 4
    assert "--windows" in capsys.readouterr().err


def test_a_baseline_that_is_gone_is_one_line(told):
    """And so is a study without one: then there is nothing to compare with."""
    fakes.write_checkpoint(told.path / "other")
    told.study.tables[""] = 'baseline = { model = "nowhere", backend = "fake" }'
    code, _, err = told("bad", release=GATE)
    assert code == 4
    assert "nowhere" in err
    told.study.tables[""] = 'dtype = "float32"\ndevice = "cpu"'
    code, out, _ = told("bad", release="ppl < 1")
    assert code == 0
    assert "there is no baseline here to compare with" in out


def test_a_damaged_checkpoint_is_explained_as_far_as_it_goes(told):
    """Its gate fails with the reason; the other variants are explained all the same."""
    (told.path / "bad" / "model.safetensors").write_bytes(b"short")
    code, out, _ = told("bad", "good", release=GATE)
    assert code == 0
    assert "model.safetensors" in out
    assert "\ngood\n" in out


# --- beside the weights


def pair(tmp_path, **files):
    """Return two folders that differ in the files that are given: text for the first one."""
    for name in ("ours", "theirs"):
        fakes.write_checkpoint(tmp_path / name)
        (tmp_path / name / "chat_template.jinja").write_text("{{ messages }}")
    for name, text in files.items():
        (tmp_path / "ours" / name.replace("__", ".")).write_text(text)
    return what_files.differing("v", tmp_path / "ours", tmp_path / "theirs")


def test_equal_folders_differ_in_nothing(tmp_path):
    """The order of keys, and who wrote a file, are no difference."""
    tokens = '{"model": {"vocab": {}, "type": "BPE"}, "version": "2.0"}'
    assert pair(tmp_path, tokenizer__json=tokens) == ()


@pytest.mark.parametrize(
    ("files", "cause", "words"),
    [
        ({"chat_template__jinja": "{{ bos }}"}, "chat_template", "they part at"),
        ({"chat_template__jinja": ""}, "chat_template", "0 characters for the baseline's 14"),
        (
            {"tokenizer__json": '{"model": {"type": "WordLevel"}}'},
            "tokenizer",
            "tokenizer.json differs in model",
        ),
        ({"config__json": '{"model_type": "llama", "hidden_size": 7}'}, "configuration", "hidden_size is 7"),
    ],
)
def test_what_differs_is_named(tmp_path, files, cause, words):
    (found,) = pair(tmp_path, **files)
    assert found.cause == cause
    assert words in f"{found.text} {found.evidence}"


def test_files_that_cannot_be_read_accuse_nobody(tmp_path):
    """A tokenizer of another kind, or JSON that is none, is left to the checks of the folder."""
    assert pair(tmp_path, tokenizer__json="{", config__json="[]") == ()


def test_the_study_s_own_metrics_are_not_measured(told):
    """What is measured for the report alone explains nothing, and would take its time."""
    told.study.tables[""] += '\nmeasure = ["tokens_per_second"]'
    told("good", release="kld.mean < 1")
    assert not [line for line in told.study.log() if line.startswith("generate")][
        6:
    ]  # sanity's own, of two models
    assert studies.read(told.path / "quantgate.toml", told.path).measure == ("tokens_per_second",)
