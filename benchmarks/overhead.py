"""What the plugin costs a suite that does not use it, and what a warm run of the example costs: whole processes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from table import Row
from timing import alternate, seconds

__all__ = ["measure"]

ROOT = Path(__file__).parents[1]
TESTS = 1000


def measure(repetitions: int = 7) -> list[Row]:
    """Return the start-up ratios without gates, and the warm run against as many empty tests."""
    with tempfile.TemporaryDirectory() as folder:
        empty, many, few = (suite(Path(folder) / str(count), count) for count in (1, TESTS, 14))
        return [
            _unused("one test", empty, repetitions),
            _unused(f"{TESTS:,} tests", many, repetitions),
            _warm(few, repetitions),
        ]


def suite(folder: Path, tests: int) -> Path:
    """Write that many empty tests."""
    folder.mkdir()
    (folder / "test_it.py").write_text("\n".join(f"def test_{number}(): pass" for number in range(tests)))
    return folder


def pytest(folder: Path, *arguments: str) -> Callable[[], object]:
    """Return a run of pytest in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, str(folder)]
    return lambda: subprocess.run(command, cwd=folder, capture_output=True, check=True)


def _unused(what: str, folder: Path, repetitions: int) -> Row:
    timing = alternate(pytest(folder), pytest(folder, "-p", "no:quantgate"), repetitions)
    return Row(
        f"unused, {what}: run time as a ratio to `-p no:quantgate`",
        seconds(timing.our_median),
        seconds(timing.their_median),
        timing.cost,
        timing.cost_spread,
        "near 1",
    )


def _warm(few: Path, repetitions: int) -> Row:
    example = pytest(ROOT / "example_project", "--quantgate")
    timing = alternate(example, pytest(few), repetitions)
    return Row(
        "warm run of the example, everything in the store, as a ratio to 14 empty tests",
        seconds(timing.our_median),
        seconds(timing.their_median),
        timing.cost,
        timing.cost_spread,
        "under 5 s",
    )
