"""The sanity observer: what is broken is called broken, what is merely small is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fakes
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.errors import NotMeasurableError, ObservationError
from pytest_quantgate.gate import Metric
from pytest_quantgate.metrics.sanity import SANITY, loop_period
from pytest_quantgate.spec import ModelSpec, Observation, Recipe


class Subject:
    """A fake model."""

    def __init__(self, name: str, path: Path, recipe: Recipe | None = None, **options: Any) -> None:
        self.spec = ModelSpec(
            name, name, "sha256:0", path=str(path), recipe=recipe, options=tuple(options.items())
        )
        self.model = fakes.load(self.spec)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint that promises 8 bits."""
    return fakes.write_checkpoint(tmp_path / "v", bits=8)


def observe(subject: Subject, reference: Observation | None = None) -> Observation:
    """Observe one model."""
    return SANITY.observe(subject, SANITY.protocol({}, {}, Path()), reference, lambda *_: None)


def problems(folder: Path, *, baseline: dict[str, Any] | None = None, **options: Any) -> list[Any]:
    """Return what is found wrong with a variant, next to a baseline with other options."""
    reference = observe(Subject("baseline", folder, **(baseline or {})))
    assert reference.facts["problems"] == []
    return list(observe(Subject("v", folder, **options), reference).facts["problems"])


def test_a_sound_variant(folder: Path) -> None:
    """Nothing is wrong with a quantized model that says what the baseline says."""
    assert problems(folder, damage=0.05) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dense": True}, "not quantized"),
        ({"nan": True}, "NaN or infinite weights in layers.0.linear.scales"),
        ({"broken": True}, "logits are not finite"),
        ({"gibberish": True}, "repeats itself"),
        ({"damage": 60.0}, "gibberish: perplexity"),
        ({"tokenizer_shift": 1}, "tokenizer differs"),
    ],
)
def test_what_is_broken(folder: Path, options: dict[str, Any], words: str) -> None:
    """Each kind of breakage is named, with likely causes, and is plain JSON."""
    found = problems(folder, **options)
    assert any(words in problem["what"] for problem in found), found
    assert all(problem["causes"] for problem in found)
    assert json.loads(json.dumps(found)) == found


def test_a_small_model_may_loop(folder: Path) -> None:
    """A variant that repeats itself as its baseline does is not accused of it."""
    assert problems(folder, baseline={"gibberish": True}, gibberish=True) == []


def test_without_a_baseline(folder: Path) -> None:
    """Without a baseline a sound model passes, and weights are still looked at."""
    assert observe(Subject("v", folder, damage=0.05)).facts["problems"] == []
    assert observe(Subject("v", folder, nan=True)).facts["problems"]


def test_promised_bits(folder: Path) -> None:
    """Other bits than the recipe asked for, or the configuration promises, are a problem."""
    recipe = Recipe("gptq", (("bits", 4),))
    assert (
        "4 bits were asked for, the layers have 8"
        in observe(Subject("v", folder, recipe)).facts["problems"][0]["what"]
    )
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["bits"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    assert "3 bits" in observe(Subject("v", folder)).facts["problems"][0]["what"]


def test_a_failure_of_an_endpoint_is_no_finding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing of weights, and is not kept: the server may answer the next time."""
    subject = Subject("v", folder, broken=True)
    unseen = {"quantized": {}, "dense": [], "nonfinite": [], "unseen": True}
    monkeypatch.setattr(subject.model, "findings", lambda: unseen)
    with pytest.raises(ObservationError, match="logits are not finite"):
        observe(subject)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantized_cache_is_no_quantized_layer(folder: Path, bits: int) -> None:
    """Where a checkpoint or a recipe promises quantized weights, a cache of as many bits does not stand for them."""
    cache = {"kv_cache": bits}
    found = observe(Subject("v", folder, dense=True, cache=cache))
    assert "not quantized" in found.facts["problems"][0]["what"]
    assert found.facts["quantized_layers"] == 0
    recipe = Recipe("gptq", (("bits", 4),))
    assert (
        "the layers have 8" in observe(Subject("v", folder, recipe, cache=cache)).facts["problems"][0]["what"]
    )
    converted = Recipe("gguf", (("type", "F16"),))
    assert observe(Subject("v", folder, converted, dense=True, cache=cache)).facts["problems"] == []
    assert observe(Subject("v", folder, converted, dense=True)).facts["problems"]
    (folder / "config.json").write_text("{}")
    assert observe(Subject("v", folder, dense=True, cache=cache)).facts["problems"] == []


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(32, 64), st.lists(st.integers(0, 9)))
def test_loops_are_found(loop: list[int], length: int, before: list[int]) -> None:
    """A tail of period 1 to 4 over 32 tokens is a loop, whatever came before."""
    tail = (loop * length)[:length]
    assert 1 <= loop_period([*before, *tail]) <= len(loop)


@pytest.mark.parametrize("ids", [[], [1] * 31, list(range(64)), [1, 2, 3, 4, 5] * 20, [1] * 60 + [2]])
def test_no_loop(ids: list[int]) -> None:
    """Short texts, long periods and a tail that goes on differently are no loops."""
    assert loop_period(ids) == 0


def test_findings_are_no_metric(folder: Path) -> None:
    """There is no number to ask for."""
    with pytest.raises(NotMeasurableError):
        SANITY.estimate(Metric("sane"), Observation(), None)
