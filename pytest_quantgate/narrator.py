"""Says what goes on: a line that moves on a terminal, one line per piece of work in a log, nothing in a worker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from pytest_quantgate.engine import Narrator
    from pytest_quantgate.interfaces import Progress

__all__ = ["Terminal", "narrator_of"]

_REDRAW = 0.2
"""Seconds between two drawings of the moving line."""
_WORTH_A_LINE = 1.0
"""Seconds that a piece of work takes before a log mentions it."""


def narrator_of(config: pytest.Config) -> Narrator:
    """Return the narrator that fits where pytest writes: none in xdist workers and under -q."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or config.get_verbosity() < 0:
        return _Silent()
    return Terminal(reporter, config.pluginmanager.get_plugin("capturemanager"))


class _Silent:
    def working(self, what: str) -> AbstractContextManager[Progress]:  # noqa: ARG002
        return nullcontext(_ignore)

    def say(self, text: str) -> None:
        """Say nothing."""


class Terminal:
    """Tells by a moving line where `reporter` writes to a terminal, else by a line per long piece of work."""

    def __init__(self, reporter: Any, capture: Any) -> None:
        self._reporter = reporter
        self._capture = capture

    def say(self, text: str) -> None:
        """Print one line."""
        with self._uncaptured():
            self._reporter.write_line(f"quantgate: {text}")

    @contextmanager
    def working(self, what: str) -> Iterator[Progress]:
        """Show how far a piece of work is."""
        started = time.monotonic()
        if not self._reporter.isatty:
            yield _ignore
        else:
            line = _MovingLine(self, what, started)
            try:
                yield line.draw
            finally:
                line.clear()
        took = time.monotonic() - started
        if took >= _WORTH_A_LINE:
            self.say(f"{what}: {took:.1f} s")

    def rewrite(self, text: str) -> None:
        """Draw the moving line."""
        with self._uncaptured():
            self._reporter.rewrite(text, erase=True)

    def _uncaptured(self) -> AbstractContextManager[None]:
        disabled: AbstractContextManager[None] = (
            self._capture.global_and_fixture_disabled() if self._capture else nullcontext()
        )
        return disabled


class _MovingLine:
    """What a person sees while a step runs: "gptq-v1 tokens 37 % (12 of 32, 8 s left)"."""

    def __init__(self, terminal: Terminal, what: str, started: float) -> None:
        self._terminal = terminal
        self._what = what
        self._started = started
        self._next = started
        self.draw(0, 0)

    def draw(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _REDRAW
        text = f"quantgate: {self._what}"
        if total and done:
            left = (now - self._started) * (total - done) / done
            text += f" {100 * done // total} % ({done} of {total}, {left:.0f} s left)"
        self._terminal.rewrite(text)

    def clear(self) -> None:
        self._terminal.rewrite("")


def _ignore(done: int, total: int) -> None:
    """Take no notice of progress."""
