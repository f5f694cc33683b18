"""The generation observer: the study's protocol, and what is computed from time stamps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest

from pytest_quantgate.errors import ConfigError, NotMeasurableError
from pytest_quantgate.gate import Metric
from pytest_quantgate.metrics.generation import GENERATION
from pytest_quantgate.spec import ModelSpec, Observation


class Subject:
    """A fake model that makes `speed` tokens a second."""

    def __init__(self, **options: Any) -> None:
        self.spec = ModelSpec("v", "v", "sha256:0", options=tuple(options.items()))
        self.model = fakes.load(self.spec)


def observe(subject: Subject, **settings: Any) -> Observation:
    """Observe with settings."""
    protocol = GENERATION.protocol({}, settings, Path())
    return GENERATION.observe(subject, protocol, None, lambda *_: None)


def value(name: str, observation: Observation, baseline: Observation | None = None, **fields: str) -> float:
    """Return a metric."""
    return GENERATION.estimate(Metric(name, **fields), observation, baseline).value


def test_the_studys_protocol() -> None:
    """Without settings: 50 new tokens, 10 runs, after 2 to warm up."""
    protocol = GENERATION.protocol({}, {}, Path())
    assert [protocol[name] for name in ("new_tokens", "runs", "warmup", "chat")] == [50, 10, 2, False]
    assert GENERATION.device_bound


def test_steady_generation() -> None:
    """A model of 100 tokens a second has that rate, a first token after 10 ms, and 10 ms between tokens."""
    observation = observe(Subject(speed=100.0), runs=3, new_tokens=20)
    assert observation.arrays["seconds"].shape == (3, 20)
    assert value("tokens_per_second", observation) == pytest.approx(100)
    assert value("ttft", observation) == pytest.approx(0.01)
    assert value("token_latency", observation) == pytest.approx(0.01)
    assert value("token_latency", observation, statistic="p99") == pytest.approx(0.01)
    assert value("load_time", observation) == 0.25


def test_relations_to_the_baseline() -> None:
    """Delta is variant minus baseline, drop the opposite, ratio a pure number."""
    fast, slow = observe(Subject(speed=100.0)), observe(Subject(speed=50.0))
    assert value("tokens_per_second", slow, fast, relation="delta") == pytest.approx(-50)
    assert value("tokens_per_second", slow, fast, relation="drop") == pytest.approx(50)
    ratio = GENERATION.estimate(Metric("ttft", relation="ratio"), slow, fast)
    assert (ratio.value, ratio.unit) == (pytest.approx(2), "")
    with pytest.raises(NotMeasurableError, match="baseline"):
        value("ttft", slow, None, relation="ratio")


def test_warm_up_does_not_count() -> None:
    """The first runs, slow as they are, stay out of the figures."""
    subject = Subject(speed=100.0)
    plain, calls = subject.model.generate, []

    def generate(ids: Any, new_tokens: int, *, stop_at_end: bool = False) -> Any:
        calls.append(1)
        trace = plain(ids, new_tokens)
        return trace if len(calls) > 2 else type(trace)(trace.ids, trace.seconds * 50)

    subject.model.generate = generate
    assert value("tokens_per_second", observe(subject, runs=4)) == pytest.approx(100)
    assert len(calls) == 6


def test_memory_of_the_device_that_is_there() -> None:
    """RAM is measured on a CPU, VRAM is not, and says why; on a GPU it is the other way round, others named."""
    cpu = observe(Subject(ram=1000))
    assert value("ram", cpu) == 1000
    with pytest.raises(NotMeasurableError, match="vram: no CUDA device here"):
        value("vram", cpu)
    memory = {"vram": 10.0, "vram.reserved": 20.0, "others": 3.0 * 2**20}
    gpu = Observation({"seconds": np.ones((1, 2))}, {"memory": memory, "load_time": 1.0})
    assert (value("vram", gpu), value("vram", gpu, statistic="reserved")) == (10, 20)
    assert "3 MiB" in GENERATION.estimate(Metric("vram"), gpu, None).note
    with pytest.raises(NotMeasurableError, match="ram"):
        value("ram", gpu)


@pytest.mark.parametrize(
    "settings", [{"runs": 0}, {"new_tokens": 1}, {"warmup": -1}, {"runs": True}, {"prompt": " "}, {"chat": 1}]
)
def test_unusable_settings(settings: dict[str, Any]) -> None:
    """A setting that cannot be used is refused, by name."""
    with pytest.raises(ConfigError, match=next(iter(settings))):
        GENERATION.protocol({}, settings, Path())


def test_too_long_for_the_model() -> None:
    """A prompt that leaves no room for the new tokens is said, not cut."""
    with pytest.raises(NotMeasurableError, match="do not fit 4096 positions"):
        observe(Subject(), new_tokens=4090)
