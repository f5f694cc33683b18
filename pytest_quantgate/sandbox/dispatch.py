"""The parent's loop: hands programs to pairs, waits for many verdicts at once, gives up on those that are late.

It reads from a judge one short frame with the nonce that it gave that judge, and from a guest nothing at all.
"""

from __future__ import annotations

import functools
import json
import secrets
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence

from pytest_quantgate.escaping import ascii_only, plain
from pytest_quantgate.sandbox import keeper, protocol
from pytest_quantgate.sandbox.judge import LOST, compiled
from pytest_quantgate.sandbox.programs import Limits, Outcome, Program
from pytest_quantgate.sandbox.workers import Pair, Run, Worker, ending, gone

__all__ = ["Dispatch"]

WALL = 3
"""How many times its CPU seconds a program may take by the wall clock."""

_AHEAD = 4  # pairs of each worker that wait for work
_BUSY = 3  # programs of each worker that compute
_VERDICT = 16_384
_REASON = 300
_HEADER = 4
_READ = selectors.EVENT_READ


class Dispatch:
    """Judges programs on workers that stay.

    Args:
        workers: the keepers.
        limits: of every program.
        most: how many programs may be there at once, those that sleep included: each may hold `limits.memory`.

    """

    def __init__(self, workers: Sequence[Worker], limits: Limits, most: int) -> None:
        self._workers = workers
        self._most = most
        self._limits = limits
        self._selector = selectors.DefaultSelector()
        self._compiled = functools.lru_cache(maxsize=512)(compiled)
        self._numbers = 0
        self._runs: dict[int, Run] = {}
        self._waiting: deque[tuple[int, Program, float]] = deque()
        self._outcomes: dict[int, Outcome] = {}
        for worker in workers:
            self._selector.register(worker.control, _READ, (self._hear_keeper, worker))

    def close(self) -> None:
        """Let go of everything; the keepers kill what still runs when their sockets close."""
        for run in list(self._runs.values()):
            self._drop(run)
        for worker in self._workers:
            for pair in worker.ready:
                pair.guest.close()
                pair.judge.close()
            worker.ready.clear()
        self._selector.close()

    def judge(
        self, programs: Sequence[Program], seconds: Sequence[float], progress: Callable[[int, int], None]
    ) -> list[Outcome]:
        """Return what became of each program, in order.

        Raises:
            ObservationError: a keeper died.

        """
        self._outcomes = {}
        try:
            for place, program in enumerate(programs):
                self._admit(place, program, seconds[place])
            told = -1
            while len(self._outcomes) < len(programs):
                if told != len(self._outcomes):
                    told = len(self._outcomes)
                    progress(told, len(programs))
                self._turn()
        finally:
            self._waiting.clear()
            for run in list(self._runs.values()):
                self._end(run, keeper.END)
        progress(len(programs), len(programs))
        return [self._outcomes[place] for place in range(len(programs))]

    def _admit(self, place: int, program: Program, seconds: float) -> None:
        size = len(program.source.encode("utf-8", "surrogatepass"))
        if size > self._limits.source:
            reason = f"the source has {size:,} bytes, more than the {self._limits.source:,} that are allowed"
            self._outcomes[place] = Outcome(passed=False, reason=reason, seconds=0.0)
        else:
            self._waiting.append((place, program, seconds))

    def _turn(self) -> None:
        self._fork_ahead()
        while self._waiting and self._room() and (free := self._freest()):
            self._start(free.ready.popleft(), *self._waiting.popleft())
        now = time.monotonic()
        patience = min((run.began + WALL * run.seconds - now for run in self._runs.values()), default=None)
        for key, events in self._selector.select(patience if patience is None else max(0.0, patience)):
            call, *rest = key.data
            call(*rest, events)
        now = time.monotonic()
        for run in [run for run in self._runs.values() if now - run.began > WALL * run.seconds]:
            self._late(run)

    def _room(self) -> bool:
        busy = sum(not run.idle for run in self._runs.values())
        return busy < _BUSY * len(self._workers) and len(self._runs) < self._most

    def _freest(self) -> Worker | None:
        worker = max(self._workers, key=lambda one: len(one.ready))
        return worker if worker.ready else None

    def _fork_ahead(self) -> None:
        coming = sum(worker.asked + len(worker.ready) for worker in self._workers)
        for worker in self._workers:
            have = worker.asked + len(worker.ready)
            wanted = min(_AHEAD - have, len(self._waiting) - coming)
            if have <= _AHEAD // 2 and wanted > 0:
                first, self._numbers = self._numbers + 1, self._numbers + wanted
                numbers = range(first, self._numbers + 1)
                worker.ask(*((keeper.FORK, number, self._limits.seconds) for number in numbers))
                worker.asked += wanted
                coming += wanted

    def _start(self, pair: Pair, place: int, program: Program, seconds: float) -> None:
        run = Run(place, pair, seconds, time.monotonic(), secrets.token_hex(16))
        self._runs[pair.number] = run
        pair.worker.ask((keeper.GO, pair.number, seconds))
        job = {"nonce": run.nonce, "check": program.check, "code": self._compiled(program.check)}
        job |= {"entry_point": program.entry_point, "helpers": program.helpers}
        run.unsent[pair.judge] = memoryview(protocol.pack(job))
        run.unsent[pair.guest] = memoryview(protocol.pack({"source": program.source}))
        for end in (pair.guest, pair.judge):
            end.setblocking(False)
            self._write(run, end)

    def _serve(self, run: Run, end: socket.socket, events: int) -> None:
        """Send what is left to send, and read what the judge says."""
        if end.fileno() < 0:  # ended by another event of the same turn
            return
        if events & selectors.EVENT_WRITE:
            self._write(run, end)
        if events & _READ and end is run.pair.judge:
            self._read(run)

    def _write(self, run: Run, end: socket.socket) -> None:
        left = run.unsent[end]
        try:
            left = left[end.send(left) :]
        except BlockingIOError:
            pass
        except OSError:  # it died; the judge says so, or its silence does
            left = left[:0]
        run.unsent[end] = left
        self._listen(
            run, end, (_READ if end is run.pair.judge else 0) | (selectors.EVENT_WRITE if left else 0)
        )

    def _listen(self, run: Run, end: socket.socket, events: int) -> None:
        """Wait for events of one end; let go of it if there are none to wait for."""
        known = self._selector.get_map().get(end)
        if not known and events:
            self._selector.register(end, events, (self._serve, run, end))
        elif known and events:
            self._selector.modify(end, events, known.data)
        else:
            if known:
                self._selector.unregister(end)
            end.close()

    def _read(self, run: Run) -> None:
        try:
            piece = run.pair.judge.recv(_VERDICT)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        run.heard += piece
        length = int.from_bytes(run.heard[:_HEADER], "little")
        if not piece or length > _VERDICT:
            self._end(run, keeper.TELL)
        elif len(run.heard) - _HEADER >= length > 0:
            self._conclude(run, bytes(run.heard[_HEADER:]))

    def _conclude(self, run: Run, said: bytes) -> None:
        try:
            verdict = json.loads(said)
            right, reason = secrets.compare_digest(verdict["nonce"], run.nonce), str(verdict["reason"])
        except (ValueError, TypeError, KeyError, RecursionError):
            right, reason = False, ""
        if not right or reason == LOST:
            self._end(run, keeper.TELL)
        else:
            self._end(run, keeper.END)
            self._record(run, reason)

    def _late(self, run: Run) -> None:
        self._end(run, keeper.END)
        self._record(run, f"timed out after {run.seconds:g} s")

    def _hear_keeper(self, worker: Worker, _: int) -> None:
        try:
            said, ends, _, _ = socket.recv_fds(worker.control, keeper.ANSWER.size, 2)
        except OSError as error:
            raise gone() from error
        if len(said) < keeper.ANSWER.size:
            raise gone()
        operation, number, guest, judge, _ = keeper.ANSWER.unpack(said)
        if operation == keeper.PAIR:
            worker.asked -= 1
            worker.ready.append(Pair(worker, number, *(socket.socket(fileno=end) for end in ends)))
        elif run := self._runs.get(number):
            self._hear_of(run, operation, guest, judge)

    def _hear_of(self, run: Run, operation: bytes, guest: int, judge: int) -> None:
        if operation == keeper.SPENT:
            self._late(run)
        elif operation == keeper.DEAD:
            self._drop(run)
            self._record(run, ending(guest, judge, run.seconds))
        else:
            run.idle = operation == keeper.IDLE

    def _end(self, run: Run, operation: bytes) -> None:
        """Have a pair killed; with TELL it stays on the books until its exit statuses are known."""
        run.pair.worker.ask((operation, run.pair.number, 0.0))
        self._drop(run)
        if operation == keeper.TELL:
            self._runs[run.pair.number] = run

    def _drop(self, run: Run) -> None:
        self._runs.pop(run.pair.number, None)
        for end in (run.pair.guest, run.pair.judge):
            if end.fileno() >= 0:
                if end in self._selector.get_map():
                    self._selector.unregister(end)
                end.close()

    def _record(self, run: Run, reason: str) -> None:
        line = ascii_only(plain(reason))[:_REASON] or "passed"
        self._outcomes[run.place] = Outcome(not reason, line, time.monotonic() - run.began)
