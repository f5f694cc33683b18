"""Any metric of Hugging Face `evaluate`, on the answers to the user's own questions.

evaluate("exact_match")             mean over questions of the metric's value for (answer, reference) alone; in [0, 1],
                                    higher is better. A mean of values, not a value of the corpus: unlike `bleu`'s own.
evaluate("rouge", key="rougeL")     one of several numbers that the metric gives.
evaluate("metrics/mine.py")         a script of one's own; its path counts from the configuration.

    [tool.quantgate.evaluate]
    data = "trivia.jsonl"           # rows {question, answer}; `prompt`, `chat`, `stops` … as for own tasks
    options = {ignore_case = true}  # for the metric's compute()

An answer is what the model writes, without blanks at its ends. The identity holds the version of `evaluate` and the
digest of a local script. A metric of the hub is Python that is fetched and run here: only those of the library itself
are, by their names without "/". It stands for itself by name and by the library's version; `script`, in the facts, is
the digest of what ran.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.metadata
import inspect
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate import network, stats
from pytest_quantgate.errors import ConfigError, NotMeasurableError, ObservationError, UsageError
from pytest_quantgate.escaping import plain
from pytest_quantgate.spec import Protocol, digest
from pytest_quantgate.tasks import rows
from pytest_quantgate.tasks.harness import contained
from pytest_quantgate.tasks.questions import PROMPTS, Questions, as_answer
from pytest_quantgate.tasks.task import Task, definition
from pytest_quantgate.tasks.ways import DECODING, Answered, check_decoding, written

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.gate import Metric
    from pytest_quantgate.interfaces import Model, Progress
    from pytest_quantgate.spec import Estimate, IntArray, Observation, Scalar
    from pytest_quantgate.tasks.items import Item
    from pytest_quantgate.tasks.ways import Request

__all__ = ["EVALUATE", "OBSERVER", "Evaluate"]

RESOLVED = ("metric", "script", "version")
"""What is made of the positional argument; no settings of the table."""
LESS_IS_BETTER = ("brier_score", "cer", "mae", "mape", "mse", "perplexity", "ter", "wer")


@dataclass(frozen=True, slots=True)
class _Computed:
    """A `tasks.ways.Way`: the model writes, and the metric gives a number for each answer."""

    statistics: tuple[str, ...] = ()

    @property
    def defaults(self) -> Mapping[str, Any]:
        return {**DECODING, "key": "", "options": {}, **dict.fromkeys(RESOLVED, "")}

    def check(self, request: Request, place: str) -> None:
        """Refuse a decoding that cannot be used, and options that are no JSON."""
        check_decoding(request, place)
        try:
            digest(request["options"])
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{place}: options = {request['options']!r}: {error}") from error

    def answer(
        self, model: Model, items: Sequence[Item], request: Mapping[str, Any], progress: Progress
    ) -> Answered:
        """Write and compute. Arrays: correct (N,) float64, tokens (N,). Facts: script, the digest of what ran."""
        with contained():
            metric = _loaded(request["metric"])
        script = _digest(Path(inspect.getfile(type(metric))))
        if request["script"] and request["script"] != script:
            raise ObservationError(
                f"evaluate: {request['metric']} has changed since this run was planned; start it again"
            )
        found, remarks = written(model, items, request, progress)
        answers = [one.text.strip() for one in found]
        with contained():
            values = [_value(metric, text, item, request) for text, item in zip(answers, items, strict=True)]
        numbers: dict[str, NDArray[Any]] = {
            "correct": np.asarray(values, dtype=np.float64),
            "tokens": np.asarray([one.tokens for one in found], dtype=np.int32),
        }
        return Answered(numbers, answers, {"remarks": remarks, "script": script})


class Evaluate(Task):
    """A task whose positional argument names the metric, and no subject of its items."""

    @property
    def settings(self) -> tuple[str, ...]:
        """The keys of its configuration table."""
        return tuple(key for key in self._defaults() if key not in RESOLVED)

    def protocol(self, arguments: Mapping[str, Scalar], settings: Mapping[str, Any], root: Path) -> Protocol:
        """Resolve the settings; read the data and a local script to digest them, without the library."""
        given = dict(arguments)
        named = given.pop("of", "")
        if not isinstance(named, str) or not named.strip():
            raise ConfigError('evaluate needs the name of a metric: write evaluate("exact_match")')
        _refuse(named)
        local = _script(root / named)
        if not local and "/" in named:
            raise UsageError(
                f"evaluate({named!r}): {root / named} does not exist; a metric of somebody's on the hub is fetched "
                "by hand, looked at, and given by its path"
            )
        resolved = {
            "metric": str(local) if local else named,
            "script": _identity(local) if local else "",
            "version": _version(),
        }
        made = super().protocol(given, {**settings, **resolved}, root)
        # where a script lies is no part of what it says
        parameters = {**dict(made.parameters), "metric": Path(named).stem if local else named}
        return replace(made, parameters=tuple(sorted(parameters.items())))

    def estimate(self, metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate:
        """Compute a mean, its change or what flipped; see `tasks.scores`."""
        return super().estimate(_of_all(metric), variant, baseline)

    def is_mean(self, metric: Metric) -> bool:
        """Return whether a metric is a mean over all items."""
        return super().is_mean(_of_all(metric))

    def items(
        self, metric: Metric, part: Observation, baseline: Observation, order: IntArray
    ) -> stats.Items | None:
        """Return the metric as a mean over items; see `interfaces.Divisible.items`."""
        return super().items(_of_all(metric), part, baseline, order)

    def alone(self, metric: Metric, baseline: Observation, order: IntArray) -> stats.Items | None:
        """Return the baseline's own spread; None for flips, of which it says nothing."""
        return super().alone(_of_all(metric), baseline, order)


def _of_all(metric: Metric) -> Metric:
    """Return the metric without its positional argument, which for other tasks names a subject."""
    return replace(metric, arguments=tuple(pair for pair in metric.arguments if pair[0] != "of"))


OBSERVER = Evaluate("evaluate", Questions(as_answer, PROMPTS), _Computed())
_DEFINED = definition(
    "evaluate",
    "any metric of Hugging Face evaluate: mean over one's own questions",
    "other",
    observer="pytest_quantgate.metrics.evaluate:OBSERVER",
    task=OBSERVER,
)
EVALUATE = replace(
    _DEFINED, selects="", arguments=tuple(name for name in _DEFINED.arguments if name != "options")
)


# --- the metric


def _version() -> str:
    """Return the library's version; empty where it is missing, which is said once the metric is to run."""
    try:
        return importlib.metadata.version("evaluate")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _refuse(named: str) -> None:
    name = Path(named).stem
    if name == "code_eval":
        raise UsageError(
            f"evaluate({named!r}) runs what the model writes on this machine; use humaneval, which has a sandbox"
        )
    if name in LESS_IS_BETTER:
        raise UsageError(
            f"evaluate({named!r}): of {name} less is better; only scores from 0 to 1 can be gated"
        )


def _script(path: Path) -> Path | None:
    """Return the script that a path names, as `evaluate` finds it: a file, or the one that a folder is named after."""
    inside = path / f"{path.name}.py"
    return path if path.is_file() and path.suffix == ".py" else inside if inside.is_file() else None


def _identity(script: Path) -> str:
    """Return the digest of a script that stands for itself.

    Raises:
        UsageError: it imports modules that lie beside it, which could change without it.

    """
    if re.search(rb"^\s*(from|import)\s+\.", script.read_bytes(), re.MULTILINE):
        raise UsageError(f"evaluate: {script} imports what lies beside it; put it all into one file")
    return _digest(script)


def _digest(script: Path) -> str:
    return f"sha256:{hashlib.sha256(script.read_bytes()).hexdigest()}"


def _loaded(metric: str) -> Any:
    """Return the metric, its library imported.

    Raises:
        MissingExtraError: `evaluate` is not installed.
        NotMeasurableError: a package that the metric needs is not.
        UsageError: it cannot be fetched, or is none.

    """
    library = rows.library("evaluate", "evaluate", "evaluate")
    local = Path(metric).is_absolute()
    obstacle = "--quantgate-offline" if network.LOCAL_ONLY.get() else "" if local else network.obstacle()
    before = library.config.HF_EVALUATE_OFFLINE
    try:
        library.config.HF_EVALUATE_OFFLINE = before or bool(obstacle)
        # what the library fetched before lies in its cache; in memory, since thousands of files would be made
        return library.load(metric, module_type=None if local else "metric", keep_in_memory=True)
    except ImportError as error:
        raise NotMeasurableError(f"evaluate({metric!r}): {_said(error)}") from error
    # a script is anybody's code: what it raises is told, not guessed
    except Exception as error:
        if local or not obstacle:
            raise UsageError(f"evaluate({metric!r}) cannot be loaded: {_said(error)}") from error
        raise UsageError(
            f"evaluate({metric!r}) cannot be fetched ({obstacle}, and the local cache lacks it); "
            "load it once while the hub is reachable, or give the path of a local script"
        ) from error
    finally:
        library.config.HF_EVALUATE_OFFLINE = before


def _said(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return plain(lines[0] if lines else type(error).__name__)[:200]


def _value(metric: Any, answer: str, item: Item, request: Mapping[str, Any]) -> float:
    """Return the metric of one answer.

    Raises:
        ObservationError: it failed on it, or gives no number in [0, 1].

    """
    place = f"evaluate({Path(request['metric']).stem!r}), item {item.id!r}"
    try:
        found = metric.compute(
            predictions=[answer], references=[item.expected], **copy.deepcopy(request["options"])
        )
    # as above
    except Exception as error:
        raise ObservationError(f"{place}: {type(error).__name__}: {_said(error)}") from error
    numbers = {
        name: number for name, value in (found or {}).items() if (number := _number(value)) is not None
    }
    shown = ", ".join(f"{name} ({value:g})" for name, value in numbers.items()) or "no number"
    key = request["key"] or (next(iter(numbers)) if len(numbers) == 1 else "")
    if key not in numbers:
        asked = f"has no key {key!r}" if key else "gives several numbers" if numbers else "gives no number"
        raise ObservationError(f"{place}: it {asked}; set key to one of {shown}")
    if not 0 <= numbers[key] <= 1:
        fitting = [name for name, value in numbers.items() if 0 <= value <= 1]
        step = f"set key to one of {', '.join(fitting)}" if fitting else "choose another metric"
        raise ObservationError(f"{place}: {key} is {numbers[key]:g}, and must be from 0 to 1; {step}")
    return numbers[key]


def _number(value: Any) -> float | None:
    """Return a number, or the one that a list holds: some metrics give a list with a value per answer."""
    if isinstance(value, list | tuple | np.ndarray) and len(value) == 1:
        value = value[0]
    is_number = isinstance(value, int | float | np.number | np.bool_)
    return float(value) if is_number and math.isfinite(value) else None
