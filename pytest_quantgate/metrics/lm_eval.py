"""Any task of lm-evaluation-harness (Gao et al., 2021), run by the harness itself, with a score per sample.

lm_eval("arc_easy", metric="acc_norm")   mean over samples of what the task calls `acc_norm`; higher is better.
lm_eval("gsm8k", metric="exact_match", filter="strict-match")   one of the task's ways of reading an answer.
`.macro`       mean over the sub-tasks of a group ("mmlu") or tag of their means.
`.flips`       share of samples that one model alone scores higher in; `.lost`, `.won` of them; see `tasks.scores`.

Equals the harness's own number for a task, and for a group that weighs by size, as mmlu does. Prompts, worked examples
and reading are the harness's, and so are its cuts: a prompt longer than the context silently loses its beginning.

Settings: `shots` (-1: as the task says), `limit` (the first so many of each sub-task), `batch_size`, `chat`, and
`include_path`, a folder of YAML tasks of one's own. Its files belong to the identity, so local data must lie in it;
paths in the YAML count from where `include_path` does. The data sets of the hub are not digested: the harness's version
stands for them.

It is not `Divisible`. The harness draws worked examples from one sequence of random numbers, in the order of the
samples: a part of a pass would ask other prompts than the whole.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import hashlib
import importlib
import importlib.metadata
import io
import logging
import math
import random
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate import network
from pytest_quantgate.errors import (
    ConfigError,
    NotMeasurableError,
    ObservationError,
    QuantgateError,
    UnknownNameError,
    UsageError,
)
from pytest_quantgate.escaping import plain
from pytest_quantgate.spec import MetricDefinition, Protocol, digest
from pytest_quantgate.tasks import rows, scores, sheet
from pytest_quantgate.tasks.task import QUESTION_LENGTH, RELATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.gate import Metric
    from pytest_quantgate.interfaces import Model, Progress, Subject
    from pytest_quantgate.spec import Estimate, Json, Observation, Scalar

__all__ = ["LM_EVAL", "OBSERVER", "LmEval", "contained"]

EXTRA = "lm-eval"
PLACE = "[tool.quantgate.lm_eval]"
DEFAULTS: Mapping[str, Any] = {
    "shots": -1,
    "limit": 0,
    "batch_size": 8,
    "include_path": "",
    "chat": False,
}
ASKED: Mapping[str, Any] = {"of": "", "metric": "acc", "filter": "none"}
LEAST = {"shots": -1, "limit": 0, "batch_size": 1}
MEANS = ("mean", "nanmean")
BUILDERS = ("arrow", "csv", "json", "pandas", "parquet", "text", "xml")
"""Names of `datasets` that stand for files and not for a data set of the hub."""

LM_EVAL = MetricDefinition(
    name="lm_eval",
    summary="any task of lm-evaluation-harness: mean over samples of one of its metrics",
    unit="",
    better="higher",
    observer="pytest_quantgate.metrics.lm_eval:OBSERVER",
    statistics=("", scores.MACRO, *scores.CHANGES),
    relations=RELATIONS,
    arguments=("of", "metric", "filter", "shots", "limit"),
    alone=scores.CHANGES,
    capability="other",
)


class LmEval:
    """Runs a task of lm-evaluation-harness on the loaded model."""

    kind = "lm_eval"
    device_bound = False
    paired = False
    order = 4
    settings = tuple(DEFAULTS)

    def protocol(self, arguments: Mapping[str, Scalar], settings: Mapping[str, Any], root: Path) -> Protocol:
        """Resolve the settings and digest the user's tasks, without the harness; see `interfaces.Observer.protocol`."""
        defaults = {**ASKED, **DEFAULTS}
        found: dict[str, Any] = {**defaults, **settings, **arguments}
        for key, default in defaults.items():
            value = found[key]
            if type(value) is not type(default) or (key in LEAST and value < LEAST[key]):
                least = f" of at least {LEAST[key]}" if key in LEAST else ""
                raise ConfigError(f"{PLACE}: {key} = {value!r}: write a value like {default!r}{least}")
        for key, example in (("of", 'lm_eval("arc_easy")'), ("metric", 'metric="acc"'), ("filter", '"none"')):
            if not found[key].strip():
                what = "the task's name" if key == "of" else key
                raise ConfigError(f"lm_eval needs {what}: write {example}")
        folder = found.pop("include_path")
        made = Protocol.of(
            self.kind,
            task=found.pop("of"),
            version=_version(),
            include=_digest(root / folder) if folder else "",
            **found,
        )
        places = {"include_path": str(root / folder) if folder else "", "root": str(root)}
        return Protocol(made.kind, made.parameters, places=tuple(sorted(places.items())))

    def observe(
        self, subject: Subject, protocol: Protocol, reference: Observation | None, progress: Progress
    ) -> Observation:
        """Run the task.

        Arrays: item (N,) its place, group (N,) of its sub-task, correct (N,) in [0, 1]; texts id, answer, expected,
        question. Facts: groups, categories, of, remarks, lm_eval (its version), versions (of the sub-tasks).
        """
        del reference
        name = protocol["task"]
        places: dict[str, Any] = dict(protocol.places)
        with contained():
            rows.library("lm_eval", f"lm_eval({name!r})", EXTRA)
            if places["include_path"] and _digest(Path(places["include_path"])) != protocol["include"]:
                raise ObservationError(
                    f"{PLACE}: include_path has changed since this run was planned; start it again"
                )
            tasks = _loaded(name, protocol["include"], places)
            for task in tasks:
                _check(task, protocol)
            found = _run(subject.model, tasks, protocol, progress)
        return _sheet(found, protocol)

    def estimate(self, metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate:
        """Compute a mean, its change or what flipped; see `tasks.scores`."""
        return scores.estimate(metric, variant, baseline)


OBSERVER = LmEval()


def _version() -> str:
    """Return the harness's version; empty where it is missing, which is said once the task is to run."""
    try:
        return importlib.metadata.version("lm-eval")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _digest(folder: Path) -> str:
    """Return the identity of a folder of tasks: its YAML, the Python that they name, and their data."""
    if not folder.is_dir():
        raise UsageError(f"{PLACE}: include_path: {folder} is no folder")
    parts = {path: path.relative_to(folder).parts for path in folder.rglob("*") if path.is_file()}
    files: dict[str, Json] = {
        "/".join(names): hashlib.sha256(path.read_bytes()).hexdigest()
        for path, names in parts.items()
        if not any(part.startswith(".") or part == "__pycache__" for part in names)
    }
    if not any(name.endswith(".yaml") for name in files):
        raise UsageError(f"{PLACE}: include_path: {folder} holds no task, no file *.yaml")
    return f"sha256:{digest(files)}"


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


# --- the task


@functools.lru_cache(maxsize=2)
def _manager(include_path: str, _included: str) -> Any:
    """Return the harness's index of tasks, which takes seconds to make."""
    return importlib.import_module("lm_eval.tasks").TaskManager(include_path=include_path or None)


def _loaded(name: str, included: str, places: Mapping[str, str]) -> list[Any]:
    """Return the tasks that a name stands for: one, or a group's or tag's; with their data.

    Raises:
        UsageError: there is no such task, or its data cannot be had.
        NotMeasurableError: it runs code, or needs a package that is missing.

    """
    manager = _manager(places["include_path"], included)
    if name not in manager.all_tasks:
        near = difflib.get_close_matches(name, manager.all_tasks, n=4)
        raise UnknownNameError(
            "lm-eval task", name, manager.all_tasks, f"near: {', '.join(near)}" if near else ""
        )
    entry = manager.task_index[name]
    if (entry.cfg or {}).get("unsafe_code"):  # before its module is imported, which may run code already
        raise _unsafe(name)
    obstacle = "--quantgate-offline" if network.LOCAL_ONLY.get() else network.obstacle()
    try:
        # relative paths of data count from the configuration, wherever pytest was started
        with contextlib.chdir(places["root"]), _cache_alone(obstacle):
            return list(manager.load([name])["tasks"].values())
    except ImportError as error:
        raise NotMeasurableError(f"lm_eval({name!r}): {_said(error)}") from error
    # a task is anybody's YAML and Python: what it raises is told, not guessed
    except Exception as error:
        said = f"lm_eval({name!r}) cannot be loaded"
        if not obstacle:
            raise UsageError(f"{said} ({_said(error)}); look at its YAML and its data set") from error
        raise UsageError(
            f"{said} ({obstacle}, so that only cached and local data serve: {_said(error)}); run it once while the "
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


def _said(error: BaseException) -> str:
    return plain((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]


def _unsafe(name: str) -> NotMeasurableError:
    return NotMeasurableError(
        f"lm_eval({name!r}) would run what the model writes on this machine; use humaneval, which has a sandbox"
    )


def _check(task: Any, protocol: Protocol) -> None:
    """Refuse what cannot be gated, as far as the task says it before it has run.

    Raises:
        NotMeasurableError: no score per sample that is better when higher would come of it.
        UsageError: the task has no such metric or filter; its data are no part of the identity.

    """
    name, metric, wanted = task.task_name, protocol["metric"], protocol["filter"]
    if getattr(task, "UNSAFE_CODE", False):
        raise _unsafe(name)
    known = task.aggregation()
    entries = task.get_config("metric_list") or ()
    # such a task may give more metrics than it lists
    is_open = callable(task.get_config("process_results")) or any(
        entry.get("hf_evaluate") or callable(entry["metric"]) for entry in entries
    )
    if metric not in known and not is_open:
        raise _no_metric(name, metric, known)
    if getattr(known.get(metric), "__name__", MEANS[0]) not in MEANS:
        raise _not_per_sample(name, metric)
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


def _no_metric(name: str, metric: str, known: Iterable[str]) -> UsageError:
    return UsageError(f"lm_eval({name!r}) has no metric {metric!r}; write metric= one of {', '.join(known)}")


def _not_per_sample(name: str, metric: str) -> NotMeasurableError:
    return NotMeasurableError(
        f"lm_eval({name!r}): {metric} is made of all samples at once; only means of a number per sample can be gated"
    )


# --- the pass


def _run(model: Model, tasks: Sequence[Any], protocol: Protocol, progress: Progress) -> Mapping[str, Any]:
    """Return what the harness found.

    Raises:
        NotMeasurableError: the backend's model is none that the harness can run, or it has no chat template.
        ObservationError: the harness failed.

    """
    name = f"lm_eval({protocol['task']!r})"
    if not hasattr(model.native, "config") or model.tokenizer is None:
        raise NotMeasurableError(f"{name}: the backend {model.spec.backend!r} gives no model of transformers")
    if protocol["chat"] and not getattr(model.tokenizer, "chat_template", None):
        raise NotMeasurableError(f"{name}: {PLACE} chat = true, and the tokenizer has no chat template")
    harness = importlib.import_module("lm_eval.models.huggingface")
    try:
        # it gives the tokenizer a padding token, which no other observation must see
        runner = harness.HFLM(
            pretrained=model.native,
            tokenizer=copy.deepcopy(model.tokenizer),
            batch_size=protocol["batch_size"],
        )
        _count(runner, progress)
        with _unasked(importlib.import_module("lm_eval.evaluator")) as evaluator:
            found: Mapping[str, Any] | None = evaluator.simple_evaluate(
                model=runner,
                tasks=list(tasks),
                num_fewshot=None if protocol["shots"] < 0 else protocol["shots"],
                limit=protocol["limit"] or None,
                bootstrap_iters=0,
                task_manager=_manager(dict(protocol.places)["include_path"], protocol["include"]),
                apply_chat_template=protocol["chat"],
            )
    # a task is anybody's code, and a third party's failure is no mistake of this package
    except Exception as error:
        if isinstance(error, QuantgateError):
            raise
        hint = f"; lower {PLACE} batch_size" if "memory" in str(error) else ""
        raise ObservationError(
            f"{name}: lm-eval failed: {type(error).__name__}: {_said(error)}{hint}"
        ) from error
    if found is None:
        raise ObservationError(f"{name}: lm-eval gives results in the first process alone; unset LOCAL_RANK")
    return found


@contextlib.contextmanager
def _unasked(evaluator: Any) -> Iterator[Any]:
    """Leave out what the harness asks git, pip and nvidia-smi about this machine: seconds, and git's complaints."""
    names = ("get_git_commit_hash", "add_env_info")
    before = {name: getattr(evaluator, name) for name in names}
    try:
        for name in names:
            setattr(evaluator, name, lambda *_: None)
        yield evaluator
    finally:
        for name, function in before.items():
            setattr(evaluator, name, function)


def _count(runner: Any, progress: Progress) -> None:
    """Tell of progress by requests; of those that share a forward pass, one is counted."""
    counts = {"done": 0, "total": 0}

    def begun(method: Callable[..., Any], requests: Sequence[Any], **options: Any) -> Any:
        counts.update(done=0, total=len(requests))
        found = method(requests, **{**options, "disable_tqdm": True})
        progress(len(requests), len(requests))
        return found

    def counted(method: Callable[..., Any], *given: Any, **options: Any) -> Any:
        found = method(*given, **options)
        counts["done"] = min(counts["total"], counts["done"] + len(found))
        progress(counts["done"], counts["total"])
        return found

    for name in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        setattr(runner, name, functools.partial(begun, getattr(runner, name)))
    for name in ("_model_call", "_model_generate"):
        setattr(runner, name, functools.partial(counted, getattr(runner, name)))


# --- its samples


def _sheet(found: Mapping[str, Any], protocol: Protocol) -> Observation:
    """Return the samples as an observation.

    Raises:
        NotMeasurableError: the metric is no number in [0, 1] per sample, of which the harness's own is the mean.
        ObservationError: a log-likelihood is NaN or infinite.

    """
    asked, metric, wanted = protocol["task"], protocol["metric"], protocol["filter"]
    names = list(found["samples"])
    groups, values = list[int](), list[float]()
    words: dict[str, list[str]] = {"id": [], "answer": [], "expected": [], "question": []}
    for group, name in enumerate(names):
        samples = [sample for sample in found["samples"][name] if sample["filter"] == wanted]
        # a task of one's own may leave a metric out of some samples, and the harness then does, too
        chosen = sorted((one for one in samples if metric in one["metrics"]), key=lambda one: one["doc_id"])
        if not chosen:
            raise _no_metric(name, metric, dict.fromkeys(key for one in samples for key in one["metrics"]))
        if len({one["doc_id"] for one in chosen}) < len(chosen):
            raise NotMeasurableError(f"lm_eval({name!r}) scores a question more than once")
        ours = [_value(name, metric, one) for one in chosen]
        theirs = found["results"][name].get(f"{metric},{wanted}")
        if not isinstance(theirs, int | float) or not math.isclose(theirs, np.mean(ours), abs_tol=1e-9):
            raise _not_per_sample(name, metric)
        values += ours
        groups += [group] * len(ours)
        for one in chosen:
            words["id"].append(f"{name}/{one['doc_id']}" if len(names) > 1 else str(one["doc_id"]))
            words["answer"].append(_answer(one, metric))
            words["expected"].append(_expected(one))
            # the end of a prompt is the question; worked examples stand before it
            words["question"].append(str(one["arguments"][0][0])[-QUESTION_LENGTH:])
    arrays: dict[str, NDArray[Any]] = {
        sheet.NUMBER: np.arange(len(values), dtype=np.int32),
        "group": np.asarray(groups, dtype=np.int32),
        "correct": np.asarray(values, dtype=np.float64),
    }
    facts: dict[str, Json] = {
        "groups": list(names),
        "categories": {},
        "of": len(values),
        "remarks": _remarks(asked, found["n-shot"], protocol["shots"], names),
        "lm_eval": protocol["version"],
        "versions": {name: str(found["versions"][name]) for name in names},
    }
    return sheet.made(arrays, words, facts)


def _value(name: str, metric: str, sample: Mapping[str, Any]) -> float:
    place = f"lm_eval({name!r}), sample {sample['doc_id']}"
    for answer in sample["filtered_resps"]:
        likelihood = answer[0] if isinstance(answer, tuple | list) and answer else answer
        if isinstance(likelihood, float) and not math.isfinite(likelihood):
            raise ObservationError(f"{place}: the log-likelihood of an answer is {likelihood}")
    value = sample[metric]
    if not isinstance(value, bool | int | float | np.number | np.bool_):
        raise _not_per_sample(name, metric)
    if not 0 <= value <= 1:
        raise NotMeasurableError(
            f"{place}: {metric} is {float(value):g}; only scores from 0 to 1 can be gated"
        )
    return float(value)


def _answer(sample: Mapping[str, Any], metric: str) -> str:
    """Return what a person reads as the model's answer: the text, or the choice that is the most probable."""
    found, arguments = sample["filtered_resps"], sample["arguments"]
    if not all(isinstance(one, tuple | list) and len(one) == 2 for one in found):  # noqa: PLR2004
        return str(found[0])
    if len(found) == 1:
        return str(arguments[0][1]) if found[0][1] else "another text"
    # the choices are continuations of one context, or contexts of one continuation
    column = 1 if len({str(one[1]) for one in arguments}) > 1 else 0
    texts = [str(one[column]).strip() for one in arguments]
    sizes = {"acc_norm": list(map(len, texts)), "acc_bytes": [len(text.encode()) for text in texts]}
    pairs = zip(found, sizes.get(metric, [1] * len(texts)), strict=True)
    return texts[int(np.argmax([one[0] / max(size, 1) for one, size in pairs]))]


def _expected(sample: Mapping[str, Any]) -> str:
    target, arguments = sample["target"], sample["arguments"]
    if type(target) is int and 0 <= target < len(arguments) and len(arguments) > 1:
        return str(arguments[target][1]).strip()
    return " | ".join(map(str, target)) if isinstance(target, list) else str(target)


def _remarks(asked: str, shots: Mapping[str, int], wanted: int, names: Sequence[str]) -> list[Json]:
    kept = ", ".join([name for name in names if shots[name] != wanted][:3]) if wanted >= 0 else ""
    return [f"lm_eval({asked!r}): {kept} fixes its shots at 0; shots = {wanted} was not used"] if kept else []
