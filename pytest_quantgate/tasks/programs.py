"""Programs that a model writes, judged by their tests in a sandbox."""

from __future__ import annotations

import platform
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.sandbox import Box, Limits, Program
from pytest_quantgate.tasks import extraction
from pytest_quantgate.tasks.ways import DECODING, Answered, Request, Way, check_decoding, written

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_quantgate.interfaces import Model, Progress
    from pytest_quantgate.tasks.items import Item

__all__ = ["ALLOW_UNSAFE", "PROGRAMS"]

ALLOW_UNSAFE: ContextVar[bool] = ContextVar("allow unsafe code", default=False)
"""Whether programs may run where no sandbox can be built; from the command line or the environment alone."""

LONGEST = 3600
COLDEST, HOTTEST = 0.001, 100
STOPS = ["\nclass", "\ndef", "\n#", "\nif", "\nprint"]


@dataclass(frozen=True, slots=True)
class _Programs:
    """Right where a program passes its test."""

    statistics: tuple[str, ...] = ()

    @property
    def defaults(self) -> Mapping[str, Any]:
        decoding = {**DECODING, "new_tokens": 512, "stops": STOPS}
        sampling = {"samples": 1, "temperature": 0.0, "top_p": 0.95, "seed": 0}
        # a program's verdict depends on the interpreter that runs it
        return {
            **decoding,
            **sampling,
            "seconds": 3.0,
            "python": ".".join(platform.python_version_tuple()[:2]),
        }

    def check(self, request: Request, place: str) -> None:
        """Refuse samples that would all be alike, and limits that no program could keep."""
        check_decoding(request, place)
        if request["samples"] < 1 or not 0 < request["seconds"] <= LONGEST:
            raise ConfigError(
                f"{place}: samples must be above zero, and seconds above zero and at most {LONGEST}"
            )
        if request["samples"] > 1 and not request["temperature"]:
            raise ConfigError(f"{place}: greedy samples are all alike; set temperature, e.g. 0.8")
        warm = request["temperature"] == 0 or COLDEST <= request["temperature"] <= HOTTEST
        if not 0 < request["top_p"] <= 1 or not warm or request["seed"] < 0:
            raise ConfigError(
                f"{place}: temperature is 0 or from {COLDEST} to {HOTTEST}, top_p above 0 and at most 1,"
                " seed at least 0"
            )
        if request["chat"] and request["stops"] == STOPS:
            request["stops"] = []  # a chat model ends by itself, and writes more than one function

    def answer(
        self, model: Model, items: Sequence[Item], request: Mapping[str, Any], progress: Progress
    ) -> Answered:
        """Write programs and run them. Arrays: correct (N,) pass@1, passed (N,) of `samples`, tokens (N,)."""
        samples = int(request["samples"])
        with Box(Limits(seconds=request["seconds"]), unsafe=ALLOW_UNSAFE.get()) as box:
            found, remarks = written(model, items, request, progress, samples)
            programs = [
                Program(
                    item.id,
                    extraction.program(item.question, found[row * samples + number].text, item.entry_point),
                    item.entry_point,
                    item.check,
                    # what the check calls beside the function is the prompt's own, never the model's
                    helpers=item.question,
                )
                for row, item in enumerate(items)
                for number in range(samples)
            ]
            outcomes = box.judge(programs)
            facts = dict(box.facts)
        passed = np.asarray([one.passed for one in outcomes]).reshape(len(items), samples).sum(1)
        tokens = np.asarray([one.tokens for one in found]).reshape(len(items), samples).sum(1)
        answers = [
            f"{found[row * samples].text}\n# {outcomes[row * samples].reason}" for row in range(len(items))
        ]
        if facts.get("sandbox") == "UNSANDBOXED":
            remarks = [*remarks, "UNSANDBOXED: programs that a model wrote ran with this user's rights"]
        numbers = {
            "correct": passed / samples,
            "passed": passed.astype(np.int32),
            "tokens": tokens.astype(np.int32),
        }
        return Answered(numbers, answers, {"remarks": remarks, "samples": samples, **facts})


PROGRAMS: Way = _Programs()
