"""The four-way study of Qwen2.5-1.5B-Instruct that this project grew from, entered as recorded measurements.

A100-40GB, batch 1, 50 new tokens, 10 runs; perplexity on WikiText-2. The study gives disk size, TTFT and a recipe for
its first variant only.
"""

from __future__ import annotations

from pytest_quantgate import report
from pytest_quantgate.gate import Gate, Metric
from pytest_quantgate.spec import Estimate
from pytest_quantgate.verdict import judge

PPL = Metric("ppl")
GATE = PPL.delta < 1.0

FIGURES = {
    "baseline": {"vram": 3.56e9, "disk": 3.1e9, "tokens_per_second": 38.7, "ttft": 0.0268, "ppl": 11.90},
    "gptq-v1": {"vram": 1.63e9, "disk": 1.16e9, "tokens_per_second": 16.1, "ttft": 0.0638, "ppl": 15.36},
    "gptq-v2": {"vram": 1.66e9, "tokens_per_second": 13.8, "ppl": 13.09},
    "awq": {"vram": 1.16e9, "tokens_per_second": 24.9, "ppl": 13.16},
}
UNITS = {"vram": "B", "disk": "B", "tokens_per_second": "tok/s", "ttft": "s", "ppl": ""}


def estimate(model: str, metric: Metric) -> Estimate:
    """Compute a metric from the recorded figures."""
    value = FIGURES[model][metric.name]
    if metric.relation == "delta":
        value -= FIGURES["baseline"][metric.name]
    return Estimate(value, UNITS[metric.name])


def payload(model: str, gate: Gate = GATE) -> dict:
    """Return what a test of one variant contributes to the report."""
    verdict = judge(gate, lambda metric: estimate(model, metric))
    result = {
        "nodeid": f"test_release.py::test_release[{model}]",
        "variant": model,
        "outcome": verdict.outcome,
    }
    return {"variants": [row(model)], "results": [{**result, "verdicts": [verdict.to_json()]}]}


def row(model: str) -> dict:
    """Return a model's row."""
    figures = {name: Estimate(value, UNITS[name]).to_json() for name, value in FIGURES[model].items()}
    return {"name": model, "source": f"Mohaaxa/qwen2.5-1.5b-{model}", "dtype": "float16", "figures": figures}


def study() -> report.Report:
    """Return the study's report."""
    about = {
        "created": "2025-02-01T12:00:00+00:00",
        "environment": {"device": "A100-40GB", "transformers": "4.44.0"},
    }
    reference = {"baseline": {**row("baseline"), "source": "Qwen/Qwen2.5-1.5B-Instruct"}}
    return report.build([about | reference, *map(payload, ("gptq-v1", "gptq-v2", "awq"))])
