"""Speed at N requests at once: what is computed from the time stamps, and for which engines there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest

from pytest_quantgate.errors import ConfigError, NotMeasurableError, UnknownNameError
from pytest_quantgate.gate import Metric
from pytest_quantgate.interfaces import Trace
from pytest_quantgate.metrics.generation import GENERATION
from pytest_quantgate.parse import parse
from pytest_quantgate.registry import Registry
from pytest_quantgate.spec import ModelSpec, Observation
from pytest_quantgate.study import Study
from pytest_quantgate.wants import Wants


class Queue(fakes.FakeModel):
    """A server that answers one request after another, ten tokens a second; the last is `late` seconds late."""

    made = 10

    def generate_many(self, prompts: Any, new_tokens: int) -> list[Trace]:
        count = min(new_tokens, self.made)
        own = np.arange(1, count + 1) / 10
        return [
            Trace(np.zeros(count, dtype=np.int64), own + number * count / 10)
            for number, _ in enumerate(prompts)
        ]


class Subject:
    def __init__(self, model: Any) -> None:
        self.model, self.spec = model, model.spec


def observe(model: Any, **arguments: Any) -> Observation:
    """Observe 10 tokens, 3 times."""
    protocol = GENERATION.protocol(arguments, {"new_tokens": 10, "runs": 3}, Path())
    return GENERATION.observe(Subject(model), protocol, None, lambda *_: None)


def value(name: str, observation: Observation, **fields: str) -> float:
    return GENERATION.estimate(Metric(name, **fields), observation, None).value


SPEC = ModelSpec("v", "v", "sha256:0", options=(("speed", 10.0),))


def test_a_queue_of_four() -> None:
    """Throughput over all requests; the mean first token waits for those before; gaps are each request's own."""
    found = observe(Queue(SPEC), concurrent=4)
    assert found.arrays["seconds"].shape == (3, 4, 10)
    assert value("tokens_per_second", found) == pytest.approx(40 / 4.0)
    assert value("ttft", found) == pytest.approx(np.mean([0.1, 1.1, 2.1, 3.1]))
    assert value("token_latency", found) == pytest.approx(0.1)
    assert value("token_latency", found, statistic="p99") == pytest.approx(0.1)


def test_one_at_once_is_as_ever() -> None:
    """Neither the observation's identity nor its arrays change for what was always measured."""
    assert GENERATION.protocol({"concurrent": 1}, {}, Path()) == GENERATION.protocol({}, {}, Path())
    assert observe(Queue(SPEC), concurrent=1).arrays["seconds"].shape == (3, 10)
    assert GENERATION.protocol({"concurrent": 2}, {}, Path()) != GENERATION.protocol({}, {}, Path())


def test_an_engine_without_requests_at_once() -> None:
    """Not measurable, and what it takes is said."""
    with pytest.raises(
        NotMeasurableError, match=r"concurrent = 2: the backend .* one request at a time; it takes a server"
    ):
        observe(fakes.FakeModel(SPEC), concurrent=2)


def test_a_baseline_without_requests_at_once() -> None:
    """A gate on a server's own speed does not need the baseline's; one that compares is not measurable."""
    served = observe(Queue(SPEC), concurrent=4)
    baseline = observe(fakes.FakeModel(ModelSpec("baseline", "v", "sha256:0")), concurrent=4)
    estimate = GENERATION.estimate(Metric("ttft"), served, baseline)
    assert estimate.value == pytest.approx(1.6)
    with pytest.raises(NotMeasurableError, match="it takes a server"):
        GENERATION.estimate(Metric("ttft", relation="ratio"), served, baseline)
    with pytest.raises(NotMeasurableError, match="it takes a server"):
        value("ttft", baseline)


def test_one_that_ends_early() -> None:
    """Fewer tokens than asked for are no measurement of their speed."""
    short = Queue(SPEC)
    short.made = 7
    with pytest.raises(NotMeasurableError, match="ended after 7 of 10 new tokens"):
        observe(short, concurrent=3)


@pytest.mark.parametrize("count", [0, -1, True, 2.5, "8", 10**9])
def test_counts_that_are_none(count: Any) -> None:
    """Refused when the gate is read."""
    with pytest.raises(ConfigError, match="concurrent"):
        GENERATION.protocol({"concurrent": count}, {}, Path())


def test_as_a_gate() -> None:
    """Written as an argument; memory and loading have no such number."""
    wants = Wants(Registry(), Study(Path()))
    wants.check(parse("tokens_per_second(concurrent=8) > 100 and ttft(concurrent=8) < 200 ms"))
    with pytest.raises(UnknownNameError, match="argument of vram"):
        wants.check(parse("vram(concurrent=8) < 1 GiB"))


def test_what_an_endpoint_does_not_tell() -> None:
    """Memory, and how long a server took to load that was there before: not measurable, never zero."""
    model = Queue(SPEC)
    model.memory = dict  # type: ignore[method-assign]
    model.load_seconds = float("nan")
    found = observe(model)
    for name in ("ram", "vram"):
        with pytest.raises(NotMeasurableError, match="an endpoint does not tell its memory"):
            value(name, found)
    with pytest.raises(NotMeasurableError, match="load_time: the server was there before"):
        value("load_time", found)
