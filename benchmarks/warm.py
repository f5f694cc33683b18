"""What judging the example costs: cold, and warm, against bare pytest on as many tests that do nothing.

Cold measures and quantizes everything into an empty store; warm finds every observation there, loads no model
and imports no torch. The fake backend's study is the control: the same machinery with next to no data.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from overhead import pytest_in, write_tests
from table import Row
from timing import alternate, clock, seconds

__all__ = ["measure"]

ROOT = Path(__file__).parents[1]
COUNTED = re.compile(r"(\d+) (?:passed|xfailed)")
AIM_COLD, AIM_WARM = "under 2 min", "under 5 s"
TOKENS = '[tool.quantgate.tokens]\ncorpus = "corpus.txt"\nwindow = 256\n'


def measure(repetitions: int = 7) -> list[Row]:
    """Return the example's cold time, and the warm times of both studies as ratios to bare pytest."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        studies = {
            "the example": _example(root / "example"),
            "a study of the fake backend": _fake(root / "fake"),
        }
        return [
            row for name, study in studies.items() for row in _rows(name, study, root / "bare", repetitions)
        ]


def _rows(name: str, study: Path, bare: Path, repetitions: int) -> list[Row]:
    run = pytest_in(study, "--quantgate", "--quantgate-store", str(study / "store"))
    printed = list[str]()
    cold = clock(lambda: printed.append(run()))
    # of the last line, the verdicts only: pytest counts warnings there, too
    tests = sum(int(count) for count in COUNTED.findall(printed[0].strip().splitlines()[-1]))
    nothing = pytest_in(write_tests(bare / study.name, tests), "-p", "no:quantgate")
    timing = alternate(run, nothing, repetitions)
    is_example = study.name == "example"
    return [
        Row(f"{name}, cold ({tests} tests)", seconds(cold), aim=AIM_COLD if is_example else ""),
        Row(
            f"{name}, warm, to as many tests that do nothing",
            seconds(timing.our_median),
            seconds(timing.their_median),
            timing.cost,
            timing.cost_spread,
            AIM_WARM if is_example else "",
        ),
    ]


def _example(folder: Path) -> Path:
    """Copy the example without what earlier runs left."""
    return shutil.copytree(
        ROOT / "example_project", folder, ignore=shutil.ignore_patterns(".quantgate", "make", "__pycache__")
    )


def _fake(folder: Path) -> Path:
    """Write a study of five variants whose models are functions."""
    sys.path.insert(0, str(ROOT / "tests"))
    fakes = importlib.import_module("fakes")
    fakes.write_checkpoint(folder / "base")
    tables = [
        '[tool.quantgate]\nbaseline = { model = "base", backend = "fake" }\ndtype = "float32"\n',
        TOKENS,
    ]
    for number in range(5):
        fakes.write_checkpoint(folder / f"v{number}", seed=number, bits=8)
        options = f"options = {{ damage = {0.05 * (number + 1):.2f} }}"
        tables.append(
            f'[tool.quantgate.variants.v{number}]\nmodel = "v{number}"\nbackend = "fake"\n{options}\n'
        )
    (folder / "quantgate.toml").write_text("\n".join(tables), encoding="utf-8")
    (folder / "corpus.txt").write_text(fakes.corpus(), encoding="utf-8")
    (folder / "conftest.py").write_text(_registering(ROOT / "tests"), encoding="utf-8")
    (folder / "test_release.py").write_text(
        "from pytest_quantgate import ppl_delta, quantgate\n\n\n"
        "@quantgate(ppl_delta < 1e9)\ndef test_quality(quantized_model):\n    pass\n",
        encoding="utf-8",
    )
    return folder


def _registering(tests: Path) -> str:
    return (
        f"import sys\n\nsys.path.insert(0, {os.fspath(tests)!r})\n\n\n"
        'def pytest_quantgate_register(registry):\n    registry.add("backends", "fake", "fakes:load")\n'
    )
