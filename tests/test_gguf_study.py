"""GGUF variants in a whole session: recipes, files and a quantized cache, judged by gates beside each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")
pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import AutoConfig, AutoTokenizer

from pytest_quantgate.quantizers.gguf_weights import write_gguf

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[1] / "example_project"
STUDY = """
baseline = "{baseline}"
dtype = "float32"
[tokens]
corpus = "{example}/data/heldout.txt"
protocol = "gptq"
window = 256
limit = 24
{variants}
"""


def session(folder: Path, baseline: str, variants: str, gates: str) -> tuple[int, dict[str, str], str]:
    """Run pytest in a folder; return its exit code, each test's outcome, and what it printed."""
    tables = f"{variants}\n[gates]\n{gates}"
    (folder / "quantgate.toml").write_text(STUDY.format(baseline=baseline, example=EXAMPLE, variants=tables))
    report = folder / "report"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "--quantgate"]
    done = subprocess.run(
        [*command, "--quantgate-store", str(folder / "store"), "--quantgate-report", str(report)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes = dict(
        reversed(line.split(" - ")[0].split(" ", 1))
        for line in done.stdout.splitlines()
        if line.startswith(("PASSED", "FAILED", "ERROR", "SKIPPED"))
    )
    return done.returncode, {name.split("::")[-1]: state for name, state in outcomes.items()}, done.stdout


@pytest.fixture
def half(tmp_path: Path) -> Path:
    folder = EXAMPLE / "model"
    config, tokenizer = (kind.from_pretrained(folder) for kind in (AutoConfig, AutoTokenizer))
    write_gguf(folder, config, tokenizer, "F16", tmp_path / "half.gguf")
    return tmp_path / "half.gguf"


def test_recipes_files_and_caches_side_by_side(tmp_path: Path, half: Path) -> None:
    """8 bits pass, a cache of 4 bits and a file that is not quantized do not, and the file's bytes are the disk."""
    variants = """
[variants.made]
quantize = { method = "gguf", type = "Q8_0" }
[variants.cache]
model = "half.gguf"
kv_cache = "q4_0"
[variants.plain]
model = "half.gguf"
"""
    code, outcomes, said = session(
        tmp_path, str(EXAMPLE / "model"), variants, 'near = "kld.mean < 0.01"\nsmall = "disk.ratio < 0.6"'
    )
    assert code == 1, said
    assert outcomes == {
        "near[made]": "PASSED",
        "small[made]": "PASSED",
        "near[cache]": "FAILED",
        "small[cache]": "FAILED",
        "near[plain]": "FAILED",
        "small[plain]": "FAILED",
    }
    assert "not quantized: all 29 linear layers are dense" in said
    assert (
        "kv_cache" not in said.split("short test summary")[0].split("Traceback")[0] or "Traceback" not in said
    )
    (made,) = tmp_path.glob("store/**/model.gguf")
    assert made.stat().st_size < half.stat().st_size


def test_a_gguf_baseline_takes_the_engine_out(tmp_path: Path, half: Path) -> None:
    """Against its own float16 file, a recipe and the self-same weights in 8 bits are judged by the same engine."""
    variants = '[variants.made]\nquantize = { method = "gguf", type = "Q8_0" }'
    code, outcomes, said = session(
        tmp_path, "half.gguf", variants, 'near = "kld.mean < 0.002 and ppl.ratio < 1.01"'
    )
    assert (code, outcomes) == (0, {"near[made]": "PASSED"}), said
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert "llama-cpp-python" in json.dumps(report)
