"""`quantgate quantize`: a whole checkpoint or none, one process at a time, and what the guide leaves to the hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import recipe_fakes
from quantize_process import COMMAND, SCRIPT, left_beside

from pytest_quantgate import quantizing
from pytest_quantgate.cli import main
from pytest_quantgate.digests import sha256_of
from pytest_quantgate.spec import digest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A baseline and calibration data in the current folder; quantizer and backend are fakes."""
    monkeypatch.chdir(recipe_fakes.write_study(tmp_path))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "fake.log"))
    monkeypatch.setattr("pytest_quantgate.cli.quantize.Registry", recipe_fakes.registry)
    return tmp_path


def run(capsys, *arguments):
    """Run `quantgate quantize` in this process."""
    try:
        code = main(["quantize", *arguments])
    except SystemExit as ended:
        code = ended.code
    return code, *capsys.readouterr()


# --- the command


def test_a_checkpoint_with_all_that_loaders_expect(folder, capsys):
    """Forecast first; then weights, configuration, the baseline's companions and a record that agrees with them."""
    for name in ("LICENSE", "chat_template.jinja", "modeling_x.py", "vocab.json"):
        (folder / "base" / name).write_text(name)
    code, out, err = run(capsys, *COMMAND, "--out", "made/small", "--allow-code")
    assert code == 0
    made = folder / "made" / "small"
    assert (
        out
        == f"{made}: {(made / 'model.safetensors').stat().st_size} B of weights, " + out.split("weights, ")[1]
    )
    assert err.startswith("forecast: 1 layers; ")
    names = {path.name for path in made.iterdir()}
    assert names >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "LICENSE",
        "chat_template.jinja",
        "vocab.json",
    }
    assert "modeling_x.py" in names
    record = json.loads((made / "quantgate-record.json").read_text())
    assert {name for name, _, _ in record["files"]} == names - {"quantgate-record.json"}
    for name, size, sha in record["files"]:
        assert ((made / name).stat().st_size, sha256_of(made / name)) == (size, sha)
    assert record.pop("digest") == digest(record)
    assert record["about"]["recipe"]["parameters"]["group_size"] == 32
    # it is shipped: nothing in it says where things lay on this machine
    assert str(folder) not in (made / "quantgate-record.json").read_text()
    assert left_beside(folder / "made") == []


def test_code_of_the_model_is_copied_only_where_it_is_allowed(folder, capsys):
    """A folder with code is refused without --allow-code, as everywhere."""
    (folder / "base" / "modeling_x.py").write_text("")
    code, _, err = run(capsys, *COMMAND, "--out", "made")
    assert code == 4
    assert "custom code refused" in err


def test_qwens_own_parameters(folder, capsys):
    """run_gptq.py's options are understood, and a short file is used whole."""
    talks = [{"conversations": [{"from": "user", "value": f"hello {n}"}]} for n in range(3)]
    (folder / "talks.json").write_text(json.dumps(talks))
    code, _, err = run(
        capsys, "--model_name_or_path", "base", "--data_path", "talks.json", "--out_path", "made",
        "--max_len", "512", "--bits", "8", "--group-size", "16",
    )  # fmt: skip
    assert code == 0
    assert "talks.json has 3 samples; all are used" in err
    recipe = json.loads((folder / "made" / "quantgate-record.json").read_text())["about"]["recipe"]
    assert {key: recipe["parameters"][key] for key in ("max_length", "samples", "bits", "group_size")} == {
        "max_length": 512, "samples": 3, "bits": 8, "group_size": 16,
    }  # fmt: skip


def test_a_dry_run_makes_nothing(folder, capsys):
    """Only the forecast is told."""
    code, out, err = run(capsys, *COMMAND, "--out", "made", "--dry-run")
    assert (code, out) == (0, "")
    assert err.count("forecast: ") >= 2
    assert not (folder / "made").exists()
    assert not (folder / "fake.log").exists()


def test_a_terminal_sees_the_layers_go_by(folder):
    """The moving line names the step and how far it is, and leaves the last line clean."""
    parent, child = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "quantize", *COMMAND, "--out", "made"],
        cwd=folder, stderr=child, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.wait(timeout=60) == 0
    os.close(child)
    seen = os.read(parent, 65536).decode()
    os.close(parent)
    assert "\r\x1b[Kquantgate: gptq quantize (gptq)" in seen
    assert seen.endswith("\r\x1b[K")


def test_force_replaces_the_checkpoint_that_is_there(folder, capsys):
    """Without it nothing is touched; with it the new one is there whole, and nothing of the old."""
    assert run(capsys, *COMMAND, "--out", "made")[0] == 0
    (folder / "made" / "mine.txt").write_text("mine")
    code, _, err = run(capsys, *COMMAND, "--out", "made")
    assert code == 4
    assert "--out made: is not empty; give another folder, or replace the checkpoint with --force" in err
    assert (folder / "made" / "mine.txt").exists()
    link = folder / "link"
    link.symlink_to("made")
    assert run(capsys, *COMMAND, "--group-size", "16", "--out", "link", "--force")[0] == 0
    assert link.is_symlink()
    assert not (folder / "made" / "mine.txt").exists()
    assert (folder / "made" / "group.txt").read_text() == "16"
    assert left_beside(folder) == []


def test_an_empty_folder_may_be_there(folder, capsys):
    """Somebody made it for this."""
    (folder / "made").mkdir()
    assert run(capsys, *COMMAND, "--out", "made")[0] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--out": "corpus.txt"}, "--out corpus.txt: is a file"),
        ({"--out": "words.txt"}, "words.txt lies there; give a folder of its own"),
        ({"--out": "base"}, "base lies there; give a folder of its own"),
        ({"--out": "."}, "lies there; give a folder of its own"),
        ({"--baseline": "nowhere"}, "model path 'nowhere' does not exist"),
        ({"--calibration": "no.txt"}, "no.txt does not exist"),
        ({"--calibration": None}, "gptq needs a calibration file; name one with --calibration FILE"),
        ({"--bits": "5"}, "bits = 5 cannot be used; write 2 or 3 or 4 or 8"),
        ({"--group-size": "64"}, "group_size = 64 does not divide the input width 32"),
        ({"--samples": "0"}, "samples = 0 cannot be used"),
        ({"--method": "gpt"}, "unknown quantization method 'gpt'; did you mean 'gptq'?"),
        (
            {"--method": "quanto", "--calibration": None, "--group-size": None},
            "quanto quantizes whenever it loads, and writes no checkpoint; use it as a variant",
        ),
        ({"--out": None}, "the following arguments are required: --out"),
        ({"--zero-point": "true"}, "gptq has no parameter 'zero_point'"),
    ],
)
def test_what_is_refused_before_anything_is_made(folder, capsys, change, message):
    """One line, exit code 4, and no quantizer is asked."""
    given = dict(zip(COMMAND[::2], COMMAND[1::2], strict=True)) | {"--out": "made"} | change
    written = [part for flag, value in given.items() if value is not None for part in (flag, value)]
    code, out, err = run(capsys, *written, "--force")
    assert (code, out) == (4, "")
    assert message in err
    assert not (folder / "fake.log").exists()
    assert left_beside(folder) == []


def test_what_another_process_has_finished_meanwhile_stays(folder, capsys, monkeypatch):
    """The target is looked at again under the lock."""
    lock = quantizing.claimed

    def late(target):
        target.mkdir()
        (target / "config.json").write_text("theirs")
        return lock(target)

    monkeypatch.setattr(quantizing, "claimed", late)
    code, _, err = run(capsys, *COMMAND, "--out", "made")
    assert code == 4
    assert "is not empty" in err
    assert (folder / "made" / "config.json").read_text() == "theirs"
    assert not (folder / "fake.log").exists()


def test_force_replaces_no_folder_of_another_kind(folder, capsys):
    """A folder of other files is not a checkpoint."""
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("a")
    code, _, err = run(capsys, *COMMAND, "--out", "notes", "--force")
    assert code == 4
    assert "--force replaces checkpoints only" in err
    assert (folder / "notes" / "a.txt").exists()


def test_a_quantized_baseline_is_refused(folder, capsys):
    """Quantizing twice is a mistake."""
    assert run(capsys, *COMMAND, "--out", "made")[0] == 0
    code, _, err = run(capsys, "--baseline", "made", *COMMAND[2:], "--out", "again")
    assert code == 4
    assert "made: is quantized already (gptq); give the unquantized model" in err


def test_a_full_disk_is_seen_before(folder, capsys, monkeypatch):
    """The forecast's size and what is free stand in the message."""
    monkeypatch.setattr(quantizing, "free_bytes", lambda target: 100)
    code, _, err = run(capsys, *COMMAND, "--out", "made")
    assert code == 4
    assert "100 B are free; make room, or give --out on another disk" in err
    assert not (folder / "fake.log").exists()


def test_a_quantizer_that_fails_leaves_nothing(folder, capsys, monkeypatch):
    """Its own words, exit code 4, no folder."""
    monkeypatch.setenv("FAKE_QUANTIZER", "fails 32")
    code, _, err = run(capsys, *COMMAND, "--out", "made")
    assert code == 4
    assert err.endswith("quantgate: no solution for group_size 32\n")
    assert not (folder / "made").exists()
    assert left_beside(folder) == []


def test_what_does_not_speak_is_not_moved_into_place(folder, capsys, monkeypatch):
    """The old checkpoint stays; the new one is kept aside for a look, once."""
    assert run(capsys, *COMMAND, "--out", "made")[0] == 0
    before = sha256_of(folder / "made" / "model.safetensors")
    monkeypatch.setenv("FAKE_QUANTIZER", "broken")
    code, out, err = run(capsys, *COMMAND, "--group-size", "16", "--out", "made", "--force")
    assert (code, out) == (4, "")
    assert "NaN or infinite weights" in err
    assert f"it is not moved to {folder}/made, and lies in {folder}/made.rejected for a look" in err
    assert sha256_of(folder / "made" / "model.safetensors") == before
    assert (folder / "made.rejected" / recipe_fakes.BROKEN).exists()
    assert ".rejected" not in run(capsys, *COMMAND, "--out", "made", "--force")[2]


def test_ctrl_c(folder, capsys, monkeypatch):
    """pytest's exit code for it, and nothing is left."""

    def interrupt(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe_fakes.Quantizer, "quantize", interrupt)
    code, _, err = run(capsys, *COMMAND, "--out", "made")
    assert code == 2
    assert "interrupted; made is as it was" in err
    assert left_beside(folder) == []
