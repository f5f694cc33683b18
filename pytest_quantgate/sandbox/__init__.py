"""A room in which programs that a model wrote are run and judged.

    with Box(Limits(seconds=3)) as box:
        outcomes = box.judge(programs)

Two processes for each program, both forked from a clean interpreter and both locked in: the guest runs the
program, the judge runs its check, and plain data alone passes between them. `Box` says what it stands on.
"""

from __future__ import annotations

from pytest_quantgate.sandbox.box import Box
from pytest_quantgate.sandbox.programs import Limits, Outcome, Program

__all__ = ["Box", "Limits", "Outcome", "Program"]
