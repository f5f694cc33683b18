"""Configured models in, specifications out: where a checkpoint lies, that it is sound, and what it is.

This is where identity is made: a specification names the content of the weights, the type the model computes in and
the versions of every library that can change a number, so that a stored observation is never taken for another's.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from pytest_quantgate import checkpoint, machine
from pytest_quantgate.checkpoint import preflight
from pytest_quantgate.errors import CheckpointError, ConfigError, MissingExtraError, UsageError
from pytest_quantgate.imported import IMPORTED
from pytest_quantgate.recipe import check_fits
from pytest_quantgate.spec import Json, ModelSpec, digest

if TYPE_CHECKING:
    from pytest_quantgate.checkpoint import Checkpoint
    from pytest_quantgate.options import Options
    from pytest_quantgate.registry import Registry
    from pytest_quantgate.store import Store
    from pytest_quantgate.study import ModelTable, Study

__all__ = ["Models"]

_MATRIX = 2


class Models:
    """The models of a study. Files are read when a model is first asked for; no engine is imported."""

    def __init__(self, study: Study, options: Options, store: Store, registry: Registry) -> None:
        self._study = study
        self._options = options
        self._store = store
        self._registry = registry

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
            self._registry.reference("backends", table.backend)
        except UsageError as error:
            raise ConfigError(f"{self._study.file}: [tool.quantgate.variants.{name}]: {error}") from error
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
        stated = sound.config.get("dtype") or sound.config.get("torch_dtype") or "float32"
        return ModelSpec(
            name=table.name,
            source=table.model,
            weights=checkpoint.fingerprint(sound, self._store),
            path=str(sound.path),
            backend=table.backend,
            dtype=str(stated) if table.dtype == "auto" else table.dtype,
            device=machine.default_device() if table.device == "auto" else table.device,
            engine=self._engine(table.backend, method),
            options=table.options,
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
        made_by = dict(machine.versions(*self._registry.distributions(recipe.method)))
        made_from: dict[str, Json] = {
            "recipe": recipe.identity(),
            "baseline": baseline.weights,
            "by": made_by,
        }
        return ModelSpec(
            name=table.name,
            source=recipe.method,
            weights=f"recipe:{digest(made_from)}",
            backend=table.backend,
            dtype=baseline.dtype if table.dtype == "auto" else table.dtype,
            device=machine.default_device() if table.device == "auto" else table.device,
            engine=self._engine(table.backend, recipe.method),
            recipe=recipe,
            options=table.options,
        )

    def _engine(self, backend: str, method: str) -> tuple[tuple[str, str], ...]:
        names = (*self._registry.distributions(backend), *self._registry.distributions(method))
        return machine.versions(*names)


def _imported(table: ModelTable) -> ModelSpec:
    """Return the specification of a model that is not here."""
    return ModelSpec(name=table.name, source=IMPORTED, weights=f"{IMPORTED}:{table.name}", backend="")
