"""Configured models in, specifications out: where a checkpoint lies, that it is sound, and what it is.

This is where identity is made: a specification names the content of the weights, the type the model computes in and
the versions of every library that can change a number, so that a stored observation is never taken for another's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from pytest_quantgate import checkpoint, machine
from pytest_quantgate.checkpoint import preflight
from pytest_quantgate.errors import CheckpointError, ConfigError, MissingExtraError, StoreError, UsageError
from pytest_quantgate.imported import IMPORTED
from pytest_quantgate.recipe import check_fits
from pytest_quantgate.spec import Json, ModelSpec, digest
from pytest_quantgate.stacks import Stacks, requirement_names

if TYPE_CHECKING:
    from pytest_quantgate.checkpoint import Checkpoint
    from pytest_quantgate.engine import Narrator
    from pytest_quantgate.options import Options
    from pytest_quantgate.registry import Registry
    from pytest_quantgate.store import Store
    from pytest_quantgate.study import ModelTable, Stack, Study

__all__ = ["Models"]

AUTO: Final = "auto"
_USUAL: Final = "transformers"
_REFERENCE: Final = "baseline"
_MATRIX = 2


class Models:
    """The models of a study. Files are read when a model is first asked for; no engine is imported."""

    def __init__(
        self,
        study: Study,
        options: Options,
        registry: Registry,
        *,
        store: Store,
        narrator: Narrator,
        since: float,
    ) -> None:
        self._study = study
        self._options = options
        self._store = store
        self._registry = registry
        self._since = since
        self._stacks = Stacks(store, study.root, narrator, unmade=_unmade(options))

    @cached_property
    def baseline(self) -> ModelSpec | None:
        """The unquantized reference; None if none is configured.

        Raises:
            CheckpointError: the checkpoint is missing, damaged or refused.

        """
        table = self._study.baseline
        if table is not None and table.imported:
            return _imported(table)
        return None if table is None else self._existing(table, self._baseline_checkpoint)

    @cached_property
    def _baseline_checkpoint(self) -> Checkpoint:
        assert self._study.baseline is not None
        return self._open(self._study.baseline)

    def variant(self, name: str) -> ModelSpec:
        """Return the specification of one variant.

        Raises:
            CheckpointError: the checkpoint is missing, damaged or refused.
            UsageError: the recipe does not fit the baseline, or there is no baseline to make it from.

        """
        table = self._study.variant(name)
        if table.imported:
            return _imported(table)
        if self._study.baseline is not None and self._study.baseline.imported:
            raise ConfigError(
                f"variant {name!r} is measured here, and the baseline is imported: it takes a model to compare with"
            )
        try:
            if table.backend != AUTO:
                self._registry.reference("backends", table.backend)
        except UsageError as error:
            raise ConfigError(f"{self._study.file}: [tool.quantgate.variants.{name}]: {error}") from error
        if table.endpoint:
            return self._served(table)
        return self._existing(table, self._open(table)) if table.recipe is None else self._recipe(table)

    def _open(self, table: ModelTable) -> Checkpoint:
        try:
            path = checkpoint.resolve(
                table.model, table.revision or None, root=self._study.root, offline=self._options.offline
            )
            return preflight(
                path, allow_pickle=self._options.allow_pickle, allow_code=self._options.allow_code
            )
        except (CheckpointError, MissingExtraError) as error:
            raise CheckpointError(f"{table.name}: {error}") from error

    def _existing(self, table: ModelTable, sound: Checkpoint) -> ModelSpec:
        method = str((sound.quantization or {}).get("quant_method", ""))
        backend = ("gguf" if sound.is_gguf else _USUAL) if table.backend == AUTO else table.backend
        stated = sound.config.get("dtype") or sound.config.get("torch_dtype") or "float32"
        if sound.is_gguf and table.name != _REFERENCE and self.baseline is not None:
            stated = self.baseline.dtype  # llama.cpp computes in types of its own
        return ModelSpec(
            name=table.name,
            source=table.model,
            weights=checkpoint.fingerprint(sound, self._store),
            path=str(sound.path),
            backend=backend,
            dtype=str(stated) if table.dtype == AUTO else table.dtype,
            device=machine.default_device() if table.device == AUTO else table.device,
            options=table.options,
            **self._place(table, backend, method),
        )

    def _served(self, table: ModelTable) -> ModelSpec:
        """Return the specification of an endpoint.

        What runs behind one cannot be seen. Its observations hold for this session, or for as long as the user says
        by `revision` that it is the same.
        """
        baseline = self.baseline
        if not table.model and baseline is None:
            raise ConfigError(
                f"variant {table.name!r} is an endpoint: its tokenizer is the baseline's, and no baseline is configured"
            )
        sound = self._open(table) if table.model else self._baseline_checkpoint
        behind: dict[str, Json] = {
            "endpoint": dict(table.endpoint),
            "checkpoint": checkpoint.fingerprint(sound, self._store) if table.model else "",
            "as of": table.revision or self._since,
        }
        return ModelSpec(
            name=table.name,
            source=" ".join(text for _, text in table.endpoint),
            weights=f"endpoint:{digest(behind)}",
            path=str(sound.path),
            backend="server" if table.backend == AUTO else table.backend,
            dtype=(baseline.dtype if baseline else "float32") if table.dtype == AUTO else table.dtype,
            device=machine.default_device() if table.device == AUTO else table.device,
            options=tuple(sorted((*table.options, *table.endpoint))),
        )

    def _recipe(self, table: ModelTable) -> ModelSpec:
        baseline, recipe = self.baseline, table.recipe
        assert recipe is not None
        if baseline is None:
            raise ConfigError(
                f"variant {table.name!r} is a recipe, but no baseline is configured to make it from"
            )
        widths = {
            name.removesuffix(".weight"): info.shape[1]
            for name, info in self._baseline_checkpoint.tensors.items()
            if ".layers." in name and name.endswith(".weight") and len(info.shape) == _MATRIX
        }
        check_fits(recipe, widths)
        backend = ("gguf" if recipe.method == "gguf" else _USUAL) if table.backend == AUTO else table.backend
        maker = self._interpreter(table, table.maker)
        made_by = dict(self._versions(table, table.maker, maker, self._registry.distributions(recipe.method)))
        made_from: dict[str, Json] = {
            "recipe": recipe.identity(),
            "baseline": baseline.weights,
            "by": made_by,
        }
        return ModelSpec(
            name=table.name,
            source=recipe.method,
            weights=f"recipe:{digest(made_from)}",
            backend=backend,
            dtype=baseline.dtype if table.dtype == AUTO else table.dtype,
            device=machine.default_device() if table.device == AUTO else table.device,
            recipe=replace(recipe, python=maker),
            options=table.options,
            **self._place(table, backend, recipe.method),
        )

    def _interpreter(self, table: ModelTable, stack: Stack) -> str:
        try:
            return self._stacks.interpreter(f"{self._study.file}: variant {table.name!r}", stack)
        except StoreError as error:  # the gates of this variant fail, and the others are measured
            raise CheckpointError(str(error)) from error

    def _place(self, table: ModelTable, backend: str, method: str) -> dict[str, Any]:
        """Return where a model runs, and what is installed there."""
        python = self._interpreter(table, table.stack)
        # a format that the tables do not know is most often named like its library: hqq, aqlm, vptq …
        of_method = self._registry.distributions(method) or tuple(filter(None, (method,)))
        names = (*self._registry.distributions(backend), *of_method)
        engine = self._versions(table, table.stack, python, names)
        if python and backend == _USUAL and "torch" not in dict(engine):
            raise ConfigError(
                f"variant {table.name!r}: {python} has no torch; install torch and transformers there"
            )
        return {"engine": engine, "python": python, "isolated": table.isolated or self._options.isolate}

    def _versions(
        self, table: ModelTable, stack: Stack, python: str, names: Sequence[str]
    ) -> tuple[tuple[str, str], ...]:
        if not python:
            return machine.versions(*names)
        wanted = tuple(dict.fromkeys((*names, *requirement_names(stack.requirements))))
        return self._stacks.versions(f"variant {table.name!r}", python, wanted)


def _unmade(options: Options) -> str:
    """Return why no environment may be made in this session; empty if one may."""
    if options.offline:
        return "run once without --quantgate-offline"
    return "run the gates once, a plan makes nothing" if options.plan_only else ""


def _imported(table: ModelTable) -> ModelSpec:
    """Return the specification of a model that is not here."""
    return ModelSpec(name=table.name, source=IMPORTED, weights=f"{IMPORTED}:{table.name}", backend="")
