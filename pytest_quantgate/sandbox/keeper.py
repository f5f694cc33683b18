"""A keeper: forks pairs of guest and judge, hands their ends to the parent, watches their time, and buries them.

It never reads a program, a check or a nonce: those go from the parent straight into the pair. So what a guest finds
in memory that it inherited is what every guest finds.

The parent writes requests, `op number seconds`; the keeper answers with `op number status status seconds`.

    FORK   make a pair, answer PAIR with two descriptors: the guest's and the judge's
    GO     the pair has its work; kill it when it has used so many seconds of CPU, and say SPENT
    END    kill the pair
    TELL   kill the pair and answer DEAD with both exit statuses
    IDLE / BUSY, unasked: the pair uses no CPU, or uses it again
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from pytest_quantgate.sandbox import guest, judge, kernel, walls

__all__ = [
    "ANSWER",
    "BUSY",
    "DEAD",
    "END",
    "FORK",
    "GO",
    "IDLE",
    "PAIR",
    "REQUEST",
    "SPENT",
    "TELL",
    "Keeper",
]

REQUEST, ANSWER = struct.Struct("<cId"), struct.Struct("<cIiid")
FORK, GO, END, TELL = b"F", b"G", b"E", b"T"
PAIR, SPENT, DEAD, IDLE, BUSY = b"P", b"S", b"D", b"I", b"B"

_TICK, _LOOK = 0.05, 0.25
_LOW = 0.02  # of a core: below, a program waits rather than works, even where many share the core
_STANDARD = 3
_MANY = 64


@dataclass(slots=True)
class _Pair:
    guest: int
    judge: int
    limit: float = 0.0
    spent: float = 0.0
    idle: bool = False


class Keeper:
    """Serves the parent on one socket.

    Args:
        control: the keeper's end.
        lock: called in each child as the last thing before foreign code: it closes the box.
        sweep: kill whole process groups and orphans too, where the floor does not forbid children.

    """

    def __init__(self, control: socket.socket, lock: Callable[[], None], *, sweep: bool) -> None:
        self._control = control
        self._lock = lock
        self._sweep = sweep
        self._pairs: dict[int, _Pair] = {}
        self._dying: list[int] = []
        self._heard = b""
        self._ticked = self._looked = time.monotonic()
        self._requests = select.poll()
        self._requests.register(control, select.POLLIN)

    def serve(self) -> NoReturn:
        """Do what the parent asks, until it is gone; then leave nothing behind."""
        try:
            while self._turn():
                pass
        finally:
            for number in list(self._pairs):
                self._end(number)
            os._exit(0)

    def _turn(self) -> bool:
        patience = _TICK * 1000 if any(pair.limit for pair in self._pairs.values()) else None
        ready = self._requests.poll(patience)
        self._bury()
        self._watch(time.monotonic())
        return self._obey() if ready else True

    def _obey(self) -> bool:
        heard = self._control.recv(_MANY * REQUEST.size)
        if not heard:
            return False
        self._heard += heard
        whole = len(self._heard) // REQUEST.size * REQUEST.size
        asked = list(REQUEST.iter_unpack(self._heard[:whole]))
        self._heard = self._heard[whole:]
        for operation, number, seconds in asked:
            if operation == GO and number in self._pairs:
                self._pairs[number].limit = seconds
            elif operation == END:
                self._end(number)
            elif operation == TELL:
                self._answer(DEAD, number, *self._end(number, wait=True))
        self._fork([(number, seconds) for operation, number, seconds in asked if operation == FORK])
        return True

    def _answer(self, operation: bytes, number: int, *numbers: float) -> None:
        first, second, seconds = numbers or (0, 0, 0.0)
        self._control.sendall(ANSWER.pack(operation, number, int(first), int(second), seconds))

    def _fork(self, asked: list[tuple[int, float]]) -> None:
        """Make pairs; all forks in a row, since after each one this process copies every page that it writes to."""
        prepared = [[end for _ in range(3) for end in socket.socketpair()] for _ in asked]
        for (number, _), (_, guest_job, _, judge_job, asking, answering) in zip(asked, prepared, strict=True):
            self._pairs[number] = _Pair(
                self._child(guest.run, guest_job, answering), self._child(judge.run, judge_job, asking)
            )
        for (number, seconds), ends in zip(asked, prepared, strict=True):
            for process in (self._pairs[number].guest, self._pairs[number].judge):
                walls.limit_program(process, seconds)
            message = [ANSWER.pack(PAIR, number, 0, 0, 0.0)]
            socket.send_fds(self._control, message, [ends[0].fileno(), ends[2].fileno()])
            for end in ends:
                end.close()

    def _child(self, run: Callable[[int, int], NoReturn], *ends: socket.socket) -> int:
        child = kernel.fork()
        if child:
            return child
        try:
            _keep_only(*(end.fileno() for end in ends))
            if self._sweep:
                os.setsid()
            walls.die_with_parent()
            self._lock()
            run(_STANDARD, _STANDARD + 1)
        finally:
            os._exit(1)

    def _end(self, number: int, *, wait: bool = False) -> tuple[int, int, float]:
        pair = self._pairs.pop(number, None)
        if pair is None:
            return 0, 0, 0.0
        spent = _cpu(pair)
        for process in (pair.guest, pair.judge):
            _kill(process, group=self._sweep)
        if not wait:
            self._dying += [pair.guest, pair.judge]
            self._bury()
            return 0, 0, 0.0
        statuses = [os.waitpid(process, 0)[1] for process in (pair.guest, pair.judge)]
        self._bury()
        return statuses[0], statuses[1], spent

    def _bury(self) -> None:
        """Collect the dead, without waiting for those whose memory is still being taken down."""
        self._dying = [process for process in self._dying if not os.waitpid(process, os.WNOHANG)[0]]
        if self._sweep:
            self._collect_orphans()

    def _collect_orphans(self) -> None:
        known = {process for pair in self._pairs.values() for process in (pair.guest, pair.judge)}
        for process in walls.children() - known - set(self._dying):
            _kill(process, group=False)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process, 0)

    def _watch(self, now: float) -> None:
        if now - self._ticked < _TICK:
            return
        self._ticked = now
        past = now - self._looked
        watched = [(number, pair) for number, pair in self._pairs.items() if pair.limit]
        for number, pair in watched:
            spent = _cpu(pair)
            if spent >= pair.limit:
                self._end(number)
                self._answer(SPENT, number)
            elif past >= _LOOK:
                self._look_at(number, pair, spent, past)
        if past >= _LOOK:
            self._looked = now

    def _look_at(self, number: int, pair: _Pair, spent: float, past: float) -> None:
        idle = spent - pair.spent < _LOW * past
        pair.spent = spent
        if idle != pair.idle:
            pair.idle = idle
            self._answer(IDLE if idle else BUSY, number)


def _cpu(pair: _Pair) -> float:
    """Return the CPU seconds of both processes; 0 where the system has no clock of another process."""
    if sys.platform != "linux":
        return 0.0
    spent = 0.0
    for process in (pair.guest, pair.judge):
        with contextlib.suppress(OSError):  # it is dead
            spent += time.clock_gettime((~process << 3) | 2)
    return spent


def _keep_only(first: int, second: int) -> None:
    """Close every descriptor but the standard ones and two, which become 3 and 4."""
    first, second = os.dup(first), os.dup(second)  # above both targets, whatever they were
    os.dup2(first, _STANDARD), os.dup2(second, _STANDARD + 1)
    os.closerange(_STANDARD + 2, 256)


def _kill(process: int, *, group: bool) -> None:
    for kill in (os.killpg, os.kill) if group else (os.kill,):
        with contextlib.suppress(OSError):
            kill(process, signal.SIGKILL)
