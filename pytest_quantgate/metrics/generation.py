"""Speed and memory of generating text, after the protocol of the four-way study that started this project.

Batch 1, one fixed prompt, 50 new tokens, greedy, without stopping at an end token; 2 runs to warm up, then 10
that count. On a GPU every time stamp is synchronised. Figures belong to a kind of device and are never taken
from another.

tokens_per_second  mean over runs of new tokens / time of the whole run, prompt included; higher is better.
                   The study's number; not the decoding rate alone, which is 1 / token_latency.
ttft               time to first token: from the call to the first new token; mean over runs.
token_latency      time between one new token and the next; mean over runs, `.median` and `.p99` over tokens.
load_time          time of from_pretrained, libraries imported before; one sample, the file cache may be warm.
vram               peak bytes of tensors (torch's allocator) since before loading; `.reserved` adds what the
                   allocator holds back. nvidia-smi shows more: the CUDA context, and other processes.
ram                peak resident set size minus that before loading, for a model on a CPU.

Relations: `.delta`, `.ratio`, `.drop`. Intervals of means are over runs (Student's t); comparisons have none
yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate.errors import ConfigError, NotMeasurableError
from pytest_quantgate.metrics.compared import compared
from pytest_quantgate.spec import Estimate, MetricDefinition, Observation, Protocol
from pytest_quantgate.stats import ranks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pytest_quantgate.gate import Metric
    from pytest_quantgate.interfaces import Model, Progress, Subject
    from pytest_quantgate.spec import Scalar

__all__ = [
    "GENERATION",
    "LOAD_TIME",
    "RAM",
    "TOKENS_PER_SECOND",
    "TOKEN_LATENCY",
    "TTFT",
    "VRAM",
    "Generation",
]

OBSERVER = "pytest_quantgate.metrics.generation:GENERATION"
RELATIONS = ("delta", "ratio", "drop")
DEFAULTS: Mapping[str, Any] = {
    "prompt": "Write a short note on how a language model is made smaller, and what it may lose on the way.",
    "chat": False,
    "new_tokens": 50,
    "runs": 10,
    "warmup": 2,
}
LEAST = {"new_tokens": 2, "runs": 1, "warmup": 0}


def _definition(name: str, summary: str, unit: str, *statistics: str) -> MetricDefinition:
    return MetricDefinition(
        name=name,
        summary=summary,
        unit=unit,
        better="higher" if unit == "tok/s" else "lower",
        observer=OBSERVER,
        statistics=("", *statistics) if statistics else (),
        relations=RELATIONS,
        arguments=tuple(DEFAULTS),
    )


TOKENS_PER_SECOND = _definition("tokens_per_second", "new tokens per second, prompt included", "tok/s")
TTFT = _definition("ttft", "time to first token", "s")
TOKEN_LATENCY = _definition("token_latency", "time from one new token to the next", "s", "median", "p99")
LOAD_TIME = _definition("load_time", "time to load the model", "s")
VRAM = _definition("vram", "peak GPU memory of tensors since before loading", "B", "reserved")
RAM = _definition("ram", "peak resident memory since before loading, on a CPU", "B")


class Generation:
    """Observes repeated greedy generation from one prompt."""

    kind = "generation"
    device_bound = True
    paired = False
    order = 2
    settings = tuple(DEFAULTS)

    def protocol(self, arguments: Mapping[str, Scalar], settings: Mapping[str, Any], root: Path) -> Protocol:
        """Resolve the parameters; see `interfaces.Observer.protocol`."""
        del root
        found = {**DEFAULTS, **settings, **arguments}
        for key, least in LEAST.items():
            value = found[key]
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"generation {key} = {value!r}: it must be a whole number of at least {least}"
                )
        if not isinstance(found["prompt"], str) or not found["prompt"].strip():
            raise ConfigError("generation prompt: it must be text")
        if not isinstance(found["chat"], bool):
            raise ConfigError(f"generation chat = {found['chat']!r}: it must be true or false")
        return Protocol.of(self.kind, **found)

    def observe(
        self, subject: Subject, protocol: Protocol, reference: Observation | None, progress: Progress
    ) -> Observation:
        """Generate. Arrays: seconds (runs, new_tokens) from each call on. Facts: memory, load_time."""
        del reference
        model = subject.model
        ids = _prompt(model, protocol)
        runs, warmup, new = protocol["runs"], protocol["warmup"], protocol["new_tokens"]
        if len(ids) + new > model.max_length:
            raise NotMeasurableError(
                f"a prompt of {len(ids)} tokens and {new} new ones do not fit {model.max_length} positions; "
                "set [tool.quantgate.generation] prompt or new_tokens"
            )
        seconds = []
        for run in range(warmup + runs):
            seconds.append(model.generate(ids, new).seconds)
            progress(run + 1, warmup + runs)
        facts: dict[str, Any] = {
            "load_time": model.load_seconds,
            "memory": dict(model.memory()),
            "prompt_tokens": len(ids),
        }
        return Observation({"seconds": np.asarray(seconds[warmup:], dtype=np.float64)}, facts)

    def estimate(self, metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate:
        """Compute a speed or a size; see `interfaces.Observer.estimate`."""
        return compared(metric, _value(metric, variant), _value(metric, baseline) if baseline else None)


GENERATION = Generation()


def _prompt(model: Model, protocol: Protocol) -> list[int]:
    text = protocol["prompt"]
    ids = model.encode_chat([{"role": "user", "content": text}]) if protocol["chat"] else model.encode(text)
    return [int(i) for i in ids]


def _value(metric: Metric, observation: Observation) -> Estimate:
    if metric.name in ("vram", "ram"):
        return _memory(metric, observation)
    if metric.name == "load_time":
        seconds: Any = observation.facts["load_time"]
        return Estimate(float(seconds), "s")
    stamps = observation.arrays["seconds"]  # (runs, new tokens)
    if metric.name == "tokens_per_second":
        return _over_runs(stamps.shape[1] / stamps[:, -1], "tok/s")
    if metric.name == "ttft":
        return _over_runs(stamps[:, 0], "s")
    gaps = np.diff(stamps, axis=1)
    if metric.statistic:
        quantile = {"median": 0.5, "p99": 0.99}[metric.statistic]
        return Estimate(
            float(np.quantile(gaps, quantile)), "s", n=gaps.size, items="tokens", clusters=len(gaps)
        )
    return _over_runs(gaps.mean(axis=1), "s")


def _over_runs(values: NDArray[Any], unit: str) -> Estimate:
    known = ranks(values)
    count = len(values)
    return Estimate(known.median, unit, n=count, items="runs", clusters=count, sampling=known).at(0.95)


def _memory(metric: Metric, observation: Observation) -> Estimate:
    memory: Any = observation.facts["memory"]
    key = f"{metric.name}.{metric.statistic}" if metric.statistic else metric.name
    if key not in memory:
        missing = "no CUDA device here" if metric.name == "vram" else "the model is on a GPU; use vram"
        raise NotMeasurableError(f"{metric.name}: {missing}")
    others = memory.get("others", 0)
    note = f"other processes hold {others / 2**20:.0f} MiB on the device" if others else ""
    return Estimate(float(memory[key]), "B", note=note, exact=True)  # counted, once
