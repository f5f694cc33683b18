"""The process between a session and a server that it started: when the session goes, the server goes.

Run as a file with nothing but the standard library: `python -I -S server_keeper.py SESSION GRACE COMMAND...`. Its
standard input is the session's: closed, or the session gone (killed -9 too), everything that the command started is
asked to end, and killed after GRACE seconds. On Linux orphans come to the keeper, so that those are found as well that
left the command's process group; and if the keeper itself is killed, the kernel kills the server. It exits as the
server did: with its status, or 128 and the number of the signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable

_TICK = 0.2
_DIE_WITH_PARENT, _TAKE_ORPHANS = 1, 36  # of prctl(2)


def _control(option: int, value: int) -> None:
    """Set a property of this process, where the kernel has it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _die_with_keeper() -> None:
    _control(_DIE_WITH_PARENT, signal.SIGKILL)


def _descendants() -> set[int]:
    """Return all processes below this one, from /proc."""
    parents: dict[int, int] = {}
    dead: set[int] = set()
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):  # noqa: PTH208  as below
            if name.isdigit():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123  without pathlib it starts at once
                        fields = file.read().rpartition(b")")[2].split()
                    parents[int(name)] = int(fields[1])
                    if fields[0] == b"Z":
                        dead.add(int(name))
    found, layer = set[int](), {os.getpid()}
    while layer:
        layer = {child for child, parent in parents.items() if parent in layer}
        found |= layer
    return found - dead


def _left(server: subprocess.Popen[bytes]) -> set[int]:
    """Return what still runs; the server itself where there is no /proc to look into."""
    found = _descendants()
    if server.poll() is None:
        found.add(server.pid)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    # a child whose parent died while the list was read was nobody's for a moment
    return found or _descendants()


def _send(number: int, processes: Iterable[int]) -> None:
    for process in processes:
        with contextlib.suppress(OSError):
            os.kill(process, number)


def _end(server: subprocess.Popen[bytes], grace: float) -> None:
    """End all that was started: ask each once, wait, kill until nothing is left."""
    asked: set[int] = set()
    until = time.monotonic() + grace
    while (left := _left(server)) and time.monotonic() < until:
        _send(signal.SIGTERM, left - asked)
        asked |= left
        time.sleep(_TICK / 4)
    until = time.monotonic() + grace
    while (left := _left(server)) and time.monotonic() < until:
        _send(signal.SIGKILL, left)
        time.sleep(_TICK / 4)


def main() -> int:
    """Start the command, wait, and end what it started."""
    session, grace, words = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: asked.append(number))
    _control(_TAKE_ORPHANS, 1)
    try:
        server = subprocess.Popen(  # noqa: S603  the user's own command
            words,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_keeper,  # noqa: PLW1509  one thread
        )
    except OSError as error:
        print(f"{words[0]}: {error.strerror}", flush=True)  # noqa: T201  into the log
        return 127
    while server.poll() is None and not asked and os.getppid() == session:
        ready, _, _ = select.select([0], [], [], _TICK)
        if ready and not os.read(0, 1):
            break
    ended = server.poll()
    _end(server, grace)
    return 0 if ended is None else 128 - ended if ended < 0 else ended


if __name__ == "__main__":
    sys.exit(main())
