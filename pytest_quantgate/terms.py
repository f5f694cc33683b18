"""The words that gates are written in: one name per built-in metric.

Names only: what a metric means, its unit and its statistics are in its definition in `metrics/`, and an
unknown one is found at collection. A plugin author binds a new word by `my_metric = metric("my_metric")`.
"""

from __future__ import annotations

from dataclasses import replace

from pytest_quantgate.errors import GateError
from pytest_quantgate.gate import Metric

__all__ = [
    "ALIASES",
    "bits_per_weight",
    "ceval",
    "delta_p",
    "disk",
    "evaluate",
    "gsm8k",
    "humaneval",
    "humaneval_plus",
    "kld",
    "lm_eval",
    "load_time",
    "metric",
    "mmlu",
    "ppl",
    "ppl_delta",
    "ram",
    "since",
    "token_latency",
    "tokens_per_second",
    "top1_agreement",
    "ttft",
    "vram",
    "weights_memory",
    "worst_capability",
]

ppl = Metric("ppl")
ppl_delta = ppl.delta
kld = Metric("kld")
top1_agreement = Metric("top1_agreement")
delta_p = Metric("delta_p")
disk = Metric("disk")
weights_memory = Metric("weights_memory")
bits_per_weight = Metric("bits_per_weight")
tokens_per_second = Metric("tokens_per_second")
ttft = Metric("ttft")
token_latency = Metric("token_latency")
load_time = Metric("load_time")
vram = Metric("vram")
ram = Metric("ram")
mmlu = Metric("mmlu")
ceval = Metric("ceval")
gsm8k = Metric("gsm8k")
humaneval = Metric("humaneval")
humaneval_plus = Metric("humaneval_plus")
lm_eval = Metric("lm_eval")
evaluate = Metric("evaluate")
worst_capability = Metric("worst_capability")

ALIASES = {"ppl_delta": ppl_delta}
"""Short words, in Python and in text; gates print the metric that they stand for."""


def metric(name: str) -> Metric:
    """Return the metric of that name, or the one that an alias stands for; it need not be registered yet.

    Raises:
        GateError: `name` is not an ASCII identifier, begins with "_", or is a Python keyword.

    """
    return ALIASES[name] if name in ALIASES else Metric(name)


class Since:
    """An earlier run; its attributes are the metrics, set against the same variant's value in that run."""

    __slots__ = ("_run",)

    def __init__(self, run: str) -> None:
        self._run = run

    def __getattr__(self, name: str) -> Metric:
        if name.startswith("_"):  # copy, pickle and test tools probe private names
            raise AttributeError(name)
        return replace(metric(name), since=self._run)

    def __repr__(self) -> str:
        return f"since({self._run!r})"


def since(run: str) -> Since:
    """Return an earlier run to compare with: `since("v1.2").ppl.delta < 0.05`.

    Args:
        run: its id, a unique beginning of it, its tag (the latest run that has it), or the path of its report.json.

    Raises:
        GateError: `run` is empty or no printable text.

    """
    if str(run) != run or not run or not run.isprintable():
        raise GateError(f"since({run!r}): name a run by its id, its tag or the path of its report")
    return Since(run)
