"""What a person and a log see while something is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_quantgate import narrator


class Reporter:
    """Where pytest writes: notes what it is told."""

    def __init__(self, *, isatty: bool) -> None:
        self.isatty = isatty
        self.lines: list[str] = []
        self.drawn: list[str] = []

    def write_line(self, text: str) -> None:
        self.lines.append(text)

    def rewrite(self, text: str, *, erase: bool) -> None:
        assert erase
        self.drawn.append(text)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(narrator, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def of(reporter: Reporter | None, verbosity: int = 0) -> Any:
    """Return the narrator for a configuration with this reporter; output is captured meanwhile."""
    plugins = {
        "terminalreporter": reporter,
        "capturemanager": SimpleNamespace(global_and_fixture_disabled=nullcontext),
    }
    manager = SimpleNamespace(get_plugin=plugins.get)
    config: Any = SimpleNamespace(pluginmanager=manager, get_verbosity=lambda: verbosity)
    return narrator.narrator_of(config)


def test_a_terminal_shows_how_far_and_how_long(clock: list[float]) -> None:
    """At once what is done; then the share and the seconds left, at most five times a second; then nothing."""
    reporter = Reporter(isatty=True)
    with of(reporter).working("v tokens") as progress:
        clock[0] += 2
        progress(8, 32)
        clock[0] += 0.1
        progress(9, 32)
        clock[0] += 2
        progress(16, 32)
    assert reporter.drawn == [
        "quantgate: v tokens",
        "quantgate: v tokens 25 % (8 of 32, 6 s left)",
        "quantgate: v tokens 50 % (16 of 32, 4 s left)",
        "",
    ]
    assert reporter.lines == ["quantgate: v tokens: 4.1 s"]


def test_a_failure_clears_the_line(clock: list[float]) -> None:
    """The traceback does not begin behind a half-drawn line."""
    reporter = Reporter(isatty=True)
    with pytest.raises(ZeroDivisionError), of(reporter).working("v tokens"):
        raise ZeroDivisionError
    assert reporter.drawn[-1] == ""


def test_a_log_has_one_line_per_long_step(clock: list[float]) -> None:
    """Nothing moves in a log, and what takes less than a second is not worth a line."""
    reporter = Reporter(isatty=False)
    narrating = of(reporter)
    for seconds in (0.5, 61.0):
        with narrating.working("v tokens") as progress:
            progress(1, 2)
            clock[0] += seconds
    narrating.say("measuring again")
    assert reporter.drawn == []
    assert reporter.lines == ["quantgate: v tokens: 61.0 s", "quantgate: measuring again"]


@pytest.mark.parametrize(("reporter", "verbosity"), [(None, 0), (Reporter(isatty=True), -1)])
def test_silence(reporter: Reporter | None, verbosity: int) -> None:
    """A worker of pytest-xdist has no reporter; under -q nobody wants to know."""
    narrating = of(reporter, verbosity)
    with narrating.working("v tokens") as progress:
        progress(1, 2)
    narrating.say("x")
    assert reporter is None or reporter.drawn == reporter.lines == []


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_on_a_real_terminal(study: Any) -> None:
    """Steps show through pytest's capturing while they run, and no trace of them stays."""
    (study.path / "test_it.py").write_text(
        "from pytest_quantgate import *\n@quantgate(ppl_delta < 1e9, variants=['good'])\ndef test_it(): pass\n"
    )
    study.write()
    leader, follower = os.openpty()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--quantgate"]
    with subprocess.Popen(command, cwd=study.path, stdout=follower, stderr=follower) as process:
        os.close(follower)
        shown = b""
        while chunk := _read(leader):
            shown += chunk
    os.close(leader)
    assert process.returncode == 0
    assert b"quantgate: good tokens" in shown
    assert b"\rquantgate: good tokens" in shown


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux says EIO when the other side has gone
        return b""
