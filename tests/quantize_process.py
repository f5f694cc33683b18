"""`quantgate quantize` with the fake quantizer, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
COMMAND = ("--baseline", "base", "--calibration", "words.txt", "--bits", "8", "--group-size", "32")
SCRIPT = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import recipe_fakes
import pytest_quantgate.cli.quantize as command
command.Registry = recipe_fakes.registry
from pytest_quantgate.cli import main
sys.exit(main(sys.argv[1:]))
"""


def started(folder, *arguments):
    """Start the command in a process of its own, and wait until its checkpoint is half written."""
    waits = folder / "waits.txt"
    waits.unlink(missing_ok=True)
    environment = {**os.environ, "FAKE_QUANTIZER": "waits", "FAKE_WAITS": str(waits)}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "quantize", *COMMAND, "--out", *arguments],
        cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not waits.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def left_beside(folder):
    return sorted(path.name for path in folder.iterdir() if "quantgate" in path.name and path.is_dir())
