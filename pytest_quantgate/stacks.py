"""The software that a model runs under, where it is not this process's own: an interpreter, or one that is made here.

A list of requirements becomes a virtual environment below the store, made once, by `uv` where it is installed and else
by `venv` and `pip`. What was installed is written beside it (`<key>.txt`): an environment that is made again gets the
same versions.
"""

from __future__ import annotations

import json
import os
import re
import secrets
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

__all__ = ["Stacks", "check_requirement", "requirement_names"]

OLDEST: Final = (3, 10)
_PROBE: Final = """
import importlib.metadata, json, re, sys
found = {}
for each in importlib.metadata.distributions():
    commit = json.loads(each.read_text("direct_url.json") or "{}").get("vcs_info", {}).get("commit_id", "")
    if each.metadata["Name"]:
        version = each.version + (f" ({commit[:12]})" if commit else "")
        found.setdefault(re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower(), version)
print(json.dumps({"python": list(sys.version_info[:3]), "installed": found}))
"""
"""Of two distributions of one name the first counts, as in an import. A commit is part of its version."""

_PROBE_SECONDS: Final = 60
_COMPLETE: Final = "quantgate-complete"
_SHOWN_LINES: Final = 4
_NAMED: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:$|[\[(<>=!~;@ ])")
_OTHER_FILES: Final = ("--requirement", "--constraint", "--editable")
_ARCHIVES: Final = (".whl", ".zip", ".tar.gz")
_OF_PYTHON: Final = ("PYTHONHOME", "PYTHONPATH", "PYTHONUSERBASE")


class Stacks:
    """Finds interpreters, and makes them.

    Args:
        store: whose folder `stacks` keeps the environments.
        root: the folder that relative paths count from.
        narrator: who is told while one is made, which takes minutes.
        unmade: why none may be made, with the next step; empty if they may.

    """

    def __init__(self, store: Store, root: Path, narrator: Narrator, *, unmade: str = "") -> None:
        self._store, self._root, self._narrator, self._unmade = store, root, narrator, unmade
        self._probed: dict[str, Mapping[str, Any]] = {}

    def interpreter(self, place: str, stack: Stack) -> str:
        """Return the path of a stack's interpreter, making its environment if it is not there; empty for our own.

        Args:
            place: which variant asks, for messages.
            stack: what it asks for.

        Raises:
            ConfigError: there is no such interpreter, it is too old, or the requirements cannot be installed.
            StoreError: it would have to be made, and may not be.

        """
        base = str(self._root / os.path.expanduser(stack.python)) if stack.python else ""  # noqa: PTH111  refuses none
        python = base
        if stack.requirements:
            python = self._environment(place, base or sys.executable, stack.requirements)
        if python and "numpy" not in self._probe(place, python)["installed"]:
            raise ConfigError(f"{place}: {python} has no numpy, which measuring needs; install it there")
        return python

    def versions(self, place: str, python: str, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
        """Return (name, version) of those distributions that an interpreter has, sorted by name."""
        found = self._probe(place, python)["installed"]
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
        if _is_complete(folder):
            return str(python)
        if self._unmade:
            raise StoreError(
                f"{place}: the environment of its requirements is not in {folder.parent}; {self._unmade}"
            )
        with self._store.lock(key), self._narrator.working(f"{place} environment"):
            if not _is_complete(folder):
                self._make(place, folder, base, requirements)
        return str(python)

    def _make(self, place: str, folder: Path, base: str, requirements: Sequence[str]) -> None:
        """Make an environment anew, in a folder of its own that `folder` links to in the end.

        What was started by a process that was killed may still be writing into another.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        for stale in folder.parent.glob(f"{folder.name}-*"):
            shutil.rmtree(stale, ignore_errors=True)
        made, locked = folder.with_name(f"{folder.name}-{secrets.token_hex(4)}"), folder.with_suffix(".txt")
        python = made / "bin" / "python"
        asked = [each.strip() for each in requirements]
        options = [part for each in asked if each.startswith("-") for part in each.split(maxsplit=1)]
        named = [each for each in asked if not each.startswith("-")]
        wanted = [*options, *(["-r", str(locked)] if locked.exists() else named)]
        uv = shutil.which("uv")
        if uv:
            _run(place, [uv, "venv", "--python", base, str(made)])
            _run(place, [uv, "pip", "install", "--python", str(python), *wanted])
            freeze = [uv, "pip", "freeze", "--python", str(python)]
        else:
            _run(place, [base, "-I", "-m", "venv", str(made)])
            _run(place, [str(python), "-I", "-m", "pip", "install", "--disable-pip-version-check", *wanted])
            freeze = [str(python), "-I", "-m", "pip", "freeze"]
        if not locked.exists():
            write_atomic(locked, [_run(place, freeze).encode()])
        (made / _COMPLETE).touch()
        if folder.is_symlink():
            folder.unlink()
        shutil.rmtree(folder, ignore_errors=True)
        folder.symlink_to(made.name)


def requirement_names(requirements: Sequence[str]) -> tuple[str, ...]:
    """Return the distributions that a list of requirements names: "auto-gptq" of "auto-gptq==0.7.1"."""
    return tuple(match[1] for each in requirements if (match := _NAMED.match(each.strip())))


def check_requirement(text: str) -> None:
    """Refuse what does not say by itself what is installed, or leaves its name open.

    A file that it names may change, and the environment that was made of it would stay; without a name its version
    would be missing in the identity.

    Raises:
        ConfigError: says what to write.

    """
    text = text.strip()
    if text.startswith("-"):
        if not text.startswith("--") or text.startswith(_OTHER_FILES) or {*text} & {*"'\""}:
            raise ConfigError(
                f"{text!r}: write what it names as items of this list, or a long option of pip, unquoted"
            )
    elif not _NAMED.match(text) or ("@" not in text and text.endswith(_ARCHIVES)):
        raise ConfigError(f"{text!r} names no distribution; write 'name==version' or 'name @ address'")


def _is_complete(folder: Path) -> bool:
    return (folder / _COMPLETE).exists() and (folder / "bin" / "python").exists()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _probe(place: str, python: str) -> Mapping[str, Any]:
    if "\0" in python or not os.access(python, os.X_OK) or Path(python).is_dir():
        raise ConfigError(
            f"{place}: the interpreter {plain(python)} does not exist or cannot be run; name a python"
        )
    try:
        done = subprocess.run(  # noqa: S603  an interpreter that the user named
            [python, "-I", "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=True
        )
        found: dict[str, Any] = json.loads(done.stdout)
        version = tuple(found["python"])
        installed: Mapping[str, str] = dict(found["installed"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines() or [""]
        raise ConfigError(
            f"{place}: {python} does not answer like a Python interpreter ({plain(said[0])[:200]})"
        ) from error
    if version < OLDEST:
        raise ConfigError(
            f"{place}: {python} is Python {'.'.join(map(str, version))}; the oldest that can measure is"
            f" {'.'.join(map(str, OLDEST))}"
        )
    return {"python": list(version), "installed": installed}


def _run(place: str, command: Sequence[str]) -> str:
    # what this process imports is not there: pip would take it for installed
    environment = {name: value for name, value in os.environ.items() if name not in _OF_PYTHON}
    try:
        done = subprocess.run(  # noqa: S603  from the configuration
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        raise ConfigError(f"{place}: {command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        told = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        last = plain(" | ".join(told[-_SHOWN_LINES:]))[:600]
        raise ConfigError(f"{place}: {' '.join(command[:5])} … failed; its last lines: {last}")
    return done.stdout
