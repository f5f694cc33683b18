"""A suite that does not use gates pays nothing: looked at when the interpreter exits, after every hook has run."""

from __future__ import annotations

import json

import pytest

HEAVY = ("torch", "transformers", "numpy", "pytest_quantgate.session", "pytest_quantgate.engine", "datasets")
WATCH = """
import atexit, json, sys
def note():
    with open({file!r}, "w") as file:
        json.dump([name for name in {heavy!r} if name in sys.modules], file)
atexit.register(note)
"""


def imported(pytester: pytest.Pytester, *arguments: str) -> tuple[list[str], pytest.RunResult]:
    file = pytester.path / "imported.json"
    pytester.makeconftest(WATCH.format(file=str(file), heavy=HEAVY))
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)
    return json.loads(file.read_text()), result


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["--collect-only"], ["-n", "2"]])
def test_without_gates(pytester, arguments):
    """No heavy import, no output, no file."""
    pytester.makepyfile("def test_it(): pass")
    pytester.makefile(".toml", pyproject="[project]\nname = 'x'\n")
    before = {path.name for path in pytester.path.iterdir()}
    if "--version" in arguments:
        pytester.runpytest_subprocess(*arguments)
        return
    found, result = imported(pytester, *arguments)
    assert found == []
    left = {path.name for path in pytester.path.iterdir() if not path.name.startswith("runpytest")} - before
    assert left <= {"imported.json", "conftest.py", "__pycache__", "stdout", "stderr"}
    if "--help" not in arguments:
        assert not [
            line for line in result.outlines if "quantgate" in line and not line.startswith("plugins:")
        ]


def test_with_the_flag_and_no_gate(pytester):
    """The flag alone costs nothing either."""
    pytester.makepyfile("def test_it(): pass")
    found, _ = imported(pytester, "--quantgate")
    assert found == []


def test_gates_without_the_flag(pytester):
    """Skipped gates import no engine, no numpy and no session."""
    pytester.makepyfile(
        "from pytest_quantgate import *\n@quantgate(ppl_delta < 1)\ndef test_it(quantized_model): pass"
    )
    found, result = imported(pytester)
    assert found == []
    result.assert_outcomes(skipped=1)


def test_warm_run_imports_no_engine(study):
    """With every observation in the store, neither torch nor transformers is imported."""
    (study.path / "test_it.py").write_text(
        "from pytest_quantgate import *\n@quantgate(ppl_delta < 1e9)\ndef test_it(quantized_model): pass"
    )
    study.run().assert_outcomes(passed=2)
    file = study.path / "imported.json"
    conftest = study.path / "conftest.py"
    conftest.write_text(WATCH.format(file=str(file), heavy=HEAVY) + conftest.read_text())
    study.run().assert_outcomes(passed=2)
    assert not {"torch", "transformers", "datasets"} & set(json.loads(file.read_text()))


def test_the_package_is_light(run_python):
    """`import pytest_quantgate` and the gate language import neither numpy nor pytest's internals beyond marks."""
    print_heavy = f"import sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert (
        run_python(
            f"from pytest_quantgate import ppl_delta, GiB; from pytest_quantgate.parse import parse; {print_heavy}"
        ).strip()
        == "[]"
    )
