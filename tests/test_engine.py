"""The engine: from the store where it has it, else load, observe, put; each failure kept for who asks again."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import fakes
import numpy as np
import pytest

from pytest_quantgate.engine import Engine
from pytest_quantgate.errors import CheckpointError, ObservationError, StoreError
from pytest_quantgate.options import Options
from pytest_quantgate.registry import Registry
from pytest_quantgate.spec import Estimate, ModelSpec, Observation, Protocol, Recipe, Step
from pytest_quantgate.store import Store

calls: list[str] = []


class Counting:
    """An observer that counts, and fails on demand."""

    kind, device_bound, paired, order, settings = "counting", False, False, 0, ()

    def observe(self, subject, protocol, reference, progress):
        calls.append(subject.spec.name)
        if dict(protocol.parameters).get("fail"):
            raise ObservationError("no numbers")
        subject.model.encode("x")
        return Observation({"values": np.arange(3.0)}, {"path": subject.spec.path})

    def estimate(self, metric, variant, baseline):
        return Estimate(1.0)


COUNTING = Counting()


class Quiet:
    """A narrator that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def working(self, what):
        return nullcontext(lambda done, total: None)

    def say(self, text):
        self.said.append(text)


class Quantizer:
    """Writes a checkpoint, and counts."""

    def quantize(self, recipe, baseline, out: Path, progress):
        calls.append("quantize")
        if recipe.get("fail", False):
            (out / "half").write_text("half")
            raise CheckpointError("it broke")
        fakes.write_checkpoint(out, seed=int(recipe.get("seed", 0)), bits=8)


QUANTIZER = Quantizer()
BASE = ModelSpec("baseline", "base", "sha256:0", path="/nowhere", backend="fake")
MADE = replace(
    BASE,
    name="made",
    path="",
    weights="recipe:" + "a" * 64,
    recipe=Recipe("fake", (("bits", 8),)),
    source="fake",
)
STEP = Step("test_engine:COUNTING", BASE, Protocol.of("counting"))


@pytest.fixture
def engine(tmp_path):
    """Make an engine on a store in a temporary folder."""
    calls.clear()
    registry = Registry()
    registry.add("backends", "fake", "fakes:load")
    registry.add("quantizers", "fake", "test_engine:QUANTIZER")

    def make(since: float = 0.0, **changes) -> Engine:
        options = Options(tmp_path, tmp_path / "store", None, "", False, False, False, False, False)
        return Engine(
            Store(tmp_path / "store"), registry, replace(options, **changes), Quiet(), lambda: BASE, since
        )

    return make


def test_measured_once_and_stored(engine):
    """A second engine, as in a second run, reads what the first one made."""
    first = engine()
    made = first.observation(STEP)
    assert first.observation(STEP) is made
    second = engine()
    read = second.observation(STEP)
    assert calls == ["baseline"]
    assert read.facts["path"] == "/nowhere"
    np.testing.assert_array_equal(read.arrays["values"], made.arrays["values"])
    assert [record.source for record in (*first.records, *second.records)] == ["measured", "store"]


def test_a_failure_is_kept(engine):
    """A step that failed is not tried again in the session, and leaves nothing in the store."""
    step = replace(STEP, protocol=Protocol.of("counting", fail=True))
    one = engine()
    for _ in range(2):
        with pytest.raises(ObservationError, match="no numbers"):
            one.observation(step)
    assert calls == ["baseline"]
    assert not one.has(step)
    assert one.store.get(step.key) is None


def test_offline_names_what_is_missing(engine):
    """Offline, a missing observation is an error that names step, store and way out."""
    with pytest.raises(
        StoreError, match=r"baseline counting: not in the store .*store .*without --quantgate-offline"
    ):
        engine(offline=True).observation(STEP)
    assert calls == []


def test_refresh_counts_from_the_start_of_the_run(engine):
    """What was stored before the run is measured again; what this run stored is not."""
    engine().observation(STEP)
    time.sleep(0.2)
    now = time.time() - 0.1  # a file's time comes from a coarser clock
    engine(since=now, refresh="baseline").observation(STEP)
    engine(since=now, refresh="all").observation(STEP)
    assert calls == ["baseline", "baseline"]


def test_refresh_of_the_baseline_spares_variants(engine):
    """--quantgate-refresh=baseline leaves the variants' observations."""
    variant = replace(STEP, model=replace(BASE, name="v", weights="sha256:1"))
    engine().observation(variant)
    engine(since=time.time() + 1, refresh="baseline").observation(variant)
    assert calls == ["v"]


def test_a_recipe_is_made_once(engine):
    """The checkpoint of a recipe is made when first needed, and kept."""
    first = engine().observation(replace(STEP, model=MADE))
    engine(since=time.time() + 1, refresh="all").observation(replace(STEP, model=MADE))
    assert calls == ["quantize", "made", "made"]
    assert Path(str(first.facts["path"])).is_dir()


def test_a_recipe_that_was_measured_is_read(engine):
    """A second run neither quantizes nor loads: its numbers belong to the checkpoint that is there."""
    made = engine().observation(replace(STEP, model=MADE))
    calls.clear()
    warm = engine()
    assert warm.observation(replace(STEP, model=MADE)).facts == made.facts
    assert calls == []
    assert [record.source for record in warm.records] == ["store"]


def test_offline_makes_no_checkpoint(engine):
    """Offline, a recipe whose checkpoint is not there is an error that names variant, store and way out."""
    with pytest.raises(
        StoreError, match=r"made: its checkpoint is not in the store .*without --quantgate-off"
    ):
        engine(offline=True).materialize(MADE)
    assert calls == []
    ready = engine().materialize(MADE)
    assert engine(offline=True).materialize(MADE) == ready


def test_a_recipe_that_breaks_leaves_nothing(engine, tmp_path):
    """A failing quantizer leaves neither a checkpoint nor half of one."""
    broken = replace(MADE, recipe=Recipe("fake", (("fail", True),)), weights="recipe:" + "b" * 64)
    with pytest.raises(CheckpointError, match="it broke"):
        engine().observation(replace(STEP, model=broken))
    assert not list((tmp_path / "store").rglob("half"))
    assert engine().store.checkpoint("b" * 64) is None


def test_a_checkpoint_made_anew_is_measured_anew(engine, tmp_path):
    """Where a recipe was quantized again and came out differently, stored numbers are not its own."""
    import shutil

    step = replace(STEP, model=MADE)
    engine().observation(step)
    shutil.rmtree(tmp_path / "store" / "v1" / "checkpoints")
    other = replace(MADE, recipe=Recipe("fake", (("bits", 8), ("seed", 5))))
    engine().materialize(other)
    again = engine()
    again.observation(step)
    assert calls == ["quantize", "made", "quantize", "made"]
    assert any("made anew" in text for text in again.narrator.said)


def test_one_model_at_a_time(engine, monkeypatch, tmp_path):
    """Asking for another model closes the one that is held."""
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    one = engine()
    one.model(BASE)
    one.model(BASE)
    one.model(replace(BASE, name="v", weights="sha256:1"))
    beside = one.load_beside(BASE)
    one.release()
    one.release()
    beside.close()
    events = (tmp_path / "log").read_text().split("\n")
    assert events == [
        "load baseline",
        "close baseline",
        "load v",
        "load baseline",
        "close v",
        "close baseline",
        "",
    ]


def test_differences_are_said(engine):
    """When only the protocol changed, the narrator says what did."""
    engine().observation(STEP)
    other = engine()
    other.observation(replace(STEP, protocol=Protocol.of("counting", window=7)))
    assert other.narrator.said == ["baseline counting: measuring again, since protocol.window: none, now 7"]
