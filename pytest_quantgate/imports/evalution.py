"""Results of ModelCloud's Evalution: what `evalution run spec.yaml --output result.json` writes.

Every metric that is a share of what is right becomes `evalution('test', filter=…, metric=…)`: the key "acc,ll_avg" is
the metric "acc" in the variant "ll_avg". It is not called lm_eval, since the scoring is another. The file has no
standard errors, but each sample's scores, to be judged in pairs.

Shape: evalution/results.py (RunResult, TestResult, SampleResult), cli.py and docs/scores.md at 0e875d8 (2026-08). Rows
are numbered in the order of the dataset, or of `order`, which the protocol names.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from pytest_quantgate.imports.answers import QUESTION_LENGTH, SHARES_NOT, Answer, bare, observation
from pytest_quantgate.imports.source import Node, Source
from pytest_quantgate.imports.values import Imported, without
from pytest_quantgate.spec import Estimate, Json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["read"]

_ADVICE = "give the file that `evalution run … --output` wrote"


def read(path: Path, extra_files: tuple[Path, ...]) -> list[Imported]:
    """Read a result.

    Raises:
        UsageError: the file cannot be read, or is no result of one run.

    """
    source = Source(path, "result of Evalution", _ADVICE)
    source.alone(extra_files)
    root = source.json()
    if root.get("left_name") is not None:
        raise source.foreign("it compares two runs")
    model, versions = root.member("model"), root.get("versions") or Node({}, source, "")
    made_by = " ".join(("Evalution", *map(str, versions.scalars("evalution").values())))
    engine = (root.get("engine") or Node({}, source, "")).scalars(
        "resolved_engine", "dtype", "device", "batch_size"
    )
    said: dict[str, Json] = {**model.scalars("path", "label", "revision"), **engine}
    found: dict[str, Imported] = {}
    skipped: list[str] = []
    for test in root.member("tests").rows():
        for made in _of(test, made_by, said, skipped):
            if made.metric in found:
                raise source.broken(
                    f"{test.trail}: {made.metric} stands there twice", "keep one of the two tests"
                )
            found[made.metric] = made
    if not found:
        raise source.broken(
            f"it has no share of what is right ({'; '.join(skipped[:3]) or 'no metric at all'})"
        )
    return without(list(found.values()), skipped)


def _of(test: Node, made_by: str, said: dict[str, Json], skipped: list[str]) -> list[Imported]:
    name = test.member("name").text()
    answers = [_answer(row, name) for row in test.member("samples").rows()]
    _check(test, answers)
    details = (test.get("metadata") or Node({}, test.source, "")).scalars(
        "dataset_path", "dataset_name", "split", "order", "variant", "num_fewshot", "apply_chat_template"
    )
    found = []
    for key, node in test.member("metrics").table():
        metric, _, variant = key.partition(",")
        value = node.number()
        if metric in SHARES_NOT or not 0 <= value <= 1:
            skipped.append(f"{name}: {key} (no share of what is right)")
            continue
        arguments = {"of": name, "metric": metric, **({"filter": variant} if variant else {})}
        count = len(answers)
        note = "" if count else "the file does not say how many items it rests on"
        found.append(
            Imported(
                metric=test.source.metric("evalution", **arguments),
                figures={"": Estimate(value, n=count or 1, items="items", clusters=count, note=note)},
                observation=observation({name: answers}, key, value),
                made_by=made_by,
                protocol={**said, "task": name, **details},
            )
        )
    return found


def _answer(row: Node, name: str) -> Answer:
    number = row.member("index").count()
    scores = {key: value.number() for key, value in row.member("scores").table()}
    prompt, target = row.get("prompt"), row.member("target").text()
    return Answer(
        number=number,
        # the index alone would not tell another order of the dataset
        id=f"{name}/{number}/{hashlib.sha256(target.encode()).hexdigest()[:16]}",
        answer=row.member("prediction").text(),
        expected=target,
        question=prompt.text()[-QUESTION_LENGTH:] if prompt else "",
        scores={key: value for key, value in scores.items() if bare(value)},
    )


def _check(test: Node, answers: Sequence[Answer]) -> None:
    if len({answer.number for answer in answers}) != len(answers):
        raise test.source.broken(f"{test.trail}.samples: an index stands there twice")
