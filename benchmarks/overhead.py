"""What a suite without gates pays for the plugin: whole pytest processes, with it and with `-p no:quantgate`.

Everything else that is installed loads in both. 1000 tests without a gate show what the plugin's hooks cost
per test, an empty suite and `--help` what loading it costs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from table import Row
from timing import alternate, seconds

__all__ = ["measure", "pytest_in"]

TESTS = 1000
CASES = (
    (f"unused: {TESTS} tests without a gate", "thousand", ("-q",), 0),
    ("unused: an empty suite", "empty", ("-q",), 5),
    ("unused: `pytest --help`", "empty", ("--help",), 0),
)


def measure(repetitions: int = 15) -> list[Row]:
    """Return how many times as long pytest takes with the plugin."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_tests(root / "thousand", TESTS)
        (root / "empty").mkdir()
        return [
            _row(what, pytest_in(root / where, *arguments, expected=expected), repetitions)
            for what, where, arguments, expected in CASES
        ]


def write_tests(folder: Path, count: int) -> Path:
    """Write a folder with `count` tests that do nothing."""
    folder.mkdir(parents=True)
    tests = (f"def test_{number}():\n    pass\n" for number in range(count))
    (folder / "test_nothing.py").write_text("\n\n".join(tests), encoding="utf-8")
    return folder


def pytest_in(folder: Path, *arguments: str, expected: int = 0) -> Callable[..., str]:
    """Return a function that runs pytest there, with further arguments, and returns what it printed."""

    def run(*further: str) -> str:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, *further]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != expected:
            raise RuntimeError(
                f"{' '.join(command)} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr}"
            )
        return done.stdout

    return run


def _row(what: str, run: Callable[..., str], repetitions: int) -> Row:
    timing = alternate(run, partial(run, "-p", "no:quantgate"), repetitions)
    return Row(
        what, seconds(timing.our_median), seconds(timing.their_median), timing.cost, timing.cost_spread
    )
