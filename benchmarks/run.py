"""Run every benchmark and print one Markdown table; `--write` puts it into docs/benchmarks.md as well."""

from __future__ import annotations

import argparse
import os
import platform
from importlib.metadata import version
from pathlib import Path

import baseline_size
import memory
import overhead
import scoring
from table import markdown, put_between

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def main() -> None:
    """Measure, print and perhaps write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.name}")
    arguments = parser.parse_args()
    rows = [row for benchmark in (overhead, scoring, memory, baseline_size) for row in benchmark.measure()]
    text = f"{_machine()}\n\n{markdown(rows)}"
    print(text)
    if arguments.write:
        PAGE.write_text(put_between(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")


def _machine() -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "pytest", "numpy"))
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}."


if __name__ == "__main__":
    main()
