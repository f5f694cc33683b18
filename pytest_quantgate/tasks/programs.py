"""Programs that a model writes, judged by their tests in a sandbox; pass@k.

`pass_at_k` is the unbiased estimator of Chen et al. (2021), "Evaluating Large Language Models Trained on Code": of n
programs of which c pass, the chance that k drawn without replacement hold one that passes is 1 - C(n - c, k) / C(n, k).
"""

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

    from numpy.typing import NDArray

    from pytest_quantgate.interfaces import Model, Progress
    from pytest_quantgate.tasks.items import Item

__all__ = ["ALLOW_UNSAFE", "PROGRAMS", "pass_at_k"]

ALLOW_UNSAFE: ContextVar[bool] = ContextVar("allow unsafe code", default=False)
"""Whether programs may run where no sandbox can be built; from the command line or the environment alone."""

STOPS = ["\nclass", "\ndef", "\n#", "\nif", "\nprint"]


def pass_at_k(passed: NDArray[np.int64], samples: int, k: int) -> NDArray[np.float64]:
    """Return the chance (N,) that one of `k` programs passes, of items of whose `samples` programs `passed` (N,) did.

    Raises:
        ValueError: `k` is not between 1 and `samples`.

    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} takes at least {k} samples, not {samples}")
    failed = samples - passed
    steps = np.arange(samples - k + 1, samples + 1)  # C(n - c, k) / C(n, k) as a product of k quotients
    chances = np.clip((steps[None, :] - passed[:, None]) / steps[None, :], 0.0, 1.0).prod(1)
    return np.where(failed < k, 1.0, 1.0 - chances)


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
        if request["samples"] < 1 or request["seconds"] <= 0:
            raise ConfigError(f"{place}: samples and seconds must be above zero")
        if request["samples"] > 1 and not request["temperature"]:
            raise ConfigError(f"{place}: greedy samples are all alike; set temperature, e.g. 0.8")
        if not 0 < request["top_p"] <= 1 or request["temperature"] < 0:
            raise ConfigError(f"{place}: temperature is at least 0, and top_p above 0 and at most 1")
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
