"""A server as a process of our own: a port found, the command started, waited for, logged, and ended with all it began.

Between this process and the server stands a keeper (see `server_keeper`), which ends the server and everything that it
started when this process asks, exits, or is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from pytest_quantgate.errors import ConfigError, NotMeasurableError, ObservationError
from pytest_quantgate.escaping import plain

__all__ = ["Launched", "command", "free_port", "launch"]

PORT, MODEL = "{port}", "{model}"
LOOPBACK = "127.0.0.1"
KEEPER = Path(__file__).with_name("server_keeper.py")
LINES, LONGEST = 4, 400
GRACE = 10.0
"""Seconds between the request to end and the killing; the keeper counts them."""


def free_port() -> int:
    """Return a port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def command(line: str, place: str, *, port: int, model: str) -> list[str]:
    """Return the words of a launch command, port and folder put in; no shell reads it.

    Raises:
        ConfigError: it is empty, or quoted wrongly.
        NotMeasurableError: its program is not there.

    """
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise ConfigError(f"{place}: launch = {line!r} cannot be read: {error}") from error
    if not words:
        raise ConfigError(f'{place}: launch is empty; write "vllm serve {MODEL} --port {PORT}"')
    found = [word.replace(PORT, str(port)).replace(MODEL, model) for word in words]
    if shutil.which(found[0]) is None:
        raise NotMeasurableError(
            f"{place}: launch: no program {found[0]!r} here; install it, or give its path"
        )
    return found


def is_taken(port: int) -> bool:
    """Return whether something listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


class Launched:
    """A server that was started here.

    Args:
        words: the command.
        place: who wants it, for messages.
        secret: what must not be shown, should the server print it.

    Attributes:
        log: the file with what it prints.

    """

    def __init__(self, words: list[str], place: str, *, secret: str = "") -> None:
        self._place, self._secret = place, secret
        handle, name = tempfile.mkstemp(prefix="quantgate-server-", suffix=".log")
        self.log = Path(name)
        with os.fdopen(handle, "wb") as output:
            self._keeper = _keep(words, output)
        atexit.register(self.stop)

    def died(self) -> str:
        """Return what became of a server that ended; empty while it runs."""
        status = self._keeper.poll()
        if status is None:
            return ""
        how = f"by signal {signal.Signals(status - 128).name}" if status > 128 else f"with status {status}"  # noqa: PLR2004
        return f"{self._place}: the server ended {how}: {self.tail()} (log: {self.log})"

    def mourned(self, seconds: float = 2.0) -> str:
        """Return what became of a server whose connection broke; empty if it still runs after so many seconds."""
        until = time.monotonic() + seconds
        while not (ended := self.died()) and time.monotonic() < until:
            time.sleep(0.05)
        return ended

    def tail(self) -> str:
        """Return its last lines as one."""
        with contextlib.suppress(OSError):
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 2**14))
                text = file.read().decode(errors="replace")
            if self._secret:
                text = text.replace(self._secret, "***")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            return plain(" | ".join(lines[-LINES:])[-LONGEST:]) or "it printed nothing"
        return "its log cannot be read"

    def stop(self) -> None:
        """End the server and everything that it started; stopping twice is harmless."""
        atexit.unregister(self.stop)
        keeper = self._keeper
        if keeper.stdin and not keeper.stdin.closed:
            with contextlib.suppress(OSError):
                keeper.stdin.close()  # the keeper takes that as the request
        keeper.terminate()  # and this, where a forked process still holds the other end
        try:
            keeper.wait(GRACE + 5)
        except subprocess.TimeoutExpired:
            keeper.kill()  # the kernel then kills the server
            keeper.wait()


def _keep(words: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    # a session of its own: Ctrl-C in the terminal reaches this process alone, which then ends the server in order
    return subprocess.Popen(  # noqa: S603  the user's own command
        [sys.executable, "-I", "-S", str(KEEPER), str(os.getpid()), str(GRACE), *words],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def launch(line: str, place: str, *, port: int, model: str, secret: str = "") -> Launched:
    """Start a server.

    Raises:
        ConfigError: the command cannot be read.
        NotMeasurableError: its program is not there.
        ObservationError: its port is taken.

    """
    words = command(line, place, port=port, model=model)
    if is_taken(port):
        raise ObservationError(
            f"{place}: launch: port {port} is taken by another process; write {PORT} in the command for a free one"
        )
    return Launched(words, place, secret=secret)


def pause(seconds: float) -> float:
    """Wait, and return how long to wait the next time."""
    time.sleep(seconds)
    return min(seconds * 1.5, 2.0)
