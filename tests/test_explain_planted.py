"""Planted causes on the example's model: `quantgate explain` names each first or second, and does not accuse a good one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("gptqmodel", exc_type=ImportError)
pytest.importorskip("optimum")

import planted

from pytest_quantgate import explain as explaining
from pytest_quantgate import study as studies
from pytest_quantgate.cli import explain, main
from pytest_quantgate.explain import what, where
from pytest_quantgate.store import Store

pytestmark = pytest.mark.slow

GATE = "kld.mean < 0.13"
TASK = "choice.drop < 0.02"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study with a good checkpoint in `good`, quantized once, and a store that all cases share."""
    made = planted.write_study(tmp_path_factory.mktemp("study"))
    planted.write_config(made, "good", planted.recipe())
    measured = _measured(made)
    shutil.copytree(measured.engine.materialize(measured.spec("good")).path, made / "good")
    (made / "good" / "quantgate-record.json").unlink(missing_ok=True)
    return made


def _measured(folder):
    study = studies.read(folder / "quantgate.toml", folder)
    chosen = main_arguments(folder)
    return explain._measurements(chosen, study)


def main_arguments(folder):
    """Return what the command line gives without options."""
    from pytest_quantgate.cli import _parser

    return _parser().parse_args(["explain", "--store", str(folder / "store")])


def explained(folder, capsys, name, variant, *, gate=GATE, baseline="model", fresh=False):
    """Explain one variant; return its part of the JSON."""
    planted.write_config(folder, name, variant, baseline)
    arguments = [
        "explain",
        name,
        "--config",
        str(folder / "quantgate.toml"),
        "--store",
        str(folder / "store"),
    ]
    code = main([*arguments, "--gate", gate, "--windows", "6", "--format", "json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)["variants"][0]


def causes(found):
    assert not found["holds"], "the planted cause does not make the gate fail"
    return [finding["cause"] for finding in found["findings"]]


def broken(folder, name, change):
    """Copy the good checkpoint, break the copy, and return the table of the variant."""
    copy = folder / name
    if not copy.exists():
        shutil.copytree(folder / "good", copy)
        change(copy)
    return f'model = "{name}"'


RECIPES = {
    "group_size": {"group_size": -1, "desc_act": False},
    "bits": {"bits": 2},
    "calibration_domain": {"group_size": 64, "desc_act": False, "calibration": "wrong.txt"},
    "calibration_samples": {"samples": 1},
}
FILES = {
    "ruined_layer": planted.in_files(planted.ruined),
    "emptied": planted.in_files(planted.emptied),
    "layers_swapped": planted.in_files(planted.exchanged),
    "group_order": planted.in_files(planted.regrouped),
    "zero_points": planted.misnamed_format,
    "tokenizer": planted.other_tokenizer,
    "configuration": planted.other_base,
    "not_quantized": planted.unquantized,
}


@pytest.mark.parametrize("cause", RECIPES)
def test_a_bad_recipe_is_named(folder, capsys, cause):
    found = explained(folder, capsys, cause.replace("_", "-"), planted.recipe(**RECIPES[cause]))
    assert cause in causes(found)[:2]


@pytest.mark.parametrize("cause", FILES)
def test_damage_to_the_files_is_named(folder, capsys, cause):
    found = explained(folder, capsys, cause, broken(folder, cause, FILES[cause]))
    assert {"emptied": "ruined_layer"}.get(cause, cause) in causes(found)[:2]
    if cause in ("ruined_layer", "emptied"):
        assert "layer 2 mlp.down_proj" in found["findings"][0]["text"]
        best = max(found["where"]["restored"], key=lambda trial: trial["share"])
        assert best["names"][0].startswith("model.layers.2")
    if cause == "layers_swapped":
        assert "layer 1's weights are layer 2's" in found["findings"][0]["text"]


def test_an_engine_that_computes_wrongly_is_named(folder, capsys, monkeypatch):
    """The files are sound: in ordinary layers the same weights are good."""
    monkeypatch.setattr(explain, "Registry", planted.registry)
    found = explained(folder, capsys, "engine", 'model = "good"\nbackend = "faulty"')
    assert causes(found)[0] == "engine"
    assert found["what"]["blame"] == "engine"


def test_a_stale_baseline_is_named(folder, capsys):
    """What the store holds under the baseline's key was made with other weights."""
    shutil.copytree(folder / "model", folder / "older", dirs_exist_ok=True)
    planted.retrained(folder / "older")
    body = broken(folder, "stale", lambda copy: None)
    assert explained(folder, capsys, "stale", body)["holds"]
    explained(folder, capsys, "stale", body, baseline="older")
    store = Store(folder / "store")
    known = [
        one
        for one in store.entries()
        if one.step.protocol.kind == "tokens" and one.step.protocol["limit"] == 0
    ]
    right = studies_baseline(folder, "model")
    (step,) = [one.step for one in known if one.step.model.weights == right and one.step.model.is_baseline]
    (wrong,) = [one.step for one in known if one.step.model.weights != right and one.step.model.is_baseline]
    kept = store.get(step.key)

    def forget():
        for one in store.entries():
            if one.step.reference == step.key and one.step.protocol.kind == "tokens":
                path_of(folder, one.key).unlink()

    try:
        store.put(step, replace(store.get(wrong.key), facts=kept.facts))
        forget()
        found = explained(folder, capsys, "stale", body)
        assert causes(found)[0] == "stale_baseline"
        assert found["what"]["blame"] == "stale baseline"
    finally:
        store.put(step, kept)
        forget()


def studies_baseline(folder, name):
    planted.write_config(folder, "v", planted.recipe(), name)
    return _measured(folder).baseline.weights


def path_of(folder, key):
    return Path(folder, "store", "v1", "observations", key[:2], f"{key}.obs")


def test_weights_of_an_older_baseline_are_named(folder, capsys):
    """The baseline was trained further since the variant was made of it."""
    shutil.copytree(folder / "model", folder / "newer", dirs_exist_ok=True)
    planted.retrained(folder / "newer")
    body = broken(folder, "outdated", lambda copy: None)
    found = explained(folder, capsys, "outdated", body, baseline="newer")
    assert "other_weights" in causes(found)[:2]


def test_another_chat_template_is_named(folder, capsys):
    """It is no matter to a corpus, and to a task it is."""
    body = broken(folder, "template", planted.other_template)
    assert explained(folder, capsys, "template", body)["holds"]
    found = explained(folder, capsys, "template", body, gate=TASK)
    assert "chat_template" in causes(found)[:2]


def test_a_good_checkpoint_is_not_accused(folder, capsys):
    """Its gates hold; and looked at all the same, nothing is found but where its error lies."""
    body = broken(folder, "sound", lambda copy: None)
    found = explained(folder, capsys, "sound", body)
    assert found["holds"]
    assert found["findings"] == []
    measured = _measured(folder)
    seen, blamed = where.look(measured, "sound", (), 6), what.look(measured, "sound", 6)
    assert blamed.blame == "checkpoint"
    assert {finding.cause for finding in (*seen.findings, *blamed.findings)} <= {"sensitive_layer"}
    assert explaining.findings(measured, "sound") == ()
