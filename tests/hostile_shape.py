"""What a hostile program is, and how the four files of them write one down."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent
from typing import Literal

Kind = Literal["verdict", "files", "secrets", "processes", "network", "resources", "output"]
Trace = Literal[
    "verdict", "file", "secret", "process", "parent", "connection", "ipc", "output", "reason", "time"
]

ENTRY = "entry"

# no two programs could guess these; a wrong function is judged failed unless it forges the verdict
ANSWERS = """
def check(candidate):
    assert candidate(3) == 7919
    assert candidate(5) == 6581
    assert candidate(8) == 4409
"""

# what a function answers whose attack worked
WORKED = """
def check(candidate):
    assert candidate(3) == 10
    assert candidate(5) == 26
"""

# the digest of the secret stands in the check, never the secret: the check's own text may be reported
STOLEN = """
def check(candidate):
    import hashlib
    found = candidate()
    assert hashlib.sha256(str(found).encode()).hexdigest() == "{digest}", "something else than the secret"
"""

_GATE = """

_worked = []

def entry(given):
    if not _worked:
        attack()
        _worked.append(True)
    return given * given + 1
"""

_THEFT = r"""
import re

def secret_in(blob):
    if isinstance(blob, str):
        blob = blob.encode("utf-8", "surrogateescape")
    found = re.search(rb"qgsecret-[0-9a-f]{32}", blob)
    if not found:
        raise LookupError("no secret in %d bytes" % len(blob))
    return found[0].decode()
"""


@dataclass(frozen=True, slots=True)
class Hostile:
    """A program that tries to pass wrongly or to leave a trace outside of the box.

    `source` and `check` hold places that `fill` fills in, such as `{canary}`. `trace` says what to look for
    outside. `expected` is "failed" if the function is wrong unless the attack works; "no trace" if it answers
    right whatever becomes of the attack. `bare` says whether the control may run it without any box, and
    whether it then gets through: "bites"; "harmless" where the machine or Python itself withstands it, or what
    it aims at exists only in a box; "never" where a run without a box would harm or hang the machine. `helpers`
    is what the check calls beside the function, as the data set has it.
    """

    name: str
    kind: Kind
    source: str
    check: str
    trace: Trace
    expected: Literal["failed", "no trace"] = "failed"
    bare: Literal["bites", "harmless", "never"] = "bites"
    helpers: str = ""


def fill(text: str, places: dict[str, str]) -> str:
    """Return `text` with its places filled in; other braces stay what they are."""
    for place, value in places.items():
        text = text.replace("{" + place + "}", value)
    return text


def gated(attack: str) -> str:
    """Return a program whose function answers `WORKED` only if `attack()` returns instead of raising."""
    return dedent(attack).strip() + _GATE


def theft(attack: str) -> str:
    """Return a program whose function returns the secret that `attack()` finds, for the check `STOLEN`."""
    return _THEFT + dedent(attack).strip() + "\n\n\ndef entry():\n    return attack()\n"


def program(source: str) -> str:
    """Return a program from an indented literal."""
    return dedent(source).strip() + "\n"
