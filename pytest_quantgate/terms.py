"""The words that gates are written in: one name per built-in metric.

Names only: what a metric means, its unit and its statistics are in its definition in `metrics/`, and an
unknown one is found at collection. A plugin author binds a new word by `my_metric = metric("my_metric")`.
"""

from __future__ import annotations

from pytest_quantgate.gate import Metric

__all__ = [
    "ALIASES",
    "bits_per_weight",
    "delta_p",
    "disk",
    "kld",
    "load_time",
    "metric",
    "ppl",
    "ppl_delta",
    "ram",
    "token_latency",
    "tokens_per_second",
    "top1_agreement",
    "ttft",
    "vram",
    "weights_memory",
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

ALIASES = {"ppl_delta": ppl_delta}
"""Short words, in Python and in text; gates print the metric that they stand for."""


def metric(name: str) -> Metric:
    """Return the metric of that name, or the one that an alias stands for; it need not be registered yet.

    Raises:
        GateError: `name` is not an ASCII identifier, begins with "_", or is a Python keyword.

    """
    return ALIASES[name] if name in ALIASES else Metric(name)
