"""Runs steps: from the store where it has them, else load, observe, put.

The lock around a step saves work when several processes want the same observation; correctness rests on the store
alone. A step that failed is not tried again in the same session: its error is kept and raised to everyone who asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from typing import Protocol as Interface

from pytest_quantgate.checkpoint import preflight
from pytest_quantgate.differences import differences
from pytest_quantgate.errors import QuantgateError, StoreError
from pytest_quantgate.executors import remote
from pytest_quantgate.executors.local import Local
from pytest_quantgate.recipe import is_on_load
from pytest_quantgate.registry import load
from pytest_quantgate.report import StepRecord

if TYPE_CHECKING:
    from pytest_quantgate.interfaces import Model, Observer, Progress
    from pytest_quantgate.options import Options
    from pytest_quantgate.registry import Registry
    from pytest_quantgate.spec import Json, ModelSpec, Observation, Step
    from pytest_quantgate.store import Store

__all__ = ["Engine", "Narrator"]


class Narrator(Interface):
    """Tells a person what is going on."""

    def working(self, what: str) -> AbstractContextManager[Progress]:
        """Announce a long piece of work; the context's value reports how far it is."""

    def say(self, text: str) -> None:
        """Print one line."""


@dataclass(slots=True)
class Engine:
    """Makes the observations of a session.

    Attributes:
        store: where observations and checkpoints are kept.
        registry: where backends and quantizers are found.
        options: offline, refresh and what may be loaded.
        narrator: who is told.
        baseline: gives what recipes are made from.
        planned: keys of this session's steps: what is stored under them is no older form of another step.
        since: observations stored before this time (seconds since the epoch) do not count for what is refreshed.

    """

    store: Store
    registry: Registry
    options: Options
    narrator: Narrator
    baseline: Callable[[], ModelSpec | None]
    since: float
    planned: frozenset[str] = frozenset()
    records: list[StepRecord] = field(default_factory=list)
    _done: dict[str, Observation | QuantgateError] = field(default_factory=dict)
    _unmade: dict[str, QuantgateError] = field(default_factory=dict)
    _executor: Local = field(init=False)

    def __post_init__(self) -> None:
        self._executor = Local(self._load)

    def observation(self, step: Step) -> Observation:
        """Return the observation of a step.

        Raises:
            QuantgateError: it could not be made; the same error again for everyone who asks.

        """
        outcome = self._done.get(step.key)
        if outcome is None:
            started = time.perf_counter()
            try:
                outcome, source = self._obtain(step)
            except QuantgateError as error:
                outcome = error
            else:
                elapsed = round(time.perf_counter() - started, 3)
                self.records.append(StepRecord(step.label, step.key, source, elapsed))
            self._done[step.key] = outcome
        if isinstance(outcome, QuantgateError):
            raise outcome
        return outcome

    def has(self, step: Step) -> bool:
        """Return whether this session holds the observation already."""
        return not isinstance(self._done.get(step.key, StoreError()), QuantgateError)

    def _obtain(self, step: Step) -> tuple[Observation, Literal["store", "measured"]]:
        stored = self.stored(step)
        if stored is not None:
            return stored, "store"
        if self.options.offline:
            raise StoreError(
                f"{step.label}: not in the store {self.options.store} (key {step.key[:12]});"
                " run once without --quantgate-offline"
            )
        with self.store.lock(step.key):
            # another process may have made it while this one waited
            stored = self.stored(step)
            return (stored, "store") if stored is not None else (self._measure(step), "measured")

    def refusal(self, step: Step) -> QuantgateError | None:
        """Return why this session has no observation of a step; None if it has one, or has not tried."""
        outcome = self._done.get(step.key)
        return outcome if isinstance(outcome, QuantgateError) else None

    def keep(self, step: Step, observation: Observation) -> None:
        """Keep an observation that was put together from parts."""
        self.store.put(step, observation)
        self._done[step.key] = observation

    def refuse(self, step: Step, error: QuantgateError) -> None:
        """Keep an error for everyone who asks for a step."""
        self._done[step.key] = error

    def stored(self, step: Step) -> Observation | None:
        """Return what the store holds of a step and counts in this session; None if it must be measured."""
        refreshed = self.options.refresh == "all" or (
            self.options.refresh == "baseline" and step.model.is_baseline
        )
        if refreshed and self.store.written(step.key) < self.since:
            return None
        observation = self.store.get(step.key)
        if observation is not None and self._is_older_than_its_reference(step):
            self.narrator.say(f"{step.label}: the baseline was measured anew and differs; measuring again")
            return None
        if observation is None or step.model.recipe is None:
            return observation
        record = self.store.checkpoint_record(_checkpoint_key(step.model))
        if record is not None and observation.facts.get("checkpoint") != record["content"]:
            self.narrator.say(f"{step.label}: the checkpoint was made anew and differs; measuring again")
            return None
        return observation

    def _is_older_than_its_reference(self, step: Step) -> bool:
        """Return whether it was read off a baseline's lists that have since been found to be others."""
        reference = self._done.get(step.reference)
        if reference is None or isinstance(reference, QuantgateError):
            return False
        return float(str(reference.facts.get("renewed", 0.0))) > self.store.written(step.key)

    def _say_what_changed(self, step: Step) -> None:
        """Tell why an observation that looks the same to a person is made anew."""
        if step.protocol.part:
            return
        alike = [
            listing
            for listing in self.store.entries()
            if not listing.step.protocol.part
            and listing.step.observe == step.observe
            and listing.step.model.name == step.model.name
            and listing.key not in self.planned
        ]
        if alike:
            newest = max(alike, key=lambda listing: listing.written)
            if changed := differences(newest.step, step):
                self.narrator.say(f"{step.label}: measuring again, since {'; '.join(changed)}")

    def _measure(self, step: Step) -> Observation:
        self._say_what_changed(step)
        observer: Observer = load(step.observe)
        reference = self._reference(step.reference) if step.reference else None
        model = self.materialize(step.model)
        started = time.perf_counter()
        with self.narrator.working(step.label) as progress:
            made = self._executor.run(observer, replace(step, model=model), reference, progress)
        about: dict[str, Json] = {
            "checkpoint": self._content(model),
            "seconds": round(time.perf_counter() - started, 3),
        }
        before = self.store.get(step.key) if step.model.is_baseline else None
        if before is not None:
            about["renewed"] = before.facts.get("renewed", 0.0) if _same(before, made) else time.time()
        observation = replace(made, facts={**made.facts, **about})
        self.store.put(step, observation)
        return observation

    def _reference(self, key: str) -> Observation:
        outcome = self._done.get(key)
        if isinstance(outcome, QuantgateError):
            raise outcome
        if outcome is None:
            raise StoreError(f"the baseline's observation {key[:12]} was not made before it was needed")
        return outcome

    def materialize(self, spec: ModelSpec) -> ModelSpec:
        """Return the specification with a local folder, quantizing a recipe unless that was done before.

        Raises:
            UsageError: the recipe does not fit.
            NotMeasurableError: the quantizer cannot run here.
            StoreError: offline, and the checkpoint is not in the store.

        """
        if spec.recipe is None:
            return spec
        if is_on_load(spec.recipe):
            baseline = self.baseline()
            assert baseline is not None
            return spec.at(Path(baseline.path))
        found = self.store.checkpoint(_checkpoint_key(spec))
        if found is None and self.options.offline:
            raise StoreError(
                f"{spec.name}: its checkpoint is not in the store {self.options.store};"
                " run once without --quantgate-offline"
            )
        return spec.at(found or self._made(spec))

    def _made(self, spec: ModelSpec) -> Path:
        """Quantize a recipe, unless that failed before in this session."""
        key = _checkpoint_key(spec)
        if key in self._unmade:
            raise self._unmade[key]
        try:
            return self._quantize(spec)
        except QuantgateError as error:
            self._unmade[key] = error
            raise

    def _quantize(self, spec: ModelSpec) -> Path:
        recipe, baseline = spec.recipe, self.baseline()
        assert recipe is not None
        assert baseline is not None
        reference = self.registry.reference("quantizers", recipe.method)
        limit = self.options.worker_limit
        self._executor.close()

        def build(folder: Path) -> None:
            with self.narrator.working(f"{spec.name} quantize ({recipe.method})") as progress:
                if recipe.python or spec.isolated:
                    remote.quantize(
                        reference, spec.name, recipe, baseline, folder, limit=limit, progress=progress
                    )
                else:
                    load(reference).quantize(recipe, baseline, folder, progress)
            preflight(folder)

        about: dict[str, Json] = {
            "recipe": recipe.to_json(),
            "baseline": baseline.weights,
            "engine": dict(spec.engine),
        }
        return self.store.build_checkpoint(_checkpoint_key(spec), build, about)

    def _content(self, spec: ModelSpec) -> str:
        record = self.store.checkpoint_record(_checkpoint_key(spec)) if spec.recipe else None
        return str(record["content"]) if record else spec.weights

    def _load(self, spec: ModelSpec) -> Model:
        reference = self.registry.reference("backends", spec.backend)
        code, pickle = self.options.allow_code, self.options.allow_pickle
        with self.narrator.working(f"{spec.name} load"):
            if spec.python or spec.isolated:
                limit = self.options.worker_limit
                return remote.load(reference, spec, limit, allow_code=code, allow_pickle=pickle)
            model: Model = load(reference)(spec, allow_code=code, allow_pickle=pickle)
        return model

    def model(self, spec: ModelSpec) -> Model:
        """Return the loaded model, for a test that asks for it; the engine's own, to be left open."""
        return self._executor.model(self.materialize(spec))

    def load_beside(self, spec: ModelSpec) -> Model:
        """Load a model of its own beside the one that is held; the caller closes it."""
        return self._load(self.materialize(spec))

    def release(self) -> None:
        """Free the model that is held."""
        self._executor.close()


def _same(one: Observation, other: Observation) -> bool:
    """Return whether two observations hold the same numbers, to the bit."""
    return one.arrays.keys() == other.arrays.keys() and all(
        one.arrays[name].tobytes() == other.arrays[name].tobytes() for name in one.arrays
    )


def _checkpoint_key(spec: ModelSpec) -> str:
    return spec.weights.removeprefix("recipe:")
