"""A variant that is an endpoint, in a study: launched, measured beside the baseline, judged, and stopped."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("httpx2")
pytest.importorskip("gguf")
pytest.importorskip("fastapi")
pytest.importorskip("llama_cpp")
pytest.importorskip("torch")

import tiny_gguf

EXAMPLE = Path(__file__).parents[1] / "example_project"
STUDY = """
baseline = "{model}"
dtype = "float32"
device = "cpu"

[tokens]
corpus = "corpus.txt"
window = 192
top_k = 16

[generation]
runs = 3
new_tokens = 8

[variants.served]
launch = "{python} -m llama_cpp.server --model {file} --port {{port}} --logits_all true --n_ctx 512 --n_threads 2 --n_threads_batch 2 --interrupt_requests false"
{more}
"""
TEST = """
from pytest_quantgate import kld, metric, ppl, quantgate

@quantgate(ppl.ratio < 1.01, ppl.ratio > 0.99)
def test_text():
    pass

@quantgate("kld.mean < 0.01 and top1_agreement > 0.95")
def test_divergence():
    pass

@quantgate("tokens_per_second > 0.1 and ttft < 60s and token_latency < 60s")
def test_speed():
    pass

@quantgate("vram < 1GiB")
def test_memory():
    pass
"""


@pytest.fixture
def served(pytester, monkeypatch):
    """Run pytest on a study with one endpoint."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    file = tiny_gguf.write(EXAMPLE / "model", pytester.path / "plain.gguf", pre="qwen2")
    text = (EXAMPLE / "data" / "heldout.txt").read_text(encoding="utf-8")[:3000]
    (pytester.path / "corpus.txt").write_text(text)
    pytester.makepyfile(TEST)

    def run(*arguments: str, more: str = "", model: Path = EXAMPLE / "model") -> pytest.RunResult:
        content = STUDY.format(model=model, python=sys.executable, file=file, more=more)
        (pytester.path / "quantgate.toml").write_text(content)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", "--quantgate", *arguments)

    return run


@pytest.mark.slow
def test_an_endpoint_is_judged_like_any_other(served):
    """The same weights behind a server: the same perplexity, and what it cannot give is not measured."""
    result = served("-rs")
    result.assert_outcomes(passed=3, skipped=1)
    result.stdout.fnmatch_lines(["*vram*"])
    again = served("-rs", "-k", "text")
    again.stdout.fnmatch_lines(["*measured*"])  # nobody vouched for what runs there


@pytest.mark.slow
def test_a_revision_vouches_for_what_runs_there(served):
    served("-k", "text", more='revision = "2026-11-21"').assert_outcomes(passed=1)
    again = served("-k", "text", "--quantgate-offline", more='revision = "2026-11-21"')
    again.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("isolate = true", "*launch is a process of its own; leave python, requirements and isolate out*"),
        ('quantize = { method = "quanto" }', "*give either model*"),
        ('server = ""', "*write a non-empty string*"),
        ('server = "http://me:hunter2@gpu-7:8000"', "*server: it holds a key or a password*api_key_env*"),
    ],
)
def test_what_cannot_be_an_endpoint_is_a_usage_error(served, more, message):
    result = served(more=more)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    assert "hunter2" not in result.stdout.str() + result.stderr.str()
