"""Shared fixtures: a study in a temporary folder that the fake backend measures."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import fakes  # noqa: E402

CONFTEST = """
import sys
sys.path.insert(0, {here!r})

def pytest_quantgate_register(registry):
    registry.add("backends", "fake", "fakes:load")
"""


@pytest.fixture
def study(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study of a baseline and the variants `good`, `bad`; tests may add to it."""
    monkeypatch.setenv("FAKE_LOG", str(pytester.path / "fake.log"))
    for name in [name for name in os.environ if name.startswith("QUANTGATE")]:
        monkeypatch.delenv(name)
    pytester.makeconftest(CONFTEST.format(here=str(HERE)))
    made = Study(pytester)
    fakes.write_checkpoint(pytester.path / "base")
    made.variant("good", seed=1, damage=0.05)
    made.variant("bad", seed=2, damage=1.0)
    return made


class Study:
    """Writes quantgate.toml and runs pytest on it."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path
        self.tables: dict[str, str] = {
            "": 'baseline = { model = "base", backend = "fake" }\ndtype = "float32"\ndevice = "cpu"',
            "tokens": 'corpus = "corpus.txt"\nprotocol = "gptq"\nwindow = 256',
            "generation": "runs = 3\nwarmup = 0\nnew_tokens = 64",
        }
        (self.path / "corpus.txt").write_text(fakes.corpus())

    def variant(self, name: str, *, seed: int = 3, **options: object) -> None:
        """Add a variant with a checkpoint of its own and options of the fake."""
        fakes.write_checkpoint(self.path / name, seed=seed, bits=8)
        written = ", ".join(f"{key} = {str(value).lower()}" for key, value in options.items())
        self.tables[f"variants.{name}"] = f'model = "{name}"\nbackend = "fake"\noptions = {{ {written} }}'

    def gates(self, **texts: str) -> None:
        """Add gates to the configuration."""
        self.tables["gates"] = "\n".join(f'{name} = "{text}"' for name, text in texts.items())

    def write(self) -> None:
        """Write quantgate.toml."""
        parts = [
            f"[tool.quantgate{'.' if name else ''}{name}]\n{body}\n" for name, body in self.tables.items()
        ]
        (self.path / "quantgate.toml").write_text("\n".join(parts))

    def run(self, *arguments: str, active: bool = True) -> pytest.RunResult:
        """Run pytest in a process of its own."""
        self.write()
        flags = ["--quantgate"] if active else []
        return self.pytester.runpytest_subprocess("-p", "no:cacheprovider", *flags, *arguments)

    def log(self) -> list[str]:
        """Return what the fakes did, and forget it."""
        file = self.path / "fake.log"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[[str], str]:
    """Run code in a fresh interpreter and return what it prints."""
    import subprocess

    def run(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
