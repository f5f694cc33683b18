"""Recipes side by side: what ends up in the table, in which format, and what does not end a sweep."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import fakes
import pytest
import recipe_fakes

from pytest_quantgate import sweep
from pytest_quantgate.cli import main
from pytest_quantgate.study import read


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A study in the current folder, measured by fakes."""
    monkeypatch.chdir(recipe_fakes.write_study(tmp_path))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "fake.log"))
    monkeypatch.delenv("QUANTGATE_STORE", raising=False)
    monkeypatch.setattr("pytest_quantgate.cli.sweep.Registry", recipe_fakes.registry)
    return tmp_path


def run(capsys, *arguments):
    """Run `quantgate sweep` in this process."""
    code = main(["sweep", *arguments])
    return code, *capsys.readouterr()


def rows(text):
    """Return the cells of a text table by variant."""
    head, *lines = [re.split(r" {2,}", line) for line in text.split("\n\n")[0].splitlines()]
    return {line[0]: dict(zip(head, line, strict=False)) for line in lines}


def quantized(folder):
    return [line for line in (folder / "fake.log").read_text().splitlines() if line.startswith("quantize")]


def test_a_study_file_may_hold_a_matrix(folder):
    """The variants of a matrix are ordinary variants of the study."""
    with (folder / "quantgate.toml").open("a") as file:
        file.write('[variants.m]\nquantize = { method = "gptq", bits = 8, calibration = "words.txt" }\n')
        file.write("matrix = { group_size = [16, 32], desc_act = [true] }\n")
    study = read(folder / "quantgate.toml", folder)
    assert study.names == ("one", "m-g16-act", "m-g32-act")
    assert [study.variant(name).recipe["group_size"] for name in study.names] == [32, 16, 32]


# --- the command


def test_recipes_side_by_side(folder, capsys):
    """Each is quantized once and judged; what does not fit is a row with its reason; a second run makes nothing."""
    arguments = ("--bits", "8", "--group-size=16,32,-1,64", "--desc-act", "true,false")
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    table = rows(out)
    assert len(table) == 1 + 8
    assert float(table["gptq-8b-g16-act"]["KLD"]) < float(table["gptq-8b-g32-act"]["KLD"])
    assert table["gptq-8b-g16-act"]["gates"] == "PASS"
    assert table["gptq-8b-g32-act"]["gates"] == "FAIL"
    assert table["gptq-8b-g64-act"]["PPL"] == "-"
    assert "gptq-8b-g64-act: not measured: group_size = 64 does not divide the input width 32" in out
    assert "gptq-8b-g32-act: FAIL: kld.mean = " in out
    assert "smallest that passes: gptq-8b-g16-" in out
    assert out.count("* Pareto-best: no other row") == 1
    assert len(quantized(folder)) == 6
    (folder / "fake.log").unlink()
    again = run(capsys, *arguments)
    assert again[:2] == (0, out)
    assert not (folder / "fake.log").exists()


def test_a_quantizer_that_fails_is_a_row_and_tried_once(folder, capsys, monkeypatch):
    """The other rows are measured, and the one that fails is not tried for every observation."""
    monkeypatch.setenv("FAKE_QUANTIZER", "fails 16")
    code, out, _ = run(capsys, "--bits", "8", "--group-size", "16,32", "--gate", "kld.mean < 1")
    assert code == 0
    assert "gptq-8b-g16: not measured: no solution for group_size 16" in out
    assert rows(out)["gptq-8b-g32"]["best"] == "*"
    assert quantized(folder) == ["quantize 16", "quantize 32"]


def test_a_model_that_speaks_nonsense_is_a_row(folder, capsys, monkeypatch):
    """What the sanity check finds is the reason, nothing is measured of it, and the exit code says that none holds."""
    monkeypatch.setenv("FAKE_QUANTIZER", "broken")
    code, out, _ = run(capsys, "--bits", "8", "--group-size", "16")
    assert code == 1
    assert "gptq-8b-g16: not measured: NaN or infinite weights" in out
    assert "Pareto" not in out


def test_no_row_holds_its_gate(folder, capsys):
    """Exit code 1, and the table is printed all the same."""
    code, out, _ = run(capsys, "--bits", "8", "--group-size", "16", "--gate", "kld.mean < 1e-9")
    assert code == 1
    assert "gptq-8b-g16: FAIL" in out


def test_json_and_csv_hold_what_the_table_shows(folder, capsys):
    """Figures in base units, with names as gates write them; a row that is not measured has its reason."""
    arguments = ("--bits", "8", "--group-size", "16,64", "--metrics", "ppl.delta, disk", "--metrics", "ttft")
    _, out, _ = run(capsys, *arguments, "--format", "json")
    found = json.loads(out)
    assert found["metrics"] == ["ppl.delta", "disk", "ttft", "kld.mean"]
    assert found["keys"] == ["bits", "group_size"]
    assert [row["best"] for row in found["rows"]] == [True, False]
    assert found["rows"][0]["values"] == {"bits": 8, "group_size": 16}
    assert "does not divide" in found["rows"][1]["reason"]
    assert found["baseline"]["figures"].keys() == {"disk", "ttft"}
    _, out, _ = run(capsys, *arguments, "--format", "csv")
    first, second, third = csv.DictReader(io.StringIO(out))
    assert first["variant"] == "baseline"
    assert float(second["disk"]) == found["rows"][0]["figures"]["disk"]["value"]
    assert (second["best"], third["best"], third["disk"]) == ("true", "false", "")


def test_what_is_no_number_is_text(folder, capsys):
    """JSON has no NaN; the row says what may be written."""
    _, out, _ = run(capsys, "--group-size", "32,nan", "--format", "json")
    row = json.loads(out)["rows"][1]
    assert row["values"] == {"group_size": "nan"}
    assert "group_size = 'nan' cannot be used" in row["reason"]


def test_markdown_into_a_file(folder, capsys):
    """The file is written whole, and nothing but the note goes to the terminal."""
    code, out, err = run(
        capsys, "--bits", "8", "--group-size", "16", "--format", "markdown", "--output", "t.md"
    )
    assert (code, out) == (0, "")
    assert "t.md written" in err
    page = (folder / "t.md").read_text()
    assert page.startswith("| variant | bits | group | PPL |")
    assert page.splitlines()[1] == "| :-- | :-- | :-- | --: | --: | --: | --: | --: | --: | --: | --: |"


def test_without_a_recipe_the_studys_own_variants(folder, capsys):
    """The columns are what their recipes differ in."""
    with (folder / "quantgate.toml").open("a") as file:
        file.write('[variants.m]\nquantize = { method = "gptq", bits = 8, calibration = "words.txt" }\n')
        file.write("matrix = { group_size = [16, 32], desc_act = [true] }\n")
    code, out, _ = run(capsys)
    assert code == 0
    assert out.split()[:3] == ["variant", "group", "act"]
    assert rows(out).keys() == {"baseline", "one", "m-g16-act", "m-g32-act"}


def test_ctrl_c_keeps_what_is_done(folder, capsys, monkeypatch):
    """The rows so far are shown, the exit code is pytest's, and the next run starts from there."""
    measured = sweep.Sweep._result

    def interrupted(self, one):
        if one.name == "gptq-8b-g32":
            raise KeyboardInterrupt
        return measured(self, one)

    with monkeypatch.context() as patched:
        patched.setattr(sweep.Sweep, "_result", interrupted)
        code, out, err = run(capsys, "--bits", "8", "--group-size", "16,32")
    assert code == 2
    assert "interrupted: 1 of 2 rows" in out
    assert "kept in the store" in err
    assert rows(out).keys() >= {"gptq-8b-g16"}
    assert run(capsys, "--bits", "8", "--group-size", "16,32")[0] == 0
    assert quantized(folder) == ["quantize 16", "quantize 32"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bits", "7"], "bits = 7 cannot be used; write 2 or 3 or 4 or 8"),
        (["--method", "gpt"], "unknown quantization method 'gpt'; did you mean 'gptq'?"),
        (["--zero-point", "true"], "gptq has no parameter 'zero_point'"),
        (["--bits", "8,"], "--bits '8,': write values with commas between them"),
        (["--bits", "8,8"], "the sweep: bits has 8 twice"),
        (["--bits", "8", "--calibration", "no.txt"], "no.txt does not exist"),
        (["--bits", "8", "--calibration", "words.txt,./words.txt"], "words.txt' twice; leave one out"),
        (["--bits", "8", "--calibration", "words.txt,base/words.md"], "two combinations have the name"),
        (["--bits", "8", "--gate", "kld.mean"], "a gate needs a limit"),
        (["--bits", "8", "--gate", "vram < 3"], "needs a unit"),
        (["--bits", "8", "--metrics", "perplexity"], "unknown metric 'perplexity'"),
        (["--bits", "8", "--output", "."], "--output .: not a file in a folder that exists"),
        (["--config", "no.toml"], "--config no.toml: no such file"),
        (["--bit", "8"], "unrecognized arguments"),
    ],
)
def test_what_is_refused_before_anything_is_made(folder, capsys, arguments, message):
    """One line and exit code 4."""
    try:
        code = main(["sweep", *arguments])
    except SystemExit as ended:
        code = ended.code
    assert code == 4
    assert message in capsys.readouterr().err
    assert not (folder / "fake.log").exists()


def test_a_study_without_what_a_sweep_needs(folder, capsys):
    """No baseline, no variant, or two calibration files to choose from: each is one line that says what to add."""
    file = folder / "quantgate.toml"
    text = file.read_text()
    other = '[variants.two.quantize]\nmethod = "gptq"\ncalibration = "corpus.txt"\n'
    file.write_text(text + other)
    assert run(capsys, "--bits", "8")[0] == 4
    assert run(capsys, "--bits", "8")[2].endswith(
        "the study's recipes calibrate with corpus.txt and words.txt; name one with --calibration FILE\n"
    )
    head, tail = text.split("[variants")[0], text[text.index("[gates") :]
    file.write_text(head + tail)
    assert "the study has no variant; cross recipes" in run(capsys)[2]
    assert "no calibration; name a text or JSON-lines file" in run(capsys, "--bits", "8")[2]
    file.write_text(text.replace('baseline = "base"', ""))
    assert 'add baseline = "..."' in run(capsys, "--bits", "8")[2]
    file.unlink()
    assert "no quantgate.toml in" in run(capsys, "--bits", "8")[2]


def test_the_fake_is_what_is_measured(folder, capsys):
    """The fake's damage follows its group, so the order of the rows above means something."""
    assert fakes.table(0.32).shape == (64, 64)
    _, out, _ = run(capsys, "--bits", "8", "--group-size=16,32", "--format", "json")
    first, second = (row["figures"]["kld.mean"]["value"] for row in json.loads(out)["rows"])
    assert 0 < 2 * first < second


@pytest.mark.slow
def test_the_example_of_the_page(tmp_path, monkeypatch, capsys):
    """Real recipes on the example's real model: finer groups lie closer to the baseline and are larger."""
    pytest.importorskip("gptqmodel", exc_type=ImportError)
    capsys.readouterr()  # its banner
    example = Path(__file__).parents[1] / "example_project"
    monkeypatch.chdir(example)
    code, out, _ = run(
        capsys, "--bits", "4", "--group-size", "32,128,256", "--calibration", "data/calibration_chat.jsonl",
        "--samples", "32", "--metrics", "kld.mean", "--gate", "kld.mean < 0.5",
        "--store", str(tmp_path / "store"), "--format", "json",
    )  # fmt: skip
    assert code == 0
    fine, coarse, misfit = json.loads(out)["rows"]
    values = [[row["figures"][key]["value"] for key in ("kld.mean", "disk")] for row in (fine, coarse)]
    assert values[0][0] < values[1][0]
    assert values[0][1] > values[1][1]
    assert [row["best"] for row in (fine, coarse, misfit)] == [True, True, False]
    assert "group_size = 256 does not divide the input width 128" in misfit["reason"]
