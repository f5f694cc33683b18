"""A task as an observer: which items there are, in which way they are answered, and what is computed from that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from typing import Protocol as Interface

import numpy as np

from pytest_quantgate import parts, stats
from pytest_quantgate.errors import ConfigError, NotMeasurableError, ObservationError, UnknownNameError
from pytest_quantgate.spec import Estimate, MetricDefinition, Observation, Protocol
from pytest_quantgate.tasks import items as item_rules
from pytest_quantgate.tasks import scores, sheet

if TYPE_CHECKING:
    from pytest_quantgate.gate import Metric
    from pytest_quantgate.interfaces import Progress, Subject
    from pytest_quantgate.spec import IntArray, Json, Scalar
    from pytest_quantgate.tasks.items import Item
    from pytest_quantgate.tasks.ways import Request, Way

__all__ = ["Contents", "Source", "Task", "definition"]

RELATIONS = ("delta", "drop", "ratio", "recovery")
QUESTION_LENGTH = 2000
COMMON: Mapping[str, Any] = {"data": "", "limit": 0}

Pair: TypeAlias = tuple[Observation, Observation | None]

Categories: TypeAlias = Mapping[str, Sequence[str]]
"""Names that stand for several subjects."""


class Contents(NamedTuple):
    """The items of a task, and names that stand for several of its subjects."""

    items: list[Item]
    categories: Categories


class Source(Interface):
    """Where the items of a task come from."""

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Its settings, beside `data` and `limit`."""

    def read(self, request: Request, root: Path, place: str) -> Contents:
        """Return the items, examples and all; relative paths count from `root`.

        Raises:
            UsageError: the data are missing or cannot be used; the message names file and row.

        """


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """An `interfaces.Observer`, and `interfaces.Divisible`: every metric but `.macro` is a mean over items."""

    kind: str
    source: Source
    way: Way
    device_bound: bool = False
    paired: bool = False
    order: int = 4
    unit: str = "items"

    @property
    def settings(self) -> tuple[str, ...]:
        """The keys of its configuration table."""
        return tuple(key for key in self._defaults() if key != "python")

    def _defaults(self) -> dict[str, Any]:
        return {**COMMON, **self.way.defaults, **self.source.defaults}

    # --- protocol

    def protocol(self, arguments: Mapping[str, Scalar], settings: Mapping[str, Any], root: Path) -> Protocol:
        """Resolve the settings and read the data to digest them; see `interfaces.Observer.protocol`."""
        given = dict(arguments)
        wanted, pass_at = str(given.pop("of", "")), given.pop("pass_at", 1)
        name = str(settings.get("task", self.kind))
        place = f"[tool.quantgate.{'tasks.' if 'task' in settings else ''}{name}]"
        request = self._request({**settings, **given}, place)
        self.way.check(request, place)
        if not isinstance(pass_at, int) or not 1 <= pass_at <= request.get("samples", 1):
            raise ConfigError(
                f"{name}: pass_at = {pass_at}: it takes at least as many samples; set samples, too"
            )
        contents = self.source.read(request, root, place)
        item_rules.check(contents.items, place)
        known = [*contents.categories, *dict.fromkeys(item.group for item in contents.items if item.group)]
        if wanted and wanted not in known:
            raise UnknownNameError(f"subject of {name}", wanted, known)
        parameters = {key: request[key] for key in self.way.defaults}
        made = Protocol.of(
            name, items=item_rules.digest_of(contents.items), count=len(contents.items), **parameters
        )
        asked: dict[str, Json] = {"request": request, "root": str(root)}
        return Protocol(made.kind, made.parameters, places=tuple(sorted(asked.items())))

    def _request(self, given: Mapping[str, Any], place: str) -> Request:
        """Return every setting, each of the type of its default."""
        defaults = self._defaults()
        request = {**defaults, **{key: value for key, value in given.items() if key in defaults}}
        for key, default in defaults.items():
            value = request[key]
            if isinstance(default, float) and type(value) is int:
                request[key] = float(value)
            elif isinstance(value, str) and isinstance(default, list):
                # a stop may be a comma or a line end; subjects are named one after another
                parted = [part.strip() for part in value.split(",") if part.strip()]
                request[key] = [value] if key == "stops" else parted
            elif isinstance(default, list) and not _are_texts(value):
                raise ConfigError(f"{place}: {key} = {value!r}: write a list of texts")
            elif type(value) is not type(default):
                raise ConfigError(f"{place}: {key} = {value!r}: write a value like {default!r}")
        if request["limit"] < 0:
            raise ConfigError(f"{place}: limit = {request['limit']}: it must be 0 for all, or above")
        return request

    # --- observation

    def observe(
        self, subject: Subject, protocol: Protocol, reference: Observation | None, progress: Progress
    ) -> Observation:
        """Answer the items.

        Arrays: item (N,) its place, group (N,) of its subject, correct (N,) and what the way of answering adds; texts
        id, answer, expected, question. Facts: groups, categories, of (how many items the task has), remarks.
        """
        del reference
        places: dict[str, Any] = dict(protocol.places)
        place = f"[tool.quantgate.{protocol.kind}]"
        contents = self.source.read(places["request"], Path(places["root"]), place)
        if item_rules.digest_of(contents.items) != protocol["items"]:
            raise ObservationError(
                f"{protocol.kind}: its data have changed since this run was planned; start it again"
            )
        total = len(contents.items)
        part = parts.part_of(protocol)
        numbers = range(total) if part is None else part.numbers(total)
        items = [contents.items[number] for number in numbers]
        found = self.way.answer(subject.model, items, places["request"], progress)
        groups = list(dict.fromkeys(item.group for item in contents.items))
        arrays = {
            sheet.NUMBER: np.asarray(numbers, dtype=np.int32),
            "group": np.asarray([groups.index(item.group) for item in items], dtype=np.int32),
            **found.numbers,
        }
        words = {
            "id": [item.id for item in items],
            "answer": found.answers,
            "expected": [item.expected for item in items],
            "question": [item.question[:QUESTION_LENGTH] for item in items],
        }
        categories: dict[str, Json] = {name: list(names) for name, names in contents.categories.items()}
        told: Any = found.facts.get("remarks", ())
        facts: dict[str, Json] = {
            **found.facts,
            "groups": list(groups),
            "categories": categories,
            "of": total,
            "remarks": [f"{protocol.kind}: {remark}" for remark in told],
        }
        return sheet.made(arrays, words, facts)

    # --- metrics

    def estimate(self, metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate:
        """Compute a task metric; see `scores`."""
        return scores.estimate(metric, variant, baseline)

    def change(self, metric: Metric, now: Pair, before: Pair) -> Estimate:
        """Return a relation to the same model's answers in an earlier run, item by item; see `earlier.ComparesRuns`."""
        return scores.estimate(replace(metric, since=""), now[0], before[0])

    def is_mean(self, metric: Metric) -> bool:
        """Return whether a metric is a mean over all items."""
        return scores.is_mean(metric)

    def items(
        self, metric: Metric, part: Observation, baseline: Observation, order: IntArray
    ) -> stats.Items | None:
        """Return the metric as a mean over items; see `interfaces.Divisible.items`."""
        if not self.is_mean(metric):
            return None
        values, link = scores.terms(metric, part, sheet.aligned(baseline, part), baseline)
        value_of = dict(zip(part.arrays[sheet.NUMBER].tolist(), values.tolist(), strict=True))
        visited = [value_of[number] for number in order.tolist() if number in value_of]
        return stats.Items(np.asarray(visited), len(order), link)

    def alone(self, metric: Metric, baseline: Observation, order: IntArray) -> stats.Items | None:
        """Return the baseline's own spread; None for flips, of which it says nothing."""
        if metric.statistic in scores.CHANGES or not self.is_mean(metric):
            return None
        try:
            _, link = scores.terms(metric, baseline, baseline, baseline)
        except NotMeasurableError:
            return None
        right = scores.values(metric, baseline)
        return stats.Items(right - right.mean(), len(order), link)

    def part(self, protocol: Protocol, seed: int, begin: int, end: int) -> Protocol:
        """Return the protocol of some items."""
        return parts.with_part(protocol, parts.Part(seed, begin, end))

    def count(self, baseline: Observation) -> int:
        """Return the number of items."""
        return int(str(baseline.facts["of"]))

    def seen(self, part: Observation) -> int:
        """Return how many items a part holds."""
        return len(part.arrays[sheet.NUMBER])

    def joined(self, observations: Sequence[Observation]) -> Observation:
        """Return parts as one observation."""
        return sheet.joined(observations)

    def aligned(self, baseline: Observation, part: Observation) -> Observation:
        """Return the baseline's answers to a part's items."""
        return sheet.aligned(baseline, part)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def definition(
    name: str, summary: str, capability: str, *, observer: str, task: Task, table: str = ""
) -> MetricDefinition:
    """Return the metric of a task."""
    arguments = ("of", *(("pass_at",) if "samples" in task.settings else ()), *task.settings)
    return MetricDefinition(
        name=name,
        summary=summary,
        unit="",
        better="higher",
        observer=observer,
        statistics=("", scores.MACRO, *task.way.statistics, *scores.CHANGES),
        relations=RELATIONS,
        arguments=tuple(key for key in arguments if key not in ("data", "stops")),
        alone=scores.CHANGES,
        capability=capability,
        table=table,
        selects="of",
    )
