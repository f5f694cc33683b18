"""The embedded example, with its real model and real quantizers: the main job, cold and warm."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gptqmodel")

ROOT = Path(__file__).parents[1]


def run(store: Path, report: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--quantgate",
            "example_project",
            "--quantgate-store",
            str(store),
            "--quantgate-report",
            str(report),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_demo_ends_green_and_its_second_run_loads_nothing(tmp_path):
    """Recipes are quantized and judged; a second run imports no engine and gives the same verdicts."""
    cold = run(tmp_path / "store", tmp_path / "cold")
    assert cold.returncode == 0, cold.stdout
    assert "2 xfailed" in cold.stdout
    warm = run(tmp_path / "store", tmp_path / "warm")
    assert warm.returncode == 0, warm.stdout
    assert not re.search(r"\|\s+(torch|transformers|gptqmodel|datasets)$", warm.stderr, re.MULTILINE)
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("cold", "warm")]
    assert {step["source"] for step in reports[1]["steps"]} == {"store"}
    verdicts = [[(r["nodeid"], r["outcome"], r["verdicts"]) for r in report["results"]] for report in reports]
    assert verdicts[0] == verdicts[1]
    rows = {row["name"]: row["figures"]["ppl.delta"]["value"] for row in reports[0]["variants"]}
    assert rows["gptq-v1"] > rows["gptq-v2"] > rows["gptq-8bit"]
    capabilities = {(one["variant"], one["metric"]): one for one in reports[0]["capabilities"]}
    stated = {"choice": 0.880, "arithmetic": 0.987, "code": 0.997}  # example_project/README.md
    for task, share in stated.items():
        assert capabilities["awq", task]["baseline"]["value"] == pytest.approx(share, abs=5e-4)
    assert capabilities["gptq-v1", "code"]["lost"] > 10 * capabilities["gptq-8bit", "code"]["lost"] + 30
    assert len(reports[0]["answers"]) == 15
    assert reports[0]["answers"] == reports[1]["answers"]


@pytest.mark.slow
def test_three_bits_break_every_capability(tmp_path):
    """The same example at 3 bits: mathematics and code all but gone, named first; nothing passes."""
    study = (
        (ROOT / "example_project" / "quantgate.toml")
        .read_text()
        .replace('"data/', f'"{ROOT}/example_project/data/')
    )
    head = study.replace('baseline = "model"', f'baseline = "{ROOT}/example_project/model"').split(
        "# The default settings"
    )[0]
    head = re.sub(r"^measure = .*$", "measure = []", head, flags=re.MULTILINE)
    variant = '[variants.three.quantize]\nmethod = "gptq"\nbits = 3\ngroup_size = 128\n'
    calibration = f'calibration = "{ROOT}/example_project/data/calibration_chat.jsonl"\n'
    gates = '[gates]\nknowledge = "choice.drop < 0.1"\nsums = "arithmetic.drop < 0.1"\nprograms = "code.drop < 0.1"\n'
    (tmp_path / "quantgate.toml").write_text(head + variant + calibration + gates)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--quantgate",
            "--quantgate-report",
            "out",
            ".",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "3 failed" in done.stdout, done.stdout
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    drops = {one["metric"]: one["drop"]["value"] for one in found["capabilities"]}
    assert drops["arithmetic"] > 0.3
    assert drops["code"] > 0.5
    assert drops["choice"] > 0.1
