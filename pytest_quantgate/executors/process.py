"""A worker process, seen from the process that asks it: started, called, and certain to be gone in the end.

Whatever becomes of it (a segmentation fault, the kernel's out-of-memory killer, a hang) is one `WorkerError` that
says what it was doing and ends with its last lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_quantgate import errors
from pytest_quantgate.errors import MissingExtraError, ObservationError, QuantgateError, WorkerError
from pytest_quantgate.escaping import plain
from pytest_quantgate.executors.device import wait_until_free
from pytest_quantgate.executors.wire import Channel
from pytest_quantgate.executors.worker import BOOTSTRAP

if TYPE_CHECKING:
    from pytest_quantgate.interfaces import Progress

__all__ = ["Worker"]

_PACKAGE: Final = Path(__file__).parents[1]
_START_SECONDS: Final = 120.0
_END_SECONDS: Final = 5.0
_STACK_SECONDS: Final = 0.5
_SHOWN_LINES: Final = 4
_SHOWN_LENGTH: Final = 600
_STACKS: Final = ("Fatal Python error", "Current thread")
_LOG_BYTES: Final = 1 << 16
_WHY: Final = {
    signal.SIGKILL: "the kernel, for lack of memory, or a person",
    signal.SIGSEGV: "a fault in native code",
    signal.SIGBUS: "a file that shrank while it was mapped, or a fault in native code",
    signal.SIGABRT: "an assertion in native code",
    signal.SIGILL: "an instruction that this processor does not have",
}


class Worker:
    """One process.

    Args:
        name: whose it is, for messages.
        python: the interpreter; empty for this process's own, with its import path.
        limit: seconds without a sign of life after which it is taken to hang.
        device: where its model will lie, for the check that its memory is back.

    Raises:
        WorkerError: it could not be started.

    """

    def __init__(self, name: str, python: str, limit: float, device: str = "cpu") -> None:
        self._name, self._python, self._limit, self._device = name, python, limit, device
        # its own file, not a pipe: a pipe that nobody reads would block it
        self._log = tempfile.TemporaryFile(prefix="quantgate-worker-")  # noqa: SIM115  closed in close()
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours)
        self._end: WorkerError | None = None
        command = [
            *(python or sys.executable, "-I" if python else "-P", "-c", BOOTSTRAP),
            *(str(_PACKAGE), str(theirs.fileno()), str(os.getpid())),
            json.dumps([] if python else sys.path),
        ]
        try:
            self._process = subprocess.Popen(  # noqa: S603  an interpreter that the user named
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except OSError as error:
            self._channel.close()
            self._log.close()
            raise WorkerError(
                f"{name}: the interpreter {command[0]} cannot be started: {error.strerror}"
            ) from error
        finally:
            theirs.close()
        self._result("starting", min(limit, _START_SECONDS))

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it is gone, or was given up: nothing can be asked any more."""
        return self._log.closed

    def call(self, doing: str, call: str, progress: Progress | None = None, **arguments: Any) -> Any:
        """Return what the worker answers.

        Args:
            doing: what it does, for messages: "scoring".
            call: name of the call.
            progress: told how far it is.
            arguments: of the call.

        Raises:
            QuantgateError: as it was raised there.
            WorkerError: the process died or hangs.

        """
        if self._end is not None:
            raise self._end
        return self._result(doing, self._limit, progress, {"call": call, "with": arguments})

    def _result(
        self, doing: str, limit: float, progress: Progress | None = None, question: Any = None
    ) -> Any:
        try:
            answer = self._exchange(limit, progress, question)
        except TimeoutError as error:
            raise self._hung(doing, limit) from error
        except (EOFError, OSError) as error:  # the other end, or our own after close()
            raise self._died(doing) from error
        except BaseException:
            # an interrupt between question and answer: the next answer would be taken for another's
            self._end = WorkerError(f"{self._name}: its process was ended, since {doing} was interrupted")
            self._finish(0)
            raise
        if "error" in answer:
            raise self._raised(answer)
        return answer["result"]

    def _exchange(self, limit: float, progress: Progress | None, question: Any) -> dict[str, Any]:
        if question is not None:
            self._channel.send(question, limit)
        answer: dict[str, Any] = self._channel.receive(limit)
        while "progress" in answer:
            if progress is not None:
                progress(*answer["progress"])
            answer = self._channel.receive(limit)
        return answer

    def _raised(self, answer: dict[str, Any]) -> QuantgateError:
        kind, text = getattr(errors, answer["error"] or "ObservationError"), answer["text"]
        where = f"under {self._python}: " if self._python else ""
        if not answer["error"]:
            return ObservationError(f"{self._name}: {where}{plain(text)}; {self._last_lines()}")
        error: QuantgateError = kind.__new__(kind)
        error.args = (f"{where}{text}",)
        if isinstance(error, MissingExtraError):
            error.extra = answer["extra"]
        return error

    def _died(self, doing: str) -> WorkerError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        code = self._process.poll()
        said = self._last_lines()
        self.close()
        self._end = WorkerError(f"{self._name}: its process {_how_it_ended(code)} while {doing}; {said}")
        return self._end

    def _hung(self, doing: str, limit: float) -> WorkerError:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR1)  # it writes where it stands
        time.sleep(_STACK_SECONDS)
        said = self._last_lines()
        self._finish(0)
        self._end = WorkerError(
            f"{self._name}: its process gave no sign of life for {limit:g} s while {doing}, and was killed"
            f" (raise worker_limit if it needs longer); {said}"
        )
        return self._end

    def _last_lines(self) -> str:
        if self._log.closed:
            return "it wrote nothing"
        # the place in the file is shared with the process that writes it: reading must not move it
        size = os.fstat(self._log.fileno()).st_size
        content = os.pread(self._log.fileno(), _LOG_BYTES, max(0, size - _LOG_BYTES))
        lines = [line.strip() for line in content.decode(errors="replace").splitlines()]
        told = [plain(line) for line in lines if line]
        # a stack is written innermost call first
        stack = next((at for at, line in enumerate(told) if line.startswith(_STACKS)), -_SHOWN_LINES)
        shown = told[stack:][:_SHOWN_LINES]
        return f"its last lines: {' | '.join(shown)[-_SHOWN_LENGTH:]}" if shown else "it wrote nothing"

    def close(self) -> None:
        """End the process and all that it started, and wait until the device's memory is back; again is harmless."""
        if not self.ended:
            self._finish(_END_SECONDS)

    def _finish(self, patience: float) -> None:
        """Hang up, wait so many seconds for it to go by itself, and kill its group."""
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()
        wait_until_free(self._process.pid, self._device, self._name)


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "hung up"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        number = signal.Signals(-code)
    except ValueError:
        return f"was killed by signal {-code}"
    why = f": {_WHY[number]}" if number in _WHY else ""
    return f"was killed by {number.name} (signal {-code}{why})"
