"""Recipes crossed: names, bad matrices, the vocabulary of the page; and which rows of a sweep are Pareto-best."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_quantgate import matrix
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.recipe import METHODS
from pytest_quantgate.spec import Estimate
from pytest_quantgate.sweep import Result, front, smallest

RECIPE = {"method": "gptq", "calibration": "words.txt"}


# --- the crossing


def test_a_matrix_becomes_a_variant_per_combination():
    """The last key varies fastest, the rest of the table stays, and the names say the values."""
    axes = {"bits": [4, 8], "group_size": [32, -1], "desc_act": [True, False]}
    table = {"quantize": RECIPE, "matrix": axes, "dtype": "float32"}
    found = matrix.expand("place", "v", table)
    assert [name for name, _ in found] == [
        "v-4b-g32-act", "v-4b-g32-noact", "v-4b-row-act", "v-4b-row-noact",
        "v-8b-g32-act", "v-8b-g32-noact", "v-8b-row-act", "v-8b-row-noact",
    ]  # fmt: skip
    assert found[1][1] == {
        "dtype": "float32", "quantize": {**RECIPE, "bits": 4, "group_size": 32, "desc_act": False},
    }  # fmt: skip
    assert matrix.expand("place", "v", {"model": "m"}) == [("v", {"model": "m"})]


@pytest.mark.parametrize(
    ("combination", "name"),
    [
        ({"damp_percent": 0.05, "sym": False}, "v-damp_percent0.05-nosym"),
        ({"calibration": "data/chat one.jsonl"}, "v-chat-one"),
        ({"calibration": "data/chat"}, "v-chat"),
        ({"type": "Q4_K_M", "samples": 1_000_000}, "v-Q4_K_M-samples1000000"),
    ],
)
def test_other_keys_make_names_too(combination, name):
    """Any key can be crossed, and its value stands in the name."""
    assert matrix.named("v", combination) == name


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"matrix": [4], "quantize": RECIPE}, "place matrix: write { bits = [4, 8]"),
        ({"matrix": {"bits": [4]}, "model": "m"}, "place matrix: it crosses recipes; add quantize ="),
        ({"matrix": {"bits": [4]}, "quantize": 3}, "place matrix: it crosses recipes; add quantize ="),
        ({"matrix": {}, "quantize": RECIPE}, "nothing to cross; write for example group_size ="),
        ({"matrix": {"bits": []}, "quantize": RECIPE}, "bits is an empty list; write a value"),
        ({"matrix": {"bits": 4}, "quantize": RECIPE}, "bits = 4 is no list; write bits = [4]"),
        ({"matrix": {"sym": True}, "quantize": RECIPE}, "sym = True is no list; write sym = [true]"),
        ({"matrix": {"bits": [4, [8]]}, "quantize": RECIPE}, r"bits has [8]; write strings, numbers"),
        ({"matrix": {"bits": [4, 8, 4.0]}, "quantize": RECIPE}, "bits has 4.0 twice"),
        ({"matrix": {"method": ["awq"]}, "quantize": RECIPE}, "method is also set in quantize"),
        ({"matrix": {"samples": list(range(201))}, "quantize": RECIPE}, "201 combinations (allowed: 200)"),
        (
            {"matrix": {"calibration": ["a/c.txt", "b/c.txt"]}, "quantize": {"method": "gptq"}},
            "two combinations have the name 'v-c'",
        ),
    ],
)
def test_a_matrix_that_cannot_be_used(table, message):
    """One line names the place, the key and what to write."""
    with pytest.raises(ConfigError) as caught:
        matrix.expand("place", "v", table)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_true_and_one_are_two_values():
    """They are equal in Python, and are not the same in a recipe: its own check has the say."""
    assert len(matrix.crossed("place", {"sym": [True, 1]})) == 2


def test_the_page_names_every_method_and_parameter():
    """docs/recipes.md has the vocabulary that the code has."""
    page = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
    told = {}
    for line in page.splitlines():
        if line.startswith("| `") and line.count("|") == 4:
            methods, keys = (re.findall("`([^`]+)`", cell) for cell in line.split("|")[1:3])
            told |= dict.fromkeys(methods, keys)
    alike = {"auto-gptq": ["gptq", "awq"], "autoawq": ["gptq", "awq"]}
    for name, method in METHODS.items():
        assert told[name] == alike.get(name, list(method.keys)), name


# --- the front


def result(name, kld=None, disk=None, **fields):
    figures = {"kld.mean": kld, "disk": disk}
    return Result(
        name, figures={key: Estimate(value) for key, value in figures.items() if value is not None}, **fields
    )


@pytest.mark.parametrize(
    ("points", "best"),
    [
        ({"a": (0.1, 10), "b": (0.2, 5), "c": (0.2, 10), "d": (0.3, 4)}, "abd"),
        ({"a": (0.1, 10), "b": (0.1, 10)}, "ab"),
        ({"a": (0.1, 10), "b": (0.1, 11), "c": (0.2, 10)}, "a"),
        ({"a": (0.1, 10)}, "a"),
        ({"a": (float("nan"), 1), "b": (0.5, 50)}, "b"),
        ({"a": (None, 1), "b": (0.5, None)}, ""),
        ({}, ""),
    ],
)
def test_the_pareto_front(points, best):
    """A row is best unless another is as good in both and better in one; what is not measured never is."""
    assert front(result(name, *point) for name, point in points.items()) == frozenset(best)


def test_the_smallest_that_passes_needs_gates():
    """Without gates nothing passes; the smaller divergence decides between equal sizes."""

    class Held:
        outcome, passed = "PASS", True

    class Missed:
        outcome, passed = "FAIL", False

    found = [
        result("a", 0.3, 10, verdicts=(Held(),)),
        result("b", 0.1, 10, verdicts=(Held(), Held())),
        result("c", 0.1, 5, verdicts=(Held(), Missed())),
        result("e", 0.01, 20, verdicts=(Held(),)),
    ]
    assert smallest(found).name == "b"
    assert found[2].outcome == "FAIL"
    assert smallest([result("d", 0.1, 1)]) is None
