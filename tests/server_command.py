"""What a launch command starts in the tests: `python server_command.py PORT KIND [what else happens]...`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from fake_servers import VOCABULARY, Fake


def say(*words: object) -> None:
    """Write a line of the log."""
    print(*words, flush=True)  # noqa: T201


def main() -> None:
    """Serve in the foreground; what else happens is said by the words behind the port."""
    port, kind, what = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    say("starting with", os.environ.get("FAKE_KEY", "no key"))
    if "dies" in what:
        say("Traceback (most recent call last):\n  File ...\nValueError: no such model")
        sys.exit(3)
    if "silent" in what:
        time.sleep(600)
    if "children" in what:  # one of which leaves the session
        for alone in (False, True):
            child = subprocess.Popen(["sleep", "600"], start_new_session=alone)
            say("child", child.pid)
    if "stubborn" in what:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Fake(kind, pieces=tuple("x" * VOCABULARY)).start(port)
    say("ready", os.getpid())
    while True:
        time.sleep(1)


if __name__ == "__main__":
    main()
