"""The software that a model runs under, where it is not this process's own: an interpreter, or one that is made here.

A list of requirements becomes a virtual environment below the store, made once, by `uv` where it is installed and else
by `venv` and `pip`. What was installed is written beside it (`<key>.txt`): an environment that is made again gets the
same versions.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_quantgate.errors import ConfigError, StoreError
from pytest_quantgate.escaping import plain
from pytest_quantgate.files import write_atomic
from pytest_quantgate.spec import digest

if TYPE_CHECKING:
    from pytest_quantgate.engine import Narrator
    from pytest_quantgate.store import Store
    from pytest_quantgate.study import Stack

__all__ = ["Stacks", "requirement_names"]

OLDEST: Final = (3, 10)
_PROBE: Final = """
import importlib.metadata, json, sys
found = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions() if each.metadata["Name"]}
print(json.dumps({"python": list(sys.version_info[:3]), "installed": found}))
"""
_PROBE_SECONDS: Final = 60
_COMPLETE: Final = "quantgate-complete"
_SHOWN_LINES: Final = 4
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Stacks:
    """Finds interpreters, and makes them.

    Args:
        store: whose folder `stacks` keeps the environments.
        root: the folder that relative paths count from.
        narrator: who is told while one is made, which takes minutes.
        offline: none may be made.

    """

    def __init__(self, store: Store, root: Path, narrator: Narrator, *, offline: bool) -> None:
        self._store, self._root, self._narrator, self._offline = store, root, narrator, offline
        self._probed: dict[str, Mapping[str, Any]] = {}

    def interpreter(self, place: str, stack: Stack) -> str:
        """Return the path of a stack's interpreter, making its environment if it is not there; empty for our own.

        Args:
            place: which variant asks, for messages.
            stack: what it asks for.

        Raises:
            ConfigError: there is no such interpreter, it is too old, or the requirements cannot be installed.
            StoreError: it would have to be made, offline.

        """
        base = str(self._root / Path(stack.python).expanduser()) if stack.python else ""
        if base:
            self._probe(place, base)
        return (
            self._environment(place, base or sys.executable, stack.requirements)
            if stack.requirements
            else base
        )

    def versions(self, place: str, python: str, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
        """Return (name, version) of those distributions that an interpreter has, sorted by name."""
        found = {_normal(name): version for name, version in self._probe(place, python)["installed"].items()}
        return tuple(sorted((name, found[_normal(name)]) for name in names if _normal(name) in found))

    def _probe(self, place: str, python: str) -> Mapping[str, Any]:
        if python not in self._probed:
            self._probed[python] = _probe(place, python)
        return self._probed[python]

    def _environment(self, place: str, base: str, requirements: Sequence[str]) -> str:
        made_of = {"python": self._probe(place, base)["python"], "requirements": sorted(requirements)}
        key = digest(made_of)
        folder = self._store.root / "stacks" / key[:16]
        python = folder / "bin" / "python"
        if (folder / _COMPLETE).exists() and python.exists():
            return str(python)
        if self._offline:
            raise StoreError(
                f"{place}: the environment of its requirements is not in {folder.parent}; run once without"
                " --quantgate-offline"
            )
        with self._store.lock(key), self._narrator.working(f"{place} environment"):
            if not (folder / _COMPLETE).exists():
                self._make(place, folder, base, requirements)
        return str(python)

    def _make(self, place: str, folder: Path, base: str, requirements: Sequence[str]) -> None:
        """Make an environment; one without its mark was left by a process that was killed, and is made anew."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        python, locked = folder / "bin" / "python", folder.with_suffix(".txt")
        wanted = ["-r", str(locked)] if locked.exists() else list(requirements)
        uv = shutil.which("uv")
        if uv:
            _run(place, [uv, "venv", "--python", base, str(folder)])
            _run(place, [uv, "pip", "install", "--python", str(python), *wanted])
            freeze = [uv, "pip", "freeze", "--python", str(python)]
        else:
            _run(place, [base, "-m", "venv", str(folder)])
            _run(place, [str(python), "-m", "pip", "install", "--disable-pip-version-check", *wanted])
            freeze = [str(python), "-m", "pip", "freeze"]
        if not locked.exists():
            write_atomic(locked, [_run(place, freeze).encode()])
        (folder / _COMPLETE).touch()


def requirement_names(requirements: Sequence[str]) -> tuple[str, ...]:
    """Return the distributions that a list of requirements names: "auto-gptq" of "auto-gptq==0.7.1"."""
    return tuple(match[0] for each in requirements if (match := _NAME.match(each.strip())))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _probe(place: str, python: str) -> Mapping[str, Any]:
    if not os.access(python, os.X_OK) or Path(python).is_dir():
        raise ConfigError(f"{place}: the interpreter {python} does not exist or cannot be run; name a python")
    try:
        done = subprocess.run(  # noqa: S603  an interpreter that the user named
            [python, "-I", "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=True
        )
        found: dict[str, Any] = json.loads(done.stdout)
        version = tuple(found["python"])
        installed: Mapping[str, str] = dict(found["installed"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        lines = plain(str(getattr(error, "stderr", "") or error)).splitlines() or [""]
        raise ConfigError(
            f"{place}: {python} does not answer like a Python interpreter ({lines[-1][:200]})"
        ) from error
    if version < OLDEST:
        raise ConfigError(
            f"{place}: {python} is Python {'.'.join(map(str, version))}; the oldest that can measure is"
            f" {'.'.join(map(str, OLDEST))}"
        )
    if "numpy" not in installed:
        raise ConfigError(f"{place}: {python} has no numpy, which measuring needs; install it there")
    return {"python": list(version), "installed": installed}


def _run(place: str, command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  from the configuration
    except OSError as error:
        raise ConfigError(f"{place}: {command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        told = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        last = plain(" | ".join(told[-_SHOWN_LINES:]))[:600]
        raise ConfigError(f"{place}: {' '.join(command[:4])} … failed; its last lines: {last}")
    return done.stdout
