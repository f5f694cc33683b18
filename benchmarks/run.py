"""Run the benchmarks, print one Markdown table, and with --write put it into docs/benchmarks.md.

Each benchmark is a module of this folder with `measure(repetitions) -> list[Row]`. Nothing here passes or
fails: a time belongs to a machine, and what is worth keeping are ratios that were taken in one run.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

from setting import described
from table import Row, markdown, put_between

BENCHMARKS = (
    "overhead",
    "warm",
    "scoring",
    "memory",
    "baseline_size",
    "identity",
    "lint",
    "early_stopping",
    "sandbox",
    "tasks",
)
DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all without")
    parser.add_argument(
        "--repetitions", type=int, help="of each measurement; each benchmark has its own default"
    )
    parser.add_argument("--write", action="store_true", help=f"put the table into docs/{DOCUMENT.name}")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.names) - set(BENCHMARKS)):
        parser.error(f"no benchmark {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}")
    if asked.write and asked.names:
        parser.error("--write takes the whole table: leave the names out")
    rows = [row for name in asked.names or BENCHMARKS for row in _measured(name, asked.repetitions)]
    text = f"{described()}\n\n{markdown(rows)}"
    print(text)
    if asked.write:
        document = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(put_between(document, text), encoding="utf-8")


def _measured(name: str, repetitions: int | None) -> list[Row]:
    began = time.perf_counter()
    measure = importlib.import_module(name).measure
    rows: list[Row] = measure() if repetitions is None else measure(repetitions)
    print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return rows


if __name__ == "__main__":
    main()
