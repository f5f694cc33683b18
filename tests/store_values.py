"""Steps and observations for the tests of the store."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate.spec import ModelSpec, Observation, Protocol, Step

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_quantgate.store import Store


def step(number: int = 0) -> Step:
    """Return one of many different steps."""
    return Step(
        "module:Observer", ModelSpec("good", "folder", "sha256:0"), Protocol.of("tokens", number=number)
    )


def observation(value: float = 1.0, size: int = 1000) -> Observation:
    """Return an observation whose every number is `value`, so that a mixture of two would show."""
    return Observation({"logprob": np.full(size, value), "ids": np.full(size, int(value))}, {"value": value})


def value_of(found: Observation | None) -> float | None:
    """Return the one value of a whole observation; fail if it is a mixture."""
    if found is None:
        return None
    value = float(found.facts["value"])  # type: ignore[arg-type]
    assert (found.arrays["logprob"] == value).all()
    assert (found.arrays["ids"] == int(value)).all()
    return value


def entry_of(store: Store, number: int = 0) -> Path:
    """Return where the store keeps the observation of a step."""
    key = step(number).key
    return store.root / "v1" / "observations" / key[:2] / f"{key}.obs"


def temporaries(store: Store) -> list[Path]:
    """Return everything unfinished."""
    return [path for path in store.root.rglob(".tmp-*") if path.parent.name != "v1"]


def in_child(work: Callable[[], Any]) -> int:
    """Run in a forked process; return its exit status as `os.waitstatus_to_exitcode` does: negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001  whatever it was, the parent must see that it was something
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killing(real: Callable[..., Any], nth: int, *, after: bool) -> Callable[..., Any]:
    """Return a function that does what `real` does, and kills the process before or after its nth call."""
    calls = 0

    def killer(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **options)
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return killer
