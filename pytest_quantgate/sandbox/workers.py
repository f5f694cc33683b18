"""What the parent knows of its keepers, of the pairs that they made, and of the programs that run in them."""

from __future__ import annotations

import signal
import socket
from collections import deque
from dataclasses import dataclass, field

from pytest_quantgate.errors import ObservationError
from pytest_quantgate.sandbox import keeper
from pytest_quantgate.sandbox.judge import LOST

__all__ = ["Pair", "Run", "Worker", "ending", "gone"]


@dataclass(slots=True, eq=False)
class Worker:
    """A keeper, seen from the parent."""

    control: socket.socket
    asked: int = 0
    ready: deque[Pair] = field(default_factory=deque)

    def ask(self, *requests: tuple[bytes, int, float]) -> None:
        """Send requests: operation, number of the pair, seconds.

        Raises:
            ObservationError: the keeper is gone.

        """
        try:
            self.control.sendall(b"".join(keeper.REQUEST.pack(*one) for one in requests))
        except OSError as error:
            raise gone() from error


@dataclass(slots=True, eq=False)
class Pair:
    """A guest and a judge that wait for work, or have it."""

    worker: Worker
    number: int
    guest: socket.socket
    judge: socket.socket


@dataclass(slots=True, eq=False)
class Run:
    """A program that is running."""

    place: int
    pair: Pair
    seconds: float
    began: float
    nonce: str
    idle: bool = False
    unsent: dict[socket.socket, memoryview] = field(default_factory=dict)
    heard: bytearray = field(default_factory=bytearray)


def gone() -> ObservationError:
    """Return what is raised when a keeper died."""
    return ObservationError("the sandbox's own process died: was the machine out of memory? run again")


def ending(guest: int, judge: int, seconds: float) -> str:
    """Return how a pair ended that gave no verdict, from the two exit statuses as `os.wait` gives them."""
    for who, status in (("program", guest), ("check", judge)):
        number = status & 0x7F
        if number in {signal.SIGXCPU, signal.SIGPROF}:
            return f"timed out after {seconds:g} s"
        if number and number != signal.SIGKILL:
            return f"the {who} was ended by {signal.Signals(number).name}"
    return f"{LOST} (exit status {guest >> 8})" if not guest & 0x7F else LOST
