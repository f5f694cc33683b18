"""Results of EleutherAI's lm-evaluation-harness: results_*.json, and samples_<task>_*.jsonl of --log_samples.

Every metric of a task or a group that is a share of what is right becomes `lm_eval('task', filter=…, metric=…)`; the
filter "none" is left out. The interval is normal, from the file's standard error: the sample deviation over items, or
pooled over a group's tasks. With the samples at hand there are the items' scores as well, to be judged in pairs.

What is left out, and listed under "skipped": metrics that are no share (`answers.SHARES_NOT`), that the file says are
better when lower, or whose value is outside of 0 to 1. Of `config.model_args` only model and dtype are kept: it can
hold keys and addresses.

Shapes: lm_eval/result_schema.py, evaluator_utils.py and loggers/evaluation_tracker.py at 4e7e0d4 (2026-08); before 0.4
a metric's key had no filter ("acc", "acc_stderr").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pytest_quantgate.imports.answers import SHARES_NOT, Answer, observation
from pytest_quantgate.imports.lm_eval_samples import Logged, logged
from pytest_quantgate.imports.source import Node, Source
from pytest_quantgate.imports.values import Imported, figure, without
from pytest_quantgate.spec import Estimate, Json, Observation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["read"]

_ADVICE = "give a results_*.json that lm_eval --output_path wrote"
_NO_METRICS = ("alias", "name", "sample_len", "sample_count", "samples")
_NO_FILTER = "none"
_ERROR = "_stderr"
_UNKNOWN = "N/A"


class _Key(NamedTuple):
    """A metric under a filter."""

    metric: str
    filter: str


def read(path: Path, extra_files: tuple[Path, ...]) -> list[Imported]:
    """Read a results file, and the samples of some of its tasks.

    Raises:
        UsageError: a file cannot be read or is none of lm-eval's; samples are not those that the results rest on.

    """
    root = Source(path, "result of lm-eval", _ADVICE).json()
    entries = _entries(root)
    children = _children(root)
    tasks = [name for name in entries if not children.get(name)]
    file = _File(root, entries, children, logged(extra_files, tasks, _filters(entries)))
    found, skipped = [], []
    for name, entry in entries.items():
        for key, value in _metrics(entry):
            reason = file.refusal(name, key, value)
            if reason:
                skipped.append(f"{name}: {key.metric} ({reason})")
            else:
                found.append(file.imported(name, key, value.number()))
    if not found:
        raise root.source.broken(
            f"it has no share of what is right ({'; '.join(skipped[:3]) or 'no metric at all'})"
        )
    return without(found, skipped)


def _entries(root: Node) -> dict[str, Node]:
    """Return the metrics of each task and group, in the file's order."""
    results = dict(root.member("results").table())
    groups = root.get("groups")
    return {
        **results,
        **{name: entry for name, entry in (groups.table() if groups else []) if name not in results},
    }


def _metrics(entry: Node) -> Iterator[tuple[_Key, Node]]:
    for name, value in entry.table():
        metric, comma, filtered = name.partition(",")
        # without a comma it is a metric of before 0.4, or something else beside the metrics
        plain = isinstance(value.value, int | float) and not isinstance(value.value, bool)
        if name not in _NO_METRICS and not metric.endswith(_ERROR) and (comma or plain):
            yield _Key(metric, filtered or _NO_FILTER), value


def _filters(entries: Mapping[str, Node]) -> dict[str, set[str]]:
    return {name: {key.filter for key, _ in _metrics(entry)} for name, entry in entries.items()}


def _children(root: Node) -> dict[str, list[str]]:
    """Return what is directly below each group; nothing is below a task."""
    groups = root.get("group_subtasks")
    return {
        name: [child.text() for child in below.rows()] for name, below in (groups.table() if groups else [])
    }


def _leaves(children: Mapping[str, Sequence[str]], name: str) -> list[str]:
    """Return the tasks of a group, those of its groups included; none for a task."""
    leaves, seen, left = list[str](), {name}, list(reversed(children.get(name, ())))
    while left:
        child = left.pop()
        if child in seen:
            continue
        seen.add(child)
        below = children.get(child, ())
        left += reversed(below)
        leaves += [] if below else [child]
    return leaves


@dataclass(frozen=True, slots=True)
class _File:
    """A results file with the samples that came along.

    Attributes:
        root: its content.
        entries: task or group -> its metrics.
        children: group -> what is directly below it.
        samples: task -> its samples.

    """

    root: Node
    entries: Mapping[str, Node]
    children: Mapping[str, Sequence[str]]
    samples: Mapping[str, Logged]

    def refusal(self, name: str, key: _Key, value: Node) -> str:
        """Return why a metric is left out; empty if it is not."""
        if isinstance(value.value, dict | list):
            return "not one number"
        number = value.number()
        directions = self.root.get("higher_is_better")
        known = directions.get(name) if directions else None
        higher = known.get(key.metric) if known else None
        if key.metric in SHARES_NOT or (higher is not None and higher.value is False):
            return "no share of what is right"
        return "" if 0 <= number <= 1 else "outside of 0 to 1"

    def imported(self, name: str, key: _Key, value: float) -> Imported:
        """Return a metric."""
        arguments = {"of": name, "metric": key.metric}
        if key.filter != _NO_FILTER:
            arguments["filter"] = key.filter
        metric = self.root.source.metric("lm_eval", **arguments)
        count, note = self._count(name, key), ""
        answers = self._observation(name, key, value, count)
        if answers is None and self._answers(name, key.filter):
            note = "its items' scores do not average to it, so that it cannot be judged in pairs"
        if not count:
            note = "the file does not say how many items it rests on"
        plain = Estimate(value, n=count or 1, items="items", clusters=count, note=note)
        return Imported(
            metric=metric,
            figures={"": figure(plain, self._error(name, key))},
            observation=answers,
            made_by=self._made_by(),
            protocol=self._protocol(name),
        )

    def _error(self, name: str, key: _Key) -> float | None:
        entry = self.entries[name]
        found = entry.get(f"{key.metric}{_ERROR},{key.filter}") or entry.get(f"{key.metric}{_ERROR}")
        return None if found is None or found.value == _UNKNOWN else found.positive()

    def _count(self, name: str, key: _Key) -> int:
        """Return the number of items; 0 where the file does not say."""
        entry = self.entries[name]
        counts, sizes = entry.get("sample_count"), self.root.get("n-samples")
        counted = counts.get(",".join(key)) if counts else None
        size = sizes.get(name) if sizes else None
        effective = size.get("effective") if size else None
        for found in (counted, effective, entry.get("sample_len")):
            if found is not None:
                return found.count()
        leaves = _leaves(self.children, name)
        return sum(self._count(leaf, key) for leaf in leaves if leaf in self.entries)

    def _answers(self, name: str, filtered: str) -> dict[str, Sequence[Answer]]:
        """Return the answers to the tasks of a group, or to a task; empty unless all are there."""
        tasks = _leaves(self.children, name) or [name]
        if not all(task in self.samples for task in tasks):
            return {}
        return {task: self.samples[task].of(filtered) for task in tasks}

    def _observation(self, name: str, key: _Key, value: float, count: int) -> Observation | None:
        answers = self._answers(name, key.filter)
        if name not in self.samples:
            return observation(answers, key.metric, value)
        source, rows = self.samples[name].source, answers[name]
        alike = len({frozenset(row.scores) for row in rows}) == 1
        # a task may score some of its items by other metrics, and "effective" counts those of the last one
        if len(rows) < count or (alike and len(rows) > count > 0):
            raise source.broken(
                f"it has {len(rows)} samples under the filter {key.filter!r}, the results rest on {count}",
                "give the samples of the same run, as a whole",
            )
        found = observation(answers, key.metric, value)
        if (
            found is None
            and self._is_mean(name, key.metric)
            and all(key.metric in row.scores for row in rows)
        ):
            raise source.broken(
                f"its {key.metric} does not average to the {value:.6g} of {self.root.source.path}",
                "give the samples of the same run",
            )
        return found

    def _is_mean(self, name: str, metric: str) -> bool:
        """Return whether the task says that this metric is the mean of its items."""
        listed = self._config(name).get("metric_list")
        entries = listed.value if listed is not None and isinstance(listed.value, list) else []
        return any(
            isinstance(entry, dict) and entry.get("metric") == metric and entry.get("aggregation") == "mean"
            for entry in entries
        )

    def _config(self, name: str) -> Node:
        configs = self.root.get("configs")
        found = configs.get(name) if configs else None
        return found or Node({}, self.root.source, "configs")

    def _made_by(self) -> str:
        known = self.root.scalars("lm_eval_version", "git_hash")
        if "lm_eval_version" in known:
            return f"lm-eval {known['lm_eval_version']}"
        return f"lm-eval ({known['git_hash']})" if "git_hash" in known else "lm-eval"

    def _protocol(self, name: str) -> dict[str, Json]:
        empty = Node({}, self.root.source, "")
        config = self.root.get("config") or empty
        said: dict[str, Json] = {
            "task": name,
            **_renamed(self.root.get("versions") or empty, name, "version"),
            **_renamed(self.root.get("n-shot") or empty, name, "shots"),
            **_renamed(self.root.get("task_hashes") or empty, name, "task_hash"),
            **self._config(name).scalars("dataset_path", "dataset_name", "output_type"),
            **config.scalars("limit", "random_seed", "fewshot_seed", "batch_size", "device"),
            **self.root.scalars(
                "date", "chat_template_sha", "system_instruction_sha", "fewshot_as_multiturn"
            ),
            **_model(self.root, config),
        }
        return said


def _renamed(table: Node, name: str, as_name: str) -> dict[str, Json]:
    said = table.scalars(name)
    return {as_name: said[name]} if said else {}


def _model(root: Node, config: Node) -> dict[str, Json]:
    """Return which model it was, without anything else of the model's arguments."""
    given = config.get("model_args")
    arguments: dict[str, Json] = {}
    if given is not None and isinstance(given.value, str):
        arguments = dict(re.findall(r"\b(pretrained|dtype|revision)=([^,]*)", given.text()))
    elif given is not None:
        arguments = given.scalars("pretrained", "dtype", "revision")
    info = config.scalars("model", "model_dtype", "model_revision", "model_sha")
    said = {
        "model": root.scalars("model_name").get("model_name", arguments.get("pretrained")),
        "engine": info.get("model"),
        "dtype": info.get("model_dtype", arguments.get("dtype")),
        "revision": info.get("model_sha") or info.get("model_revision") or arguments.get("revision"),
    }
    return {key: value for key, value in said.items() if value is not None}
