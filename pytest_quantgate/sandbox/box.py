"""The box: starts the zygote, proves it, and judges programs in it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.sandbox.memory import most_at_once
from pytest_quantgate.sandbox.programs import MIB, Limits, Outcome, Program

__all__ = ["Box"]

_ZYGOTE = Path(__file__).with_name("zygote.py")
# -I would ignore the hash seed, and with it verdicts would change from run to run; this is -I for an environment
# that holds nothing else
_PYTHON = ("-P", "-s", "-S", "-B", "-X", "utf8")
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "LD_BIND_NOW": "1"}
_START_SECONDS = 60.0
_STOP_SECONDS = 5.0
_REPORT = 65_536
_PAIR = 64 * MIB
_WAY_ON = "to run the programs with your own rights all the same: --quantgate-allow-unsafe-code"
_UNSANDBOXED = "UNSANDBOXED"


class Box:
    """Runs programs that nobody has read, and says which of them pass their checks; a context manager.

    A program and its check are two processes; both are forked from a clean interpreter, never from this one, both are
    under a filter that knows no files, network or processes, and plain data alone passes between them: an answer
    that is a generator, an iterator, a function or an instance fails, and what a program does to its arguments is not
    seen by the check. Entering starts the interpreter and proves the box with programs that try to break out.

    Args:
        limits: what each program may use.
        workers: how many programs are meant to compute at once; 0 for as many as there are cores. While some wait or
            run into their limits, others run beside them, up to three for each worker.
        layers: "all" that the machine gives, or the "floor" alone.
        unsafe: run programs with this user's rights where the floor cannot be built, instead of refusing.

    Attributes:
        facts: what the box stands on, for a report: "sandbox", "python".

    """

    def __init__(
        self,
        limits: Limits = Limits(),  # noqa: B008  frozen
        *,
        workers: int = 0,
        layers: Literal["all", "floor"] = "all",
        unsafe: bool = False,
    ) -> None:
        if layers not in {"all", "floor"} or workers < 0:
            raise ValueError(
                f"layers must be 'all' or 'floor' and workers at least 0, not {layers!r} and {workers}"
            )
        self.limits = limits
        self.facts: dict[str, Any] = {}
        self._workers = workers or _cores()
        self._layers = layers
        self._unsafe = unsafe
        self._most = most_at_once(self._workers, limits.memory)
        self._open = contextlib.ExitStack()
        self._dispatch: Any = None

    def __enter__(self) -> Self:
        """Start the zygote and prove it.

        Raises:
            NotMeasurableError: this machine cannot run programs safely.

        """
        if not hasattr(os, "fork"):
            raise NotMeasurableError(
                f"programs cannot be run on {sys.platform}: it has no fork; use Linux, e.g. WSL 2"
            )
        from pytest_quantgate.sandbox import canaries  # noqa: PLC0415  posix only
        from pytest_quantgate.sandbox.dispatch import Dispatch  # noqa: PLC0415
        from pytest_quantgate.sandbox.workers import Worker  # noqa: PLC0415  posix only

        with contextlib.ExitStack() as stack:
            status, controls = self._start(stack)
            self.facts = self._report(status)
            self._dispatch = Dispatch([Worker(control) for control in controls], self.limits, self._most)
            stack.callback(self._dispatch.close)
            self._prove(canaries)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every process of the box."""
        self._dispatch = None
        self._open.close()

    def judge(
        self, programs: Sequence[Program], progress: Callable[[int, int], None] = lambda _done, _total: None
    ) -> list[Outcome]:
        """Return what became of each program, in their order.

        Args:
            programs: what to run.
            progress: told how many are done, of how many.

        Raises:
            ObservationError: the box itself died, e.g. because the machine ran out of memory.
            RuntimeError: the box is not open.

        """
        if self._dispatch is None:
            raise RuntimeError("the box is not open: use it in a with statement")
        found: list[Outcome] = self._dispatch.judge(programs, [self.limits.seconds] * len(programs), progress)
        return found

    def _start(self, stack: contextlib.ExitStack) -> tuple[socket.socket, list[socket.socket]]:
        """Start the zygote; return the sockets to it and to its keepers."""
        pairs = [socket.socketpair() for _ in range(self._workers + 1)]
        ours, theirs = zip(*pairs, strict=True)
        status, *controls = (end.fileno() for end in theirs)
        setting = {
            "limits": asdict(self.limits),
            "layers": self._layers,
            "unsafe": self._unsafe,
            "status": status,
            "controls": controls,
            # room for every open program's own limit, and for the judges: no program can starve another
            "memory": self._most * self.limits.memory + _PAIR * self._most,
        }
        for end in ours:
            stack.callback(end.close)
        with contextlib.ExitStack() as started:
            for end in theirs:
                started.callback(end.close)
            stack.callback(_stop, self._spawned(setting), ours)
        return ours[0], list(ours[1:])

    @staticmethod
    def _spawned(setting: dict[str, Any]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # noqa: S603  our own interpreter and file
                [sys.executable, *_PYTHON, str(_ZYGOTE), json.dumps(setting)],
                env=_ENVIRONMENT,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[setting["status"], *setting["controls"]],
                start_new_session=True,
            )
        except OSError as error:
            raise NotMeasurableError(f"the sandbox cannot be started: {error}") from error

    def _report(self, status: socket.socket) -> dict[str, Any]:
        status.settimeout(_START_SECONDS)
        try:
            said = json.loads(status.recv(_REPORT) or b'{"error": "it ended without a word"}')
        except (OSError, ValueError) as error:
            said = {"error": str(error)}
        if "error" in said:
            raise NotMeasurableError(f"no sandbox for programs can be built here: {said['error']}; {_WAY_ON}")
        return dict(said)

    def _prove(self, canaries: Any) -> None:
        """Run programs that try to break out, and honest ones; refuse if one does not end as it must."""
        if self.facts["sandbox"] == _UNSANDBOXED:
            proofs = canaries.CONTROLS
        else:
            proofs = (*canaries.CONTROLS, *canaries.CANARIES)
        seconds = [proof.seconds or self.limits.seconds for proof in proofs]
        found = self._dispatch.judge([proof.program for proof in proofs], seconds, lambda *_: None)
        for proof, outcome in zip(proofs, found, strict=True):
            if outcome.passed == proof.passes:
                continue
            what = f"{proof.program.name}: {outcome.reason}"
            if proof in canaries.CONTROLS:
                raise NotMeasurableError(f"the sandbox does not judge a plain program rightly ({what})")
            if not self._unsafe:
                raise NotMeasurableError(f"the sandbox does not hold here ({what}); {_WAY_ON}")
            self.facts["sandbox"] = _UNSANDBOXED


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _stop(zygote: subprocess.Popen[bytes], sockets: Sequence[socket.socket]) -> None:
    """End the zygote, which ends all others before itself; copies of the sockets in forked processes do not matter."""
    for end in sockets:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    try:
        zygote.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        zygote.kill()
        zygote.wait()
