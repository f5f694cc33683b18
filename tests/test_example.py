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
    assert "1 xfailed" in cold.stdout
    warm = run(tmp_path / "store", tmp_path / "warm")
    assert warm.returncode == 0, warm.stdout
    assert not re.search(r"\|\s+(torch|transformers|gptqmodel|datasets)$", warm.stderr, re.MULTILINE)
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("cold", "warm")]
    assert {step["source"] for step in reports[1]["steps"]} == {"store"}
    verdicts = [[(r["nodeid"], r["outcome"], r["verdicts"]) for r in report["results"]] for report in reports]
    assert verdicts[0] == verdicts[1]
    rows = {row["name"]: row["figures"]["ppl.delta"]["value"] for row in reports[0]["variants"]}
    assert rows["gptq-v1"] > rows["gptq-v2"] > rows["gptq-8bit"]
