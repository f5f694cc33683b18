"""Several processes and sudden ends: the target is whole or as it was, and nobody waits in vain."""

from __future__ import annotations

import signal

import pytest
import recipe_fakes
from quantize_process import COMMAND, left_beside, started

from pytest_quantgate.cli import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A baseline and calibration data in the current folder; quantizer and backend are fakes."""
    monkeypatch.chdir(recipe_fakes.write_study(tmp_path))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "fake.log"))
    monkeypatch.setattr("pytest_quantgate.cli.quantize.Registry", recipe_fakes.registry)
    return tmp_path


def run(capsys, *arguments):
    """Run `quantgate quantize` in this process."""
    try:
        code = main(["quantize", *arguments])
    except SystemExit as ended:
        code = ended.code
    return code, *capsys.readouterr()


@pytest.mark.parametrize("there", [False, True])
def test_killed_in_the_middle(folder, capsys, there):
    """The target is as it was, with a checkpoint or without one; the next run clears up and succeeds."""
    if there:
        assert run(capsys, *COMMAND, "--group-size", "16", "--out", "made")[0] == 0
    process = started(folder, "made", "--force")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert (folder / "made").exists() == there
    assert left_beside(folder) == [".made.quantgate"]
    if there:
        assert (folder / "made" / "group.txt").read_text() == "16"
    assert run(capsys, *COMMAND, "--out", "made", "--force")[0] == 0
    assert left_beside(folder) == []
    assert (folder / "made" / "group.txt").read_text() == "32"


def test_interrupted_from_outside(folder):
    """A real SIGINT in the middle: pytest's exit code, one line, and nothing is left."""
    process = started(folder, "made")
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 2
    assert told.splitlines()[-1] == "quantgate: interrupted; made is as it was"
    assert "Traceback" not in told
    assert not (folder / "made").exists()
    assert left_beside(folder) == []


def test_two_processes_and_one_folder(folder, capsys):
    """The second one is told at once, and the first is not disturbed; another folder is free."""
    process = started(folder, "made")
    try:
        code, _, err = run(capsys, *COMMAND, "--out", "made")
        assert code == 4
        assert (
            f"{folder}/made: another process is writing it; wait for that one, or give another --out" in err
        )
        assert process.poll() is None
        assert left_beside(folder) == [".made.quantgate"]
        assert run(capsys, *COMMAND, "--out", "elsewhere")[0] == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
