"""Programs that prove a box before it is used: some that must pass, and some that try what must not work.

A canary answers "held" where its attempt failed as it has to; so the same program shows that code runs at all.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_quantgate.sandbox.programs import Program

__all__ = ["CANARIES", "CONTROLS", "Proof"]

_SHORT = 0.2


@dataclass(frozen=True, slots=True)
class Proof:
    """A program and how it must end."""

    program: Program
    passes: bool = True
    seconds: float = 0.0


_CHECK = """
def check(candidate):
    found = candidate()
    assert found == "held", found
"""

_FRAME = """
def attempt():
    import ctypes, errno, os, sys
    libc = ctypes.CDLL(None, use_errno=True)
    def call(*arguments):
        ctypes.set_errno(0)
        return libc.syscall(*map(ctypes.c_long, arguments)), ctypes.get_errno()
    try:
        {body}
    except (OSError, ImportError, MemoryError):
        return "held"
"""


def _canary(name: str, *lines: str) -> Proof:
    body = "\n        ".join(lines)
    return Proof(Program(f"canary: {name}", _FRAME.format(body=body), "attempt", _CHECK))


CONTROLS = (
    Proof(
        Program(
            "control: an honest program",
            "import json, math\nfrom dataclasses import dataclass\n"
            "@dataclass\nclass P:\n    x: int\n"
            "def f(xs):\n    return [json.loads(json.dumps(math.gcd(x, P(6).x))) for x in sorted(xs)]\n",
            "f",
            "def check(candidate):\n    assert candidate([9, 8, 6]) == [6, 2, 3]\n    assert candidate([]) == []\n",
        )
    ),
    Proof(
        Program(
            "control: a wrong program",
            "def f():\n    return 1\n",
            "f",
            "def check(c):\n    assert c() == 2\n",
        ),
        passes=False,
    ),
)
"""What any box must judge rightly, for else it would contain everything because nothing runs."""

CANARIES = (
    _canary("reads a file", "os.close(os.open('/etc/passwd', os.O_RDONLY))", "return 'a file was opened'"),
    _canary("lists a folder", "os.listdir('/')", "return 'a folder was listed'"),
    _canary("forks", "if os.fork() == 0:", "    os._exit(0)", "return 'a process was made'"),
    _canary("runs a program", "os.posix_spawn('/bin/true', ['true'], {})", "return 'a program was run'"),
    _canary("opens a socket", "import socket", "socket.socket()", "return 'a socket was opened'"),
    _canary("signals its parent", "os.kill(os.getppid(), 0)", "return 'a signal was sent'"),
    _canary(
        "makes executable memory",
        "import mmap",
        "mmap.mmap(-1, 4096, prot=mmap.PROT_EXEC | mmap.PROT_READ)",
        "return 'memory was made executable'",
    ),
    _canary(
        "traces, uses io_uring, lifts limits",
        "here = 'x86_64' in os.uname().machine",
        "calls = [(101, 0, 0), (425, 8, 0), (302, 0, 9)] if here else [(117, 0, 0), (425, 8, 0), (261, 0, 9)]",
        "got = [call(*one, 0, 0, 0) for one in calls]",
        "return 'held' if got == [(-1, errno.EPERM)] * 3 else f'system calls gave {got}'",
    ),
    _canary(
        "finds a secret",
        "known = {'PYTHONHASHSEED', 'LC_ALL', 'LC_CTYPE', 'LD_BIND_NOW'}",
        "return 'held' if set(os.environ) <= known else 'the environment was inherited'",
    ),
    _canary("takes too much memory", "bytearray(1 << 46)", "return 'memory has no limit'"),
    Proof(
        Program(
            "canary: writes to every descriptor and leaves",
            "import os\ndef attempt():\n    for at in range(256):\n        try:\n"
            '            os.write(at, b\'\\x13\\0\\0\\0{"passed":true,"nonce":0}\')\n'
            "        except OSError:\n            pass\n    os._exit(0)\n",
            "attempt",
            _CHECK,
        ),
        passes=False,
    ),
    Proof(
        Program(
            "canary: returns what equals everything",
            "class Any(str):\n    def __eq__(self, other):\n        return True\n    __hash__ = str.__hash__\n"
            "def attempt():\n    return Any('wrong')\n",
            "attempt",
            _CHECK,
        ),
        passes=False,
    ),
    Proof(
        Program(
            "canary: a check that reads a file",
            "def attempt():\n    return 'held'\n",
            "attempt",
            "import os\ndef check(candidate):\n    os.stat('/')\n",
        ),
        passes=False,
    ),
    Proof(
        Program("canary: never ends", "def attempt():\n    while True:\n        pass\n", "attempt", _CHECK),
        passes=False,
        seconds=_SHORT,
    ),
)
"""What must not work in a box with a floor."""
