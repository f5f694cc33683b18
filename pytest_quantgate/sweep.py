"""Recipes side by side: each variant of a list measured and judged, one row each, and which of them are Pareto-best.

A row that cannot be made or measured says why and does not end the sweep. Rows are handed out as they are finished:
what was measured before an interruption is kept in the store, as in any session.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from pytest_quantgate import matrix
from pytest_quantgate.errors import ConfigError, NotMeasurableError, QuantgateError, UsageError
from pytest_quantgate.measurements import Measurements
from pytest_quantgate.parse import parse_metric
from pytest_quantgate.recipe import METHODS, from_table
from pytest_quantgate.study import ModelTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_quantgate.engine import Narrator
    from pytest_quantgate.gate import Metric
    from pytest_quantgate.marks import Asked
    from pytest_quantgate.options import Options
    from pytest_quantgate.registry import Registry
    from pytest_quantgate.spec import Estimate, Scalar
    from pytest_quantgate.study import Study
    from pytest_quantgate.verdict import Outcome, Verdict

__all__ = [
    "DEFAULT_METRICS",
    "RULE",
    "Candidate",
    "Result",
    "Sweep",
    "configured",
    "crossings",
    "front",
    "smallest",
]

QUALITY: Final = "kld.mean"
SIZE: Final = "disk"
DEFAULT_METRICS: Final = ("ppl", "ppl.ratio", QUALITY, SIZE, "bits_per_weight", "tokens_per_second")
RULE: Final = (
    "Pareto-best: no other row is at least as good in both kld.mean and disk and better in one; rows that are equal"
    " in both are all marked. By the measured values, whatever their intervals and gates."
)
_WORST_FIRST: Final[tuple[Outcome, ...]] = ("FAIL", "INCONCLUSIVE", "UNMEASURED", "PASS")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One variant of a sweep: its table, or why there is none."""

    name: str
    values: Mapping[str, Scalar]
    table: ModelTable | None = None
    refused: str = ""


def crossings(study: Study, axes: Mapping[str, list[Scalar]]) -> list[Candidate]:
    """Return a candidate per combination of recipe values; `method` and `calibration` are axes like the others.

    Raises:
        ConfigError: the axes cannot be crossed, or not one combination is a recipe.

    """
    found = [_crossing(study, axes, combination) for combination in matrix.crossed("the sweep", axes)]
    names = Counter(one.name for one in found)
    twice = next((name for name, count in names.items() if count > 1), "")
    if twice:
        raise ConfigError(
            f"the sweep: two combinations have the name {twice!r}; rename a file or leave one out"
        )
    if all(one.refused for one in found):
        raise ConfigError(found[0].refused)
    return found


def _crossing(study: Study, axes: Mapping[str, list[Scalar]], combination: Mapping[str, Scalar]) -> Candidate:
    alone = [key for key in ("method", "calibration") if len(axes.get(key, ())) == 1]
    shown = {key: value for key, value in combination.items() if key not in alone}
    parts = {key: value for key, value in shown.items() if key != "method"}
    method = str(combination["method"])
    name = matrix.named(method, parts)
    uncalibrated = method in METHODS and METHODS[method].calibration == "none"
    table = {key: value for key, value in combination.items() if not uncalibrated or key != "calibration"}
    try:
        recipe = from_table(name, table, study.root)
    except UsageError as error:
        return Candidate(name, shown, refused=str(error))
    dtype, device = (str(study.table.get(key, "auto")) for key in ("dtype", "device"))
    return Candidate(name, shown, ModelTable(name, dtype=dtype, device=device, recipe=recipe))


def configured(study: Study) -> list[Candidate]:
    """Return the study's own variants, each with those values of its recipe that differ among those that have them.

    Raises:
        ConfigError: there is none.

    """
    if not study.variants:
        raise ConfigError("the study has no variant; cross recipes, e.g. --group-size 32,64,128")
    recipes = {one.name: one.recipe for one in study.variants}
    values = {
        name: {"method": recipe.method, **dict(recipe.parameters)} if recipe else {}
        for name, recipe in recipes.items()
    }
    keys = dict.fromkeys(("method", *(key for method in METHODS.values() for key in method.keys)))
    differing = [key for key in keys if len({repr(one[key]) for one in values.values() if key in one}) > 1]
    return [
        Candidate(
            table.name,
            {key: values[table.name][key] for key in differing if key in values[table.name]},
            table,
        )
        for table in study.variants
    ]


@dataclass(frozen=True, slots=True)
class Result:
    """One row of a sweep.

    Attributes:
        name: of the variant, or "baseline".
        values: what of its recipe differs from the other rows.
        figures: metric text -> estimate, for what was measured.
        verdicts: one per gate.
        reason: why the row, or a part of it, is not measured.

    """

    name: str
    values: Mapping[str, Scalar] = field(default_factory=dict)
    figures: Mapping[str, Estimate] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()
    reason: str = ""

    @property
    def outcome(self) -> str:
        """The gravest outcome of its gates; empty where nothing was judged."""
        found = {verdict.outcome for verdict in self.verdicts}
        return next((outcome for outcome in _WORST_FIRST if outcome in found), "")

    @property
    def point(self) -> tuple[float, float] | None:
        """(KLD in nats, bytes), where both were measured and are finite."""
        found = [self.figures[name].value for name in (QUALITY, SIZE) if name in self.figures]
        return (found[0], found[1]) if len(found) == 2 and all(map(math.isfinite, found)) else None  # noqa: PLR2004

    @property
    def holds(self) -> bool:
        """Whether it was measured, and holds whatever gates there are."""
        return self.point is not None and self.outcome in ("PASS", "")


def front(results: Iterable[Result]) -> frozenset[str]:
    """Return the names of the Pareto-best rows: see `RULE`."""
    points = {result.name: result.point for result in results if result.point is not None}
    return frozenset(
        name for name, point in points.items() if not any(_beats(other, point) for other in points.values())
    )


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and all(mine <= theirs for mine, theirs in zip(one, other, strict=True))


def smallest(results: Iterable[Result]) -> Result | None:
    """Return the smallest row that passes its gates; of equal ones, the one with the smaller divergence."""
    passing = [result for result in results if result.holds and result.verdicts]
    return min(passing, key=lambda result: (result.point or (0, 0))[::-1], default=None)


class Sweep:
    """Measures candidates against the baseline of a study.

    Args:
        study: the baseline and how to measure; its own variants do not take part.
        options: what may be loaded, reused or fetched.
        registry: the open sets.
        narrator: who is told what goes on.
        candidates: what is compared.
        gates: what each must hold.
        metrics: texts of the metrics that are shown; what the Pareto rule needs is measured beside them.
        since: see `Measurements`.

    Raises:
        UsageError: no baseline, a gate that can never be judged, a metric that does not exist.
        CheckpointError: the baseline is missing, damaged or refused.

    """

    def __init__(
        self,
        study: Study,
        options: Options,
        registry: Registry,
        narrator: Narrator,
        candidates: Sequence[Candidate],
        *,
        gates: Sequence[Asked],
        metrics: Sequence[str],
        since: float,
    ) -> None:
        if study.baseline is None:
            raise ConfigError('a sweep compares with a baseline; add baseline = "..." to [tool.quantgate]')
        self.candidates = candidates
        self.metrics = tuple(dict.fromkeys((*metrics, QUALITY, SIZE)))
        self._gates = tuple(gates)
        tables = tuple(one.table for one in candidates if one.table is not None)
        self._measured = Measurements(
            replace(study, variants=tables, measure=self.metrics), options, registry, narrator, since
        )
        for metric in map(parse_metric, self.metrics):
            self._measured.wants.definition(metric)
        for one in self._gates:
            self._measured.wants.check(one.gate)
        self._refused = {one.name: one.refused or self._misfit(one.name) for one in candidates}
        sound = [one.name for one in candidates if not self._refused[one.name]]
        self._measured.prepare(dict.fromkeys(sound, self._gates))

    def _misfit(self, name: str) -> str:
        """Return why a variant does not fit the baseline; empty if it does."""
        assert self._measured.baseline is not None
        try:
            self._measured.spec(name)
        except QuantgateError as error:
            return str(error)
        return ""

    def results(self) -> Iterator[Result]:
        """Yield a row per candidate, in order, as each is finished."""
        for one in self.candidates:
            refused = self._refused[one.name]
            yield Result(one.name, one.values, reason=refused) if refused else self._result(one)

    def baseline(self) -> Result:
        """Return what the baseline's own figures are, as far as its passes were made for the rows."""
        found: dict[str, Estimate] = {}
        for text in self.metrics:
            with suppress(QuantgateError):
                found[text] = self._measured.baseline_estimate(parse_metric(text))
        return Result("baseline", figures=found)

    def close(self) -> None:
        """Free what is loaded."""
        self._measured.engine.release()

    def _result(self, one: Candidate) -> Result:
        try:
            self._make(one.name)
        except QuantgateError as error:
            return Result(one.name, one.values, reason=str(error))
        problems = self._measured.complete(one.name)
        if problems:
            return Result(one.name, one.values, reason="; ".join(problem.text for problem in problems))
        verdicts = self._measured.judge(one.name, self._gates)
        figures, missing = self._figures(one.name)
        return Result(one.name, one.values, figures, verdicts, missing)

    def _make(self, name: str) -> None:
        """Quantize, once: a quantizer that fails would otherwise be tried again for every observation."""
        engine = self._measured.engine
        if any(engine.stored(step) is None for step in self._measured.plan.of(name)):
            engine.materialize(self._measured.spec(name))

    def _figures(self, name: str) -> tuple[dict[str, Estimate], str]:
        found: dict[str, Estimate] = {}
        missing: dict[str, None] = {}
        for text in self.metrics:
            try:
                found[text] = self._finite(name, parse_metric(text))
            except QuantgateError as error:
                missing[str(error)] = None
        return found, "; ".join(missing)

    def _finite(self, name: str, metric: Metric) -> Estimate:
        estimate = self._measured.estimate(name, metric)
        if not math.isfinite(estimate.value):
            raise NotMeasurableError(f"{metric} is {estimate.value:g}")
        return estimate
