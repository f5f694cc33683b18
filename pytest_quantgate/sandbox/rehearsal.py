"""A rehearsal before the forks: what every guest and judge does is done once here, several times over.

Python adapts its code to what it meets and fills caches of types and names. Each process would do that again in pages
that it shares with the others until it writes to them; rehearsed, a pair writes to a third less of them.
"""

from __future__ import annotations

import os
import socket
import sys

from pytest_quantgate.sandbox import guest, judge, protocol

__all__ = ["rehearse"]

_ROUNDS = 12
_SOURCE = '''
from typing import Dict, List, Optional, Tuple
import math

def f(xs: List[int], word: str = "") -> Tuple[int, str]:
    """Doc."""
    if word == "no":
        raise ValueError("no")
    kept = {x: str(x) for x in sorted(xs) if x % 2 == 0}
    total = 0
    for number, text in enumerate(kept.values()):
        total += int(text) * number + len(word.split(" "))
    return total, "".join(reversed(word)).upper()
'''
_CHECK = """
METADATA = {"author": "nobody"}

def check(candidate):
    assert candidate([4, 2, 3], "ab c") == (5, "C BA"), "first"
    assert abs(candidate([4, 2, 3], word="ab c")[0] - 5.0) < 1e-6
    for _ in range(2):
        assert candidate([4, 2, 3], "ab c")[1] == "C BA"
"""


def rehearse() -> None:
    """Play both parts, without forking."""
    for _ in range(_ROUNDS):
        for play in (_guest, _judge):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                play(ours, theirs.fileno())
    sys.modules.pop("program", None)


def _guest(ours: socket.socket, calls: int) -> None:
    for word in ("ab c", "no"):
        arguments = [protocol.encode([[4, 2, 3], word]), protocol.encode({})]
        protocol.Wire(ours.fileno()).send(["call", "f", *arguments])
    ours.shutdown(socket.SHUT_WR)
    reading, writing = os.pipe()
    protocol.Wire(writing).send({"source": _SOURCE})
    os.close(writing)
    guest.work(reading, calls)


def _judge(ours: socket.socket, calls: int) -> None:
    answer = ["returned", protocol.encode((5, "C BA"))]
    for message in (["ready", {"f": "()", "math": "math"}], answer, answer, answer, answer):
        protocol.Wire(ours.fileno()).send(message)
    job = {"check": _CHECK, "code": judge.compiled(_CHECK), "entry_point": "f", "helpers": "", "nonce": "0"}
    reading, writing = socket.socketpair()
    with reading, writing:
        protocol.Wire(reading.fileno()).send(job)
        judge.work(writing.fileno(), calls)
        if protocol.Wire(reading.fileno()).receive()["reason"]:
            raise AssertionError("the rehearsal failed")
