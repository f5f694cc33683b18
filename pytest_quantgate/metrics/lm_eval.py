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

import hashlib
import importlib
import importlib.metadata
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_quantgate.errors import (
    ConfigError,
    ObservationError,
    UsageError,
)
from pytest_quantgate.spec import MetricDefinition, Protocol, digest
from pytest_quantgate.tasks import rows, scores
from pytest_quantgate.tasks.harness import PLACE, check, contained, loaded
from pytest_quantgate.tasks.harness_pass import observation_of, run
from pytest_quantgate.tasks.task import RELATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_quantgate.gate import Metric
    from pytest_quantgate.interfaces import Progress, Subject
    from pytest_quantgate.spec import Estimate, Json, Observation, Scalar

__all__ = ["LM_EVAL", "OBSERVER", "LmEval"]

EXTRA = "lm-eval"
DEFAULTS: Mapping[str, Any] = {
    "shots": -1,
    "limit": 0,
    "batch_size": 8,
    "include_path": "",
    "chat": False,
}
ASKED: Mapping[str, Any] = {"of": "", "metric": "acc", "filter": "none"}
LEAST = {"shots": -1, "limit": 0, "batch_size": 1}

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
            tasks = loaded(name, protocol["include"], places)
            for task in tasks:
                check(task, protocol)
            found = run(subject.model, tasks, protocol, progress)
        return observation_of(found, protocol)

    def estimate(self, metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate:
        """Compute a mean, its change or what flipped; see `tasks.scores`."""
        plain = replace(metric, arguments=())  # the task's name is no subject
        return scores.estimate(plain, variant, baseline)


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
