"""Metrics of Hugging Face `evaluate` on one's own questions: their own values, one per item, and what is refused."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_quantgate import network
from pytest_quantgate.errors import (
    ConfigError,
    MissingExtraError,
    NotMeasurableError,
    ObservationError,
    QuantgateError,
    UsageError,
)
from pytest_quantgate.interfaces import Divisible
from pytest_quantgate.metrics import evaluate as adapter
from pytest_quantgate.metrics.evaluate import EVALUATE, OBSERVER
from pytest_quantgate.parse import parse
from pytest_quantgate.spec import Observation, Protocol
from pytest_quantgate.tasks import sheet
from pytest_quantgate.terms import metric

SCRIPT = """
import datasets
import evaluate

class Mine(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": text})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references, scale=1.0):
        print("noise")
        shared = [len(set(p) & set(r)) / len(set(p) | set(r)) for p, r in zip(predictions, references)]
        return BODY
"""
BODIES = {
    "mine": '{"shared": scale * sum(shared) / len(shared)}',
    "several": '{"shared": shared[0], "percent": 100.0, "name": "x"}',
    "percent": '{"percent": 42.0}',
    "none": '{"name": "x"}',
    "fails": "1 // 0",
}


def write(root: Path) -> Path:
    """Write questions and metrics."""
    rows = [{"question": f"a gate opens {number}", "answer": "and the river"} for number in range(6)]
    (root / "questions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (root / "metrics").mkdir()
    for name, body in BODIES.items():
        (root / "metrics" / f"{name}.py").write_text(SCRIPT.replace("BODY", body))
    (root / "metrics" / "needs.py").write_text("import no_such_package\n")
    (root / "metrics" / "empty.py").write_text("x = 1\n")
    (root / "metrics" / "beside.py").write_text("from .mine import Mine\n")
    return root


def protocol(root: Path, name: str = "metrics/mine.py", **settings: Any) -> Protocol:
    """Return the protocol of a metric on the questions."""
    arguments = {"of": name} if name else {}
    return OBSERVER.protocol(arguments, {"data": "questions.jsonl", "new_tokens": 5, **settings}, root)


# --- without the library


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Questions and metrics."""
    return write(tmp_path)


def test_the_gate_is_written_as_it_is_read() -> None:
    """The text of a gate parses to the gate."""
    gate = parse('evaluate("rouge", key="rougeL").drop <= 0.02')
    assert parse(str(gate)) == gate
    assert gate == (metric("evaluate")("rouge", key="rougeL").drop <= 0.02)
    assert set(dict(gate.metrics()[0].arguments)) <= set(EVALUATE.arguments)
    assert {"options", "data", "script", "version", "metric"} & set(EVALUATE.arguments) == set()
    assert {"options", "data", "key"} <= set(OBSERVER.settings)
    assert not {"script", "version", "metric"} & set(OBSERVER.settings)


def test_the_identity_holds_all_that_can_change_a_number(folder: Path) -> None:
    """Metric, script, key, options, version and items; but not where the script lies."""
    first = protocol(folder)
    assert first == protocol(folder)
    assert first["version"] == adapter._version()
    for settings in ({"key": "shared"}, {"options": {"scale": 0.5}}, {"new_tokens": 6}, {"limit": 2}):
        assert protocol(folder, **settings) != first
    assert protocol(folder, "exact_match") != first
    (folder / "moved").mkdir()
    (folder / "metrics" / "mine.py").rename(folder / "moved" / "mine.py")
    assert protocol(folder, "moved/mine.py") == first
    with (folder / "moved" / "mine.py").open("a") as script:
        script.write("\n")
    assert protocol(folder, "moved/mine.py") != first


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("", {}, ConfigError, r'needs the name of a metric: write evaluate\("exact_match"\)'),
        ("code_eval", {}, UsageError, "use humaneval, which has a sandbox"),
        ("evaluate-metric/code_eval", {}, UsageError, "use humaneval, which has a sandbox"),
        ("wer", {}, UsageError, "of wer less is better"),
        ("somebody/metric", {}, UsageError, "looked at, and given by its path"),
        ("metrics/nowhere.py", {}, UsageError, "nowhere.py does not exist"),
        ("metrics/beside.py", {}, UsageError, "beside.py imports what lies beside it"),
        ("exact_match", {"options": 3}, ConfigError, "options = 3"),
        ("exact_match", {"options": {"x": float("nan")}}, ConfigError, "options = "),
        ("exact_match", {"new_tokens": 0}, ConfigError, "new_tokens = 0"),
        ("exact_match", {"data": ""}, ConfigError, "it needs data"),
    ],
)
def test_what_cannot_be_used_is_said(
    folder: Path, name: str, settings: dict[str, Any], error: type[QuantgateError], message: str
) -> None:
    """A mistake is a usage error at collection."""
    with pytest.raises(error, match=message):
        protocol(folder, name, **settings)


def test_the_protocol_imports_no_library(pytester: pytest.Pytester) -> None:
    """Collection must not pay for it."""
    write(pytester.path)
    script = pytester.makepyfile(
        "import sys\nfrom pathlib import Path\nfrom pytest_quantgate.metrics.evaluate import OBSERVER\n"
        "OBSERVER.protocol({'of': 'metrics/mine.py'}, {'data': 'questions.jsonl'}, Path())\n"
        "assert not {'evaluate', 'torch', 'datasets'} & set(sys.modules)\n"
    )
    assert pytester.runpython(script).ret == 0


def test_a_missing_library_is_said_when_it_is_to_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate is then unmeasured, with the line to type."""
    monkeypatch.setitem(__import__("sys").modules, "evaluate", None)

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    asked = protocol(folder)
    assert asked["version"] == ""
    with pytest.raises(MissingExtraError, match=r"pip install 'pytest-quantgate\[evaluate\]'"):
        observed(None, asked)


def sheet_of(values: list[float]) -> Observation:
    """Return an observation of scores."""
    count = len(values)
    arrays = {"item": np.arange(count), "group": np.zeros(count), "correct": np.asarray(values)}
    return Observation(arrays, {"groups": [""], "categories": {}, "of": count})


def test_it_is_divisible_and_its_argument_names_no_subject() -> None:
    """The mean over all items, though the metric has an argument."""
    assert isinstance(OBSERVER, Divisible)
    asked = metric("evaluate")("exact_match")
    assert OBSERVER.is_mean(asked.drop)
    assert not OBSERVER.is_mean(asked.macro)
    ours, theirs = sheet_of([0.0, 0.5, 1.0, 1.0]), sheet_of([1.0, 0.5, 1.0, 0.5])
    assert OBSERVER.estimate(asked.drop, ours, theirs).value == pytest.approx(0.125)
    order = np.arange(4)
    items, alone = OBSERVER.items(asked.drop, ours, theirs, order), OBSERVER.alone(asked.drop, theirs, order)
    assert items is not None
    assert items.values.tolist() == [1.0, 0.0, 0.0, -0.5]
    assert alone is not None
    assert alone.values.tolist() == pytest.approx([0.25, -0.25, 0.25, -0.25])


# --- with the library


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Questions and metrics, and a cache that is not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        evaluate = pytest.importorskip("evaluate")
        made = write(tmp_path_factory.mktemp("root"))
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", str(made / "modules"))
        patch.setattr(evaluate.loading, "HF_MODULES_CACHE", str(made / "modules"), raising=False)
        patch.setattr(network, "obstacle", lambda: "the hub is out of reach")
        yield made


@pytest.fixture(scope="module")
def model(root: Path) -> Any:
    """A tiny Llama."""
    pytest.importorskip("torch")
    import tiny_models

    from pytest_quantgate.backends.transformers import load

    return load(tiny_models.spec(tiny_models.save(root / "llama", "llama")))


def observed(model: Any, asked: Protocol) -> Any:
    """Return the observation of a metric."""

    class Subject:
        def __init__(self) -> None:
            self.model, self.spec = model, None

    return OBSERVER.observe(Subject(), asked, None, lambda done, total: None)  # type: ignore[arg-type]


def test_scores_are_those_of_the_metric(model: Any, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each item's, from its answer and its reference alone; without output."""
    import evaluate

    found = observed(model, protocol(root, options={"scale": 0.5}))
    assert capfd.readouterr() == ("", "")
    theirs = evaluate.load(str(root / "metrics" / "mine.py"))
    answers, expected = sheet.texts(found, "answer"), sheet.texts(found, "expected")
    values = [
        theirs.compute(predictions=[answer], references=[right], scale=0.5)["shared"]
        for answer, right in zip(answers, expected, strict=True)
    ]
    assert found.arrays["correct"].tolist() == values
    assert found.arrays["correct"].dtype == np.float64
    assert len(set(values)) > 1
    assert all(answer == answer.strip() for answer in answers)
    estimate = OBSERVER.estimate(metric("evaluate")("metrics/mine.py"), found, None)
    assert estimate.value == pytest.approx(float(np.mean(values)))
    assert found.facts["script"] == protocol(root)["script"]


def test_a_folder_that_is_named_as_its_script(model: Any, root: Path) -> None:
    """It is what `evaluate` takes, too."""
    (root / "metrics" / "mine").mkdir()
    (root / "metrics" / "mine" / "mine.py").write_bytes((root / "metrics" / "mine.py").read_bytes())
    assert protocol(root, "metrics/mine") == protocol(root)
    assert observed(model, protocol(root, "metrics/mine")).facts["of"] == 6


def test_parts_make_the_whole(model: Any, root: Path) -> None:
    """A pass in parts gives the same scores."""
    asked = protocol(root)
    whole = observed(model, asked)
    parts = [observed(model, OBSERVER.part(asked, 0, *ends)) for ends in ((0, 2), (2, 6))]
    joined = OBSERVER.joined(parts)
    assert joined.arrays["correct"].tolist() == whole.arrays["correct"].tolist()
    assert OBSERVER.seen(parts[0]) == 2


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        (
            ("several", {}),
            ObservationError,
            r"item 'row 1': it gives several numbers; set key to one of shared \(",
        ),
        (
            ("several", {"key": "percent"}),
            ObservationError,
            "percent is 100, and must be from 0 to 1; set key .* shared$",
        ),
        (
            ("several", {"key": "rougeL"}),
            ObservationError,
            "it has no key 'rougeL'; set key to one of shared",
        ),
        (("percent", {}), ObservationError, "percent is 42, and must be from 0 to 1; choose another metric"),
        (("none", {}), ObservationError, "it gives no number"),
        (("fails", {}), ObservationError, "evaluate.'fails'., item 'row 1': ZeroDivisionError"),
        (("mine", {"options": {"scal": 1}}), ObservationError, "unexpected keyword argument 'scal'"),
        (("needs", {}), NotMeasurableError, "no_such_package"),
        (("empty", {}), UsageError, "cannot be loaded"),
    ],
)
def test_what_cannot_be_gated_is_refused(
    model: Any, root: Path, asked: tuple[str, dict[str, Any]], error: type[QuantgateError], message: str
) -> None:
    """With the thing, the place and the next step."""
    with pytest.raises(error, match=message):
        observed(model, protocol(root, f"metrics/{asked[0]}.py", **asked[1]))


def test_a_key_chooses_a_number(model: Any, root: Path) -> None:
    """As in `rouge`."""
    found = observed(model, protocol(root, "metrics/several.py", key="shared"))
    assert found.arrays["correct"].tolist() == observed(model, protocol(root)).arrays["correct"].tolist()


def test_a_metric_of_the_hub_needs_it(model: Any, root: Path) -> None:
    """And says so, at once."""
    with pytest.raises(
        UsageError, match=r"cannot be fetched .the hub is out of reach, and the local cache lacks it"
    ):
        observed(model, protocol(root, "exact_match"))
    token = network.LOCAL_ONLY.set(True)
    try:
        with pytest.raises(UsageError, match="--quantgate-offline"):
            observed(model, protocol(root, "exact_match"))
    finally:
        network.LOCAL_ONLY.reset(token)


def test_a_script_that_changes_is_noticed(model: Any, tmp_path: Path) -> None:
    """Between planning and running."""
    pytest.importorskip("evaluate")
    asked = protocol(write(tmp_path))
    with (tmp_path / "metrics" / "mine.py").open("a") as script:
        script.write("\n")
    with pytest.raises(ObservationError, match="has changed since this run was planned"):
        observed(model, asked)


def test_adapter_names_the_observer() -> None:
    """The registry finds it by the definition."""
    module, _, attribute = EVALUATE.observer.partition(":")
    assert (module, getattr(adapter, attribute)) == (adapter.__name__, OBSERVER)
