"""Tasks of lm-evaluation-harness as a metric: its own scores, one per sample, and what is refused."""

from __future__ import annotations

import importlib.metadata
import json
import random
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
    UnknownNameError,
    UsageError,
)
from pytest_quantgate.interfaces import Divisible
from pytest_quantgate.metrics import lm_eval as adapter
from pytest_quantgate.metrics.lm_eval import LM_EVAL, OBSERVER
from pytest_quantgate.parse import parse
from pytest_quantgate.spec import Protocol
from pytest_quantgate.tasks import sheet
from pytest_quantgate.terms import metric

CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
{rest}
"""
ACCURACY = """
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
ODD = """
process_results: !function odd.{function}
metric_list:
  - {{metric: odd, aggregation: {aggregation}, higher_is_better: {higher}}}
"""
WRITTEN = """
task: own_text
dataset_path: json
dataset_kwargs: {data_files: {test: tasks/text.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
filter_list:
  - {name: first-word, filter: [{function: regex, regex_pattern: "(\\\\w+)"}, {function: take_first}]}
  - {name: whole, filter: [{function: take_first}]}
"""
ROLLING = """
task: own_rolling
dataset_path: json
dataset_kwargs: {data_files: {test: tasks/text.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
"""
FUNCTIONS = """
def two(doc, results):
    return {"odd": 2.0}

def half(doc, results):
    return {"odd": 0.5}

def other(doc, results):
    return {"even": 1.0}

def fails(doc, results):
    raise LookupError("no such doc")
"""
GROUP = """
group: own_group
task: [own_choice, own_second]
aggregate_metric_list:
  - {metric: acc, weight_by_size: true}
"""


def write_tasks(root: Path) -> None:
    """Write the folder `tasks` with tasks of our own, and data outside of it."""
    folder = root / "tasks"
    folder.mkdir()
    rows = [
        {
            "question": f"the river {number}",
            "choices": ["falls", "opens slowly", "seven"],
            "answer": number % 3,
        }
        for number in range(12)
    ]
    (folder / "choice.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (root / "outside.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    texts = [{"question": f"a gate opens {number}", "answer": "and"} for number in range(4)]
    (folder / "text.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in texts))
    (folder / "odd.py").write_text(FUNCTIONS)

    def choice(name: str, rest: str, data: str = "tasks/choice.jsonl") -> None:
        (folder / f"{name}.yaml").write_text(CHOICE.format(name=name, data=data, rest=rest))

    choice("own_choice", ACCURACY)
    choice("own_second", ACCURACY)
    choice("own_outside", ACCURACY, "outside.jsonl")
    choice("own_unsafe", ACCURACY + "unsafe_code: true\n")
    choice("own_repeats", ACCURACY + "repeats: 2\n")
    choice("own_broken", ACCURACY + "no_such_key: 1\n")
    choice("own_fixed", ACCURACY + "num_fewshot: 0\n")
    choice("own_f1", "metric_list: [{metric: f1, aggregation: f1, higher_is_better: true}]")
    for name, function, aggregation, higher in (
        ("own_two", "two", "mean", "true"),
        ("own_lower", "half", "mean", "false"),
        ("own_median", "half", "median", "true"),
        ("own_other", "other", "mean", "true"),
        ("own_fails", "fails", "mean", "true"),
    ):
        choice(name, ODD.format(function=function, aggregation=aggregation, higher=higher))
    (folder / "own_text.yaml").write_text(WRITTEN)
    (folder / "own_rolling.yaml").write_text(ROLLING)
    (folder / "own_group.yaml").write_text(GROUP)
    hub = CHOICE.replace("dataset_path: json", "dataset_path: nobody-there/nothing").replace(
        "dataset_kwargs", "#"
    )
    (folder / "own_hub.yaml").write_text(hub.format(name="own_hub", data="", rest=ACCURACY))


def protocol(root: Path, name: str, include: str = "tasks", **arguments: Any) -> Protocol:
    """Return the protocol of a task of our own."""
    return OBSERVER.protocol({"of": name, **arguments}, {"include_path": include} if include else {}, root)


# --- without the harness


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A root with the folder `tasks`."""
    write_tasks(tmp_path)
    return tmp_path


def test_the_gate_is_written_as_it_is_read() -> None:
    """The text of a gate parses to the gate."""
    gate = parse('lm_eval("x", metric="acc") > 0.1')
    assert parse(str(gate)) == gate
    assert gate == (metric("lm_eval")("x", metric="acc") > 0.1)
    assert dict(gate.metrics()[0].arguments) == {"of": "x", "metric": "acc"}
    assert set(dict(gate.metrics()[0].arguments)) <= set(LM_EVAL.arguments)


def test_the_identity_holds_all_that_can_change_a_number(folder: Path) -> None:
    """Each argument, the version and every file of include_path; but not where it lies."""
    first = protocol(folder, "own_choice")
    assert first == protocol(folder, "own_choice")
    assert dict(first.parameters).keys() == {
        *("task", "metric", "filter", "shots", "limit", "chat", "batch_size", "version", "include")
    }
    for arguments in ({"metric": "acc_norm"}, {"filter": "x"}, {"shots": 2}, {"limit": 3}):
        assert protocol(folder, "own_choice", **arguments) != first
    (folder / "tasks").rename(folder / "moved")
    assert protocol(folder, "own_choice", "moved") == first
    (folder / "moved" / "__pycache__").mkdir()
    (folder / "moved" / "__pycache__" / "odd.pyc").write_bytes(b"1")
    assert protocol(folder, "own_choice", "moved") == first
    with (folder / "moved" / "choice.jsonl").open("a") as data:
        data.write("\n")
    assert protocol(folder, "own_choice", "moved") != first


def test_the_protocol_imports_no_harness(pytester: pytest.Pytester) -> None:
    """Collection must not pay for torch."""
    script = pytester.makepyfile(
        "import sys\nfrom pathlib import Path\nfrom pytest_quantgate.metrics.lm_eval import OBSERVER\n"
        "OBSERVER.protocol({'of': 'arc_easy'}, {}, Path())\n"
        "assert not {'lm_eval', 'torch', 'datasets'} & set(sys.modules)\n"
    )
    assert pytester.runpython(script).ret == 0


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ({}, {}, r'needs the task.s name: write lm_eval\("arc_easy"\)'),
        ({"of": 3}, {}, "of = 3"),
        ({"of": "x", "metric": " "}, {}, "needs metric"),
        ({"of": "x", "filter": ""}, {}, "needs filter"),
        ({"of": "x", "shots": -2}, {}, "shots = -2: write a value like -1 of at least -1"),
        ({"of": "x", "limit": True}, {}, "limit = True"),
        ({"of": "x"}, {"batch_size": 0}, r"\[tool.quantgate.lm_eval\]: batch_size = 0"),
        ({"of": "x"}, {"chat": "yes"}, "chat = 'yes'"),
        ({"of": "x"}, {"include_path": "nowhere"}, "nowhere is no folder"),
        ({"of": "x"}, {"include_path": "."}, r"holds no task, no file \*.yaml"),
    ],
)
def test_what_cannot_be_used_is_said(
    tmp_path: Path, arguments: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    """A mistake is a usage error at collection."""
    with pytest.raises(UsageError, match=message):
        OBSERVER.protocol(arguments, settings, tmp_path)


def test_a_missing_harness_is_said_when_it_is_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate is then unmeasured, with the line to type."""
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    asked = OBSERVER.protocol({"of": "arc_easy"}, {}, tmp_path)
    assert asked["version"] == ""
    with pytest.raises(MissingExtraError, match=r"pip install 'pytest-quantgate\[lm-eval\]'"):
        OBSERVER.observe(None, asked, None, lambda done, total: None)  # type: ignore[arg-type]


def test_it_is_not_divisible() -> None:
    """A part would be asked with other worked examples than the whole."""
    assert not isinstance(OBSERVER, Divisible)


# --- with the harness


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tasks of our own, and a cache of data sets that is not the user's."""
    pytest.importorskip("lm_eval")
    import datasets

    made = tmp_path_factory.mktemp("root")
    write_tasks(made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", made / "cache")
        patch.setattr(network, "obstacle", lambda: "the hub is out of reach")
        yield made


@pytest.fixture(scope="module")
def model(root: Path) -> Any:
    """A tiny Llama."""
    import tiny_models

    from pytest_quantgate.backends.transformers import load

    return load(tiny_models.spec(tiny_models.save(root / "llama", "llama")))


def observed(model: Any, asked: Protocol) -> Any:
    """Return the observation of a task."""
    import tiny_models

    return OBSERVER.observe(tiny_models.Subject(model), asked, None, lambda done, total: None)


def harness(model: Any, root: Path, name: str, **options: Any) -> Any:
    """Return what lm-evaluation-harness itself says."""
    import contextlib
    import copy

    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with contextlib.chdir(root):
        return lm_eval.simple_evaluate(
            model=HFLM(pretrained=model.native, tokenizer=copy.deepcopy(model.tokenizer), batch_size=8),
            tasks=[name],
            task_manager=TaskManager(include_path=str(root / "tasks"), include_defaults=False),
            bootstrap_iters=0,
            **options,
        )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["acc", "acc_norm"])
def test_scores_are_those_of_the_harness(model: Any, root: Path, name: str) -> None:
    """Each sample's, and their mean."""
    found = observed(model, protocol(root, "own_choice", metric=name))
    theirs = harness(model, root, "own_choice")
    assert found.arrays["correct"].tolist() == [one[name] for one in theirs["samples"]["own_choice"]]
    assert found.arrays["correct"].dtype == np.float64
    estimate = OBSERVER.estimate(metric("lm_eval")("own_choice", metric=name), found, None)
    assert estimate.value == pytest.approx(theirs["results"]["own_choice"][f"{name},none"])
    assert estimate.n == 12
    answers, expected = sheet.texts(found, "answer"), sheet.texts(found, "expected")
    assert [answer == right for answer, right in zip(answers, expected, strict=True)] == [
        score == 1 for score in found.arrays["correct"]
    ]
    assert sheet.texts(found, "id") == [str(number) for number in range(12)]
    assert sheet.texts(found, "question")[3] == "the river 3"
    assert found.facts["groups"] == ["own_choice"]
    assert found.facts["lm_eval"] == importlib.metadata.version("lm-eval")


@pytest.mark.filterwarnings("ignore")
def test_a_group_has_a_group_for_each_of_its_tasks(model: Any, root: Path) -> None:
    """All samples count alike; ids name the task."""
    found = observed(model, protocol(root, "own_group", limit=5))
    theirs = harness(model, root, "own_group", limit=5)
    assert found.facts["groups"] == ["own_choice", "own_second"]
    assert found.arrays["group"].tolist() == [0] * 5 + [1] * 5
    assert sheet.texts(found, "id")[4:6] == ["own_choice/4", "own_second/0"]
    estimate = OBSERVER.estimate(metric("lm_eval")("own_group"), found, None)
    assert estimate.value == pytest.approx(theirs["results"]["own_group"]["acc,none"])


@pytest.mark.filterwarnings("ignore")
def test_written_answers_are_read_by_the_filter(model: Any, root: Path) -> None:
    """The answer is what the filter made of the text."""
    first = observed(model, protocol(root, "own_text", metric="exact_match", filter="first-word"))
    whole = observed(model, protocol(root, "own_text", metric="exact_match", filter="whole"))
    theirs = harness(model, root, "own_text")["samples"]["own_text"]
    for name, found in (("first-word", first), ("whole", whole)):
        samples = [one for one in theirs if one["filter"] == name]
        assert sheet.texts(found, "answer") == [one["filtered_resps"][0] for one in samples]
        assert found.arrays["correct"].tolist() == [one["exact_match"] for one in samples]
    assert sheet.texts(first, "answer") != sheet.texts(whole, "answer")


def test_worked_examples_are_asked_for(model: Any, root: Path) -> None:
    """They stand in the prompt, and come out alike each time."""
    asked = protocol(root, "own_choice", shots=2)
    first, second = observed(model, asked), observed(model, asked)
    assert sheet.texts(first, "question")[0].count("the river") == 3
    assert sheet.texts(first, "question") == sheet.texts(second, "question")


def test_a_fixed_number_of_examples_is_remarked(model: Any, root: Path) -> None:
    """The harness does not overrule a task that says 0."""
    found = observed(model, protocol(root, "own_fixed", shots=2))
    assert found.facts["remarks"] == [
        "lm_eval('own_fixed'): own_fixed fixes its shots at 0; shots = 2 was not used"
    ]
    assert observed(model, protocol(root, "own_fixed", shots=0)).facts["remarks"] == []


def test_it_keeps_itself_to_itself(
    model: Any, root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No output, no logging, and neither random numbers nor tokenizer are touched."""
    monkeypatch.chdir(root)  # git complains where no repository is
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist(), model.tokenizer.pad_token  # noqa: NPY002
    told: list[tuple[int, int]] = []
    import tiny_models

    asked = protocol(root, "own_choice")
    OBSERVER.observe(tiny_models.Subject(model), asked, None, lambda *done: told.append(done))
    assert capfd.readouterr() == ("", "")
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), model.tokenizer.pad_token)  # noqa: NPY002
    assert told[-1] == (36, 36)
    assert told == sorted(told)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        (("own_choise", {}), UnknownNameError, "did you mean 'own_choice'.*near: own_choice"),
        (("own_choice", {"metric": "f1"}), UsageError, "no metric 'f1'; write metric= one of acc, acc_norm"),
        (("own_choice", {"filter": "strict"}), UsageError, "no filter 'strict'; write filter= one of none"),
        (("own_f1", {"metric": "f1"}), NotMeasurableError, "f1 is made of all samples at once"),
        (
            ("own_rolling", {"metric": "word_perplexity"}),
            NotMeasurableError,
            "word_perplexity is made of all samples",
        ),
        (("own_lower", {"metric": "odd"}), NotMeasurableError, "of odd less is better"),
        (("own_median", {"metric": "odd"}), NotMeasurableError, "odd is made of all samples at once"),
        (("own_two", {"metric": "odd"}), NotMeasurableError, "sample 0: odd is 2; only scores from 0 to 1"),
        (("own_other", {"metric": "odd"}), UsageError, "no metric 'odd'; write metric= one of even"),
        (("own_fails", {"metric": "odd"}), ObservationError, "lm-eval failed: LookupError: no such doc"),
        (("own_repeats", {}), NotMeasurableError, "asks each question 2 times"),
        (("own_unsafe", {}), NotMeasurableError, "use humaneval, which has a sandbox"),
        (("humaneval", {"metric": "pass@1"}), NotMeasurableError, "use humaneval, which has a sandbox"),
        (("own_outside", {}), ConfigError, "its data outside.jsonl must lie in include_path"),
        (("own_broken", {}), UsageError, "own_broken.. cannot be loaded .*unexpected keyword"),
        (("own_hub", {}), UsageError, "cannot be loaded .the hub is out of reach.*run it once while the hub"),
    ],
)
def test_what_cannot_be_gated_is_refused(
    model: Any, root: Path, asked: tuple[str, dict[str, Any]], error: type[QuantgateError], message: str
) -> None:
    """With the thing, the place and the next step."""
    with pytest.raises(error, match=message):
        observed(model, protocol(root, asked[0], **asked[1]))


def test_offline_says_so(model: Any, root: Path) -> None:
    """--quantgate-offline is the reason, whatever the network is like."""
    token = network.LOCAL_ONLY.set(True)
    try:
        with pytest.raises(UsageError, match="--quantgate-offline, so that only cached and local data serve"):
            observed(model, protocol(root, "own_hub"))
    finally:
        network.LOCAL_ONLY.reset(token)


def test_a_template_is_needed_for_chat(model: Any, root: Path) -> None:
    """A tokenizer without one cannot put a conversation."""
    asked = OBSERVER.protocol({"of": "own_choice"}, {"include_path": "tasks", "chat": True}, root)
    with pytest.raises(NotMeasurableError, match="the tokenizer has no chat template"):
        observed(model, asked)


def test_a_backend_of_another_kind_is_refused(root: Path) -> None:
    """The harness runs models of transformers alone."""
    pytest.importorskip("lm_eval")
    import fakes

    fakes.write_checkpoint(root / "fake") if not (root / "fake").exists() else None
    import tiny_models

    model = fakes.load(tiny_models.spec(root / "fake", backend="fake"))
    with pytest.raises(NotMeasurableError, match="the backend 'fake' gives no model of transformers"):
        observed(model, protocol(root, "own_choice"))


def test_a_broken_model_is_refused(model: Any, root: Path) -> None:
    """NaN is no answer."""
    import torch

    weight = model.native.lm_head.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    try:
        with pytest.raises(ObservationError, match="sample 0: the log-likelihood of an answer is nan"):
            observed(model, protocol(root, "own_choice"))
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_a_file_that_changes_is_noticed(model: Any, tmp_path: Path) -> None:
    """Between planning and running."""
    pytest.importorskip("lm_eval")
    write_tasks(tmp_path)
    asked = protocol(tmp_path, "own_choice")
    (tmp_path / "tasks" / "choice.jsonl").write_text("")
    with pytest.raises(ObservationError, match="include_path has changed"):
        observed(model, asked)


def test_adapter_names_the_observer() -> None:
    """The registry finds it by the definition."""
    module, _, attribute = LM_EVAL.observer.partition(":")
    assert (module, getattr(adapter, attribute)) == (adapter.__name__, OBSERVER)
