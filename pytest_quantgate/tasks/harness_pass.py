"""One pass of lm-evaluation-harness over a loaded model, and its samples as an observation."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import importlib.metadata
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate.errors import (
    NotMeasurableError,
    ObservationError,
    QuantgateError,
)
from pytest_quantgate.tasks import sheet
from pytest_quantgate.tasks.task import QUESTION_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.interfaces import Model, Progress
    from pytest_quantgate.spec import Json, Observation, Protocol

from pytest_quantgate.tasks.harness import PLACE, manager, no_metric, not_per_sample, said

__all__ = ["observation_of", "run"]


def run(model: Model, tasks: Sequence[Any], protocol: Protocol, progress: Progress) -> Mapping[str, Any]:
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
                task_manager=manager(dict(protocol.places)["include_path"], protocol["include"]),
                apply_chat_template=protocol["chat"],
            )
    # a task is anybody's code, and a third party's failure is no mistake of this package
    except Exception as error:
        if isinstance(error, QuantgateError):
            raise
        hint = f"; lower {PLACE} batch_size" if "memory" in str(error) else ""
        raise ObservationError(
            f"{name}: lm-eval failed: {type(error).__name__}: {said(error)}{hint}"
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


def observation_of(found: Mapping[str, Any], protocol: Protocol) -> Observation:
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
            raise no_metric(name, metric, dict.fromkeys(key for one in samples for key in one["metrics"]))
        if len({one["doc_id"] for one in chosen}) < len(chosen):
            raise NotMeasurableError(f"lm_eval({name!r}) scores a question more than once")
        ours = [_value(name, metric, one) for one in chosen]
        theirs = found["results"][name].get(f"{metric},{wanted}")
        if not isinstance(theirs, int | float) or not math.isclose(theirs, np.mean(ours), abs_tol=1e-9):
            raise not_per_sample(name, metric)
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
        raise not_per_sample(name, metric)
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
