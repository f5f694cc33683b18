"""Tasks of lm-evaluation-harness: found, loaded with their data, and refused where no gate could judge them."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.metadata
import io
import logging
import random
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate import network
from pytest_quantgate.errors import (
    ConfigError,
    NotMeasurableError,
    UnknownNameError,
    UsageError,
)
from pytest_quantgate.escaping import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_quantgate.spec import Protocol

__all__ = [
    "PLACE",
    "check",
    "contained",
    "loaded",
    "manager",
    "no_metric",
    "not_per_sample",
    "said",
    "unsafe",
]

PLACE = "[tool.quantgate.lm_eval]"
MEANS = ("mean", "nanmean")
BUILDERS = ("arrow", "csv", "json", "pandas", "parquet", "text", "xml")
"""Names of `datasets` that stand for files and not for a data set of the hub."""


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Keep to itself what a library prints, logs, warns of and seeds."""
    before, states = logging.root.manager.disable, (random.getstate(), np.random.get_state())  # noqa: NPY002
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(before)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


@functools.lru_cache(maxsize=2)
def manager(include_path: str, _included: str) -> Any:
    """Return the harness's index of tasks, which takes seconds to make."""
    return importlib.import_module("lm_eval.tasks").TaskManager(include_path=include_path or None)


def loaded(name: str, included: str, places: Mapping[str, str]) -> list[Any]:
    """Return the tasks that a name stands for: one, or a group's or tag's; with their data.

    Raises:
        UsageError: there is no such task, or its data cannot be had.
        NotMeasurableError: it runs code, or needs a package that is missing.

    """
    index = manager(places["include_path"], included)
    if name not in index.all_tasks:
        near = difflib.get_close_matches(name, index.all_tasks, n=4)
        raise UnknownNameError(
            "lm-eval task", name, index.all_tasks, f"near: {', '.join(near)}" if near else ""
        )
    entry = index.task_index[name]
    if (entry.cfg or {}).get("unsafe_code"):  # before its module is imported, which may run code already
        raise unsafe(name)
    obstacle = "--quantgate-offline" if network.LOCAL_ONLY.get() else network.obstacle()
    try:
        # relative paths of data count from the configuration, wherever pytest was started
        with contextlib.chdir(places["root"]), _cache_alone(obstacle):
            return list(index.load([name])["tasks"].values())
    except ImportError as error:
        raise NotMeasurableError(f"lm_eval({name!r}): {said(error)}") from error
    # a task is anybody's YAML and Python: what it raises is told, not guessed
    except Exception as error:
        refusal = f"lm_eval({name!r}) cannot be loaded"
        if not obstacle:
            raise UsageError(f"{refusal} ({said(error)}); look at its YAML and its data set") from error
        raise UsageError(
            f"{refusal} ({obstacle}, so that only cached and local data serve: {said(error)}); run it once while the "
            f"hub is reachable, or write a task over a local file and set {PLACE} include_path"
        ) from error


@contextlib.contextmanager
def _cache_alone(obstacle: str) -> Iterator[None]:
    """Let `datasets` look only at what it fetched before, where the hub may not or cannot be asked."""
    config = importlib.import_module("datasets").config
    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = before or bool(obstacle)
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def said(error: BaseException) -> str:
    """Return what an error says, as one line."""
    return plain((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]


def unsafe(name: str) -> NotMeasurableError:
    """Return the refusal of a task that runs code."""
    return NotMeasurableError(
        f"lm_eval({name!r}) would run what the model writes on this machine; use humaneval, which has a sandbox"
    )


def check(task: Any, protocol: Protocol) -> None:
    """Refuse what cannot be gated, as far as the task says it before it has run.

    Raises:
        NotMeasurableError: no score per sample that is better when higher would come of it.
        UsageError: the task has no such metric or filter; its data are no part of the identity.

    """
    name, metric, wanted = task.task_name, protocol["metric"], protocol["filter"]
    if getattr(task, "UNSAFE_CODE", False):
        raise unsafe(name)
    known = task.aggregation()
    entries = task.get_config("metric_list") or ()
    # such a task may give more metrics than it lists
    is_open = callable(task.get_config("process_results")) or any(
        entry.get("hf_evaluate") or callable(entry["metric"]) for entry in entries
    )
    if metric not in known and not is_open:
        raise no_metric(name, metric, known)
    if getattr(known.get(metric), "__name__", MEANS[0]) not in MEANS:
        raise not_per_sample(name, metric)
    if task.higher_is_better().get(metric) is False:
        raise NotMeasurableError(f"lm_eval({name!r}): of {metric} less is better; gate another metric of it")
    filters = [one.name for one in getattr(task, "_filters", None) or ()]
    if filters and wanted not in filters:
        raise UsageError(
            f"lm_eval({name!r}) has no filter {wanted!r}; write filter= one of {', '.join(filters)}"
        )
    if (repeats := task.get_config("repeats") or 1) > 1:
        raise NotMeasurableError(
            f"lm_eval({name!r}) asks each question {repeats} times; one score per question can be gated"
        )
    _check_data(task, dict(protocol.places))


def _check_data(task: Any, places: Mapping[str, Any]) -> None:
    """Refuse local data that could change without changing the identity."""
    path, options = str(task.get_config("dataset_path")), task.get_config("dataset_kwargs") or {}
    named = [path] if path not in BUILDERS and (Path(places["root"]) / path).exists() else []
    if path in BUILDERS:
        named = [text for key in ("data_files", "data_dir") for text in _texts(options.get(key))]
    home = Path(places["include_path"]).resolve() if places["include_path"] else None
    for text in named:
        there = (Path(places["root"]) / text).resolve()
        if "://" not in text and not (home and there.is_relative_to(home)):
            where = f"include_path, {home}" if home else f"a folder that {PLACE} include_path names"
            raise ConfigError(f"lm_eval({task.task_name!r}): its data {text} must lie in {where}")


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value or ()
    return [text for part in parts for text in _texts(part)]


def no_metric(name: str, metric: str, known: Iterable[str]) -> UsageError:
    """Return what to say of a metric that a task does not give."""
    return UsageError(f"lm_eval({name!r}) has no metric {metric!r}; write metric= one of {', '.join(known)}")


def not_per_sample(name: str, metric: str) -> NotMeasurableError:
    """Return what to say of a metric that no sample has."""
    return NotMeasurableError(
        f"lm_eval({name!r}): {metric} is made of all samples at once; only means of a number per sample can be gated"
    )
