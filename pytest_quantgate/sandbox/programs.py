"""What goes into the box and what comes out of it. Values; importing this starts nothing."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MIB", "Limits", "Outcome", "Program"]

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Program:
    """A program and the code that judges it.

    Attributes:
        name: for messages.
        source: prompt and completion: it defines the entry point. Never trusted.
        entry_point: the name of the function under test.
        check: source that defines `check(candidate)` as HumanEval does. It never enters the process that runs `source`.
        helpers: source of functions that the check calls beside the candidate, from the data set: a HumanEval prompt
            (32, 38 and 50 need theirs). It runs beside the check, so no part of it may come from a model; it may end
            before the body of its last function. Without it such names are looked up in the program, which can then
            cheat by redefining them.

    """

    name: str
    source: str
    entry_point: str
    check: str
    helpers: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use.

    Attributes:
        seconds: CPU time of program and check together; a program that waits ends after three times as long.
        memory: address space of each of the two processes, in bytes.
        stack: stack of each of the two processes, in bytes.
        source: longest source of a program in bytes of UTF-8; a longer one fails without being run.

    Raises:
        ValueError: a limit under which no program could run.

    """

    seconds: float = 5.0
    memory: int = 512 * MIB
    stack: int = 16 * MIB
    source: int = 256 * 1024

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise ValueError(f"seconds must be above 0 and finite, not {self.seconds}")
        least = {"memory": 128 * MIB, "stack": MIB, "source": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low:,} bytes, not {getattr(self, name):,}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a program.

    Attributes:
        passed: whether its check ran to the end without an exception.
        reason: "passed", or one line of at most 300 printable ASCII characters.
        seconds: from handing the program over to its verdict, by the wall clock.

    """

    passed: bool
    reason: str
    seconds: float
