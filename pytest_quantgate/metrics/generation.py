"""Speed and memory of generating text, after the protocol of the four-way study that started this project.

Batch 1, one fixed prompt, 50 new tokens, greedy, without stopping at an end token; 2 runs to warm up, then 10
that count. On a GPU every time stamp is synchronised. Figures belong to a kind of device and are never taken
from another.

tokens_per_second  median over runs of new tokens / time of the whole run, prompt included; higher is better.
                   The study's number; not the decoding rate alone, which is 1 / token_latency.
ttft               time to first token: from the call to the first new token; median over runs.
token_latency      time between one new token and the next: the mean of each run, median over runs; `.median` and
                   `.p99` over tokens.
load_time          time of from_pretrained, libraries imported before; one sample, the file cache may be warm.
vram               peak bytes of tensors (torch's allocator) since before loading; `.reserved` adds what the
                   allocator holds back. nvidia-smi shows more: the CUDA context, and other processes.
ram                peak resident set size minus that before loading, for a model on a CPU.

With `concurrent = N`, which an endpoint can be asked for, N requests with the same prompt run at once: then the new
tokens of all count, over the time from the first request sent to the last token there; ttft and token_latency are means
over the requests of a run. A cache of prompts is passed by where the kind of server lets it be (docs/servers.md).

Relations: `.delta`, `.ratio`, `.drop`. Intervals of medians are over runs, without a distribution (`stats.Ranks`), and
those of comparisons follow from them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate.errors import ConfigError, NotMeasurableError
from pytest_quantgate.interfaces import Concurrent
from pytest_quantgate.metrics.compared import compared
from pytest_quantgate.spec import Estimate, MetricDefinition, Observation, Protocol
from pytest_quantgate.stats import ranks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pytest_quantgate.gate import Metric
    from pytest_quantgate.interfaces import Model, Progress, Subject
    from pytest_quantgate.spec import FloatArray, Scalar

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
LEAST = {"new_tokens": 2, "runs": 1, "warmup": 0, "concurrent": 1}
MOST_CONCURRENT = 1024


def _definition(
    name: str, summary: str, unit: str, *statistics: str, more: tuple[str, ...] = ()
) -> MetricDefinition:
    return MetricDefinition(
        name=name,
        summary=summary,
        unit=unit,
        better="higher" if unit == "tok/s" else "lower",
        observer=OBSERVER,
        statistics=("", *statistics) if statistics else (),
        relations=RELATIONS,
        arguments=(*DEFAULTS, *more),
    )


AT_ONCE = ("concurrent",)
TOKENS_PER_SECOND = _definition(
    "tokens_per_second", "new tokens per second, prompt included", "tok/s", more=AT_ONCE
)
TTFT = _definition("ttft", "time to first token", "s", more=AT_ONCE)
TOKEN_LATENCY = _definition(
    "token_latency", "time from one new token to the next", "s", "median", "p99", more=AT_ONCE
)
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
        found = {**DEFAULTS, "concurrent": 1, **settings, **arguments}
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
        if found["concurrent"] > MOST_CONCURRENT:
            raise ConfigError(
                f"generation concurrent = {found['concurrent']}: at most {MOST_CONCURRENT} requests at once"
            )
        if found["concurrent"] == 1:
            del found["concurrent"]  # what was measured before there was such a number stays valid
        return Protocol.of(self.kind, **found)

    def observe(
        self, subject: Subject, protocol: Protocol, reference: Observation | None, progress: Progress
    ) -> Observation:
        """Generate. Arrays: seconds (runs, requests at once, new_tokens) from each call on. Facts: memory, load_time.

        Of requests one by one, seconds is (runs, new_tokens).
        """
        del reference
        model = subject.model
        ids = _prompt(model, protocol)
        runs, warmup, new = protocol["runs"], protocol["warmup"], protocol["new_tokens"]
        if len(ids) + new > model.max_length:
            raise NotMeasurableError(
                f"a prompt of {len(ids)} tokens and {new} new ones do not fit {model.max_length} positions; "
                "set [tool.quantgate.generation] prompt or new_tokens"
            )
        count = dict(protocol.parameters).get("concurrent", 1)
        if count != 1 and not isinstance(model, Concurrent):
            one = f"the backend {model.spec.backend!r} runs one request at a time"
            reason = f"concurrent = {count}: {one}; it takes a server"
            if subject.spec.is_baseline:  # which a gate on a server's speed does not need
                return Observation(facts={"absent": reason})
            raise NotMeasurableError(reason)
        seconds = []
        for run in range(warmup + runs):
            seconds.append(_run(model, ids, new, count))
            progress(run + 1, warmup + runs)
        known = math.isfinite(model.load_seconds)  # not of a server that was there before
        facts: dict[str, Any] = {
            "load_time": model.load_seconds if known else None,
            "memory": dict(model.memory()),
            "prompt_tokens": len(ids),
        }
        return Observation({"seconds": np.asarray(seconds[warmup:], dtype=np.float64)}, facts)

    def estimate(self, metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate:
        """Compute a speed or a size; see `interfaces.Observer.estimate`."""
        reference = _value(metric, baseline) if baseline and metric.relation else None
        return compared(metric, _value(metric, variant), reference)


GENERATION = Generation()


def _prompt(model: Model, protocol: Protocol) -> list[int]:
    text = protocol["prompt"]
    ids = model.encode_chat([{"role": "user", "content": text}]) if protocol["chat"] else model.encode(text)
    return [int(i) for i in ids]


def _run(model: Model, ids: list[int], new: int, count: Any) -> FloatArray:
    """Return the time stamps of one run.

    Raises:
        NotMeasurableError: the model ended before all tokens were made.

    """
    stamps: FloatArray
    if count == 1:
        stamps = model.generate(ids, new).seconds
    else:
        assert isinstance(model, Concurrent)
        traces = model.generate_many([ids] * count, new)
        short = min(len(trace.seconds) for trace in traces)
        stamps = np.asarray([trace.seconds[:short] for trace in traces], dtype=np.float64)
    if stamps.shape[-1] != new:
        raise NotMeasurableError(
            f"the model ended after {stamps.shape[-1]} of {new} new tokens, and this engine cannot be told to go on;"
            " set [tool.quantgate.generation] prompt or new_tokens"
        )
    return stamps


def _value(metric: Metric, observation: Observation) -> Estimate:
    if "absent" in observation.facts:
        raise NotMeasurableError(str(observation.facts["absent"]))
    if metric.name in ("vram", "ram"):
        return _memory(metric, observation)
    if metric.name == "load_time":
        seconds: Any = observation.facts["load_time"]
        if seconds is None:
            raise NotMeasurableError("load_time: the server was there before this run; give launch instead")
        return Estimate(float(seconds), "s")
    stamps = observation.arrays["seconds"]
    stamps = stamps.reshape(len(stamps), -1, stamps.shape[-1])  # (runs, requests at once, new tokens)
    if metric.name == "tokens_per_second":
        return _over_runs(stamps[0].size / stamps[:, :, -1].max(axis=1), "tok/s")
    if metric.name == "ttft":
        return _over_runs(stamps[:, :, 0].mean(axis=1), "s")
    gaps = np.diff(stamps, axis=2)
    if metric.statistic:
        quantile = {"median": 0.5, "p99": 0.99}[metric.statistic]
        return Estimate(
            float(np.quantile(gaps, quantile)), "s", n=gaps.size, items="tokens", clusters=len(gaps)
        )
    return _over_runs(gaps.mean(axis=(1, 2)), "s")


def _over_runs(values: NDArray[Any], unit: str) -> Estimate:
    known = ranks(values)
    count = len(values)
    return Estimate(known.median, unit, n=count, items="runs", clusters=count, sampling=known).at(0.95)


def _memory(metric: Metric, observation: Observation) -> Estimate:
    memory: Any = observation.facts["memory"]
    key = f"{metric.name}.{metric.statistic}" if metric.statistic else metric.name
    if not memory:
        raise NotMeasurableError(f"{metric.name}: an endpoint does not tell its memory")
    if key not in memory:
        missing = "no CUDA device here" if metric.name == "vram" else "the model is on a GPU; use vram"
        raise NotMeasurableError(f"{metric.name}: {missing}")
    others = memory.get("others", 0)
    note = f"other processes hold {others / 2**20:.0f} MiB on the device" if others else ""
    return Estimate(float(memory[key]), "B", note=note, exact=True)  # counted, once
