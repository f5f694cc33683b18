"""The report: merging what processes contribute, and its versioned JSON."""

from __future__ import annotations

import copy
import itertools
import json
import math
from pathlib import Path

import jsonschema
import pytest
import study_table
from hypothesis import given
from hypothesis import strategies as st
from report_strategies import reports, unhurried

from pytest_quantgate.errors import UsageError
from pytest_quantgate.report import Problem, Report, Result, Row, StepRecord, build
from pytest_quantgate.report.rows import together
from pytest_quantgate.spec import Estimate

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "report.schema.json").read_text(encoding="utf-8"))
OPEN = {"engine", "environment", "protocol", "parameters", "figures"}

jsonschema.Draft202012Validator.check_schema(SCHEMA)
validator = jsonschema.Draft202012Validator(SCHEMA)


def full() -> dict:
    """Return a report with every kind of object in it."""
    value = study_table.study().to_json()
    value["variants"][0] |= {
        "recipe": {
            "method": "gptq",
            "parameters": {"bits": 4},
            "calibration": "a.txt",
            "calibration_digest": "sha256:0",
        },
        "problems": [{"text": "generation repeats itself", "causes": ["wrong kernel"]}],
    }
    value["steps"] = [{"label": "awq tokens", "key": "ab", "source": "store", "seconds": 0.5}]
    value["protocols"] = [{"kind": "tokens", "window": 2048}]
    return value


def objects(value: object, path: tuple = ()):
    """Yield (path, object) for every JSON object in a value."""
    if isinstance(value, dict):
        yield path, value
    for key, item in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from objects(item, (*path, key))


# --- JSON -------------------------------------------------------------------------------------------------------------


@unhurried
@given(reports)
def test_json_round_trip_and_schema(report):
    """Any report is strict JSON, valid by the published schema, and reads back equal."""
    value = json.loads(json.dumps(report.to_json(), allow_nan=False))
    validator.validate(value)
    assert Report.from_json(value) == report


def test_schema_describes_every_kind_of_object():
    """The full example is valid and reaches every definition, so the tests below mean something."""
    value = full()
    validator.validate(value)
    assert Report.from_json(value).to_json() == value


def test_schema_forbids_what_it_does_not_name():
    """A stray member in any object, but for the open ones, is invalid."""
    value = full()
    tried = []
    for path, _ in objects(value):
        if (path[-1:] and path[-1] in OPEN) or path[:1] == ("protocols",):
            continue
        stray = copy.deepcopy(value)
        target = stray
        for key in path:
            target = target[key]
        target["stray"] = "x"
        assert not validator.is_valid(stray), path
        tried.append(path)
    assert len(tried) > 20


def test_schema_requires_every_member():
    """Leaving out any member of a closed object is invalid."""
    value = full()
    for path, found in objects(value):
        if (path[-1:] and path[-1] in OPEN) or path[:1] == ("protocols",):
            continue
        for name in found:
            less = copy.deepcopy(value)
            target = less
            for key in path:
                target = target[key]
            del target[name]
            assert not validator.is_valid(less), (path, name)


def test_figure_that_is_not_finite_is_null():
    """JSON has no NaN: the value becomes null, its interval goes, and a verdict on it says why."""
    row = {"name": "v", "figures": {"ppl": {"value": math.inf, "low": 1.0, "high": math.inf}}}
    value = build([{"variants": [row]}]).to_json()
    validator.validate(json.loads(json.dumps(value, allow_nan=False)))
    figure = value["variants"][0]["figures"]["ppl"]
    assert (figure["value"], figure["low"], figure["high"]) == (None, None, None)
    assert math.isnan(Report.from_json(value).variants[0].figures["ppl"].value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"schema": "quantgate-report/2"},
            r"x\.json was written by a newer version \(quantgate-report/2, .*pip install",
        ),
        ({"schema": "quantgate-report/one"}, r"x\.json is not a quantgate report"),
        ({"schema": "coverage/1"}, r"its schema is 'coverage/1'"),
        ({}, r"its schema is None"),
        ([], r"is not a quantgate report"),
        (None, r"is not a quantgate report"),
        ({"schema": "quantgate-report/1", "colour": "red"}, r"x\.json is damaged \(.*colour"),
        ({"schema": "quantgate-report/1", "variants": [{}]}, r"x\.json is damaged"),
        ({"schema": "quantgate-report/1", "variants": [{"name": 3}]}, r"damaged \(name cannot be 3\)"),
        (
            {"schema": "quantgate-report/1", "variants": [{"name": "v", "status": "GOOD"}]},
            r"status cannot be 'GOOD'",
        ),
        (
            {"schema": "quantgate-report/1", "variants": [{"name": "v", "figures": {"ppl": {"value": "1"}}}]},
            r"damaged",
        ),
        ({"schema": "quantgate-report/1", "variants": 5}, r"damaged"),
        ({"schema": "quantgate-report/1", "results": [{"nodeid": "a"}]}, r"damaged"),
        (
            {"schema": "quantgate-report/1", "results": [{"nodeid": "a", "variant": "v", "outcome": []}]},
            r"damaged",
        ),
        (
            {"schema": "quantgate-report/1", "steps": [{"label": "a", "key": "b", "source": "moon"}]},
            r"source cannot be",
        ),
        ({"schema": "quantgate-report/1", "notes": [3]}, r"damaged"),
        ({"schema": "quantgate-report/1", "notes": 3}, r"damaged"),
        ({"schema": "quantgate-report/1", "protocols": ["a"]}, r"damaged"),
        ({"schema": "quantgate-report/1", "environment": []}, r"damaged"),
        ({"schema": "quantgate-report/1", "created": 3}, r"damaged"),
    ],
)
def test_what_is_no_readable_report_is_refused_in_one_line(value, message):
    """Another format, a newer version and a damaged file are told apart, and the place is named."""
    with pytest.raises(UsageError, match=message) as raised:
        Report.from_json(value, place="x.json")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "name", ["metric", "operator", "limit", "limit_si", "unit", "holds", "margin", "close", "n"]
)
def test_damaged_check_is_refused(name):
    """No member of a check can be of another type and reach a reporter."""
    value = full()
    value["results"][0]["verdicts"][0]["checks"][0][name] = {"a": 1}
    with pytest.raises(UsageError, match="damaged"):
        Report.from_json(value)


# --- merging ----------------------------------------------------------------------------------------------------------


def test_nothing_makes_an_empty_report():
    """A run without results is a report, too."""
    report = build([])
    assert report == Report()
    validator.validate(report.to_json())


def test_rows_of_several_workers_become_one():
    """Members are filled in from whoever knows them, figures are joined, problems are kept once."""
    problem = {"text": "NaN weights", "causes": ["overflow"]}
    report = build(
        [
            {"variants": [{"name": "a"}, {"name": "b"}]},
            {
                "variants": [
                    {
                        "name": "b",
                        "source": "hub/b",
                        "figures": {"ppl": {"value": 1.0}},
                        "problems": [problem],
                    }
                ]
            },
            {
                "variants": [
                    {
                        "name": "b",
                        "dtype": "float16",
                        "figures": {"ppl": {"value": 2.0}, "ttft": {"value": 3.0}},
                    }
                ]
            },
            {"variants": [{"name": "b", "problems": [problem]}, {"name": "a", "weights": "sha256:0"}]},
        ]
    )
    assert report.variants == (
        Row("a", weights="sha256:0"),
        Row(
            "b",
            source="hub/b",
            dtype="float16",
            figures={"ppl": Estimate(2.0), "ttft": Estimate(3.0)},
            problems=(Problem("NaN weights", ("overflow",)),),
        ),
    )


def test_order_is_that_of_the_first_payload_whatever_comes_first():
    """Configured order is kept although workers finish in another."""
    payloads = [study_table.payload(name) for name in ("awq", "gptq-v2", "gptq-v1")]
    bare = {"variants": [{"name": name} for name in ("gptq-v1", "gptq-v2", "awq")]}
    for order in itertools.permutations(payloads):
        assert [row.name for row in build([bare, *order]).variants] == ["gptq-v1", "gptq-v2", "awq"]


def test_later_result_of_an_item_counts():
    """A rerun replaces the first attempt, in place."""
    first = {"nodeid": "t", "variant": "a", "outcome": "FAIL"}
    other = {"nodeid": "u", "variant": "a", "outcome": "PASS"}
    report = build([{"results": [first]}, {"results": [other]}, {"results": [first | {"outcome": "PASS"}]}])
    assert [(result.nodeid, result.outcome) for result in report.results] == [("t", "PASS"), ("u", "PASS")]
    assert report.status == "PASS"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_step_that_one_worker_measured_counts_as_measured(order):
    """Whichever report comes first, the step is there once, with the time that it took."""
    steps = [StepRecord("a tokens", "k", "store", 0.1), StepRecord("a tokens", "k", "measured", 9.0)]
    report = build([{"steps": [steps[index].to_json()]} for index in order])
    assert report.steps == (steps[1],)


def test_environment_and_creation_are_those_of_the_first():
    """The controller speaks first; workers add what it does not know."""
    report = build(
        [
            {"created": "t0", "environment": {"python": "3.11"}},
            {"created": "t1", "environment": {"python": "x", "torch": "2"}},
        ]
    )
    assert (report.created, report.environment) == ("t0", {"python": "3.11", "torch": "2"})


def test_notes_and_protocols_are_kept_once():
    """Every worker says the same."""
    part = {"notes": ["shared CPU"], "protocols": [{"kind": "tokens", "window": 8}]}
    report = build([part, part, {"protocols": [{"kind": "tokens", "window": 9}]}])
    assert report.notes == ("shared CPU",)
    assert [protocol["window"] for protocol in report.protocols] == [8, 9]


@unhurried
@given(st.lists(reports, max_size=2))
def test_merging_twice_changes_nothing(found):
    """What workers say twice counts once: build(parts + parts) == build(parts)."""
    parts = [
        {name: item for name, item in report.to_json().items() if name not in {"schema", "status"}}
        for report in found
    ]
    once = build(parts)
    assert build(parts + parts) == once
    validator.validate(once.to_json())


def test_unknown_member_of_a_payload_is_an_error():
    """A misspelt member would otherwise be lost without a word."""
    with pytest.raises(TypeError, match="resutls"):
        build([{"resutls": []}])


# --- standings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], ""),
        (["PASS", "PASS"], "PASS"),
        (["PASS", "FAIL"], "FAIL"),
        (["FAIL", "ERROR"], "ERROR"),
        (["PASS", "XFAIL"], "XFAIL"),
        (["XFAIL", "FAIL"], "FAIL"),
        (["INCONCLUSIVE", "PASS"], "INCONCLUSIVE"),
        (["UNMEASURED"], "UNMEASURED"),
        (["UNMEASURED", "PASS"], "PARTIAL"),
        (["PARTIAL", "PASS"], "PARTIAL"),
        (["PARTIAL", "UNMEASURED"], "PARTIAL"),
        (["UNMEASURED", "FAIL"], "FAIL"),
        (["UNMEASURED", ""], "UNMEASURED"),
    ],
)
def test_together_is_the_gravest(found, expected):
    """One miss is a miss; what was not measured is never a full pass."""
    assert together(found) == expected
    assert together(reversed(found)) == expected


@pytest.mark.parametrize(
    ("outcome", "expected", "status"),
    [
        ("FAIL", False, "FAIL"),
        ("FAIL", True, "XFAIL"),
        ("ERROR", True, "XFAIL"),
        ("ERROR", False, "ERROR"),
        ("INCONCLUSIVE", True, "XFAIL"),
        ("PASS", True, "PASS"),
        ("UNMEASURED", True, "UNMEASURED"),
    ],
)
def test_expectation_excuses_failures_only(outcome, expected, status):
    """An expected failure is no failure; a pass and an absence stay what they are."""
    assert Result("t", "v", outcome, expected_failure=expected).status == status
